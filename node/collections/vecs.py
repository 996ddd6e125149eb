"""Vecs: values by position, as in a ``list``."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from node.client import BondstoneClient
from node.collections.base import (
    CollectionWhen,
    Commands,
    Handle,
    Look,
    Remote,
    Writing,
    removed_of,
    version_of,
)
from node.collections.codec import Codec
from node.collections.maps import popped_of
from node.collections.outcomes import Placed, Popped, Pushed, Removed, Version
from node.collections.wire import Change, member, members
from node.group.group import Group
from node.machines.collections.sequence import PersistentSequence

V = TypeVar("V")


class VecCommands(Commands, Generic[V]):
    """The changes of a vec, as ``Change`` values for ``execute_together``. Positions are from 0."""

    def __init__(self, name: str, values: Codec[V]) -> None:
        super().__init__(name, "vec")
        self._values = values

    def push(self, values: Iterable[V], *, front: bool = False) -> Change[Pushed]:
        encoded = [self._values.encode(value) for value in values]
        return self.change(
            "vec-push",
            lambda answer: Pushed(answer.version, answer.number("length"), len(encoded)),
            front=front,
            **members("values", encoded),
        )

    def pop(self, *, front: bool = False) -> Change[Popped[V]]:
        return self.change("vec-pop", lambda answer: popped_of(answer, self._values), front=front)

    def insert(self, index: int, value: V) -> Change[Placed]:
        return self.change(
            "vec-insert",
            lambda answer: Placed(answer.version, answer.flag("inserted")),
            index=index,
            **member("value", self._values.encode(value)),
        )

    def set(self, index: int, value: V) -> Change[Placed]:
        return self.change(
            "vec-set",
            lambda answer: Placed(answer.version, answer.flag("set")),
            index=index,
            **member("value", self._values.encode(value)),
        )

    def remove(self, index: int) -> Change[Popped[V]]:
        return self.change("vec-remove", lambda answer: popped_of(answer, self._values), index=index)

    def swap(self, index: int, other: int) -> Change[Placed]:
        return self.change(
            "vec-swap",
            lambda answer: Placed(answer.version, answer.flag("swapped")),
            index=index,
            other=other,
        )

    def truncate(self, length: int) -> Change[Removed]:
        return self.change("vec-truncate", removed_of, length=length)


class VecView(Sequence[V]):
    """A vec as one node has applied it; one that never changes if it was made by ``snapshot``.

    Raises:
        WrongMachineError: from every method, if the collection has another kind.
        StoredValueError: from every method that returns a value of another type.
    """

    def __init__(self, look: Look, values: Codec[V]) -> None:
        self._look = look
        self._values = values

    def _body(self) -> PersistentSequence:
        found = self._look()
        if found is None:
            return PersistentSequence()
        assert isinstance(found.body, PersistentSequence)
        return found.body

    @property
    def version(self) -> Version:
        return version_of(self._look())

    def snapshot(self) -> "VecView[V]":
        """Return the vec as it is now, at constant cost; later changes do not change what is returned."""
        found = self._look()
        return VecView(lambda: found, self._values)

    def __len__(self) -> int:
        return len(self._body())

    @overload
    def __getitem__(self, index: int) -> V: ...
    @overload
    def __getitem__(self, index: slice) -> list[V]: ...
    def __getitem__(self, index: int | slice) -> V | list[V]:
        body = self._body()
        positions = range(len(body))[index]
        if isinstance(positions, range):
            return [self._values.decode(body.get(position)) for position in positions]
        return self._values.decode(body.get(positions))

    def __iter__(self) -> Iterator[V]:
        """Iterate over the values of one state, whatever changes meanwhile."""
        return (self._values.decode(value) for value in self._body().values())


class VecReader(VecView[V]):
    """A view of the vec on this node, that also waits for changes."""

    def __init__(self, handle: Handle, values: Codec[V]) -> None:
        super().__init__(handle.look, values)
        self._handle = handle

    def when(self) -> CollectionWhen:
        return CollectionWhen(self._handle)


class VecWriter(VecReader[V]):
    """Changes the vec. A change returns when it is committed and this node's view shows it.

    Positions are from 0 and never negative: another writer may change the length meanwhile. A position that
    is not there is an outcome (``placed`` or ``found`` is false), not an error.

    Raises:
        ValueRefusedError: from every change, for a value of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(self, handle: Handle, values: Codec[V], commands: VecCommands[V], writing: Writing) -> None:
        super().__init__(handle, values)
        self._commands = commands
        self._writing = writing

    async def append(self, value: V) -> Pushed:
        return await self._writing.do(self._commands.push((value,)))

    async def appendleft(self, value: V) -> Pushed:
        return await self._writing.do(self._commands.push((value,), front=True))

    async def extend(self, values: Iterable[V]) -> Pushed:
        """Append all values as one atomic change."""
        return await self._writing.do(self._commands.push(values))

    async def pop(self) -> Popped[V]:
        """Take the last value."""
        return await self._writing.do(self._commands.pop())

    async def popleft(self) -> Popped[V]:
        """Take the first value."""
        return await self._writing.do(self._commands.pop(front=True))

    async def insert(self, index: int, value: V) -> Placed:
        return await self._writing.do(self._commands.insert(index, value))

    async def set(self, index: int, value: V) -> Placed:
        """Replace the value at a position."""
        return await self._writing.do(self._commands.set(index, value))

    async def remove(self, index: int) -> Popped[V]:
        """Take the value at a position."""
        return await self._writing.do(self._commands.remove(index))

    async def swap(self, index: int, other: int) -> Placed:
        return await self._writing.do(self._commands.swap(index, other))

    async def truncate(self, length: int) -> Removed:
        """Keep the first ``length`` values."""
        return await self._writing.do(self._commands.truncate(length))

    async def clear(self) -> Removed:
        return await self._writing.do(self._commands.clear())

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class VecClient(Generic[V]):
    """The vec through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(self, remote: Remote, values: Codec[V], commands: VecCommands[V]) -> None:
        self._remote = remote
        self._values = values
        self._commands = commands

    def append(self, value: V) -> Pushed:
        return self._remote.do(self._commands.push((value,)))

    def appendleft(self, value: V) -> Pushed:
        return self._remote.do(self._commands.push((value,), front=True))

    def extend(self, values: Iterable[V]) -> Pushed:
        """Append all values as one atomic change."""
        return self._remote.do(self._commands.push(values))

    def pop(self) -> Popped[V]:
        """Take the last value."""
        return self._remote.do(self._commands.pop())

    def popleft(self) -> Popped[V]:
        """Take the first value."""
        return self._remote.do(self._commands.pop(front=True))

    def insert(self, index: int, value: V) -> Placed:
        return self._remote.do(self._commands.insert(index, value))

    def set(self, index: int, value: V) -> Placed:
        """Replace the value at a position."""
        return self._remote.do(self._commands.set(index, value))

    def remove(self, index: int) -> Popped[V]:
        """Take the value at a position."""
        return self._remote.do(self._commands.remove(index))

    def swap(self, index: int, other: int) -> Placed:
        return self._remote.do(self._commands.swap(index, other))

    def truncate(self, length: int) -> Removed:
        """Keep the first ``length`` values."""
        return self._remote.do(self._commands.truncate(length))

    def clear(self) -> Removed:
        return self._remote.do(self._commands.clear())

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def get(self, index: int) -> V | None:
        """Return the value at a position, or None if there is no such position."""
        answer = self._remote.ask("vec-get", index=index)
        item = None if answer is None else answer.item()
        return None if item is None else self._values.decode(item.data("value"))

    def values(self) -> Iterator[V]:
        """Yield all values in their order, page by page; each page is of one state."""
        for item in self._remote.items():
            yield self._values.decode(item.data("value"))

    def length(self) -> int:
        return self._remote.length()

    def version(self) -> Version:
        return self._remote.version()


class Vec(Generic[V]):
    """The definition of a vec, shared by all who use it: ``EVENTS = Vec("events", Event)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        value: the type of the values, as of a map's values.
    """

    def __init__(self, name: str, value: type[V]) -> None:
        self.name = name
        self._values = Codec(value)
        self.commands = VecCommands(name, self._values)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="vec")

    def reader(self, group: Group) -> VecReader[V]:
        return VecReader(self._handle(group), self._values)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> VecWriter[V]:
        """Return the vec on this node, to be changed too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return VecWriter(handle, self._values, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> VecClient[V]:
        """Return the vec of a group that runs elsewhere; ``consistency`` is of its reads."""
        return VecClient(Remote(client, self.commands, consistency), self._values, self.commands)
