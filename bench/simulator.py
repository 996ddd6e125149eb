"""Schedules and events per CPU second of the simulator, on one core, with every oracle active.

python -m bench.simulator [--schedules 300] [--compiled] [--json]
"""

import argparse
import json
import platform
import sys
from typing import Any

from node.simulation.campaign import run_batch
from node.simulation.compiled import CACHE, CompileError, build, is_compiled, prove, read, start
from node.simulation.simulation import EVENTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="measure a compiled copy, once proven equal")
    args = parser.parse_args()
    try:
        result = measure_compiled(args) if args.compiled else measure(args)
    except CompileError as exc:
        sys.exit(f"error: {exc}")
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))


def measure_compiled(args: argparse.Namespace) -> dict[str, Any]:
    copy = build(CACHE, tell=lambda text: print(text, file=sys.stderr))
    prove(copy, first=args.first, events=EVENTS)
    numbers = f"--schedules={args.schedules}", f"--first={args.first}"
    return read(start(copy, "bench.simulator", *numbers, "--json"))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    totals = run_batch(iter(range(args.first, args.first + args.schedules)))
    seconds = totals.cpu_seconds
    return {
        "python": platform.python_version(),
        "compiled": is_compiled(),
        "events_before_healing": EVENTS,
        **totals.to_json_value(),
        "schedules_per_cpu_second": round(totals.schedules / seconds, 1),
        "events_per_cpu_second": round(totals.events / seconds),
        # The rate on one core in schedules of exactly 600 events. Healing counts as events like any other.
        "schedules_of_600_events_per_cpu_second": round(totals.events / seconds / 600, 1),
    }


if __name__ == "__main__":
    main()
