"""The longest gap without a successful put after ``kill -9`` of the leader.

    python -m bench.failover [--runs 5]

One writer puts through the node that survives, one after the other, retrying at once on refusal.
"""

import argparse
import asyncio
import json
import os
import signal
import time

import httpx
import uvloop

from bench.cluster import leader_index
from bench.cluster_process import cluster


async def gap_after_kill(port: int) -> dict[str, float]:
    async with cluster(3, port) as running:
        leader = await leader_index(running)
        survivor = running.nodes[(leader + 1) % 3].api
        async with httpx.AsyncClient(
            verify=running.tls(), headers={"Authorization": f"Bearer {running.ready.token}"}, timeout=10
        ) as client:
            gaps, last, end, count, killed = [], time.perf_counter(), 0.0, 0, 0.0
            while not end or time.perf_counter() < end:
                try:
                    answer = await client.post(
                        f"{survivor}/v1/commands",
                        json={"command": {"op": "put", "key": "failover", "value": str(count)}},
                    )
                except httpx.HTTPError:
                    continue
                if answer.status_code != 200:
                    await asyncio.sleep(0.002)
                    continue
                now = time.perf_counter()
                gaps.append(now - last)
                last, count = now, count + 1
                if count == 200:
                    os.kill(running.nodes[leader].pid, signal.SIGKILL)
                    killed = time.perf_counter()
                    end = killed + 5
            return {"gap_ms": round(max(gaps[200:]) * 1000, 1), "puts": count}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--api-port", type=int, default=9450)
    args = parser.parse_args()
    runs = [await gap_after_kill(args.api_port) for _ in range(args.runs)]
    print(json.dumps({"runs": runs, "longest_gap_ms": max(run["gap_ms"] for run in runs)}, indent=2))


if __name__ == "__main__":
    uvloop.run(main())
