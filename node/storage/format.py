"""The bytes of the segments of a trust_disk member's log. Integers are big-endian.

    segment = head batch* zeros
    head    = magic (16) salt (16, random) zeros up to a sector of 512 bytes
    batch   = length of the body (4) number (8) digest (16) CRC-32 (4) body, zeros up to whole sectors
    body    = record...
    record  = 1, name, id                      identity: the first batch of every segment, and only there
            | 2, term (8) 0 (1)                vote for nobody in this term
            | 2, term (8) 1 (1) name, id       vote
            | 3, index (8)                     truncation: entries above the index are gone; for 0
                                               the base too
            | 4, kind (1) term (8) time_ms (8) length of the payload (4) payload
            | 5, id (32)                       a cluster that ended: this incarnation has left it
            | 6, evidence                      base: a snapshot file has the state at the evidence's anchor.
                                               Entries up to there are gone, and all of them if the log does
                                               not lead there
            | 7, number (8) digest (16) term (8) index (8) chain (32)
                                               begin of a segment: its number, the digest of the last batch of
                                               the segment before it, the position of the last entry there
    name, id, evidence = length (2) bytes; the name is UTF-8, evidence the payload of a SNAPSHOT entry

The second batch of a segment begins with record 7 and repeats what still counts of all segments before it,
except for entries: the clusters that ended, the vote, the base. So a segment can be deleted as a whole when
the base covers every entry in it. A log of version 5 is one file without that batch: segment 0.

The number of a batch counts from 0. The digest (first 16 bytes of SHA-256) covers the digest before it and
the body, so that no batch can be swapped or left out. The CRC covers the salt and the fields before it in the
head. A head is therefore recognised wherever it is in the file, and no payload can pass for one, because a
client that writes payloads does not know the salt.

Batches begin at sectors, so writing one never touches a sector that is already durable. The space behind the
last batch is zeros that were written beforehand. Only one batch at a time is on its way to the disk, and the
next is begun only after it is durable. So a crash can tear only the last batch, in whatever way. Recovery
cuts a torn last batch off, because no peer has been promised that it is durable. A damaged batch after which
another was begun is corruption: going on would break promises that other members rely on. What follows the
last batch of a segment that another one follows was torn, and never counted.
"""

import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import BinaryIO, Final

from node.peers import Incarnation
from node.raft.events import Record, SaveBase, SaveEnd, SaveEntries, SaveTruncation, SaveVote
from node.raft.messages import DISSOLVED_MAX
from node.raft.types import LOG_START, Position
from node.sync.evidence import StateEvidence, encode_evidence

MAGIC: Final = b"bondstone-log/6\n"
MAGIC_5: Final = b"bondstone-log/5\n"  # of a log that is one file
SALT_BYTES: Final = 16
SECTOR_BYTES: Final = 512
NO_SEGMENT: Final = bytes(16)  # in place of the digest, in the first segment

_DIGEST_BYTES: Final = 16
_WINDOW_BYTES: Final = 1024 * 1024  # read at a time where nothing is expected
_HEAD: Final = struct.Struct(">IQ16s")
_CRC_BYTES: Final = 4
_BODY: Final = _HEAD.size + _CRC_BYTES  # its offset in a batch
LENGTH: Final = struct.Struct(">H")
VOTE_HEAD: Final = struct.Struct(">BQ?")
TRUNCATE: Final = struct.Struct(">BQ")
END: Final = struct.Struct(">B32s")
ENTRY_HEAD: Final = struct.Struct(">BBQQI")
SEGMENT: Final = struct.Struct(">BQ16sQQ32s")


class RecordKind(IntEnum):
    """The first byte of a record."""

    IDENTITY = 1
    VOTE = 2
    TRUNCATE = 3
    ENTRY = 4
    END = 5
    BASE = 6
    SEGMENT = 7


# ---- writing ----------------------------------------------------------------
def file_head(salt: bytes, magic: bytes = MAGIC) -> bytes:
    """Return the first sector."""
    return (magic + salt).ljust(SECTOR_BYTES, b"\0")


def encode_identity(me: Incarnation) -> bytes:
    """Return the body of the first batch, which names the incarnation that the file belongs to."""
    return bytes([RecordKind.IDENTITY]) + _put_incarnation(me)


def encode_records(records: Iterable[Record]) -> bytes:
    """Return the body of a batch."""
    parts: list[bytes] = []
    for record in records:
        match record:
            case SaveEntries():
                for entry in record.entries:
                    payload = entry.payload
                    head = (RecordKind.ENTRY, entry.kind, entry.term, entry.time_ms, len(payload))
                    parts += (ENTRY_HEAD.pack(*head), payload)
            case SaveVote():
                voter = record.voted_for
                parts.append(VOTE_HEAD.pack(RecordKind.VOTE, record.term, voter is not None))
                if voter is not None:
                    parts.append(_put_incarnation(voter))
            case SaveTruncation():
                parts.append(TRUNCATE.pack(RecordKind.TRUNCATE, record.index))
            case SaveEnd():
                parts.append(END.pack(RecordKind.END, record.cluster))
            case SaveBase():
                evidence = encode_evidence(record.evidence)
                parts += (bytes([RecordKind.BASE]), LENGTH.pack(len(evidence)), evidence)
    return b"".join(parts)


