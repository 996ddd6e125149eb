"""Cells, which hold one value that changes, and onces, which hold one value that is written once."""

from typing import Generic, TypeVar

from node.client import BondstoneClient
from node.collections.base import CollectionWhen, Commands, Handle, Look, Remote, Writing, version_of
from node.collections.codec import Codec
from node.collections.maps import exchanged_of, sorted_map_of
from node.collections.outcomes import Exchanged, Removed, Version, Written, WrittenOnce
from node.collections.wire import Change, MachineResult, member
from node.group.group import Group

V = TypeVar("V")

_ONLY = b""


class ValueView(Generic[V]):
    """A cell or a once as one node has applied it.

    Raises:
        WrongMachineError: from every method, if the collection has another kind.
        StoredValueError: if a value of another type is stored.
    """

    def __init__(self, look: Look, values: Codec[V]) -> None:
        self._look = look
        self._values = values

    @property
    def version(self) -> Version:
        return version_of(self._look())

    def get(self) -> V | None:
        """Return what it holds, or None."""
        found = sorted_map_of(self._look).get(_ONLY)
        return None if found is None else self._values.decode(found)


class ValueReader(ValueView[V]):
    """A view of a cell or a once on this node, that also waits for changes."""

    def __init__(self, handle: Handle, values: Codec[V]) -> None:
        super().__init__(handle.look, values)
        self._handle = handle

    def when(self) -> CollectionWhen:
        return CollectionWhen(self._handle)

    async def value(self) -> V:
        """Wait until it holds a value, and return that value.

        Raises:
            GroupClosedError: the group ended first.
        """
        look = self._handle.look
        found = await self._handle.group.when().holds(lambda _status: sorted_map_of(look).get(_ONLY))
        return self._values.decode(found)


class CellCommands(Commands, Generic[V]):
    """The changes of a cell, as ``Change`` values for ``execute_together``."""

    def __init__(self, name: str, values: Codec[V]) -> None:
        super().__init__(name, "cell")
        self._values = values

    def write(self, value: V) -> Change[Written]:
        return self.change(
            "cell-write",
            lambda answer: Written(answer.version, answer.flag("replaced")),
            **member("value", self._values.encode(value)),
        )

    def compare_exchange(self, expected: V | None, new: V | None) -> Change[Exchanged[V]]:
        return self.change(
            "cell-cas",
            lambda answer: exchanged_of(answer, self._values),
            **member("expect", None if expected is None else self._values.encode(expected)),
            **member("value", None if new is None else self._values.encode(new)),
        )


class CellWriter(ValueReader[V]):
    """Changes the cell. A change returns when it is committed and this node's view shows it.

    Raises:
        ValueRefusedError: from every change, for a value of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(self, handle: Handle, values: Codec[V], commands: CellCommands[V], writing: Writing) -> None:
        super().__init__(handle, values)
        self._commands = commands
        self._writing = writing

    async def write(self, value: V) -> Written:
        return await self._writing.do(self._commands.write(value))

    async def compare_exchange(self, expected: V | None, new: V | None) -> Exchanged[V]:
        """Write ``new`` (None: clear it) if the cell holds ``expected`` (None: if it holds nothing)."""
        return await self._writing.do(self._commands.compare_exchange(expected, new))

    async def clear(self) -> Removed:
        return await self._writing.do(self._commands.clear())

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class CellClient(Generic[V]):
    """The cell through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(self, remote: Remote, values: Codec[V], commands: CellCommands[V]) -> None:
        self._remote = remote
        self._values = values
        self._commands = commands

    def get(self) -> V | None:
        """Return what it holds, or None."""
        return _value_of(self._remote.ask("cell-get"), self._values)

    def write(self, value: V) -> Written:
        return self._remote.do(self._commands.write(value))

    def compare_exchange(self, expected: V | None, new: V | None) -> Exchanged[V]:
        """Write ``new`` (None: clear it) if the cell holds ``expected`` (None: if it holds nothing)."""
        return self._remote.do(self._commands.compare_exchange(expected, new))

    def clear(self) -> Removed:
        return self._remote.do(self._commands.clear())

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def version(self) -> Version:
        return self._remote.version()


def _value_of(answer: MachineResult | None, values: Codec[V]) -> V | None:
    item = None if answer is None else answer.item()
    return None if item is None else values.decode(item.data("value"))


class Cell(Generic[V]):
    """The definition of a cell, shared by all who use it: ``LEADER = Cell("leader", str)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        value: the type of the value, as of a map's values.
    """

    def __init__(self, name: str, value: type[V]) -> None:
        self.name = name
        self._values = Codec(value)
        self.commands = CellCommands(name, self._values)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="cell")

    def reader(self, group: Group) -> ValueReader[V]:
        return ValueReader(self._handle(group), self._values)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> CellWriter[V]:
        """Return the cell on this node, to be changed too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return CellWriter(handle, self._values, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> CellClient[V]:
        """Return the cell of a group that runs elsewhere; ``consistency`` is of its reads."""
        return CellClient(Remote(client, self.commands, consistency), self._values, self.commands)


class OnceCommands(Commands, Generic[V]):
    """The changes of a once, as ``Change`` values for ``execute_together``; ``clear`` is always refused."""

    def __init__(self, name: str, values: Codec[V]) -> None:
        super().__init__(name, "once")
        self._values = values

    def write(self, value: V) -> Change[WrittenOnce[V]]:
        def read(answer: MachineResult) -> WrittenOnce[V]:
            if answer.flag("written"):
                return WrittenOnce(answer.version, True, value)
            first = answer.item()
            held = value if first is None else self._values.decode(first.data("value"))
            return WrittenOnce(answer.version, False, held)

        return self.change("once-write", read, **member("value", self._values.encode(value)))


class OnceWriter(ValueReader[V]):
    """Writes the once. A change returns when it is committed and this node's view shows it.

    Raises:
        ValueRefusedError: for a value of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(self, handle: Handle, values: Codec[V], commands: OnceCommands[V], writing: Writing) -> None:
        super().__init__(handle, values)
        self._commands = commands
        self._writing = writing

    async def write(self, value: V) -> WrittenOnce[V]:
        """Write the value if nobody has written one; the outcome has what the once holds for ever."""
        return await self._writing.do(self._commands.write(value))

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class OnceClient(Generic[V]):
    """The once through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(self, remote: Remote, values: Codec[V], commands: OnceCommands[V]) -> None:
        self._remote = remote
        self._values = values
        self._commands = commands

    def get(self) -> V | None:
        """Return what it holds, or None."""
        return _value_of(self._remote.ask("once-get"), self._values)

    def write(self, value: V) -> WrittenOnce[V]:
        """Write the value if nobody has written one; the outcome has what the once holds for ever."""
        return self._remote.do(self._commands.write(value))

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def version(self) -> Version:
        return self._remote.version()


class Once(Generic[V]):
    """The definition of a once, shared by all who use it: ``WINNER = Once("winner", str)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        value: the type of the value, as of a map's values.
    """

    def __init__(self, name: str, value: type[V]) -> None:
        self.name = name
        self._values = Codec(value)
        self.commands = OnceCommands(name, self._values)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="once")

    def reader(self, group: Group) -> ValueReader[V]:
        return ValueReader(self._handle(group), self._values)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> OnceWriter[V]:
        """Return the once on this node, to be written too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return OnceWriter(handle, self._values, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> OnceClient[V]:
        """Return the once of a group that runs elsewhere; ``consistency`` is of its reads."""
        return OnceClient(Remote(client, self.commands, consistency), self._values, self.commands)
