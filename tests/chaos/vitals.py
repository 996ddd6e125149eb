"""What running costs a node: memory, files, threads and tasks, sampled during a run."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.cluster import ChaosCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One node at one moment.

    Attributes:
        seconds: since the run began.
        resident_kib: memory, as ``VmRSS`` of /proc/PID/status says.
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
            told = cluster.vitals(node)
            status = cluster.status(node)
            if told is None or status is None or node.process is None:
                continue
            process = Path(f"/proc/{node.process.pid}")
            lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            self.samples[f"{node.name}, life {node.lives}"].append(
                Sample(
                    seconds=int(seconds),
                    resident_kib=int(lines["VmRSS"].split()[0]),
                    files=len(list((process / "fd").iterdir())),
                    threads=int(lines["Threads"]),
                    tasks=int(told["tasks"]),
                    entries=status.last_index,
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
