"""The snapshots of one member: the one in the making, and those that it can serve.

A snapshot is made in slices of limited work, from parts that froze at its marker. It counts when the group's
evidence about it is committed, and is kept until there is evidence about a newer one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from node.sync.evidence import CHUNKS_MAX, SNAPSHOT_BYTES_MAX, Anchor, StateEvidence
from node.sync.image import HEAD_BYTES, Cutter, frame_length
from node.sync.merkle import MerkleTree
from node.sync.packing import Chunks

SLICE_BYTES: Final = 64 * 1024  # of one slice of making a snapshot, exceeded by one frame at most
SERVED_MS: Final = 10_000  # an older snapshot is kept for this long after a peer last fetched from it


class DivergedError(Exception):
    """This member's state differs from the state that a quorum of the group computed."""


class TooLargeError(Exception):
    """This state takes more bytes, or more chunks, than evidence can be about."""


class Snapshot:
    """A complete one.

    Attributes:
        evidence: about it: this member's own claim, until the group's evidence is known to be equal.
    """

    def __init__(self, evidence: StateEvidence, chunks: Chunks, tree: MerkleTree) -> None:
        self.evidence = evidence
        self._chunks = chunks
        self._tree = tree

    @property
    def memory_bytes(self) -> int:
        """How many bytes its chunks take in memory."""
        return self._chunks.memory_bytes

    def chunk(self, number: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Return a chunk and its proof."""
        return self._chunks[number], self._tree.proof(number)

    def pieces(self) -> Iterator[bytes]:
        """Yield the chunks in order."""
        return iter(self._chunks)

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes of the whole from ``start`` on; fewer at its end."""
        size = self.evidence.chunk_bytes
        first, end = start // size, -(-(start + length) // size)
        numbers = range(first, min(end, len(self._chunks)))
        joined = b"".join(self._chunks[number] for number in numbers)
        return joined[start - first * size :][:length]

    def frames(self) -> Iterator[tuple[int, int]]:
        """Yield start and length of each frame, in bytes and in order: equal parts have equal frames."""
        start = 0
        while start < self.evidence.size:
            length = frame_length(self.read(start, HEAD_BYTES))
            yield start, length
            start += length

    @classmethod
    def of(cls, anchor: Anchor, cutter: Cutter) -> "Snapshot":
        tree = MerkleTree(cutter.leaves)
        evidence = StateEvidence(anchor, tree.root, len(cutter.chunks), cutter.size, cutter.chunk_bytes)
        return cls(evidence, cutter.chunks, tree)


class Making:
    """A snapshot in the making.

    Args:
        anchor: position of its marker.
        frames: of the frozen state; they may be made while they are asked for.
        release: called once, when no more frames are wanted.
        chunk_bytes: of every chunk but the last.
    """

    def __init__(
        self, anchor: Anchor, frames: Iterator[bytes], release: Callable[[], None], *, chunk_bytes: int
    ) -> None:
        self.anchor = anchor
        self._frames = frames
        self._release = release
        self._cutter = Cutter(chunk_bytes)

    def work(self) -> Snapshot | None:
        """Do one slice; return the snapshot when it is complete.

        Raises:
            TooLargeError: no peer would take a report of a snapshot of this size.
        """
        cutter = self._cutter
        size_max = min(SNAPSHOT_BYTES_MAX, CHUNKS_MAX * cutter.chunk_bytes)
        until = cutter.size + SLICE_BYTES
        for data in self._frames:
            cutter.add(data)
            if cutter.size > size_max:
                raise TooLargeError(f"more than {size_max} bytes")
            if cutter.size >= until:
                return None
        self._release()
        self._cutter.end()
        return Snapshot.of(self.anchor, self._cutter)

    @property
    def memory_bytes(self) -> int:
        """How many bytes it takes in memory until now."""
        return self._cutter.memory_bytes

    def abandon(self) -> None:
        self._release()


@dataclass(slots=True)
class Keeper:
    """All snapshots of a member.

    Attributes:
        making: the one in the making.
        ready: complete, and the group's evidence about it is not known yet.
        held: the newest with evidence.
        before: the one with evidence before it, while peers still fetch it.
        known: the newest evidence of the group, whether or not a snapshot is held for it.
        served_ms: when a peer was last served; 0: never.
    """

    making: Making | None = None
    ready: Snapshot | None = None
    held: Snapshot | None = None
    before: Snapshot | None = None
    known: StateEvidence | None = None
    served_ms: int = 0

    def memory_bytes(self, expected: int) -> int:
        """Return how many bytes all snapshots take, the next one as ``expected``, or as it is already.

        A snapshot that is complete counts as it is held; how well the next one will pack is not known.
        """
        coming = expected
        if self.making is not None:
            coming = max(coming, self.making.memory_bytes)
        elif self.ready is not None:
            coming = self.ready.memory_bytes
        held = 0 if self.held is None else self.held.memory_bytes
        return coming + held + (0 if self.before is None else self.before.memory_bytes)

    def begin(self, making: Making) -> None:
        """Begin another snapshot; an earlier one that is not complete is given up."""
        self.forget_unproven()
        self.making = making

    def forget_unproven(self) -> None:
        """Give up what has no evidence yet."""
        if self.making is not None:
            self.making.abandon()
        self.making = self.ready = None

    def work(self, now_ms: int) -> None:
        """Do one slice of the snapshot in the making.

        Raises:
            DivergedError: it is complete, and differs from the evidence about it.
            Exception: of any kind, of the state's parts. The snapshot is given up.
        """
        if self.making is None:
            return
        try:
            done = self.making.work()
        except BaseException:
            self.forget_unproven()
            raise
        if done is not None:
            self.making, self.ready = None, done
            if self.known is not None and self.known.anchor == done.evidence.anchor:
                self._prove(self.known, now_ms)

    def prove(self, evidence: StateEvidence, now_ms: int) -> None:
        """Take the group's evidence, which is committed.

        Raises:
            DivergedError: this member's own snapshot at that anchor is another, or the one that it fetched.
        """
        if self.known is not None and evidence.anchor.index == self.known.anchor.index:
            # What a peer offered is believed until the log that follows it shows what the group agreed on.
            if evidence != self.known:
                raise DivergedError
            return
        if self.known is None or evidence.anchor.index > self.known.anchor.index:
            self.known = evidence
            self._prove(evidence, now_ms)

    def _prove(self, evidence: StateEvidence, now_ms: int) -> None:
        ready = self.ready
        if ready is None or ready.evidence.anchor != evidence.anchor:
            return
        if ready.evidence != evidence:
            raise DivergedError
        self.before = self.held if self.held is not None and self._is_served(now_ms) else None
        self.held, self.ready = ready, None

    def install(self, snapshot: Snapshot) -> None:
        """Hold a snapshot that was fetched from peers and is installed here."""
        self.forget_unproven()
        self.held, self.before, self.known = snapshot, None, snapshot.evidence

    def serve(self, root: bytes, now_ms: int) -> Snapshot | None:
        """Return the snapshot ``root``, from which a peer is served now; None if it is not held."""
        for snapshot in (self.held, self.before):
            if snapshot is not None and snapshot.evidence.root == root:
                self.served_ms = now_ms
                return snapshot
        return None

    def tidy(self, now_ms: int) -> None:
        """Drop an older snapshot that no peer fetches any more."""
        if self.before is not None and not self._is_served(now_ms):
            self.before = None

    def _is_served(self, now_ms: int) -> bool:
        return self.served_ms > 0 and now_ms - self.served_ms < SERVED_MS
