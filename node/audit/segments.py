"""The files of an audit log.

``audit.jsonl`` is the current file. When it is full it becomes ``audit-000000000001.jsonl``, after the number
of its first event, and a new one is begun. In order, the files are one chain.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from attestation.files import FileError, open_own, open_to_read
from node.audit.chain import LINE_BYTES_MAX, AuditChainError, AuditHead, event_untrusted, head_of
from node.errors import ConfigError

_COPY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A file that is full. ``first_seq`` comes from its name, so it is only a hint."""

    first_seq: int
    path: Path


class SegmentFiles:
    """Finds, names and moves the files of the log at ``path``, without regard to their contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = re.compile(rf"{re.escape(path.stem)}-([0-9]{{12,18}}){re.escape(path.suffix)}", re.ASCII)

    def full(self) -> list[Segment]:
        """Return the full segments, oldest first."""
        found = [(self._name.fullmatch(item.name), item) for item in self.path.parent.iterdir()]
        return sorted(
            (Segment(first_seq=int(match[1]), path=item) for match, item in found if match is not None),
            key=lambda segment: segment.first_seq,
        )

    def lock(self) -> int:
        """Return a descriptor that locks every other process out while it is open: two would break the chain.

        Raises:
            ConfigError: another process holds the lock.
        """
        descriptor = open_own(self._beside("lock"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise ConfigError(f"the audit log {self.path} is in use by another running node") from exc
        return descriptor

    def open_written(self) -> int:
        """Return a descriptor that appends to the current file."""
        return open_own(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def change(self, first_seq: int) -> tuple[Segment, int]:
        """Give the current file the name of a full one. Return it, and the descriptor of a new current file.

        Raises:
            OSError: nothing has changed.
        """
        full = self.path.with_name(f"{self.path.stem}-{first_seq:012}{self.path.suffix}")
        self.path.rename(full)
        try:
            return Segment(first_seq=first_seq, path=full), self.open_written()
        except OSError:
            full.rename(self.path)
            raise

    def copy(self, aside: str, size: int) -> None:
        """Begin the current file with the first ``size`` bytes of one that was put aside."""
        descriptor = self.open_written()
        with open_to_read(self.path.with_name(aside)) as source, os.fdopen(descriptor, "wb") as target:
            while size and (chunk := source.read(min(size, _COPY_BYTES))):
                target.write(chunk)
                size -= len(chunk)

    def reopen_last(self) -> None:
        """Undo an incomplete change of segments, so that there is a current file."""
        if self.path.exists():
            return
        full = self.full()
        if full:
            full[-1].path.replace(self.path)

    def put_aside(self, path: Path) -> str:
        """Rename a file that is not part of the chain, and return its new name."""
        number = 1
        while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
            number += 1
        path.rename(aside)
        return aside.name

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, each at most one byte longer than the limit."""
    with open_to_read(path) as file:
        yield from _lines(file)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    # A longer line comes in parts, and the reader refuses the first.
    while line := file.readline(LINE_BYTES_MAX + 1):
        yield line


def lines_of_log(path: Path) -> Iterator[bytes]:
    """Yield the lines of a whole log. ``path`` is the current file, which a node may be writing."""
    with open_to_read(path) as written, ExitStack() as stack:
        # Open all files before reading any. A file that is renamed meanwhile is then read once. Deleted files
        # are missing only at the beginning, and the event that reports them was written before.
        this = os.fstat(written.fileno())
        opened = []
        for segment in SegmentFiles(path).full():
            try:
                file = stack.enter_context(open_to_read(segment.path))
            except FileError as exc:
                if exc.absent:
                    continue
                raise
            if not os.path.samestat(this, os.fstat(file.fileno())):
                opened.append(file)
        for file in [*opened, written]:
            yield from _lines(file)


def end_of_untrusted(path: Path) -> AuditHead | None:
    """Return the place of a file's last event; None if the file has no event."""
    with open_to_read(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LINE_BYTES_MAX - 1))
        lines = file.read().splitlines(keepends=True)
    if not lines or not lines[-1].endswith(b"\n"):
        return None
    try:
        return head_of(event_untrusted(lines[-1], after=None))
    except AuditChainError:
        return None
