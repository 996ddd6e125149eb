"""Maps: keys and values, as in a ``dict``; iteration is in the order of the keys' bytes."""

from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
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
from node.collections.outcomes import Exchanged, Extended, Popped, Removed, Version, Written
from node.collections.wire import Change, MachineResult, member, members
from node.group.group import Group
from node.machines.collections.sorted_map import SortedMap

K = TypeVar("K")
V = TypeVar("V")


def sorted_map_of(look: Look) -> SortedMap[bytes]:
    """Return the items of a map, a set, a cell or a once; no items if it is not declared yet."""
    found = look()
    if found is None:
        return SortedMap.empty()
    assert isinstance(found.body, SortedMap)
    return found.body


def exchanged_of(answer: MachineResult, values: Codec[V]) -> Exchanged[V]:
    """Return the outcome of a compare-exchange."""
    swapped = answer.flag("swapped")
    actual = None if swapped else answer.item()
    return Exchanged(answer.version, swapped, None if actual is None else values.decode(actual.data("value")))


def popped_of(answer: MachineResult, values: Codec[V]) -> Popped[V]:
    """Return the outcome of a command that takes a value."""
    item = answer.item()
    taken = None if item is None else values.decode(item.data("value"))
    return Popped(answer.version, item is not None, taken)


class MapCommands(Commands, Generic[K, V]):
    """The changes of a map, as ``Change`` values for ``execute_together``."""

    def __init__(self, name: str, keys: Codec[K], values: Codec[V]) -> None:
        super().__init__(name, "map")
        self._keys = keys
        self._values = values

    def insert(self, key: K, value: V) -> Change[Written]:
        return self.change(
            "map-insert",
            lambda answer: Written(answer.version, answer.flag("replaced")),
            **member("key", self._keys.encode(key)),
            **member("value", self._values.encode(value)),
        )

    def extend(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> Change[Extended]:
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        return self.change(
            "map-extend",
            lambda answer: Extended(answer.version, answer.number("added"), answer.number("replaced")),
            **members("keys", (self._keys.encode(key) for key, _ in pairs)),
            **members("values", (self._values.encode(value) for _, value in pairs)),
        )

    def compare_exchange(self, key: K, expected: V | None, new: V | None) -> Change[Exchanged[V]]:
        return self.change(
            "map-cas",
            lambda answer: exchanged_of(answer, self._values),
            **member("key", self._keys.encode(key)),
            **member("expect", None if expected is None else self._values.encode(expected)),
            **member("value", None if new is None else self._values.encode(new)),
        )

    def pop(self, key: K) -> Change[Popped[V]]:
        return self.change(
            "map-pop",
            lambda answer: popped_of(answer, self._values),
            **member("key", self._keys.encode(key)),
        )

    def remove(self, keys: Iterable[K]) -> Change[Removed]:
        return self.change("map-remove", removed_of, **members("keys", map(self._keys.encode, keys)))


class MapView(Mapping[K, V]):
    """A map as one node has applied it; one that never changes if it was made by ``snapshot``.

    Raises:
        WrongMachineError: from every method, if the collection has another kind.
        StoredValueError: from every method that returns a key or a value of another type.
    """

    def __init__(self, look: Look, keys: Codec[K], values: Codec[V]) -> None:
        self._look = look
        self._keys = keys
        self._values = values

    @property
    def version(self) -> Version:
        return version_of(self._look())

    def snapshot(self) -> "MapView[K, V]":
        """Return the map as it is now, at constant cost; later changes do not change what is returned."""
        found = self._look()
        return MapView(lambda: found, self._keys, self._values)

    def __getitem__(self, key: K) -> V:
        try:
            found = sorted_map_of(self._look).get(self._keys.encode(key))
        except ValueRefusedError:
            found = None  # no such key can be in it
        if found is None:
            raise KeyError(key)
        return self._values.decode(found)

    def __len__(self) -> int:
        return len(sorted_map_of(self._look))

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys of one state, whatever changes meanwhile."""
        return (self._keys.decode(key) for key, _ in sorted_map_of(self._look).items())

    def keys(self) -> KeysView[K]:
        return KeysView(self.snapshot())

    def items(self) -> ItemsView[K, V]:
        return ItemsView(self.snapshot())

    def values(self) -> ValuesView[V]:
        return ValuesView(self.snapshot())


class MapReader(MapView[K, V]):
    """A view of the map on this node, that also waits for changes."""

    def __init__(self, handle: Handle, keys: Codec[K], values: Codec[V]) -> None:
        super().__init__(handle.look, keys, values)
        self._handle = handle

    def when(self) -> CollectionWhen:
        return CollectionWhen(self._handle)


class MapWriter(MapReader[K, V]):
    """Changes the map. A change returns when it is committed and this node's view shows it.

    Raises:
        ValueRefusedError: from every change, for a key or value of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(
        self, handle: Handle, keys: Codec[K], values: Codec[V], commands: MapCommands[K, V], writing: Writing
    ) -> None:
        super().__init__(handle, keys, values)
        self._commands = commands
        self._writing = writing

    async def insert(self, key: K, value: V) -> Written:
        return await self._writing.do(self._commands.insert(key, value))

    async def extend(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> Extended:
        """Insert all items as one atomic change; of two with one key the later stays."""
        return await self._writing.do(self._commands.extend(items))

    async def compare_exchange(self, key: K, expected: V | None, new: V | None) -> Exchanged[V]:
        """Set the key to ``new`` (None: remove it) if it holds ``expected`` (None: if it is absent)."""
        return await self._writing.do(self._commands.compare_exchange(key, expected, new))

    async def pop(self, key: K) -> Popped[V]:
        """Remove the key and return what it held."""
        return await self._writing.do(self._commands.pop(key))

    async def remove(self, *keys: K) -> Removed:
        return await self._writing.do(self._commands.remove(keys))

    async def clear(self) -> Removed:
        return await self._writing.do(self._commands.clear())

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class MapClient(Generic[K, V]):
    """The map through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(self, remote: Remote, keys: Codec[K], values: Codec[V], commands: MapCommands[K, V]) -> None:
        self._remote = remote
        self._keys = keys
        self._values = values
        self._commands = commands

    def insert(self, key: K, value: V) -> Written:
        return self._remote.do(self._commands.insert(key, value))

    def extend(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> Extended:
        """Insert all items as one atomic change; of two with one key the later stays."""
        return self._remote.do(self._commands.extend(items))

    def compare_exchange(self, key: K, expected: V | None, new: V | None) -> Exchanged[V]:
        """Set the key to ``new`` (None: remove it) if it holds ``expected`` (None: if it is absent)."""
        return self._remote.do(self._commands.compare_exchange(key, expected, new))

    def pop(self, key: K) -> Popped[V]:
        """Remove the key and return what it held."""
        return self._remote.do(self._commands.pop(key))

    def remove(self, *keys: K) -> Removed:
        return self._remote.do(self._commands.remove(keys))

    def clear(self) -> Removed:
        return self._remote.do(self._commands.clear())

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def get(self, key: K) -> V | None:
        """Return what the key holds, or None."""
        answer = self._remote.ask("map-get", **member("key", self._keys.encode(key)))
        item = None if answer is None else answer.item()
        return None if item is None else self._values.decode(item.data("value"))

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield all items in the order of the keys' bytes, page by page; each page is of one state."""
        for item in self._remote.items():
            yield self._keys.decode(item.data("key")), self._values.decode(item.data("value"))

    def length(self) -> int:
        return self._remote.length()

    def version(self) -> Version:
        return self._remote.version()


class Map(Generic[K, V]):
    """The definition of a map, shared by all who use it: ``ORDERS = Map("orders", str, Order)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        key: the type of the keys: ``str``, ``int``, ``bytes``, or what msgspec decodes from JSON.
        value: the type of the values: a ``msgspec.Struct``, a dataclass, ``str``, ``bytes``, or what msgspec
            decodes from JSON.
    """

    def __init__(self, name: str, key: type[K], value: type[V]) -> None:
        self.name = name
        self._keys = Codec(key, key=True)
        self._values = Codec(value)
        self.commands = MapCommands(name, self._keys, self._values)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="map")

    def reader(self, group: Group) -> MapReader[K, V]:
        """Return the map on this node; on a node whose preference is OBSERVER it costs no voter anything."""
        return MapReader(self._handle(group), self._keys, self._values)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> MapWriter[K, V]:
        """Return the map on this node, to be changed too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return MapWriter(handle, self._keys, self._values, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> MapClient[K, V]:
        """Return the map of a group that runs elsewhere; ``consistency`` is of its reads."""
        remote = Remote(client, self.commands, consistency)
        return MapClient(remote, self._keys, self._values, self.commands)
