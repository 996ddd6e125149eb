"""Many schedules on all cores for a while, and their sums."""

import gc
import multiprocessing
import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Final

from node.simulation.simulation import EVENTS, Report, ScheduleError, draw_schedule, run

_BATCH: Final = 20


@dataclass(slots=True)
class Totals:
    """Sums over schedules. ``failures``: (seed, oracle) of each schedule that contradicted an oracle.

    ``interrupted``: the user ended the campaign before its time. Unfinished schedules are not counted.
    """

    schedules: int = 0
    events: int = 0
    messages: int = 0
    reboots: int = 0
    faults: int = 0
    healed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    interrupted: bool = False

    def add(self, report: Report) -> None:
        """Count one run that went well."""
        self.schedules += 1
        self.events += report.events
        self.messages += report.messages
        self.reboots += report.reboots
        self.faults += report.faults
        self.healed += report.healed
        self.counts.update(report.counts)

    def merge(self, other: "Totals") -> None:
        """Add the sums of another process."""
        for name in ("schedules", "events", "messages", "reboots", "faults", "healed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.counts.update(other.counts)
        self.failures += other.failures
        self.cpu_seconds += other.cpu_seconds

    def to_json_value(self) -> dict[str, Any]:
        """Return all sums as plain JSON data."""
        return {
            "schedules": self.schedules,
            "events": self.events,
            "messages": self.messages,
            "elections": self.counts["elections"],
            "commits": self.counts["commits"],
            "configuration_changes": self.counts["configurations"],
            "feature_levels_raised": self.counts["features"],
            "snapshots_taken": self.counts["snapshots"],
            "snapshots_installed": self.counts["installs"],
            "reboots": self.reboots,
            "faults": self.faults,
            "writes_checked": self.counts["writes"],
            "reads_checked": self.counts["reads"],
            "histories_undecided": self.counts["undecided"],
            "healed": self.healed,
            "violations": len(self.failures),
            "failures": [{"seed": seed, "oracle": oracle} for seed, oracle in self.failures],
            "cpu_seconds": round(self.cpu_seconds, 3),
            "interrupted": self.interrupted,
        }


def run_batch(seeds: Iterator[int], *, events: int = EVENTS, until: float | None = None) -> Totals:
    """Run one schedule per seed, until the monotonic time ``until`` if that comes first."""
    totals = Totals()
    started = time.process_time()
    with _collecting_by_hand():
        for seed in seeds:
            try:
                totals.add(run(draw_schedule(seed, events=events)))
            except ScheduleError as exc:
                totals.schedules += 1
                totals.failures.append((seed, exc.error.oracle))
            except Exception as broken:  # its own name, because mypyc gives a variable one type
                broken.add_note(f"in the schedule of seed {seed}")
                raise
            gc.collect()
            if until is not None and time.monotonic() >= until:
                break
    totals.cpu_seconds = time.process_time() - started
    return totals


@contextmanager
def _collecting_by_hand() -> Iterator[None]:
    """Collect garbage between schedules only: a run's objects refer to each other and die all at once.

    Objects that existed before (the modules) are left out of every collection.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def outcomes(first: int, count: int, *, events: int) -> dict[str, str]:
    """Return, by seed, the digests of ``count`` traces from ``first`` on, or the oracle contradicted."""
    found: dict[str, str] = {}
    for seed in range(first, first + count):
        try:
            found[str(seed)] = run(draw_schedule(seed, events=events), traced=True, keep=0).digest
        except ScheduleError as exc:
            found[str(seed)] = str(exc.error)
    return found


def _work(first: int, step: int, events: int, until: float, results: "multiprocessing.Queue[Totals]") -> None:
    seed = first
    campaign = multiprocessing.parent_process()
    while campaign is None or campaign.is_alive():  # at least one schedule, however long the start took
        batch = iter(range(seed, seed + _BATCH * step, step))
        results.put(run_batch(batch, events=events, until=until))
        if time.monotonic() >= until:
            return
        seed += _BATCH * step


def run_campaign(
    *, first: int, seconds: float, jobs: int, events: int, progress: Callable[[Totals], None]
) -> Totals:
    """Run schedules from seed ``first`` on in ``jobs`` processes; call ``progress`` with the present sums.

    Ctrl-C ends the campaign early. It then returns the present sums with ``interrupted`` set.
    """
    totals = Totals()
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Totals] = context.Queue()
    until = time.monotonic() + seconds
    arguments = (jobs, events, until, results)
    workers = [
        context.Process(target=_work, args=(first + job, *arguments), daemon=True) for job in range(jobs)
    ]
    # Ctrl-C reaches all processes of a terminal. The workers inherit this setting and ignore it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for worker in workers:
        worker.start()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _gather(workers, results, totals, progress)
    except KeyboardInterrupt:
        totals.interrupted = True
        for worker in workers:
            worker.terminate()
            worker.join()
    return totals


def _gather(
    workers: Sequence[BaseProcess],
    results: "multiprocessing.Queue[Totals]",
    totals: Totals,
    progress: Callable[[Totals], None],
) -> None:
    while any(worker.is_alive() for worker in workers) or not results.empty():
        try:
            totals.merge(results.get(timeout=0.2))
        except queue.Empty:
            continue
        progress(totals)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a simulating process ended with exit code {worker.exitcode}")