def _put_incarnation(incarnation: Incarnation) -> bytes:
    name = incarnation.name.encode()
    return LENGTH.pack(len(name)) + name + LENGTH.pack(len(incarnation.id)) + incarnation.id


@dataclass(slots=True)
class LogSummary:
    """What counts of the records up to some place in the log, except for the entries.

    Attributes:
        last: position of the last entry; None: a truncation or a base may have changed it since.
    """

    term: int = 0
    voted_for: Incarnation | None = None
    ended: deque[bytes] = field(default_factory=lambda: deque(maxlen=DISSOLVED_MAX))
    base: StateEvidence | None = None
    last: Position | None = LOG_START

    def follow(self, record: Record) -> None:
        """Note one record."""
        match record:
            case SaveEntries():
                entry = record.entries[-1]
                self.last = Position(entry.term, entry.index, entry.chain)
            case SaveVote():
                self.term, self.voted_for = record.term, record.voted_for
            case SaveTruncation(0):
                self.base, self.last = None, LOG_START
            case SaveTruncation():
                self.last = None
            case SaveEnd():
                self.ended.append(record.cluster)
            case SaveBase():
                self.base = record.evidence
                anchor = Position(*record.evidence.anchor)
                if self.last is not None:
                    # A fetched state ends the log, whatever came before. Entries beyond it may be others.
                    self.last = anchor if self.last.index <= anchor.index else None


def encode_beginning(number: int, before: bytes, summary: LogSummary) -> bytes:
    """Return the body of the second batch of segment ``number``.

    Args:
        number: of the segment, from 1.
        before: digest of the last batch of the segment before it.
        summary: up to its end; its ``last`` is known.
    """
    assert summary.last is not None
    records: list[Record] = [SaveEnd(cluster) for cluster in summary.ended]
    records.append(SaveVote(summary.term, summary.voted_for))
    if summary.base is not None:
        records.append(SaveBase(summary.base))
    return SEGMENT.pack(RecordKind.SEGMENT, number, before, *summary.last) + encode_records(records)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHead:
    """The head of a batch, with the offsets in the file where its body starts and where the batch ends."""

    number: int
    digest: bytes
    body_at: int
    body_end: int
    end: int


class Batches:
    """Where the next batch goes and which batch it follows; the same for the writer and for the reader.

    Attributes:
        magic, salt: of the segment's head.
        at: offset of the next batch.
        digest: of the last one; before the first, of the segment's head.
    """

    def __init__(self, salt: bytes, magic: bytes = MAGIC) -> None:
        self.at = SECTOR_BYTES
        self.salt = salt
        self.magic = magic
        self.digest = hashlib.sha256(magic + salt).digest()[:_DIGEST_BYTES]
        self._number = 0

    def encode(self, body: bytes) -> bytes:
        """Return the next batch, to be written at the offset that ``at`` had before this call."""
        digest = self._follow(body)
        head = _HEAD.pack(len(body), self._number, digest)
        data = head + self._crc(head) + body
        data += bytes(-len(data) % SECTOR_BYTES)
        self._go_on(self.at + len(data), digest)
        return data

    def take(self, file: BinaryIO) -> bytes | None:
        """Return the body of the batch at ``at`` and go on to the next; None if there is no whole batch."""
        head = self._head(read_at(file, self.at, _BODY), self.at)
        if head is None or head.number != self._number or head.end > size_of(file):
            return None
        data = read_at(file, head.body_at, head.end - head.body_at)
        body, padding = data[: head.body_end - head.body_at], data[head.body_end - head.body_at :]
        digest = self._follow(body)
        if digest != head.digest or any(padding):
            return None
        self._go_on(head.end, digest)
        return body

    def was_begun_after(self, file: BinaryIO) -> bool:
        """Return whether a batch was begun after the one at ``at``, which shows that this one was durable."""
        head = self._head(read_at(file, self.at, _BODY), self.at)
        if head is not None:
            return head.number != self._number or not is_blank(file, head.end)
        for start, window in _windows(file, self.at + SECTOR_BYTES):
            for at in range(0, len(window), SECTOR_BYTES):
                if self._head(window[at : at + _BODY], start + at) is not None:
                    return True
        return False

    def _head(self, data: bytes, at: int) -> BatchHead | None:
        """Return the head in ``data``, which is at ``at``; None if it is not a head of this file."""
        head = data[: _HEAD.size]
        if data[_HEAD.size : _BODY] != self._crc(head):
            return None
        length, number, digest = _HEAD.unpack(head)
        end = at + _BODY + length
        return BatchHead(
            number=number, digest=digest, body_at=at + _BODY, body_end=end, end=end + -end % SECTOR_BYTES
        )

    def _follow(self, body: bytes) -> bytes:
        return hashlib.sha256(self.digest + body).digest()[:_DIGEST_BYTES]

    def _crc(self, head: bytes) -> bytes:
        return zlib.crc32(self.salt + head).to_bytes(_CRC_BYTES, "big")

    def _go_on(self, at: int, digest: bytes) -> None:
        self.at = at
        self.digest = digest
        self._number += 1


def is_blank(file: BinaryIO, at: int) -> bool:
    """Return whether nothing but zeros follows from ``at`` on."""
    return not any(window.count(0) < len(window) for _, window in _windows(file, at))


def _windows(file: BinaryIO, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes from ``at`` on, a window at a time, and where each starts."""
    while window := read_at(file, at, _WINDOW_BYTES):
        yield at, window
        at += len(window)


def read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def size_of(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)
