"""The bytes of a trust_disk member's file. Integers are big-endian.

    file    = head batch* zeros
    head    = magic (16) salt (16, random) zeros up to a sector of 512 bytes
    batch   = length of the body (4) number (8) digest (16) CRC-32 (4) body, zeros up to whole sectors
    body    = record...
    record  = 1, name, id                      identity: the first batch, and only there
            | 2, term (8) 0 (1)                vote for nobody in this term
            | 2, term (8) 1 (1) name, id       vote
            | 3, index (8)                     truncation: entries above the index are gone
            | 5, id (32)                       a cluster that ended: this incarnation has left it
            | 4, kind (1) term (8) time_ms (8) length of the payload (4) payload
    name, id = length (2) bytes; the name is UTF-8

The number counts from 0. The digest (first 16 bytes of SHA-256) covers the digest before it and the body, so
that no batch can be swapped or left out. The CRC covers the salt and the fields before it in the head. A head
is therefore recognised wherever it is in the file, and no payload can pass for one, because a client that
writes payloads does not know the salt.

Batches begin at sectors, so writing one never touches a sector that is already durable. The space behind the
last batch is zeros that were written beforehand. Only one batch at a time is on its way to the disk, and the
next is begun only after it is durable. So a crash can tear only the last batch, in whatever way. Recovery
cuts a torn last batch off, because no peer has been promised that it is durable. A damaged batch after which
another was begun is corruption: going on would break promises that other members rely on.
"""

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.raft.entries import ENTRY_LEVELS, make_entry
from node.raft.events import Record, Recovered, SaveEnd, SaveEntries, SaveTruncation, SaveVote
from node.raft.messages import DISSOLVED_MAX
from node.raft.types import LOG_START, Entry, EntryKind, Position

MAGIC: Final = b"bondstone-log/5\n"
SALT_BYTES: Final = 16
SECTOR_BYTES: Final = 512

_DIGEST_BYTES: Final = 16
_HEAD: Final = struct.Struct(">IQ16s")
_CRC_BYTES: Final = 4
_BODY: Final = _HEAD.size + _CRC_BYTES  # its offset in a batch
_KINDS: Final = frozenset(int(kind) for kind in ENTRY_LEVELS)
_LENGTH: Final = struct.Struct(">H")
_VOTE: Final = struct.Struct(">BQ?")
_TRUNCATE: Final = struct.Struct(">BQ")
_END: Final = struct.Struct(">B32s")
_ENTRY: Final = struct.Struct(">BBQQI")


class RecordKind(IntEnum):
    """The first byte of a record."""

    IDENTITY = 1
    VOTE = 2
    TRUNCATE = 3
    ENTRY = 4
    END = 5


# ---- writing ----------------------------------------------------------------
def file_head(salt: bytes) -> bytes:
    """Return the first sector."""
    return (MAGIC + salt).ljust(SECTOR_BYTES, b"\0")


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
                    parts += (_ENTRY.pack(*head), payload)
            case SaveVote():
                voter = record.voted_for
                parts.append(_VOTE.pack(RecordKind.VOTE, record.term, voter is not None))
                if voter is not None:
                    parts.append(_put_incarnation(voter))
            case SaveTruncation():
                parts.append(_TRUNCATE.pack(RecordKind.TRUNCATE, record.index))
            case SaveEnd():
                parts.append(_END.pack(RecordKind.END, record.cluster))
    return b"".join(parts)


def _put_incarnation(incarnation: Incarnation) -> bytes:
    name = incarnation.name.encode()
    return _LENGTH.pack(len(name)) + name + _LENGTH.pack(len(incarnation.id)) + incarnation.id


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHead:
    """The head of a batch, with the offsets in the file where its body starts and where the batch ends."""

    number: int
    digest: bytes
    body_at: int
    body_end: int
    end: int


class Batches:
    """Where the next batch goes and which batch it follows; the same for the writer and for the reader."""

    def __init__(self, salt: bytes) -> None:
        self.at = SECTOR_BYTES
        self.salt = salt
        self._number = 0
        self._digest = hashlib.sha256(MAGIC + salt).digest()[:_DIGEST_BYTES]

    def encode(self, body: bytes) -> bytes:
        """Return the next batch, to be written at the offset that ``at`` had before this call."""
        digest = self._follow(body)
        head = _HEAD.pack(len(body), self._number, digest)
        data = head + self._crc(head) + body
        data += bytes(-len(data) % SECTOR_BYTES)
        self._go_on(self.at + len(data), digest)
        return data

    def take(self, data: bytes) -> bytes | None:
        """Return the body of the batch at ``at`` and go on to the next; None if there is no whole batch."""
        head = self.head_at(data, self.at)
        if head is None or head.number != self._number:
            return None
        body = data[head.body_at : head.body_end]
        digest = self._follow(body)
        padding = data[head.body_end : head.end]
        if digest != head.digest or len(padding) != head.end - head.body_end or any(padding):
            return None
        self._go_on(head.end, digest)
        return body

    def head_at(self, data: bytes, at: int) -> BatchHead | None:
        """Return the head at ``at``; None if the bytes there are not a head of this file."""
        head = data[at : at + _HEAD.size]
        if data[at + _HEAD.size : at + _BODY] != self._crc(head):
            return None
        length, number, digest = _HEAD.unpack(head)
        end = at + _BODY + length
        return BatchHead(
            number=number, digest=digest, body_at=at + _BODY, body_end=end, end=end + -end % SECTOR_BYTES
        )

    def was_begun_after(self, data: bytes) -> bool:
        """Return whether a batch was begun after the one at ``at``, which shows that this one was durable."""
        head = self.head_at(data, self.at)
        if head is None:
            later = range(self.at + SECTOR_BYTES, len(data), SECTOR_BYTES)
            return any(self.head_at(data, place) is not None for place in later)
        return head.number != self._number or data.count(0, head.end) < len(data[head.end :])

    def _follow(self, body: bytes) -> bytes:
        return hashlib.sha256(self._digest + body).digest()[:_DIGEST_BYTES]

    def _crc(self, head: bytes) -> bytes:
        return zlib.crc32(self.salt + head).to_bytes(_CRC_BYTES, "big")

    def _go_on(self, at: int, digest: bytes) -> None:
        self.at = at
        self._digest = digest
        self._number += 1


