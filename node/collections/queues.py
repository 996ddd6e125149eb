"""Priority queues: keyed entries, the highest priority first, and among equal ones the oldest first."""

from collections.abc import Collection as AbstractCollection
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

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
from node.collections.maps import exchanged_of
from node.collections.outcomes import Enqueued, Exchanged, Placed, Popped, PriorityEntry, Removed, Version
from node.collections.wire import Change, MachineResult, member, members
from node.group.group import Group
from node.machines.collections.queues import empty_queue, in_order, served_at
from node.machines.collections.state import Queue, QueueEntry

K = TypeVar("K")
V = TypeVar("V")


class _Entries(Generic[K, V]):
    """Reads entries of answers and of the state."""

    def __init__(self, keys: Codec[K], values: Codec[V]) -> None:
        self.keys = keys
        self.values = values

    def of_item(self, item: MachineResult | None) -> PriorityEntry[K, V] | None:
        if item is None:
            return None
        key, value = self.keys.decode(item.data("key")), self.values.decode(item.data("value"))
        return PriorityEntry(key, item.number("priority"), value)

    def of_state(self, key: bytes, entry: QueueEntry) -> PriorityEntry[K, V]:
        return PriorityEntry(self.keys.decode(key), entry.priority, self.values.decode(entry.value))


class PriorityQueueCommands(Commands, Generic[K, V]):
    """The changes of a priority queue, as ``Change`` values for ``execute_together``."""

    def __init__(self, name: str, entries: _Entries[K, V], capacity: int | None) -> None:
        declared: dict[str, Any] = {} if capacity is None else {"capacity": capacity}
        super().__init__(name, "queue", **declared)
        self._entries = entries

    def extend(self, entries: Iterable[tuple[K, int, V]]) -> Change[Enqueued]:
        """``entries``: key, priority and value of each."""
        pushed = list(entries)
        return self.change(
            "queue-push",
            _enqueued_of,
            priorities=[priority for _, priority, _ in pushed],
            **members("keys", (self._entries.keys.encode(key) for key, _, _ in pushed)),
            **members("values", (self._entries.values.encode(value) for _, _, value in pushed)),
        )

    def pop(self, *, last: bool = False) -> Change[Popped[PriorityEntry[K, V]]]:
        def read(answer: MachineResult) -> Popped[PriorityEntry[K, V]]:
            taken = self._entries.of_item(answer.item())
            return Popped(answer.version, taken is not None, taken)

        return self.change("queue-pop", read, last=last)

    def update_priority(self, key: K, priority: int) -> Change[Placed]:
        return self.change(
            "queue-reprioritize",
            lambda answer: Placed(answer.version, answer.flag("moved")),
            priority=priority,
            **member("key", self._entries.keys.encode(key)),
        )

    def update_value(self, key: K, value: V) -> Change[Placed]:
        return self.change(
            "queue-replace",
            lambda answer: Placed(answer.version, answer.flag("replaced")),
            **member("key", self._entries.keys.encode(key)),
            **member("value", self._entries.values.encode(value)),
        )

    def compare_exchange(self, key: K, expected: V, new: V | None) -> Change[Exchanged[V]]:
        return self.change(
            "queue-cas",
            lambda answer: exchanged_of(answer, self._entries.values),
            **member("key", self._entries.keys.encode(key)),
            **member("expect", self._entries.values.encode(expected)),
            **member("value", None if new is None else self._entries.values.encode(new)),
        )

    def remove(self, keys: Iterable[K]) -> Change[Removed]:
        return self.change(
            "queue-remove", removed_of, **members("keys", map(self._entries.keys.encode, keys))
        )

    def remove_range(self, low: int, high: int) -> Change[Removed]:
        return self.change(
            "queue-remove-range",
            lambda answer: Removed(answer.version, answer.number("removed"), answer.flag("more")),
            low=low,
            high=high,
        )


def _enqueued_of(answer: MachineResult) -> Enqueued:
    return Enqueued(
        answer.version,
        kept=answer.number("kept"),
        replaced=answer.number("replaced"),
        evicted=answer.number("evicted"),
        length=answer.number("length"),
    )


