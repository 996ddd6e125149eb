"""Chaos over real processes.

python -m tests.chaos --seconds 300 [--seed 7] [--nodes 5] [--pause 30] [--loopback] [--trust-disk]

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

from node.simulation.linearizability import NotLinearizableError, UndecidedError
from tests.chaos.run import ChaosError, Plan, run, say_on_stderr


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Chaos over real processes.")
    parser.add_argument("--seconds", type=float, default=60, help="of faults")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule; drawn and printed if absent")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--pause", type=float, default=30, help="longest SIGSTOP, in seconds")
    parser.add_argument("--loopback", action="store_true", help="no namespaces, hence no network faults")
    parser.add_argument("--trust-disk", action="store_true", help="nodes that survive on their disks")
    args = parser.parse_args()
    plan = Plan(
        seed=secrets.randbelow(1 << 32) if args.seed is None else args.seed,
        seconds=args.seconds,
        nodes=args.nodes,
        pause_max_s=args.pause,
        loopback=args.loopback,
        trust_disk=args.trust_disk,
    )
    directory = Path(tempfile.mkdtemp(prefix="bondstone-chaos-"))
    say = say_on_stderr(time.monotonic())
    say(f"{plan}")
    try:
        report = run(plan, directory, say)
    except (ChaosError, AssertionError, NotLinearizableError, UndecidedError) as exc:
        print(
            f"FAILED with --seed {plan.seed}; logs in {directory}\n{type(exc).__name__}: {exc}",
            file=sys.stderr,
        )
        return 1
    shutil.rmtree(directory)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
