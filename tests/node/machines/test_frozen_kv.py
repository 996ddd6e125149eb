"""A frozen store stays as it was, whatever is done to the store, and comes back equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import encode
from node.machines.base import ApplyContext
from node.machines.kv import KeyValue
from node.machines.kv.frozen_older import ROWS_MAX

CONTEXT = ApplyContext(1, 1, 0, 0, bytes(32))
KEYS = st.sampled_from([f"k{number}" for number in range(12)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.text(max_size=4)),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("undo"), KEYS, st.text(max_size=4)),
    ),
    max_size=30,
)


def do(store, step):
    match step:
        case ("put", key, value):
            store.savepoint()
            store.apply({"op": "put", "key": key, "value": value}, CONTEXT)
        case ("delete", key):
            store.savepoint()
            store.apply({"op": "delete", "key": key}, CONTEXT)
        case (_, key, value):
            savepoint = store.savepoint()
            store.apply({"op": "put", "key": key, "value": value}, CONTEXT)
            store.apply({"op": "delete", "key": key}, CONTEXT)
            store.rollback(savepoint)


@given(before=STEPS, during=st.lists(STEPS, min_size=1, max_size=6), small=st.integers(1, 3))
def test_items_are_those_of_the_moment_of_freezing(monkeypatch_rows, before, during, small):
    monkeypatch_rows(small)
    store = KeyValue()
    for step in before:
        do(store, step)
    untouched = KeyValue()
    untouched.restore(store.snapshot())
    wanted = list(untouched.freeze().items())
    frozen = store.freeze()
    items, found = frozen.items(), []
    for steps in during:
        for step in steps:
            do(store, step)
        found += [item for item in [next(items, None)] if item is not None]
    found += items
    frozen.release()

    assert encode(found) == encode(wanted)
    assert store._store._frozen == []


@pytest.fixture(scope="module")
def monkeypatch_rows():
    def put(count):
        patch.setattr("node.machines.kv.frozen_older.ROWS_MAX", count)

    with pytest.MonkeyPatch.context() as patch:
        yield put


def test_a_store_that_was_thawed_is_the_same_and_changes_only_at_the_end():
    store = KeyValue()
    for number in range(3 * ROWS_MAX):
        store.apply({"op": "put", "key": f"k{number % 200}", "value": str(number)}, CONTEXT)
    items = list(store.freeze().items())
    other = KeyValue()
    other.apply({"op": "put", "key": "mine", "value": "1"}, CONTEXT)
    thawing = other.thaw()
    for item in items:
        thawing.take(item)
    assert other.query({"op": "get", "key": "mine"})["item"] is not None
    thawing.finish()

    assert other.snapshot() == store.snapshot()
    assert list(other.freeze().items()) == items


@pytest.mark.parametrize(
    "item", [None, ["live", []], [1], ["live", [[b"k"]]], ["past", 3], ["other", []]], ids=repr
)
def test_an_item_that_is_none_is_refused_and_the_store_is_unchanged(item):
    store = KeyValue()
    store.apply({"op": "put", "key": "mine", "value": "1"}, CONTEXT)
    before = store.snapshot()
    thawing = store.thaw()
    if item != ["live", []]:
        thawing.take([1, 0])
    with pytest.raises(ValueError):
        thawing.take(item)
    assert store.snapshot() == before


def test_freezing_costs_the_same_however_much_the_store_holds():
    """Counted in items made, not in time: none before they are asked for."""
    store = KeyValue()
    for number in range(5000):
        store.savepoint()
        store.apply({"op": "put", "key": f"k{number}", "value": "x"}, CONTEXT)
    frozen = store.freeze()
    assert frozen._live is store._store._live
    assert frozen._before == {}
    store.apply({"op": "put", "key": "k7", "value": "y"}, CONTEXT)
    assert list(frozen._before) == [b"k7"]
    frozen.release()
