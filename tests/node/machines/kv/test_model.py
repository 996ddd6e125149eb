"""Version 3 against a small independent model, with random commands; undo, snapshots and digests are exact."""

import random

import pytest

from node.machines.base import ApplyContext, CommandError
from node.machines.kv import KeyValue
from node.machines.kv.values import row_of
from tests.node.machines.kv.model import Model, RefusedError

KEYS = [b"a", b"aa", b"b", b"c", b"\x00", b"\xff\xff"]
ENDS = [b"", b"", b"\x00", b"b", b"c", b"a"]


def context(index, version=3):
    return ApplyContext(1, index, 0, 0, bytes(32), version=version)


class Drawn:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def span(self):
        return self.rng.choice(KEYS), self.rng.choice(ENDS)

    def put(self):
        flags = self.rng.choice([0, 0, 1, 1, 2, 3, 4])
        value = b"" if flags & 2 else self.rng.choice([b"", b"1", b"2", b"v" * 50])
        return ["put", self.rng.choice(KEYS), value, 0 if flags & 4 else self.rng.choice([0, 0, 1, 2]), flags]

    def delete(self):
        return ["delete", *self.span(), self.rng.choice([0, 1])]

    def range(self, head):
        rng = self.rng
        bounds = [rng.choice([0, 0, 0, rng.randrange(head + 2)]) for _ in range(4)]
        at = rng.choice([0, 0, -1, rng.randrange(head + 3)])
        return [
            "range", *self.span(), rng.randrange(4), at, rng.randrange(3), rng.randrange(5), rng.randrange(4), *bounds
        ]  # fmt: skip

    def txn(self, head, depth=1):
        rng = self.rng
        compares = []
        for _ in range(rng.randrange(3)):
            target = rng.randrange(5)
            operand = rng.choice([b"", b"1", b"2"]) if target == 3 else rng.randrange(4)
            compares.append([target, rng.randrange(4), *self.span(), operand])
        return ["txn", compares, self.branch(head, depth), self.branch(head, depth)]

    def branch(self, head, depth):
        kinds = [self.put, self.put, self.delete, lambda: self.range(head)]
        if depth < 3:
            kinds.append(lambda: self.txn(head, depth + 1))
        return [self.rng.choice(kinds)() for _ in range(self.rng.randrange(4))]

    def command(self, head):
        rng = self.rng
        return rng.choice(
            [
                self.put,
                self.put,
                self.delete,
                lambda: self.txn(head),
                lambda: self.txn(head),
                lambda: self.txn(head),
                lambda: ["compact", rng.randrange(head + 2)] if rng.random() < 0.3 else self.put(),
                lambda: ["lease-grant", rng.choice([1, 2]), 60],
                lambda: ["lease-revoke", rng.choice([1, 2])],
            ]
        )()


def outcome(step):
    try:
        return step()
    except (CommandError, RefusedError) as exc:
        return exc.args[0] if isinstance(exc, RefusedError) else exc.code


@pytest.mark.parametrize("seed", range(40))
def test_every_answer_is_the_models_at_every_revision_that_can_be_read(seed):
    drawn, model, machine = Drawn(seed), Model(), KeyValue()
    for index in range(1, 80):
        command = drawn.command(model.head)
        expected = outcome(lambda command=command: model.apply(command))
        savepoint = machine.savepoint()
        found = outcome(lambda command=command, index=index: machine.apply(command, context(index)))
        if isinstance(found, str):
            machine.rollback(savepoint)

        assert found == expected, command
        for _ in range(3):
            query = drawn.range(model.head)
            answer = outcome(lambda query=query: [model.head, *model.range(query)])
            assert outcome(lambda query=query: machine.query(query)) == answer, query
    events_are_the_models(machine, model)


