"""Term, vote and log of a trust_disk member in one append-only file.

    file    = magic batch*
    batch   = length (u32 big-endian) CRC-32 of the length and the digest before (u32 big-endian)
              digest (first 16 bytes of SHA-256) body
    body    = CBOR [record...]
    record  = ["identity", format, name, id] | ["vote", term, name or null, id or null]
            | ["truncate", index] | ["entry", term, kind, time_ms, payload]

The digest covers the digest before it and the body, so no batch can be swapped or left out. One ``persist``
is one batch, one write and one fsync, however many records it has, and the next is not begun before it is
durable. So all that a crash can tear is the last batch, which was never reported durable: it is cut off.
Anything else that does not fit is corruption, a damaged length too, and the member must not start: it would
break promises that others rely on.

The file grows with the log; it is written anew, compacted, when the member starts.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from attestation.canonical import decode_untrusted, encode
from attestation.errors import MalformedError
from node.errors import CorruptStorageError
from node.raft.entries import make_entry
from node.raft.events import Record, Recovered, SaveEntries, SaveTruncation, SaveVote
from node.raft.types import ORIGIN, Entry, EntryKind, Incarnation, Position

MAGIC: Final = b"bondstone-log/1\n"
FORMAT: Final = 1
COMPACT_RECORDS: Final = 1000
_DIGEST_BYTES: Final = 16
_HEAD_BYTES: Final = 8 + _DIGEST_BYTES


class FileStorage:
    """One member's file, locked while it is open.

    Attributes:
        recovered: what an earlier process left; None if the file is new.
    """

    def __init__(self, path: Path, me: Incarnation) -> None:
        """Open or create the file at ``path`` for incarnation ``me``.

        Raises:
            CorruptStorageError: it belongs to another incarnation, is in use, or is not what was written.
        """
        self._path = path
        self._me = me
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise CorruptStorageError(f"{path} is in use by another process") from exc
        try:
            self.recovered = self._load()
            self._file, self._digest = self._compact()
        except BaseException:
            os.close(self._lock)
            raise

    # ---- reading ------------------------------------------------------------
    def _load(self) -> Recovered | None:
        if not self._path.exists():
            return None
        term, voted_for = 0, None
        log: list[Entry] = []
        records = self._records(self._path.read_bytes())
        self._check_identity(next(records, None))
        for record in records:
            match record:
                case ["vote", int(new_term), voter_name, voter_id]:
                    if new_term < term:
                        raise CorruptStorageError(f"{self._path}: the term goes back")
                    term = new_term
                    voted_for = None if voter_name is None else Incarnation(voter_name, voter_id)
                case ["truncate", int(index)] if 0 <= index <= len(log):
                    del log[index:]
                case ["entry", int(entry_term), int(kind), int(time_ms), bytes(payload)]:
                    log.append(_entry_after(log, entry_term, kind, time_ms, payload))
                case _:
                    raise CorruptStorageError(f"{self._path}: unknown record")
        return Recovered(term, voted_for, tuple(log))

    def _check_identity(self, body: Any) -> None:
        if body != ["identity", FORMAT, self._me.name, self._me.id]:
            raise CorruptStorageError(
                f"{self._path} belongs to another incarnation or format: "
                "give the node the identity that wrote it, or an empty directory"
            )

    def _records(self, data: bytes) -> Iterator[Any]:
        """Yield the records of every whole batch; stop before one that a crash has torn."""
        if not data.startswith(MAGIC):
            raise CorruptStorageError(f"{self._path} is not a bondstone log")
        at, chain = len(MAGIC), hashlib.sha256(MAGIC).digest()[:_DIGEST_BYTES]
        while at < len(data):
            body_at = at + _HEAD_BYTES
            head = data[at:body_at]
            if len(head) < _HEAD_BYTES or not any(head):
                return  # the blocks of a torn batch reach the disk in any order, the first perhaps never
            end = body_at + int.from_bytes(head[:4], "big")
            whole_head = head[4:8] == _crc(chain, head[:4])
            chain = _chain(chain, data[body_at:end])
            if not whole_head or end > len(data) or head[8:] != chain:
                if whole_head and end >= len(data):
                    return
                raise CorruptStorageError(f"{self._path}: the batch at byte {at} is not what was written")
            body = data[body_at:end]
            yield from _decode(self._path, body)
            at = end

    # ---- writing ------------------------------------------------------------
    def _compact(self) -> tuple[int, bytes]:
        """Write what counts into a new file beside the old one, and put it in its place."""
        fresh = self._path.with_name(self._path.name + ".new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            digest = hashlib.sha256(MAGIC).digest()[:_DIGEST_BYTES]
            records: list[list[Any]] = [["identity", FORMAT, self._me.name, self._me.id]]
            if self.recovered is not None:
                records.append(_vote(SaveVote(self.recovered.term, self.recovered.voted_for)))
                records += [_entry(entry) for entry in self.recovered.entries]
            _write_all(handle, MAGIC)
            for first in range(0, len(records), COMPACT_RECORDS):
                data, digest = _batch(records[first : first + COMPACT_RECORDS], digest)
                _write_all(handle, data)
            os.fsync(handle)
            fresh.rename(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle, digest

    def persist(self, records: list[Record]) -> None:
        """Make ``records`` durable, in their order, with one fsync. Blocking: call it off the event loop.

        Raises:
            OSError: the disk refused; nothing after this can be trusted to be durable, so the member must
                stop.
        """
        written: list[list[Any]] = []
        for record in records:
            match record:
                case SaveVote():
                    written.append(_vote(record))
                case SaveTruncation():
                    written.append(["truncate", record.index])
                case SaveEntries():
                    written += [_entry(entry) for entry in record.entries]
        data, self._digest = _batch(written, self._digest)
        _write_all(self._file, data)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file and let others open it."""
        os.close(self._file)
        os.close(self._lock)


def _vote(record: SaveVote) -> list[Any]:
    voter = record.voted_for
    return ["vote", record.term, voter and voter.name, voter and voter.id]


def _entry(entry: Entry) -> list[Any]:
    return ["entry", entry.term, int(entry.kind), entry.time_ms, entry.payload]


def _entry_after(log: list[Entry], term: int, kind: int, time_ms: int, payload: bytes) -> Entry:
    last = Position(log[-1].term, log[-1].index, log[-1].chain) if log else ORIGIN
    try:
        known = EntryKind(kind)
    except ValueError as exc:
        raise CorruptStorageError(f"unknown entry kind {kind}") from exc
    return make_entry(last, term=term, kind=known, time_ms=time_ms, payload=payload)


def _batch(records: list[list[Any]], digest: bytes) -> tuple[bytes, bytes]:
    """Return the bytes of a batch after ``digest``, and its own digest."""
    body = encode(records)
    length = len(body).to_bytes(4, "big")
    chained = _chain(digest, body)
    return length + _crc(digest, length) + chained + body, chained


def _crc(digest: bytes, length: bytes) -> bytes:
    return zlib.crc32(digest + length).to_bytes(4, "big")


def _chain(digest: bytes, body: bytes) -> bytes:
    return hashlib.sha256(digest + body).digest()[:_DIGEST_BYTES]


def _decode(path: Path, body: bytes) -> list[Any]:
    try:
        records = decode_untrusted(body, bytes_max=len(body))
    except MalformedError as exc:
        raise CorruptStorageError(f"{path}: a batch is not CBOR") from exc
    if not isinstance(records, list):
        raise CorruptStorageError(f"{path}: a batch is no array of records")
    return records


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
