"""What a group's collections hold, as frozen values that share what did not change."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from node.machines.collections.reading import CollectionFields
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap
from node.machines.fields import put_bytes

# What an item costs beside the bytes of its key and value. Equal on every node, because the store's limit is
# judged with it: without it one-byte items would take fifty times what they count.
ITEM_COST: Final = 64
QUEUE_ITEM_COST: Final = 192  # it is in two trees


class QueueEntry(Struct, frozen=True, gc=False):
    """``sequence``: the earlier of two entries with the same priority has the lower one."""

    priority: int
    sequence: int
    value: bytes


class Queue(Struct, frozen=True, gc=False):
    """Attributes:
    entries: by key.
    order: the key of each entry by its rank, first whatever is served first.
    next_sequence: of the next entry.
    capacity: the most entries; 0: any number.
    """

    entries: SortedMap[QueueEntry]
    order: SortedMap[bytes]
    next_sequence: int
    capacity: int

    def __len__(self) -> int:
        return len(self.entries)


Body = SortedMap[bytes] | PersistentSequence | Queue


class Collection(Struct, frozen=True, gc=False):
    """One named collection.

    Attributes:
        kind: a key of ``operations.KINDS``.
        version: index of the last entry that changed it.
        size: what it counts towards the store's limit, in bytes.
        body: its items. Those of a set are the keys of a map without values; a cell and a once hold at most
            one item, under the empty key.
    """

    kind: str
    version: int
    size: int
    body: Body


class CollectionStep(Struct, frozen=True, gc=False):
    """What a command makes of a collection.

    Attributes:
        body: the collection's new one; the same as before if the command had no effect.
        grown: by how many bytes it counts more.
        result: for the caller.
    """

    body: Body
    grown: int
    result: dict[str, Any]


class Command(Struct, frozen=True):
    """One operation that changes a collection.

    Attributes:
        kind: of the collections that have it.
        read: takes its members; raises CommandError if they are malformed.
        run: applies it to a body; the second argument is what ``read`` returned.
        shows: the result may hold a value that was in the collection.
    """

    kind: str
    read: Callable[[CollectionFields], Any]
    run: Callable[[Any, Any], CollectionStep]
    shows: bool = False


def item(key: bytes | None, value: bytes | None) -> dict[str, Any] | None:
    """Return an item as results show it; None if there is no value."""
    if value is None:
        return None
    shown: dict[str, Any] = {}
    if key is not None:
        put_bytes(shown, "key", key)
    put_bytes(shown, "value", value)
    return shown
