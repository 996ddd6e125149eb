"""KeyValue: etcd's revisions, atomic rollback, a bounded and readable past, equal snapshots."""

import base64
import inspect
import re
import tracemalloc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.machines.base import ApplyContext, CommandError
from node.machines.kv import KeyValue, older, sorted_keys, values
from tests.node.machines.transcript import operations_of

CONTEXT = ApplyContext(term=1, index=1, sub=0, time_ms=0, group_id=bytes(32))
CONTEXT_2 = partial(ApplyContext, 1, 1, 0, 0, bytes(32), version=2)


def apply(machine, command):
    return machine.apply(command, CONTEXT)


def put(machine, key, value, **more):
    return apply(machine, {"op": "put", "key": key, "value": value, **more})


def get(machine, key, **more):
    return machine.query({"op": "get", "key": key, **more})["item"]


def refused(machine, command, *, query=False):
    before = machine.snapshot()
    with pytest.raises(CommandError) as caught:
        machine.query(command) if query else apply(machine, command)

    assert machine.snapshot() == before
    return caught.value.code


# ---- revisions -------------------------------------------------------------------
def test_an_empty_store_is_at_revision_1_and_every_change_is_one_more():
    machine = KeyValue()

    assert machine.query({"op": "get", "key": "a"}) == {"revision": 1, "item": None}
    assert put(machine, "a", "1") == {"revision": 2, "create_revision": 2, "version": 1}
    assert put(machine, "a", "2") == {"revision": 3, "create_revision": 2, "version": 2}
    assert apply(machine, {"op": "delete", "key": "a"}) == {"revision": 4, "deleted": 1}
    assert put(machine, "a", "3") == {"revision": 5, "create_revision": 5, "version": 1}


def test_what_changes_nothing_makes_no_revision():
    machine = KeyValue()
    put(machine, "a", "1")

    assert apply(machine, {"op": "delete", "key": "b"}) == {"revision": 2, "deleted": 0}
    assert apply(machine, {"op": "cas", "key": "a", "expect": "x", "value": "y"})["revision"] == 2
    assert apply(machine, {"op": "cas", "key": "b", "expect": None, "value": None}) == {
        "revision": 2,
        "swapped": True,
    }


def test_get_shows_creation_last_change_and_version():
    machine = KeyValue()
    put(machine, "a", "1")
    put(machine, "b", "1")
    put(machine, "a", "2")

    assert get(machine, "a") == {
        "key": "a",
        "value": "2",
        "create_revision": 2,
        "mod_revision": 4,
        "version": 2,
    }


def test_the_previous_item_comes_back_when_it_is_asked_for():
    machine = KeyValue()

    assert put(machine, "a", "1", prev=True)["prev"] is None
    assert put(machine, "a", "2", prev=True)["prev"]["value"] == "1"
    assert apply(machine, {"op": "delete", "key": "a", "prev": True})["prev"]["value"] == "2"
    assert apply(machine, {"op": "delete", "key": "a", "prev": True})["prev"] is None


# ---- compare and swap -----------------------------------------------------------------
def test_cas_sets_only_what_was_expected():
    machine = KeyValue()

    assert apply(machine, {"op": "cas", "key": "a", "expect": None, "value": "1"})["swapped"] is True
    mismatch = apply(machine, {"op": "cas", "key": "a", "expect": None, "value": "2"})
    assert mismatch["swapped"] is False
    assert mismatch["item"]["value"] == "1"
    assert apply(machine, {"op": "cas", "key": "a", "expect": "1", "value": "2"})["swapped"] is True
    assert get(machine, "a")["value"] == "2"


def test_cas_to_null_deletes():
    machine = KeyValue()
    put(machine, "a", "1")

    assert apply(machine, {"op": "cas", "key": "a", "expect": "1", "value": None})["swapped"] is True
    assert get(machine, "a") is None
    assert apply(machine, {"op": "cas", "key": "a", "expect": "1", "value": "x"}) == {
        "revision": 3,
        "swapped": False,
        "item": None,
    }


