"""The table of sessions does what its documentation promises, written in the slowest and plainest way."""

from collections import deque
from enum import Enum
from types import NoneType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import force_setattr

from attestation.encoding.canonical import decode_untrusted, encode
from node.raft.entries import SessionChange, encode_command_body
from node.raft.sessions import SessionTable
from node.raft.types import Applied, CommandBatch, Cursor, Failed, Key, NotExecuted, Ok, Settings
from tests.node.raft.fingerprint import NOT_STATE, field_names, fingerprint

TTL_MS = 10
OWNERS = [bytes([n]) * 32 for n in range(3)]
SESSIONS = [bytes([n]) * 16 for n in range(4)]


class PlainTable:
    """Looks at everything every time."""

    def __init__(self):
        self.sessions = {}  # id -> [owner, active_ms, low, executed, opened_ms]

    def expire(self, time_ms):
        self.sessions = {s: v for s, v in self.sessions.items() if v[1] + TTL_MS >= time_ms}

    def change(self, operation, session, owner, base_ms, time_ms):
        if operation == "open" and session not in self.sessions:
            if all(v[0] != owner or v[4] < base_ms for v in self.sessions.values()):
                self.sessions = {s: v for s, v in self.sessions.items() if v[0] != owner}
                self.sessions[session] = [owner, time_ms, 1, set(), time_ms]
        elif operation == "keepalive" and session in self.sessions:
            self.sessions[session][1] = time_ms
        elif operation == "close":
            self.sessions.pop(session, None)

    def execute(self, session, seq, ack_below, time_ms):
        """Return whether the command was executed."""
        if session not in self.sessions:
            return False
        known = self.sessions[session]
        known[1] = time_ms
        known[2] = max(known[2], ack_below)
        known[3] = {number for number in known[3] if number >= known[2]}
        if seq < known[2] or seq in known[3]:
            return False
        known[3].add(seq)
        return True


STEPS = st.lists(
    st.tuples(
        st.integers(0, TTL_MS + 2),
        st.sampled_from(["open", "keepalive", "close", "command", "command", "command"]),
        st.sampled_from(SESSIONS),
        st.sampled_from(OWNERS),
        st.integers(1, 6) | st.just(2**62),
        st.integers(0, 6) | st.just(2**62),
    ),
    max_size=40,
)


@given(STEPS)
def test_sessions_live_and_commands_run_exactly_as_in_the_plain_table(steps):
    table, plain, time_ms = SessionTable(Settings(session_ttl_ms=TTL_MS)), PlainTable(), 1000
    for passed, operation, session, owner, seq, ack_below in steps:
        time_ms += passed
        table.expire(time_ms)
        plain.expire(time_ms)
        if operation == "command":
            batch = CommandBatch(session, seq, min(ack_below, seq), None, ("x",), b"")
            executed = table.admit(batch, time_ms) is None
            if executed:
                table.record(batch, Ok((), Cursor(1, 1)), time_ms, size=1)
            assert executed == plain.execute(session, seq, min(ack_below, seq), time_ms)
        else:
            base_ms = time_ms - seq % 3  # as much as the owner lagged behind when it asked
            table.change(SessionChange(operation, session, owner, base_ms), time_ms)
            plain.change(operation, session, owner, base_ms, time_ms)

        assert {s for s in SESSIONS if s in table} == plain.sessions.keys()
        for known, (_, _, low, executed, _) in plain.sessions.items():
            assert {n for n in (*range(1, 7), 2**62) if table.is_answered(known, n)} == {
                n for n in (*range(1, 7), 2**62) if n < low or n in executed
            }
            assert {n for n in range(1, 7) if table.outcome_of(known, n)} == executed - {2**62}


# ---- bounds --------------------------------------------------------------------
class Told:
    """A table, and one owner's session in it."""

    def __init__(self, **settings):
        self.table = SessionTable(Settings(**settings))
        self.open(SESSIONS[0])

    def open(self, session, owner=OWNERS[0], *, base_ms=1, time_ms=1):
        self.table.change(SessionChange("open", session, owner, base_ms), time_ms)

    def execute(self, seq, *, ack_below=1, key=None, time_ms=1, command="x", results=(), size=0):
        """Return what became of the command: None if it was executed just now."""
        key = None if key is None else Key(key, 2**62)
        keyed = b"" if key is None else encode_command_body((command,))
        batch = CommandBatch(SESSIONS[0], seq, ack_below, key, (command,), keyed)
        self.table.expire(time_ms)
        known = self.table.admit(batch, time_ms)
        if known is None:
            self.table.record(batch, Ok(results, Cursor(1, seq)), time_ms, size=size)
        return known


