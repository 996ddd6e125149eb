"""Puts per second and their latency over HTTPS, through the leader and through a follower.

python -m bench.cluster [--seconds 5] [--clients 1,16,64] [--trust-disk]
"""

import argparse
import asyncio
import json
import time

import httpx
import uvloop

from bench.cluster_process import ProcessCluster, cluster, percentile, trust_disk_cluster
from bench.http_load import post, run_load


async def leader_index(running: ProcessCluster) -> int:
    async with httpx.AsyncClient(
        verify=running.tls(), headers={"Authorization": f"Bearer {running.ready.token}"}
    ) as client:
        for _ in range(50):
            group = (await client.get(f"{running.nodes[0].api}/v1/group")).json()
            for i, node in enumerate(running.nodes):
                if node.peer_id == group["leader"]:
                    return i
            await asyncio.sleep(0.1)
    raise SystemExit("no leader")


async def measure(running: ProcessCluster, node: int, clients: int, seconds: float) -> dict[str, object]:
    token = running.ready.token
    requests = [
        post(
            "/v1/commands",
            json.dumps({"command": {"op": "put", "key": f"bench/{i}", "value": "v" * 64}}).encode(),
            token=token,
        )
        for i in range(clients)
    ]
    cpu = running.cpu_seconds()
    load, took = await run_load(requests, port=running.port(node), tls=running.tls(), seconds=seconds)
    cpu = running.cpu_seconds() - cpu
    latencies = sorted(load.latencies)
    if not latencies:
        raise SystemExit(f"no put succeeded: {load.first_failure}")
    return {
        "clients": clients,
        "puts": len(latencies),
        "puts_per_second": round(len(latencies) / took),
        "p50_ms": round(percentile(latencies, 0.5) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
        "failures": load.failures,
        "cpu_seconds_per_10000_puts": round(cpu / len(latencies) * 10_000, 2),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--api-port", type=int, default=9440)
    parser.add_argument("--trust-disk", action="store_true", help="nodes that keep their logs on this disk")
    args = parser.parse_args()
    start = trust_disk_cluster if args.trust_disk else cluster
    async with start(3, args.api_port) as running:
        leader = await leader_index(running)
        follower = (leader + 1) % len(running.nodes)
        await measure(running, leader, 16, 1)  # warm
        out = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": args.seconds,
            "trust_disk": args.trust_disk,
        }
        for name, node in (("leader", leader), ("follower", follower)):
            out[name] = [
                await measure(running, node, int(clients), args.seconds)
                for clients in args.clients.split(",")
            ]
        out["rss_mib"] = running.rss_mib()
        print(json.dumps(out, indent=2))


if __name__ == "__main__":
    uvloop.run(main())
