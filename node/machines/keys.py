"""The keys that a command or a query touches; access to key prefixes is judged by them."""

from typing import Final

from msgspec import Struct

_LAST: Final = 0xFF


class KeyRange(Struct, frozen=True):
    """The keys from ``start`` up to ``end``, exclusive; an ``end`` of None is behind every key."""

    start: bytes
    end: bytes | None

    @classmethod
    def of_key(cls, key: bytes) -> "KeyRange":
        """Return the range with this one key."""
        return cls(key, key + b"\x00")

    @classmethod
    def of_prefix(cls, prefix: bytes) -> "KeyRange":
        """Return the range of every key that begins with ``prefix``; the empty one is every key."""
        return cls(prefix, _behind_prefix(prefix))

    def within(self, prefix: bytes) -> bool:
        """Return whether every key in this range begins with ``prefix``."""
        if not prefix:
            return True
        if not self.start.startswith(prefix):
            return False
        behind = _behind_prefix(prefix)
        return behind is None or (self.end is not None and self.end <= behind)


def _behind_prefix(prefix: bytes) -> bytes | None:
    """Return the first key behind all that begin with ``prefix``; None if no key is behind them."""
    kept = prefix.rstrip(bytes((_LAST,)))
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else None


class Touched(Struct, frozen=True):
    """What a command or query touches.

    Attributes:
        reads: every key whose present or past value the result may show.
        writes: every key that may be changed.
    """

    reads: tuple[KeyRange, ...] = ()
    writes: tuple[KeyRange, ...] = ()
