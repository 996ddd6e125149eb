"""Committed commands per second, latency and failover gap: bondstone beside PySyncObj.

    python -m bench.pysyncobj [--rounds 3] [--seconds 5] [--in-flight 64]

Both as three processes on loopback, in one run, alternating. The load is made in the leader's own process
through the system's own Python API (no HTTP); ``follower`` numbers in a follower's. bondstone runs as it
always does, over attested TLS 1.3 bonds; PySyncObj uses plain TCP. Each keeps its default timing.
Needs PySyncObj, one of the development tools.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from node.dev import DevCluster

PACE_S = 0.005
FAILOVER_SECONDS = 8.0
KILL_AFTER_S = 2.0
NODES = 3


class Worker:
    """A process of ``bench.pysyncobj_node``."""

    def __init__(self, *arguments: str, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.pysyncobj_node", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    async def ask(self, **request: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the group ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def begin(self) -> None:
        """Let a worker that was started with ``--hold`` begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def bondstone_workers(directory: Path, *, trust_disk: bool) -> list[Worker]:
    cluster = DevCluster(directory, nodes=NODES, api_port=free_ports(1)[0], report=lambda _event: None)
    cluster.prepare()
    if trust_disk:
        text = cluster.document_file.read_text()
        cluster.document_file.write_text(text.replace("[group]\n", '[group]\nstorage = "trust-disk"\n'))
    return [
        Worker("--config", str(node.config_file), log=directory / f"{node.name}.log")
        for node in cluster.nodes
    ]


def pysyncobj_workers(directory: Path, *, journal: bool) -> list[Worker]:
    places = [f"127.0.0.1:{port}" for port in free_ports(NODES)]
    workers = []
    for number, me in enumerate(places):
        others = ",".join(place for place in places if place != me)
        extra = ("--journal", str(directory / f"journal-{number}")) if journal else ()
        workers.append(Worker("--me", me, "--others", others, *extra, log=directory / f"node-{number}.log"))
    return workers


SYSTEMS: dict[str, Callable[[Path], list[Worker]]] = {
    "bondstone": lambda directory: bondstone_workers(directory, trust_disk=False),
    "pysyncobj": lambda directory: pysyncobj_workers(directory, journal=False),
    "bondstone, trust_disk": lambda directory: bondstone_workers(directory, trust_disk=True),
    "pysyncobj, journal": lambda directory: pysyncobj_workers(directory, journal=True),
}


@asynccontextmanager
async def group(name: str) -> AsyncIterator[tuple[Worker, list[Worker]]]:
    """Start a group; yield its leader and its followers."""
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        workers = SYSTEMS[name](Path(directory))
        try:
            yield await settled(workers)
        finally:
            for worker in workers:
                worker.kill()


async def settled(workers: list[Worker], timeout_s: float = 60.0) -> tuple[Worker, list[Worker]]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        states = [await worker.ask(do="status") for worker in workers]
        leaders = [worker for worker, state in zip(workers, states, strict=True) if state["leads"]]
        if all(state["ready"] for state in states) and len(leaders) == 1:
            return leaders[0], [worker for worker in workers if worker is not leaders[0]]
        await asyncio.sleep(0.1)
    raise SystemExit("the group did not form")


async def throughput(name: str, in_flight: int, seconds: float) -> dict[str, Any]:
    async with group(name) as (leader, followers):
        await leader.ask(do="load", in_flight=in_flight, seconds=1)  # warm
        return {
            "leader": await leader.ask(do="load", in_flight=in_flight, seconds=seconds),
            "follower": await followers[0].ask(do="load", in_flight=in_flight, seconds=seconds),
        }


async def failover(name: str) -> dict[str, Any]:
    """Kill the leader under a paced load at a follower that keeps running."""
    async with group(name) as (leader, followers):
        running = asyncio.ensure_future(followers[0].ask(do="pace", every_s=PACE_S, seconds=FAILOVER_SECONDS))
        await asyncio.sleep(KILL_AFTER_S)
        leader.kill()
        return await running


def require_pysyncobj() -> None:
    """End with a hint if it is missing: the processes of a group would only report it in their logs."""
    if find_spec("pysyncobj") is None:
        raise SystemExit("PySyncObj is missing. hint: pip install --require-hashes -r requirements-dev.lock")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    out: dict[str, Any] = {
        place: {
            key: statistics.median(one[place][key] for one in rounds)
            for key in ("commands_per_second", "p50_ms", "p99_ms", "failures")
        }
        for place in ("leader", "follower")
    }
    out["failover_gap_ms"] = statistics.median(one["failover"]["longest_gap_ms"] for one in rounds)
    return out


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--only", choices=SYSTEMS, action="append", default=None)
    args = parser.parse_args()
    require_pysyncobj()
    names = args.only or list(SYSTEMS)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            one = await throughput(name, args.in_flight, args.seconds)
            one["failover"] = await failover(name)
            rounds[name].append(one)
            print(f"{name}: {json.dumps(one)}", file=sys.stderr)
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "pysyncobj": version("pysyncobj"),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "in_flight": args.in_flight,
        "medians": {name: summary(each) for name, each in rounds.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
