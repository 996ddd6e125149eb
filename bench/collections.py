"""What the collections cost: memory per item, time per change, how long a snapshot stops the machine.

    python -m bench.collections [--keys 1000000] [--key-bytes 16] [--value-bytes 100]

The machine alone, without a group, its log or its network. Two processes: one counts with ``tracemalloc``,
which makes everything slow, the other measures resident memory and times. ``bytes_per_key`` counts what the
machine holds when all keys have been inserted in random order, one in a command; ``factor`` is that divided
by the bytes of the key and the value. ``freeze`` is the whole snapshot that the machine has to wait for; its
rows are then encoded in slices, and ``slice_ms_max`` is the longest of these, with garbage collection on.
"""

import argparse
import gc
import json
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from attestation.encoding.canonical import encode
from node.machines.base import ApplyContext
from node.machines.collections.machine import CollectionsMachine

SLICE_ROWS = 1000


def context(index: int) -> ApplyContext:
    return ApplyContext(1, index, 0, 0, bytes(32))


def filled(machine: CollectionsMachine, keys: int, key_bytes: int, value_bytes: int) -> float:
    """Insert the keys in random order, one in a command; return CPU seconds."""
    machine.apply({"op": "declare", "name": "map", "kind": "map"}, context(1))
    numbers = list(range(keys))
    random.Random(7).shuffle(numbers)
    started = time.process_time()
    for index, number in enumerate(numbers, 2):
        key, value = f"{number:0{key_bytes}}", f"{number:0{value_bytes}}"
        machine.apply({"op": "map-insert", "name": "map", "key": key, "value": value}, context(index))
    return time.process_time() - started


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def traced(keys: int, key_bytes: int, value_bytes: int) -> dict[str, Any]:
    machine = CollectionsMachine()
    tracemalloc.start()
    filled(machine, keys, key_bytes, value_bytes)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    return {
        "bytes_per_key": round(held / keys, 1),
        "factor": round(held / keys / (key_bytes + value_bytes), 2),
    }


def timed(keys: int, key_bytes: int, value_bytes: int) -> dict[str, Any]:
    machine = CollectionsMachine()
    gc.collect()
    before = resident_bytes()
    cpu_s = filled(machine, keys, key_bytes, value_bytes)
    gc.collect()
    held = resident_bytes() - before
    started = time.perf_counter()
    frozen = machine.freeze()
    freeze_s = time.perf_counter() - started
    slices, size, longest_s, total_s = 0, 0, 0.0, 0.0
    started = time.process_time()
    rows = frozen.slices(SLICE_ROWS)
    while (taken := next(rows, None)) is not None:
        size += len(encode(taken))
        ended = time.process_time()
        longest_s, total_s = max(longest_s, ended - started), total_s + ended - started
        slices, started = slices + 1, ended
    tracked = sum(1 for _ in gc.get_objects())
    started = time.process_time()
    gc.collect()
    return {
        "rss_bytes_per_key": round(held / keys, 1),
        "rss_factor": round(held / keys / (key_bytes + value_bytes), 2),
        "insert_cpu_us": round(cpu_s / keys * 1e6, 2),
        "freeze_us": round(freeze_s * 1e6, 1),
        "slices": slices,
        "slice_ms_max": round(longest_s * 1e3, 2),
        "snapshot_cpu_s": round(total_s, 2),
        "snapshot_bytes_per_key": round(size / keys, 1),
        "objects_tracked_by_gc": tracked,
        "full_collection_ms": round((time.process_time() - started) * 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--key-bytes", type=int, default=16)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--part", choices=("traced", "timed"), help="one of the two processes")
    args = parser.parse_args()
    parts = {"traced": traced, "timed": timed}
    if args.part is not None:
        print(json.dumps(parts[args.part](args.keys, args.key_bytes, args.value_bytes)))
        return
    result: dict[str, Any] = {
        "bench": "collections",
        "keys": args.keys,
        "key_bytes": args.key_bytes,
        "value_bytes": args.value_bytes,
    }
    for part in parts:
        command = [sys.executable, "-m", "bench.collections", *sys.argv[1:], "--part", part]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        result |= json.loads(run.stdout)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
