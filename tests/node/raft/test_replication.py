"""Section 3.5: broadcast, verified ACK, pull with checked predecessors, R-serve; 3.2's commit rule."""

import pytest
from msgspec import structs

from node.raft.entries import EMPTY_PAYLOAD, make_entry
from node.raft.events import Execute, Halted, Query, Received
from node.raft.log import MemoryLog
from node.raft.member import Member
from node.raft.messages import Append, AppendReply, Chunk, Fetch, Verdict
from node.raft.types import Bootstrap, Consistency, Entry, EntryKind, Ok, Position, Role, Unknown
from tests.node.raft.cluster import RaftCluster, three
from tests.node.simulation import ablations


def noop_after(position, term):
    return make_entry(position, term=term, kind=EntryKind.NOOP, time_ms=0, payload=EMPTY_PAYLOAD)


def position(entry):
    return Position(entry.term, entry.index, entry.chain)


def deliver(cluster, name, sender, message):
    sends = cluster.step(name, Received(cluster.nodes[sender].me, message)).sends
    return [s.message for s in sends]


def digests(cluster):
    return {n.log.position(n.commit).chain for n in cluster.nodes.values()}


def test_many_commands_in_one_step_are_one_broadcast():
    cluster = three()
    leader = cluster.leader()
    effects = cluster.step(leader, *[Execute(1000 + i, (i,)) for i in range(50)])

    (send,) = effects.sends
    assert len(send.to) == 2
    assert len(send.message.entries) == 50


def test_a_broadcast_is_split_at_the_limit_of_its_bytes():
    cluster = three(append_bytes_max=1000)
    leader = cluster.leader()
    effects = cluster.step(leader, *[Execute(1000 + i, (i,)) for i in range(50)])

    assert len(effects.sends) > 1
    assert sum(len(s.message.entries) for s in effects.sends) == 50
    cluster.run(200)
    assert set(cluster.values().values()) == {sum(range(50))}


def test_commands_forwarded_in_one_step_are_one_message():
    cluster = three()
    follower = cluster.followers()[0]
    effects = cluster.step(follower, *[Execute(1000 + i, (i,)) for i in range(50)])

    (send,) = effects.sends
    assert len(send.message.proposals) == 50


def test_a_commit_is_announced_at_once_and_not_with_the_next_heartbeat():
    cluster = three()
    cluster.execute(cluster.leader(), 5)
    cluster.deliver()

    assert cluster.values() == {"a": 5, "b": 5, "c": 5}


def test_every_append_is_answered_heartbeats_too():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    beat = Append(node.cluster, node.term, node.log.last(), (), node.commit, 1)
    (reply,) = deliver(cluster, follower, leader, beat)

    assert reply.verdict is Verdict.ACK


def test_an_ack_claims_what_is_verified_and_not_what_the_log_holds():
    """C16: a tail left by a dead leader must never be counted."""
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    last = node.log.last()
    stray = noop_after(last, node.term)
    deliver(cluster, follower, leader, Append(node.cluster, node.term, last, (stray,), 0, 1))
    other = cluster.followers()[1]
    newer = Append(node.cluster, node.term + 1, last, (), 0, 1)
    (reply,) = deliver(cluster, follower, other, newer)

    assert (reply.match, reply.have.index) == (last.index, last.index + 1)


class AcksEverything(Member):
    def _ack_index(self):
        return self.log.last().index


