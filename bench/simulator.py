"""Schedules and events per CPU second of the simulator, on one core, every oracle watching.

python -m bench.simulator [--schedules 300] [--json]
"""

import argparse
import json
import platform

from node.simulation.campaign import run_batch
from node.simulation.simulation import EVENTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    totals = run_batch(iter(range(args.first, args.first + args.schedules)))
    seconds = totals.cpu_seconds
    result = {
        "python": platform.python_version(),
        "events_before_healing": EVENTS,
        **totals.to_json_value(),
        "schedules_per_cpu_second": round(totals.schedules / seconds, 1),
        "events_per_cpu_second": round(totals.events / seconds),
        # What one core does in schedules of exactly 600 events, healing counted as events like any other.
        "schedules_of_600_events_per_cpu_second": round(totals.events / seconds / 600, 1),
    }
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
