"""A local cluster for measuring: started by its public command, followed by its JSON events.

For a cluster with nodes that trust their disks, this module writes the files as ``bondstone dev`` does, with
that setting added: a development cluster has no such flag.
"""

import asyncio
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from node.dev import DevCluster
from node.process_events import ClusterReady, DevEvent, DevNodeView, ProcessEvent

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class ProcessCluster:
    """The ``ready`` event, and all events until now with the seconds since start."""

    ready: ClusterReady
    seconds_to_ready: float
    directory: Path
    events: list[tuple[float, ProcessEvent]] = field(default_factory=list)

    @property
    def nodes(self) -> tuple[DevNodeView, ...]:
        return self.ready.nodes

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ready.ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def port(self, node: int) -> int:
        return int(self.nodes[node].api.rpartition(":")[2])

    def cpu_seconds(self) -> float:
        """User and system CPU seconds of all nodes until now."""
        total = 0
        for node in self.nodes:
            fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(") ")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / CLOCK_TICKS

    def rss_mib(self) -> list[float]:
        """Resident memory of each node."""
        sizes = []
        for node in self.nodes:
            status = Path(f"/proc/{node.pid}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            sizes.append(round(int(line.split()[1]) / 1024, 1))
        return sizes


@asynccontextmanager
async def cluster(nodes: int = 3, api_port: int = 9440) -> AsyncIterator[ProcessCluster]:
    """Run ``bondstone dev`` in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        start = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "node.cli.main", "dev", "--json",
            "--nodes", str(nodes), "--api-port", str(api_port), "--dir", directory,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )  # fmt: skip
        assert process.stdout is not None
        events: list[tuple[float, ProcessEvent]] = []
        try:
            async for line in process.stdout:
                event: DevEvent = msgspec.json.decode(line, type=DevEvent)
                events.append((time.perf_counter() - start, event))
                if isinstance(event, ClusterReady):
                    break
            else:
                raise SystemExit("the cluster did not start")
            drain = asyncio.ensure_future(process.stdout.read())
            yield ProcessCluster(event, time.perf_counter() - start, Path(directory), events)
            drain.cancel()
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                await process.wait()


class _TrustDiskCluster(DevCluster):
    def prepare(self) -> None:
        super().prepare()
        text = self.document_file.read_text()
        self.document_file.write_text(text.replace("[group]\n", '[group]\nstorage = "trust-disk"\n'))


@asynccontextmanager
async def trust_disk_cluster(nodes: int = 3, api_port: int = 9440) -> AsyncIterator[ProcessCluster]:
    """Run nodes with ``trust_disk`` in a temporary directory of this disk."""
    start = time.perf_counter()
    events: list[tuple[float, ProcessEvent]] = []
    with tempfile.TemporaryDirectory(prefix="bondstone-bench-") as directory:
        local = _TrustDiskCluster(
            Path(directory),
            nodes=nodes,
            api_port=api_port,
            report=lambda event: events.append((time.perf_counter() - start, event)),
        )
        async with local.running():
            took, ready = events[-1]
            assert isinstance(ready, ClusterReady)
            yield ProcessCluster(ready, took, Path(directory), events)


def percentile(sorted_values: list[float], fraction: float) -> float:
    return sorted_values[min(int(len(sorted_values) * fraction), len(sorted_values) - 1)]
