"""Commands of maps, sets, cells and onces: all of them are sorted maps inside."""

from typing import Any

from node.machines.base import CommandError
from node.machines.collections.reading import VALUE_BYTES_MAX, CollectionFields
from node.machines.collections.sorted_map import SortedMap
from node.machines.collections.state import ITEM_COST, CollectionStep, Command, item

_ONLY = b""  # the key of the one item of a cell or a once
_Map = SortedMap[bytes]


def map_commands() -> dict[str, Command]:
    """Return the commands of the four kinds, by name."""
    return {
        "map-insert": Command("map", _key_and_value, _insert),
        "map-extend": Command("map", _pairs, _extend),
        "map-cas": Command("map", _exchange_of_key, _exchange, shows=True),
        "map-pop": Command("map", _key, _pop, shows=True),
        "map-remove": Command("map", _keys, _remove),
        "set-add": Command("set", _elements, _add),
        "set-remove": Command("set", _elements, _remove),
        "cell-write": Command("cell", _only_value, _insert),
        "cell-cas": Command("cell", _exchange_of_only, _exchange_only, shows=True),
        "once-write": Command("once", _only_value, _write_once, shows=True),
    }


# ---- members ------------------------------------------------------------------
def _key(fields: CollectionFields) -> bytes:
    return fields.key()


def _keys(fields: CollectionFields) -> tuple[bytes, ...]:
    return fields.keys()


def _elements(fields: CollectionFields) -> tuple[bytes, ...]:
    return fields.keys("values")


def _key_and_value(fields: CollectionFields) -> tuple[bytes, bytes]:
    return fields.key(), fields.value()


def _only_value(fields: CollectionFields) -> tuple[bytes, bytes]:
    return _ONLY, fields.value()


def _pairs(fields: CollectionFields) -> dict[bytes, bytes]:
    keys, values = fields.keys(), fields.values()
    if len(keys) != len(values):
        raise CommandError("lengths-differ", f"{len(keys)} keys and {len(values)} values")
    return dict(zip(keys, values, strict=True))


def _exchange_of_key(fields: CollectionFields) -> tuple[bytes, bytes | None, bytes | None]:
    return fields.key(), *_exchange_members(fields)


def _exchange_of_only(fields: CollectionFields) -> tuple[bytes, bytes | None, bytes | None]:
    return _ONLY, *_exchange_members(fields)


def _exchange_members(fields: CollectionFields) -> tuple[bytes | None, bytes | None]:
    """Take ``expect`` and ``value``; null stands for "no item"."""
    expect = fields.nullable_bytes_of("expect", bytes_max=VALUE_BYTES_MAX)
    return expect, fields.nullable_bytes_of("value", bytes_max=VALUE_BYTES_MAX)


# ---- changes ------------------------------------------------------------------
def _insert(body: _Map, args: tuple[bytes, bytes]) -> CollectionStep:
    key, value = args
    before = body.get(key)
    return CollectionStep(body.set(key, value), _growth(key, before, value), {"replaced": before is not None})


def _growth(key: bytes, before: bytes | None, after: bytes | None) -> int:
    return _cost(key, after) - _cost(key, before)


def _cost(key: bytes, value: bytes | None) -> int:
    return 0 if value is None else ITEM_COST + len(key) + len(value)


def _extend(body: _Map, pairs: dict[bytes, bytes]) -> CollectionStep:
    grown = sum(_growth(key, body.get(key), value) for key, value in pairs.items())
    after = body.update(pairs)
    added = len(after) - len(body)
    result = {"added": added, "replaced": len(pairs) - added}
    return CollectionStep(after if pairs else body, grown, result)


def _add(body: _Map, elements: tuple[bytes, ...]) -> CollectionStep:
    fresh = {element: b"" for element in elements if body.get(element) is None}
    grown = sum(_cost(element, b"") for element in fresh)
    return CollectionStep(body.update(fresh) if fresh else body, grown, {"added": len(fresh)})


def _remove(body: _Map, keys: tuple[bytes, ...]) -> CollectionStep:
    found = {key: value for key in keys if (value := body.get(key)) is not None}
    grown = -sum(_cost(key, value) for key, value in found.items())
    return CollectionStep(body.without(found.keys()) if found else body, grown, {"removed": len(found)})


def _pop(body: _Map, key: bytes) -> CollectionStep:
    before = body.get(key)
    after = body if before is None else body.remove(key)
    return CollectionStep(after, -_cost(key, before), {"item": item(key, before)})


def _exchange(body: _Map, args: tuple[bytes, bytes | None, bytes | None]) -> CollectionStep:
    return _exchanged(body, *args, shown=args[0])


def _exchange_only(body: _Map, args: tuple[bytes, bytes | None, bytes | None]) -> CollectionStep:
    return _exchanged(body, *args, shown=None)


def _exchanged(
    body: _Map, key: bytes, expect: bytes | None, value: bytes | None, *, shown: bytes | None
) -> CollectionStep:
    """``shown``: the key as the result shows it; None: the result shows no key."""
    before = body.get(key)
    if before != expect:
        return CollectionStep(body, 0, {"swapped": False, "item": item(shown, before)})
    after = body
    if value is not None:
        after = body.set(key, value)
    elif before is not None:
        after = body.remove(key)
    return CollectionStep(after, _growth(key, before, value), {"swapped": True})


def _write_once(body: _Map, args: tuple[bytes, bytes]) -> CollectionStep:
    key, value = args
    before = body.get(key)
    if before is not None:
        return CollectionStep(body, 0, {"written": False, "item": item(None, before)})
    result: dict[str, Any] = {"written": True}
    return CollectionStep(body.set(key, value), _cost(key, value), result)
