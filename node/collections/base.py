"""What all kinds of collections have in common: where they read, how they wait, how they change.

A *view* reads the collection as this node has applied it, without waiting; a *reader* is a view that also
waits for changes; a *writer* is a reader that changes the collection; a *client* does both through the HTTP
API of a group that runs elsewhere.

Each kind writes out its ``version``, ``when``, ``clear`` and ``drop``, one line each: what a kind can do is
read in one class. A base for them would be four small classes to mix in, because a once has no ``clear``, and
the views already descend from ``Mapping``, ``Set`` and ``Sequence``.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from node.client import BondstoneClient, RefusedError
from node.collections.errors import AnswerError, ValueRefusedError, WrongMachineError
from node.collections.outcomes import Removed, Version
from node.collections.wire import Change, MachineResult
from node.group.group import Group
from node.machines.collections.machine import CollectionsMachine
from node.machines.collections.reading import NAME_BYTES_MAX
from node.machines.collections.state import Collection

R = TypeVar("R")

PAGE_ITEMS: Final = 1000
_UNKNOWN: Final = "collection-unknown"

Look = Callable[[], Collection | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """Which collection, and where this node has its group."""

    group: Group
    name: str
    kind: str

    def look(self) -> Collection | None:
        """Return the collection as this node has applied it; None if it is not declared yet.

        Raises:
            WrongMachineError: the group has no collections, or this one has another kind.
        """
        machine = self.group.machine
        if not isinstance(machine, CollectionsMachine):
            raise WrongMachineError(f"the group's state machine is {machine.signature}, not the collections")
        found = machine.collection(self.name)
        if found is not None and found.kind != self.kind:
            raise WrongMachineError(f"{self.name} is a {found.kind}, not a {self.kind}")
        return found

    def version(self) -> Version:
        return version_of(self.look())


def version_of(collection: Collection | None) -> Version:
    """Return a collection's version; 0 if it is not declared yet."""
    return Version(0 if collection is None else collection.version)


class CollectionWhen:
    """The conditions of one collection on this node.

    Every future raises ``GroupClosedError`` if the group ends first.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def online(self) -> asyncio.Future[bool]:
        """Resolve when a leader is known and this node's log is in step with it."""
        return self._handle.group.when().online()

    def offline(self) -> asyncio.Future[bool]:
        return self._handle.group.when().offline()

    def updated(self) -> asyncio.Future[Version]:
        """Resolve with the collection's version when it differs from the present one."""
        handle, start = self._handle, self._handle.version()
        return handle.group.when().holds(
            lambda _status: version if (version := handle.version()) != start else None
        )

    def reaches(self, version: Version) -> asyncio.Future[Version]:
        """Resolve with the collection's version when this node shows all changes up to ``version``."""
        handle = self._handle
        return handle.group.when().holds(
            lambda status: handle.version() if status.applied >= version else None
        )


class Commands:
    """Makes the commands of one collection; ``Change`` values, which nothing has executed yet."""

    def __init__(self, name: str, kind: str, **declared: Any) -> None:
        if not 1 <= len(name.encode(errors="surrogatepass")) <= NAME_BYTES_MAX:
            raise ValueRefusedError(f"the name of a collection is text of 1 to {NAME_BYTES_MAX} bytes")
        self.name = name
        self._declaration = {"op": "declare", "name": name, "kind": kind, **declared}

    def change(self, op: str, read: Callable[[MachineResult], R], **members: Any) -> Change[R]:
        command = {"op": op, "name": self.name, **members}
        return Change(self._declaration, command, read)

    def clear(self) -> Change[Removed]:
        return self.change("clear", removed_of)

    def drop(self) -> Change[Removed]:
        """Remove the collection itself; 1 if it was there."""
        return self.change("drop", lambda answer: Removed(answer.version, int(answer.flag("dropped"))))


def removed_of(answer: MachineResult) -> Removed:
    return Removed(answer.version, answer.number("removed"))


