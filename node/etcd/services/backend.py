"""From a call to the group and back: headers, repetitions within the deadline, refusals in etcd's words."""

import asyncio
from typing import Any, Final, Protocol

from node.api.problems import ProblemError
from node.api.service import GroupView, Service, UnavailableError
from node.etcd.errors import (
    CORRUPT,
    NO_LEADER,
    PERMISSION_DENIED,
    SERVER_STOPPED,
    Code,
    EtcdError,
    not_executed,
    refused,
    unknown,
)
from node.etcd.messages import ResponseHeader
from node.etcd.services.call import Call
from node.group.errors import GroupClosedError
from node.machines.kv import KeyValue
from node.peers import Incarnation
from node.raft.types import (
    BATCH_ABORTED,
    REMOVED,
    AlreadyExecuted,
    Answer,
    Applied,
    Consistency,
    Failed,
    NotExecuted,
    Ok,
    Outcome,
    Unknown,
)
from node.system.grants import AccessRole

# Repeating cannot change these, or the node is to be spared.
_FINAL: Final = frozenset(
    {"command-too-large", "deadline", "halted", "idempotency-key-reused", "overloaded", "stale", "superseded"}
)
_PAUSE_S: Final = 0.01
_PAUSE_S_MAX: Final = 0.2
_ID_BYTES: Final = 8


class CurrentAccess(Protocol):
    """Whether the access list here is current (``node.api.access.AccessGate``)."""

    async def require_current(self) -> None: ...
    def require_still_current(self) -> None: ...


def id_of(member: Incarnation) -> int:
    """Return the number by which etcd's clients know a member: of this life of its node."""
    return int.from_bytes(member.id[:_ID_BYTES])


def require(call: Call, *roles: AccessRole) -> None:
    """Return if the caller carries one of the roles.

    Raises:
        EtcdError: PERMISSION_DENIED.
    """
    if not any(call.grant.carries(role) for role in roles):
        raise EtcdError(*PERMISSION_DENIED)


class Backend:
    """What every service needs of the node.

    Args:
        service: the node.
        gate: of its API.
    """

    def __init__(self, service: Service, gate: CurrentAccess) -> None:
        self.service = service
        self._gate = gate

    # ---- the group ------------------------------------------------------------
    def view(self) -> GroupView:
        """Return the group as this node sees it.

        Raises:
            EtcdError: there is no group, or it has ended.
        """
        try:
            return self.service.group()
        except UnavailableError as exc:
            raise self._unavailable(exc) from exc

    def machine(self) -> KeyValue:
        """Return the machine as this node has applied it: to be read, never changed.

        Raises:
            EtcdError: there is no group, or it runs another machine.
        """
        try:
            machine = self.service.state_machine()
        except UnavailableError as exc:
            raise self._unavailable(exc) from exc
        if not isinstance(machine, KeyValue):
            raise EtcdError(Code.UNIMPLEMENTED, "bondstone: this group runs another machine than key-value")
        return machine

    def header(self, revision: int, term: int) -> ResponseHeader:
        """Return the header of an answer that was given at this revision, in this term."""
        cluster = self.service.cluster
        if cluster is None:
            raise EtcdError(*NO_LEADER)
        return ResponseHeader(
            cluster_id=int.from_bytes(cluster.id[:_ID_BYTES]),
            member_id=id_of(self.service.me),
            revision=revision,
            raft_term=term,
        )

    def head(self) -> ResponseHeader:
        """Return the header of an answer that this node gives by itself."""
        return self.header(self.machine().revision, self.view().status.term)

    # ---- commands ---------------------------------------------------------------
    async def execute(self, command: list[Any], call: Call) -> tuple[ResponseHeader, list[Any]]:
        """Execute a command of the machine; return its result, whose revision is in the header.

        What was certainly not executed is repeated until the deadline. So nothing is executed twice.

        Raises:
            EtcdError: it was refused, or it was not executed in time, or its outcome is not known.
        """
        pause_s = _PAUSE_S
        while True:
            outcome = await self._attempt(command, call)
            if not isinstance(outcome, NotExecuted) or outcome.reason in _FINAL:
                return self._executed(outcome)
            if call.left_s() <= pause_s:
                raise not_executed(outcome)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    async def _attempt(self, command: list[Any], call: Call) -> Outcome:
        try:
            return await self.service.execute(
                (command,),
                credential=call.grant.credential,
                key=call.idempotency_key,
                feed=False,
                timeout_s=call.left_s(),
            )
        except GroupClosedError as exc:  # the command may be on its way through the peers
            raise unknown(Unknown("group-closed")) from exc
        except UnavailableError as exc:
            raise self._unavailable(exc) from exc

    def _executed(self, outcome: Outcome) -> tuple[ResponseHeader, list[Any]]:
        match outcome:
            case Ok((Applied([int() as revision, *result]),), at):
                return self.header(revision, at.term), result
            case Ok(results):
                raise _failure_of(results)
            case AlreadyExecuted():
                raise EtcdError(
                    Code.ALREADY_EXISTS,
                    "bondstone: an earlier request with this idempotency key was executed, "
                    "and its answer is no longer kept",
                )
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a command")

    # ---- queries ------------------------------------------------------------------
    async def query(
        self, query: list[Any], call: Call, *, serializable: bool = False
    ) -> tuple[ResponseHeader, list[Any]]:
        """Ask the machine; ``serializable``: this member's state, which may be old.

        Raises:
            EtcdError: it was refused, or there is no answer in time.
        """
        try:
            if serializable:
                await self._gate.require_current()
            outcome = await self.service.query(
                query,
                credential=call.grant.credential,
                consistency=Consistency.WEAK if serializable else Consistency.STRONG,
                min_at=None,
                max_age_ms=None,
                timeout_s=call.left_s(),
            )
            if serializable:
                self._gate.require_still_current()
        except ProblemError as exc:
            raise EtcdError(*NO_LEADER) from exc
        except GroupClosedError as exc:
            raise EtcdError(*SERVER_STOPPED) from exc
        except UnavailableError as exc:
            raise self._unavailable(exc) from exc
        match outcome:
            case Answer(Failed(code, message)):
                raise refused(code, message)
            case Answer([int() as revision, *result], at):
                return self.header(revision, at.term), result
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a query")

    def _unavailable(self, exc: UnavailableError) -> EtcdError:
        if exc.reason == "halted":
            halted = self.service.group().status.halted
            return EtcdError(*(SERVER_STOPPED if halted in (None, REMOVED) else CORRUPT))
        return EtcdError(Code.UNAVAILABLE, f"bondstone: {exc.message}")


def _failure_of(results: tuple[Any, ...]) -> EtcdError:
    failures = [result for result in results if isinstance(result, Failed)]
    cause = next((one for one in failures if one.code != BATCH_ABORTED), failures[0])
    return refused(cause.code, cause.message)
