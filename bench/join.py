"""A fresh node joins a million keys while writes go on, and what the writers feel of it and of a snapshot.

    python -m bench.join [--keys 1000000] [--value-bytes 100] [--rate 1000]

Three voters, started by their own configuration files, hold this many keys of 16 bytes; the log that wrote
them is cut, so that the state is the only way in. They take puts at a steady rate: first alone, until a
snapshot is made meanwhile, then while a fourth node joins. All four are processes on this machine; the
fourth has been started before, so that the interpreter's start is not measured. ``seconds_to_voter`` counts
from its first bond to its vote. ``longest`` is the longest turn of each process's loop in that time, by the
CPU time of its thread and by the wall clock: leader, followers, joiner. On a machine that does other work the
wall clock shows that work too.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cluster_process import percentile
from bench.pysyncobj import Worker, free_ports, require_pysyncobj, settled
from node.dev import DevCluster
from node.raft.budget import needed_for

VOTERS = 3
ROUND_S = 1.0
ALONE_ROUNDS = 10
SNAPSHOT_MS = 60_000  # longer than one of a million keys takes
SNAPSHOT_WAIT_S = 300
ENTRY_BYTES = 1024  # of the quota, for a key with its value


def workers(directory: Path, keys: int) -> list[Worker]:
    """Start three founders; the fourth is on hold."""
    cluster = DevCluster(directory, nodes=VOTERS + 1, api_port=free_ports(1)[0], report=lambda _event: None)
    cluster.prepare()
    quota = max(keys * ENTRY_BYTES, 64 * 1024 * 1024)
    document = cluster.document_file.read_text()
    document = re.sub(r"quota_bytes = \d+", f"quota_bytes = {quota}", document)
    document = document.replace(f'"expect {VOTERS + 1}"', f'"expect {VOTERS}"')
    document = document.replace(
        "[consensus]\n", f"[consensus]\nsnapshot_ms = {SNAPSHOT_MS}\nlog_keep_bytes = 0\nlog_keep_ms = 0\n"
    )
    cluster.document_file.write_text(document)
    started = []
    for number, node in enumerate(cluster.nodes):
        text = re.sub(
            r"budget_bytes = \d+", f"budget_bytes = {needed_for(quota)}", node.config_file.read_text()
        )
        if number >= VOTERS:
            text = text.replace("[group]\n", '[group]\nbootstrap = "join"\n')
        node.config_file.write_text(text)
        hold = () if number < VOTERS else ("--hold",)
        log = directory / f"{node.name}.log"
        started.append(Worker("--config", str(node.config_file), *hold, log=log))
    return started


def latencies(writes: list[tuple[float, float]]) -> dict[str, float]:
    took = sorted(took for _, took in writes)
    if not took:
        return {"writes": 0}
    return {
        "writes": len(took),
        "p50_ms": round(percentile(took, 0.5) * 1000, 2),
        "p99_ms": round(percentile(took, 0.99) * 1000, 2),
        "max_ms": round(took[-1] * 1000, 1),
    }


def within(writes: list[tuple[float, float]], spans: list[list[float]]) -> list[tuple[float, float]]:
    """Return the writes that were under way in one of these times."""
    return [
        (at, took) for at, took in writes if any(at < until and since < at + took for since, until in spans)
    ]


async def longest(of: list[Worker]) -> list[dict[str, float]]:
    return [await worker.ask(do="longest") for worker in of]


class Asked:
    """Writes that were asked of the leader."""

    def __init__(self, leader: Worker, rate: int) -> None:
        self._leader, self._rate = leader, rate
        self.writes: list[tuple[float, float]] = []
        self.making: list[list[float]] = []
        self.failures = 0

    async def some(self) -> None:
        answer = await self._leader.ask(do="rate", per_second=self._rate, seconds=ROUND_S)
        self.writes += answer["writes"]
        self.making += answer["making"]
        self.failures += answer["failures"]


async def measure(keys: int, value_bytes: int, rate: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        everyone = workers(Path(directory), keys)
        joiner = everyone[-1]
        try:
            leader, followers = await settled(everyone[:VOTERS])
            began = time.monotonic()
            await leader.ask(do="fill", keys=keys, value_bytes=value_bytes)
            filled_s = time.monotonic() - began
            return {
                "keys": keys,
                "filled_in_s": round(filled_s, 1),
                **await alone_and_snapshot(Asked(leader, rate), [leader, *followers]),
                **await joined(Asked(leader, rate), [leader, *followers], joiner),
            }
        finally:
            for worker in everyone:
                worker.kill()


async def alone_and_snapshot(asked: Asked, voters: list[Worker]) -> dict[str, Any]:
    """Write until there were some rounds without a snapshot, and a whole one."""
    await longest(voters)
    until, alone = time.monotonic() + SNAPSHOT_WAIT_S, 0
    while alone < ALONE_ROUNDS or not asked.making:
        if time.monotonic() > until:
            raise SystemExit(f"{alone} rounds without a snapshot, and {len(asked.making)} snapshots")
        before = len(asked.making)
        await asked.some()
        alone += len(asked.making) == before
    during = within(asked.writes, asked.making)
    taken = set(map(tuple, during))
    return {
        "alone": latencies([write for write in asked.writes if tuple(write) not in taken]),
        "during_a_snapshot": latencies(during),
        "snapshot_s": round(sum(until - since for since, until in asked.making), 1),
        "longest_before_the_join": await longest(voters),
        "failures_before": asked.failures,
    }


async def joined(asked: Asked, voters: list[Worker], joiner: Worker) -> dict[str, Any]:
    began = time.monotonic()
    joiner.begin()
    joining = asyncio.ensure_future(_join(joiner))
    while not joining.done():
        await asked.some()
    answer = await joining
    until = answer["voter_s"]
    return {
        "seconds_to_voter": round(until - began, 1),
        "joiner_cpu_s": answer["cpu_s"],
        "while_it_joins": latencies(within(asked.writes, [[began, until]])),
        "snapshots_meanwhile_s": round(sum(end - since for since, end in asked.making), 1),
        "longest": await longest([*voters, joiner]),
        "failures": asked.failures,
    }


async def _join(joiner: Worker) -> dict[str, Any]:
    await joiner.ask(do="longest")  # begins to watch
    return await joiner.ask(do="join")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--rate", type=int, default=1000, help="writes per second")
    args = parser.parse_args()
    require_pysyncobj()  # no group of it runs here, but ``bench.pysyncobj_node`` imports it
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        **await measure(args.keys, args.value_bytes, args.rate),
        "load_after": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
