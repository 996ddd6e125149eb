"""What became of a change: each outcome has the collection's ``version`` afterwards, and ``effect``."""

from dataclasses import dataclass
from typing import Generic, NewType, TypeVar

K = TypeVar("K")
V = TypeVar("V")

Version = NewType("Version", int)
"""Index of the last entry of the group's log that changed the collection; it grows with every change."""


@dataclass(frozen=True, slots=True)
class PriorityEntry(Generic[K, V]):
    """One entry of a priority queue."""

    key: K
    priority: int
    value: V


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    version: of the collection afterwards; a reader that has reached it shows this change.
    """

    version: Version

    @property
    def effect(self) -> bool:
        """Whether the change did what it names."""
        return True


@dataclass(frozen=True, slots=True)
class Written(Outcome):
    """The key, or the cell, now holds the value. ``replaced``: it held one before."""

    replaced: bool


@dataclass(frozen=True, slots=True)
class Extended(Outcome):
    """Keys or elements that were not there before, and keys whose value was replaced."""

    added: int
    replaced: int = 0

    @property
    def effect(self) -> bool:
        return self.added + self.replaced > 0


@dataclass(frozen=True, slots=True)
class Exchanged(Outcome, Generic[V]):
    """``actual``: what it held instead of the expected value; None if it held nothing, or was exchanged."""

    swapped: bool
    actual: V | None

    @property
    def effect(self) -> bool:
        return self.swapped


@dataclass(frozen=True, slots=True)
class WrittenOnce(Outcome, Generic[V]):
    """``value``: what the once holds now, for ever: the written value, or the one that was first."""

    written: bool
    value: V

    @property
    def effect(self) -> bool:
        return self.written


@dataclass(frozen=True, slots=True)
class Popped(Outcome, Generic[V]):
    """``found``: there was something to take; then ``value`` is what was taken."""

    found: bool
    value: V | None

    @property
    def effect(self) -> bool:
        return self.found


@dataclass(frozen=True, slots=True)
class Removed(Outcome):
    """How many items were removed. ``more``: of a range, whether another call has to remove the rest."""

    count: int
    more: bool = False

    @property
    def effect(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True)
class Pushed(Outcome):
    """The length afterwards, and how many values were pushed."""

    length: int
    count: int

    @property
    def effect(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True)
class Placed(Outcome):
    """``placed``: the position, or the key, was there (a vec's insert also takes the position at the end)."""

    placed: bool

    @property
    def effect(self) -> bool:
        return self.placed


@dataclass(frozen=True, slots=True)
class Enqueued(Outcome):
    """What a push made of a priority queue.

    Attributes:
        kept: how many of the pushed keys are in the queue afterwards; a full queue may drop them at once.
        replaced: how many pushed keys were in the queue before.
        evicted: how many entries a full queue dropped.
        length: of the queue afterwards.
    """

    kept: int
    replaced: int
    evicted: int
    length: int

    @property
    def effect(self) -> bool:
        return self.kept > 0
