"""A group that this node is a member of: the Python API."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from node.bonds.endpoint import BondInfo, GroupBonds
from node.group.driver import MemberDriver
from node.group.errors import (
    CommandFailedError,
    GroupClosedError,
    NotExecutedError,
    OutcomeUnknownError,
)
from node.group.when import Conditions, When
from node.raft.events import Event, Execute, Query, TransferLeadership
from node.raft.types import (
    Answer,
    Applied,
    Consistency,
    Cursor,
    Incarnation,
    MemberStatus,
    NotExecuted,
    Ok,
    Outcome,
    Result,
    Role,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that was committed and applied, with what ``apply`` returned."""

    result: Any
    at: Cursor


class Group:
    """Made by ``GroupBuilder.join``. All calls are for the event loop that made it."""

    def __init__(self, group_id: bytes, driver: MemberDriver, bonds: GroupBonds) -> None:
        self._id = group_id
        self._driver = driver
        self._bonds = bonds
        self._conditions = Conditions(driver.member.status)
        self._closed = False

    # ---- what is ------------------------------------------------------------
    @property
    def id(self) -> bytes:
        return self._id

    @property
    def me(self) -> Incarnation:
        return self._driver.member.me

    @property
    def status(self) -> MemberStatus:
        return self._driver.member.status()

    @property
    def leader(self) -> Incarnation | None:
        return self.status.leader

    @property
    def is_leader(self) -> bool:
        return self.status.role is Role.LEADER

    @property
    def bonds(self) -> list[BondInfo]:
        return self._bonds.bonds()

    @property
    def committed(self) -> Cursor:
        return self.status.commit

    @property
    def log_position(self) -> Cursor:
        return self.status.last

    def when(self) -> When:
        return When(self._conditions, self._driver.member.status, self._driver.member.term_at)

    # ---- what is done -------------------------------------------------------
    async def execute(
        self, command: Any, *, key: bytes | None = None, timeout_s: float | None = None
    ) -> Executed:
        """Execute one command exactly once and return its result after it was committed and applied here.

        Args:
            command: plain CBOR data.
            key: idempotency key: the same key never executes twice while it is remembered.
            timeout_s: give up waiting after so many seconds.

        Raises:
            CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError.
        """
        results, at = await self._execute((command,), key=key, timeout_s=timeout_s)
        return Executed(_value(results[0], at), at)

    async def execute_many(
        self, commands: Sequence[Any], *, key: bytes | None = None, timeout_s: float | None = None
    ) -> list[Executed]:
        """Execute commands as one atomic entry: all of them, or none."""
        results, at = await self._execute(tuple(commands), key=key, timeout_s=timeout_s)
        return [Executed(_value(result, at), at) for result in results]

    async def feed(self, command: Any) -> Cursor:
        """Hand a command in and return where it stands in the log, before it is committed."""
        return await self.feed_many((command,))

    async def feed_many(self, commands: Sequence[Any]) -> Cursor:
        outcome = await self.outcome(lambda token: Execute(token, tuple(commands), None, feed=True))
        if not isinstance(outcome, Ok):
            raise _error_of(outcome)
        return outcome.at

    async def query(
        self,
        query: Any,
        consistency: Consistency = Consistency.STRONG,
        *,
        min_at: Cursor | None = None,
        max_age_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask the state machine.

        STRONG is linearizable on every node; WEAK answers from this node's state at once.

        Raises:
            CommandFailedError: the state machine refuses the query.
            NotExecutedError: no answer could be given (no leader, too old).
        """
        outcome = await self.outcome(
            lambda token: Query(token, query, consistency, min_at, max_age_ms), timeout_s=timeout_s
        )
        match outcome:
            case Answer():
                return outcome
            case Ok(results, at):
                return Answer(_value(results[0], at), at)
            case _:
                raise _error_of(outcome)

    async def transfer_leadership(self, target: Incarnation | None = None) -> None:
        """Ask the leader (which must be this node) to hand over, to ``target`` or to the best voter."""
        outcome = await self.outcome(lambda token: TransferLeadership(token, target))
        if not isinstance(outcome, Ok):
            raise _error_of(outcome)

    def rejudge(self) -> None:
        """Judge every bond's tickets again, as after new collateral."""
        self._bonds.rejudge()

    async def close(self) -> None:
        """Say goodbye to the peers and end; whatever waits raises ``GroupClosedError``."""
        if self._closed:
            return
        self._closed = True
        await self._bonds.depart()
        self.end(GroupClosedError("closed"))

    def end(self, error: Exception) -> None:
        self._driver.close(error)
        self._conditions.close(error)

    def changed(self) -> None:
        """Something about the member changed: look at what waits."""
        self._conditions.changed()

    async def outcome(self, make_event: Callable[[int], Event], *, timeout_s: float | None = None) -> Outcome:
        """Hand an event to the member and return its outcome as a value; for drivers such as the HTTP API.

        After ``timeout_s`` the outcome is ``Unknown("deadline")``. A cancelled call is forgotten.
        """
        token = 0

        def make(number: int) -> Event:
            nonlocal token
            token = number
            return make_event(number)

        future = self._driver.request(make)
        deadline = None
        if timeout_s is not None:
            loop = asyncio.get_running_loop()
            deadline = loop.call_later(timeout_s, self._expire, token, future)
        try:
            return await future
        except asyncio.CancelledError:
            self._driver.forget(token)
            raise
        finally:
            if deadline is not None:
                deadline.cancel()

    def _expire(self, token: int, future: asyncio.Future[Outcome]) -> None:
        if not future.done():
            self._driver.forget(token)
            future.set_result(Unknown("deadline"))

    async def _execute(
        self, commands: tuple[Any, ...], *, key: bytes | None, timeout_s: float | None
    ) -> tuple[tuple[Result, ...], Cursor]:
        outcome = await self.outcome(lambda token: Execute(token, commands, key), timeout_s=timeout_s)
        if not isinstance(outcome, Ok):
            raise _error_of(outcome)
        return outcome.results, outcome.at


def _value(result: Result, at: Cursor) -> Any:
    if isinstance(result, Applied):
        return result.value
    raise CommandFailedError(result.code, result.message, at)


def _error_of(outcome: Outcome) -> Exception:
    match outcome:
        case NotExecuted(reason, leader):
            return NotExecutedError(reason, leader)
        case Unknown(reason):
            return OutcomeUnknownError(reason)
        case Ok() | Answer():
            return AssertionError(f"unexpected outcome {outcome!r}")
        case _:
            assert_never(outcome)
