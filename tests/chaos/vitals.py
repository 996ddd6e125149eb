"""What running costs a node: memory, files, threads and tasks, sampled during a run."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from node.client import ClientError
from tests.chaos.cluster import ChaosCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One node at one moment.

    Attributes:
        seconds: since the run began.
        resident_kib: memory, as ``VmRSS`` of /proc/PID/status.
        entries: index of the newest log entry.
    """

    seconds: int
    resident_kib: int
    files: int
    threads: int
    tasks: int
    entries: int


@dataclass(slots=True)
class Vitals:
    """Samples of every life of every node."""

    samples: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def take(self, cluster: ChaosCluster, seconds: float) -> None:
        """Sample every node that answers."""
        for node in cluster.nodes:
            told, process = cluster.vitals(node), node.process
            if told is None or process is None:
                continue
            # A client of one's own: the nemesis uses the cluster's at the same time.
            with cluster.client(node, deadline_s=2, attempt_s=2) as client:
                try:
                    entries = client.group().last_index
                    resident_kib, threads, files = _used_by(process.pid)
                except (ClientError, OSError):  # it was killed while it was looked at
                    continue
            self.samples[f"{node.name}, life {node.lives}"].append(
                Sample(
                    seconds=int(seconds),
                    resident_kib=resident_kib,
                    files=files,
                    threads=threads,
                    tasks=int(told["tasks"]),
                    entries=entries,
                )
            )

    def report(self) -> dict[str, Any]:
        """Return the first and the last sample of each life, and the largest of each value."""
        return {
            life: {
                "samples": len(samples),
                "first": asdict(samples[0]),
                "last": asdict(samples[-1]),
                "most": {name: max(asdict(s)[name] for s in samples) for name in asdict(samples[0])},
            }
            for life, samples in sorted(self.samples.items())
        }


def _used_by(pid: int) -> tuple[int, int, int]:
    """Return KiB of memory, threads and open files. Raises OSError if there is no such process."""
    process = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    if "VmRSS" not in lines:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(lines["VmRSS"].split()[0]), int(lines["Threads"]), len(list((process / "fd").iterdir()))
