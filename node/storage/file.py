"""Term, vote and log of a trust_disk member, in segments (``node.storage.format``), and its snapshot.

    <path>                        the newest segment: the only one that is written
    <path>.<number>               older segments
    <path>.snapshot.<index>       the state behind which the log begins (``node.storage.snapshot``)
    <path>.lock                   locked while a process uses the others
    <path>.new, <path>.snapshot.<index>.new     in the making

One ``persist`` is one batch and one synchronous write, whatever the number of records. It writes into space
that was filled with zeros and made durable before, so the disk need not record a new size or allocate a place
each time: that would cost a second write, into a journal that all files share.

A segment that is full is followed by another. Once the log's base is durable, the segments that have nothing
but entries up to there are deleted, and so are other snapshots. No record is written twice.
"""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from attestation.files import open_own, sync_directory
from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.raft.events import Record, Recovered, SaveBase, SaveTruncation
from node.storage.format import (
    MAGIC,
    NO_SEGMENT,
    SALT_BYTES,
    Batches,
    LogSummary,
    encode_beginning,
    encode_identity,
    encode_records,
    file_head,
)
from node.storage.replay import Replay, UnknownPlaceError
from node.storage.snapshot import STAGED, read_snapshot, write_snapshot
from node.sync.keeper import Snapshot

SPACE_BYTES: Final = 1024 * 1024  # reserved at a time
SEGMENT_BYTES: Final = 8 * 1024 * 1024  # a segment that has reached this size is followed by another

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Segment:
    """A segment's file.

    Attributes:
        begin: index of the last entry before it.
        lowest: the lowest index to which it truncates the log; ``begin`` if none is lower.
    """

    number: int
    path: Path
    begin: int
    lowest: int


def is_there(path: Path) -> bool:
    """Return whether a member has left any part of a log at ``path``."""
    return path.exists() or bool(_older_segments(path) or _snapshots(path))


