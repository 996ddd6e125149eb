"""A TCB recovery in one node's life: since when sets are enforced, and which member would fall back next.

Grace periods count from the group's log, once this node has caught up with it. Before that, without a group,
and for sights that are new to the log, they count from this process's own first sights. The leader writes
first sights to the log, and any other member writes, a moment later, those that the leader has not seen.
Otherwise a platform that shows itself to one member alone would get new grace with each restart of that
member. Every node judges its bonds again when new sights are applied.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Never, Protocol

from attestation.collateral.enforcement import CollateralSet, OwnSights, Sight, first_sight
from node.group.errors import GroupError
from node.machines.system import SystemState
from node.system.tcb import TcbState, command_of, tcb_of

WATCH_S: Final = 5.0
WRITE_S: Final = 5.0

_log = logging.getLogger(__name__)


class RecoveringGroup(Protocol):
    """The part of the group that is used here; ``node.group.group.Group`` is one."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def system(self) -> SystemState: ...
    @property
    def covered_age_ms(self) -> int | None: ...
    async def execute_system(self, commands: list[object], *, timeout_s: float) -> object: ...
    def rejudge(self) -> None: ...


class GroupEnforcement:
    """Since when sets are enforced, as this node knows it. A ``collateral.enforcement.Enforcement``.

    Args:
        now: the node's clock.
        group: the group, once there is one.
    """

    def __init__(self, *, now: Callable[[], datetime], group: Callable[[], RecoveringGroup | None]) -> None:
        self._own = OwnSights()
        self._now = now
        self._group = group

    def saw(self, seen: CollateralSet) -> None:
        """Note that this node judged genuine evidence by this set of its own."""
        self._own.saw(seen, self._now())

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:
        """Return since when a set is enforced that has levels of this date. From any thread.

        A node that has caught up with its group uses the log. Its own sights count beside the log only while
        they are new to it. On the day of a recovery every member has the new set before the leader could
        write that down. If that ended all bonds, nothing could be written any more.
        """
        state = self.state()
        if state is None:
            return self._own.since(fmspc, superseded_at)
        news = [sight for sight in self._own.sights if state.is_news(sight.seen)]
        return first_sight((*state.sights, *news), fmspc, superseded_at)

    def state(self) -> TcbState | None:
        """Return the group's own record; None for a node that never held all of its group's state."""
        group = self._group()
        if group is None or group.covered_age_ms is None:
            return None
        return tcb_of(group.system)

    def unwritten(self) -> list[CollateralSet]:
        """Return the sets that this node has seen and that are not in the group's log."""
        state = self.state()
        if state is None:
            return []
        return [sight.seen for sight in self._own.sights if state.is_news(sight.seen)]


class RecoveryWatch:
    """Keeps the group's record of sights, and has bonds judged again when it changes."""

    def __init__(
        self,
        enforcement: GroupEnforcement,
        *,
        group: Callable[[], RecoveringGroup | None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._enforcement = enforcement
        self._group = group
        self._sleep = sleep
        self._judged_by: tuple[Sight, ...] | None = None
        self._waiting: frozenset[CollateralSet] = frozenset()

    async def run(self) -> Never:
        """Check every few seconds, for as long as the owner lets this run."""
        while True:
            await self.look()
            await self._sleep(WATCH_S)

    async def look(self) -> None:
        """Do what is due now."""
        group = self._group()
        if group is None:
            return
        state = self._enforcement.state()
        sights = None if state is None else state.sights
        if sights != self._judged_by:
            # The node has caught up, or the log has a new sight: grace now counts differently.
            self._judged_by = sights
            group.rejudge()
        unwritten = self._enforcement.unwritten()
        due = unwritten if group.is_leader else [seen for seen in unwritten if seen in self._waiting]
        self._waiting = frozenset(unwritten)
        for seen in due:
            try:
                await group.execute_system([command_of(seen)], timeout_s=WRITE_S)
            except GroupError as exc:
                # Another node leads, or none: the next leader has the same sights to write.
                _log.info("the sighting of evaluation data %d is not written yet: %s", seen.number, exc)
                return
