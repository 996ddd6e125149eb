"""Reading the log of a trust_disk member, one segment after the other (``node.storage.format``)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from node.errors import CorruptStorageError, RemoteProtocolError
from node.peers import Incarnation
from node.raft.entries import ENTRY_LEVELS, make_entry
from node.raft.events import Record, SaveBase, SaveEnd, SaveTruncation, SaveVote
from node.raft.types import LOG_START, Entry, EntryKind, Position
from node.storage.format import (
    END,
    ENTRY_HEAD,
    LENGTH,
    MAGIC,
    MAGIC_5,
    NO_SEGMENT,
    SALT_BYTES,
    SECTOR_BYTES,
    SEGMENT,
    TRUNCATE,
    VOTE_HEAD,
    Batches,
    LogSummary,
    RecordKind,
    encode_beginning,
    encode_identity,
    file_head,
    is_blank,
    read_at,
    size_of,
)
from node.sync.evidence import Anchor, decode_snapshot_untrusted

_KINDS: Final = frozenset(int(kind) for kind in ENTRY_LEVELS)


class UnknownPlaceError(CorruptStorageError):
    """The first segment goes back to a place before it, whose chain it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRead:
    """What a segment is, and how far it goes.

    Attributes:
        number: of the segment.
        begin: index of the last entry before it.
        lowest: the lowest index to which it truncates the log, ``begin`` if none is lower.
        batches: where the next batch would go.
        is_clean: nothing but zeros follow there.
    """

    number: int
    begin: int
    lowest: int
    batches: Batches
    is_clean: bool


