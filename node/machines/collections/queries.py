"""Queries of the collections. Lists come in pages, each of one state; ``next`` is passed on as ``after``."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

from node.machines.base import CommandError
from node.machines.collections.queues import in_order, queue_item, rank, served_at
from node.machines.collections.reading import INDEX_MAX, KEY_BYTES_MAX, CollectionFields
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import Body, Collection, Queue, item
from node.machines.fields import put_bytes

LIST_LIMIT_DEFAULT: Final = 1000
LIST_LIMIT_MAX: Final = 10_000
LIST_BYTES_MAX: Final = 4 * 1024 * 1024
_RANK_BYTES: Final = 16


class CollectionQuery(Struct, frozen=True):
    """One question about a collection.

    Attributes:
        kinds: of the collections that answer it.
        read: takes its members; raises CommandError if they are malformed.
        answer: the second argument is what ``read`` returned.
    """

    kinds: frozenset[str]
    read: Callable[[CollectionFields], Any]
    answer: Callable[[Any, Any], dict[str, Any]]


def collection_queries() -> dict[str, CollectionQuery]:
    """Return the queries of one collection, by name."""
    return {
        "map-get": CollectionQuery(frozenset({"map"}), _key, _get),
        "vec-get": CollectionQuery(frozenset({"vec"}), _index, _get_at),
        "set-contains": CollectionQuery(frozenset({"set"}), _elements, _contains),
        "cell-get": CollectionQuery(frozenset({"cell"}), _nothing, _get_only),
        "once-get": CollectionQuery(frozenset({"once"}), _nothing, _get_only),
        "queue-get": CollectionQuery(frozenset({"queue"}), _key, _get_entry),
        "queue-peek": CollectionQuery(frozenset({"queue"}), _last, _peek),
        "list": CollectionQuery(frozenset({"map", "vec", "set", "queue"}), _page, _list),
    }


def describe(name: bytes, collection: Collection) -> dict[str, Any]:
    """Return what a collection is, without its items."""
    shown = {
        "name": name.decode(),
        "kind": collection.kind,
        "version": collection.version,
        "length": len(collection.body),
        "size": collection.size,
    }
    if isinstance(collection.body, Queue):
        shown["capacity"] = collection.body.capacity or None
    return shown


# ---- members ------------------------------------------------------------------
class _Page(Struct, frozen=True):
    after: bytes | None
    limit: int


def _key(fields: CollectionFields) -> bytes:
    return fields.key()


def _index(fields: CollectionFields) -> int:
    return fields.index()


def _elements(fields: CollectionFields) -> tuple[bytes, ...]:
    return fields.keys("values")


def _nothing(_fields: CollectionFields) -> None:
    return None


def _last(fields: CollectionFields) -> bool:
    return fields.boolean("last")


def _page(fields: CollectionFields) -> _Page:
    after = fields.optional_bytes_of("after", bytes_max=KEY_BYTES_MAX)
    return _Page(after, fields.integer("limit", default=LIST_LIMIT_DEFAULT, low=1, high=LIST_LIMIT_MAX))


# ---- answers ------------------------------------------------------------------
def _get(body: SortedMap[bytes], key: bytes) -> dict[str, Any]:
    return {"item": item(key, body.get(key))}


def _get_only(body: SortedMap[bytes], _: None) -> dict[str, Any]:
    return {"item": item(None, body.get(b""))}


def _get_at(body: PersistentSequence, index: int) -> dict[str, Any]:
    return {"item": item(None, body.get(index)) if index < len(body) else None}


def _contains(body: SortedMap[bytes], elements: tuple[bytes, ...]) -> dict[str, Any]:
    return {"contained": [body.get(element) is not None for element in elements]}


def _get_entry(queue: Queue, key: bytes) -> dict[str, Any]:
    return {"item": queue_item(key, queue.entries.get(key))}


def _peek(queue: Queue, last: bool) -> dict[str, Any]:
    found = served_at(queue, last=last)
    return {"item": None if found is None else queue_item(*found)}


def _list(body: Body, page: _Page) -> dict[str, Any]:
    items: list[dict[str, Any] | None] = []
    budget = LIST_BYTES_MAX
    place = None
    answer: dict[str, Any] = {"items": items, "next": None}
    for following, size, shown in _rows(body, page.after):
        budget -= size
        if len(items) == page.limit or (items and budget < 0):
            assert place is not None
            del answer["next"]
            put_bytes(answer, "next", place)
            break
        items.append(shown)
        place = following
    return answer


_Row = tuple[bytes, int, dict[str, Any] | None]


def _rows(body: Body, after: bytes | None) -> Iterable[_Row]:
    """Yield the items behind ``after``: what to pass as ``after`` for the next, bytes, and the item."""
    match body:
        case SortedMap():
            return _rows_of_map(body, b"" if after is None else after + b"\x00")
        case PersistentSequence():
            return _rows_of_vec(body, 0 if after is None else _position(after) + 1)
        case Queue():
            return _rows_of_queue(body, b"" if after is None else _rank(after) + b"\x00")


def _rows_of_map(body: SortedMap[bytes], start: bytes) -> Iterator[_Row]:
    for key, value in body.items(start):
        yield key, len(key) + len(value), item(key, value)


def _rows_of_vec(body: PersistentSequence, start: int) -> Iterator[_Row]:
    for index, value in enumerate(body.values(min(start, len(body))), start):
        yield str(index).encode(), len(value), item(None, value)


def _rows_of_queue(queue: Queue, start: bytes) -> Iterator[_Row]:
    for key, entry in in_order(queue, start):
        place = rank(entry.priority, entry.sequence)
        yield place.hex().encode(), len(key) + len(entry.value), queue_item(key, entry)


def _position(after: bytes) -> int:
    if not after.isdigit() or len(after) > len(str(INDEX_MAX)):
        raise _not_a_place()
    return int(after)


def _rank(after: bytes) -> bytes:
    try:
        place = bytes.fromhex(after.decode())
    except ValueError:
        raise _not_a_place() from None
    if len(place) != _RANK_BYTES:
        raise _not_a_place()
    return place


def _not_a_place() -> CommandError:
    return CommandError("after-invalid", "`after` is what `next` of the page before was")
