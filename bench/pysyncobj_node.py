"""One process of a three-process group under load: bondstone without its HTTP API, or PySyncObj.

Started by ``bench.pysyncobj``, ``bench.catchup`` and ``bench.join``. Reads JSON requests from standard input
and answers each with one line: ``{"do": "status"}``, ``{"do": "load", "in_flight", "seconds"}``,
``{"do": "pace", "every_s", "seconds"}``, and for bondstone ``{"do": "rate", "per_second", "seconds"}``,
``{"do": "catch_up", "target"}``, ``{"do": "fill", "keys", "value_bytes"}``, ``{"do": "join"}`` and
``{"do": "longest"}``.
Both systems replicate ``put(key, value)`` of the same sizes. A command counts when the group has committed
it, this process has applied it and the caller has its result.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import uvloop
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

from bench.cluster_process import percentile
from node.config import load_node
from node.daemon import running
from node.group import collector
from node.raft.types import Applied, Ok, Role
from node.service import NodeService

VALUE = "v" * 64
KEYS = 1000
FILL_COMMANDS = 200
FILL_IN_FLIGHT = 8
SAME_S = 0.1  # a snapshot that is seen again within this time is the same one


class System(Protocol):
    """The measured system."""

    def leads(self) -> bool: ...
    def ready(self) -> bool: ...
    async def put(self, key: str, value: str) -> bool:
        """Return whether it was committed and applied."""
        ...


class BondstoneSystem:
    """A whole node; the load bypasses only its HTTP API."""

    def __init__(self, service: NodeService) -> None:
        self._service = service

    def leads(self) -> bool:
        return self._service.group().status.role is Role.LEADER

    def ready(self) -> bool:
        status = self._service.group().status
        return status.online and len(status.voters) == 3

    def applied(self) -> int:
        return self._service.group().status.applied

    def is_voter(self) -> bool:
        return self._service.group().status.role in (Role.FOLLOWER, Role.LEADER)

    def makes_snapshot(self) -> bool:
        group = self._service._require_group()
        return group._driver.member.tenure.snaps.keeper.making is not None

    async def put_many(self, commands: list[dict[str, str]]) -> None:
        group = self._service._require_group()
        outcome = await group.execute_outcome(tuple(commands), timeout_s=60)
        if not isinstance(outcome, Ok):
            raise SystemExit(f"a write failed: {outcome}")

    async def put(self, key: str, value: str) -> bool:
        command = {"op": "put", "key": key, "value": value}
        # The member itself submits it: there is no caller with a credential to judge.
        group = self._service._require_group()
        outcome = await group.execute_outcome((command,), timeout_s=10)
        return isinstance(outcome, Ok) and isinstance(outcome.results[0], Applied)


class Store(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    def __init__(self, me: str, others: list[str], conf: SyncObjConf) -> None:
        super().__init__(me, others, conf)
        self._items: dict[str, str] = {}

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def put(self, key: str, value: str) -> bool:
        self._items[key] = value
        return True


class PySyncObjSystem:
    """PySyncObj with its own defaults. It calls its callbacks on its own thread."""

    def __init__(self, me: str, others: list[str], journal: Path | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = Store(me, others, SyncObjConf(journalFile=None if journal is None else str(journal)))
        self._me = me

    def leads(self) -> bool:
        leader = self._store._getLeader()
        return leader is not None and str(leader) == self._me

    def ready(self) -> bool:
        return bool(self._store.isReady()) and self._store._getLeader() is not None

    async def put(self, key: str, value: str) -> bool:
        done: asyncio.Future[bool] = self._loop.create_future()

        def told(_result: Any, reason: int) -> None:
            self._loop.call_soon_threadsafe(_resolve, done, reason == FAIL_REASON.SUCCESS)

        self._store.put(key, value, callback=told)
        return await done


def _resolve(done: "asyncio.Future[bool]", succeeded: bool) -> None:
    if not done.done():
        done.set_result(succeeded)


async def load(system: System, in_flight: int, seconds: float) -> dict[str, Any]:
    """Keep this many commands in flight for this many seconds."""
    latencies: list[float] = []
    failures = 0
    start = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal failures
        while (asked := time.perf_counter()) < start + seconds:
            number += in_flight
            if await system.put(f"bench/{number % KEYS}", VALUE):
                latencies.append(time.perf_counter() - asked)
            else:
                failures += 1

    await asyncio.gather(*(one(number) for number in range(in_flight)))
    took = time.perf_counter() - start
    latencies.sort()
    return {
        "commands": len(latencies),
        "commands_per_second": round(len(latencies) / took),
        "p50_ms": round(percentile(latencies, 0.5) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
        "failures": failures,
    }


async def pace(system: System, every_s: float, seconds: float) -> dict[str, Any]:
    """Submit a command every ``every_s``, without waiting for the earlier ones; find the longest gap."""
    completed = [time.perf_counter()]
    waiting: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        if await system.put(f"pace/{number % KEYS}", VALUE):
            completed.append(time.perf_counter())

    start = time.perf_counter()
    number = 0
    while time.perf_counter() < start + seconds:
        number += 1
        task = asyncio.ensure_future(one(number))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        await asyncio.sleep(every_s)
    for task in tuple(waiting):
        task.cancel()
    gaps = [later - earlier for earlier, later in pairwise(completed)]
    gaps.append(time.perf_counter() - completed[-1])
    return {"longest_gap_ms": round(max(gaps) * 1000, 1), "commands": len(completed) - 1}


async def rate(system: System, per_second: int, seconds: float) -> dict[str, Any]:
    """Submit this many commands a second, evenly, without waiting for the earlier ones.

    For each command, the answer has the latency and the start time, by the machine's monotonic clock; and
    ``making`` has from when until when this member made a snapshot.
    """
    making: list[list[float]] = []
    writes: list[tuple[float, float]] = []
    waiting: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        asked = time.monotonic()
        if await system.put(f"rate/{number % KEYS}", VALUE):
            writes.append((asked, time.monotonic() - asked))

    start = time.perf_counter()
    sent = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        while sent < elapsed * per_second:
            sent += 1
            task = asyncio.ensure_future(one(sent))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        if isinstance(system, BondstoneSystem) and system.makes_snapshot():
            now = time.monotonic()
            if not making or now - making[-1][1] > SAME_S:
                making.append([now, now])
            making[-1][1] = now
        await asyncio.sleep(0.001)
    if waiting:
        await asyncio.wait(waiting)
    return {"failures": sent - len(writes), "writes": writes, "making": making}


async def fill(system: BondstoneSystem, keys: int, value_bytes: int) -> dict[str, Any]:
    """Write this many new keys of 16 bytes, with random hexadecimal digits as values, many in one entry."""
    chance = random.Random(3)
    numbers = iter(range(0, keys, FILL_COMMANDS))

    async def one() -> None:
        for first in numbers:
            commands = [
                {"op": "put", "key": f"{number:016}", "value": chance.randbytes(value_bytes // 2).hex()}
                for number in range(first, min(first + FILL_COMMANDS, keys))
            ]
            await system.put_many(commands)

    await asyncio.gather(*(one() for _ in range(FILL_IN_FLIGHT)))
    return {"applied": system.applied()}


async def join(system: BondstoneSystem) -> dict[str, Any]:
    """Report when this member became a voter, by the machine's monotonic clock, and its CPU seconds."""
    cpu = time.process_time()
    while not system.is_voter():
        await asyncio.sleep(0.01)
    return {"voter_s": time.monotonic(), "cpu_s": round(time.process_time() - cpu, 2)}


