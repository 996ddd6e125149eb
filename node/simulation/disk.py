"""The disk of a trust_disk member: it is slow, and a power cut may lose any write that is not synced yet."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from node.peers import Incarnation
from node.raft.events import (
    Event,
    Persisted,
    Record,
    Recovered,
    SaveBase,
    SaveEnd,
    SaveEntries,
    SaveTruncation,
    SaveVote,
    SnapshotStored,
)
from node.raft.types import Entry, Position
from node.simulation.errors import InvariantError
from node.simulation.scheduler import Scheduler
from node.sync.evidence import Anchor, StateEvidence
from node.sync.keeper import Snapshot

# A snapshot is written in as many syncs as this.
_SLICES = 8


class Writer(Protocol):
    """The process that writes."""

    def feed(self, event: Event) -> None: ...


@dataclass(slots=True)
class SnapshotFile:
    """A snapshot beside the log: whole once all its slices are synced, torn otherwise."""

    snapshot: Snapshot
    slices: int = 0

    @property
    def is_whole(self) -> bool:
        return self.slices == _SLICES


class Disk:
    """The durable writes of one node, and its writes in progress. Writes are synced in order, one at a time.

    A power cut leaves a prefix of the writes in progress; with the probability ``partial`` it is not empty.
    The prefix has whole writes that were never reported as done, and the first records and entries of the
    next. Snapshots are written beside the records, and a power cut leaves a torn one.

    Attributes:
        fsync_us: how long the next sync takes.
        full: the probability that it does not take a snapshot.
        written: how many writes the disk has been given in total.
        snapshots: beside the log, by anchor.
    """

    def __init__(
        self, scheduler: Scheduler, *, rng: Random, fsync_us: int, partial: float = 0.0, full: float = 0.0
    ) -> None:
        self.fsync_us = fsync_us
        self.full = full
        self._scheduler = scheduler
        self._rng = rng
        self._partial = partial
        self.written = 0
        self.snapshots: dict[Anchor, SnapshotFile] = {}
        self._synced = 0
        self._cut_by: dict[bytes, int] = {}
        self._under_way: deque[tuple[Writer, tuple[Record, ...], int]] = deque()
        self._outages = 0
        self._term = 0
        self._voted_for: Incarnation | None = None
        self._base: StateEvidence | None = None
        self._entries: list[Entry] = []  # behind the base
        self._ended: list[bytes] = []

    def write(self, writer: Writer, records: list[Record], serial: int) -> None:
        """Make ``records`` durable some time later; report it to ``writer`` if it still lives then."""
        self.written += 1
        self._under_way.append((writer, tuple(records), serial))
        if len(self._under_way) == 1:
            self._scheduler.after(self.fsync_us, self._sync, self._outages)

    def _sync(self, outages: int) -> None:
        if outages != self._outages:
            return  # the power was cut before; see ``lose_power``
        self._synced += 1
        writer, records, serial = self._under_way.popleft()
        for record in records:
            self._keep(record)
        if self._under_way:
            self._scheduler.after(self.fsync_us, self._sync, self._outages)
        writer.feed(Persisted(serial))

    def store(self, writer: Writer, snapshot: Snapshot) -> None:
        """Write ``snapshot`` beside the log, and then report it to ``writer`` if that still lives."""
        file = self.snapshots[snapshot.evidence.anchor] = SnapshotFile(snapshot)
        self._scheduler.after(self.fsync_us, self._sync_slice, writer, file, self._outages)

    def _sync_slice(self, writer: Writer, file: SnapshotFile, outages: int) -> None:
        if outages != self._outages:
            return
        anchor = file.snapshot.evidence.anchor
        if self.full and self._rng.random() < self.full / _SLICES:
            self.snapshots.pop(anchor, None)
            writer.feed(SnapshotStored(anchor, "no space left on device"))
            return
        file.slices += 1
        if file.is_whole:
            writer.feed(SnapshotStored(anchor))
        else:
            self._scheduler.after(self.fsync_us, self._sync_slice, writer, file, outages)

    def _keep(self, record: Record) -> None:
        match record:
            case SaveVote():
                anew = record == SaveVote(0, None) and not self._entries and self._base is None
                if record.term < self._term and not anew:
                    # The real store refuses to start from such a file.
                    raise InvariantError("durable-term", f"term {record.term} is saved after {self._term}")
                self._term, self._voted_for = record.term, record.voted_for
            case SaveTruncation():
                if record.index == 0:
                    self._base = None
                self._cut(max(0, record.index - self.base_index))
            case SaveEntries():
                self._entries.extend(record.entries)
            case SaveEnd():
                self._ended.append(record.cluster)
            case SaveBase():
                self._go_on_behind(record.evidence)

    @property
    def base_index(self) -> int:
        """Behind which index the log begins; 0: with the genesis."""
        return 0 if self._base is None else self._base.anchor.index

    def _cut(self, count: int) -> None:
        """Cut the log after its first ``count`` entries."""
        self._cut_by.update((entry.chain, self._synced) for entry in self._entries[count:])
        del self._entries[count:]

    def _go_on_behind(self, evidence: StateEvidence) -> None:
        anchor = evidence.anchor
        count = anchor.index - self.base_index
        if count <= 0:
            raise InvariantError("durable-base", f"the base {anchor} is saved after {self.base_index}")
        if count > len(self._entries) or self._entries[count - 1].chain != anchor.chain:
            self._cut(0)
        del self._entries[:count]
        self._base = evidence
        for other in [other for other in self.snapshots if other.index < anchor.index]:
            del self.snapshots[other]

    def lose_power(self) -> None:
        """The process on this disk is dead: keep a prefix of the writes in progress, often an empty one."""
        pieces = [
            piece for _, records, _ in self._under_way for record in records for piece in _pieces(record)
        ]
        self._under_way.clear()
        self._outages += 1
        self._synced = self.written
        if self._partial and self._rng.random() < self._partial:
            for piece in pieces[: self._rng.randint(0, len(pieces))]:
                self._keep(piece)

    def holds_vote(self, term: int, candidate: Incarnation) -> bool:
        """Whether no power cut now could let this node vote for another in ``term``."""
        return self._term > term or (self._term, self._voted_for) == (term, candidate)

    def holds_entry(self, position: Position) -> bool:
        """Whether the log up to ``position`` would survive a power cut now."""
        behind = position.index - self.base_index
        if behind > len(self._entries):
            return False
        if behind > 0:
            return self._entries[behind - 1].chain == position.chain
        return behind < 0 or self._base is None or self._base.anchor.chain == position.chain

    def cut_by(self, position: Position) -> int:
        """Return which write, counted from 1, was the last to cut the entry at ``position``; 0: no write."""
        return self._cut_by.get(position.chain, 0)

    def recovered(self) -> Recovered:
        """Return the state that a new process of the same incarnation recovers.

        Raises:
            InvariantError: the log begins behind a snapshot that is not whole: the real store refuses it.
        """
        snapshot = None
        if self._base is not None:
            file = self.snapshots.get(self._base.anchor)
            if file is None or not file.is_whole or file.snapshot.evidence != self._base:
                raise InvariantError("durable-base", f"no whole snapshot at {self._base.anchor[:2]}")
            snapshot = file.snapshot
        self.snapshots = {at: file for at, file in self.snapshots.items() if file.snapshot is snapshot}
        return Recovered(self._term, self._voted_for, tuple(self._entries), tuple(self._ended), snapshot)


def _pieces(record: Record) -> Iterator[Record]:
    """Yield the pieces of a record; a torn write may end between any two of them."""
    if isinstance(record, SaveEntries):
        yield from (SaveEntries((entry,)) for entry in record.entries)
    else:
        yield record


class SimulatedCredentials:
    """Stands in for the incarnation's key. A simulation has no forgers, and real signatures cost time."""

    def __init__(self, inc: Incarnation) -> None:
        self._inc = inc

    def sign(self, data: bytes) -> bytes:
        return self._digest(self._inc, data)

    def verify(self, incarnation: Incarnation, data: bytes, signature: bytes) -> bool:
        return signature == self._digest(incarnation, data)

    @staticmethod
    def _digest(inc: Incarnation, data: Any) -> bytes:
        return hashlib.sha256(inc.id + data).digest()