class Writing:
    """Executes changes in the group, on behalf of this node.

    Args:
        handle: of the collection.
        timeout_s: of one change; None: no limit.
    """

    def __init__(self, handle: Handle, timeout_s: float | None) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def do(self, change: Change[R], key: bytes | None = None) -> R:
        (outcome,) = await execute_together(self._handle.group, (change,), key=key, timeout_s=self._timeout_s)
        return outcome  # type: ignore[no-any-return]


async def execute_together(
    group: Group,
    changes: Sequence[Change[Any]],
    *,
    key: bytes | None = None,
    timeout_s: float | None = None,
) -> list[Any]:
    """Execute changes of any collections of one group as one atomic entry, and return their outcomes.

    A collection that is not declared yet is declared in the same entry.

    Args:
        group: its state machine is ``collections``.
        changes: made by the definitions' ``commands``.
        key: an idempotency key, as of ``Group.execute``.
        timeout_s: give up waiting after this many seconds.

    Raises:
        WrongMachineError: the group has no collections.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, AlreadyExecutedError, GroupClosedError: as
            from ``Group.execute_many``; of the first, nothing has changed.
    """
    machine = group.machine
    if not isinstance(machine, CollectionsMachine):
        raise WrongMachineError(f"the group's state machine is {machine.signature}, not the collections")
    # With a key the entry must be the same each time, whatever this node has applied meanwhile.
    declarations = {
        change.command["name"]: change.declaration
        for change in changes
        if change.command["op"] != "drop"
        and (key is not None or machine.collection(change.command["name"]) is None)
    }
    commands = [*declarations.values(), *(change.command for change in changes)]
    executed = await group.execute_many(commands, key=key, timeout_s=timeout_s)
    results = executed[len(declarations) :]
    return [change.read(MachineResult(one.result)) for change, one in zip(changes, results, strict=True)]


class Remote:
    """Executes changes of one collection, and reads it, through the HTTP API.

    Args:
        client: of the group.
        commands: of the collection.
        consistency: of reads, ``strong`` or ``weak``.
    """

    def __init__(self, client: BondstoneClient, commands: Commands, consistency: str) -> None:
        self._client = client
        self._commands = commands
        self._consistency = consistency
        self._declared = False

    def do(self, change: Change[R]) -> R:
        """Execute a change. The first one declares the collection too.

        Raises:
            RefusedError and the other errors of ``BondstoneClient.execute``; AnswerError, StoredValueError.
        """
        commands = [change.command]
        if not self._declared and change.command["op"] != "drop":
            commands.insert(0, change.declaration)
        results = self._client.execute_many(commands).results
        if not results:
            raise AnswerError("the answer has no result")
        self._declared = change.command["op"] != "drop"
        return change.read(MachineResult(results[-1]))

    def ask(self, op: str, **members: Any) -> MachineResult | None:
        """Return the answer to a query; None if the collection is not declared yet.

        Raises:
            RefusedError and the other errors of ``BondstoneClient.query``; AnswerError.
        """
        query = {"op": op, "name": self._commands.name, **members}
        try:
            return MachineResult(self._client.query(query, consistency=self._consistency).result)
        except RefusedError as exc:
            if exc.reason == _UNKNOWN:
                return None
            raise

    def version(self) -> Version:
        """Return the collection's version; 0 if it is not declared yet."""
        return Version(self._described("version"))

    def length(self) -> int:
        return self._described("length")

    def _described(self, name: str) -> int:
        answer = self.ask("describe")
        described = None if answer is None else answer.item("collection")
        return 0 if described is None else described.number(name)

    def items(self) -> Iterator[MachineResult]:
        """Yield all items, page by page; each page is of one state."""
        following: dict[str, Any] | None = {}
        while following is not None:
            page = self.ask("list", limit=PAGE_ITEMS, **following)
            if page is None:
                return
            yield from page.items()
            following = page.following()