# ---- reading ----------------------------------------------------------------
def recover(data: bytes, me: Incarnation, *, space_bytes: int = 1) -> Recovered:
    """Return what ``me`` wrote in the file, without a last batch that a crash has torn.

    The writer reserves ``space_bytes`` of zeros at a time before it writes there. A file that ends within
    such a reserve has been cut.

    Raises:
        CorruptStorageError: the bytes are not such a file, or not what was written.
    """
    if not data.startswith(MAGIC):
        raise CorruptStorageError("it is not a bondstone log of this version")
    head = data[:SECTOR_BYTES]
    salt = head[len(MAGIC) : len(MAGIC) + SALT_BYTES]
    if head != file_head(salt):
        raise CorruptStorageError("its first sector is not what was written")
    batches = Batches(salt)
    identity = batches.take(data)
    if identity is None:
        raise CorruptStorageError("its first batch is not what was written")
    if identity != encode_identity(me):
        raise CorruptStorageError(
            "it belongs to another incarnation: "
            "give the node the identity that wrote it, or an empty directory"
        )
    replay = _Replay()
    while (body := batches.take(data)) is not None:
        try:
            replay.run(body)
        except (struct.error, ValueError) as exc:
            raise CorruptStorageError("a batch holds bytes that are not a record") from exc
    if batches.was_begun_after(data):
        raise CorruptStorageError(f"the batch at byte {batches.at} is not what was written")
    if len(data) < batches.at + -batches.at % space_bytes:
        raise CorruptStorageError("it is shorter than it was")
    return Recovered(replay.term, replay.voted_for, tuple(replay.log), tuple(replay.ended))


class _Replay:
    """Rebuilds the member's state by following the records."""

    def __init__(self) -> None:
        self.term = 0
        self.voted_for: Incarnation | None = None
        self.log: list[Entry] = []
        self.ended: deque[bytes] = deque(maxlen=DISSOLVED_MAX)

    def run(self, body: bytes) -> None:
        """Follow every record of ``body``.

        Raises:
            CorruptStorageError: the body holds a record that this release does not know.
            ValueError, struct.error: a record is malformed or contradicts those before.
        """
        at = 0
        while at < len(body):
            match body[at]:
                case RecordKind.ENTRY:
                    at = self._entry(body, at)
                case RecordKind.VOTE:
                    at = self._vote(body, at)
                case RecordKind.TRUNCATE:
                    _, index = _TRUNCATE.unpack_from(body, at)
                    if index > len(self.log):
                        raise ValueError("a truncation above the log")
                    del self.log[index:]
                    at += _TRUNCATE.size
                case RecordKind.END:
                    _, cluster = _END.unpack_from(body, at)
                    self.ended.append(cluster)
                    at += _END.size
                case _:
                    raise ValueError("unknown record")

    def _entry(self, body: bytes, at: int) -> int:
        _, kind, term, time_ms, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        payload, end = _exactly(body, at, length)
        last = Position(self.log[-1].term, self.log[-1].index, self.log[-1].chain) if self.log else LOG_START
        if kind not in _KINDS:
            # The digest matches what was written, so this is not damage.
            raise CorruptStorageError(
                f"it holds an entry of kind {kind}, which a later release of bondstone wrote: "
                "start the image that wrote it, or a later one"
            )
        entry = make_entry(last, term=term, kind=EntryKind(kind), time_ms=time_ms, payload=payload)
        self.log.append(entry)
        return end

    def _vote(self, body: bytes, at: int) -> int:
        _, term, named = _VOTE.unpack_from(body, at)
        # A member that left a cluster that gave itself up begins again with an empty log (node.raft.rivals).
        anew = term == 0 and not named and not self.log
        if term < self.term and not anew:
            raise ValueError("the term goes back")
        self.term, self.voted_for = term, None
        at += _VOTE.size
        if named:
            name, at = _string_at(body, at)
            identifier, at = _string_at(body, at)
            self.voted_for = Incarnation(name.decode(), identifier)
        return at


def _string_at(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(body, at)
    return _exactly(body, at + _LENGTH.size, length)


def _exactly(body: bytes, at: int, length: int) -> tuple[bytes, int]:
    """Return ``length`` bytes from ``at``, and where they end."""
    end = at + length
    if end > len(body):
        raise ValueError("a record is cut off")
    return body[at:end], end
