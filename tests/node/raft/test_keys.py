"""Idempotency keys cost little, none is forgotten before its TTL, and no caller's results take another's room."""

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import encode
from node.machines.kv import KeyValue
from node.machines.system import EmptySystem
from node.raft import keys
from node.raft.entries import (
    NotPlainError,
    SessionChange,
    encode_command_body,
    encode_commands,
    encode_session,
    make_entry,
    plain_bytes,
)
from node.raft.kept import WHOLE_BYTES_MAX
from node.raft.keys import KEPT_BYTES_MAX, KEYS_MAX, SLICES_OF_TTL, KeyTable
from node.raft.replica import Replica
from node.raft.types import (
    BATCH_ABORTED,
    LOG_START,
    AlreadyExecuted,
    Applied,
    Cursor,
    EntryKind,
    Failed,
    Key,
    NotExecuted,
    Ok,
    Position,
    Settings,
)
from tests.node.raft.cluster import GROUP, three

SESSION = bytes(16)
TTL_MS = 80
RESULTS = (Applied(1),)


def digest(text):
    return hashlib.sha256(text).digest()


def add(table, name, at, results=RESULTS, *, size=8, session=SESSION, time_ms=0, commands=b"c"):
    table.add(name, digest(commands), at, results, size=size, session=session, time_ms=time_ms)


