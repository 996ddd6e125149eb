"""What a machine refuses before the log is what it refuses to apply, whatever the state, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.machines.base import ApplyContext, CommandError
from node.machines.counter import VALUE_MAX, Counter
from node.machines.kv import KEY_BYTES_MAX, VALUE_BYTES_MAX, KeyValue
from tests.node.machines.transcript import operations_of

CONTEXT = ApplyContext(1, 1, 0, 0, bytes(32), version=3)
# These depend on the state; everything else that is refused is refused in every state.
OF_THE_STATE = {
    "store-full",
    "overflow",
    "key-not-found",
    "lease-not-found",
    "lease-exists",
    "revision-compacted",
    "revision-future",
    "member-only",
    "lease-tick-stale",
}
OPERATIONS = sorted(operations_of(KeyValue.apply) | operations_of(Counter.apply))

keys = st.sampled_from(["", "a", "b", "k" * (KEY_BYTES_MAX + 1), "\ud800", 7, None])
encoded = st.sampled_from(["", "YQ==", "YQ", "!", 7, None])
flags = st.sampled_from([True, False, 1, "yes"])
values = st.sampled_from(["", "x", "v" * (VALUE_BYTES_MAX + 1), None, 3, ["x"]])
members = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from([*OPERATIONS, "get", "nonsense", 1, None]),
        "key": keys,
        "key_b64": encoded,
        "value": values,
        "value_b64": encoded,
        "expect": values,
        "expect_b64": encoded,
        "prev": flags,
        "by": st.sampled_from([0, 1, VALUE_MAX, VALUE_MAX + 1, True, "1"]),
        "more": st.none(),
    },
)
list_operations = st.sampled_from(
    [
        [],
        [[]],
        ["put", b"a", b"x", 0, 0],
        ["put", b"a", b"x", 0, 2],
        ["put", b"a", "eA==", 7, 4],
        ["put", b"", b"x", 0, 0],
        ["put", b"a", b"x", True, 0],
        ["put", b"a"],
        ["delete", b"a", b"\x00", 1],
        ["delete", "!", b"", 0],
        ["range", b"a", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ["compact", 9],
        ["compact", None],
        ["lease-grant", 1, 2**40],
        ["lease-revoke", 1],
        ["lease-tick", 1, 0, 0, [1]],
        ["lease-renew", [1]],
        ["lease-renew", 1],
        ["lease-tick", 1, 0, 0, [-1]],
    ]
)
branches = st.lists(list_operations, max_size=3)
list_commands = list_operations | st.builds(
    lambda *branches: ["txn", *branches],
    st.lists(
        st.sampled_from([[0, 0, b"a", b"", 1], [3, 0, b"a", b"", b"x"], [3, 0, b"a", b"", 1]]), max_size=2
    ),
    branches,
    branches,
)
commands = members | list_commands | st.sampled_from([None, 1, "put", [], [[]] * 3])


def code_of(step):
    try:
        step()
    except CommandError as exc:
        return exc.code
    return None


@pytest.mark.parametrize("machine", [KeyValue, Counter])
@given(before=st.lists(st.sampled_from(["a", "b"])), command=commands)
def test_check_refuses_exactly_what_apply_refuses_in_every_state(machine, before, command):
    some = machine()
    for key in before:
        code_of(lambda key=key: some.apply({"op": "put", "key": key, "value": "x"}, CONTEXT))
        code_of(lambda: some.apply({"op": "add"}, CONTEXT))
    state = some.snapshot()
    checked = code_of(lambda: some.check(command))
    assert some.snapshot() == state
    applied = code_of(lambda: some.apply(command, CONTEXT))

    # An operation without content is refused in every state, by the code of a key that is absent.
    assert checked == (None if applied in OF_THE_STATE and checked != "key-not-found" else applied)


def test_the_fast_check_of_a_plain_put_still_refuses_an_empty_key():
    KeyValue().check({"op": "put", "key": "a", "value": "x" * VALUE_BYTES_MAX})
    with pytest.raises(CommandError) as caught:
        KeyValue().check({"op": "put", "key": "", "value": "x"})

    assert caught.value.code == "key-empty"