def test_an_empty_value_is_not_an_absent_one():
    machine = KeyValue()
    put(machine, "a", "")

    assert apply(machine, {"op": "cas", "key": "a", "expect": None, "value": "x"})["swapped"] is False
    assert get(machine, "a")["value"] == ""


# ---- bytes ---------------------------------------------------------------------------
def test_bytes_that_are_no_text_travel_as_base64():
    machine = KeyValue()
    raw = base64.b64encode(b"\xff\x00").decode()
    apply(machine, {"op": "put", "key_b64": raw, "value_b64": raw})

    item = machine.query({"op": "get", "key_b64": raw})["item"]
    assert item["key_b64"] == item["value_b64"] == raw
    assert "key" not in item
    assert "value" not in item


def test_text_and_its_base64_are_the_same_key():
    machine = KeyValue()
    apply(machine, {"op": "put", "key_b64": base64.b64encode("ü".encode()).decode(), "value": "1"})

    assert get(machine, "ü")["value"] == "1"


# ---- list ------------------------------------------------------------------------------
def test_list_gives_a_prefix_in_byte_order():
    machine = KeyValue()
    for key in ("b/2", "a", "b/10", "b", "c"):
        put(machine, key, "v")

    listed = machine.query({"op": "list", "prefix": "b"})
    assert [item["key"] for item in listed["items"]] == ["b", "b/10", "b/2"]
    assert listed["more"] is False


def test_list_pages_with_after_and_misses_nothing():
    machine = KeyValue()
    names = [f"k{number:03}" for number in range(25)]
    for name in names:
        put(machine, name, "v")

    seen, query = [], {"op": "list", "prefix": "k", "limit": 10}
    while True:
        page = machine.query(query)
        seen += [item["key"] for item in page["items"]]
        if not page["more"]:
            break
        query = {**query, "after": seen[-1]}
    assert seen == names


def test_one_answer_is_bounded_in_bytes_and_reports_that_there_is_more(monkeypatch):
    monkeypatch.setattr("node.machines.kv.machine.LIST_BYTES_MAX", 100)
    machine = KeyValue()
    for number in range(5):
        put(machine, f"k{number}", "x" * 40)

    page = machine.query({"op": "list", "prefix": ""})
    assert len(page["items"]) == 2
    assert page["more"] is True


@settings(max_examples=100, deadline=None)
@given(
    keys=st.sets(st.binary(min_size=1, max_size=3), max_size=40),
    removed=st.sets(st.binary(min_size=1, max_size=3), max_size=20),
    start=st.binary(max_size=3),
    size=st.integers(1, 5),
)
def test_sorted_keys_are_a_sorted_set_whatever_the_size_of_its_blocks(keys, removed, start, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_keys, "BLOCK_KEYS_MAX", size)
        ours, model = sorted_keys.SortedKeys(), set()
        for key in keys:
            ours.add(key)
            model.add(key)
        for key in sorted(removed & model):
            ours.remove(key)
            model.remove(key)

        assert list(ours) == sorted(model)
        assert list(ours.from_key(start)) == sorted(key for key in model if key >= start)


# ---- the past -----------------------------------------------------------------------------
def test_the_past_can_be_read_until_it_is_compacted(monkeypatch):
    monkeypatch.setattr(older, "HISTORY_VERSIONS_MAX", 2)
    machine = KeyValue()
    put(machine, "a", "1")  # revision 2
    put(machine, "a", "2")
    put(machine, "b", "1")
    apply(machine, {"op": "delete", "key": "a"})  # revision 5

    assert get(machine, "a", revision=2)["value"] == "1"
    assert get(machine, "a", revision=4)["value"] == "2"
    assert get(machine, "a", revision=5) is None
    keys = [item["key"] for item in machine.query({"op": "list", "prefix": "", "revision": 4})["items"]]
    assert keys == ["a", "b"]

    put(machine, "b", "2")  # pushes a=1 out: revision 2 is no longer whole
    assert get(machine, "a", revision=3)["value"] == "2"
    assert refused(machine, {"op": "get", "key": "a", "revision": 2}, query=True) == "revision-compacted"
    assert refused(machine, {"op": "get", "key": "a", "revision": 7}, query=True) == "revision-future"