def test_a_session_above_its_window_gets_no_more_before_it_acknowledges():
    told = Told(session_window=3)
    assert [told.execute(seq) for seq in (1, 2, 3)] == [None] * 3

    assert told.execute(4) == NotExecuted("overloaded")
    assert told.execute(2) == Ok((), Cursor(1, 2))
    assert told.execute(4, ack_below=2) is None
    assert told.execute(5, ack_below=2) == NotExecuted("overloaded")


def test_however_many_sessions_a_peer_opens_it_has_one():
    told = Told()
    told.open(SESSIONS[3], owner=OWNERS[1])
    told.execute(1)
    told.open(SESSIONS[1], base_ms=2, time_ms=3)
    told.open(SESSIONS[2], base_ms=4, time_ms=5)

    assert [session in told.table for session in SESSIONS] == [False, False, True, True]
    assert told.execute(2) == NotExecuted("session-expired")


def test_a_late_copy_of_the_opening_of_an_earlier_session_does_not_bring_it_back():
    """With trust_disk: an earlier process of the same incarnation asked, and its commands were answered."""
    told = Told()
    assert told.execute(1) is None
    told.open(SESSIONS[1], base_ms=2, time_ms=3)

    told.open(SESSIONS[0], base_ms=1, time_ms=4)
    told.open(SESSIONS[0], base_ms=3, time_ms=5)

    assert [session in told.table for session in SESSIONS[:2]] == [False, True]
    assert told.execute(1) == NotExecuted("session-expired")


@pytest.mark.parametrize(
    ("command", "outcome"),
    [("y", NotExecuted("idempotency-key-reused")), ("x", Ok((), Cursor(1, 1)))],
    ids=["refused", "repeated"],
)
def test_what_was_decided_by_a_key_stays_decided_when_the_key_is_forgotten(command, outcome):
    """Two copies of one entry in the log, one before and one after: after a change of leader, for instance."""
    told = Told(session_ttl_ms=TTL_MS)
    assert told.execute(1, key=b"k") is None
    assert told.execute(2, key=b"k", command=command, time_ms=1 + TTL_MS) == outcome

    assert told.execute(2, key=b"k", command=command, time_ms=2 + TTL_MS) == outcome
    assert told.execute(3, key=b"k", command=command, time_ms=2 + TTL_MS) is None


def test_above_the_limit_of_keys_a_keyed_command_is_refused_until_a_key_is_forgotten(monkeypatch):
    monkeypatch.setattr("node.raft.keys.KEYS_MAX", 2)
    told = Told(session_ttl_ms=TTL_MS)
    told.execute(1, key=b"first", time_ms=1)
    told.execute(2, key=b"second", time_ms=TTL_MS)

    assert told.execute(3, key=b"third", time_ms=TTL_MS) == NotExecuted("overloaded")
    assert told.execute(4, key=b"second", time_ms=TTL_MS) == Ok((), Cursor(1, 2))
    assert told.execute(5, time_ms=TTL_MS) is None
    # Now the first is older than the TTL.
    assert told.execute(6, key=b"third", time_ms=TTL_MS + 2) is None


# ---- everything counts -----------------------------------------------------------
def fields_within(value):
    """Yield (object, name) for every field of every object that ``value`` holds, itself included."""
    if isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from fields_within(item)
    elif isinstance(value, list | tuple | deque):
        for item in value:
            yield from fields_within(item)
    elif type(value) not in (NoneType, bool, int, str, bytes, bytearray) and not isinstance(value, Enum):
        for name in field_names(value):
            yield value, name
            yield from fields_within(getattr(value, name))