def test_an_ack_of_the_last_index_counts_a_tail_that_the_leader_does_not_have():
    cluster = RaftCluster(member=AcksEverything)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    cluster.run(300)
    leader, (follower, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    last = node.log.last()
    stray = noop_after(last, node.term)
    deliver(cluster, follower, leader, Append(node.cluster, node.term, last, (stray,), 0, 1))
    (reply,) = deliver(cluster, follower, other, Append(node.cluster, node.term + 1, last, (), 0, 1))

    assert reply.match == last.index + 1


def test_a_deposed_leader_is_informed():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    old = Append(node.cluster, node.term - 1, node.log.last(), (), 0, 1)
    (reply,) = deliver(cluster, a, b, old)

    assert (reply.verdict, reply.term) == (Verdict.STALE, node.term)


def test_a_follower_behind_abstains_and_pulls():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == follower and isinstance(message, Append)
    for i in range(5):
        cluster.execute(leader, i)
    cluster.deliver()
    cluster.drop = lambda sender, to, message: False
    seen = []
    cluster.drop = lambda sender, to, message: seen.append((to, type(message), message)) or False
    cluster.run(500)

    replies = [m.verdict for to, kind, m in seen if kind is AppendReply and to == leader]
    assert Verdict.ABSTAIN in replies
    assert Fetch in {kind for _, kind, _ in seen}
    assert set(cluster.values().values()) == {10}


@pytest.mark.parametrize("committed", [1, 2, 5, 10])
@pytest.mark.parametrize("stale", [1, 5])
def test_a_stale_tail_is_replaced_whatever_its_length(stale, committed):
    """C4, the everyday leader change: never apply what the dead leader alone had."""
    cluster = three()
    old = cluster.leader()
    cluster.drop = lambda sender, to, message: sender == old
    for _ in range(stale):
        cluster.execute(old, 1000)
    cluster.isolate(old)
    cluster.drop = lambda sender, to, message: False
    cluster.run(500)
    new = cluster.leader()
    for _ in range(committed):
        cluster.execute(new, 1)
    cluster.run(500)
    cluster.heal()
    cluster.run(3000)

    assert len(digests(cluster)) == 1
    assert len(set(cluster.values().values())) == 1
    assert cluster.values()[new] == committed + 1000 * stale  # the retry of its own session, once each


def holding_what_an_old_leader_alone_had():
    """A follower that has pulled E1, committed, and holds a chunk of E2, of which its leader alone knew.

    Returns the cluster, the follower, who may lead next, and where E1 ends.
    """
    cluster = three(chunk_bytes_max=1024)
    leader, (name, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[name]
    base = node.log.last().index
    cluster.drop = lambda sender, to, _: name in (sender, to)
    for _ in range(33):
        cluster.execute(leader, 10)
        cluster.deliver()
    end = cluster.nodes[leader].log.last().index
    cluster.drop = lambda *_: True
    for _ in range(12):
        cluster.execute(leader, 1000)
    cluster.deliver()
    late = []

    def overtaken(sender, to, message):
        if {sender, to} != {leader, name}:
            return True
        if isinstance(message, Chunk) and message.after.index == base + 11:
            late.append(message)
            return True
        return False

    cluster.drop = overtaken
    cluster.run_until(
        lambda: late and node.tenure.pull is not None and end in node.tenure.pull.held, ms=300, stride=1
    )
    cluster.wire.clear()
    cluster.step(name, Received(cluster.nodes[leader].me, late[0]))
    assert node.log.last().index == end
    assert end in node.tenure.pull.held
    return cluster, node, cluster.nodes[other], end


def append_of_a_new_leader(member):
    """Let the follower, which is a ``member`` from now on, receive from the leader of the next term."""
    cluster, node, other, end = holding_what_an_old_leader_alone_had()
    node.__class__ = member
    append = Append(node.cluster, node.term + 1, node.log.last(), (), end, 1)
    noop = noop_after(append.prev, append.term)
    effects = cluster.step(node.me.name, Received(other.me, structs.replace(append, entries=(noop,))))
    return node, end, effects


def test_what_was_pulled_in_an_earlier_term_does_not_replace_what_the_new_leader_sent():
    node, end, effects = append_of_a_new_leader(Member)

    (reply,) = [send.message for send in effects.sends if isinstance(send.message, AppendReply)]
    assert reply.match == end + 1
    assert node.log.get(end + 1).term == node.term


def test_without_the_end_of_the_old_pull_the_new_leader_gets_an_ack_for_what_is_not_its_own():
    node, end, effects = append_of_a_new_leader(ablations.OldPullCuts)

    (reply,) = [send.message for send in effects.sends if isinstance(send.message, AppendReply)]
    assert reply.match > end + 1
    assert node.log.get(end + 1).term < node.term


def test_what_was_verified_in_this_term_is_never_cut():
    _, _, effects = append_of_a_new_leader(ablations.OldPullGoesOn)

    assert Halted("truncation-below-verified") in effects.notices
    assert effects.sends == []


def test_a_late_joiner_pulls_from_followers_and_spares_the_leader():
    cluster = three()
    leader = cluster.leader()
    cluster.step(leader, *[Execute(1000 + i, (i,)) for i in range(1500)])
    cluster.run(500)
    asked = []
    cluster.drop = lambda sender, to, message: isinstance(message, Fetch) and asked.append(to)
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(4000)

    assert cluster.values()["d"] == sum(range(1500))
    assert set(asked) == set(cluster.nodes) - {leader, "d"}
    assert "d" in {v.name for v in cluster.nodes[leader].members}


def test_the_only_peer_is_pulled_from_even_if_it_is_the_leader():
    cluster = RaftCluster()
    cluster.add("a", Bootstrap.INIT)
    cluster.elect()
    for i in range(100):
        cluster.execute("a", i)
    cluster.run(100)
    cluster.add("b", Bootstrap.JOIN)
    cluster.run(1500)

    assert cluster.values()["b"] == sum(range(100))


def test_pulling_survives_loss_of_half_the_messages():
    cluster = three(chunk_bytes_max=4000)
    leader = cluster.leader()
    for i in range(200):
        cluster.execute(leader, i)
    cluster.run(500)
    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lambda sender, to, message: "d" in (sender, to) and cluster.random.random() < 0.5
    cluster.run(60_000)

    assert cluster.values()["d"] == sum(range(200))


def test_what_arrives_while_pulling_is_kept_within_a_bound_and_nothing_is_lost():
    cluster = three(catchup_buffer_bytes_max=1000)
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == follower and isinstance(message, Append | Chunk)
    cluster.execute(leader, 1)
    cluster.deliver()
    cluster.drop = lambda sender, to, message: to == follower and isinstance(message, Chunk)
    for _ in range(100):
        cluster.execute(leader, 1)
        cluster.run(5)
    pull = cluster.nodes[follower].tenure.pull
    assert pull is not None
    assert 0 < pull.buffer_bytes <= 1000
    cluster.drop = lambda sender, to, message: False
    cluster.run(3000)

    assert cluster.values()[follower] == 101


def test_only_verified_or_committed_entries_are_served():
    """R-serve: without it a stale peer makes a follower truncate what it acknowledged."""
    cluster = three()
    leader, (follower, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    last = node.log.last()
    stray = noop_after(last, node.term)
    deliver(cluster, follower, leader, Append(node.cluster, node.term, last, (stray,), 0, 1))
    deliver(cluster, follower, other, Append(node.cluster, node.term + 1, last, (), 0, 1))
    fetch = Fetch(node.cluster, node.term + 1, last.index, last, last.index + 1)
    (chunk,) = deliver(cluster, follower, other, fetch)

    assert (chunk.ok, chunk.entries) == (True, ())


class ServesEverything(Member):
    def _serve_limit(self):
        return self.log.last().index


def test_without_the_serve_rule_a_dead_leaders_tail_is_handed_on():
    cluster = RaftCluster(member=ServesEverything)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    cluster.run(300)
    leader, (follower, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    last = node.log.last()
    stray = noop_after(last, node.term)
    deliver(cluster, follower, leader, Append(node.cluster, node.term, last, (stray,), 0, 1))
    deliver(cluster, follower, other, Append(node.cluster, node.term + 1, last, (), 0, 1))
    fetch = Fetch(node.cluster, node.term + 1, last.index, last, last.index + 1)
    (chunk,) = deliver(cluster, follower, other, fetch)

    assert chunk.entries == (stray,)


def test_a_fetch_of_another_term_is_not_served():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    last = node.log.last()

    assert deliver(cluster, a, b, Fetch(node.cluster, node.term - 1, 0, None, last.index)) == []


def test_a_fetch_with_a_wrong_predecessor_gets_a_hint_and_no_entries():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    wrong = Position(node.term - 1, 3, bytes(32))
    (chunk,) = deliver(cluster, a, b, Fetch(node.cluster, node.term, 3, wrong, 5))

    assert (chunk.ok, chunk.entries) == (False, ())
    assert chunk.hint < 3


def test_an_unasked_chunk_is_ignored():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    last = node.log.last()
    chunk = Chunk(node.cluster, node.term, last, True, (noop_after(last, node.term),), 0)
    assert deliver(cluster, a, b, chunk) == []

    assert node.log.last() == last


def test_entries_of_earlier_terms_are_committed_only_below_one_of_the_own_term():
    """Figure 8 of the Raft paper. Rule K would know that the first leader had committed it."""
    cluster = three(member=ablations.CountsNoClaims)
    old = cluster.leader()
    a, b = cluster.followers()
    cluster.drop = lambda sender, to, message: sender == old and to == b
    cluster.execute(old, 7)
    sent = [w for w in cluster.wire if w[1] == a]
    cluster.wire.clear()
    for sender, to, message in sent:
        cluster.step(to, Received(cluster.nodes[sender].me, message))
    inherited = cluster.nodes[a].log.last().index
    cluster.wire.clear()
    cluster.kill(old)
    cluster.drop = lambda sender, to, message: isinstance(message, Append)
    cluster.run_until(lambda: cluster.nodes[a].role is Role.LEADER)
    node = cluster.nodes[a]
    reply = AppendReply(node.cluster, node.term, Verdict.ACK, inherited, 1, (0, 0))
    cluster.step(a, Received(cluster.nodes[b].me, reply))

    assert node.commit < inherited


def test_a_truncation_below_the_commit_index_halts_the_member():
    cluster = three()
    leader, (follower, other) = cluster.leader(), cluster.followers()
    cluster.execute(leader, 1)
    cluster.deliver()
    node = cluster.nodes[follower]
    prev = node.log.position(node.commit - 1)
    forged = noop_after(prev, node.term + 1)
    effects = cluster.step(
        follower,
        Received(cluster.nodes[other].me, Append(node.cluster, node.term + 1, prev, (forged,), 0, 1)),
    )

    assert effects.notices == [Halted("truncation-below-commit")]
    assert effects.sends == []


def test_two_entries_with_one_term_and_index_halt_the_member():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    last = node.log.last()
    forged = Position(last.term, last.index, bytes(32))
    effects = cluster.step(follower, Received(node.me, Append(node.cluster, node.term, forged, (), 0, 99)))

    assert effects.notices == [Halted("log-divergence")]


def test_a_halted_member_answers_every_command_and_sends_nothing():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    forged = Position(node.log.last().term, node.log.last().index, bytes(32))
    pending = cluster.execute(follower, 5)
    cluster.step(follower, Received(node.me, Append(node.cluster, node.term, forged, (), 0, 99)))
    late = cluster.execute(follower, 6)

    assert cluster.outcomes[pending].reason == "halted"
    assert cluster.outcomes[late].reason == "halted"


def test_a_member_that_halts_in_a_step_does_not_report_the_steps_commands_as_not_done():
    cluster = RaftCluster(min_voters=1)
    node = cluster.add("a", Bootstrap.INIT)
    cluster.elect()
    apply = node.replica.machine.apply

    def starved(command, context):
        if command == 2:
            raise MemoryError
        return apply(command, context)

    node.replica.machine.apply = starved
    cluster.step("a", Execute(101, (1,)), Execute(102, (2,)), Query(103, "value", Consistency.WEAK))

    assert node.halted == "out-of-memory-in-apply"
    assert {token: cluster.outcomes["a", token] for token in (101, 102, 103)} == dict.fromkeys(
        (101, 102, 103), Unknown("halted")
    )


def test_a_reply_that_claims_more_than_the_log_is_a_violation():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    reply = AppendReply(node.cluster, node.term, Verdict.ACK, 10_000, 1, (0, 0))
    cluster.step(leader, Received(cluster.nodes[follower].me, reply))

    assert [v.reason for v in cluster.violations()] == ["reply-beyond-log"]


def test_a_log_that_does_not_begin_with_its_clusters_genesis_is_a_violation():
    cluster = three()
    node = cluster.add("d", Bootstrap.JOIN, bond=False)
    cluster.bond("d", cluster.leader())
    leader = cluster.nodes[cluster.leader()]
    genesis = leader.log.get(1)
    other = Entry(1, 1, genesis.kind, genesis.time_ms + 1, genesis.payload, bytes(32))
    prev = Position(0, 0, bytes(32))
    message = Append(leader.cluster, leader.term, prev, (other,), 1, 1)
    cluster.step("d", Received(leader.me, message))

    assert [v.reason for v in cluster.violations()] == ["wrong-genesis"]
    assert node.log.last().index == 0


def test_a_write_is_not_committed_by_the_minority_side():
    """C1, minority-leader-write."""
    cluster = three()
    old = cluster.leader()
    cluster.isolate(old)
    ticket = cluster.execute(old, 1000)
    cluster.run(2000)
    assert ticket not in cluster.outcomes
    new = cluster.leader()
    assert isinstance(cluster.outcome(cluster.execute(new, 1)), Ok)
    cluster.heal()
    outcome = cluster.outcome(ticket)
    cluster.run(500)

    assert isinstance(outcome, Ok)
    assert cluster.values() == {"a": 1001, "b": 1001, "c": 1001}


def test_memory_log_keeps_its_promises():
    log = MemoryLog()
    entries, last = [], log.last()
    for _ in range(10):
        entries.append(noop_after(last, 1))
        last = position(entries[-1])
    log.append(entries)

    assert log.slice(3, 5, 10_000) == tuple(entries[2:5])
    assert log.slice(3, 10, 1) == (entries[2],)
    log.truncate(4)
    assert log.last() == position(entries[3])
    log.truncate(0)
    assert log.last() == Position(0, 0, bytes(32))


def appends_kept_from(cluster, follower):
    """Three Appends that the leader sends and ``follower`` has not got yet."""
    kept = []

    def keep(_sender, to, message):
        if to == follower and isinstance(message, Append):
            kept.append(message)
            return True
        return False

    cluster.drop = keep
    for value in (1, 2, 3):
        cluster.execute(cluster.leader(), value)
        cluster.deliver()
    cluster.drop = lambda *_: False
    return [m for m in kept if m.entries]


def replies(cluster, follower, appends):
    leader = cluster.nodes[cluster.leader()].me
    effects = cluster.step(follower, *[Received(leader, append) for append in appends])
    return [send.message for send in effects.sends if isinstance(send.message, AppendReply)]


def test_appends_that_come_together_are_answered_once():
    cluster = three()
    follower = cluster.followers()[0]
    appends = appends_kept_from(cluster, follower)

    (reply,) = replies(cluster, follower, appends)

    assert len(appends) == 3
    assert (reply.verdict, reply.match, reply.seq) == (
        Verdict.ACK,
        appends[-1].entries[-1].index,
        appends[-1].seq,
    )


def test_an_answer_never_contradicts_an_earlier_one_of_the_same_step():
    cluster = three()
    follower = cluster.followers()[0]
    first, second, third = appends_kept_from(cluster, follower)

    taken = replies(cluster, follower, [first, third])
    again = replies(cluster, follower, [second, first])

    assert [(reply.verdict, reply.match) for reply in taken] == [
        (Verdict.ACK, first.entries[-1].index),
        (Verdict.ABSTAIN, 0),
    ]
    assert max(reply.match for reply in again) == third.entries[-1].index
    assert {reply.seq for reply in again} == {third.seq}
