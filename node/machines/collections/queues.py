"""Commands of priority queues.

The order in which entries are served: the highest priority first, and among equal priorities the entry that
came first. A full bounded queue drops its last entry, which may be the one that was just pushed.
"""

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

from node.machines.base import CommandError
from node.machines.collections.reading import (
    ITEMS_MAX,
    PRIORITY_MAX,
    VALUE_BYTES_MAX,
    CollectionFields,
)
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import (
    QUEUE_ITEM_COST,
    CollectionStep,
    Command,
    Queue,
    QueueEntry,
    item,
)


def queue_commands() -> dict[str, Command]:
    """Return the commands of priority queues, by name."""
    return {
        "queue-push": Command("queue", _entries, _push),
        "queue-pop": Command("queue", _last, _pop, shows=True),
        "queue-reprioritize": Command("queue", _key_and_priority, _reprioritize),
        "queue-replace": Command("queue", _key_and_value, _replace),
        "queue-cas": Command("queue", _exchange_of_key, _exchange, shows=True),
        "queue-remove": Command("queue", _keys, _remove),
        "queue-remove-range": Command("queue", _range, _remove_range),
    }


def empty_queue(capacity: int) -> Queue:
    return Queue(SortedMap.empty(), SortedMap.empty(), 0, capacity)


def rank(priority: int, sequence: int) -> bytes:
    """Return 16 bytes whose order is the order of service."""
    return (PRIORITY_MAX - priority).to_bytes(8, "big") + sequence.to_bytes(8, "big")


def queue_item(key: bytes, entry: QueueEntry | None) -> dict[str, Any] | None:
    """Return an entry as results show it."""
    shown = None if entry is None else item(key, entry.value)
    if shown is not None and entry is not None:
        shown["priority"] = entry.priority
    return shown


# ---- members ------------------------------------------------------------------
def _entries(fields: CollectionFields) -> tuple[tuple[bytes, int, bytes], ...]:
    keys, priorities, values = fields.keys(), fields.priorities(), fields.values()
    if not len(keys) == len(priorities) == len(values):
        raise CommandError(
            "lengths-differ", f"{len(keys)} keys, {len(priorities)} priorities and {len(values)} values"
        )
    return tuple(zip(keys, priorities, values, strict=True))


def _last(fields: CollectionFields) -> bool:
    return fields.boolean("last")


def _key_and_priority(fields: CollectionFields) -> tuple[bytes, int]:
    return fields.key(), fields.priority("priority")


def _key_and_value(fields: CollectionFields) -> tuple[bytes, bytes]:
    return fields.key(), fields.value()


def _exchange_of_key(fields: CollectionFields) -> tuple[bytes, bytes, bytes | None]:
    """Take ``expect``, which is a value, and ``value``; null removes the entry."""
    expect = fields.bytes_of("expect", bytes_max=VALUE_BYTES_MAX)
    return fields.key(), expect, fields.nullable_bytes_of("value", bytes_max=VALUE_BYTES_MAX)


def _keys(fields: CollectionFields) -> tuple[bytes, ...]:
    return fields.keys()


def _range(fields: CollectionFields) -> tuple[int, int]:
    """Take the lowest and the highest priority; both belong to the range."""
    return fields.priority("low"), fields.priority("high")


# ---- changes ------------------------------------------------------------------
def cost(key: bytes, value: bytes) -> int:
    """Return what an entry counts towards the store's limit, in bytes."""
    return QUEUE_ITEM_COST + 2 * len(key) + len(value)


def _put(queue: Queue, key: bytes, priority: int, value: bytes) -> tuple[Queue, int]:
    """Return the queue with this entry, and by how much it grew; an entry keeps its place if it can."""
    before = queue.entries.get(key)
    order, grown, next_sequence = queue.order, cost(key, value), queue.next_sequence
    if before is not None and before.priority == priority:
        sequence = before.sequence
    else:
        sequence, next_sequence = next_sequence, next_sequence + 1
    if before is not None:
        grown -= cost(key, before.value)
    if before is None or sequence != before.sequence:
        if before is not None:
            order = order.remove(rank(before.priority, before.sequence))
        order = order.set(rank(priority, sequence), key)
    entries = queue.entries.set(key, QueueEntry(priority, sequence, value))
    return Queue(entries, order, next_sequence, queue.capacity), grown


def _drop(queue: Queue, key: bytes, entry: QueueEntry) -> tuple[Queue, int]:
    """Return the queue without this entry, and by how much it grew."""
    order = queue.order.remove(rank(entry.priority, entry.sequence))
    left = Queue(queue.entries.remove(key), order, queue.next_sequence, queue.capacity)
    return left, -cost(key, entry.value)