class PriorityQueueView(AbstractCollection[PriorityEntry[K, V]]):
    """A priority queue as one node has applied it; one that never changes if it was made by ``snapshot``.

    Iteration is in the order of service. ``key in queue`` asks for a key.

    Raises:
        WrongMachineError: from every method, if the collection has another kind.
        StoredValueError: from every method that returns an entry of another type.
    """

    def __init__(self, look: Look, entries: _Entries[K, V]) -> None:
        self._look = look
        self._entries = entries

    def _body(self) -> Queue:
        found = self._look()
        if found is None:
            return empty_queue(0)
        assert isinstance(found.body, Queue)
        return found.body

    @property
    def version(self) -> Version:
        return version_of(self._look())

    def snapshot(self) -> "PriorityQueueView[K, V]":
        """Return the queue as it is now, at constant cost; later changes do not change what is returned."""
        found = self._look()
        return PriorityQueueView(lambda: found, self._entries)

    def get(self, key: K) -> PriorityEntry[K, V] | None:
        encoded = self._entries.keys.encode(key)
        found = self._body().entries.get(encoded)
        return None if found is None else self._entries.of_state(encoded, found)

    def first(self) -> PriorityEntry[K, V] | None:
        """Return the entry that is served first; None if the queue is empty."""
        return self._at(last=False)

    def last(self) -> PriorityEntry[K, V] | None:
        """Return the entry that is served last, which a full queue drops; None if the queue is empty."""
        return self._at(last=True)

    def _at(self, *, last: bool) -> PriorityEntry[K, V] | None:
        found = served_at(self._body(), last=last)
        return None if found is None else self._entries.of_state(*found)

    def __contains__(self, key: object) -> bool:
        try:
            encoded = self._entries.keys.encode(key)  # type: ignore[arg-type]
        except ValueRefusedError:
            return False  # no such key can be in it
        return self._body().entries.get(encoded) is not None

    def __len__(self) -> int:
        return len(self._body())

    def __iter__(self) -> Iterator[PriorityEntry[K, V]]:
        """Iterate over the entries of one state, whatever changes meanwhile."""
        return (self._entries.of_state(key, entry) for key, entry in in_order(self._body()))


class PriorityQueueReader(PriorityQueueView[K, V]):
    """A view of the queue on this node, that also waits for changes."""

    def __init__(self, handle: Handle, entries: _Entries[K, V]) -> None:
        super().__init__(handle.look, entries)
        self._handle = handle

    def when(self) -> CollectionWhen:
        return CollectionWhen(self._handle)


class PriorityQueueWriter(PriorityQueueReader[K, V]):
    """Changes the queue. A change returns when it is committed and this node's view shows it.

    Raises:
        ValueRefusedError: from every change, for a key or value of another type; nothing was sent.
        CommandFailedError, NotExecutedError, OutcomeUnknownError, GroupClosedError: as ``Group.execute``.
    """

    def __init__(
        self,
        handle: Handle,
        entries: _Entries[K, V],
        commands: PriorityQueueCommands[K, V],
        writing: Writing,
    ) -> None:
        super().__init__(handle, entries)
        self._commands = commands
        self._writing = writing

    async def push(self, key: K, priority: int, value: V) -> Enqueued:
        """Put an entry in, or replace the entry of this key. A full queue drops what it serves last."""
        return await self._writing.do(self._commands.extend(((key, priority, value),)))

    async def extend(self, entries: Iterable[tuple[K, int, V]]) -> Enqueued:
        """Push all entries (key, priority, value) as one atomic change."""
        return await self._writing.do(self._commands.extend(entries))

    async def pop(self) -> Popped[PriorityEntry[K, V]]:
        """Take the entry that is served first."""
        return await self._writing.do(self._commands.pop())

    async def pop_last(self) -> Popped[PriorityEntry[K, V]]:
        """Take the entry that is served last."""
        return await self._writing.do(self._commands.pop(last=True))

    async def update_priority(self, key: K, priority: int) -> Placed:
        return await self._writing.do(self._commands.update_priority(key, priority))

    async def update_value(self, key: K, value: V) -> Placed:
        return await self._writing.do(self._commands.update_value(key, value))

    async def compare_exchange(self, key: K, expected: V, new: V | None) -> Exchanged[V]:
        """Set the entry's value to ``new`` (None: remove the entry) if it is ``expected``."""
        return await self._writing.do(self._commands.compare_exchange(key, expected, new))

    async def remove(self, *keys: K) -> Removed:
        return await self._writing.do(self._commands.remove(keys))

    async def remove_range(self, low: int, high: int) -> Removed:
        """Remove at most 10,000 entries with a priority from ``low`` to ``high``, both included."""
        return await self._writing.do(self._commands.remove_range(low, high))

    async def clear(self) -> Removed:
        return await self._writing.do(self._commands.clear())

    async def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return await self._writing.do(self._commands.drop())


