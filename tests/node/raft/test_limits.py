"""What callers and peers can make a member keep is bounded; past that they are refused, and may try again (3.8)."""

import pytest

from node.raft.entries import encode_command_body, encode_commands
from node.raft.events import Execute, Received, Violation
from node.raft.forwarding import PAYLOAD_OVERHEAD_BYTES
from node.raft.messages import AppendReply, Forward, ForwardReply, Proposal
from node.raft.types import BATCH_ABORTED, Applied, EntryKind, NotExecuted, Ok
from tests.node.raft.cluster import three


def histories(cluster):
    return {tuple(node.replica.machine.history) for node in cluster.nodes.values()}


def fat(cluster):
    """Let every command's result be as many bytes as its number."""
    for node in cluster.nodes.values():
        node.replica.machine.apply = lambda command, _: b"x" * command


def test_an_entry_whose_results_are_too_large_is_refused_and_undone(monkeypatch):
    """Or a few kB of commands made every node keep gigabytes: a refused ``cas`` answers with what is there."""
    monkeypatch.setattr("node.raft.replica.RESULTS_BYTES_MAX", 1000)
    cluster = three()
    fat(cluster)
    leader = cluster.leader()

    (large,) = cluster.outcome(cluster.execute(leader, 1500)).results
    assert large.code == "results-too-large"
    first, second, third = cluster.outcome(cluster.execute(leader, 400, 600, 10)).results
    assert [first.code, second.code, third.code] == [BATCH_ABORTED, "results-too-large", BATCH_ABORTED]
    assert all(isinstance(r, Applied) for r in cluster.outcome(cluster.execute(leader, 400, 500)).results)


def test_a_long_log_is_applied_in_several_steps(monkeypatch):
    """A restart in one step was silent for longer than an election timeout, and lost its leader by that."""
    monkeypatch.setattr("node.raft.member.APPLY_ENTRIES_MAX", 3)
    cluster = three(chunk_bytes_max=1)
    node = cluster.nodes[cluster.leader()]
    applied = []
    step = cluster.step

    def watched(name, *events):
        before = node.replica.applied.index
        effects = step(name, *events)
        if name == node.me.name:
            applied.append(node.replica.applied.index - before)
            if node.replica.applied.index < node.commit:
                assert effects.next_tick_ms == cluster.now
        return effects

    cluster.step = watched
    tickets = [(node.me.name, 1000 + number) for number in range(20)]
    cluster.step(node.me.name, *[Execute(token, (1,)) for _, token in tickets])
    cluster.run(500)

    assert all(isinstance(cluster.outcomes[ticket], Ok) for ticket in tickets)
    assert max(applied) == 3


# ---- what callers may leave with their member ----------------------------------
def test_past_the_bound_commands_are_refused_as_overloaded():
    cluster = three(pending_max=100)
    follower = cluster.followers()[0]
    cluster.isolate(follower)
    cluster.step(follower, *[Execute(1000 + i, (i,)) for i in range(150)])

    assert len(cluster.outcomes) == 50
    assert {o.reason for o in cluster.outcomes.values()} == {"overloaded"}


def test_above_the_limit_in_bytes_commands_are_refused_as_overloaded_until_others_are_answered(monkeypatch):
    commands = (1,) * 1000
    size = len(encode_command_body(commands))
    monkeypatch.setattr("node.raft.client_session.PENDING_BYTES_MAX", 3 * size)
    cluster = three()
    follower = cluster.followers()[0]
    cluster.isolate(follower)
    kept = [cluster.execute(follower, *commands) for _ in range(3)]
    assert cluster.outcomes == {}
    refused = cluster.execute(follower, *commands)
    leader = cluster.nodes[follower].leader
    assert cluster.outcomes == {refused: NotExecuted("overloaded", leader)}

    cluster.heal()
    cluster.run(3000)

    assert all(isinstance(cluster.outcomes[ticket], Ok) for ticket in kept)
    assert set(cluster.values().values()) == {3000}
    again = [cluster.execute(follower, *commands) for _ in range(3)]
    assert all(isinstance(cluster.outcome(ticket), Ok) for ticket in again)


