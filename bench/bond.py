"""Seconds from process start to listening, and to a ready group.

python -m bench.bond [--runs 5]
"""

import argparse
import asyncio
import json

import uvloop

from bench.cluster_process import cluster
from node.process_events import NodeBonded, NodeStarted


async def one_start(port: int) -> dict[str, float]:
    async with cluster(3, port) as running:
        first = next(t for t, e in running.events if isinstance(e, NodeStarted))
        bonded = max(t for t, e in running.events if isinstance(e, NodeBonded))
        return {
            "first_process_s": round(first, 3),
            "bonded_s": round(bonded, 3),
            "ready_s": round(running.seconds_to_ready, 3),
        }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--api-port", type=int, default=9460)
    args = parser.parse_args()
    runs = [await one_start(args.api_port) for _ in range(args.runs)]
    runs.sort(key=lambda run: run["ready_s"])
    print(json.dumps({"runs": runs, "median": runs[len(runs) // 2]}, indent=2))
    await asyncio.sleep(0)


if __name__ == "__main__":
    uvloop.run(main())
