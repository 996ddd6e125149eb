"""Keys in byte order, in blocks, so that an insertion moves only one block."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import takewhile
from typing import Final

BLOCK_KEYS_MAX: Final = 1024


class SortedKeys:
    """A set of keys that can be walked in order from anywhere. It must not change during a walk."""

    __slots__ = ("_blocks", "_last_of")

    def __init__(self) -> None:
        self._blocks: list[list[bytes]] = []  # no block is empty
        self._last_of: list[bytes] = []  # the last key of each block

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield from block

    def add(self, key: bytes) -> None:
        """Add a key that is not here."""
        if not self._blocks:
            self._blocks.append([key])
            self._last_of.append(key)
            return
        number = min(bisect_left(self._last_of, key), len(self._blocks) - 1)
        block = self._blocks[number]
        insort(block, key)
        if len(block) > BLOCK_KEYS_MAX:
            half = len(block) // 2
            self._blocks[number : number + 1] = [block[:half], block[half:]]
            self._last_of[number : number + 1] = [block[half - 1], block[-1]]
        else:
            self._last_of[number] = block[-1]

    def remove(self, key: bytes) -> None:
        """Remove a key that is here."""
        number = bisect_left(self._last_of, key)
        block = self._blocks[number]
        position = bisect_left(block, key)
        assert block[position] == key
        del block[position]
        if block:
            self._last_of[number] = block[-1]
        else:
            del self._blocks[number], self._last_of[number]

    def from_key(self, key: bytes) -> Iterator[bytes]:
        """Yield every key that is not before ``key``, in order."""
        number = bisect_left(self._last_of, key)
        if number == len(self._blocks):
            return
        block = self._blocks[number]
        yield from block[bisect_left(block, key) :]
        for block in self._blocks[number + 1 :]:
            yield from block

    def between(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """Yield every key from ``start`` on and before ``end``, in order; None: to the last key."""
        keys = self.from_key(start)
        return keys if end is None else takewhile(end.__gt__, keys)

    def count(self, start: bytes, end: bytes | None) -> int:
        """Return how many keys ``between`` yields, without walking them."""
        first, place = self._place(start)
        if end is None:
            return sum(map(len, self._blocks[first:])) - place
        if end <= start:
            return 0
        last, behind = self._place(end)
        return sum(map(len, self._blocks[first:last])) + behind - place

    def _place(self, key: bytes) -> tuple[int, int]:
        """Return the block of the first key that is not before ``key``, and its place there."""
        number = bisect_left(self._last_of, key)
        if number == len(self._blocks):
            return number, 0
        return number, bisect_left(self._blocks[number], key)