def test_the_past_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr(older, "HISTORY_BYTES_MAX", 1000)
    machine = KeyValue()
    for _ in range(50):
        put(machine, "a", "x" * 99)

    assert len(machine.snapshot()["past"]) == 10


# ---- refusals -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("put", "not-an-object"),
        ({}, "op-missing"),
        ({"op": 1}, "op-missing"),
        ({"op": "frob"}, "op-unknown"),
        ({"op": "put", "key": "a"}, "member-missing"),
        ({"op": "put", "value": "a"}, "member-missing"),
        ({"op": "put", "key": "", "value": "a"}, "key-empty"),
        ({"op": "put", "key": 1, "value": "a"}, "member-type"),
        ({"op": "put", "key": "a", "value": None}, "member-type"),
        ({"op": "put", "key": "a", "value": "b", "ttl": 1}, "unknown-member"),
        ({"op": "put", "key": "a", "value": "b", "value_b64": "Yg=="}, "member-twice"),
        ({"op": "put", "key": "a", "value_b64": "not base64!"}, "base64-invalid"),
        ({"op": "put", "key": "a", "value_b64": "ü"}, "base64-invalid"),
        ({"op": "put", "key": "a", "value_b64": 7}, "member-type"),
        ({"op": "put", "key": "\ud800", "value": "a"}, "member-type"),
        ({"op": "put", "key": "a", "value": "b", "prev": 1}, "member-type"),
        ({"op": "put", "key": "k" * (2**21 + 1), "value": "a"}, "key-too-large"),
        ({"op": "put", "key": "k", "value": "v" * (2**21 + 1)}, "value-too-large"),
        ({"op": "cas", "key": "a", "value": "b"}, "member-missing"),
        ({"op": "cas", "key": "a", "expect": "b"}, "member-missing"),
    ],
)
def test_a_bad_command_is_refused_by_code_and_changes_nothing(command, code):
    machine = KeyValue()
    put(machine, "a", "1")

    assert refused(machine, command) == code


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"op": "put", "key": "a", "value": "b"}, "op-unknown"),
        ({"op": "list", "prefix": "", "limit": 0}, "member-range"),
        ({"op": "list", "prefix": "", "limit": True}, "member-type"),
        ({"op": "list", "prefix": "", "limit": "9"}, "member-type"),
        ({"op": "get", "key": "a", "revision": 0}, "member-range"),
        ({"op": "get", "key": "a", "more": 0}, "unknown-member"),
    ],
)
def test_a_bad_query_is_refused_by_code(query, code):
    assert refused(KeyValue(), query, query=True) == code


def test_a_full_store_refuses_growth_but_not_shrinking(monkeypatch):
    monkeypatch.setattr(older, "VERSION_1_BYTES_MAX", 100)
    machine = KeyValue()
    put(machine, "a", "x" * 90)

    assert refused(machine, {"op": "put", "key": "b", "value": "x" * 20}) == "store-full"
    put(machine, "a", "x" * 10)
    put(machine, "b", "x" * 20)
    assert get(machine, "b")["value"] == "x" * 20


