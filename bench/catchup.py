"""How fast a fresh learner pulls a long log, and how much that slows the writers.

    python -m bench.catchup [--entries 100000] [--rate 1000]

Three voters take writes at a steady rate while a fourth node joins behind the whole log. All four are
processes on this machine. The learner's process starts before the measurement, so that the interpreter's
start is not measured. The report compares the writes requested while the learner pulled with the writes in an
equally long time before it began (at most ``BEFORE_S``) and with the writes requested while it joined. Shares
of a core are of process time: on a machine that does other work too, a learner with a share far below one did
not get the core (or waited), and ``cpu_us_per_entry`` shows the speed that was possible. Voters are listed
leader first.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cluster_process import percentile
from bench.pysyncobj import Worker, free_ports, require_pysyncobj, settled
from node.dev import DevCluster

IN_FLIGHT = 512
VOTERS = 3
BEFORE_S = 5.0
AROUND_S = 1.0


def workers(directory: Path) -> list[Worker]:
    """Start three founders; the fourth is on hold."""
    cluster = DevCluster(directory, nodes=VOTERS + 1, api_port=free_ports(1)[0], report=lambda _event: None)
    cluster.prepare()
    document = cluster.document_file.read_text()
    cluster.document_file.write_text(
        document.replace(f'"expect {VOTERS + 1}"', f'"expect {VOTERS}"').replace(
            "[consensus]\n", f"[consensus]\nmax_voters = {VOTERS}\n"
        )
    )
    started = []
    for number, node in enumerate(cluster.nodes):
        if number >= VOTERS:
            text = node.config_file.read_text()
            node.config_file.write_text(text.replace("[group]\n", '[group]\nbootstrap = "join"\n'))
        hold = () if number < VOTERS else ("--hold",)
        log = directory / f"{node.name}.log"
        started.append(Worker("--config", str(node.config_file), *hold, log=log))
    return started


async def fill(leader: Worker, entries: int) -> int:
    """Write until the log has at least this length; return its length."""
    while True:
        state = await leader.ask(do="status")
        if state["applied"] >= entries:
            return int(state["applied"])
        await leader.ask(do="load", in_flight=IN_FLIGHT, seconds=1.0)


async def cpu_seconds(workers: list[Worker]) -> list[float]:
    return [float((await worker.ask(do="status"))["cpu_s"]) for worker in workers]


async def cpu_since(earlier: list[float], workers: list[Worker], seconds: float) -> list[float]:
    """Return the share of a core that each process used since then."""
    now = await cpu_seconds(workers)
    return [round((after - before) / seconds, 2) for before, after in zip(earlier, now, strict=True)]


def latencies(asked: list[dict[str, Any]], from_s: float, until_s: float) -> dict[str, float]:
    """Return the latencies of the writes that were requested within this time."""
    took = sorted(took for each in asked for at, took in each["writes"] if from_s <= at < until_s)
    if not took:
        return {"writes": 0}
    return {
        "writes": len(took),
        "p50_ms": round(percentile(took, 0.5) * 1000, 2),
        "p99_ms": round(percentile(took, 0.99) * 1000, 2),
    }


async def measure(entries: int, rate: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        everyone = workers(Path(directory))
        learner = everyone[-1]
        try:
            leader, followers = await settled(everyone[:VOTERS])
            length = await fill(leader, entries)
            voters = [leader, *followers]
            cpu = await cpu_seconds(voters)
            asked = [await leader.ask(do="rate", per_second=rate, seconds=BEFORE_S)]
            cpu_before = await cpu_since(cpu, voters, BEFORE_S)
            cpu, began_s = await cpu_seconds(voters), time.monotonic()
            learner.begin()
            pulling = asyncio.ensure_future(learner.ask(do="catch_up", target=length))
            while not pulling.done():
                asked.append(await leader.ask(do="rate", per_second=rate, seconds=AROUND_S))
            cpu_during = await cpu_since(cpu, voters, time.monotonic() - began_s)
            pull = await pulling
            from_s, until_s = pull.pop("from_s"), pull.pop("until_s")
            return {
                "log": length,
                "pull": pull,
                "writes_before": latencies(asked, began_s - (until_s - from_s), began_s),
                "writes_joining": latencies(asked, began_s, from_s),
                "writes_during": latencies(asked, from_s, until_s),
                "failures": sum(each["failures"] for each in asked),
                "voters_cpu_share_before": cpu_before,
                "voters_cpu_share_during": cpu_during,
            }
        finally:
            for worker in everyone:
                worker.kill()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=1000, help="writes per second")
    args = parser.parse_args()
    require_pysyncobj()  # no group of it runs here, but ``bench.pysyncobj_node`` imports it
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        **await measure(args.entries, args.rate),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
