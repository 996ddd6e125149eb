"""Which watchers want a key: found without asking each of them."""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from node.machines.keys import KeyRange

Watcher = TypeVar("Watcher")
# The first possible key. A watch of everything begins with it, or with the empty text.
_FIRST_KEY: Final = b"\x00"


def prefix_of(start: bytes, end: bytes | None) -> bytes | None:
    """Return the prefix that all keys of this range share, and no other key has; None if there is none."""
    if end is None:
        return b"" if start in (b"", _FIRST_KEY) else None
    return start if start and end == KeyRange.of_prefix(start).end else None


class Interest(Generic[Watcher]):
    """Watchers by what they watch: one key, a prefix, or another range.

    Ranges that are no prefix are compared one by one, so whoever admits them must bound their number.
    """

    def __init__(self) -> None:
        # Dictionaries, not sets: the order of watchers is that in which they came.
        self._keys: dict[bytes, dict[Watcher, None]] = {}
        self._prefixes: dict[bytes, dict[Watcher, None]] = {}
        self._lengths: dict[int, int] = {}  # how many prefixes have this length
        self._sorted_lengths: list[int] = []
        self._ranges: dict[tuple[bytes, bytes | None], dict[Watcher, None]] = {}

    def add(self, watcher: Watcher, start: bytes, end: bytes | None) -> None:
        """Note that ``watcher`` wants ``start <= key < end``."""
        if end == start + _FIRST_KEY:
            self._keys.setdefault(start, {})[watcher] = None
            return
        prefix = prefix_of(start, end)
        if prefix is None:
            self._ranges.setdefault((start, end), {})[watcher] = None
            return
        if prefix not in self._prefixes:
            self._prefixes[prefix] = {}
            self._count_length(len(prefix), 1)
        self._prefixes[prefix][watcher] = None

    def remove(self, watcher: Watcher, start: bytes, end: bytes | None) -> None:
        """Forget what ``add`` noted with the same arguments."""
        if end == start + _FIRST_KEY:
            _discard(self._keys, start, watcher)
            return
        prefix = prefix_of(start, end)
        if prefix is None:
            _discard(self._ranges, (start, end), watcher)
        elif _discard(self._prefixes, prefix, watcher):
            self._count_length(len(prefix), -1)

    def of(self, key: bytes) -> Iterator[Watcher]:
        """Yield every watcher that wants ``key``."""
        yield from self._keys.get(key, ())
        for length in self._sorted_lengths:
            if length > len(key):
                break
            yield from self._prefixes.get(key[:length], ())
        for (start, end), watchers in self._ranges.items():
            if start <= key and (end is None or key < end):
                yield from watchers

    def _count_length(self, length: int, change: int) -> None:
        count = self._lengths.get(length, 0) + change
        if count:
            self._lengths[length] = count
        else:
            del self._lengths[length]
        if count == 0 or (count == 1 and change == 1):
            self._sorted_lengths = sorted(self._lengths)


_Place = TypeVar("_Place")


def _discard(places: dict[_Place, dict[Watcher, None]], place: _Place, watcher: Watcher) -> bool:
    """Remove a watcher from its place; return whether the place is gone with it."""
    watchers = places[place]
    del watchers[watcher]
    if watchers:
        return False
    del places[place]
    return True