def _drop_all(queue: Queue, keys: Iterable[bytes]) -> CollectionStep:
    found = {key: entry for key in keys if (entry := queue.entries.get(key)) is not None}
    if not found:
        return CollectionStep(queue, 0, {"removed": 0})
    entries = queue.entries.without(found.keys())
    order = queue.order.without({rank(entry.priority, entry.sequence) for entry in found.values()})
    grown = -sum(cost(key, entry.value) for key, entry in found.items())
    left = Queue(entries, order, queue.next_sequence, queue.capacity)
    return CollectionStep(left, grown, {"removed": len(found)})


def _push(queue: Queue, pushed: tuple[tuple[bytes, int, bytes], ...]) -> CollectionStep:
    after, grown, evicted, replaced = queue, 0, 0, 0
    for key, priority, value in pushed:
        before = len(after)
        after, more = _put(after, key, priority, value)
        grown += more
        replaced += len(after) == before
        if after.capacity and len(after) > after.capacity:
            last = _served_last(after)
            assert last is not None
            after, more = _drop(after, *last)
            grown += more
            evicted += 1
    kept = sum(after.entries.get(key) is not None for key in {key for key, _, _ in pushed})
    result = {"kept": kept, "replaced": replaced, "evicted": evicted, "length": len(after)}
    return CollectionStep(after, grown, result)


def in_order(queue: Queue, start: bytes = b"") -> Iterator[tuple[bytes, QueueEntry]]:
    """Yield the entries with their keys in the order of service, from the rank ``start`` on."""
    for _, key in queue.order.items(start):
        yield key, _entry(queue, key)


def served_first(queue: Queue) -> tuple[bytes, QueueEntry] | None:
    """Return the entry that is served first, with its key; None if the queue is empty."""
    return next(in_order(queue), None)


def _served_last(queue: Queue) -> tuple[bytes, QueueEntry] | None:
    last = queue.order.last()
    return None if last is None else (last[1], _entry(queue, last[1]))


def served_at(queue: Queue, *, last: bool) -> tuple[bytes, QueueEntry] | None:
    """Return the entry at one end of the queue, with its key; None if the queue is empty."""
    return _served_last(queue) if last else served_first(queue)


def _entry(queue: Queue, key: bytes) -> QueueEntry:
    entry = queue.entries.get(key)
    assert entry is not None
    return entry


def _pop(queue: Queue, last: bool) -> CollectionStep:
    found = served_at(queue, last=last)
    if found is None:
        return CollectionStep(queue, 0, {"item": None})
    after, grown = _drop(queue, *found)
    return CollectionStep(after, grown, {"item": queue_item(*found)})


def _reprioritize(queue: Queue, args: tuple[bytes, int]) -> CollectionStep:
    key, priority = args
    entry = queue.entries.get(key)
    if entry is None:
        return CollectionStep(queue, 0, {"moved": False})
    after, grown = _put(queue, key, priority, entry.value)
    return CollectionStep(after, grown, {"moved": True})


def _replace(queue: Queue, args: tuple[bytes, bytes]) -> CollectionStep:
    key, value = args
    entry = queue.entries.get(key)
    if entry is None:
        return CollectionStep(queue, 0, {"replaced": False})
    after, grown = _put(queue, key, entry.priority, value)
    return CollectionStep(after, grown, {"replaced": True})


def _exchange(queue: Queue, args: tuple[bytes, bytes, bytes | None]) -> CollectionStep:
    key, expect, value = args
    entry = queue.entries.get(key)
    if entry is None or entry.value != expect:
        return CollectionStep(queue, 0, {"swapped": False, "item": queue_item(key, entry)})
    after, grown = _drop(queue, key, entry) if value is None else _put(queue, key, entry.priority, value)
    return CollectionStep(after, grown, {"swapped": True})


def _remove(queue: Queue, keys: tuple[bytes, ...]) -> CollectionStep:
    return _drop_all(queue, keys)


def _remove_range(queue: Queue, bounds: tuple[int, int]) -> CollectionStep:
    low, high = bounds
    found = takewhile(lambda item: item[1].priority >= low, in_order(queue, rank(high, 0)))
    # A range may hold the whole queue, and one command must not take seconds.
    keys = [key for key, _ in islice(found, ITEMS_MAX)]
    step = _drop_all(queue, keys)
    return CollectionStep(step.body, step.grown, {**step.result, "more": next(found, None) is not None})
