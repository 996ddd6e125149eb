"""The longest step of a member while a large state is snapshotted, served, fetched and freed.

    python -m bench.stalls [--mib 256] [--value-bytes 100]

One process holds the cores of two members with the key-value store, and no bonds or sockets. The first has
a state of this size (keys and values). It takes puts, 1,000 a second of the simulated clock; then it takes a
snapshot meanwhile; then a second member, which has a state of its own of half that size, fetches it, loads it
and frees its own. For each phase the report has the longest step of each member, in CPU milliseconds
of this thread and by the wall clock, and the CPU microseconds of a step with a put, at the median and the
99th percentile. Garbage collection is on, and every full collection is counted with its longest pause.
"""

import argparse
import gc
import json
import os
import random
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.cluster_process import percentile
from node.group.collector import LoadingPause, begin, is_loading
from node.machines.base import ApplyContext
from node.machines.kv import KeyValue
from node.raft.budget import Budget
from node.raft.events import Execute, SnapshotTaken
from node.raft.types import Bootstrap

# The tests' stand-ins, which have no types.
members: Any = import_module("tests.node.raft.cluster")

KEY_BYTES = 16
MIB = 1024 * 1024
BUDGET = 1 << 40  # memory is measured by another bench


def store(size: int, value_bytes: int) -> KeyValue:
    """Return a store with about ``size`` bytes of keys and values, which are random hexadecimal digits."""
    machine, chance = KeyValue(), random.Random(5)
    for number in range(size // (KEY_BYTES + value_bytes)):
        value = chance.randbytes(value_bytes // 2).hex()
        command = {"op": "put", "key": f"{number:0{KEY_BYTES}}", "value": value}
        machine.apply(command, ApplyContext(1, number + 1, 0, 0, bytes(32)))
        machine.savepoint()
    return machine


class Watch:
    """Measures the steps of a member, by phase."""

    def __init__(self, node: Any) -> None:
        self.phase = ""
        self._steps: dict[str, list[tuple[float, float, bool]]] = {}
        self._node, self._pause = node, LoadingPause()
        self._step = node.step_many
        node.step_many = self._watched

    def _watched(self, now_ms: int, events: Any, **options: Any) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        effects = self._step(now_ms, events, **options)
        self._pause.note(is_loading=is_loading(self._node))
        took = time.thread_time() - cpu, time.perf_counter() - wall, any(map(_is_put, events))
        self._steps.setdefault(self.phase, []).append(took)
        return effects

    def report(self) -> dict[str, dict[str, float]]:
        return {phase: _summary(steps) for phase, steps in self._steps.items() if phase}


def _is_put(event: object) -> bool:
    return isinstance(event, Execute)


def _summary(steps: list[tuple[float, float, bool]]) -> dict[str, float]:
    summary: dict[str, float] = {
        "steps": len(steps),
        "cpu_s": round(sum(cpu for cpu, _, _ in steps), 2),
        "longest_cpu_ms": round(max(cpu for cpu, _, _ in steps) * 1000, 2),
        "longest_wall_ms": round(max(wall for _, wall, _ in steps) * 1000, 2),
    }
    puts = sorted(cpu for cpu, _, is_put in steps if is_put)
    if puts:
        summary["put_cpu_us_p50"] = round(percentile(puts, 0.5) * 1_000_000)
        summary["put_cpu_us_p99"] = round(percentile(puts, 0.99) * 1_000_000)
    return summary


class Collections:
    """Counts full garbage collections."""

    def __init__(self) -> None:
        self.count, self.longest = 0, 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.count += 1
            self.longest = max(self.longest, time.thread_time() - self._began)


class Run:
    """Two members, and the puts that the first one takes."""

    def __init__(self, size: int, value_bytes: int) -> None:
        self.cluster = members.RaftCluster(snapshot_ms=30_000, log_keep_bytes=0, log_keep_ms=0)
        self._node = self.cluster.add("a", expect=1, machine=store(size, value_bytes), budget=Budget(BUDGET))
        self._value = "v" * value_bytes
        self.cluster.elect()
        self.watches = {"a": Watch(self._node)}
        self._number = 0

    def during(self, phase: str, goes_on: Callable[[], bool]) -> None:
        """Put until it does not go on any more."""
        for watch in self.watches.values():
            watch.phase = phase
        while goes_on():
            self._number += 1
            command = {"op": "put", "key": f"{self._number % 10_000:0{KEY_BYTES}}", "value": self._value}
            self.cluster.step("a", Execute(self._number, (command,)))
            self.cluster.run(1)
            self.cluster.outcomes.clear()
        for watch in self.watches.values():
            watch.phase = ""

    @property
    def snaps(self) -> Any:
        return self._node.tenure.snaps

    def puts(self, count: int) -> Callable[[], bool]:
        end = self._number + count
        return lambda: self._number < end


def measure(size: int, value_bytes: int) -> dict[str, Any]:
    run = Run(size, value_bytes)
    begin()
    collections = Collections()
    run.during("puts alone", run.puts(5000))
    run.during("", lambda: run.snaps.keeper.making is None)
    run.during("snapshot", lambda: run.snaps.keeper.making is not None)
    run.during("", lambda: run.snaps.keeper.held is None or not run._node.log.base.index)
    held = run.snaps.keeper.held
    own = store(size // 2, value_bytes)
    begin()
    node = run.cluster.add("b", Bootstrap.JOIN, machine=own, budget=Budget(BUDGET))
    run.watches["b"] = Watch(node)
    notices = run.cluster.notices["b"]
    run.during("join", lambda: not any(isinstance(one, SnapshotTaken) for one in notices))
    run.during("after the join", lambda: node.freeing.is_waiting)
    return {
        "state_mib": round(size / MIB),
        "snapshot_mib": round(held.evidence.size / MIB, 1),
        "snapshot_in_memory_mib": round(held.memory_bytes / MIB, 1),
        "serving": run.watches["a"].report(),
        "joining": run.watches["b"].report(),
        "full_collections": collections.count,
        "longest_collection_cpu_ms": round(collections.longest * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--value-bytes", type=int, default=100)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    report = measure(options.mib * MIB, options.value_bytes)
    print(json.dumps({"load_before": load, **report}, indent=2))


if __name__ == "__main__":
    main()
