"""What a member does for the group's leases: it counts the lease clock while it leads, and renews.

Sans-IO: the driver (``upkeep``) tells the time and what was applied, and proposes what ``propose`` returns.
One command is under way at a time, and at most two a second are begun, however many callers renew.
"""

from typing import Any, Final

from msgspec import Struct

from node.machines.kv.leases import EXPIRED_PER_TICK_MAX, LeaseTable

INTERVAL_MS: Final = 500
RENEWED_MAX: Final = 4096  # of one command


class _Reign(Struct):
    """One time of leading: the lease clock showed ``clock_ms`` when this member's clock showed ``at_ms``."""

    term: int
    clock_ms: int
    at_ms: int
    settled_ms: int

    def clock(self, now_ms: int) -> int:
        return self.clock_ms + now_ms - self.at_ms


class LeaseKeeper:
    """Times are in milliseconds, of a clock that never goes back."""

    def __init__(self) -> None:
        self._waiting: dict[int, None] = {}
        self._asked: tuple[int, ...] = ()
        self._under_way = False
        self._not_before_ms = 0
        self._reign: _Reign | None = None

    def renew(self, lease_id: int) -> None:
        """Take a caller's renewal; it goes into one of the next commands."""
        self._waiting[lease_id] = None

    def propose(self, now_ms: int, term: int | None, leases: LeaseTable) -> list[Any] | None:
        """Return the command to propose now, if there is one; ``applied`` or ``failed`` must follow.

        Args:
            now_ms: the present.
            term: of the reign, if this member leads and has applied all that was committed before.
            leases: as this member has applied them.
        """
        reign = self._reign
        if term is None:
            reign = self._reign = None
        elif reign is None or reign.term != term:
            # The clock stood still while nobody led: it goes on from what the group agreed on last.
            reign = self._reign = _Reign(term, leases.clock_ms, now_ms, leases.clock_ms)
        elif not self._under_way and not leases.by_id and not self._waiting:
            # Nothing needs the clock, and no entry is spent on it.
            reign.clock_ms, reign.at_ms, reign.settled_ms = leases.clock_ms, now_ms, leases.clock_ms
            return None
        if self._under_way or now_ms < self._not_before_ms:
            return None
        if not self._waiting and (reign is None or not leases.by_id):
            return None
        self._asked = tuple(self._waiting)[:RENEWED_MAX]
        for lease_id in self._asked:
            del self._waiting[lease_id]
        self._under_way = True
        self._not_before_ms = now_ms + INTERVAL_MS
        if reign is None:
            return ["lease-renew", list(self._asked)]
        return ["lease-tick", reign.term, reign.clock(now_ms), reign.settled_ms, list(self._asked)]

    def applied(self, now_ms: int, result: list[Any]) -> list[tuple[int, int]]:
        """Note what the command came to; return each renewed lease with its TTL in seconds, 0 if it is gone.

        ``now_ms`` is not before this member applied the command, nor before any caller is answered.
        """
        self._under_way = False
        if len(result) == 3:  # a tick
            if self._reign is not None:
                self._reign.settled_ms = self._reign.clock(now_ms)
            if len(result[1]) >= EXPIRED_PER_TICK_MAX:
                self._not_before_ms = now_ms  # more are due
        return list(zip(self._asked, result[-1], strict=True))

    def failed(self) -> tuple[int, ...]:
        """Note that the command was not applied, or that nobody knows; return whose renewals were in it.

        A tick without an answer belongs to a reign that is over: the next one begins anew.
        """
        self._under_way = False
        self._reign = None
        return self._asked
