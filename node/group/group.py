"""A group that this node is a member of: the Python API."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, assert_never

from attestation.background import Background
from attestation.tickets.protocol import Cluster
from node.bonds.endpoint import BondInfo, BondMesh
from node.group.driver import MemberDriver
from node.group.errors import (
    AlreadyExecutedError,
    CommandFailedError,
    NotExecutedError,
    OutcomeUnknownError,
)
from node.group.when import Conditions, When
from node.machines.base import StateMachine
from node.machines.system import SystemState
from node.peers import Incarnation
from node.raft.budget import MemoryStatus
from node.raft.events import ChangeVersion, Execute, Query, Recover, RemoveMember, TransferLeadership
from node.raft.member import Member
from node.raft.outlook import UNKNOWN, Outlook
from node.raft.quorum import Config
from node.raft.types import (
    BATCH_ABORTED,
    AlreadyExecuted,
    Answer,
    Applied,
    Consistency,
    Cursor,
    Failed,
    KeyUse,
    Leading,
    MemberStatus,
    NotExecuted,
    Ok,
    Outcome,
    Position,
    Role,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that was committed and applied, with what ``apply`` returned."""

    result: Any
    at: Cursor


def cluster_of(member: Member) -> Cluster | None:
    """Return the cluster that the member may claim in its evidence."""
    held = member.held_cluster
    return None if held is None else _cluster_with(held, member.held_generation)


@lru_cache(maxsize=1)  # every answer of the API names it
def _cluster_with(cluster_id: bytes, generation: int) -> Cluster:
    return Cluster(id=cluster_id, generation=generation)


