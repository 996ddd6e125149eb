"""Counter and NoOp."""

import pytest

from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.noop import NoOp

CONTEXT = ApplyContext(term=1, index=1, sub=0, time_ms=0, group_id=bytes(32))


def test_the_counter_adds_and_resets():
    counter = Counter()

    assert counter.query({"op": "get"}) == {"value": 0}
    assert counter.apply({"op": "add"}, CONTEXT) == {"value": 1}
    assert counter.apply({"op": "add", "by": -5}, CONTEXT) == {"value": -4}
    assert counter.query({"op": "get"}) == {"value": -4}
    assert counter.apply({"op": "reset"}, CONTEXT) == {"value": 0}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (7, "not-an-object"),
        ({"op": "sub"}, "op-unknown"),
        ({"op": "add", "by": "1"}, "member-type"),
        ({"op": "add", "by": True}, "member-type"),
        ({"op": "add", "by": 2**63}, "member-range"),
        ({"op": "add", "by": 2**63 - 1}, "overflow"),
        ({"op": "add", "bye": 1}, "unknown-member"),
        ({"op": "reset", "by": 1}, "unknown-member"),
    ],
)
def test_the_counter_refuses_by_code_and_keeps_its_value(command, code):
    counter = Counter()
    counter.apply({"op": "add"}, CONTEXT)
    with pytest.raises(CommandError) as caught:
        counter.apply(command, CONTEXT)

    assert caught.value.code == code
    assert counter.query({"op": "get"}) == {"value": 1}


def test_the_counters_only_query_is_get():
    with pytest.raises(CommandError) as caught:
        Counter().query({"op": "value"})

    assert caught.value.code == "op-unknown"


def test_the_counter_rolls_back_and_restores():
    counter, copy = Counter(), Counter()
    counter.apply({"op": "add", "by": 3}, CONTEXT)
    savepoint = counter.savepoint()
    counter.apply({"op": "add", "by": 4}, CONTEXT)
    counter.rollback(savepoint)
    copy.restore(counter.snapshot())

    assert counter.query({"op": "get"}) == copy.query({"op": "get"}) == {"value": 3}


@pytest.mark.parametrize("snapshot", [None, "3", True])
def test_the_counter_refuses_a_foreign_snapshot(snapshot):
    with pytest.raises(ValueError):
        Counter().restore(snapshot)


def test_noop_answers_null_to_everything():
    machine = NoOp()
    machine.rollback(machine.savepoint())
    machine.restore(machine.snapshot())

    assert machine.apply({"anything": 1}, CONTEXT) is None
    assert machine.query([1, 2]) is None
    with pytest.raises(ValueError):
        machine.restore(0)


def test_signatures_are_distinct_and_stable():
    from node.machines.kv import KeyValue

    assert NoOp().signature == "bondstone/noop/v1"
    assert Counter().signature == "bondstone/counter/v1"
    assert KeyValue().signature == "bondstone/kv/v3"