def test_the_groups_quota_limits_the_store_and_a_key_costs_what_it_takes():
    machine = KeyValue()
    at = CONTEXT_2(quota_bytes=2 * values.KEY_COST + 20)
    machine.apply({"op": "put", "key": "a", "value": ""}, at)
    machine.apply({"op": "put", "key": "b", "value": "x" * 18}, at)

    for command in ({"op": "put", "key": "b", "value": "x" * 19}, {"op": "put", "key": "c", "value": ""}):
        with pytest.raises(CommandError, match=f"limited to {at.quota_bytes} bytes") as caught:
            machine.apply(command, at)
        assert caught.value.code == "store-full"
    machine.apply({"op": "put", "key": "b", "value": "y" * 18}, at)
    machine.apply({"op": "delete", "key": "a"}, at)
    machine.apply({"op": "cas", "key": "c", "expect": None, "value": ""}, at)
    assert get(machine, "c")["value"] == ""


def test_a_store_beyond_a_new_limit_only_shrinks():
    machine = KeyValue()
    put(machine, "a", "x" * 1000)
    machine.migrate(1, 2)
    at = CONTEXT_2(quota_bytes=500)

    with pytest.raises(CommandError, match="limited to 500 bytes"):
        machine.apply({"op": "put", "key": "a", "value": "x" * 1001}, at)
    machine.apply({"op": "put", "key": "a", "value": "x" * 900}, at)
    machine.apply({"op": "delete", "key": "a"}, at)
    machine.apply({"op": "put", "key": "a", "value": "x"}, at)


def test_the_cost_of_a_key_is_what_it_takes_in_memory():
    machine, count = KeyValue(), 2 * older.HISTORY_VERSIONS_MAX
    taken = []
    tracemalloc.start()
    try:
        for number in range(2 * count):
            machine.savepoint()
            put(machine, f"key-{number:06d}", "v")
            put(machine, f"key-{number:06d}", "w")
            if number + 1 in (count, 2 * count):  # the history is full at both
                taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert values.KEY_COST / 2 < (taken[1] - taken[0]) / count < values.KEY_COST


# ---- against a model -----------------------------------------------------------------------
KEYS = st.sampled_from(["a", "ab", "b", "\x00", "é"])
VALUES = st.sampled_from(["", "1", "2", "33"])
COMMANDS = st.one_of(
    st.fixed_dictionaries({"op": st.just("put"), "key": KEYS, "value": VALUES}),
    st.fixed_dictionaries({"op": st.just("delete"), "key": KEYS}),
    st.fixed_dictionaries(
        {
            "op": st.just("cas"),
            "key": KEYS,
            "expect": st.none() | VALUES,
            "value": st.none() | VALUES,
        }
    ),
)


def model_step(model, command):
    """A dict does it too."""
    model = dict(model)
    match command:
        case {"op": "put", "key": key, "value": value}:
            model[key] = value
        case {"op": "delete", "key": key}:
            model.pop(key, None)
        case {"op": "cas", "key": key, "expect": expect, "value": value}:
            if model.get(key) == expect:
                model.pop(key, None)
                if value is not None:
                    model[key] = value
    return model


def contents(machine, **more):
    items = machine.query({"op": "list", "prefix": "", **more})["items"]
    return {item["key"]: item["value"] for item in items}


@settings(max_examples=150, deadline=None)
@given(commands=st.lists(COMMANDS, max_size=30))
def test_it_behaves_as_a_dict_and_remembers_every_revision(commands):
    machine = KeyValue()
    at_revision = {1: {}}
    model = {}
    for command in commands:
        result = apply(machine, command)
        model = model_step(model, command)

        assert contents(machine) == model
        at_revision[result["revision"]] = model
    for revision, expected in at_revision.items():
        assert contents(machine, revision=revision) == expected
        for key in ("a", "ab", "b", "\x00", "é"):
            item = get(machine, key, revision=revision)
            assert (item and item["value"]) == expected.get(key)


