"""Term, vote and log of a trust_disk member in one append-only file (``node.storage.format``).

One ``persist`` is one batch and one synchronous write, whatever the number of records. It writes into space
that was filled with zeros and made durable before, so the disk need not record a new size or allocate a place
each time: that would cost a second write, into a journal that all files share.

The file grows with the log. When the member starts, the file is written again in compacted form.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attestation.files import open_own, open_to_read, sync_directory
from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.raft.events import Record, Recovered, SaveEnd, SaveEntries, SaveVote
from node.raft.types import Entry
from node.storage.format import (
    SALT_BYTES,
    Batches,
    encode_identity,
    encode_records,
    file_head,
    recover,
)

SPACE_BYTES: Final = 1024 * 1024  # reserved at a time
COMPACT_BYTES: Final = 1024 * 1024  # of payload in a batch of the compacted file


class FileStorage:
    """One member's file, locked while it is open.

    Attributes:
        recovered: what an earlier process left; None if the file is new.
    """

    def __init__(self, path: Path, me: Incarnation) -> None:
        """Open or create the file at ``path`` for incarnation ``me``.

        Raises:
            CorruptStorageError: the file belongs to another incarnation, is in use, or is not what was
                written.
        """
        self._path = path
        self._me = me
        self._lock = open_own(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise CorruptStorageError(f"{path} is in use by another process") from exc
        try:
            self.recovered = self._load()
            self._batches = Batches(secrets.token_bytes(SALT_BYTES))
            self._file, self._space_end = self._compact()
        except BaseException:
            os.close(self._lock)
            raise

    def _load(self) -> Recovered | None:
        if not self._path.exists():
            return None
        try:
            with open_to_read(self._path) as file:
                return recover(file.read(), self._me, space_bytes=SPACE_BYTES)
        except CorruptStorageError as exc:
            raise CorruptStorageError(f"{self._path}: {exc}") from exc

    def _compact(self) -> tuple[int, int]:
        """Write the records that still count into a new file, and put it in the place of the old one.

        Returns the new file's handle, whose writes are all synchronous, and the end of its reserved space.
        """
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)  # left by a start that was interrupted
        handle = open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(handle, file_head(self._batches.salt), 0)
            for body in self._compacted():
                at = self._batches.at
                _write_all(handle, self._batches.encode(body), at)
            end = _whole_spaces(self._batches.at)
            _write_all(handle, bytes(end - self._batches.at), self._batches.at)
            os.fsync(handle)
        finally:
            os.close(handle)
        handle = open_own(fresh, os.O_WRONLY | os.O_DSYNC)
        try:
            fresh.rename(self._path)
            sync_directory(self._path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle, end

    def _compacted(self) -> Iterator[bytes]:
        yield encode_identity(self._me)
        if self.recovered is not None:
            ended = [SaveEnd(cluster) for cluster in self.recovered.ended]
            yield encode_records([*ended, SaveVote(self.recovered.term, self.recovered.voted_for)])
            for entries in _portions(self.recovered.entries):
                yield encode_records([SaveEntries(entries)])

    def persist(self, records: list[Record]) -> None:
        """Make ``records`` durable, in their order, with one write. Blocking: call it off the event loop.

        Raises:
            OSError: the disk refused. Nothing written after this can be trusted to be durable, so the member
                must stop.
        """
        at = self._batches.at
        data = self._batches.encode(encode_records(records))
        end = at + len(data)
        if end > self._space_end:
            more = _whole_spaces(end)
            _write_all(self._file, bytes(more - self._space_end), self._space_end)
            self._space_end = more
        _write_all(self._file, data, at)

    def close(self) -> None:
        """Close the file and let others open it."""
        os.close(self._file)
        os.close(self._lock)


def _portions(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, ...]]:
    first = size = 0
    for number, entry in enumerate(entries):
        size += len(entry.payload)
        if size >= COMPACT_BYTES:
            yield entries[first : number + 1]
            first, size = number + 1, 0
    if first < len(entries):
        yield entries[first:]


def _whole_spaces(end: int) -> int:
    """Return ``end`` rounded up to the next whole multiple of the space that is reserved at a time."""
    return end + -end % SPACE_BYTES


def _write_all(handle: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written