class Replay:
    """Rebuilds a member's state by following the records of its segments, from the oldest to the newest.

    It holds the entries that the log has behind the base that it has found so far, and the body of one batch.

    Attributes:
        summary: up to the last segment read.
        entries: of the log, after its base.
    """

    def __init__(self, me: Incarnation) -> None:
        self.summary = LogSummary()
        self.entries: list[Entry] = []
        self._me = me
        self._after = LOG_START  # the position before the first of ``entries``
        self._last = LOG_START
        self._number: int | None = None  # of the last segment read
        self._digest = NO_SEGMENT  # of its last batch
        self._lowest = 0

    def read(self, file: BinaryIO, *, is_last: bool, space_bytes: int = 1) -> SegmentRead:
        """Follow the next segment.

        Args:
            file: the whole segment.
            is_last: no other follows, so a crash may have torn its last batch.
            space_bytes: the writer reserves as many zeros at a time, in bytes, before it writes there. A last
                segment that ends within such a reserve has been cut.

        Raises:
            UnknownPlaceError: the log cannot begin with the first segment.
            CorruptStorageError: the bytes are not such a segment, do not follow the one before, or are not
                what was written.
        """
        batches = self._whose(file)
        begin = self._lowest = self._begin(batches, file)
        while (body := batches.take(file)) is not None:
            self._follow(body)
        if is_last and batches.was_begun_after(file):
            raise CorruptStorageError(f"the batch at byte {batches.at} is not what was written")
        if is_last and size_of(file) < batches.at + -batches.at % space_bytes:
            raise CorruptStorageError("it is shorter than it was")
        assert self._number is not None
        self._digest, self.summary.last = batches.digest, self._last
        return SegmentRead(
            number=self._number,
            begin=begin,
            lowest=self._lowest,
            batches=batches,
            is_clean=is_blank(file, batches.at),
        )

    def require_whole(self) -> None:
        """Raise CorruptStorageError if entries after the base are missing, or no base explains it."""
        base = self.summary.base
        if self._after != (LOG_START if base is None else Position(*base.anchor)):
            raise CorruptStorageError("segments before the first one that is there are missing")

    # ---- the first two batches ----------------------------------------------
    def _whose(self, file: BinaryIO) -> Batches:
        """Return the place after the first batch of a segment, which names whom it belongs to."""
        head = read_at(file, 0, SECTOR_BYTES)
        magic = head[: len(MAGIC)]
        if magic not in (MAGIC, MAGIC_5):
            raise CorruptStorageError("it is not a bondstone log of this version")
        salt = head[len(MAGIC) : len(MAGIC) + SALT_BYTES]
        if head != file_head(salt, magic):
            raise CorruptStorageError("its first sector is not what was written")
        batches = Batches(salt, magic)
        identity = batches.take(file)
        if identity is None:
            raise CorruptStorageError("its first batch is not what was written")
        if identity != encode_identity(self._me):
            raise CorruptStorageError(
                "it belongs to another incarnation: "
                "give the node the identity that wrote it, or an empty directory"
            )
        return batches

    def _begin(self, batches: Batches, file: BinaryIO) -> int:
        """Follow the beginning of a segment; return the index of the last entry before it."""
        if batches.magic == MAGIC_5 and self._number is None:
            self._number = 0
            return 0
        body = batches.take(file) if batches.magic == MAGIC else None
        if body is None or len(body) < SEGMENT.size or body[0] != RecordKind.SEGMENT:
            raise CorruptStorageError("its second batch is not what was written")
        _, number, _, *last = SEGMENT.unpack_from(body)
        if self._number is None:
            self._after = self._last = Position(*last)
            self._follow(body, SEGMENT.size)
        elif number != self._number + 1 or body != encode_beginning(number, self._digest, self.summary):
            raise CorruptStorageError(f"it does not follow segment {self._number}")
        self._number = int(number)
        return self._last.index

    # ---- records ------------------------------------------------------------
    def _follow(self, body: bytes, at: int = 0) -> None:
        try:
            for record in self._records(body, at):
                self.summary.follow(record)
        except (struct.error, ValueError, RemoteProtocolError) as exc:
            raise CorruptStorageError("a batch holds bytes that are not a record") from exc

    def _records(self, body: bytes, at: int) -> Iterator[Record]:
        """Follow the records of ``body``; yield those that change more than the entries.

        Raises:
            CorruptStorageError: the body holds a record that this release does not know.
            ValueError, struct.error, RemoteProtocolError: a record is malformed or contradicts those before.
        """
        while at < len(body):
            match body[at]:
                case RecordKind.ENTRY:
                    at = self._entry(body, at)
                case RecordKind.VOTE:
                    vote, at = self._vote(body, at)
                    yield vote
                case RecordKind.TRUNCATE:
                    _, index = TRUNCATE.unpack_from(body, at)
                    self._truncate(index)
                    at += TRUNCATE.size
                    yield SaveTruncation(index)
                case RecordKind.END:
                    _, cluster = END.unpack_from(body, at)
                    at += END.size
                    yield SaveEnd(cluster)
                case RecordKind.BASE:
                    base, at = self._base(body, at)
                    yield base
                case _:
                    raise ValueError("unknown record")

    def _entry(self, body: bytes, at: int) -> int:
        _, kind, term, time_ms, length = ENTRY_HEAD.unpack_from(body, at)
        at += ENTRY_HEAD.size
        payload, end = _exactly(body, at, length)
        if kind not in _KINDS:
            # The digest matches what was written, so this is not damage.
            raise CorruptStorageError(
                f"it holds an entry of kind {kind}, which a later release of bondstone wrote: "
                "start the image that wrote it, or a later one"
            )
        entry = make_entry(self._last, term=term, kind=EntryKind(kind), time_ms=time_ms, payload=payload)
        self.entries.append(entry)
        self._last = _position(entry)
        return end

    def _truncate(self, index: int) -> None:
        if not index:
            self._restart(LOG_START)
            return
        count = index - self._after.index
        base = self.summary.base
        if count < 0 and (base is None or base.anchor.index < self._after.index):
            raise UnknownPlaceError("it goes back to a place before the first segment that is there")
        if not 0 <= count <= len(self.entries) or (base is not None and index < base.anchor.index):
            raise ValueError("a truncation above the log, or below its base")
        del self.entries[count:]
        self._lowest = min(self._lowest, index)
        self._last = _position(self.entries[-1]) if self.entries else self._after

    def _restart(self, after: Position) -> None:
        self.entries.clear()
        self._after = self._last = after

    def _base(self, body: bytes, at: int) -> tuple[SaveBase, int]:
        """Cut the log behind a base that it leads to; otherwise it has nothing but that base."""
        payload, end = _string_at(body, at + 1)
        evidence = decode_snapshot_untrusted(payload)
        if evidence is None:
            raise ValueError("a base without evidence")
        anchor, before = evidence.anchor, self.summary.base
        if before is not None and anchor.index <= before.anchor.index:
            raise ValueError("the base goes back")
        count = anchor.index - self._after.index
        if self._leads_to(anchor):
            del self.entries[:count]
            self._after = Position(*anchor)
        elif count > 0:
            self._restart(Position(*anchor))
        # Otherwise this is the beginning of the first segment, and a later base is in it.
        return SaveBase(evidence), end

    def _leads_to(self, anchor: Anchor) -> bool:
        count = anchor.index - self._after.index
        if not 0 < count <= len(self.entries):
            return False
        return _position(self.entries[count - 1]) == Position(*anchor)

    def _vote(self, body: bytes, at: int) -> tuple[SaveVote, int]:
        _, term, named = VOTE_HEAD.unpack_from(body, at)
        # A member that left a cluster that gave itself up begins again with an empty log (node.raft.rivals).
        anew = term == 0 and not named and self._last == LOG_START
        if term < self.summary.term and not anew:
            raise ValueError("the term goes back")
        at += VOTE_HEAD.size
        if not named:
            return SaveVote(term, None), at
        name, at = _string_at(body, at)
        identifier, at = _string_at(body, at)
        return SaveVote(term, Incarnation(name.decode(), identifier)), at


def _position(entry: Entry) -> Position:
    return Position(entry.term, entry.index, entry.chain)


def _string_at(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = LENGTH.unpack_from(body, at)
    return _exactly(body, at + LENGTH.size, length)


def _exactly(body: bytes, at: int, length: int) -> tuple[bytes, int]:
    """Return ``length`` bytes from ``at``, and where they end."""
    end = at + length
    if end > len(body):
        raise ValueError("a record is cut off")
    return body[at:end], end
