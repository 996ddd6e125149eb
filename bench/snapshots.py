"""What snapshots cost a put: CPU time with them and without, in turns.

    python -m bench.snapshots [--puts 100000] [--keys 10000] [--value-bytes 64] [--rounds 3]

One process holds the cores of three members with the key-value store, as in ``bench.day``. ``on`` has the
settings that a group has by default, ``off`` takes no snapshot in that time. CPU microseconds of a put, for
all three members: each round of each, and the ratio of the best rounds.
"""

import argparse
import json
import os
import time
from importlib import import_module
from typing import Any, Final

from bench.day import FIRST_WAIT_MS, IN_FLIGHT, PUTS_PER_SECOND, commands
from node.group.collector import begin
from node.machines.kv import KeyValue
from node.raft.budget import Budget
from node.raft.events import Execute

# The tests' stand-ins, which have no types.
members: Any = import_module("tests.node.raft.cluster")

BUDGET = 1 << 40
WAYS: Final[dict[str, dict[str, int]]] = {
    "on": {},
    "off": {"snapshot_bytes": 1 << 40, "snapshot_ms": 1 << 40},
}


def measure(way: str, puts: int, keys: int, value_bytes: int) -> tuple[float, int]:
    """Return CPU microseconds of a put, and the number of snapshots that got evidence."""
    cluster = members.RaftCluster(**WAYS[way])
    for name in "abc":
        cluster.add(name, machine=KeyValue(), budget=Budget(BUDGET))
    leader = cluster.elect()
    cluster.run(FIRST_WAIT_MS)
    snaps, taken = cluster.nodes[leader].tenure.snaps, set()
    begin()
    started = time.process_time()
    batch: list[Execute] = []
    for number, command in enumerate(commands(puts, keys, value_bytes), 1):
        batch.append(Execute(number, (command,), key=b"%016x" % number))
        if number % IN_FLIGHT and number < puts:
            continue
        cluster.step(leader, *batch)
        batch = []
        cluster.run(IN_FLIGHT * 1000 // PUTS_PER_SECOND)
        cluster.outcomes.clear()
        for notices in cluster.notices.values():
            notices.clear()
        if snaps.keeper.held is not None:
            taken.add(snaps.keeper.held.evidence.anchor.index)
    return (time.process_time() - started) / puts * 1_000_000, len(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--puts", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report: dict[str, Any] = {"load_before": os.getloadavg()[0], "on": [], "off": []}
    for _ in range(options.rounds):
        for way in WAYS:
            cost, taken = measure(way, options.puts, options.keys, options.value_bytes)
            report[way].append(round(cost, 1))
            report[f"snapshots_{way}"] = taken
    report["ratio_of_the_best"] = round(min(report["on"]) / min(report["off"]), 3)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
