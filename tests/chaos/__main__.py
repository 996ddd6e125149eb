"""Chaos over real processes.

python -m tests.chaos --seconds 300 [--seed 7] [--nodes 5] [--pause 30] [--loopback] [--trust-disk] [--leases]

Prints what it did on standard error and a report as JSON on standard output. Exit code 1: a promise was
broken; the directory with the nodes' logs is kept and named.
"""

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import broken
from tests.chaos.cluster import CONVERGE_S
from tests.chaos.counting import run_counting
from tests.chaos.files import Kind
from tests.chaos.run import run
from tests.chaos.stage import Plan, say_on_stderr


def main() -> int:
    plan = _plan()
    directory = Path(tempfile.mkdtemp(prefix="bondstone-chaos-"))
    say = say_on_stderr(time.monotonic())
    say(f"{plan}")
    try:
        report = (run_counting if plan.kind.machine == "counter" else run)(plan, directory, say)
    except AssertionError as exc:
        print(f"ENDED EARLY with --seed {plan.seed}; logs in {directory}\n{exc}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2))
    if report["broken"]:
        print(f"FAILED with --seed {plan.seed}; logs in {directory}", file=sys.stderr)
        for promise, detail in report["broken"].items():
            print(f"  {promise}: {detail}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Chaos over real processes.")
    parser.add_argument("--seconds", type=float, default=60, help="of faults")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule; drawn and printed if absent")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--pause", type=float, default=30, help="longest SIGSTOP, in seconds")
    parser.add_argument("--converge", type=float, default=CONVERGE_S, help="seconds to be whole again")
    parser.add_argument("--only", default="", help="draw from these faults, as nemesis.py names its methods")
    parser.add_argument(
        "--sample", type=float, default=0, help="look at memory and files every so many seconds"
    )
    parser.add_argument("--loopback", action="store_true", help="no namespaces, hence no network faults")
    parser.add_argument("--trust-disk", action="store_true", help="nodes that survive on their disks")
    parser.add_argument("--leases", action="store_true", help="strong reads under the leader's lease")
    parser.add_argument("--demote-after", type=int, default=None, help="ms that a voter may be silent")
    parser.add_argument("--session-ttl", type=int, default=None, help="ms that retries are recognised")
    parser.add_argument("--counter", action="store_true", help="clients add to one counter")
    parser.add_argument("--snapshots", action="store_true", help="joins by snapshot, rolling restarts")
    parser.add_argument("--memory", action="store_true", help="small budgets: writes are refused for memory")
    parser.add_argument("--broken", choices=broken.NAMES, default=None, help="nodes that break a promise")
    args = parser.parse_args()
    return Plan(
        seed=secrets.randbelow(1 << 32) if args.seed is None else args.seed,
        seconds=args.seconds,
        nodes=args.nodes,
        pause_max_s=args.pause,
        loopback=args.loopback,
        kind=Kind(
            trust_disk=args.trust_disk,
            lease_reads=args.leases,
            demote_after_ms=args.demote_after,
            session_ttl_ms=args.session_ttl,
            machine="counter" if args.counter else "kv",
            small_snapshots=args.snapshots,
            small_memory=args.memory,
            broken=args.broken,
        ),
        converge_s=args.converge,
        only=frozenset(args.only.split(",")) - {""},
        sample_every_s=args.sample,
    )


if __name__ == "__main__":
    sys.exit(main())
