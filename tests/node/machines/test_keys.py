"""Which keys a command or query touches: nothing that it shows or changes lies outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.keys import KeyRange, Touched
from node.machines.kv import KeyValue

CONTEXT = ApplyContext(term=1, index=1, sub=0, time_ms=0, group_id=bytes(32))
KEYS = st.binary(max_size=4) | st.lists(st.sampled_from([0, 1, 0xFE, 0xFF]), max_size=4).map(bytes)
TEXTS = st.text(alphabet="ab\x00\uffff", min_size=1, max_size=3)


@given(prefix=KEYS, key=KEYS)
def test_a_prefix_holds_exactly_the_keys_that_begin_with_it(prefix, key):
    keys = KeyRange.of_prefix(prefix)

    assert (keys.start <= key and (keys.end is None or key < keys.end)) == key.startswith(prefix)


@given(prefix=KEYS, start=KEYS, end=KEYS | st.none(), key=KEYS)
def test_a_range_within_a_prefix_holds_no_key_without_it(prefix, start, end, key):
    if KeyRange(start, end).within(prefix) and start <= key and (end is None or key < end):
        assert key.startswith(prefix)


@given(prefix=KEYS, key=KEYS)
def test_one_key_is_within_a_prefix_if_it_begins_with_it(prefix, key):
    assert KeyRange.of_key(key).within(prefix) == key.startswith(prefix)


@given(prefix=KEYS, longer=KEYS)
def test_a_prefix_is_within_a_shorter_one(prefix, longer):
    assert KeyRange.of_prefix(prefix + longer).within(prefix)


def test_every_key_is_within_the_empty_prefix_and_within_no_other():
    assert KeyRange.of_prefix(b"").within(b"")
    assert not KeyRange.of_prefix(b"").within(b"a")
    assert not KeyRange(b"a", None).within(b"a")
    assert not KeyRange(b"a", b"c").within(b"a")


# ---- the key-value machine ------------------------------------------------------------
A = (KeyRange.of_key(b"a"),)


@pytest.mark.parametrize(
    ("command", "touched"),
    [
        ({"op": "put", "key": "a", "value": "1"}, Touched(writes=A)),
        ({"op": "put", "key_b64": "YQ==", "value": "1"}, Touched(writes=A)),
        ({"op": "put", "key": "a", "value": "1", "prev": True}, Touched(reads=A, writes=A)),
        ({"op": "delete", "key": "a"}, Touched(writes=A)),
        ({"op": "delete", "key": "a", "prev": True}, Touched(reads=A, writes=A)),
        ({"op": "cas", "key": "a", "expect": None, "value": "1"}, Touched(reads=A, writes=A)),
    ],
)
def test_a_command_that_shows_what_was_there_reads_it_too(command, touched):
    assert KeyValue().keys_of(command) == touched


@pytest.mark.parametrize(
    ("query", "touched"),
    [
        ({"op": "get", "key": "a", "revision": 1}, Touched(reads=A)),
        ({"op": "list"}, Touched(reads=(KeyRange(b"", None),))),
        ({"op": "list", "prefix": "a"}, Touched(reads=(KeyRange(b"a", b"b"),))),
        ({"op": "list", "prefix": "a", "after": "b"}, Touched(reads=(KeyRange(b"a", b"b"),))),
    ],
)
def test_a_list_touches_its_whole_prefix_wherever_it_begins(query, touched):
    assert KeyValue().keys_of_query(query) == touched


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [],
        {},
        {"op": "get"},
        {"op": 7, "key": "a"},
        {"op": "move", "key": "a"},
        {"op": "put", "value": "1"},
        {"op": "put", "key": "", "value": "1"},
        {"op": "put", "key": "a", "key_b64": "YQ==", "value": "1"},
        {"op": "put", "key": 7, "value": "1"},
        {"op": "put", "key_b64": "?", "value": "1"},
        {"op": "delete", "key": "a", "prev": 1},
        {"op": "cas", "key": "\ud800", "expect": None, "value": None},
    ],
)
def test_an_invalid_command_has_no_keys_and_the_same_code_as_from_the_machine(asked):
    with pytest.raises(CommandError) as of_keys:
        KeyValue().keys_of(asked)
    with pytest.raises(CommandError) as of_machine:
        KeyValue().apply(asked, CONTEXT)

    assert of_keys.value.code == of_machine.value.code


@pytest.mark.parametrize(
    "asked", [None, {}, {"op": "put", "key": "a"}, {"op": "get"}, {"op": "list", "prefix": 7}]
)
def test_an_invalid_query_has_no_keys_and_the_same_code_as_from_the_machine(asked):
    with pytest.raises(CommandError) as of_keys:
        KeyValue().keys_of_query(asked)
    with pytest.raises(CommandError) as of_machine:
        KeyValue().query(asked)

    assert of_keys.value.code == of_machine.value.code


COMMANDS = st.one_of(
    st.fixed_dictionaries(
        {"op": st.just("put"), "key": TEXTS, "value": TEXTS}, optional={"prev": st.booleans()}
    ),
    st.fixed_dictionaries({"op": st.just("delete"), "key": TEXTS}, optional={"prev": st.booleans()}),
    st.fixed_dictionaries(
        {"op": st.just("cas"), "key": TEXTS, "expect": st.none() | TEXTS, "value": st.none() | TEXTS}
    ),
)


def shown(result):
    """Return the keys of every item in a result."""
    items = result.get("items", []) + [result.get(name) for name in ("prev", "item")]
    return {item["key"].encode() for item in items if item is not None}


def holds(ranges, key):
    return any(one.start <= key and (one.end is None or key < one.end) for one in ranges)


@given(commands=st.lists(COMMANDS, max_size=12))
def test_no_command_changes_or_shows_a_key_that_it_does_not_name(commands):
    machine = KeyValue()
    for command in commands:
        touched = machine.keys_of(command)
        before = {item["key"]: item for item in machine.query({"op": "list"})["items"]}
        result = machine.apply(command, CONTEXT)
        after = {item["key"]: item for item in machine.query({"op": "list"})["items"]}

        changed = {key.encode() for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert all(holds(touched.writes, key) for key in changed)
        assert all(holds(touched.reads, key) for key in shown(result))


@given(
    commands=st.lists(COMMANDS, min_size=1, max_size=12),
    query=st.one_of(
        st.fixed_dictionaries({"op": st.just("get"), "key": TEXTS}, optional={"revision": st.just(1)}),
        st.fixed_dictionaries(
            {"op": st.just("list")}, optional={"prefix": TEXTS, "after": TEXTS, "revision": st.just(1)}
        ),
    ),
)
def test_no_query_shows_a_key_that_it_does_not_name(commands, query):
    machine = KeyValue()
    for command in commands:
        machine.apply(command, CONTEXT)

    assert all(holds(machine.keys_of_query(query).reads, key) for key in shown(machine.query(query)))


def test_a_machine_without_keys_names_none():
    assert Counter().keys_of({"op": "add"}) is None
    assert Counter().keys_of_query({"op": "get"}) is None
