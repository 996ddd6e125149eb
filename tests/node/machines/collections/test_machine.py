"""The collections machine: each command beside Python's own containers, limits, undo, snapshots."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from attestation.encoding.canonical import decode_untrusted, encode
from node.machines.base import ApplyContext, CommandError
from node.machines.collections import machine as machine_module
from node.machines.collections.frozen import KINDS
from node.machines.collections.machine import CAPACITY_MAX, COLLECTIONS_MAX, CollectionsMachine
from node.machines.collections.reading import ITEMS_MAX, KEY_BYTES_MAX, PRIORITY_MAX, VALUE_BYTES_MAX
from node.machines.keys import KeyRange, Touched
from node.system.grants import AccessRole, CredentialKind, Grant

KEYS = st.sampled_from(["", "a", "b", "c", "aa", "é"])
VALUES = st.sampled_from(["", "1", "2", "ü"])
PRIORITIES = st.integers(-2, 2)


def context(index):
    return ApplyContext(1, index, 0, 0, bytes(32))


class Applier:
    """A machine, and the index of the next entry."""

    def __init__(self):
        self.machine = CollectionsMachine()
        self.index = 0

    def __call__(self, op, name="x", **members):
        self.index += 1
        command = {"op": op, "name": name, **members}
        self.machine.check(command)
        savepoint = self.machine.savepoint()
        try:
            return self.machine.apply(command, context(self.index))
        except CommandError:
            self.machine.rollback(savepoint)
            raise

    def ask(self, op, name="x", **members):
        return self.machine.query({"op": op, "name": name, **members})

    def items(self, name="x", **members):
        """Return all items, page by page."""
        page = self.ask("list", name, **members)
        items = page["items"]
        while "next" not in page or page["next"] is not None:
            after = {
                key.replace("next", "after"): page[key]
                for key in ("next", "next_b64")
                if page.get(key) is not None
            }
            page = self.ask("list", name, **members, **after)
            items += page["items"]
        return items


def declared(kind, **members):
    applier = Applier()
    applier("declare", kind=kind, **members)
    return applier


def without_version(result):
    return {key: value for key, value in result.items() if key != "version"}


# ---- each kind beside its model ---------------------------------------------------------
class Same(RuleBasedStateMachine):
    """What every kind keeps: what it counts, its length, and that equal states have equal snapshots."""

    kind = ""

    def __init__(self):
        super().__init__()
        self.applier = declared(self.kind)
        self.version = 1

    def change(self, op, *, effect, **members):
        result = self.applier(op, **members)
        self.version = self.applier.index if effect else self.version
        assert result["version"] == self.version
        return without_version(result)

    @invariant()
    def a_restored_machine_is_the_same(self):
        snapshot = self.applier.machine.snapshot()
        other = CollectionsMachine()
        other.restore(decode_untrusted(encode(snapshot), bytes_max=10**6, items_max=10**6))
        assert other.freeze().size == self.applier.machine.freeze().size
        assert encode(other.snapshot()) == encode(snapshot)
        for query in ({"op": "collections"}, {"op": "describe", "name": "x"}):
            assert other.query(query) == self.applier.machine.query(query)


class MapIsDict(Same):
    kind = "map"

    def __init__(self):
        super().__init__()
        self.model = {}

    @rule(key=KEYS, value=VALUES)
    def insert(self, key, value):
        replaced = key in self.model
        self.model[key] = value
        assert self.change("map-insert", key=key, value=value, effect=True) == {"replaced": replaced}

    @rule(items=st.dictionaries(KEYS, VALUES))
    def extend(self, items):
        added = len(items.keys() - self.model.keys())
        self.model.update(items)
        result = self.change("map-extend", keys=list(items), values=list(items.values()), effect=bool(items))
        assert result == {"added": added, "replaced": len(items) - added}

    @rule(key=KEYS, expect=VALUES | st.none(), value=VALUES | st.none())
    def compare_exchange(self, key, expect, value):
        before = self.model.get(key)
        swapped = before == expect
        if swapped and value is not None:
            self.model[key] = value
        elif swapped:
            self.model.pop(key, None)
        result = self.change(
            "map-cas", key=key, expect=expect, value=value, effect=swapped and (before, value) != (None, None)
        )
        assert result["swapped"] == swapped
        if not swapped:
            shown = None if before is None else {"key": key, "value": before}
            assert result["item"] == shown

    @rule(key=KEYS)
    def pop(self, key):
        before = self.model.pop(key, None)
        shown = None if before is None else {"key": key, "value": before}
        assert self.change("map-pop", key=key, effect=before is not None) == {"item": shown}

    @rule(keys=st.lists(KEYS))
    def remove(self, keys):
        gone = [self.model.pop(key, None) for key in keys]
        removed = len(gone) - gone.count(None)
        assert self.change("map-remove", keys=keys, effect=removed > 0) == {"removed": removed}

    @rule()
    def clear(self):
        removed = len(self.model)
        self.model.clear()
        assert self.change("clear", effect=removed > 0) == {"removed": removed}

    @invariant()
    def items_are_equal(self):
        shown = [(item["key"], item["value"]) for item in self.applier.items(limit=2)]
        assert shown == sorted(self.model.items(), key=lambda item: item[0].encode())
        for key in ("a", "é"):
            item = self.applier.ask("map-get", key=key)["item"]
            assert (item and item["value"]) == self.model.get(key)


class SetIsSet(Same):
    kind = "set"

    def __init__(self):
        super().__init__()
        self.model = set()

    @rule(values=st.lists(KEYS))
    def add(self, values):
        added = len(set(values) - self.model)
        self.model |= set(values)
        assert self.change("set-add", values=values, effect=added > 0) == {"added": added}

    @rule(values=st.lists(KEYS))
    def remove(self, values):
        removed = len(set(values) & self.model)
        self.model -= set(values)
        assert self.change("set-remove", values=values, effect=removed > 0) == {"removed": removed}

    @rule()
    def clear(self):
        removed = len(self.model)
        self.model.clear()
        assert self.change("clear", effect=removed > 0) == {"removed": removed}

    @invariant()
    def elements_are_equal(self):
        assert [item["key"] for item in self.applier.items()] == sorted(self.model, key=str.encode)
        assert self.applier.ask("set-contains", values=["a", "b"])["contained"] == [
            "a" in self.model,
            "b" in self.model,
        ]


class VecIsList(Same):
    kind = "vec"

    def __init__(self):
        super().__init__()
        self.model = []

    @rule(values=st.lists(VALUES), front=st.booleans())
    def push(self, values, front):
        self.model = values + self.model if front else self.model + values
        result = self.change("vec-push", values=values, front=front, effect=bool(values))
        assert result == {"length": len(self.model)}

    @rule(front=st.booleans())
    def pop(self, front):
        value = self.model.pop(0 if front else -1) if self.model else None
        shown = None if value is None else {"value": value}
        assert self.change("vec-pop", front=front, effect=value is not None) == {"item": shown}

    @rule(index=st.integers(0, 5), value=VALUES)
    def insert(self, index, value):
        inserted = index <= len(self.model)
        if inserted:
            self.model.insert(index, value)
        result = self.change("vec-insert", index=index, value=value, effect=inserted)
        assert result == {"inserted": inserted, "length": len(self.model)}

    @rule(index=st.integers(0, 5), value=VALUES)
    def assign(self, index, value):
        there = index < len(self.model)
        if there:
            self.model[index] = value
        assert self.change("vec-set", index=index, value=value, effect=there) == {"set": there}

    @rule(index=st.integers(0, 5))
    def remove(self, index):
        value = self.model.pop(index) if index < len(self.model) else None
        shown = None if value is None else {"value": value}
        assert self.change("vec-remove", index=index, effect=value is not None) == {"item": shown}

    @rule(one=st.integers(0, 4), other=st.integers(0, 4))
    def swap(self, one, other):
        there = max(one, other) < len(self.model)
        if there:
            self.model[one], self.model[other] = self.model[other], self.model[one]
        assert self.change("vec-swap", index=one, other=other, effect=there) == {"swapped": there}

    @rule(length=st.integers(0, 6))
    def truncate(self, length):
        removed = max(len(self.model) - length, 0)
        del self.model[length:]
        assert self.change("vec-truncate", length=length, effect=removed > 0) == {"removed": removed}

    @rule()
    def clear(self):
        removed = len(self.model)
        self.model.clear()
        assert self.change("clear", effect=removed > 0) == {"removed": removed}

    @invariant()
    def values_are_equal(self):
        assert [item["value"] for item in self.applier.items(limit=2)] == self.model
        for index in (0, 3):
            item = self.applier.ask("vec-get", index=index)["item"]
            assert (item and item["value"]) == (self.model[index] if index < len(self.model) else None)


class CellIsAVariable(Same):
    kind = "cell"

    def __init__(self):
        super().__init__()
        self.model = None

    @rule(value=VALUES)
    def write(self, value):
        before, self.model = self.model, value
        assert self.change("cell-write", value=value, effect=True) == {"replaced": before is not None}

    @rule(expect=VALUES | st.none(), value=VALUES | st.none())
    def compare_exchange(self, expect, value):
        before = self.model
        swapped = before == expect
        if swapped:
            self.model = value
        result = self.change(
            "cell-cas", expect=expect, value=value, effect=swapped and (before, value) != (None, None)
        )
        assert result["swapped"] == swapped
        if not swapped:
            assert result["item"] == (None if before is None else {"value": before})

    @rule()
    def clear(self):
        removed = int(self.model is not None)
        self.model = None
        assert self.change("clear", effect=removed > 0) == {"removed": removed}

    @invariant()
    def values_are_equal(self):
        item = self.applier.ask("cell-get")["item"]
        assert item == (None if self.model is None else {"value": self.model})


class OnceKeepsTheFirst(Same):
    kind = "once"

    def __init__(self):
        super().__init__()
        self.model = None

    @rule(value=VALUES)
    def write(self, value):
        if self.model is None:
            self.model = value
            assert self.change("once-write", value=value, effect=True) == {"written": True}
        else:
            result = self.change("once-write", value=value, effect=False)
            assert result == {"written": False, "item": {"value": self.model}}

    @invariant()
    def values_are_equal(self):
        item = self.applier.ask("once-get")["item"]
        assert item == (None if self.model is None else {"value": self.model})


class QueueIsASortedList(Same):
    """The model: entries ``(key, priority, arrival, value)`` in the order of service."""

    kind = "queue"
    capacity = None

    def __init__(self):
        super().__init__()
        if self.capacity is not None:
            self.applier = declared("queue", capacity=self.capacity)
        self.model = []
        self.arrivals = 0

    def _find(self, key):
        return next((entry for entry in self.model if entry[0] == key), None)

    def _put(self, key, priority, value):
        before = self._find(key)
        if before is not None:
            self.model.remove(before)
        if before is not None and before[1] == priority:
            arrival = before[2]
        else:
            arrival, self.arrivals = self.arrivals, self.arrivals + 1
        self.model.append((key, priority, arrival, value))
        self.model.sort(key=lambda entry: (-entry[1], entry[2]))
        return before is not None

    def _shown(self, entry):
        return entry and {"key": entry[0], "value": entry[3], "priority": entry[1]}

    @rule(pushed=st.lists(st.tuples(KEYS, PRIORITIES, VALUES), max_size=4))
    def push(self, pushed):
        replaced = evicted = 0
        for entry in pushed:
            replaced += self._put(*entry)
            if self.capacity is not None and len(self.model) > self.capacity:
                self.model.pop()
                evicted += 1
        kept = len({key for key, _, _ in pushed if self._find(key)})
        keys, priorities, values = (
            (list(part) for part in zip(*pushed, strict=True)) if pushed else ([], [], [])
        )
        result = self.change(
            "queue-push", keys=keys, priorities=priorities, values=values, effect=bool(pushed)
        )
        assert result == {
            "kept": kept,
            "replaced": replaced,
            "evicted": evicted,
            "length": len(self.model),
        }

    @rule(last=st.booleans())
    def pop(self, last):
        entry = self.model.pop(-1 if last else 0) if self.model else None
        assert self.change("queue-pop", last=last, effect=entry is not None) == {"item": self._shown(entry)}

    @rule(key=KEYS, priority=PRIORITIES)
    def reprioritize(self, key, priority):
        before = self._find(key)
        if before is not None:
            self._put(key, priority, before[3])
        result = self.change("queue-reprioritize", key=key, priority=priority, effect=before is not None)
        assert result == {"moved": before is not None}

    @rule(key=KEYS, value=VALUES)
    def replace(self, key, value):
        before = self._find(key)
        if before is not None:
            self._put(key, before[1], value)
        result = self.change("queue-replace", key=key, value=value, effect=before is not None)
        assert result == {"replaced": before is not None}

    @rule(key=KEYS, expect=VALUES, value=VALUES | st.none())
    def compare_exchange(self, key, expect, value):
        before = self._find(key)
        swapped = before is not None and before[3] == expect
        if swapped and value is None:
            self.model.remove(before)
        elif swapped:
            self._put(key, before[1], value)
        result = self.change("queue-cas", key=key, expect=expect, value=value, effect=swapped)
        assert result == ({"swapped": True} if swapped else {"swapped": False, "item": self._shown(before)})

    @rule(keys=st.lists(KEYS))
    def remove(self, keys):
        kept = [entry for entry in self.model if entry[0] not in keys]
        removed, self.model = len(self.model) - len(kept), kept
        assert self.change("queue-remove", keys=keys, effect=removed > 0) == {"removed": removed}

    @rule(low=PRIORITIES, high=PRIORITIES)
    def remove_range(self, low, high):
        kept = [entry for entry in self.model if not low <= entry[1] <= high]
        removed, self.model = len(self.model) - len(kept), kept
        result = self.change("queue-remove-range", low=low, high=high, effect=removed > 0)
        assert result == {"removed": removed, "more": False}

    @rule()
    def clear(self):
        removed = len(self.model)
        self.model.clear()
        assert self.change("clear", effect=removed > 0) == {"removed": removed}

    @invariant()
    def entries_are_equal(self):
        assert self.applier.items(limit=2) == [self._shown(entry) for entry in self.model]
        for last in (False, True):
            expected = self._shown(self.model[-1 if last else 0]) if self.model else None
            assert self.applier.ask("queue-peek", last=last)["item"] == expected
        assert self.applier.ask("queue-get", key="a")["item"] == self._shown(self._find("a"))


class BoundedQueueIsASortedList(QueueIsASortedList):
    capacity = 2


MODELS = (
    MapIsDict,
    SetIsSet,
    VecIsList,
    CellIsAVariable,
    OnceKeepsTheFirst,
    QueueIsASortedList,
    BoundedQueueIsASortedList,
)
for model in MODELS:
    model.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

TestMapIsDict = MapIsDict.TestCase
TestSetIsSet = SetIsSet.TestCase
TestVecIsList = VecIsList.TestCase
TestCellIsAVariable = CellIsAVariable.TestCase
TestOnceKeepsTheFirst = OnceKeepsTheFirst.TestCase
TestQueueIsASortedList = QueueIsASortedList.TestCase
TestBoundedQueueIsASortedList = BoundedQueueIsASortedList.TestCase


def test_every_kind_has_a_model():
    assert {model.kind for model in MODELS} == set(KINDS)


# ---- declarations -----------------------------------------------------------------------
def test_declaring_again_changes_nothing_and_another_kind_or_capacity_is_refused():
    applier = declared("queue", capacity=3)

    assert applier("declare", kind="queue", capacity=3) == {"version": 1, "declared": False}
    for members, code in (
        ({"kind": "map"}, "kind-differs"),
        ({"kind": "queue"}, "capacity-differs"),
        ({"kind": "queue", "capacity": 4}, "capacity-differs"),
    ):
        with pytest.raises(CommandError) as caught:
            applier("declare", **members)
        assert caught.value.code == code
    assert applier.ask("describe")["collection"] == {
        "name": "x",
        "kind": "queue",
        "version": 1,
        "length": 0,
        "size": 0,
        "capacity": 3,
    }


def test_a_command_for_another_kind_or_for_no_collection_is_refused():
    applier = declared("map")
    for op, name, members, code in (
        ("set-add", "x", {"values": ["a"]}, "kind-differs"),
        ("map-insert", "y", {"key": "a", "value": "1"}, "collection-unknown"),
        ("clear", "y", {}, "collection-unknown"),
    ):
        with pytest.raises(CommandError) as caught:
            applier(op, name, **members)
        assert caught.value.code == code
    for op, name, members, code in (
        ("set-contains", "x", {"values": ["a"]}, "kind-differs"),
        ("map-get", "y", {"key": "a"}, "collection-unknown"),
        ("nonsense", "x", {}, "op-unknown"),
        ("map-insert", "x", {}, "op-unknown"),
    ):
        with pytest.raises(CommandError) as caught:
            applier.ask(op, name, **members)
        assert caught.value.code == code


def test_a_dropped_collection_gives_its_space_and_its_name_back():
    applier = declared("once")
    applier("once-write", value="v" * 1000)
    with pytest.raises(CommandError, match="stays"):
        applier("clear")

    assert applier("drop")["dropped"]
    assert not applier("drop")["dropped"]
    assert applier.machine.freeze().size == 0
    assert applier("declare", kind="map")["declared"]


def test_there_are_at_most_so_many_collections():
    applier = Applier()
    for number in range(COLLECTIONS_MAX):
        applier("declare", f"c{number}", kind="cell")
    with pytest.raises(CommandError) as caught:
        applier("declare", "one-more", kind="cell")

    assert caught.value.code == "too-many-collections"
    assert len(applier.machine.query({"op": "collections"})["collections"]) == COLLECTIONS_MAX


def test_several_collections_of_one_machine_do_not_touch_each_other():
    applier = Applier()
    for kind in KINDS:
        applier("declare", kind, kind=kind)
    applier("map-insert", "map", key="a", value="1")
    applier("set-add", "set", values=["a"])
    applier("vec-push", "vec", values=["1"])
    applier("cell-write", "cell", value="1")
    applier("once-write", "once", value="1")
    applier("queue-push", "queue", keys=["a"], priorities=[1], values=["1"])
    applier("clear", "map")
    lengths = {
        one["name"]: one["length"] for one in applier.machine.query({"op": "collections"})["collections"]
    }

    assert lengths == dict.fromkeys(KINDS, 1) | {"map": 0}


# ---- limits and refusals -----------------------------------------------------------------
def test_the_store_is_full_by_bytes_and_by_items(monkeypatch):
    monkeypatch.setattr(machine_module, "VERSION_1_BYTES_MAX", 10_000)
    applier = declared("set")
    codes = [code_of(lambda n=n: applier("set-add", values=[str(n)])) for n in range(1000)]
    length = applier.ask("describe")["collection"]["length"]
    assert codes == [None] * length + ["store-full"] * (1000 - length)
    assert 100 < length < 10_000 // 64
    size = applier.machine.freeze().size

    applier("declare", "y", kind="cell")
    with pytest.raises(CommandError, match="limited to 10000 bytes"):
        applier("cell-write", "y", value="v" * 5000)
    assert applier.machine.freeze().size == size <= 10_000
    applier("clear")
    applier("cell-write", "y", value="v" * 5000)


def test_the_groups_quota_limits_all_collections_together():
    machine = CollectionsMachine()
    at = ApplyContext(1, 1, 0, 0, bytes(32), version=2, quota_bytes=1000)
    machine.apply({"op": "declare", "name": "x", "kind": "cell"}, at)
    machine.apply({"op": "declare", "name": "y", "kind": "cell"}, at)
    machine.apply({"op": "cell-write", "name": "x", "value": "v" * 800}, at)

    with pytest.raises(CommandError, match="limited to 1000 bytes") as caught:
        machine.apply({"op": "cell-write", "name": "y", "value": "v" * 100}, at)
    assert caught.value.code == "store-full"
    machine.apply({"op": "clear", "name": "x"}, at)
    machine.apply({"op": "cell-write", "name": "y", "value": "v" * 100}, at)


def test_a_range_is_removed_in_commands_of_bounded_size():
    applier = declared("queue")
    for start in (0, 1, 2):
        keys = [str(number) for number in range(start * ITEMS_MAX, start * ITEMS_MAX + ITEMS_MAX // 2)]
        applier("queue-push", keys=keys, priorities=[start] * len(keys), values=["v"] * len(keys))
    first = without_version(applier("queue-remove-range", low=0, high=1))
    assert first == {"removed": ITEMS_MAX, "more": False}
    applier("queue-push", keys=["last", "other"], priorities=[1, 2], values=["v", "v"])
    keys = [str(number) for number in range(ITEMS_MAX)]
    applier("queue-push", keys=keys, priorities=[2] * ITEMS_MAX, values=["v"] * ITEMS_MAX)
    removed = [without_version(applier("queue-remove-range", low=1, high=2)) for _ in range(2)]

    assert removed == [
        {"removed": ITEMS_MAX, "more": True},
        {"removed": ITEMS_MAX // 2 + 2, "more": False},
    ]
    assert applier.ask("list")["items"] == []


BROKEN = {
    "name-length": [{"op": "declare", "name": "", "kind": "map"}, {"op": "clear", "name": "é" * 65}],
    "kind-unknown": [{"op": "declare", "name": "x", "kind": "list"}, {"op": "declare", "name": "x"}],
    "member-range": [
        {"op": "declare", "name": "x", "kind": "queue", "capacity": 0},
        {"op": "declare", "name": "x", "kind": "queue", "capacity": CAPACITY_MAX + 1},
        {"op": "vec-set", "name": "x", "index": -1, "value": ""},
        {"op": "queue-push", "name": "x", "keys": ["a"], "priorities": [PRIORITY_MAX + 1], "values": [""]},
        {"op": "queue-push", "name": "x", "keys": ["a"], "priorities": [True], "values": [""]},
    ],
    "unknown-member": [
        {"op": "declare", "name": "x", "kind": "map", "capacity": 3},
        {"op": "clear", "name": "x", "all": True},
        {"op": "map-pop", "name": "x", "key": "a", "value": ""},
    ],
    "lengths-differ": [
        {"op": "map-extend", "name": "x", "keys": ["a"], "values": []},
        {"op": "queue-push", "name": "x", "keys": ["a"], "priorities": [], "values": ["1"]},
    ],
    "too-many-items": [{"op": "set-add", "name": "x", "values": [""] * (ITEMS_MAX + 1)}],
    "item-too-large": [
        {"op": "set-add", "name": "x", "values": ["k" * (KEY_BYTES_MAX + 1)]},
        {"op": "vec-push", "name": "x", "values": ["v" * (VALUE_BYTES_MAX + 1)]},
    ],
    "key-too-large": [{"op": "map-pop", "name": "x", "key": "k" * (KEY_BYTES_MAX + 1)}],
    "value-too-large": [{"op": "cell-write", "name": "x", "value": "v" * (VALUE_BYTES_MAX + 1)}],
    "member-twice": [
        {"op": "set-add", "name": "x", "values": [], "values_b64": []},
        {"op": "set-add", "name": "x"},
    ],
    "base64-invalid": [{"op": "set-add", "name": "x", "values_b64": ["!"]}],
    "member-missing": [
        {"op": "map-cas", "name": "x", "key": "a", "value": "1"},
        {"op": "vec-insert", "name": "x", "value": "1"},
        {"op": "queue-cas", "name": "x", "key": "a", "value": "1"},
    ],
    "member-type": [
        {"op": "clear"},
        {"op": "clear", "name": 7},
        {"op": "clear", "name": "\ud800"},
        {"op": "set-add", "name": "x", "values": "a"},
        {"op": "set-add", "name": "x", "values": [7]},
        {"op": "set-add", "name": "x", "values": ["\ud800"]},
        {"op": "set-add", "name": "x", "values_b64": [7]},
        {"op": "vec-pop", "name": "x", "front": 1},
        {"op": "queue-push", "name": "x", "keys": [], "priorities": 7, "values": []},
        {"op": "queue-cas", "name": "x", "key": "a", "expect": None, "value": "1"},
    ],
    "op-unknown": [{"op": "map-put", "name": "x"}, {"op": "list", "name": "x"}, {"op": "\ud800" * 99}],
    "op-missing": [{}, {"op": None}],
    "not-an-object": [None, 7, "clear", []],
}


@pytest.mark.parametrize(("code", "command"), [(code, one) for code, many in BROKEN.items() for one in many])
def test_a_malformed_command_is_refused_before_the_log_and_when_applied(code, command):
    machine = CollectionsMachine()
    for step in (machine.check, lambda one: machine.apply(one, context(1))):
        with pytest.raises(CommandError) as caught:
            step(command)
        assert caught.value.code == code
    assert machine.snapshot() == []


OPS = [
    *("declare", "drop", "clear", "map-insert", "map-extend", "map-cas", "map-pop", "map-remove"),
    *("set-add", "set-remove", "cell-write", "cell-cas", "once-write"),
    *("vec-push", "vec-pop", "vec-insert", "vec-set", "vec-remove", "vec-swap", "vec-truncate"),
    *("queue-push", "queue-pop", "queue-reprioritize", "queue-replace", "queue-cas", "queue-remove"),
    *("queue-remove-range", "list", "nonsense"),
]
# These depend on the state; everything else that is refused is refused in every state.
OF_THE_STATE = {
    "collection-unknown",
    "kind-differs",
    "capacity-differs",
    "once-is-written",
    "store-full",
    "too-many-collections",
}


@given(
    kind=st.sampled_from(KINDS),
    op=st.sampled_from(OPS),
    members=st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "x", "x", "y", 7])},
        optional={
            "kind": st.sampled_from([*KINDS, "list"]),
            "capacity": st.sampled_from([1, 0]),
            "key": KEYS,
            "keys": st.sampled_from([["a"], ["a", "b"], [7]]),
            "value": VALUES | st.none(),
            "values": st.sampled_from([["1"], ["1", "2"], "1"]),
            "expect": VALUES | st.none(),
            "index": st.sampled_from([0, 9, -1]),
            "other": st.just(0),
            "length": st.just(0),
            "priority": st.just(1),
            "priorities": st.sampled_from([[1], [1, 2], [None]]),
            "low": st.just(0),
            "high": st.just(1),
            "front": st.booleans(),
            "last": st.booleans(),
        },
    ),
    drop=st.booleans(),
)
def test_check_refuses_what_apply_refuses_in_every_state_and_nothing_else(kind, op, members, drop):
    allowed = ALLOWED.get(op, set()) | {"name"}
    command = {"op": op, **{key: value for key, value in members.items() if not drop or key in allowed}}
    applier = declared(kind)
    before = encode(applier.machine.snapshot())
    checked = code_of(lambda: applier.machine.check(command))
    assert encode(applier.machine.snapshot()) == before
    applied = code_of(lambda: applier.machine.apply(command, context(2)))

    assert checked == (None if applied in OF_THE_STATE else applied)
    touched = code_of(lambda: applier.machine.keys_of(command))
    assert checked is not None or touched is None


ALLOWED = {
    "declare": {"kind"},
    "map-insert": {"key", "value"},
    "map-extend": {"keys", "values"},
    "map-cas": {"key", "expect", "value"},
    "queue-push": {"keys", "priorities", "values"},
    "vec-push": {"values", "front"},
    "vec-swap": {"index", "other"},
    "queue-remove-range": {"low", "high"},
    "cell-cas": {"expect", "value"},
    "once-write": {"value"},
    "cell-write": {"value"},
}


def code_of(step):
    try:
        step()
    except CommandError as exc:
        return exc.code
    return None


# ---- which keys --------------------------------------------------------------------------
def test_a_caller_may_be_limited_to_prefixes_of_the_collections_names():
    machine = CollectionsMachine()
    key = (KeyRange.of_key(b"orders"),)

    def touched(op, **members):
        return machine.keys_of({"op": op, "name": "orders", **members})

    assert touched("map-insert", key="a", value="1") == Touched(writes=key)
    assert touched("clear") == touched("drop") == touched("declare", kind="map") == Touched(writes=key)
    for op in (
        "map-cas",
        "map-pop",
        "cell-cas",
        "once-write",
        "vec-pop",
        "vec-remove",
        "queue-pop",
        "queue-cas",
    ):
        assert touched(op) == Touched(reads=key, writes=key)
    assert machine.keys_of_query({"op": "map-get", "name": "orders", "key": "a"}) == Touched(reads=key)
    assert machine.keys_of_query({"op": "collections"}) == Touched(reads=(KeyRange.of_prefix(b""),))
    with pytest.raises(CommandError, match="no command"):
        touched("nonsense")


@pytest.mark.parametrize(
    ("roles", "command", "permitted"),
    [
        ((AccessRole.WRITE,), {"op": "map-insert", "name": "shop-orders", "key": "a", "value": "1"}, True),
        ((AccessRole.WRITE,), {"op": "map-insert", "name": "other", "key": "shop-", "value": "1"}, False),
        ((AccessRole.WRITE,), {"op": "map-pop", "name": "shop-orders", "key": "a"}, False),
        ((AccessRole.READ, AccessRole.WRITE), {"op": "map-pop", "name": "shop-orders", "key": "a"}, True),
        ((AccessRole.WRITE,), {"op": "drop", "name": "other"}, False),
        ((AccessRole.READ,), {"op": "map-get", "name": "shop-orders", "key": "a"}, True),
        ((AccessRole.READ,), {"op": "list", "name": "other"}, False),
        ((AccessRole.READ,), {"op": "collections"}, False),
    ],
)
def test_a_grant_with_a_prefix_is_judged_by_the_name_of_the_collection(roles, command, permitted):
    kind = CredentialKind.TOKEN
    grant = Grant(name="shop", kind=kind, credential=bytes(32), roles=roles, prefixes=(b"shop-",))
    asks = command["op"] in {"map-get", "list", "collections"}
    permit = grant.permit_query if asks else grant.permit_command

    assert code_of(lambda: permit(command, CollectionsMachine())) == (None if permitted else "not-permitted")


# ---- undo and snapshots --------------------------------------------------------------------
def filled():
    applier = Applier()
    for kind in KINDS:
        applier("declare", kind, kind=kind)
    applier("map-extend", "map", keys=["b", "a"], values=["1", "2"])
    applier("set-add", "set", values=["b", "a"])
    applier("vec-push", "vec", values=["b", "a"])
    applier("cell-write", "cell", value="1")
    applier("once-write", "once", value="1")
    applier("queue-push", "queue", keys=["b", "a"], priorities=[1, -1], values=["1", "2"])
    return applier


def test_a_rolled_back_entry_leaves_no_trace():
    applier = filled()
    before = encode(applier.machine.snapshot())
    savepoint = applier.machine.savepoint()
    for op, name, members in (
        ("map-insert", "map", {"key": "z", "value": "z"}),
        ("clear", "set", {}),
        ("drop", "queue", {}),
        ("declare", "new", {"kind": "map"}),
    ):
        applier(op, name, **members)
    applier.machine.rollback(savepoint)

    assert encode(applier.machine.snapshot()) == before


def test_a_frozen_state_is_encoded_in_slices_while_the_machine_goes_on():
    applier = filled()
    frozen, before = applier.machine.freeze(), applier.machine.snapshot()
    rows = []
    for number, rows_of_slice in enumerate(frozen.slices(2)):
        assert 1 <= len(rows_of_slice) <= 2
        rows += rows_of_slice
        applier("map-insert", "map", key=f"while{number}", value="x")
        applier("vec-pop", "vec")

    assert rows == before != applier.machine.snapshot()


def test_a_slice_of_large_values_is_bounded_in_bytes():
    applier = declared("vec")
    applier("vec-push", values=["v" * 1_000_000] * 2)
    applier("vec-push", values=["v" * 1000] * 200)
    slices = list(applier.machine.freeze().slices(1000))

    assert [len(rows) for rows in slices] == [2, 1, 66, 66, 66, 2]
    assert [row for rows in slices for row in rows] == applier.machine.snapshot()


def test_equal_states_have_equal_snapshots_whatever_led_to_them():
    one, other = declared("map"), declared("map")
    for number in range(500):
        one("map-insert", key=str(number), value="x")
    for number in reversed(range(800)):
        other("map-insert", key=str(number), value="y")
    other("map-remove", keys=[str(number) for number in range(500, 800)])
    other("map-extend", keys=[str(number) for number in range(500)], values=["x"] * 500)
    rows, other_rows = one.machine.snapshot(), other.machine.snapshot()

    assert rows[1:] == other_rows[1:]
    assert one.machine.freeze().size == other.machine.freeze().size


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        [7],
        [[b"x", "list", 1, 0, 0, 0]],
        [[b"x", "map", 1, 0, 0]],
        [["x", "map", 1, 0, 0, 0]],
        [[b"x", "map", -1, 0, 0, 0]],
        [[b"x", "map", 1, True, 0, 0], [b"a", b""]],
        [[b"x", "map", 1, 1, 0, 0]],
        [[b"x", "map", 1, 1, 0, 0], [b"a"]],
        [[b"x", "map", 1, 1, 0, 0], [b"a", "1"]],
        [[b"x", "map", 1, 1, 3, 0], [b"a", b"1"]],
        [[b"x", "map", 1, 2, 0, 0], [b"b", b""], [b"a", b""]],
        [[b"x", "cell", 1, 1, 0, 0], [b"a", b""]],
        [[b"x", "map", 1, 0, 0, 0], [b"x", "map", 1, 0, 0, 0]],
        [[b"x", "queue", 1, 1, 0, 0], [b"a", b"", 1, 0]],
        [[b"x", "queue", 1, 1, 0, 1], [b"a", b"", True, 0]],
        [[b"x", "queue", 1, 2, 1, 2], [b"a", b"", 1, 0], [b"b", b"", 1, 1]],
        [[b"x", "queue", 1, 2, 0, 2], [b"a", b"", 1, 0], [b"b", b"", 2, 0]],
    ],
)
def test_what_is_no_snapshot_is_refused_and_changes_nothing(rows):
    applier = filled()
    before = encode(applier.machine.snapshot())
    with pytest.raises(ValueError):
        applier.machine.restore(rows)

    assert encode(applier.machine.snapshot()) == before


def test_a_snapshot_of_every_kind_is_restored_with_its_order_and_versions():
    applier = filled()
    other = CollectionsMachine()
    other.restore(applier.machine.snapshot())

    assert encode(other.snapshot()) == encode(applier.machine.snapshot())
    for machine in (applier.machine, other):
        machine.apply(
            {"op": "queue-push", "name": "queue", "keys": ["c"], "priorities": [1], "values": [""]},
            context(99),
        )
    assert encode(other.snapshot()) == encode(applier.machine.snapshot())


# ---- queries -------------------------------------------------------------------------------
def test_keys_and_values_that_are_no_text_come_as_base64():
    applier = declared("map")
    applier("map-insert", key_b64="/w==", value_b64="/w==")
    applier("map-insert", key_b64="/wE=", value="text")

    assert applier.ask("map-get", key_b64="/w==")["item"] == {"key_b64": "/w==", "value_b64": "/w=="}
    first = applier.ask("list", limit=1)
    assert (first["items"], first["next_b64"]) == ([{"key_b64": "/w==", "value_b64": "/w=="}], "/w==")
    assert len(applier.items(limit=1)) == 2
    assert json.dumps(first)


@pytest.mark.parametrize(
    ("kind", "after"), [("vec", "x"), ("vec", "-1"), ("vec", "9" * 40), ("queue", "ff"), ("queue", "é")]
)
def test_a_page_that_nobody_was_told_of_is_refused(kind, after):
    with pytest.raises(CommandError) as caught:
        declared(kind).ask("list", after=after)

    assert caught.value.code == "after-invalid"


def test_a_page_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr("node.machines.collections.queries.LIST_BYTES_MAX", 250)
    applier = declared("vec")
    applier("vec-push", values=["v" * 100] * 5)

    assert len(applier.ask("list")["items"]) == 2
    assert len(applier.items()) == 5


def test_a_page_behind_the_end_is_empty():
    applier = declared("vec")
    applier("vec-push", values=["v"])

    assert applier.ask("list", after="7")["items"] == []
