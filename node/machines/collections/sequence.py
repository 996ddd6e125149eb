"""A persistent sequence of values: a change makes a new sequence, and the old one stays as it was.

A B+ tree of tuples by position, with the number of values below each child. See ``sorted_map``.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import Final

from msgspec import Struct

WIDTH: Final = 64  # the most values of a leaf, and the most children of a branch
_SMALL: Final = WIDTH // 4
_REBUILD_SHARE: Final = 8

_Leaf = tuple[bytes, ...]


class _Branch(Struct, frozen=True, gc=False):
    """``ends``: for each child, how many values are in it and in all children before it."""

    ends: tuple[int, ...]
    children: "tuple[_Leaf | _Branch, ...]"


_Node = _Leaf | _Branch


class PersistentSequence(Struct, frozen=True, gc=False):
    """Values by position, from 0; ``len`` takes constant time."""

    root: "tuple[bytes, ...] | _Branch" = ()

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "PersistentSequence":
        """Build a sequence of ``values``."""
        return cls(_over([tuple(values[i : i + WIDTH]) for i in range(0, len(values), WIDTH)]))

    def __len__(self) -> int:
        return _length(self.root)

    def get(self, index: int) -> bytes:
        """Return the value at ``index``, which is from 0 to below the length."""
        node = self.root
        while isinstance(node, _Branch):
            place = bisect_right(node.ends, index)
            index -= node.ends[place - 1] if place else 0
            node = node.children[place]
        return node[index]

    def values(self, start: int = 0) -> Iterator[bytes]:
        """Yield the values in order from the position ``start`` on."""
        return _values_from(self.root, start)

    def set(self, index: int, value: bytes) -> "PersistentSequence":
        """Return this sequence with ``value`` at ``index``, which is from 0 to below the length."""
        return PersistentSequence(_set(self.root, index, value))

    def insert(self, index: int, values: Sequence[bytes]) -> "PersistentSequence":
        """Return this sequence with ``values`` from ``index`` on, which is from 0 to the length."""
        if len(values) * _REBUILD_SHARE >= len(self):
            before = islice(self.values(), index)
            return PersistentSequence.of(tuple(chain(before, values, self.values(index))))
        root = self.root
        for value in values:
            left, right = _insert(root, index, value)
            root = left if right is None else _branch((left, right))
            index += 1
        return PersistentSequence(root)

    def remove(self, index: int) -> "PersistentSequence":
        """Return this sequence without the value at ``index``, which is from 0 to below the length."""
        return PersistentSequence(_shallow(_remove(self.root, index)))

    def truncate(self, length: int) -> "PersistentSequence":
        """Return the first ``length`` values, which is at most the length."""
        return PersistentSequence(_shallow(_truncate(self.root, length)))


class SequenceBuilder:
    """Builds a sequence from its values, one after the other: nearly all of it is there before the end."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._values: list[bytes] = []

    def add(self, value: bytes) -> None:
        """Add the next value."""
        self._values.append(value)
        if len(self._values) == WIDTH:
            self._end_leaf()

    def _end_leaf(self) -> None:
        self._nodes.append(tuple(self._values))
        self._values.clear()

    def finish(self) -> PersistentSequence:
        """Return the sequence; no value can be added afterwards."""
        if self._values:
            self._end_leaf()
        return PersistentSequence(_over(self._nodes))


def _over(nodes: list[_Node]) -> _Node:
    """Return the root of a tree over these nodes."""
    while len(nodes) > 1:
        nodes = [_branch(tuple(nodes[i : i + WIDTH])) for i in range(0, len(nodes), WIDTH)]
    return nodes[0] if nodes else ()


def _length(node: _Node) -> int:
    return node.ends[-1] if isinstance(node, _Branch) else len(node)


def _branch(children: tuple[_Node, ...]) -> _Branch:
    return _Branch(tuple(accumulate(map(_length, children))), children)


def _shallow(node: _Node | None) -> _Node:
    while isinstance(node, _Branch) and len(node.children) == 1:
        node = node.children[0]
    return () if node is None else node


def _values_from(node: _Node, start: int) -> Iterator[bytes]:
    if not isinstance(node, _Branch):
        yield from node[start:]
        return
    place = bisect_right(node.ends, start)
    for number in range(place, len(node.children)):
        before = node.ends[number - 1] if number else 0
        yield from _values_from(node.children[number], max(start - before, 0))


def _set(node: _Node, index: int, value: bytes) -> _Node:
    if not isinstance(node, _Branch):
        return (*node[:index], value, *node[index + 1 :])
    place = bisect_right(node.ends, index)
    child = _set(node.children[place], index - (node.ends[place - 1] if place else 0), value)
    return _Branch(node.ends, (*node.children[:place], child, *node.children[place + 1 :]))


def _insert(node: _Node, index: int, value: bytes) -> tuple[_Node, _Node | None]:
    """Return the new node, and what did not fit into it."""
    if not isinstance(node, _Branch):
        leaf = (*node[:index], value, *node[index:])
        if len(leaf) <= WIDTH:
            return leaf, None
        kept = _kept(index, len(node))
        return leaf[:kept], leaf[kept:]
    # At the border of two children it goes to the end of the left one.
    place = bisect_right(node.ends, index - 1)
    left, right = _insert(node.children[place], index - (node.ends[place - 1] if place else 0), value)
    middle = (left,) if right is None else (left, right)
    children = (*node.children[:place], *middle, *node.children[place + 1 :])
    if len(children) <= WIDTH:
        return _branch(children), None
    kept = _kept(place, len(node.children) - 1)
    return _branch(children[:kept]), _branch(children[kept:])


def _kept(place: int, end: int) -> int:
    """Return where to split: what grows at one end only fills its nodes almost entirely."""
    if place == end:
        return WIDTH - _SMALL // 2
    return _SMALL // 2 if place == 0 else WIDTH // 2


def _remove(node: _Node, index: int) -> _Node | None:
    """Return the node without the value; None if nothing is left of it."""
    if not isinstance(node, _Branch):
        return None if len(node) == 1 else (*node[:index], *node[index + 1 :])
    place = bisect_right(node.ends, index)
    child = _remove(node.children[place], index - (node.ends[place - 1] if place else 0))
    middle: tuple[_Node, ...] = () if child is None else (child,)
    children = (*node.children[:place], *middle, *node.children[place + 1 :])
    if not children:
        return None
    if child is not None and len(children) > 1 and _width(child) < _SMALL:
        children = _merged(children, place)
    return _branch(children)


def _width(node: _Node) -> int:
    return len(node.children) if isinstance(node, _Branch) else len(node)


def _merged(children: tuple[_Node, ...], place: int) -> tuple[_Node, ...]:
    """Return the children, where the small one at ``place`` joins a neighbour that has room for it."""
    left = place - 1 if place else 0
    one, other = children[left], children[left + 1]
    if _width(one) + _width(other) > WIDTH - _SMALL:
        return children
    if isinstance(one, _Branch) and isinstance(other, _Branch):
        joined: _Node = _branch(one.children + other.children)
    else:
        assert not isinstance(one, _Branch)
        assert not isinstance(other, _Branch)
        joined = one + other
    return (*children[:left], joined, *children[left + 2 :])


def _truncate(node: _Node, length: int) -> _Node | None:
    if length == 0:
        return None
    if not isinstance(node, _Branch):
        return node[:length]
    if length >= _length(node):
        return node
    place = bisect_right(node.ends, length - 1)
    last = _truncate(node.children[place], length - (node.ends[place - 1] if place else 0))
    assert last is not None
    return _branch((*node.children[:place], last))
