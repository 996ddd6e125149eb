"""What a live key costs a member in memory: state, log, snapshots and all, over its real log.

    python -m bench.memory [--keys 1000000] [--key-bytes 16] [--value-bytes 100]

One process holds the core of a voter with the key-value store and the settings that a group has by default:
it takes snapshots and cuts its log. Every key is one put, in random order, and its value random hexadecimal
digits. Two processes: one counts with ``tracemalloc``, which makes everything slow, the other measures
resident memory. ``factor`` is the bytes of a key divided by those of the key with its value, ``counted_mb``
what the memory budget counts, and ``peak_factor`` the most that was seen after any 1,000 puts.
"""

import argparse
import gc
import json
import math
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final

from bench.day import resident_bytes
from node.machines.kv import KeyValue
from node.raft.budget import Budget
from node.raft.events import Execute

# The tests' stand-ins, which have no types.
members: Any = import_module("tests.node.raft.cluster")

BATCH = 50
PUTS_PER_SECOND = 1000
LOOK_EVERY = 1000
BUDGET = 1 << 40


def traced_bytes() -> int:
    return tracemalloc.get_traced_memory()[0]


def commands(keys: int, key_bytes: int, value_bytes: int) -> Iterator[dict[str, str]]:
    """Yield a put of each key, in an order that jumps about."""
    chance = random.Random(7)
    step = next(step for step in range(keys * 5 // 8, 2 * keys) if math.gcd(step, keys) == 1)
    for at in range(keys):
        value = chance.randbytes(value_bytes // 2).hex()
        yield {"op": "put", "key": f"{at * step % keys:0{key_bytes}}", "value": value}


def filled(keys: int, key_bytes: int, value_bytes: int, used: Callable[[], int]) -> dict[str, Any]:
    """Put every key; return what a key takes, as ``used`` measures it."""
    cluster = members.RaftCluster()
    node = cluster.add("a", expect=1, machine=KeyValue(), budget=Budget(BUDGET))
    cluster.elect()
    gc.collect()
    before, peak = used(), 0
    batch: list[Execute] = []
    for number, command in enumerate(commands(keys, key_bytes, value_bytes), 1):
        batch.append(Execute(number, (command,)))
        if number % BATCH == 0:
            cluster.step("a", *batch)
            batch.clear()
            cluster.run(BATCH * 1000 // PUTS_PER_SECOND)
            cluster.outcomes.clear()
            cluster.notices["a"].clear()
        if number % LOOK_EVERY == 0:
            peak = max(peak, used())
    cluster.run(1000)
    gc.collect()
    each, most = (used() - before) / keys, (peak - before) / keys
    return {
        "bytes_per_key": round(each, 1),
        "factor": round(each / (key_bytes + value_bytes), 2),
        "peak_factor": round(most / (key_bytes + value_bytes), 2),
        "counted_mb": {part: round(size / 1e6, 1) for part, size in node.memory_use()._asdict().items()},
    }


def traced(keys: int, key_bytes: int, value_bytes: int) -> dict[str, Any]:
    tracemalloc.start()
    return filled(keys, key_bytes, value_bytes, traced_bytes)


def resident(keys: int, key_bytes: int, value_bytes: int) -> dict[str, Any]:
    return filled(keys, key_bytes, value_bytes, resident_bytes)


WAYS: Final = {"traced": traced, "resident": resident}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--key-bytes", type=int, default=16)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--way", choices=sorted(WAYS), help="measure in this process, in one way")
    options = parser.parse_args()
    sizes = options.keys, options.key_bytes, options.value_bytes
    if options.way is not None:
        print(json.dumps(WAYS[options.way](*sizes)))
        return
    report: dict[str, Any] = {"keys": options.keys, "entry_bytes": options.key_bytes + options.value_bytes}
    for way in WAYS:
        command = [sys.executable, "-m", "bench.memory", "--way", way]
        for name, size in zip(("--keys", "--key-bytes", "--value-bytes"), sizes, strict=True):
            command += [name, str(size)]
        report[way] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
