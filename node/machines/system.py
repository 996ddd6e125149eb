"""The group's own state beside the user's machine: the access list, and other facts that all share.

It goes through the same log as the machine, by entries of the kind SYSTEM: same sessions, exactly once, same
idempotency keys, same batches. The rules of ``StateMachine`` hold: no clock, no randomness, no I/O, no
iteration over unordered sets, and everything is plain CBOR data.

A command or query of a system state is a list that begins with its name, ``["tcb-seen", …]``. Several parts
that know nothing of each other form one system state as ``CombinedSystem``.
"""

import copy
from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

from attestation.encoding.canonical import digest
from node.machines.base import ApplyContext, CommandError, StateMachine


class RequestKind(Enum):
    """The kind of a caller's request, and what it is addressed to."""

    COMMAND = "command"  # of the user's machine
    QUERY = "query"
    SYSTEM_COMMAND = "system-command"
    SYSTEM_QUERY = "system-query"


class SystemState(ABC):
    """The base class of every part of the group's own state. A member makes a new one in every cluster."""

    @abstractmethod
    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        """Raise unless ``credential`` may make this request; called for all before it is applied or answered.

        A command is judged by the state before its entry, equally on every member; a strong query by the
        state at its index. A refused request changes nothing, and is remembered like any other result.

        Args:
            credential: the caller's, 1 to 32 bytes; None: the member itself, whose evidence the group has
                accepted.
            request: the kind of ``value``.
            value: the command or the query.
            now_ms: the time of the entry; for a query, the least time that an entry written now would have.
            machine: the user's machine in its present state, which must not be changed here.

        Raises:
            CommandError: refused. Any other exception refuses too, as ``judge-raised``.
        """

    @abstractmethod
    def apply(self, command: Any, context: ApplyContext) -> Any:
        """Execute one committed command and return its result; ``context.credential`` is the caller's.

        Raises:
            CommandError: a recorded, deterministic refusal. Any other exception is recorded too, as
                ``apply-raised``; either way the state is rolled back to before the entry.
        """

    @abstractmethod
    def query(self, query: Any) -> Any:
        """Answer from the current state without changing it.

        Raises:
            CommandError: the query makes no sense.
        """

    def savepoint(self) -> Any:
        """Return what ``rollback`` needs to undo everything that follows. The default copies everything."""
        return copy.deepcopy(self.__dict__)

    def rollback(self, savepoint: Any) -> None:
        """Return to the state at ``savepoint``."""
        self.__dict__.clear()
        self.__dict__.update(savepoint)

    @abstractmethod
    def snapshot(self) -> Any:
        """Return the whole state as plain CBOR data: equal states give equal snapshots."""

    @abstractmethod
    def restore(self, snapshot: Any) -> None:
        """Replace the whole state by the state in ``snapshot``."""

    def digest(self) -> bytes:
        """Return 32 bytes that are equal on every member at the same index."""
        return digest("bondstone/system-state/v1", self.snapshot())


def name_of(value: Any) -> str:
    """Return the name that a command or query of a system state begins with.

    Raises:
        CommandError: it does not begin with a name.
    """
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        return value[0]
    raise CommandError("not-a-system-command", "a system command is a list that begins with its name")


def _unknown(name: str) -> CommandError:
    return CommandError("system-command-unknown", f"no part of this group's system state knows {name[:64]!r}")


class EmptySystem(SystemState):
    """No state: every command and query of it is refused, and every caller may use the machine."""

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        """Refuse no caller."""

    def apply(self, command: Any, context: ApplyContext) -> Any:  # noqa: ARG002
        raise _unknown(name_of(command))

    def query(self, query: Any) -> Any:
        raise _unknown(name_of(query))

    def savepoint(self) -> None:
        return None

    def rollback(self, savepoint: Any) -> None:
        """Do nothing: there is nothing to undo."""

    def snapshot(self) -> None:
        return None

    def restore(self, snapshot: Any) -> None:
        if snapshot is not None:
            raise ValueError("the snapshot of an empty system state is null")


class SystemPart(SystemState):
    """A system state that can stand beside others in one ``CombinedSystem``."""

    @property
    @abstractmethod
    def part(self) -> str:
        """The key of its snapshot; no other part has the same."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """The names of its commands and queries; no other part has one of them."""

    @property
    def came_later(self) -> bool:
        """Whether a feature level above 1 brought it. Its snapshot is null until that level writes to it.

        Until then it is left out of the snapshot, so that releases that do not know it have the same one.
        """
        return False


class CombinedSystem(SystemState):
    """Several parts as one. A command or query goes to the part that has its name; every part judges all.

    Raises:
        ValueError: two parts have a name in common.
    """

    def __init__(self, *parts: SystemPart) -> None:
        self._parts = {part.part: part for part in sorted(parts, key=lambda part: part.part)}
        self._by_name = {name: part for part in self._parts.values() for name in sorted(part.names)}
        if len(self._parts) != len(parts) or len(self._by_name) != sum(len(part.names) for part in parts):
            raise ValueError("two parts of a system state have a name in common")

    def __getitem__(self, part: str) -> SystemPart:
        return self._parts[part]

    def _part_for(self, value: Any) -> SystemPart:
        name = name_of(value)
        part = self._by_name.get(name)
        if part is None:
            raise _unknown(name)
        return part

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        for part in self._parts.values():
            part.judge(credential, request, value, now_ms=now_ms, machine=machine)

    def apply(self, command: Any, context: ApplyContext) -> Any:
        return self._part_for(command).apply(command, context)

    def query(self, query: Any) -> Any:
        return self._part_for(query).query(query)

    def savepoint(self) -> Any:
        return {name: part.savepoint() for name, part in self._parts.items()}

    def rollback(self, savepoint: Any) -> None:
        for name, part in self._parts.items():
            part.rollback(savepoint[name])

    def snapshot(self) -> Any:
        taken = {name: part.snapshot() for name, part in self._parts.items()}
        return {
            name: snapshot
            for name, snapshot in taken.items()
            if snapshot is not None or not self._parts[name].came_later
        }

    def restore(self, snapshot: Any) -> None:
        required = {name for name, part in self._parts.items() if not part.came_later}
        if not isinstance(snapshot, dict) or not required <= snapshot.keys() <= self._parts.keys():
            raise ValueError("the snapshot has other parts than this system state")
        for name, part in self._parts.items():
            part.restore(snapshot.get(name))