class PriorityQueueClient(Generic[K, V]):
    """The queue through the HTTP API of a group. Errors are those of ``BondstoneClient``."""

    def __init__(
        self, remote: Remote, entries: _Entries[K, V], commands: PriorityQueueCommands[K, V]
    ) -> None:
        self._remote = remote
        self._entries = entries
        self._commands = commands

    def push(self, key: K, priority: int, value: V) -> Enqueued:
        """Put an entry in, or replace the entry of this key. A full queue drops what it serves last."""
        return self._remote.do(self._commands.extend(((key, priority, value),)))

    def extend(self, entries: Iterable[tuple[K, int, V]]) -> Enqueued:
        """Push all entries (key, priority, value) as one atomic change."""
        return self._remote.do(self._commands.extend(entries))

    def pop(self) -> Popped[PriorityEntry[K, V]]:
        """Take the entry that is served first."""
        return self._remote.do(self._commands.pop())

    def pop_last(self) -> Popped[PriorityEntry[K, V]]:
        """Take the entry that is served last."""
        return self._remote.do(self._commands.pop(last=True))

    def update_priority(self, key: K, priority: int) -> Placed:
        return self._remote.do(self._commands.update_priority(key, priority))

    def update_value(self, key: K, value: V) -> Placed:
        return self._remote.do(self._commands.update_value(key, value))

    def compare_exchange(self, key: K, expected: V, new: V | None) -> Exchanged[V]:
        """Set the entry's value to ``new`` (None: remove the entry) if it is ``expected``."""
        return self._remote.do(self._commands.compare_exchange(key, expected, new))

    def remove(self, *keys: K) -> Removed:
        return self._remote.do(self._commands.remove(keys))

    def remove_range(self, low: int, high: int) -> Removed:
        """Remove at most 10,000 entries with a priority from ``low`` to ``high``, both included."""
        return self._remote.do(self._commands.remove_range(low, high))

    def clear(self) -> Removed:
        return self._remote.do(self._commands.clear())

    def drop(self) -> Removed:
        """Remove the collection itself from the group."""
        return self._remote.do(self._commands.drop())

    def get(self, key: K) -> PriorityEntry[K, V] | None:
        answer = self._remote.ask("queue-get", **member("key", self._entries.keys.encode(key)))
        return None if answer is None else self._entries.of_item(answer.item())

    def first(self) -> PriorityEntry[K, V] | None:
        """Return the entry that is served first; None if the queue is empty."""
        answer = self._remote.ask("queue-peek", last=False)
        return None if answer is None else self._entries.of_item(answer.item())

    def last(self) -> PriorityEntry[K, V] | None:
        """Return the entry that is served last; None if the queue is empty."""
        answer = self._remote.ask("queue-peek", last=True)
        return None if answer is None else self._entries.of_item(answer.item())

    def entries(self) -> Iterator[PriorityEntry[K, V]]:
        """Yield all entries in the order of service, page by page; each page is of one state."""
        for item in self._remote.items():
            entry = self._entries.of_item(item)
            assert entry is not None
            yield entry

    def length(self) -> int:
        return self._remote.length()

    def version(self) -> Version:
        return self._remote.version()


class PriorityQueue(Generic[K, V]):
    """The definition of a priority queue, shared by all who use it.

    For example ``JOBS = PriorityQueue("jobs", str, Job, capacity=100)``.

    Args:
        name: of the collection in its group, 1 to 128 bytes of UTF-8.
        key: the type of the keys, as of a map's keys.
        value: the type of the values, as of a map's values.
        capacity: the most entries, 1 to 1,000,000; None: any number. A full queue drops what it would serve
            last, which may be the entry that was just pushed.
    """

    def __init__(self, name: str, key: type[K], value: type[V], *, capacity: int | None = None) -> None:
        self.name = name
        self._entries = _Entries(Codec(key, key=True), Codec(value))
        self.commands = PriorityQueueCommands(name, self._entries, capacity)

    def _handle(self, group: Group) -> Handle:
        return Handle(group=group, name=self.name, kind="queue")

    def reader(self, group: Group) -> PriorityQueueReader[K, V]:
        return PriorityQueueReader(self._handle(group), self._entries)

    def writer(self, group: Group, *, timeout_s: float | None = None) -> PriorityQueueWriter[K, V]:
        """Return the queue on this node, to be changed too; ``timeout_s`` is of one change."""
        handle = self._handle(group)
        return PriorityQueueWriter(handle, self._entries, self.commands, Writing(handle, timeout_s))

    def client(self, client: BondstoneClient, *, consistency: str = "strong") -> PriorityQueueClient[K, V]:
        """Return the queue of a group that runs elsewhere; ``consistency`` is of its reads."""
        return PriorityQueueClient(Remote(client, self.commands, consistency), self._entries, self.commands)
