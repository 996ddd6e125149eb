"""Since when a set of collateral has been enforced: the start of a grace period.

Intel promotes a TCB recovery to the standard set about a year after the dates of its levels, so a grace
period from those dates would be over before it begins. It counts from *first sight*: the time when the
verifier first had a set that contains the newer level. The host could delete a record of that time from the
disk, and grace would begin again; so the members of a group take it from their log (``node.system.tcb``).

A later set does not begin the grace of an earlier one again: it counts from the first sight of any set whose
newest level is at least as new as the one that superseded the platform's.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

SIGHTS_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralSet:
    """What is remembered of one of Intel's sets of a platform model.

    Attributes:
        fmspc: 6 bytes.
        number: evaluation data number.
        newest_level: the latest tcbDate of any level in it, aware UTC, whole seconds.
    """

    fmspc: bytes
    number: int
    newest_level: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """When a set was first seen."""

    seen: CollateralSet
    at: datetime


class Enforcement(Protocol):
    """A record of since when sets have been enforced."""

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:
        """Return since when a set with levels of this date is enforced; None: unknown, so no grace."""
        ...


class UnknownEnforcement:
    """Nothing is known, so no platform is in grace."""

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class EnforcedSince:
    """Every set counts as enforced since this date: for a verifier that judges once and is given the date."""

    at: datetime

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:  # noqa: ARG002
        return self.at


def first_sight(sights: Iterable[Sight], fmspc: bytes, superseded_at: datetime) -> datetime | None:
    """Return the first sight of any set with a level at least as new as ``superseded_at``."""
    times = [
        sight.at for sight in sights if sight.seen.fmspc == fmspc and sight.seen.newest_level >= superseded_at
    ]
    return min(times, default=None)


class OwnSights:
    """The sets that this process itself has seen since it started. Safe to use from threads."""

    def __init__(self) -> None:
        self._sights: OrderedDict[tuple[bytes, int], Sight] = OrderedDict()
        self._lock = threading.Lock()

    def saw(self, seen: CollateralSet, at: datetime) -> None:
        """Record that genuine evidence was judged by this set of our own. The first time counts."""
        with self._lock:
            self._sights.setdefault((seen.fmspc, seen.number), Sight(seen=seen, at=at))
            while len(self._sights) > SIGHTS_MAX:
                self._sights.popitem(last=False)

    @property
    def sights(self) -> tuple[Sight, ...]:
        with self._lock:
            return tuple(self._sights.values())

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:
        return first_sight(self.sights, fmspc, superseded_at)
