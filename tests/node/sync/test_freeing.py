"""Large values are freed in small steps, and nothing that anybody else refers to is touched."""

import weakref
from collections import deque

import pytest
from msgspec import Struct

from node.sync.freeing import Freeing, attributes_of

COUNT = 10_000


class Leaf:
    """Reports its end."""


class Row(Struct):
    leaf: Leaf


class Slotted:
    __slots__ = ("absent", "rows")

    def __init__(self, rows):
        self.rows = rows


class Plain:
    def __init__(self, rows):
        self.rows = rows


def counted(alive):
    leaf = Leaf()
    alive.add(leaf)
    return leaf


MAKERS = {
    "dict": lambda alive: {number: counted(alive) for number in range(COUNT)},
    "list": lambda alive: [counted(alive) for _ in range(COUNT)],
    "deque": lambda alive: deque(counted(alive) for _ in range(COUNT)),
    "set": lambda alive: {counted(alive) for _ in range(COUNT)},
    "structs": lambda alive: {number: Row(counted(alive)) for number in range(COUNT)},
    "deques of tuples": lambda alive: {number: deque([(counted(alive),)]) for number in range(COUNT)},
    "object": lambda alive: Plain([counted(alive) for _ in range(COUNT)]),
    "object with slots": lambda alive: Slotted([counted(alive) for _ in range(COUNT)]),
    "lists in lists": lambda alive: [[counted(alive) for _ in range(100)] for _ in range(COUNT // 100)],
}


@pytest.mark.parametrize("kind", MAKERS)
def test_no_step_frees_more_than_a_small_part(kind):
    alive = weakref.WeakSet()
    freeing = Freeing()
    freeing.add(MAKERS[kind](alive))
    assert len(alive) == COUNT
    most = 0
    while freeing.is_waiting:
        before = len(alive)
        freeing.work()
        most = max(most, before - len(alive))
    assert not alive
    assert most <= 1024


def test_what_somebody_else_refers_to_stays_whole():
    kept = {"rows": [1, 2, 3], "more": {"a": [4]}}
    mine = kept["more"]
    freeing = Freeing()
    freeing.add({"kept": kept, "mine": mine, "rows": kept["rows"], "own": [5] * COUNT})
    while freeing.is_waiting:
        freeing.work()
    assert kept == {"rows": [1, 2, 3], "more": {"a": [4]}}


def test_a_value_that_refers_to_itself_is_left_to_the_collector():
    ring = []
    ring.append(ring)
    freeing = Freeing()
    freeing.add(ring)
    del ring
    freeing.work()
    assert not freeing.is_waiting


def test_an_object_that_hides_its_attributes_is_let_go_at_once():
    assert attributes_of(object()) == []
    freeing = Freeing()
    freeing.add(iter([1]))
    freeing.work()
    assert not freeing.is_waiting