def test_the_window_bounds_what_is_in_flight_and_nothing_is_lost():
    cluster = three(session_window=8)
    follower = cluster.followers()[0]
    most = 0
    for i in range(100):
        cluster.execute(follower, i)
        most = max(most, len(cluster.nodes[follower].session.in_flight))
    cluster.run(5000)

    assert most == 8
    assert histories(cluster) == {tuple(range(100))}
    session = cluster.nodes[follower].session.id
    assert len(cluster.nodes[follower].replica.table._sessions[session].outcomes) <= 8


# ---- what a leader writes before anything of it is committed -------------------
@pytest.mark.parametrize("through", ["leader", "follower"])
def test_a_leader_that_commits_nothing_writes_up_to_its_bound_and_its_callers_get_a_refusal(through):
    bound = 10
    cluster = three(pending_max=bound)
    leader, follower = cluster.leader(), cluster.followers()[0]
    name = leader if through == "leader" else follower
    cluster.outcome(cluster.execute(name, 0))
    node, refusals = cluster.nodes[leader], set()

    def drop(_sender, _to, message):
        if isinstance(message, ForwardReply):
            refusals.add(message.refused)
        return isinstance(message, AppendReply)

    cluster.drop = drop
    # Fed commands are answered when they are written, so their caller's own bound does not hold him back.
    tickets = []
    for i in range(1, 3 * bound + 1):
        tickets.append(cluster.execute(name, i, feed=True))
        cluster.deliver()
    written, waiting, refused = tickets[:bound], tickets[bound : 2 * bound], tickets[2 * bound :]

    assert node.log.last().index - node.commit == bound
    assert all(isinstance(cluster.outcomes[ticket], Ok) for ticket in written)
    assert not any(ticket in cluster.outcomes for ticket in waiting)
    assert [cluster.outcomes[ticket].reason for ticket in refused] == ["overloaded"] * bound
    assert ("overloaded" in refusals) == (through == "follower")

    cluster.drop = lambda *_: False
    for ticket in waiting:
        assert isinstance(cluster.outcome(ticket), Ok)
    assert isinstance(cluster.outcome(cluster.execute(name, 99)), Ok)
    cluster.run(1000)
    assert histories(cluster) == {(*range(2 * bound + 1), 99)}


# ---- what is forwarded ---------------------------------------------------------
def forward_of_bytes(cluster, size):
    """Let a follower forward one command whose payload has ``size`` bytes; return what its leader noticed."""
    leader, follower = cluster.leader(), cluster.followers()[0]
    node, session = cluster.nodes[leader], cluster.nodes[follower].session.id

    def payload(filling):
        return encode_commands(session, 1, 1, None, encode_command_body((b"x" * filling,)))

    # Every filling from 256 to 65,535 bytes has an equally long head.
    exact = payload(256 + size - len(payload(256)))
    assert len(exact) == size
    forward = Forward(node.cluster, 0, 0, (Proposal(EntryKind.COMMAND, 1, exact),))
    return cluster.step(leader, Received(cluster.nodes[follower].me, forward)).notices


def test_a_forwarded_command_larger_than_any_member_may_forward_is_a_violation():
    limit = 1000 + PAYLOAD_OVERHEAD_BYTES
    cluster = three(command_bytes_max=1000)
    node = cluster.nodes[cluster.leader()]
    last = node.log.last()

    assert forward_of_bytes(cluster, limit + 1) == [
        Violation(cluster.nodes[cluster.followers()[0]].me, "forward-for-another-session")
    ]
    assert node.log.last() == last
    assert forward_of_bytes(cluster, limit) == []
    assert node.log.last().index == last.index + 1
