"""Large values that nobody needs any more, freed in small steps.

The interpreter frees a value in one go when its last reference ends. For a state of a million keys that takes
longer than a step may. Here the references end one after the other: whatever only this place still refers to
is taken apart, and whatever anybody else refers to is let go as it is. So nobody can notice it.
"""

from collections import deque
from collections.abc import Iterable
from sys import getrefcount
from typing import Any, Final

_TAKEN_PER_STEP: Final = 1024  # values; about a millisecond
_LEAVES: Final = frozenset({bytes, str, int, bool, float, type(None)})


class Freeing:
    """Values that wait to be freed."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    @property
    def is_waiting(self) -> bool:
        """Whether something is left to be freed."""
        return bool(self._waiting)

    def add(self, value: Any) -> None:
        """Take a value, to which the caller does not refer any more when ``work`` is called next."""
        self._waiting.append(value)

    def work(self) -> None:
        """Free some of what waits."""
        left = _TAKEN_PER_STEP
        while self._waiting and left > 0:
            if _references(self._waiting) > _ALONE:
                self._waiting.pop()  # somebody else refers to it
                left -= 1
            else:
                left -= self._take_apart(left)

    def _take_apart(self, left: int) -> int:
        """Take the last value apart, or its first ``left`` parts; return how many values were taken."""
        value = self._waiting.pop()
        kind = type(value)
        if kind is dict:
            parts = [part for _ in range(min(left, len(value))) for part in value.popitem()]
        elif kind in (list, set, deque):
            parts = [value.pop() for _ in range(min(left, len(value)))]
        elif kind is tuple:
            parts, value = value, None
        else:
            parts, value = attributes_of(value), None
        if value:
            self._waiting.append(value)
        taken = 1 + len(parts)
        self._waiting += [part for part in parts if type(part) not in _LEAVES]
        return taken


def _references(values: list[Any]) -> int:
    """Return how many references the last value has, as this function counts them."""
    return getrefcount(values[-1])


_ALONE: Final = _references([object()])  # of a value to which nothing but the list refers


def attributes_of(value: Any) -> list[Any]:
    """Return what an object refers to; nothing if it hides its attributes."""
    names: Iterable[str] = getattr(type(value), "__struct_fields__", ())
    found = [getattr(value, name) for name in names]
    found += getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        if isinstance(slots, tuple):
            found += [getattr(value, name) for name in slots if hasattr(value, name)]
    return found