class Group:
    """Made by ``GroupBuilder.join``. All calls must come from the event loop that made it."""

    def __init__(
        self, group_id: bytes, driver: MemberDriver, bonds: BondMesh, *, background: Background
    ) -> None:
        self._id = group_id
        self._driver = driver
        self._bonds = bonds
        self._background = background
        self._conditions = Conditions(driver.member.status)
        self._leaving: asyncio.Task[None] | None = None
        self._followers: list[Callable[[], None]] = []

    # ---- state ------------------------------------------------------------
    @property
    def id(self) -> bytes:
        return self._id

    @property
    def me(self) -> Incarnation:
        return self._driver.member.me

    @property
    def status(self) -> MemberStatus:
        status = self._driver.member.status()
        if self.closed is None:
            return status
        # It is no longer a part of the group, whatever its role was when it ended.
        halted = status.halted or self.closed
        return replace(status, role=Role.FOLLOWER, leader=None, online=False, halted=halted, match={})

    @property
    def configs(self) -> tuple[Config, ...]:
        """The last configuration that this node knows to be committed, and those proposed after it."""
        return self._driver.member.configs

    @property
    def leading(self) -> Leading | None:
        """What this node knows of the other members if it leads the group; otherwise None."""
        return None if self.closed is not None else self._driver.member.leading()

    @property
    def cluster(self) -> Cluster | None:
        """The cluster of which this member holds a committed entry; None while it holds none."""
        return cluster_of(self._driver.member)

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

    @property
    def log_time(self) -> datetime | None:
        """The time of the newest entry that was applied on this node, aware UTC; None without group state."""
        if self.cluster is None:
            return None
        return datetime.fromtimestamp(self._driver.member.replica.applied_ms / 1000, UTC)

    @property
    def machine(self) -> StateMachine:
        """The state machine as this node has applied it: to be read, never changed.

        After this node's cluster gave itself up, this is in another state.
        """
        return self._driver.member.replica.machine

    @property
    def system(self) -> SystemState:
        """The system state as this node has applied it: to be read, never changed.

        After this node's cluster gave itself up, this is another object.
        """
        return self._driver.member.replica.system

    @property
    def outlook(self) -> Outlook:
        """What this node knows of the quorum: which members are missing, and whether waiting can help."""
        return UNKNOWN if self.closed is not None else self._driver.member.outlook()

    @property
    def key_use(self) -> KeyUse:
        """How much of their limits the idempotency keys use: the same on every node at the same index."""
        return self._driver.member.replica.table.key_use()

    @property
    def memory(self) -> MemoryStatus:
        """What this node uses of its memory budget, and, if it leads, for which members it refuses writes."""
        return self._driver.member.memory()

    @property
    def covered_age_ms(self) -> int | None:
        """How long ago this node's state covered all that a leader had committed; None if it never did."""
        return self._driver.covered_age_ms()

    def when(self) -> When:
        return When(self._conditions, self._driver.member.status, self._driver.member.term_at)

    # ---- calls -------------------------------------------------------
    async def execute(
        self,
        command: Any,
        *,
        key: bytes | None = None,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> Executed:
        """Execute one command exactly once and return its result after this node has applied it.

        Args:
            command: plain CBOR data.
            key: idempotency key. A command with the same key never executes twice while the key is
                remembered. After that it does not either, provided that the caller hands the last copy to a
                member within three quarters of ``session_ttl_ms`` of the first: a copy that takes too long
                from there into the log is refused as ``stale``.
            timeout_s: give up waiting after this many seconds.
            credential: of the caller that this is done for, judged again when it is applied; None: this node
                itself.

        Raises:
            CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError.
            AlreadyExecutedError: it was executed before with this key, and its results are no longer kept.
        """
        (executed,) = await self.execute_many((command,), key=key, timeout_s=timeout_s, credential=credential)
        return executed

    async def execute_many(
        self,
        commands: Sequence[Any],
        *,
        key: bytes | None = None,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> list[Executed]:
        """Execute commands as one atomic entry: all of them or none.

        Raises:
            CommandFailedError: of the command that was refused; in that case none has had any effect.
            NotExecutedError, OutcomeUnknownError, AlreadyExecutedError, GroupClosedError: as ``execute``.
        """
        outcome = await self.execute_outcome(commands, key=key, credential=credential, timeout_s=timeout_s)
        return _executed(outcome)

    async def execute_system(
        self,
        commands: Sequence[Any],
        *,
        key: bytes | None = None,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> list[Executed]:
        """Execute commands of the system state as one atomic entry, exactly once, as ``execute_many`` does.

        Raises:
            CommandFailedError: of the command that was refused; in that case none has had any effect.
            NotExecutedError, OutcomeUnknownError, AlreadyExecutedError, GroupClosedError: as ``execute``.
        """
        outcome = await self.execute_outcome(
            commands, key=key, credential=credential, system=True, timeout_s=timeout_s
        )
        return _executed(outcome)

    async def feed(
        self, command: Any, *, timeout_s: float | None = None, credential: bytes | None = None
    ) -> Cursor:
        """Hand a command in and return its position in the log, before it is committed.

        ``when().committed().reaches(cursor)`` shows what became of it.

        Raises:
            CommandFailedError: the machine would refuse it in every state.
            NotExecutedError, OutcomeUnknownError, GroupClosedError.
        """
        return await self.feed_many((command,), timeout_s=timeout_s, credential=credential)

    async def feed_many(
        self,
        commands: Sequence[Any],
        *,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> Cursor:
        """The same for several commands: one atomic entry, so one cursor."""
        outcome = await self.execute_outcome(commands, feed=True, credential=credential, timeout_s=timeout_s)
        if not isinstance(outcome, Ok):
            raise _error_of(outcome)
        _require_accepted(outcome)  # before the log
        return outcome.at

    async def query(
        self,
        query: Any,
        consistency: Consistency = Consistency.STRONG,
        *,
        min_at: Cursor | None = None,
        max_age_ms: int | None = None,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> Answer:
        """Ask the state machine.

        STRONG is linearizable on every node; WEAK answers from this node's state at once. The same state that
        answers also decides whether ``credential`` may ask.

        Raises:
            CommandFailedError: the state machine refuses the query, or ``credential`` may not ask it.
            NotExecutedError: no answer could be given (no leader in time, too old).
            GroupClosedError: the group ended first.
        """
        outcome = await self.query_outcome(
            query,
            consistency,
            min_at=min_at,
            max_age_ms=max_age_ms,
            credential=credential,
            timeout_s=timeout_s,
        )
        return self._answered(outcome)

    async def query_system(
        self,
        query: Any,
        consistency: Consistency = Consistency.STRONG,
        *,
        min_at: Cursor | None = None,
        max_age_ms: int | None = None,
        timeout_s: float | None = None,
        credential: bytes | None = None,
    ) -> Answer:
        """Ask the system state, as ``query`` asks the state machine.

        Raises:
            CommandFailedError, NotExecutedError, GroupClosedError: as from ``query``.
        """
        outcome = await self.query_outcome(
            query,
            consistency,
            min_at=min_at,
            max_age_ms=max_age_ms,
            credential=credential,
            system=True,
            timeout_s=timeout_s,
        )
        return self._answered(outcome)

    def _answered(self, outcome: Outcome) -> Answer:
        match outcome:
            case Answer(Failed(code, message), at):
                raise CommandFailedError(code, message, at)
            case Answer():
                return outcome
            case Unknown(reason):  # for a query this equals no answer
                raise NotExecutedError(reason, self.leader)
            case _:
                raise _error_of(outcome)

    async def transfer_leadership(self, target: Incarnation | None = None) -> None:
        """Ask the leader (which must be this node) to hand over, to ``target`` or to the best voter."""
        outcome = await self.transfer_outcome(target)
        if not isinstance(outcome, Ok):
            raise _error_of(outcome)

    async def transfer_outcome(self, target: Incarnation | None = None) -> Outcome:
        """Hand over as ``transfer_leadership`` does, and return the outcome instead of raising."""
        request = TransferLeadership(self._driver.new_token(), target)
        return await self._driver.request(request, timeout_s=None)

    async def removal_outcome(self, member: Incarnation, *, timeout_s: float | None = None) -> Outcome:
        """Remove ``member`` from the group for good; a call for the leader.

        ``Ok`` once it is committed. ``NotExecuted`` with the reason if the group cannot spare it, or this
        node does not lead or cannot change the voters now.

        Raises:
            GroupClosedError: the group ended before there was an outcome.
        """
        request = RemoveMember(self._driver.new_token(), member)
        return await self._driver.request(request, timeout_s=timeout_s)

    @property
    def log_end(self) -> Position:
        """The position of the last entry in this node's log, committed or not."""
        return self._driver.member.log.last()

    async def recovery_outcome(
        self, position: Position, approval: bytes, *, timeout_s: float | None = None
    ) -> Outcome:
        """Found a new generation from this node's state, because the others lost theirs for good.

        ``Ok`` at the position of its genesis; ``NotExecuted`` with the reason, and nothing has changed.

        Args:
            position: ``log_end``, as the operator saw it.
            approval: of the group's authority (``node.survivor``); empty for a group that has none.
            timeout_s: after this time the outcome is ``Unknown("deadline")``.

        Raises:
            GroupClosedError: the group ended before there was an outcome.
        """
        request = Recover(self._driver.new_token(), position, approval)
        return await self._driver.request(request, timeout_s=timeout_s)

    async def change_machine_version(self, version: int, *, timeout_s: float | None = None) -> Cursor:
        """Run the state machine as ``version`` from one entry on, on every member; a call for the leader.

        Raises:
            NotExecutedError: ``machine-version-change-unsupported``: some voter or bonded learner does not
                know that version; or this node does not lead.
            CommandFailedError: the machine refused to migrate, equally on every node, and keeps its version.
            OutcomeUnknownError, GroupClosedError: as from ``execute``.
        """
        request = ChangeVersion(self._driver.new_token(), version)
        outcome = await self._driver.request(request, timeout_s=timeout_s)
        match outcome:
            case Ok((Failed(code, message),), at):
                raise CommandFailedError(code, message, at)
            case Ok():
                return outcome.at
            case _:
                raise _error_of(outcome)

    def rejudge(self) -> None:
        """Judge every bond's tickets again, as after new collateral."""
        self._bonds.rejudge()

    def execute_outcome(
        self,
        commands: Sequence[Any],
        *,
        key: bytes | None = None,
        feed: bool = False,
        credential: bytes | None = None,
        system: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Outcome]:
        """Execute commands as one atomic entry, as ``execute_many`` does, and return the outcome as a value.

        For drivers such as the HTTP API. A cancelled call is forgotten.

        Args:
            commands: plain CBOR data.
            key: idempotency key.
            feed: return as soon as the position in the log is known: ``Ok`` without results.
            credential: of the caller; None: this node itself.
            system: the commands are for the system state, not for the machine.
            timeout_s: after this time the outcome is ``NotExecuted("deadline")`` if no part of the request
                left this member; otherwise it is ``Unknown("deadline")``.

        Raises:
            GroupClosedError: the group ended before there was an outcome.
        """
        request = Execute(self._driver.new_token(), tuple(commands), key, feed, credential, system)
        return self._driver.request(request, timeout_s=timeout_s)

    def query_outcome(
        self,
        query: Any,
        consistency: Consistency = Consistency.STRONG,
        *,
        min_at: Cursor | None = None,
        max_age_ms: int | None = None,
        credential: bytes | None = None,
        system: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Outcome]:
        """Ask as ``query`` does, or the system state, and return the outcome as a value.

        Raises:
            GroupClosedError: the group ended before there was an outcome.
        """
        token = self._driver.new_token()
        request = Query(token, query, consistency, min_at, max_age_ms, credential, system)
        return self._driver.request(request, timeout_s=timeout_s)

    # ---- the end ------------------------------------------------------------
    @property
    def closed(self) -> str | None:
        """Why this group has ended on this node; None while it lives."""
        return self._driver.closed

    async def close(self) -> None:
        """Send a goodbye to the peers and end, for every handle of this group.

        Each call that waits raises ``GroupClosedError``. The node cannot join the group again in this life.
        """
        await asyncio.shield(self.end("closed"))

    def end(self, reason: str) -> asyncio.Task[None]:
        """Stop at once, and return the task that sends goodbyes to the peers."""
        self._driver.send_lazy()
        self._driver.close(reason)
        self._conditions.close(reason)
        if self._leaving is None:
            self._leaving = self._background.once("group-leave", self._leave())
        return self._leaving

    async def _leave(self) -> None:
        await self._bonds.depart()
        await self._driver.wait_written()

    def follow(self, follower: Callable[[], None]) -> None:
        """Call ``follower`` after every step of the member. If it raises, the member stops: it must not."""
        self._followers.append(follower)

    def changed(self) -> None:
        """The member has changed: check every call that waits."""
        self._conditions.changed()
        for follower in self._followers:
            follower()


def _executed(outcome: Outcome) -> list[Executed]:
    if not isinstance(outcome, Ok):
        raise _error_of(outcome)
    _require_accepted(outcome)
    return [Executed(r.value, outcome.at) for r in outcome.results if isinstance(r, Applied)]


def _require_accepted(outcome: Ok) -> None:
    """Raise CommandFailedError if a command was refused."""
    refused = [result for result in outcome.results if isinstance(result, Failed)]
    if refused:
        # The others of its batch report only that they were aborted.
        cause = next((result for result in refused if result.code != BATCH_ABORTED), refused[0])
        raise CommandFailedError(cause.code, cause.message, outcome.at)


def _error_of(outcome: Outcome) -> Exception:
    match outcome:
        case NotExecuted(reason, leader, detail):
            return NotExecutedError(reason, leader, detail)
        case Unknown(reason):
            return OutcomeUnknownError(reason)
        case AlreadyExecuted(at, digest, size):
            return AlreadyExecutedError(at, digest, size)
        case Ok() | Answer():
            return AssertionError(f"unexpected outcome {outcome!r}")
        case _:
            assert_never(outcome)
