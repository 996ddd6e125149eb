"""The persistent structures do what dict and list do, and nothing changes an earlier value of them."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.machines.collections import sequence, sorted_map
from node.machines.collections.sequence import PersistentSequence
from node.machines.collections.sorted_map import SortedMap

MANY = 3000


def shape_of_map(node, low=b"", high=None, depth=0):
    """Yield depth and width of each leaf; every key is where the branches above it look for it."""
    if isinstance(node, sorted_map._Leaf):
        assert list(node.keys) == sorted(set(node.keys))
        assert all(low <= key and (high is None or key < high) for key in node.keys)
        yield depth, len(node.keys)
        return
    assert len(node.firsts) == len(node.children) <= sorted_map.WIDTH
    bounds = [*node.firsts[1:], high]
    for first, behind, child in zip(node.firsts, bounds, node.children, strict=True):
        yield from shape_of_map(child, first, behind, depth + 1)


def shape_of_sequence(node, depth=0):
    if isinstance(node, tuple):
        yield depth, len(node)
        return
    assert len(node.children) <= sequence.WIDTH
    assert list(node.ends) == [
        sum(sequence._length(child) for child in node.children[: n + 1]) for n in range(len(node.children))
    ]
    for child in node.children:
        yield from shape_of_sequence(child, depth + 1)


def require_shape(shape, size, width):
    depths, widths = zip(*shape, strict=True)
    assert len(set(depths)) == 1
    assert sum(widths) == size
    assert max(widths) <= width
    assert size == 0 or min(widths) > 0


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_a_sorted_map_of_many_keys_is_the_dict_after_every_kind_of_change(order):
    rng = random.Random(order)
    keys = [b"%06d" % number for number in range(MANY)]
    if order == "descending":
        keys.reverse()
    elif order == "shuffled":
        rng.shuffle(keys)
    model, tree = {}, SortedMap.empty()
    for number, key in enumerate(keys):
        model[key] = number
        tree = tree.set(key, number)
    require_shape(shape_of_map(tree.root), MANY, sorted_map.WIDTH)
    full, at_full = tree, dict(model)
    for key in rng.sample(keys, MANY * 3 // 4):
        if rng.random() < 0.3:
            model[key] = tree.get(key) + 1
            tree = tree.set(key, model[key])
        else:
            del model[key]
            tree = tree.remove(key)
            assert tree.get(key) is None
    require_shape(shape_of_map(tree.root), len(model), sorted_map.WIDTH)

    assert list(tree.items()) == sorted(model.items())
    assert tree.last() == max(model.items())
    assert list(full.items()) == sorted(at_full.items())
    for start in rng.sample(keys, 20):
        assert list(tree.items(start)) == [item for item in sorted(model.items()) if item[0] >= start]
    for key in sorted(model):
        tree = tree.remove(key)
    assert (list(tree.items()), len(tree), tree.last()) == ([], 0, None)


@given(
    before=st.dictionaries(st.binary(max_size=2), st.integers()),
    changes=st.dictionaries(st.binary(max_size=2), st.integers()),
)
def test_an_update_sets_each_key(before, changes):
    keys = sorted(before)
    tree = SortedMap.from_sorted(keys, [before[key] for key in keys])
    after = tree.update(changes)

    assert list(after.items()) == sorted({**before, **changes}.items())
    assert list(tree.items()) == sorted(before.items())


@pytest.mark.parametrize("share", [1, 3, 100])
def test_several_keys_are_removed_at_once(share):
    keys = [b"%06d" % number for number in range(MANY)]
    tree = SortedMap.from_sorted(keys, keys)
    after = tree.without(keys[::share])

    assert [key for key, _ in after.items()] == [key for n, key in enumerate(keys) if n % share]
    assert len(after) == MANY - len(keys[::share])
    require_shape(shape_of_map(after.root), len(after), sorted_map.WIDTH)
    assert len(tree) == MANY


def test_a_small_update_of_a_large_map_shares_what_it_does_not_touch():
    keys = [b"%06d" % number for number in range(MANY)]
    tree = SortedMap.from_sorted(keys, keys)
    after = tree.update({b"000001": b"x"})
    shared = {id(child) for child in tree.root.children} & {id(child) for child in after.root.children}

    assert len(shared) == len(tree.root.children) - 1


def test_keys_that_do_not_ascend_make_no_sorted_map():
    for keys in ([b"b", b"a"], [b"a", b"a"]):
        with pytest.raises(ValueError, match="ascend"):
            SortedMap.from_sorted(keys, keys)


@pytest.mark.parametrize("where", ["back", "front", "anywhere"])
def test_a_sequence_of_many_values_is_the_list_after_every_kind_of_change(where):
    rng = random.Random(where)
    model, tree = [], PersistentSequence()
    for number in range(MANY):
        index = {"back": len(model), "front": 0, "anywhere": rng.randint(0, len(model))}[where]
        model.insert(index, b"%d" % number)
        tree = tree.insert(index, (b"%d" % number,))
    require_shape(shape_of_sequence(tree.root), MANY, sequence.WIDTH)
    full, at_full = tree, list(model)
    for number in range(MANY * 3 // 4):
        index = rng.randrange(len(model))
        if number % 3 == 0:
            model[index] = b"set"
            tree = tree.set(index, b"set")
        else:
            del model[index]
            tree = tree.remove(index)
    require_shape(shape_of_sequence(tree.root), len(model), sequence.WIDTH)

    assert list(tree.values()) == model
    assert [tree.get(index) for index in range(len(model))] == model
    assert list(full.values()) == at_full
    for cut in (len(model), len(model) - 1, 700, 64, 1, 0):
        short = tree.truncate(cut)
        assert (list(short.values()), len(short)) == (model[:cut], cut)
    assert list(tree.values(500)) == model[500:]
    assert list(tree.values(len(model))) == []
    for _ in range(len(model)):
        tree = tree.remove(0)
    assert (list(tree.values()), len(tree)) == ([], 0)


@given(
    before=st.lists(st.binary(max_size=1), max_size=300),
    values=st.lists(st.binary(max_size=1)),
    data=st.data(),
)
def test_values_are_inserted_in_their_order(before, values, data):
    index = data.draw(st.integers(0, len(before)))
    after = PersistentSequence.of(before).insert(index, values)

    assert list(after.values()) == before[:index] + values + before[index:]


def test_ascending_keys_fill_the_leaves_almost_entirely():
    tree = SortedMap.empty()
    for number in range(MANY):
        tree = tree.set(b"%06d" % number, b"")
    leaves = list(shape_of_map(tree.root))

    assert MANY / len(leaves) >= sorted_map.WIDTH * 3 / 4


def test_a_copy_costs_nothing_and_a_change_after_it_a_path():
    keys = [b"%06d" % number for number in range(100_000)]
    tree = SortedMap.from_sorted(keys, keys)
    tracemalloc.start()
    try:
        before = tree
        tree = tree.set(b"050000", b"new")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert before.get(b"050000") == b"050000"
    assert used < 10_000
