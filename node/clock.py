"""The node's wall clock: the host's, but never before what is known to have passed.

The host owns the clock. Setting it forward only ends trust early; setting it back would revive expired
collateral and tickets. So ``now`` is never earlier than the image's build date, the newest issue date in any
collateral seen, or what a majority of the bonded peers say minus a tolerance (``attestation.freshness``).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from attestation.freshness import clock_floor, effective_now

# When this version was made: no honest clock is before it. An image sets its own, later date.
RELEASED: Final = datetime(2026, 11, 22, tzinfo=UTC)
PEERS_MAX: Final = 64


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
        self._peers: dict[bytes, tuple[datetime, float]] = {}
        self._newest_issue: Callable[[], datetime | None] = _none_seen

    def follow(self, newest_issue: Callable[[], datetime | None]) -> None:
        """Take the newest issue date seen from there."""
        self._newest_issue = newest_issue

    def heard(self, peer_id: bytes, said: datetime) -> None:
        """A peer's fresh, attested evidence said that it is this time.

        It stays true when the bond ends: time only goes on.
        """
        self._peers.pop(peer_id, None)
        self._peers[peer_id] = (said, self._monotonic_s())
        while len(self._peers) > PEERS_MAX:
            del self._peers[next(iter(self._peers))]

    def now(self) -> datetime:
        """Return the time to judge by, aware UTC."""
        here = self._monotonic_s()
        floor = clock_floor(
            build_date=self._build_date,
            newest_issue=self._newest_issue(),
            peer_clocks=[said + timedelta(seconds=here - heard) for said, heard in self._peers.values()],
        )
        return effective_now(self._wall(), floor)


def _none_seen() -> datetime | None:
    return None
