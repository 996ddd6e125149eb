"""A persistent sorted map from bytes to values: a change makes a new map, and the old one stays as it was.

It is a B+ tree of tuples. A change copies one leaf and the branches above it, and shares the rest, so a copy
of the whole map is one reference. Iteration is in byte order of the keys on every node, which the hash tries
of other libraries do not give: their order depends on the hash, which Python draws anew for each process.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct

V = TypeVar("V")

WIDTH: Final = 64  # the most keys of a leaf, and the most children of a branch
_SMALL: Final = WIDTH // 4
# A leaf that overflows at its end keeps this many keys: ascending keys then fill the leaves almost entirely.
_KEPT_AT_END: Final = WIDTH * 7 // 8
# Changing more than one key in this many costs more than building the whole map anew.
_REBUILD_SHARE: Final = 8


# Without cycles and unknown to the garbage collector: a full collection never walks a large map.
class _Leaf(Struct, Generic[V], frozen=True, gc=False):
    keys: tuple[bytes, ...]
    values: tuple[V, ...]


class _Branch(Struct, Generic[V], frozen=True, gc=False):
    """``firsts``: at most the lowest key of each child, and above every key of the child before it."""

    firsts: tuple[bytes, ...]
    children: "tuple[_Leaf[V] | _Branch[V], ...]"


_Node = _Leaf[V] | _Branch[V]


class SortedMap(Struct, Generic[V], frozen=True, gc=False):
    """Made by ``empty`` and ``from_sorted``; ``len`` takes constant time."""

    root: _Leaf[V] | _Branch[V]
    size: int

    @classmethod
    def empty(cls) -> "SortedMap[V]":
        return cls(_Leaf((), ()), 0)

    @classmethod
    def from_sorted(cls, keys: Sequence[bytes], values: Sequence[V]) -> "SortedMap[V]":
        """Build a map from keys that ascend, and a value for each.

        Raises:
            ValueError: the keys do not ascend.
        """
        if any(keys[i] >= keys[i + 1] for i in range(len(keys) - 1)):
            raise ValueError("the keys do not ascend")
        if not keys:
            return cls.empty()
        nodes: list[_Leaf[V] | _Branch[V]] = [
            _Leaf(tuple(keys[i : i + _KEPT_AT_END]), tuple(values[i : i + _KEPT_AT_END]))
            for i in range(0, len(keys), _KEPT_AT_END)
        ]
        return cls(_over(nodes, list(keys[::_KEPT_AT_END])), len(keys))

    def __len__(self) -> int:
        return self.size

    def get(self, key: bytes) -> V | None:
        """Return the value of ``key``; None if it is not here."""
        node = self.root
        while isinstance(node, _Branch):
            node = node.children[_child_of(node, key)]
        place = bisect_left(node.keys, key)
        if place < len(node.keys) and node.keys[place] == key:
            return node.values[place]
        return None

    def items(self, start: bytes = b"") -> Iterator[tuple[bytes, V]]:
        """Yield keys and values in byte order of the keys, beginning with the first key from ``start`` on."""
        return _items_from(self.root, start)

    def last(self) -> tuple[bytes, V] | None:
        """Return the highest key with its value; None if the map is empty."""
        if not self.size:
            return None
        node = self.root
        while isinstance(node, _Branch):
            node = node.children[-1]
        return node.keys[-1], node.values[-1]

    def set(self, key: bytes, value: V) -> "SortedMap[V]":
        """Return this map with ``value`` under ``key``."""
        node, right, added = _set(self.root, key, value)
        if right is not None:
            node = _Branch((_first(node), _first(right)), (node, right))
        return SortedMap(node, self.size + added)

    def update(self, changes: dict[bytes, V]) -> "SortedMap[V]":
        """Return this map with every key of ``changes`` set to its value there."""
        if len(changes) * _REBUILD_SHARE < self.size:
            result = self
            for key, value in changes.items():
                result = result.set(key, value)
            return result
        merged = dict(self.items())
        merged.update(changes)
        keys = sorted(merged)
        return SortedMap.from_sorted(keys, [merged[key] for key in keys])

    def without(self, keys: Collection[bytes]) -> "SortedMap[V]":
        """Return this map without ``keys``, which are all here, each once."""
        if len(keys) * _REBUILD_SHARE < self.size:
            result = self
            for key in keys:
                result = result.remove(key)
            return result
        left = dict(self.items())
        for key in keys:
            del left[key]
        return SortedMap.from_sorted(list(left), list(left.values()))

    def remove(self, key: bytes) -> "SortedMap[V]":
        """Return this map without ``key``, which is here."""
        node = _remove(self.root, key)
        while isinstance(node, _Branch) and len(node.children) == 1:
            node = node.children[0]
        return SortedMap(_Leaf((), ()) if node is None else node, self.size - 1)


class SortedMapBuilder(Generic[V]):
    """Builds a map from ascending keys, one after the other: nearly all of it is there before the end."""

    def __init__(self) -> None:
        self._nodes: list[_Leaf[V] | _Branch[V]] = []
        self._firsts: list[bytes] = []
        self._keys: list[bytes] = []
        self._values: list[V] = []
        self._last: bytes | None = None

    def add(self, key: bytes, value: V) -> None:
        """Add the next key.

        Raises:
            ValueError: the keys do not ascend.
        """
        if self._last is not None and key <= self._last:
            raise ValueError("the keys do not ascend")
        self._last = key
        self._keys.append(key)
        self._values.append(value)
        if len(self._keys) == _KEPT_AT_END:
            self._end_leaf()

    def _end_leaf(self) -> None:
        self._firsts.append(self._keys[0])
        self._nodes.append(_Leaf(tuple(self._keys), tuple(self._values)))
        self._keys.clear()
        self._values.clear()

    def finish(self) -> SortedMap[V]:
        """Return the map; no key can be added afterwards."""
        size = len(self._nodes) * _KEPT_AT_END + len(self._keys)
        if self._keys:
            self._end_leaf()
        return SortedMap(_over(self._nodes, self._firsts), size) if size else SortedMap.empty()


def _over(nodes: list[_Node[V]], firsts: list[bytes]) -> _Node[V]:
    """Return the root of a tree over these nodes, at least one; ``firsts`` are their lowest keys."""
    while len(nodes) > 1:
        nodes = [
            _Branch(tuple(firsts[i : i + _KEPT_AT_END]), tuple(nodes[i : i + _KEPT_AT_END]))
            for i in range(0, len(nodes), _KEPT_AT_END)
        ]
        firsts = firsts[::_KEPT_AT_END]
    return nodes[0]


def _child_of(branch: _Branch[V], key: bytes) -> int:
    return max(bisect_right(branch.firsts, key) - 1, 0)


def _first(node: _Node[V]) -> bytes:
    return node.keys[0] if isinstance(node, _Leaf) else node.firsts[0]


def _items_from(node: _Node[V], start: bytes) -> Iterator[tuple[bytes, V]]:
    if isinstance(node, _Leaf):
        place = bisect_left(node.keys, start)
        yield from zip(node.keys[place:], node.values[place:], strict=True)
        return
    place = _child_of(node, start)
    yield from _items_from(node.children[place], start)
    for child in node.children[place + 1 :]:
        yield from _items_from(child, b"")


def _set(node: _Node[V], key: bytes, value: V) -> tuple[_Node[V], _Node[V] | None, int]:
    """Return the new node, what did not fit into it, and how many keys were added."""
    if isinstance(node, _Leaf):
        return _set_in_leaf(node, key, value)
    place = _child_of(node, key)
    child, right, added = _set(node.children[place], key, value)
    firsts, children = node.firsts, node.children
    middle: tuple[_Node[V], ...] = (child,) if right is None else (child, right)
    if right is not None:
        firsts = (*firsts[: place + 1], _first(right), *firsts[place + 1 :])
    if key < firsts[0]:
        firsts = (key, *firsts[1:])
    children = children[:place] + middle + children[place + 1 :]
    if len(children) <= WIDTH:
        return _Branch(firsts, children), None, added
    kept = _KEPT_AT_END if place == len(node.children) - 1 else len(children) // 2
    return _Branch(firsts[:kept], children[:kept]), _Branch(firsts[kept:], children[kept:]), added


def _set_in_leaf(leaf: _Leaf[V], key: bytes, value: V) -> tuple[_Leaf[V], _Leaf[V] | None, int]:
    keys, values = leaf.keys, leaf.values
    place = bisect_left(keys, key)
    if place < len(keys) and keys[place] == key:
        return _Leaf(keys, (*values[:place], value, *values[place + 1 :])), None, 0
    keys = (*keys[:place], key, *keys[place:])
    values = (*values[:place], value, *values[place:])
    if len(keys) <= WIDTH:
        return _Leaf(keys, values), None, 1
    kept = _KEPT_AT_END if place == len(keys) - 1 else len(keys) // 2
    return _Leaf(keys[:kept], values[:kept]), _Leaf(keys[kept:], values[kept:]), 1


def _remove(node: _Node[V], key: bytes) -> _Node[V] | None:
    """Return the node without ``key``; None if nothing is left of it."""
    if isinstance(node, _Leaf):
        place = bisect_left(node.keys, key)
        assert node.keys[place] == key
        if len(node.keys) == 1:
            return None
        return _Leaf(
            node.keys[:place] + node.keys[place + 1 :], node.values[:place] + node.values[place + 1 :]
        )
    place = _child_of(node, key)
    child = _remove(node.children[place], key)
    middle: tuple[_Node[V], ...] = () if child is None else (child,)
    children = node.children[:place] + middle + node.children[place + 1 :]
    firsts = node.firsts if child is not None else node.firsts[:place] + node.firsts[place + 1 :]
    if not children:
        return None
    if child is not None and len(children) > 1 and _width(child) < _SMALL:
        return _merged(firsts, children, place)
    return _Branch(firsts, children)


def _width(node: _Node[V]) -> int:
    return len(node.keys) if isinstance(node, _Leaf) else len(node.children)


def _merged(firsts: tuple[bytes, ...], children: tuple[_Node[V], ...], place: int) -> _Branch[V]:
    """Return the branch of these children, where the small child at ``place`` joins a neighbour with room."""
    left = place - 1 if place else 0
    one, other = children[left], children[left + 1]
    if _width(one) + _width(other) > WIDTH - _SMALL:
        return _Branch(firsts, children)
    joined: _Node[V]
    if isinstance(one, _Leaf) and isinstance(other, _Leaf):
        joined = _Leaf(one.keys + other.keys, one.values + other.values)
    else:
        assert isinstance(one, _Branch)
        assert isinstance(other, _Branch)
        joined = _Branch(one.firsts + other.firsts, one.children + other.children)
    return _Branch(
        (*firsts[: left + 1], *firsts[left + 2 :]), (*children[:left], joined, *children[left + 2 :])
    )
