"""Standing members: an accepted member keeps its bonds for a while when its TCB alone falls back.

On the day of a TCB recovery every member of a group may be OutOfDate at once. If every bond ended with the
verdict, the group could commit nothing any more, and could not repair itself. So there are three verdicts:

    ACCEPTED   the evidence satisfies the whole policy
    STANDING   the peer was accepted earlier in this process, and the only findings now are its TCB status,
               its advisories or the evaluation number
    REFUSED    everything else: strangers, Revoked, measurements, claims, times

The table of accepted peers belongs to one run of one process and is keyed by incarnation: a member that
restarts is a stranger to all others, and a process that restarts has an empty table. So a host cannot start a
new TD on an outdated platform and have it stand.

A standing ends when any one of three clocks has run for the policy's period since the fall: the wall clock
(above its floors), the process's own monotonic clock, the time in the group's log. A host that holds one of
them back gains nothing.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

MEMBERS_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One instant by three clocks.

    Attributes:
        wall: aware UTC, above its floors.
        monotonic_s: seconds of this process that never go back.
        log: the time of the newest entry applied here, aware UTC; None without group state.
    """

    wall: datetime
    monotonic_s: float
    log: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """A member's platform fell back.

    Attributes:
        number: the evaluation data number of the set by which it fell back.
        at: when this process first judged it by that set.
    """

    number: int
    at: Moment


class AcceptedPeer(Protocol):
    @property
    def peer_id(self) -> bytes: ...


class AcceptedMember(Protocol):
    """Evidence that was accepted in full: ``attestation.tickets.store.AcceptedEvidence``."""

    @property
    def peer(self) -> AcceptedPeer: ...
    @property
    def number(self) -> int: ...


class Members(Protocol):
    """The members that a validator lets stand."""

    def standing_until(self, peer_id: bytes, number: int) -> datetime | None:
        """Return until when this peer may stand after a fall by this number; None: not at all."""
        ...


class NoMembers:
    """No member stands: for a verifier that judges a peer once, such as an auditor."""

    def standing_until(self, peer_id: bytes, number: int) -> datetime | None:  # noqa: ARG002
        return None


class MemberTable:
    """The peers accepted in this process, and since when each has fallen back. Safe to use from threads.

    Args:
        period: the policy's ``tcb.standing_days``; zero: no member stands.
        moment: returns the present moment.
    """

    def __init__(self, *, period: timedelta, moment: Callable[[], Moment]) -> None:
        self._period = period
        self._moment = moment
        self._falls: OrderedDict[bytes, Fall | None] = OrderedDict()
        self._lock = threading.Lock()

    def witness(self, evidence: AcceptedMember) -> None:
        """Add a peer whose evidence was accepted in full."""
        self.accepted(evidence.peer.peer_id, evidence.number)

    def accepted(self, peer_id: bytes, number: int) -> None:
        """Record that this incarnation's evidence was accepted in full, under a set of this number.

        That ends a fall, unless the set is older than the one by which the member fell.
        """
        with self._lock:
            fall = self._falls.get(peer_id)
            self._falls[peer_id] = fall if fall is not None and fall.number > number else None
            self._falls.move_to_end(peer_id)
            while len(self._falls) > MEMBERS_MAX:
                self._falls.popitem(last=False)

    def standing_until(self, peer_id: bytes, number: int) -> datetime | None:
        """Return until when, by the wall clock, this peer may stand; None: not a member, or its time is over.

        The first fall counts: another fall by a later set does not begin the period again.
        """
        with self._lock:
            if peer_id not in self._falls or not self._period:
                return None
            now = self._moment()
            fall = self._falls[peer_id] or Fall(number=number, at=now)
            if fall.at.log is None and now.log is not None:
                fall = replace(fall, at=replace(fall.at, log=now.log))
            self._falls[peer_id] = replace(fall, number=max(fall.number, number))
        left = self._left(fall.at, now)
        return now.wall + left if left > timedelta(0) else None

    def _left(self, since: Moment, now: Moment) -> timedelta:
        passed = [now.wall - since.wall, timedelta(seconds=now.monotonic_s - since.monotonic_s)]
        if now.log is not None and since.log is not None:
            passed.append(now.log - since.log)
        return self._period - max(passed)