@settings(max_examples=150, deadline=None)
@given(
    before=st.lists(COMMANDS, max_size=20),
    undone=st.lists(COMMANDS, max_size=20),
    after=st.lists(COMMANDS, max_size=10),
    history=st.integers(0, 5),
)
def test_a_rollback_leaves_no_trace(before, undone, after, history):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(older, "HISTORY_VERSIONS_MAX", history)
        machine, untouched = KeyValue(), KeyValue()
        for command in before:
            apply(machine, command)
            apply(untouched, command)
        savepoint = machine.savepoint()
        for command in undone:
            apply(machine, command)
        machine.rollback(savepoint)

        assert machine.snapshot() == untouched.snapshot()
        for command in after:
            assert apply(machine, command) == apply(untouched, command)
        assert machine.snapshot() == untouched.snapshot()


@settings(max_examples=100, deadline=None)
@given(before=st.lists(COMMANDS, max_size=25), after=st.lists(COMMANDS, max_size=10))
def test_a_restored_snapshot_goes_on_as_the_original(before, after):
    machine = KeyValue()
    for command in before:
        apply(machine, command)
    copy = KeyValue()
    put(copy, "gone", "x")
    copy.restore(machine.snapshot())

    for command in after:
        assert apply(copy, command) == apply(machine, command)
    assert copy.snapshot() == machine.snapshot()


@pytest.mark.parametrize(
    "snapshot", [None, {}, {"revision": 1}, {"revision": 1, "compact_revision": 0, "live": [[1]], "past": []}]
)
def test_an_invalid_snapshot_is_refused_and_changes_nothing(snapshot):
    machine = KeyValue()
    put(machine, "a", "1")
    before = machine.snapshot()
    with pytest.raises(ValueError):
        machine.restore(snapshot)

    assert machine.snapshot() == before


def test_only_the_newest_savepoint_can_be_rolled_back_to():
    machine = KeyValue()
    old = machine.savepoint()
    machine.savepoint()
    with pytest.raises(AssertionError):
        machine.rollback(old)


def test_a_snapshot_is_plain_data_for_the_log():
    from attestation.encoding.canonical import decode_untrusted, encode

    machine = KeyValue()
    put(machine, "a", "1")
    put(machine, "a", "2")

    assert (
        decode_untrusted(encode(machine.snapshot()), bytes_max=10_000, items_max=10_000) == machine.snapshot()
    )


# ---- the short way of a plain put --------------------------------------------------
@settings(max_examples=200)
@given(
    writes=st.lists(
        st.tuples(
            st.text(max_size=6) | st.just("\ud800") | st.none() | st.integers(),
            st.text(max_size=6) | st.just("\udfff") | st.just(None),
        ),
        max_size=8,
    ),
    small=st.booleans(),
)
def test_a_put_without_options_is_the_same_command_as_one_with_their_defaults(writes, small):
    def outcome(machine, command):
        try:
            return apply(machine, command)
        except CommandError as exc:
            return exc.code, exc.message

    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr("node.machines.kv.machine.KEY_BYTES_MAX", 3)
            patch.setattr("node.machines.kv.machine.VALUE_BYTES_MAX", 3)
        short, long = KeyValue(), KeyValue()
        for key, value in writes:
            command = {"op": "put", "key": key, "value": value}
            assert outcome(short, command) == outcome(long, {**command, "prev": False})

        assert short.snapshot() == long.snapshot()


def test_every_command_is_in_all_its_places():
    known = operations_of(KeyValue.apply)
    with pytest.raises(CommandError) as refused:
        KeyValue().check({"op": "nonsense"})

    assert operations_of(KeyValue.check) == known
    assert operations_of(KeyValue.keys_of) == known
    assert set(re.findall(r"`(\w+)`", refused.value.message)) == known
    commands, _ = inspect.getmodule(KeyValue).__doc__.split("Queries:")
    assert set(re.findall(r'^    \{"op": "(\w+)"', commands, re.MULTILINE)) == known


def test_every_query_has_its_keys_and_its_place_in_the_message():
    known = operations_of(KeyValue.query)
    with pytest.raises(CommandError) as refused:
        KeyValue().query({"op": "nonsense"})

    assert operations_of(KeyValue.keys_of_query) == known
    assert set(re.findall(r"`(\w+)`", refused.value.message)) == known
