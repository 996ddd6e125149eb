"""Commands of vecs: lists by position. A position that is not there is an answer, not an error."""

from node.machines.collections.reading import CollectionFields
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.state import ITEM_COST, CollectionStep, Command, item


def vec_commands() -> dict[str, Command]:
    """Return the commands of vecs, by name."""
    return {
        "vec-push": Command("vec", _values_and_front, _push),
        "vec-pop": Command("vec", _front, _pop, shows=True),
        "vec-insert": Command("vec", _index_and_value, _insert),
        "vec-set": Command("vec", _index_and_value, _set),
        "vec-remove": Command("vec", _index, _remove, shows=True),
        "vec-swap": Command("vec", _two_indices, _swap),
        "vec-truncate": Command("vec", _length, _truncate),
    }


# ---- members ------------------------------------------------------------------
def _values_and_front(fields: CollectionFields) -> tuple[tuple[bytes, ...], bool]:
    return fields.values(), fields.boolean("front")


def _front(fields: CollectionFields) -> bool:
    return fields.boolean("front")


def _index_and_value(fields: CollectionFields) -> tuple[int, bytes]:
    return fields.index(), fields.value()


def _index(fields: CollectionFields) -> int:
    return fields.index()


def _two_indices(fields: CollectionFields) -> tuple[int, int]:
    return fields.index(), fields.index("other")


def _length(fields: CollectionFields) -> int:
    return fields.index("length")


# ---- changes ------------------------------------------------------------------
def _cost(value: bytes) -> int:
    return ITEM_COST + len(value)


def _push(body: PersistentSequence, args: tuple[tuple[bytes, ...], bool]) -> CollectionStep:
    values, front = args
    after = body.insert(0 if front else len(body), values) if values else body
    return CollectionStep(after, sum(map(_cost, values)), {"length": len(after)})


def _pop(body: PersistentSequence, front: bool) -> CollectionStep:
    return _remove(body, 0 if front or not len(body) else len(body) - 1)


def _insert(body: PersistentSequence, args: tuple[int, bytes]) -> CollectionStep:
    index, value = args
    if index > len(body):
        return CollectionStep(body, 0, {"inserted": False, "length": len(body)})
    return CollectionStep(
        body.insert(index, (value,)), _cost(value), {"inserted": True, "length": len(body) + 1}
    )


def _set(body: PersistentSequence, args: tuple[int, bytes]) -> CollectionStep:
    index, value = args
    if index >= len(body):
        return CollectionStep(body, 0, {"set": False})
    return CollectionStep(body.set(index, value), len(value) - len(body.get(index)), {"set": True})


def _remove(body: PersistentSequence, index: int) -> CollectionStep:
    if index >= len(body):
        return CollectionStep(body, 0, {"item": None})
    value = body.get(index)
    return CollectionStep(body.remove(index), -_cost(value), {"item": item(None, value)})


def _swap(body: PersistentSequence, indices: tuple[int, int]) -> CollectionStep:
    one, other = indices
    if one >= len(body) or other >= len(body):
        return CollectionStep(body, 0, {"swapped": False})
    after = body.set(one, body.get(other)).set(other, body.get(one))
    return CollectionStep(after, 0, {"swapped": True})


def _truncate(body: PersistentSequence, length: int) -> CollectionStep:
    if length >= len(body):
        return CollectionStep(body, 0, {"removed": 0})
    grown = -sum(map(_cost, body.values(length)))
    return CollectionStep(body.truncate(length), grown, {"removed": len(body) - length})