def changed(value):
    """Return something else of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case bytes() | bytearray():
            return value + b"x"
        case dict():
            return {**value, b"another": 1}
        case tuple():
            return (*value, 1)
        case list() | deque():
            return type(value)([*value, 1])
        case None:
            return 1
        case _:
            return None


# Settings of the group, what follows from other fields, and what no outcome in a table has.
ELSEWHERE = {
    "SessionTable._ttl_ms", "SessionTable._window", "KeyTable._ttl_ms", "KeyTable._slice_ms", "KeyTable._term",
    "NotExecuted.leader",
    "NotExecuted.detail", "KeyTable._record_bytes",
}  # fmt: skip


def digest_of(table):
    """Return the digest; None if the table holds something of which there is none."""
    try:
        return table.snapshot_digest()
    except (AssertionError, AttributeError, TypeError, ValueError):
        return None


def test_two_tables_that_differ_in_any_field_have_different_digests():
    """``opened_ms`` and the stored outcomes were left out: members could differ in them unseen."""
    told = Told()
    told.execute(1, key=b"k", results=(Applied({"n": 1}),))
    told.execute(2, results=(Failed("no", "as asked"),))
    told.execute(3, results=(Applied(b"x" * 5000),), size=5000)
    told.execute(4, key=b"large", results=(Applied(b"x" * 5000),), size=5000)
    told.execute(5, key=b"k", command="y")
    table = told.table
    before = table.snapshot_digest()
    seen = set()
    for value, name in list(fields_within(table)):
        if name in NOT_STATE or f"{type(value).__name__}.{name}" in ELSEWHERE:
            continue
        was = getattr(value, name)
        seen.add(f"{type(value).__name__}.{name}")
        put(value, name, changed(was))
        assert digest_of(table) != before, f"{type(value).__name__}.{name} does not count"
        put(value, name, was)

    assert table.snapshot_digest() == before
    assert {"Session.opened_ms", "Session.outcomes", "Session.owner", "Session.low"} <= seen
    assert {"Ok.results", "Ok.at", "NotExecuted.reason", "AlreadyExecuted.size"} <= seen
    assert {"KeyTable._shards", "KeyTable._to_sweep", "_Slice.taken"} <= seen


def test_a_table_that_was_frozen_and_loaded_is_the_same_in_every_field():
    told = Told()
    told.execute(1, key=b"k", results=(Applied({"n": 1}),))
    told.execute(2, results=(Failed("no", "as asked"),))
    told.execute(3, results=(Applied(b"x" * 5000),), size=5000)
    told.execute(4, key=b"large", results=(Applied(b"x" * 5000),), size=5000)
    told.execute(5, key=b"k", command="y")
    before, whole = told.table.snapshot_digest(), fingerprint(told.table)
    frozen = told.table.freeze()
    sessions = list(frozen.sessions())
    keys = frozen.used_keys()
    held = [next(keys)]
    told.execute(6, key=b"later", results=(Applied(None),))
    held += keys
    frozen.release()
    assert told.table.snapshot_digest() != before

    fresh = SessionTable(Settings())
    for value in decoded(sessions):
        fresh.load_session(value)
    for value in decoded(held):
        fresh.load_keys(value)
    assert fresh.snapshot_digest() == before
    assert fingerprint(fresh) == whole
    assert fresh.outcome_of(SESSIONS[0], 2) == told.table.outcome_of(SESSIONS[0], 2)


def decoded(values):
    return [decode_untrusted(encode(value), bytes_max=10**6, items_max=10**6) for value in values]


def put(value, name, content):
    if isinstance(value, Struct):
        force_setattr(value, name, content)
    else:
        object.__setattr__(value, name, content)


def test_a_value_without_fields_raises_instead_of_leaving_the_digest():
    with pytest.raises(TypeError):
        fingerprint([object()])


def test_the_order_in_which_sessions_expire_counts():
    one, other = SessionTable(Settings()), SessionTable(Settings())
    for table, order in ((one, (0, 1)), (other, (1, 0))):
        for number in order:
            table.change(SessionChange("open", SESSIONS[number], OWNERS[number], 1), 1)

    assert one.snapshot_digest() != other.snapshot_digest()
    for number in (0, 1):
        other.change(SessionChange("keepalive", SESSIONS[number], OWNERS[number], 1), 1)
    assert one.snapshot_digest() == other.snapshot_digest()
