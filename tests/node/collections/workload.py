"""What simulated clients do with collections, and how each kind behaves, in plain Python, for the checker."""

from collections.abc import Hashable
from random import Random
from typing import Any

from node.machines.base import ApplyContext
from node.machines.collections.machine import CollectionsMachine
from node.simulation import Workload

KINDS = ("map", "cell", "once", "queue")
CAPACITY = 2
_CONTEXT = ApplyContext(0, 0, 0, 0, bytes(32))
_KEYS = ("a", "b")


class Declared(CollectionsMachine):
    """A machine that begins with one collection of each kind, so that clients need not declare them."""

    def __init__(self) -> None:
        super().__init__()
        for kind in KINDS:
            more = {"capacity": CAPACITY} if kind == "queue" else {}
            super().apply({"op": "declare", "name": kind, "kind": kind, **more}, _CONTEXT)


class Unversioned(Declared):
    """The same with results that do not depend on the place in the log, which no model can know."""

    def apply(self, command: Any, context: ApplyContext) -> Any:
        return _without_version(super().apply(command, context))

    def query(self, query: Any) -> Any:
        return _without_version(super().query(query))


def _without_version(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "version"}


def draw_command(rng: Random, unique: int) -> tuple[object, ...]:
    """Draw one command, or an atomic entry of one for each kind."""
    if rng.random() < 0.1:
        return tuple(_draw_of(kind, rng, unique) for kind in KINDS)
    return (_draw_of(rng.choice(KINDS), rng, unique),)


def _draw_of(kind: str, rng: Random, unique: int) -> dict[str, Any]:
    key, value = rng.choice(_KEYS), str(unique)
    earlier = rng.choice([None, *(str(rng.randint(1, max(1, unique))) for _ in range(3))])
    match kind:
        case "map":
            return rng.choice(
                [
                    {"op": "map-insert", "name": kind, "key": key, "value": value},
                    {"op": "map-cas", "name": kind, "key": key, "expect": earlier, "value": value},
                    {"op": "map-cas", "name": kind, "key": key, "expect": None, "value": value},
                    {"op": "map-pop", "name": kind, "key": key},
                    {"op": "map-remove", "name": kind, "keys": [key]},
                ]
            )
        case "cell":
            return rng.choice(
                [
                    {"op": "cell-write", "name": kind, "value": value},
                    {"op": "cell-cas", "name": kind, "expect": earlier, "value": value},
                    {"op": "cell-cas", "name": kind, "expect": earlier, "value": None},
                    {"op": "clear", "name": kind},
                ]
            )
        case "once":
            return {"op": "once-write", "name": kind, "value": value}
        case _:
            priority = rng.randint(0, 2)
            pushed = {"keys": [key + value], "priorities": [priority], "values": [value]}
            return rng.choice(
                [
                    {"op": "queue-push", "name": kind, **pushed},
                    {"op": "queue-push", "name": kind, **pushed},
                    {"op": "queue-pop", "name": kind},
                    {"op": "queue-pop", "name": kind, "last": True},
                ]
            )


def draw_query(rng: Random) -> object:
    return rng.choice(
        [
            {"op": "map-get", "name": "map", "key": rng.choice(_KEYS)},
            {"op": "cell-get", "name": "cell"},
            {"op": "once-get", "name": "once"},
            {"op": "queue-peek", "name": "queue"},
        ]
    )


def object_of(asked: Any) -> str:
    """Return which object a command or query is about: a key of the map, or a whole collection."""
    key = asked.get("key") or next(iter(asked.get("keys", ())), "")
    return f"map {key}" if asked["name"] == "map" else str(asked["name"])


class CollectionsModel:
    """One key of the map, the cell, the once, or the queue: a value or None, or a tuple of entries in order."""

    def initial(self, key: str) -> Hashable:
        return () if key == "queue" else None

    def step(self, state: Any, operation: Any) -> tuple[Hashable, object]:
        after, result = _step(state, operation)
        return after, ("ok", result)


def _step(state: Any, asked: Any) -> tuple[Any, dict[str, Any]]:
    match asked["op"]:
        case "map-get" | "cell-get" | "once-get":
            return state, {"item": _item(asked, state)}
        case "map-insert" | "cell-write":
            return asked["value"], {"replaced": state is not None}
        case "map-cas" | "cell-cas" if state == asked["expect"]:
            return asked["value"], {"swapped": True}
        case "map-cas" | "cell-cas":
            return state, {"swapped": False, "item": _item(asked, state)}
        case "map-pop":
            return None, {"item": _item(asked, state)}
        case "map-remove" | "clear":
            return None, {"removed": int(state is not None)}
        case "once-write" if state is None:
            return asked["value"], {"written": True}
        case "once-write":
            return state, {"written": False, "item": _item(asked, state)}
        case "queue-peek":
            return state, {"item": _entry(state[0]) if state else None}
        case "queue-pop" if not state:
            return state, {"item": None}
        case "queue-pop" if asked.get("last"):
            return state[:-1], {"item": _entry(state[-1])}
        case "queue-pop":
            return state[1:], {"item": _entry(state[0])}
        case _:
            return _push(state, asked)


def _push(state: Any, asked: Any) -> tuple[Any, dict[str, Any]]:
    """Push one entry whose key is new: behind all that have its priority."""
    entry = (asked["keys"][0], asked["priorities"][0], asked["values"][0])
    place = sum(other[1] >= entry[1] for other in state)
    after = (*state[:place], entry, *state[place:])
    evicted = len(after) > CAPACITY
    after = after[:CAPACITY]
    return after, {"kept": int(entry in after), "replaced": 0, "evicted": int(evicted), "length": len(after)}


def _item(asked: Any, value: Any) -> Any:
    if value is None:
        return None
    return {"value": value, **({"key": asked["key"]} if "key" in asked else {})}


def _entry(entry: Any) -> Any:
    return {"key": entry[0], "priority": entry[1], "value": entry[2]}


CHECKED = Workload(
    machine=Unversioned, command=draw_command, query=draw_query, key=object_of, model=CollectionsModel()
)
VERSIONED = Workload(machine=Declared, command=draw_command, query=draw_query)
