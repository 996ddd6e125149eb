"""The files of an audit log.

``audit.jsonl`` is being written; when it is full it becomes ``audit-000000000001.jsonl``, after the number of
its first event, and a new one is begun. Put together in order, they are one chain.
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
    """A file that is full. ``first_seq`` comes from its name, and so is a hint."""

    first_seq: int
    path: Path


class SegmentFiles:
    """Finds, names and moves the files of the log at ``path``; knows nothing of what is in them."""

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
        """Return a descriptor that keeps every other process out while it is open: two would break the chain.

        Raises:
            ConfigError: another process has it.
        """
        descriptor = open_own(self._beside("lock"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise ConfigError(f"the audit log {self.path} is in use by another running node") from exc
        return descriptor

    def open_written(self) -> int:
        """Return a descriptor that appends to the file that is written."""
        return open_own(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def change(self, first_seq: int) -> tuple[Segment, int]:
        """Give the file that was written the name of a full one, and return it and a new one's descriptor.

        Raises:
            OSError: all is as it was.
        """
        full = self.path.with_name(f"{self.path.stem}-{first_seq:012}{self.path.suffix}")
        self.path.rename(full)
        try:
            return Segment(first_seq=first_seq, path=full), self.open_written()
        except OSError:
            full.rename(self.path)
            raise

    def copy(self, aside: str, size: int) -> None:
        """Begin the file that is written with the first ``size`` bytes of one that was put aside."""
        descriptor = self.open_written()
        with open_to_read(self.path.with_name(aside)) as source, os.fdopen(descriptor, "wb") as target:
            while size and (chunk := source.read(min(size, _COPY_BYTES))):
                target.write(chunk)
                size -= len(chunk)

    def reopen_last(self) -> None:
        """Undo a change of segments that did not come to its end: there must be a file that is written."""
        if self.path.exists():
            return
        full = self.full()
        if full:
            full[-1].path.replace(self.path)

    def put_aside(self, path: Path) -> str:
        """Rename a file that is no part of the chain, and return its new name."""
        number = 1
        while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
            number += 1
        path.rename(aside)
        return aside.name

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, none of them longer than the limit by more than a byte."""
    with open_to_read(path) as file:
        yield from _lines(file)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    # A longer line comes in parts, of which the first is refused.
    while line := file.readline(LINE_BYTES_MAX + 1):
        yield line


def lines_of_log(path: Path) -> Iterator[bytes]:
    """Yield the lines of a whole log, given the path of the file that is written, perhaps at this moment."""
    with open_to_read(path) as written, ExitStack() as stack:
        # Open all before reading any: a file that is renamed meanwhile is read once, and deleted ones are
        # missing at the beginning only, after the event that says so was written.
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
    """Return the place of a file's last event; None if there is none."""
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
