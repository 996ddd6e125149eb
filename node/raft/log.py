"""The storage of entries. The core reads and writes through ``LogStore`` only."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from node.raft.types import LOG_START, Entry, Position

OVERHEAD_BYTES: Final = 64  # of an entry, besides its payload: somewhat more than on the wire


class LogStore(ABC):
    """A gapless log, from index 1 or from behind its base. The driver makes it durable (``persist``).

    The base is the position before the first entry: everything up to it is committed, and was cut off or
    never came, because a snapshot has what it led to.
    """

    @property
    @abstractmethod
    def base(self) -> Position:
        """The position before the first entry: ``LOG_START`` at first."""

    @property
    @abstractmethod
    def size(self) -> int:
        """About how many bytes the entries take."""

    @property
    @abstractmethod
    def taken(self) -> int:
        """About how many bytes all entries took that were appended since the start, or the last restart."""

    @abstractmethod
    def last(self) -> Position:
        """Return the position of the last entry, the base if the log has no entry."""

    @abstractmethod
    def last_ms(self) -> int:
        """Return the time of the last entry, or that of the base; 0 for ``LOG_START``."""

    @abstractmethod
    def position(self, index: int) -> Position:
        """Return the position at ``index``, base index <= index <= last index."""

    @abstractmethod
    def get(self, index: int) -> Entry:
        """Return the entry at ``index``, base index < index <= last index."""

    @abstractmethod
    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return the entries ``first..last`` that fit into ``bytes_max`` of payload, at least one."""

    @abstractmethod
    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""

    @abstractmethod
    def truncate(self, index: int) -> None:
        """Drop every entry above ``index``, which is not below the base."""

    @abstractmethod
    def prune(self, index: int) -> None:
        """Drop every entry up to ``index``, which becomes the base; base index <= index <= last index."""

    @abstractmethod
    def restart(self, base: Position, time_ms: int) -> None:
        """Drop every entry, and go on behind ``base``, whose entry has the time ``time_ms``."""


class MemoryLog(LogStore):
    """The log of a volatile voter: a list."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._base = LOG_START
        self._base_ms = 0
        self._last = LOG_START
        self._size = self._taken = 0

    @property
    def base(self) -> Position:
        return self._base

    @property
    def size(self) -> int:
        return self._size

    @property
    def taken(self) -> int:
        return self._taken

    def last(self) -> Position:
        return self._last

    def last_ms(self) -> int:
        return self._entries[-1].time_ms if self._entries else self._base_ms

    def position(self, index: int) -> Position:
        if index == self._last.index:
            return self._last
        return self._position(index)

    def _position(self, index: int) -> Position:
        if index == self._base.index:
            return self._base
        entry = self.get(index)
        return Position(entry.term, entry.index, entry.chain)

    def get(self, index: int) -> Entry:
        at = index - self._base.index - 1
        assert at >= 0
        return self._entries[at]

    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        taken: list[Entry] = []
        size = 0
        start = first - self._base.index - 1
        assert start >= 0
        end = min(last - self._base.index, start + bytes_max // OVERHEAD_BYTES + 1)
        for entry in self._entries[start:end]:
            size += len(entry.payload) + OVERHEAD_BYTES
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return tuple(taken)

    def append(self, entries: Sequence[Entry]) -> None:
        assert not entries or entries[0].index == self._last.index + 1
        self._entries.extend(entries)
        size = OVERHEAD_BYTES * len(entries)
        for entry in entries:  # most often one
            size += len(entry.payload)
        self._size += size
        self._taken += size
        self._find_last()

    def truncate(self, index: int) -> None:
        at = index - self._base.index
        assert at >= 0
        self._size -= sum(map(entry_bytes, self._entries[at:]))
        del self._entries[at:]
        self._find_last()

    def prune(self, index: int) -> None:
        count = index - self._base.index
        if count <= 0:
            return
        cut = self._entries[:count]
        self._base, self._base_ms = self._position(index), cut[-1].time_ms
        self._size -= sum(map(entry_bytes, cut))
        del self._entries[:count]

    def restart(self, base: Position, time_ms: int) -> None:
        self._entries.clear()
        self._base, self._base_ms = base, time_ms
        self._size = self._taken = 0
        self._find_last()

    def _find_last(self) -> None:
        if self._entries:
            entry = self._entries[-1]
            self._last = Position(entry.term, entry.index, entry.chain)
        else:
            self._last = self._base


def entry_bytes(entry: Entry) -> int:
    """Return about how many bytes ``entry`` takes on the wire."""
    return len(entry.payload) + OVERHEAD_BYTES