def events_are_the_models(machine, model):
    """The events rebuild each revision from the one before."""
    first = max(machine.compact_revision, 2)
    state = {key: list(row) for key, row in model.at[first - 1].items()}
    for revision, events in machine.events(first, model.head, b"", None):
        for event in events:
            if revision > machine.compact_revision:
                before = None if event.before is None else row_of(event.key, event.before)[1:]
                assert before == state.get(event.key)
            else:
                assert event.before is None
            if event.version is None:
                del state[event.key]
            else:
                state[event.key] = row_of(event.key, event.version)[1:]
        assert state == {key: list(row) for key, row in model.at[revision].items()}
    assert state == {key: list(row) for key, row in model.at[model.head].items()}


def run(machine, drawn, count):
    for index in range(count):
        savepoint = machine.savepoint()
        command = drawn.command(machine.revision)
        if isinstance(
            outcome(lambda command=command, index=index: machine.apply(command, context(index))), str
        ):
            machine.rollback(savepoint)


@pytest.mark.parametrize("seed", range(40))
def test_a_rollback_leaves_no_trace_whatever_was_done(seed):
    machine, untouched = KeyValue(), KeyValue()
    for one in (machine, untouched):
        run(one, Drawn(seed), 40)
    drawn = Drawn(seed + 1000)
    savepoint = machine.savepoint()
    for index in range(25):
        command = drawn.command(machine.revision)
        outcome(lambda command=command, index=index: machine.apply(command, context(index)))
        if index % 5 == 4:
            machine.apply(["lease-tick", 1, 70_000 * index, 0, [1]], context(index))
    machine.rollback(savepoint)

    assert machine.snapshot() == untouched.snapshot()
    assert machine.memory_bytes == untouched.memory_bytes
    for one in (machine, untouched):
        run(one, Drawn(seed + 2000), 40)
    assert machine.snapshot() == untouched.snapshot()


@pytest.mark.parametrize("seed", range(20))
def test_a_state_that_came_by_a_snapshot_goes_on_as_the_one_that_came_by_the_log(seed):
    """MNT-02: and its digest is equal at every revision, its size too, frozen while commands go on or not."""
    machine, copy = KeyValue(), KeyValue()
    run(machine, Drawn(seed), 60)
    machine.apply(["lease-tick", 1, 1000, 0, [1, 2]], context(61))
    at_once = machine.snapshot()
    frozen = machine.freeze()
    items = frozen.items()
    found = [next(items)]
    run(machine, Drawn(seed + 1), 30)
    found += items
    frozen.release()
    assert found == at_once
    copy.restore(found)
    run(copy, Drawn(seed + 1), 30)

    assert copy.snapshot() == machine.snapshot()
    assert copy.memory_bytes == machine.memory_bytes
    for revision in range(machine.compact_revision or 1, machine.revision + 1):
        assert copy.query(["hashkv", revision]) == machine.query(["hashkv", revision])
    assert copy.query(["store"]) == machine.query(["store"])


@pytest.mark.parametrize("old", [1, 2])
@pytest.mark.parametrize("history", [3, 10_000])
def test_a_store_that_migrates_keeps_all_that_could_be_read(monkeypatch, old, history):
    monkeypatch.setattr("node.machines.kv.older.HISTORY_VERSIONS_MAX", history)
    rng, machine = random.Random(old), KeyValue()
    for index in range(60):
        command = {"op": rng.choice(["put", "put", "delete"]), "key": rng.choice("abcd")}
        if command["op"] == "put":
            command["value"] = str(index)
        machine.apply(command, context(index, old))
    floor = machine.compact_revision
    at = range(max(floor + 1, 1), machine.revision + 1)
    lists = [{"op": "list", "prefix": "", "revision": revision} for revision in at]
    before = [machine.query(query) for query in lists]
    machine.migrate(old, 3)

    assert [machine.query(query) for query in lists] == before
    assert machine.compact_revision == (floor + 1 if floor else 0)
    copy = KeyValue()
    copy.restore(machine.snapshot())
    assert copy.snapshot() == machine.snapshot()
    for command in (["put", b"a", b"1", 0, 0], {"op": "delete", "key": "b"}, ["compact", machine.revision]):
        assert machine.apply(command, context(99)) == copy.apply(command, context(99))
    assert copy.snapshot() == machine.snapshot()