class Longest:
    """How long this process's loop took between two of its turns, at most, since it was last asked."""

    def __init__(self) -> None:
        self._cpu = self._wall = 0.0

    async def watch(self) -> None:
        while True:
            cpu, wall = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0)
            self._cpu = max(self._cpu, time.thread_time() - cpu)
            self._wall = max(self._wall, time.perf_counter() - wall)
            await asyncio.sleep(0.0005)

    def take(self) -> dict[str, Any]:
        cpu, wall, self._cpu, self._wall = self._cpu, self._wall, 0.0, 0.0
        return {"cpu_ms": round(cpu * 1000, 1), "wall_ms": round(wall * 1000, 1)}


async def catch_up(system: BondstoneSystem, target: int) -> dict[str, Any]:
    """Report how long it took from the first entry here to the one at ``target``, and when that was."""
    asked = time.monotonic()
    while (first := system.applied()) == 0:
        await asyncio.sleep(0.001)
    start, cpu = time.monotonic(), time.process_time()
    while (reached := system.applied()) < target:
        await asyncio.sleep(0.001)
    took, cpu = time.monotonic() - start, time.process_time() - cpu
    return {
        "from_s": start,
        "until_s": start + took,
        "entries": reached - first,
        "seconds": round(took, 3),
        "entries_per_second": round((reached - first) / took),
        "cpu_us_per_entry": round(cpu / (reached - first) * 1_000_000, 1),
        "cpu_share": round(cpu / took, 2),
        "seconds_before_the_first": round(start - asked, 3),
    }


async def serve(system: System) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    longest = Longest()
    watching: asyncio.Task[None] | None = None
    while line := await reader.readline():
        request = json.loads(line)
        answer: dict[str, Any]
        match request.pop("do"):
            case "status":
                answer = {"ready": system.ready(), "leads": system.leads(), "cpu_s": time.process_time()}
                if isinstance(system, BondstoneSystem):
                    answer["applied"] = system.applied()
            case "load":
                answer = await load(system, **request)
            case "pace":
                answer = await pace(system, **request)
            case "rate":
                answer = await rate(system, **request)
            case "catch_up" if isinstance(system, BondstoneSystem):
                answer = await catch_up(system, **request)
            case "fill" if isinstance(system, BondstoneSystem):
                answer = await fill(system, **request)
            case "join" if isinstance(system, BondstoneSystem):
                answer = await join(system)
            case "longest":
                watching = watching or asyncio.ensure_future(longest.watch())
                answer = longest.take()
            case other:
                raise SystemExit(f"unknown request {other!r}")
        print(json.dumps(answer), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, help="bondstone: the node's configuration")
    parser.add_argument("--me", help="PySyncObj: host:port")
    parser.add_argument("--others", default="", help="PySyncObj: host:port,host:port")
    parser.add_argument("--journal", type=Path, help="PySyncObj: journal file; without it, memory only")
    parser.add_argument("--hold", action="store_true", help="begin at the first byte of standard input")
    args = parser.parse_args()
    if args.hold:
        os.read(sys.stdin.fileno(), 1)  # unbuffered: ``serve`` reads the rest
    if args.config is not None:
        files = load_node(args.config)
        async with running(files.document, files.config, lambda _event: None) as service:
            collector.begin()  # as ``bondstone node run`` does
            await serve(BondstoneSystem(service))
    else:
        await serve(PySyncObjSystem(args.me, args.others.split(","), args.journal))


if __name__ == "__main__":
    uvloop.run(main())
