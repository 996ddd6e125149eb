"""The node's wall clock: the host's, but never earlier than a time that is known to have passed.

The host owns the clock. Setting it forward only ends trust early; setting it back would revive expired
collateral and tickets. So ``now`` is never earlier than the image's build date, the newest issue date in any
collateral seen, or the time that a majority of the peers' platforms report minus a tolerance
(``attestation.collateral.freshness``).

A vote belongs to a *platform*, as Intel certifies it in the PCK, so a host that starts five TDs on one
machine has one vote. Two risks remain. A host with more machines than all others has more votes, and can set
the clock forward, which ends trust early. And where all honest peers run on a host's machines, that host can
leave the clock behind by as much as the issue dates and the build date allow, as it can with a node alone.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from attestation.collateral.freshness import clock_floor, effective_now
from attestation.tickets.store import AcceptedEvidence

# When this version was made: no honest clock is before that. An image sets its own, later date.
RELEASED: Final = datetime(2026, 11, 22, tzinfo=UTC)
PLATFORMS_MAX: Final = 64


class NodeClock:
    """Answers ``now`` for every check of this node.

    Args:
        wall: the host's clock, aware UTC.
        monotonic_s: seconds that never go back.
        build_date: when the image was built, measured with it.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], datetime],
        monotonic_s: Callable[[], float],
        build_date: datetime,
    ) -> None:
        self._wall = wall
        self._monotonic_s = monotonic_s
        self._build_date = build_date
        self._platforms: dict[bytes, tuple[datetime, float]] = {}
        self._lock = threading.Lock()
        self._newest_issue: Callable[[], datetime | None] = _none_seen

    def follow(self, newest_issue: Callable[[], datetime | None]) -> None:
        """Use this source of the newest issue date seen."""
        self._newest_issue = newest_issue

    def witness(self, accepted: AcceptedEvidence) -> None:
        """Use the time that fresh, accepted evidence reports. From any thread.

        Evidence that is judged again reports when it was made, not the present time.
        """
        if accepted.peer.fresh:
            self.reported(accepted.platform_id, accepted.quoted_at)

    def reported(self, platform_id: bytes, at: datetime) -> None:
        """Note the time that a platform's attested clock reports. It stays valid: time only goes on."""
        with self._lock:
            self._platforms.pop(platform_id, None)
            self._platforms[platform_id] = (at, self._monotonic_s())
            while len(self._platforms) > PLATFORMS_MAX:
                del self._platforms[next(iter(self._platforms))]

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return self._monotonic_s()

    def now(self) -> datetime:
        """Return the time to judge by, aware UTC."""
        with self._lock:
            here = self._monotonic_s()
            reports = list(self._platforms.values())
        floor = clock_floor(
            build_date=self._build_date,
            newest_issue=self._newest_issue(),
            peer_clocks=[at + timedelta(seconds=here - reported) for at, reported in reports],
        )
        return effective_now(self._wall(), floor)


def _none_seen() -> datetime | None:
    return None
