"""Chunks of a snapshot in memory, compressed where that saves something.

A snapshot stays beside the state that it shows until the group has the next one, and peers may never ask for
it. So its chunks are held packed, and unpacked when they are sent, stored or read. Only this member sees
the packed form: digests, messages and files have the chunks as they are.
"""

import zlib
from collections.abc import Iterator
from typing import Final

_LEVEL: Final = 1  # a chunk of 128 KiB takes a millisecond or two; a higher level saves little more
_WORTH: Final = 7  # eighths: a chunk that takes more than these is held as it is
_SKIPPED: Final = 7  # chunks that are not tried after one that did not pack
# They count in whole pages: an exact packed size would show something of the content.
_PAGE_BYTES: Final = 4096


class Chunks:
    """A list of chunks."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._is_packed = bytearray()
        self._size = 0
        self._skip = 0
        self._last_number = -1  # of the chunk that was unpacked last: many reads follow in the same one
        self._last = b""

    def append(self, chunk: bytes) -> None:
        """Add a chunk."""
        held, is_packed = chunk, False
        if self._skip:
            self._skip -= 1
        else:
            packed = zlib.compress(chunk, _LEVEL)
            if len(packed) * 8 <= len(chunk) * _WORTH:
                held, is_packed = packed, True
            else:
                self._skip = _SKIPPED
        self._held.append(held)
        self._is_packed.append(is_packed)
        self._size += len(held)

    @property
    def memory_bytes(self) -> int:
        """How many bytes they take here, in whole pages."""
        return -(-self._size // _PAGE_BYTES) * _PAGE_BYTES

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, number: int) -> bytes:
        if not self._is_packed[number]:
            return self._held[number]
        if self._last_number != number:
            self._last, self._last_number = zlib.decompress(self._held[number]), number
        return self._last

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks in order."""
        for number, held in enumerate(self._held):
            yield zlib.decompress(held) if self._is_packed[number] else held
