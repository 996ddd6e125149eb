"""Sets of elements, as in a ``set``; iteration is in the order of the elements' bytes."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

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
from node.collections.errors import ValueRefusedError
from node.collections.maps import sorted_map_of
from node.collections.outcomes import Extended, Removed, Version
from node.collections.wire import Change, members
from node.group.group import Group

T = TypeVar("T")


class SetCommands(Commands, Generic[T]):
    """The changes of a set, as ``Change`` values for ``execute_together``."""

    def __init__(self, name: str, elements: Codec[T]) -> None:
        super().__init__(name, "set")
        self._elements = elements

    def add(self, elements: Iterable[T]) -> Change[Extended]:
        return self.change(
            "set-add",
            lambda answer: Extended(answer.version, answer.number("added")),
            **members("values", map(self._elements.encode, elements)),
        )

    def remove(self, elements: Iterable[T]) -> Change[Removed]:
        return self.change(
            "set-remove", removed_of, **members("values", map(self._elements.encode, elements))
        )


class SetView(AbstractSet[T]):
    """A set as one node has applied it; one that never changes if it was made by ``snapshot``.

    Comparisons (``<=``, ``isdisjoint``) and operators (``&``, ``|``) are those of ``set``, and the operators
    return a ``set``.

    Raises:
        WrongMachineError: from every method, if the collection has another kind.
        StoredValueError: from iteration, if an element of another type is stored.
    """

    def __init__(self, look: Look, elements: Codec[T]) -> None:
        self._look = look
        self._elements = elements

    @classmethod
    def _from_iterable(cls, elements: Iterable[T]) -> AbstractSet[T]:  # type: ignore[override]
        return set(elements)

    @property
    def version(self) -> Version:
        return version_of(self._look())

    def snapshot(self) -> "SetView[T]":
        """Return the set as it is now, at constant cost; later changes do not change what is returned."""
        found = self._look()
        return SetView(lambda: found, self._elements)

    def __contains__(self, element: object) -> bool:
        try:
            encoded = self._elements.encode(element)  # type: ignore[arg-type]
        except ValueRefusedError:
            return False  # no such element can be in it
        return sorted_map_of(self._look).get(encoded) is not None

    def __len__(self) -> int:
        return len(sorted_map_of(self._look))

    def __iter__(self) -> Iterator[T]:
        """Iterate over the elements of one state, whatever changes meanwhile."""
        return (self._elements.decode(element) for element, _ in sorted_map_of(self._look).items())


class SetReader(SetView[T]):
    """A view of the set on this node, that also waits for changes."""

    def __init__(self, handle: Handle, elements: Codec[T]) -> None:
        super().__init__(handle.look, elements)
        self._handle = handle

    def when(self) -> CollectionWhen:
        return CollectionWhen(self._handle)


class SetWriter(SetReader[T]):
    """Changes the set. A change returns when it is committed and this node's view shows it.

    Raises:
        ValueRefusedError: from every change, for an element of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(
        self, handle: Handle, elements: Codec[T], commands: SetCommands[T], writing: Writing
    ) -> None:
        super().__init__(handle, elements)
        self._commands = commands
        self._writing = writing

    async def add(self, *elements: T) -> Extended:
        return await self._writing.do(self._commands.add(elements))

    async def extend(self, elements: Iterable[T]) -> Extended:
        """Add all elements as one atomic change."""
        return await self._writing.do(self._commands.add(elements))

    async def remove(self, *elements: T) -> Removed:
        return await self._writing.do(self._commands.remove(elements))

    async def clear(self) -> Removed:
        return await self._writing.do(self._commands.clear())

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class SetClient(Generic[T]):
    """The set through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(self, remote: Remote, elements: Codec[T], commands: SetCommands[T]) -> None:
        self._remote = remote
        self._elements = elements
        self._commands = commands

    def add(self, *elements: T) -> Extended:
        return self._remote.do(self._commands.add(elements))

    def extend(self, elements: Iterable[T]) -> Extended:
        """Add all elements as one atomic change."""
        return self._remote.do(self._commands.add(elements))

    def remove(self, *elements: T) -> Removed:
        return self._remote.do(self._commands.remove(elements))

    def clear(self) -> Removed:
        return self._remote.do(self._commands.clear())

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def contains(self, *elements: T) -> list[bool]:
        """Return for each element whether it is in the set, all at one state."""
        asked = members("values", map(self._elements.encode, elements))
        answer = self._remote.ask("set-contains", **asked)
        return [False] * len(elements) if answer is None else answer.flags("contained")

    def elements(self) -> Iterator[T]:
        """Yield all elements in the order of their bytes, page by page; each page is of one state."""
        for item in self._remote.items():
            yield self._elements.decode(item.data("key"))

    def length(self) -> int:
        return self._remote.length()

    def version(self) -> Version:
        return self._remote.version()


class Set(Generic[T]):
    """The definition of a set, shared by all who use it: ``TAGS = Set("tags", str)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        element: the type of the elements, as of a map's keys.
    """

    def __init__(self, name: str, element: type[T]) -> None:
        self.name = name
        self._elements = Codec(element, key=True)
        self.commands = SetCommands(name, self._elements)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="set")

    def reader(self, group: Group) -> SetReader[T]:
        return SetReader(self._handle(group), self._elements)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> SetWriter[T]:
        """Return the set on this node, to be changed too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return SetWriter(handle, self._elements, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> SetClient[T]:
        """Return the set of a group that runs elsewhere; ``consistency`` is of its reads."""
        return SetClient(Remote(client, self.commands, consistency), self._elements, self.commands)
