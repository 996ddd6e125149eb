"""Waits for conditions of a group.

Every method returns an awaitable. If the group ends first, it raises ``GroupClosedError``: none hangs.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from node.group.errors import GroupClosedError, SupersededError
from node.peers import Incarnation
from node.raft.types import Cursor, MemberStatus, Role

T = TypeVar("T")


class Conditions:
    """Predicates over a member's status, checked whenever the member changed."""

    def __init__(self, status: Callable[[], MemberStatus]) -> None:
        self._status = status
        self._waiting: list[tuple[Callable[[MemberStatus], Any], asyncio.Future[Any]]] = []
        self._closed: str | None = None

    def wait(self, predicate: Callable[[MemberStatus], Any]) -> asyncio.Future[Any]:
        """Return a future of the predicate's first value that is not None."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed is not None:
            future.set_exception(GroupClosedError(self._closed))
        elif not _settle(future, predicate, self._status()):
            self._waiting.append((predicate, future))
        return future

    def changed(self) -> None:
        """Check all predicates again."""
        if not self._waiting:
            return
        status = self._status()
        still = []
        for predicate, future in self._waiting:
            if not future.done() and not _settle(future, predicate, status):
                still.append((predicate, future))
        self._waiting = still

    def close(self, reason: str) -> None:
        """Let every waiting future raise ``GroupClosedError``."""
        self._closed = reason
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(GroupClosedError(reason))
                future.exception()  # retrieved here: a waiter that went away causes no warning
        self._waiting.clear()


def _settle(
    future: asyncio.Future[Any], predicate: Callable[[MemberStatus], Any], status: MemberStatus
) -> bool:
    """Return whether the future is done now. A predicate that raises ends the wait, and not the member."""
    try:
        value = predicate(status)
    except Exception as exc:  # noqa: BLE001 - the caller receives it
        future.set_exception(exc)
        return True
    if value is None:
        return False
    future.set_result(value)
    return True


class CursorWatcher:
    """Watches one cursor: the end of the log, or the last committed entry."""

    def __init__(
        self,
        conditions: Conditions,
        cursor_of: Callable[[MemberStatus], Cursor],
        status: Callable[[], MemberStatus],
        term_at: Callable[[int], int | None] | None = None,
    ) -> None:
        self._conditions = conditions
        self._cursor_of = cursor_of
        self._status = status
        self._term_at = term_at

    def changed(self) -> asyncio.Future[Cursor]:
        """Resolve with the cursor when it differs from its present value."""
        start = self._cursor_of(self._status())
        return self._conditions.wait(lambda s: c if (c := self._cursor_of(s)) != start else None)

    def advanced(self) -> asyncio.Future[Cursor]:
        """Resolve with the cursor when its index is higher than at present."""
        start = self._cursor_of(self._status())
        return self._conditions.wait(lambda s: c if (c := self._cursor_of(s)).index > start.index else None)

    def reaches(self, target: Cursor | int) -> asyncio.Future[Cursor]:
        """Resolve when the index is at least the target's.

        Raises (from the future):
            SupersededError: the target is a cursor, and another term's entry was committed there.
        """
        index = target if isinstance(target, int) else target.index

        def reached(status: MemberStatus) -> Cursor | None:
            cursor = self._cursor_of(status)
            if cursor.index < index:
                return None
            if isinstance(target, Cursor) and self._term_at is not None:
                term = self._term_at(index)
                if term is not None and term != target.term:
                    raise SupersededError(target, Cursor(term, index))
            return cursor

        return self._conditions.wait(reached)


class When:
    """The conditions, as in ``group.when().leader_elected()``."""

    def __init__(
        self,
        conditions: Conditions,
        status: Callable[[], MemberStatus],
        term_at: Callable[[int], int | None],
    ) -> None:
        self._conditions = conditions
        self._status = status
        self._term_at = term_at

    def leader_elected(self) -> asyncio.Future[Incarnation]:
        """Resolve with the leader, at once if there is one."""
        return self._conditions.wait(lambda s: s.leader)

    def leader_changed(self) -> asyncio.Future[Incarnation]:
        """Resolve with the next leader that is not the present one."""
        present = self._status().leader
        return self._conditions.wait(lambda s: s.leader if s.leader != present else None)

    def leader_is(self, peer: Incarnation) -> asyncio.Future[Incarnation]:
        return self._conditions.wait(lambda s: s.leader if s.leader == peer else None)

    def is_leader(self) -> asyncio.Future[bool]:
        return self._conditions.wait(lambda s: True if s.role is Role.LEADER else None)

    def is_follower(self) -> asyncio.Future[bool]:
        """Resolve when this node follows a leader, as a voter or as a learner."""
        return self._conditions.wait(
            lambda s: True if s.role in (Role.FOLLOWER, Role.LEARNER) and s.leader is not None else None
        )

    def online(self) -> asyncio.Future[bool]:
        """Resolve when a leader is known and this node's log is in step with it."""
        return self._conditions.wait(lambda s: True if s.online else None)

    def offline(self) -> asyncio.Future[bool]:
        return self._conditions.wait(lambda s: None if s.online else True)

    def log(self) -> CursorWatcher:
        """Watch the end of the log, which may still move back."""
        return CursorWatcher(self._conditions, lambda s: s.last, self._status)

    def committed(self) -> CursorWatcher:
        """Watch the committed cursor, which never moves back."""
        return CursorWatcher(self._conditions, lambda s: s.commit, self._status, self._term_at)

    def holds(self, condition: Callable[[MemberStatus], T | None]) -> asyncio.Future[T]:
        """Resolve with the condition's first value that is not None.

        The condition is called with the member's status each time the member may have changed, its applied
        state too. It must be quick and change nothing. If it raises, the future raises that.
        """
        return self._conditions.wait(condition)