class FileStorage:
    """One member's log, locked while it is open.

    Attributes:
        recovered: what an earlier process left; None if the log is new, or after ``forget_recovered``.
    """

    def __init__(self, path: Path, me: Incarnation) -> None:
        """Open or create the log at ``path`` for incarnation ``me``.

        Raises:
            CorruptStorageError: the log belongs to another incarnation, is in use, or is not what was
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
        self._file = -1
        self._space_end = 0
        self._segments: list[_Segment] = []
        self._summary = LogSummary()
        self._batches = Batches(b"")
        try:
            self.recovered = self._load()
            self._cut()
            self._delete_strays()
        except BaseException:
            self.close()
            raise

    # ---- the start ----------------------------------------------------------
    def _load(self) -> Recovered | None:
        """Read every segment, and get ready to write."""
        path = self._path
        if not path.exists():
            if is_there(path):
                raise CorruptStorageError(
                    f"{path} is missing, and other parts of the log are there. hint: remove the whole "
                    "directory; the node then joins as a new incarnation"
                )
            self._begin_segment(1, NO_SEGMENT)
            return None
        older = _older_segments(path)
        if older and path.samefile(older[-1]):
            older.pop().unlink()  # the start of another segment was interrupted
        replay, newest = self._read(older)
        self._summary = summary = replay.summary
        base = summary.base
        snapshot = None if base is None else read_snapshot(_snapshot_path(path, base.anchor.index), base)
        if newest is None:
            self._follow_segment()
        else:
            self._go_on(newest)
        return Recovered(
            summary.term, summary.voted_for, tuple(replay.entries), tuple(summary.ended), snapshot
        )

    def _read(self, older: list[Path]) -> tuple[Replay, Batches | None]:
        """Follow every segment; drop those at the beginning that were being deleted."""
        for first in range(len(older) + 1):
            replay = Replay(self._me)
            self._segments.clear()
            try:
                for segment in older[first:]:
                    self._read_segment(replay, segment)
                newest = self._read_segment(replay, self._path)
            except UnknownPlaceError:
                continue  # no cut ends before this segment, so one was interrupted
            with _naming(self._path):
                replay.require_whole()
            for segment in older[:first]:
                _deleted(segment)
            return replay, newest
        raise CorruptStorageError(f"{self._path}: the segments before it are missing")

    def _read_segment(self, replay: Replay, path: Path) -> Batches | None:
        """Follow one segment; return the place behind it if another batch may be written there."""
        with _naming(path), _open(path) as file:
            read = replay.read(file, is_last=path == self._path, space_bytes=SPACE_BYTES)
        if path != self._path and path != self._name_of(read.number):
            raise CorruptStorageError(f"{path}: it is segment {read.number}")
        self._segments.append(_Segment(read.number, path, read.begin, read.lowest))
        self._batches = read.batches
        return read.batches if read.is_clean and read.batches.magic == MAGIC else None

    def _go_on(self, batches: Batches) -> None:
        """Write behind the newest segment's last batch. What was read may not be durable yet."""
        self._batches = batches
        self._file = open_own(self._path, os.O_WRONLY | os.O_DSYNC)
        os.fsync(self._file)
        self._space_end = os.fstat(self._file).st_size

    # ---- segments -----------------------------------------------------------
    def _name_of(self, number: int) -> Path:
        """Return the name of a segment that another one follows."""
        return self._path.with_name(f"{self._path.name}.{number}")

    def _follow_segment(self) -> None:
        """Begin another segment behind the newest one, which keeps a name of its own."""
        newest = self._segments[-1]
        newest.path = self._name_of(newest.number)
        os.link(self._path, newest.path)
        self._begin_segment(newest.number + 1, self._batches.digest)

    def _begin_segment(self, number: int, before: bytes) -> None:
        """Make a segment and put it in the place of the newest; ``before``: the digest that it follows."""
        batches = Batches(secrets.token_bytes(SALT_BYTES))
        fresh = self._path.with_name(self._path.name + STAGED)
        fresh.unlink(missing_ok=True)  # left by a start that was interrupted
        handle = open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            data = file_head(batches.salt) + batches.encode(encode_identity(self._me))
            data += batches.encode(encode_beginning(number, before, self._summary))
            end = _whole_spaces(len(data))
            _write_all(handle, data.ljust(end, b"\0"), 0)
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
        if self._file >= 0:
            os.close(self._file)
        self._file, self._space_end, self._batches = handle, end, batches
        assert self._summary.last is not None
        begin = self._summary.last.index
        self._segments.append(_Segment(number, self._path, begin, begin))

    def _cut(self) -> None:
        """Delete what the log no longer needs behind its base, which is durable."""
        base = self._summary.base
        index = 0 if base is None else base.anchor.index
        firsts = range(1, len(self._segments))
        last = max((at for at in firsts if self._may_begin_with(self._segments[at:], index)), default=0)
        for segment in self._segments[:last]:
            if not _deleted(segment.path):
                return
            self._segments.remove(segment)
        for at, path in _snapshots(self._path):
            if at < index:
                _deleted(path)

    def _delete_strays(self) -> None:
        """Delete the snapshots that no base names: a crash came before."""
        base = self._summary.base
        for _, path in _snapshots(self._path):
            if base is None or path != _snapshot_path(self._path, base.anchor.index):
                _deleted(path)

    @staticmethod
    def _may_begin_with(segments: list[_Segment], index: int) -> bool:
        """Return whether ``segments`` alone lead to every entry above ``index``.

        The first knows the position of the last entry before it, and no earlier one.
        """
        begin = segments[0].begin
        return begin <= index and all(segment.lowest >= begin for segment in segments)

    # ---- writing ------------------------------------------------------------
    def persist(self, records: list[Record]) -> None:
        """Make ``records`` durable, in their order, with one write. Blocking: call it off the event loop.

        Raises:
            OSError: the disk refused. Nothing written after this can be trusted to be durable, so the member
                must stop.
        """
        if self._batches.at >= SEGMENT_BYTES and self._summary.last is not None:
            self._follow_segment()
        at = self._batches.at
        data = self._batches.encode(encode_records(records))
        end = at + len(data)
        if end > self._space_end:
            more = _whole_spaces(end)
            _write_all(self._file, bytes(more - self._space_end), self._space_end)
            self._space_end = more
        _write_all(self._file, data, at)
        self._follow(records)

    def _follow(self, records: list[Record]) -> None:
        """Note what has become durable."""
        newest = self._segments[-1]
        for record in records:
            self._summary.follow(record)
            if isinstance(record, SaveTruncation) and record.index:
                newest.lowest = min(newest.lowest, record.index)
        if any(isinstance(record, SaveBase) for record in records):
            self._cut()

    def store(self, snapshot: Snapshot) -> Generator[None, None, None]:
        """Write ``snapshot`` beside the log in slices, one for each value that is yielded.

        Then it is durable. Only after that may the log name it (``SaveBase``). Blocking: go through it off
        the event loop, and not while ``persist`` runs. Closing it leaves no file.

        Raises:
            OSError: the disk refused it. The log is not concerned.
        """
        return write_snapshot(_snapshot_path(self._path, snapshot.evidence.anchor.index), snapshot)

    def forget_recovered(self) -> None:
        """Let go of what was recovered, once a member has taken it."""
        self.recovered = None

    def close(self) -> None:
        """Close the log and let others open it."""
        if self._file >= 0:
            os.close(self._file)
        os.close(self._lock)


def _snapshot_path(path: Path, index: int) -> Path:
    return path.with_name(f"{path.name}.snapshot.{index}")


def _older_segments(path: Path) -> list[Path]:
    """Return the segments that another one follows, in their order."""
    found = [(_number(other.name, path.name + "."), other) for other in path.parent.iterdir()]
    return [other for number, other in sorted((n, other) for n, other in found if n is not None)]


def _snapshots(path: Path) -> list[tuple[int, Path]]:
    """Return every snapshot of the log at ``path``, whole or not, and the index in its name."""
    prefix = path.name + ".snapshot."
    found = [(_number(other.name.removesuffix(STAGED), prefix), other) for other in path.parent.iterdir()]
    return [(index, other) for index, other in found if index is not None]


def _number(name: str, prefix: str) -> int | None:
    """Return the number that follows ``prefix`` in ``name``; None if it is no such name."""
    digits = name.removeprefix(prefix)
    return int(digits) if name.startswith(prefix) and digits.isascii() and digits.isdigit() else None


def _deleted(path: Path) -> bool:
    """Delete a file that is not needed any more; return whether that worked."""
    try:
        path.unlink()
    except OSError as exc:
        logger.warning("cannot delete %s, which is not needed any more: %s", path, exc.strerror)
        return False
    return True


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_own(path, os.O_RDONLY), "rb")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file a ``CorruptStorageError`` is."""
    try:
        yield
    except UnknownPlaceError:
        raise
    except CorruptStorageError as exc:
        raise CorruptStorageError(f"{path}: {exc}") from exc


def _whole_spaces(end: int) -> int:
    """Return ``end`` rounded up to the next whole multiple of the space that is reserved at a time."""
    return end + -end % SPACE_BYTES


def _write_all(handle: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written