@given(
    st.lists(
        st.tuples(st.integers(0, TTL_MS // 3), st.sampled_from([bytes([n]) for n in range(8)])), max_size=80
    )
)
def test_a_key_is_remembered_for_its_ttl_and_forgotten_a_slice_later_at_most(uses):
    table, used, time_ms = KeyTable(TTL_MS), {}, 0
    for index, (passed, name) in enumerate(uses, start=1):
        time_ms += passed
        table.expire(time_ms)
        for known, (at, when_ms) in used.items():
            found = table.find(known)
            age_ms = time_ms - when_ms
            assert found is not None or age_ms > TTL_MS
            assert found is None or age_ms <= TTL_MS + TTL_MS // SLICES_OF_TTL
            if found is not None:
                assert found.outcome() == Ok((Applied(at.index),), at)
                assert found.is_of(digest(known))
        if table.find(name) is None:
            at = Cursor(1 + index // 7, index)
            add(table, name, at, (Applied(index),), time_ms=time_ms, commands=name)
            used[name] = at, time_ms
    assert len(table) == sum(table.find(name) is not None for name in used)


class Plain:
    """A digest that leaves names as they are."""

    def __init__(self, name):
        self.digest = lambda: name.ljust(32, b"\x00")


def test_keys_of_one_shard_are_distinguished_whatever_their_tags(monkeypatch):
    monkeypatch.setattr(keys, "sha256", Plain)
    table = KeyTable(TTL_MS)
    names = [
        b"aabbX",
        b"ccddX",
        b"aabbY",
        b"bbccX",
        b"bbbbX",
        b"bbbbY",
        b"ddaaX",
    ]  # "bbcc" is where two touch
    for index, name in enumerate(names, start=1):
        assert table.find(name) is None
        add(table, name, Cursor(1, index), (Applied("x" * index),))

    assert [table.find(name).outcome() for name in names] == [
        Ok((Applied("x" * index),), Cursor(1, index)) for index in range(1, 8)
    ]
    assert table.find(b"aabbZ") is None


def test_a_key_whose_digest_stands_in_another_key_s_result_is_not_found_there(monkeypatch):
    monkeypatch.setattr(keys, "sha256", Plain)
    table = KeyTable(TTL_MS)
    planted = b"planted".ljust(16, b"\x00")
    add(table, b"a", Cursor(1, 1), (Applied(planted * 3),))
    assert table.find(b"planted") is None

    add(table, b"planted", Cursor(1, 2), (Applied(2),))
    add(table, b"b", Cursor(1, 3), (Applied(planted * 3),))
    assert table.find(b"planted").outcome() == Ok((Applied(2),), Cursor(1, 2))


def test_a_forgotten_key_can_be_used_again_before_its_space_is_free(monkeypatch):
    monkeypatch.setattr(keys, "_SWEPT_AT_ONCE", 0)
    table = KeyTable(TTL_MS)
    add(table, b"k", Cursor(1, 1), (Applied(1),), time_ms=0)
    add(table, b"other", Cursor(1, 2), time_ms=TTL_MS)
    table.expire(TTL_MS + 1)
    assert table.find(b"k") is None

    add(table, b"k", Cursor(2, 3), (Applied(2),), time_ms=TTL_MS + 1)
    assert table.find(b"k").outcome() == Ok((Applied(2),), Cursor(2, 3))
    assert len(table) == 2


# ---- what it costs ---------------------------------------------------------------
def test_a_key_and_a_small_result_cost_less_than_a_hundred_bytes(monkeypatch):
    """Packed as densely as 1.2 million are in all shards: 20,000 a second for a TTL of a minute."""
    monkeypatch.setattr(keys, "_SHARDS", 512)
    table, count, ttl_ms = KeyTable(60_000), 512 * 1_200_000 // 32_768, 60_000
    tracemalloc.start()
    for number in range(count):
        result = Applied({"revision": number, "create_revision": number, "version": 1})
        at = Cursor(7, number + 1)
        add(table, number.to_bytes(8), at, (result,), size=90, time_ms=number * ttl_ms // count)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(table) == count
    assert taken / count < 100
    assert table.find((12_345).to_bytes(8)).at == Cursor(7, 12_346)


def test_the_space_of_forgotten_keys_is_freed_while_a_quarter_as_many_are_added(monkeypatch):
    monkeypatch.setattr(keys, "_SHARDS", 256)
    table, count, ttl_ms = KeyTable(60_000), 8192, 60_000
    tracemalloc.start()
    for number in range(count):
        add(table, number.to_bytes(8), Cursor(1, number + 1), (Applied("v" * 100),))
    full, _ = tracemalloc.get_traced_memory()
    for number in range(count, count + count // 4):
        table.expire(ttl_ms + 1 if number > count else ttl_ms)
        add(table, number.to_bytes(8), Cursor(1, number + 1), (Applied("v" * 100),), time_ms=ttl_ms)
    quarter, _ = tracemalloc.get_traced_memory()
    table.expire(3 * ttl_ms)
    none, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert quarter < full * 2 // 5
    assert none < full // 20
    assert len(table) == 0


def test_the_space_of_forgotten_keys_is_freed_at_a_slow_pace_too():
    """At 100 keys a second each slice swept the same few shards again, and the others grew by 500 MB a day."""
    table = KeyTable(TTL_MS)
    for number in range(100_000):
        time_ms = number // 10
        table.expire(time_ms)
        add(table, b"key-%d" % number, Cursor(1, number + 1), time_ms=time_ms)

    assert len(table) < 1_000
    # A sweep of all shards takes half as many additions as there are shards.
    assert sum(map(len, table._shards.values())) == table._record_bytes
    assert table._record_bytes < 60 * (len(table) + 20_000)


def test_more_keys_are_remembered_than_a_group_can_write():
    settings = Settings()
    lasts_s = settings.session_ttl_ms / 1000 * (SLICES_OF_TTL + 1) / SLICES_OF_TTL

    assert KEYS_MAX / lasts_s > 20_000


# ---- what is kept of results --------------------------------------------------------
def test_a_large_result_is_kept_as_digest_and_size():
    table = KeyTable(TTL_MS)
    value = {"prev": "v" * (WHOLE_BYTES_MAX + 1)}
    add(table, b"k", Cursor(2, 9), (Applied(value), Applied(None)), size=WHOLE_BYTES_MAX + 40)
    encoded = encode([value, None])

    assert table.find(b"k").outcome() == AlreadyExecuted(
        Cursor(2, 9), hashlib.sha256(encoded).digest(), len(encoded)
    )
    assert table.use() == (1, 37, 1)


@pytest.mark.parametrize(
    "value", [None, True, -1, 2**63, "ü", b"\xff", [1, [2]], {"a": {"b": [None]}}, [{}, ""]], ids=repr
)
def test_a_small_result_comes_again_as_it_was(value):
    table = KeyTable(TTL_MS)
    add(table, b"k", Cursor(1, 1), (Applied(value), Applied(value)), size=plain_bytes(value) * 2)

    assert table.find(b"k").outcome() == Ok((Applied(value), Applied(value)), Cursor(1, 1))


def test_an_integer_that_no_processor_holds_is_kept_as_digest():
    table = KeyTable(TTL_MS)
    add(table, b"k", Cursor(1, 1), (Applied(2**80),), size=18)

    assert isinstance(table.find(b"k").outcome(), AlreadyExecuted)


def test_a_refusal_is_repeated_even_when_there_is_no_room(monkeypatch):
    """Otherwise a copy of what was refused would be answered as executed."""
    monkeypatch.setattr(keys, "KEPT_BYTES_MAX", 0)
    table = KeyTable(TTL_MS)
    other = Failed(BATCH_ABORTED, "command 1 of the batch was refused")
    add(table, b"k", Cursor(1, 1), (other, Failed("no", "as asked"), other))

    assert table.find(b"k").outcome() == Ok((other, Failed("no", ""), other), Cursor(1, 1))


def test_a_long_refusal_is_repeated_shortened():
    table = KeyTable(TTL_MS)
    add(table, b"k", Cursor(1, 1), (Failed("no", "x" * 4096),), size=4096)

    assert table.find(b"k").outcome() == Ok((Failed("no", "x" * 512),), Cursor(1, 1))


def test_a_session_that_keeps_much_takes_no_room_of_another():
    table = KeyTable(TTL_MS)
    result, other = (Applied("v" * 4000),), bytes([1]) * 16
    count = KEPT_BYTES_MAX // 4000 + 10
    for n in range(count):
        add(table, n.to_bytes(4), Cursor(1, n + 1), result, size=4008)
    add(table, b"another", Cursor(1, count + 1), result, size=4008, session=other)

    assert isinstance(table.find((count - 1).to_bytes(4)).outcome(), AlreadyExecuted)
    assert table.find(b"another").outcome() == Ok(result, Cursor(1, count + 1))
    assert table.use().kept_bytes < KEPT_BYTES_MAX + 10_000


@pytest.mark.parametrize("value", [1.5, {1: 2}, {"a"}, KeyValue, [b"", {"a": 0.5}], "\ud800"])
def test_a_result_that_is_not_plain_data_cannot_be_kept(value):
    with pytest.raises(NotPlainError):
        plain_bytes(value)


# ---- one writer and the others ------------------------------------------------------
def replica_of_kv():
    replica = Replica(KeyValue(), EmptySystem(), Settings(), GROUP)
    return replica, LOG_START


def put(replica, last, kind, payload):
    entry = make_entry(last, term=1, kind=kind, time_ms=1000, payload=payload)
    ((_, resolution),) = replica.apply([entry])
    return resolution.outcome, Position(1, entry.index, entry.chain)


def test_large_results_of_one_writer_cause_no_refusal_for_other_writers():
    """They filled what all sessions had together, and for a minute everybody was refused as overloaded."""
    replica, last = replica_of_kv()
    writer, other = bytes([1]) * 16, bytes([2]) * 16
    for session in (writer, other):
        change = SessionChange("open", session, session * 2, 1000)
        _, last = put(replica, last, EntryKind.SESSION, encode_session(change))
    value = "v" * (1024 * 1024)
    body = encode_command_body(({"op": "put", "key": "k", "value": value, "prev": True},))

    def write(session, number, name, body):
        key = None if name is None else Key(name, 2**62)
        return put(replica, last, EntryKind.COMMAND, encode_commands(session, number, number, key, body))

    tracemalloc.start()
    for number in range(1, 137):
        outcome, last = write(writer, number, number.to_bytes(2), body)
        assert isinstance(outcome, Ok)
    small = encode_command_body(({"op": "put", "key": "s", "value": "1"},))
    for number in range(1, 20):
        outcome, last = write(other, number, None if number % 2 else bytes([number]), small)
        assert isinstance(outcome.results[0], Applied)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    before = replica.machine.snapshot()["revision"]
    again, last = write(writer, 200, (136).to_bytes(2), body)
    assert isinstance(again, AlreadyExecuted)
    assert again.at.index == last.index - 20
    assert len(again.digest) == 32
    assert again.size > 1024 * 1024
    assert replica.machine.snapshot()["revision"] == before
    assert taken < 32 * 1024 * 1024  # of which the store's past may take half


def test_a_copy_of_a_large_result_is_not_executed_again_on_any_member():
    cluster = three()
    for node in cluster.nodes.values():
        node.replica.machine.apply = lambda command, _: b"x" * command
    leader, (first, second) = cluster.leader(), cluster.followers()
    done = cluster.outcome(cluster.execute(first, 5000, key=b"k"))
    assert done.results == (Applied(b"x" * 5000),)

    encoded = encode([b"x" * 5000])
    kept = AlreadyExecuted(done.at, hashlib.sha256(encoded).digest(), len(encoded))
    for name in (leader, first, second):
        assert cluster.outcome(cluster.execute(name, 5000, key=b"k")) == kept
        reused = cluster.outcome(cluster.execute(name, 4999, key=b"k"))
        assert reused == NotExecuted("idempotency-key-reused")
    assert len({node.replica.table.snapshot_digest() for node in cluster.nodes.values()}) == 1


def test_a_machine_that_returns_what_is_not_plain_data_is_undone():
    cluster = three()
    for node in cluster.nodes.values():
        machine = node.replica.machine
        machine.apply = lambda command, _, machine=machine: setattr(machine, "value", command) or 0.5
    (result,) = cluster.outcome(cluster.execute(cluster.leader(), 9)).results

    assert result.code == "result-not-plain"
    assert {node.replica.machine.value for node in cluster.nodes.values()} == {0}
