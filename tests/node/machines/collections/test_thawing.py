"""A large state comes back in steps of bounded work: counted in rows and nodes, so that no clock decides."""

import random

import pytest

from node.machines.base import ApplyContext
from node.machines.collections import sequence, sorted_map
from node.machines.collections.frozen import ITEM_ROWS
from node.machines.collections.machine import CollectionsMachine
from node.machines.collections.sequence import PersistentSequence, SequenceBuilder
from node.machines.collections.sorted_map import SortedMap, SortedMapBuilder

COUNT = 20_000


def context(index):
    return ApplyContext(1, index, 0, index, bytes(32))


def filled(kind, count=COUNT):
    machine = CollectionsMachine()
    machine.apply({"op": "declare", "name": "c", "kind": kind}, context(1))
    keys = [f"k{number:06}" for number in range(count)]
    random.Random(1).shuffle(keys)
    for at in range(0, count, 100):
        part = keys[at : at + 100]
        command = {
            "map": {"op": "map-extend", "keys": part, "values": part},
            "set": {"op": "set-add", "values": part},
            "vec": {"op": "vec-push", "values": part},
            "queue": {
                "op": "queue-push", "keys": part, "values": part,
                "priorities": [hash_of(key) for key in part],
            },
        }[kind]  # fmt: skip
        machine.apply({**command, "name": "c"}, context(at + 2))
    return machine


def hash_of(key):
    return int(key[1:]) * 7919 % 1000


class Work:
    """Counts the nodes of trees that are made."""

    def __init__(self, monkeypatch):
        self.nodes = 0

        def counted(make):
            def counting(*args):
                self.nodes += 1
                return make(*args)

            return counting

        monkeypatch.setattr(sorted_map, "_over", self._over(sorted_map._over))
        monkeypatch.setattr(sequence, "_over", self._over(sequence._over))
        monkeypatch.setattr(sorted_map, "_set", counted(sorted_map._set))

    def _over(self, over):
        def counting(nodes, *rest):
            self.nodes += len(nodes)
            return over(nodes, *rest)

        return counting


@pytest.mark.parametrize("kind", ["map", "set", "vec", "queue"])
def test_each_item_costs_its_own_rows_and_the_end_costs_a_node_for_some_dozens_of_rows(kind, monkeypatch):
    machine = filled(kind)
    items = list(machine.freeze().items())
    fresh = CollectionsMachine()
    thawing = fresh.thaw()
    work = Work(monkeypatch)
    most = 0
    for item in items:
        assert len(item) <= ITEM_ROWS
        work.nodes = 0
        thawing.take(item)
        most = max(most, work.nodes)
        assert fresh.snapshot() == []
    assert most <= 4 * ITEM_ROWS  # of a queue: a path for each row
    work.nodes = 0
    thawing.finish()
    assert work.nodes <= COUNT // 40
    assert fresh.snapshot() == machine.snapshot()


@pytest.mark.parametrize("kind", ["map", "set", "vec", "queue"])
def test_a_state_that_came_back_goes_on_as_the_original(kind):
    machine, fresh = filled(kind, 500), CollectionsMachine()
    fresh.restore(machine.snapshot())
    for one in (machine, fresh):
        if kind == "queue":
            popped = [one.apply({"op": "queue-pop", "name": "c"}, context(9000 + n)) for n in range(50)]
            assert popped[0]["item"]["priority"] > 900
        one.apply(drop(kind), context(9999))
    assert fresh.snapshot() == machine.snapshot()


def drop(kind):
    return {
        "map": {"op": "map-remove", "name": "c", "keys": ["k000001", "k000400"]},
        "set": {"op": "set-remove", "name": "c", "values": ["k000001", "k000400"]},
        "queue": {"op": "queue-remove", "name": "c", "keys": ["k000001"]},
        "vec": {"op": "vec-swap", "name": "c", "index": 3, "other": 400},
    }[kind]


@pytest.mark.parametrize("count", [0, 1, 55, 56, 57, 64, 65, 3136, 3137, 5000])
def test_trees_that_are_built_one_by_one_hold_what_was_added(count):
    keys = [b"%06d" % number for number in range(count)]
    of_keys, of_values = SortedMapBuilder(), SequenceBuilder()
    for key in keys:
        of_keys.add(key, key)
        of_values.add(key)
    assert of_keys.finish() == SortedMap.from_sorted(keys, keys)
    assert of_values.finish() == PersistentSequence.of(keys)


@pytest.mark.parametrize("keys", [(b"a", b"a"), (b"b", b"a"), (b"", b"")])
def test_keys_that_do_not_ascend_are_refused(keys):
    builder = SortedMapBuilder()
    builder.add(keys[0], 1)
    with pytest.raises(ValueError, match="ascend"):
        builder.add(keys[1], 2)
