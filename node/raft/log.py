"""The storage of entries. The core reads and writes through ``LogStore`` only."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from node.raft.types import LOG_START, Entry, Position

OVERHEAD_BYTES: Final = 64  # of an entry, besides its payload: somewhat more than on the wire


class LogStore(ABC):
    """A gapless log from index 1. Synchronous and in memory: durability is the driver's (``persist``)."""

    @abstractmethod
    def last(self) -> Position:
        """Return the position of the last entry, ``ORIGIN`` if the log is empty."""

    @abstractmethod
    def position(self, index: int) -> Position:
        """Return the position at ``index``, 0 <= index <= last index."""

    @abstractmethod
    def get(self, index: int) -> Entry:
        """Return the entry at ``index``, 1 <= index <= last index."""

    @abstractmethod
    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return the entries ``first..last`` that fit into ``bytes_max`` of payload, at least one."""

    @abstractmethod
    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""

    @abstractmethod
    def truncate(self, index: int) -> None:
        """Drop every entry above ``index``."""


class MemoryLog(LogStore):
    """The log of a volatile voter: a list."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._last = LOG_START

    def last(self) -> Position:
        return self._last

    def position(self, index: int) -> Position:
        if index == self._last.index:
            return self._last
        return self._position(index)

    def _position(self, index: int) -> Position:
        if index == 0:
            return LOG_START
        entry = self._entries[index - 1]
        return Position(entry.term, entry.index, entry.chain)

    def get(self, index: int) -> Entry:
        assert index >= 1
        return self._entries[index - 1]

    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        taken: list[Entry] = []
        size = 0
        for entry in self._entries[first - 1 : min(last, first - 1 + bytes_max // OVERHEAD_BYTES + 1)]:
            size += len(entry.payload) + OVERHEAD_BYTES
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return tuple(taken)

    def append(self, entries: Sequence[Entry]) -> None:
        assert not entries or entries[0].index == len(self._entries) + 1
        self._entries.extend(entries)
        self._last = self._position(len(self._entries))

    def truncate(self, index: int) -> None:
        del self._entries[index:]
        self._last = self._position(len(self._entries))


def entry_bytes(entry: Entry) -> int:
    """Return about how many bytes ``entry`` takes on the wire."""
    return len(entry.payload) + OVERHEAD_BYTES
