"""The table of sessions does what its documentation says, told in the slowest and plainest way."""

from hypothesis import given
from hypothesis import strategies as st

from node.raft.entries import CommandBatch, SessionChange
from node.raft.sessions import SessionTable
from node.raft.types import Cursor, Ok, Settings

TTL_MS = 10
OWNERS = [bytes([n]) * 32 for n in range(3)]
SESSIONS = [bytes([n]) * 16 for n in range(4)]


class PlainTable:
    """Looks at everything every time."""

    def __init__(self):
        self.sessions = {}  # id -> [owner, active_ms, low, executed]

    def expire(self, time_ms):
        self.sessions = {s: v for s, v in self.sessions.items() if v[1] + TTL_MS >= time_ms}

    def change(self, operation, session, owner, time_ms):
        if operation == "open" and session not in self.sessions:
            self.sessions = {s: v for s, v in self.sessions.items() if v[0] != owner}
            self.sessions[session] = [owner, time_ms, 1, set()]
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
            batch = CommandBatch(session, seq, min(ack_below, seq), None, ("x",))
            executed = table.admit(batch, time_ms) is None
            if executed:
                table.record(batch, Ok((), Cursor(1, 1)), time_ms)
            assert executed == plain.execute(session, seq, min(ack_below, seq), time_ms)
        else:
            table.change(SessionChange(operation, session, owner, time_ms), time_ms)
            plain.change(operation, session, owner, time_ms)

        assert {s for s in SESSIONS if s in table} == plain.sessions.keys()
        for known, (_, _, low, executed) in plain.sessions.items():
            assert {n for n in (*range(1, 7), 2**62) if table.is_answered(known, n)} == {
                n for n in (*range(1, 7), 2**62) if n < low or n in executed
            }
            assert {n for n in range(1, 7) if table.outcome_of(known, n)} == executed - {2**62}
