"""What a machine refuses before the log is what it refuses to apply, whatever the state, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.machines.base import ApplyContext, CommandError
from node.machines.counter import VALUE_MAX, Counter
from node.machines.kv import KEY_BYTES_MAX, VALUE_BYTES_MAX, KeyValue
from tests.node.machines.transcript import operations_of

CONTEXT = ApplyContext(1, 1, 0, 0, bytes(32))
# These depend on the state; everything else that is refused is refused in every state.
OF_THE_STATE = {"store-full", "overflow"}
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
commands = members | st.sampled_from([None, 1, "put", [], [[]] * 3])


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

    assert checked == (None if applied in OF_THE_STATE else applied)


def test_the_fast_check_of_a_plain_put_still_refuses_an_empty_key():
    KeyValue().check({"op": "put", "key": "a", "value": "x" * VALUE_BYTES_MAX})
    with pytest.raises(CommandError) as caught:
        KeyValue().check({"op": "put", "key": "", "value": "x"})

    assert caught.value.code == "key-empty"
