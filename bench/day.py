"""Whether memory stays flat under a day of writes: three members, their real log, only the clock faster.

    python -m bench.day [--puts 8640000] [--keys 10000] [--value-bytes 64] [--every 100000]

One process holds the cores of three members with the key-value store; a message from one to another is a
call, so there are no bonds and no sockets. The puts come at 100 a second of the simulated clock, 50 at once,
each with an idempotency key. After every so many, one line of JSON has the resident memory of the process,
what the leader counts by part, and how many writes were refused for memory. The last line compares the
resident memory of the last quarter with that of the second.
"""

import argparse
import gc
import json
import random
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from node.machines.kv import KeyValue
from node.raft.budget import Budget
from node.raft.events import Execute
from node.raft.types import Ok

# The tests' stand-ins, which have no types.
members: Any = import_module("tests.node.raft.cluster")

PUTS_PER_SECOND = 100
IN_FLIGHT = 50
FIRST_WAIT_MS = 2000


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def three(budget: int) -> Any:
    cluster = members.RaftCluster()
    for name in "abc":
        cluster.add(name, machine=KeyValue(), budget=Budget(budget))
    cluster.elect()
    cluster.run(FIRST_WAIT_MS)
    return cluster


def commands(puts: int, keys: int, value_bytes: int) -> Iterator[dict[str, str]]:
    chance = random.Random(11)
    for number in range(puts):
        value = f"{number:0{value_bytes}}"
        yield {"op": "put", "key": f"bench/{chance.randrange(keys):08d}", "value": value}


def row(cluster: Any, puts: int, refused: int, started: float) -> dict[str, Any]:
    leader = cluster.nodes[cluster.leader()]
    use = leader.memory_use()
    return {
        "puts": puts,
        "hours": round(cluster.now / 3_600_000, 2),
        "cpu_s": round(time.process_time() - started, 1),
        "rss_mb": round(resident_bytes() / 1e6, 1),
        "counted_mb": {part: round(size / 1e6, 2) for part, size in use._asdict().items()},
        "log_first_index": leader.log.base.index + 1,
        "refused": refused,
    }


def write_a_day(puts: int, keys: int, value_bytes: int, every: int, budget: int) -> list[dict[str, Any]]:
    cluster = three(budget)
    names = sorted(cluster.nodes)
    refused, token, rows = 0, 0, []
    started = time.process_time()
    batch: list[Any] = []
    cluster.tokens = 0
    for number, command in enumerate(commands(puts, keys, value_bytes), 1):
        token += 1
        batch.append(Execute(token, (command,), key=b"%016x" % token))
        if len(batch) < IN_FLIGHT and number < puts:
            continue
        cluster.step(names[number // IN_FLIGHT % len(names)], *batch)
        batch = []
        cluster.run(IN_FLIGHT * 1000 // PUTS_PER_SECOND)
        refused += sum(not isinstance(outcome, Ok) for outcome in cluster.outcomes.values())
        cluster.outcomes.clear()
        for notices in cluster.notices.values():
            notices.clear()
        if number == puts or (number >= every and number % every < IN_FLIGHT):
            rows.append(row(cluster, number, refused, started))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--puts", type=int, default=8_640_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=64)
    parser.add_argument("--every", type=int, default=100_000)
    parser.add_argument("--budget", type=int, default=1_000_000_000)
    options = parser.parse_args()
    gc.freeze()
    rows = write_a_day(options.puts, options.keys, options.value_bytes, options.every, options.budget)
    quarter = max(len(rows) // 4, 1)
    second, last = rows[quarter : 2 * quarter] or rows, rows[-quarter:]
    print(
        json.dumps(
            {
                "rss_mb_second_quarter": max(one["rss_mb"] for one in second),
                "rss_mb_last_quarter": max(one["rss_mb"] for one in last),
                "refused": rows[-1]["refused"],
            }
        )
    )


if __name__ == "__main__":
    main()
