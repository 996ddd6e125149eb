"""Section 3.7: strong reads cost a quorum, also on followers; leases must be asked for; weak reads show their age."""

import pytest

from node.peers import BondLoss, Preference
from node.raft.entries import EMPTY_PAYLOAD, make_entry
from node.raft.events import BondDown, BondUp, Cancel, Query, Received, Recovered, Tick, TransferLeadership
from node.raft.member import Member
from node.raft.messages import ACK, Append, AppendReply, Chunk, ReadIndex, ReadIndexReply
from node.raft.types import (
    Answer,
    Bootstrap,
    Consistency,
    Cursor,
    EntryKind,
    Failed,
    NotExecuted,
    Role,
)
from tests.node.raft.cluster import BUILD, RaftCluster, three
from tests.node.simulation.ablations import LeaseNotRechecked, NoQuorumRoundForReads

WEAK, STRONG = Consistency.WEAK, Consistency.STRONG


def test_a_strong_read_sees_every_acknowledged_write_on_every_member():
    cluster = three()
    for i in range(1, 4):
        cluster.outcome(cluster.execute(cluster.leader(), 1))
        for name in "abc":
            assert cluster.outcome(cluster.query(name)).value == i


def test_a_leader_cut_off_from_the_quorum_answers_no_strong_read():
    cluster = three()
    leader = cluster.leader()
    cluster.drop = lambda sender, to, message: leader in (sender, to)
    ticket = cluster.query(leader)
    cluster.run(900)

    assert cluster.nodes[leader].role is Role.LEADER
    assert ticket not in cluster.outcomes


def test_without_the_quorum_round_a_cut_off_leader_answers_from_the_past():
    cluster = RaftCluster(member=NoQuorumRoundForReads)
    for name in "abc":
        cluster.add(name)
    leader = cluster.elect()
    cluster.drop = lambda sender, to, message: leader in (sender, to)

    assert isinstance(cluster.outcome(cluster.query(leader), 100), Answer)


def test_read_after_crash_sees_what_the_dead_leader_acknowledged():
    """C9, scenario 20."""
    cluster = three()
    old = cluster.leader()
    cluster.outcome(cluster.execute(old, 7))
    cluster.drop = lambda sender, to, message: sender == old
    cluster.kill(old)
    cluster.drop = lambda sender, to, message: False
    new = cluster.followers()[0]
    ticket = cluster.query(new)

    assert cluster.outcome(ticket).value == 7


def test_reads_of_one_step_share_one_round():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    on_leader = cluster.step(leader, *[Query(500 + i, None, STRONG) for i in range(50)])
    on_follower = cluster.step(follower, *[Query(500 + i, None, STRONG) for i in range(50)])

    assert [type(s.message) for s in on_leader.sends] == [Append]
    assert [type(s.message) for s in on_follower.sends] == [ReadIndex]
    cluster.deliver()
    assert len(cluster.outcomes) == 100


def test_a_lost_read_index_is_asked_again():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.drop = lambda sender, to, message: isinstance(message, ReadIndex)
    ticket = cluster.query(follower)
    cluster.run(100)
    cluster.drop = lambda sender, to, message: False

    assert isinstance(cluster.outcome(ticket, 2000), Answer)


def test_reads_survive_a_change_of_leader():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.drop = lambda sender, to, message: isinstance(message, ReadIndex)
    ticket = cluster.query(follower)
    cluster.deliver()
    cluster.drop = lambda sender, to, message: False
    cluster.kill(cluster.leader())

    assert isinstance(cluster.outcome(ticket), Answer)


def test_a_weak_read_answers_without_a_leader_and_reports_its_age():
    cluster = three()
    cluster.outcome(cluster.execute(cluster.leader(), 3))
    cluster.run(500)
    follower = cluster.followers()[0]
    cluster.isolate(follower)
    cluster.run(2000)
    answer = cluster.outcome(cluster.query(follower, WEAK), 0)

    assert answer.value == 3
    assert 2000 <= answer.age_ms <= 2200


def test_a_weak_read_that_would_be_too_old_is_refused():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.isolate(follower)
    cluster.run(2000)

    assert cluster.outcome(cluster.query(follower, WEAK, max_age_ms=500), 0) == NotExecuted("too-old")


def test_read_your_writes_waits_until_the_write_is_applied_here():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == follower
    written = cluster.outcome(cluster.execute(cluster.leader(), 3))
    ticket = cluster.query(follower, WEAK, min_at=written.at)
    cluster.run(300)
    assert ticket not in cluster.outcomes
    cluster.drop = lambda sender, to, message: False
    answer = cluster.outcome(ticket)

    assert answer.value == 3
    assert answer.at >= written.at


def test_a_read_after_a_cursor_that_never_existed_reports_that():
    cluster = three()
    leader = cluster.leader()
    wrong = Cursor(1, cluster.nodes[leader].commit)

    assert cluster.outcome(cluster.query(leader, WEAK, min_at=wrong), 0).reason == "superseded"


def test_a_query_that_the_machine_refuses_or_crashes_on_is_an_answer():
    cluster = three()
    leader = cluster.leader()
    cluster.step(leader, Query(1, "crash", WEAK))

    assert cluster.outcomes[leader, 1].value == Failed("query-raised", "ZeroDivisionError")


def test_more_waiting_reads_than_the_limit_are_refused():
    cluster = three(pending_max=10)
    leader = cluster.leader()
    cluster.drop = lambda *_: True
    cluster.step(leader, *[Query(500 + i, None, STRONG) for i in range(25)])

    reasons = {o.reason for o in cluster.outcomes.values()}
    assert (len(cluster.outcomes), reasons) == (15, {"overloaded"})


def test_a_cancelled_read_is_answered_at_once_and_only_once():
    cluster = three()
    leader = cluster.leader()
    cluster.drop = lambda *_: True
    ticket = cluster.query(leader)
    cluster.step(leader, Cancel(ticket[1]))
    cluster.drop = lambda *_: False
    cluster.run(500)

    assert cluster.outcomes[ticket] == NotExecuted("cancelled", cluster.nodes[leader].me)


# ---- leases -----------------------------------------------------------------
def leased(member=Member):
    cluster = RaftCluster(member=member, lease_reads=True)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    cluster.run(500)
    return cluster


def test_a_lease_read_needs_no_message():
    cluster = leased()
    leader = cluster.leader()
    ticket = cluster.query(leader)
    cluster.wire.clear()
    cluster.step(leader, Tick())

    assert isinstance(cluster.outcomes[ticket], Answer)


def test_a_frozen_leader_does_not_answer_from_an_expired_lease():
    """Named schedule 21: frozen between the check and the reply."""
    cluster = leased()
    leader = cluster.leader()
    ticket = cluster.query(leader)
    cluster.drop = lambda *_: True
    cluster.now += 30_000
    cluster.step(leader, Tick())

    assert ticket not in cluster.outcomes


def test_without_the_second_look_a_frozen_leader_answers_from_the_past():
    cluster = leased(LeaseNotRechecked)
    leader = cluster.leader()
    ticket = cluster.query(leader)
    cluster.now += 30_000
    cluster.step(leader, Tick())

    assert isinstance(cluster.outcomes[ticket], Answer)


def test_no_lease_outlives_a_leadership_transfer_that_was_announced():
    cluster = leased()
    leader, target = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: type(message).__name__ == "TimeoutNow"
    cluster.step(leader, TransferLeadership(99, cluster.nodes[target].me))
    cluster.run(300)
    ticket = cluster.query(leader)
    cluster.wire.clear()
    cluster.step(leader, Tick())

    assert ticket not in cluster.outcomes


class KeepsLeases(Member):
    @staticmethod
    def _end_lease(leadership):
        pass


@pytest.mark.parametrize(("member", "answered"), [(Member, False), (KeepsLeases, True)])
def test_a_lease_ends_with_the_configuration_whose_voters_gave_it(member, answered):
    """The voters of the next one may elect by themselves (rule K), and are bound only when they hold it."""
    cluster = leased(member)
    leader, departs = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda *_: True
    cluster.step(leader, BondDown(cluster.nodes[departs].me, BondLoss.DEPARTED))
    assert len(cluster.nodes[leader].last_config.voters) == 2
    ticket = cluster.query(leader)
    cluster.step(leader, Tick())

    assert (ticket in cluster.outcomes) is answered


def test_a_lease_runs_from_the_sending_of_what_was_echoed():
    cluster = leased()
    node = cluster.nodes[cluster.leader()]

    assert node.tenure.leadership.lease_ms <= cluster.now + cluster.settings.election_timeout_ms * 9 // 10
    assert node.tenure.leadership.lease_ms > cluster.now


def test_unanswered_broadcasts_are_remembered_up_to_a_bound_and_the_lease_is_still_renewed(
    monkeypatch,
):
    monkeypatch.setattr("node.raft.tenure.UNECHOED_MAX", 8)
    cluster = leased()
    leader = cluster.leader()
    leadership = cluster.nodes[leader].tenure.leadership
    for i in range(30):
        cluster.now += 1
        cluster.execute(leader, i)
        assert len(leadership.sent_ms) <= 8
    assert len(leadership.sent_ms) == 8
    before = leadership.lease_ms

    cluster.deliver()

    assert not leadership.sent_ms
    assert leadership.lease_ms > before


def restart(cluster, name):
    """Kill ``name`` and start it again at once as the same incarnation (trust_disk)."""
    old = cluster.nodes[name]
    entries = old.log.slice(1, old.log.last().index, 10**9)
    cluster.kill(name)
    cluster.add(name, recovered=Recovered(old.term, old.voted_for, entries))


def late_answer_to_an_earlier_life():
    """F asks the leader, dies and is back before the answer; the answer to its first life comes to its second.

    Until that answer arrives, F receives nothing that the leader has acknowledged since.
    """
    cluster = three(trust_disk=True)
    leader, asks = cluster.leader(), cluster.followers()[0]
    cluster.outcome(cluster.execute(leader, 1))
    cluster.run(300)
    late = []

    def quorum_is_slow(sender, to, message):
        if to == leader and isinstance(message, AppendReply):
            return True
        if to == asks and isinstance(message, ReadIndexReply):
            late.append(message)
            return True
        return False

    cluster.drop = quorum_is_slow
    cluster.query(asks)
    cluster.deliver()
    restart(cluster, asks)
    cluster.run(50)
    node = cluster.nodes[asks]

    def slow_for_f_alone(sender, to, message):
        if to == asks and isinstance(message, ReadIndexReply):
            late.append(message)
            return True
        return to == asks and isinstance(message, Append) and bool(message.entries)

    cluster.drop = slow_for_f_alone
    cluster.run(150)
    cluster.drop = lambda sender, to, message: to == asks
    cluster.outcome(cluster.execute(leader, 10))
    ticket = cluster.query(asks)
    cluster.deliver()
    return cluster, ticket, leader, node, late


def test_a_restarted_member_gets_no_answer_to_its_former_incarnations_request():
    """A trust_disk restart is the same incarnation in the same term: a read index must not outlive its bond."""
    _, _, _, _, late = late_answer_to_an_earlier_life()

    assert late == []


def test_a_read_index_for_an_earlier_life_is_not_taken_for_one_of_this():
    cluster, ticket, leader, node, _ = late_answer_to_an_earlier_life()
    answer = ReadIndexReply(node.cluster, 1, node.term, node.commit)
    cluster.step(node.me.name, Received(cluster.nodes[leader].me, answer))

    assert ticket not in cluster.outcomes
    assert node.reads.round is not None


def asked(cluster):
    """A follower's strong read whose answer is still on its way; return all that is known of it."""
    leader, (name, other) = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: isinstance(message, ReadIndexReply)
    ticket = cluster.query(name)
    cluster.deliver()
    node = cluster.nodes[name]
    answer = ReadIndexReply(node.cluster, node.reads.round.id, node.term, node.commit)
    return ticket, node, answer, cluster.nodes[leader].me, cluster.nodes[other].me


def test_a_read_index_counts_from_the_leader_only():
    cluster = three()
    ticket, node, answer, leader, other = asked(cluster)
    cluster.step(node.me.name, Received(other, answer))
    assert ticket not in cluster.outcomes

    cluster.step(node.me.name, Received(leader, answer))
    assert isinstance(cluster.outcomes[ticket], Answer)


def test_a_read_index_of_another_term_does_not_count():
    cluster = three()
    ticket, node, answer, leader, _ = asked(cluster)
    cluster.step(node.me.name, Received(leader, ReadIndexReply(answer.cluster, answer.id, 0, answer.index)))

    assert ticket not in cluster.outcomes


def test_a_weak_read_that_waited_for_its_cursor_is_still_not_older_than_it_may_be():
    cluster = three()
    name = cluster.followers()[0]
    node = cluster.nodes[name]
    last = node.log.last()
    next_cursor = Cursor(last.term, last.index + 1)
    ticket = cluster.query(name, WEAK, min_at=next_cursor, max_age_ms=100)
    cluster.run(50)
    assert ticket not in cluster.outcomes
    cluster.drop = lambda sender, to, message: to == name
    cluster.run(500)
    cluster.drop = lambda *_: False
    entry = make_entry(last, term=last.term, kind=EntryKind.NOOP, time_ms=2**41, payload=EMPTY_PAYLOAD)
    node._append((entry,))
    node._commit_to(entry.index)
    cluster.step(name, Tick())

    assert cluster.outcomes[ticket] == NotExecuted("too-old", node.leader)


def test_reads_that_wait_for_the_future_take_no_place_from_weak_ones():
    cluster = three(pending_max=10)
    name = cluster.followers()[0]
    for _ in range(10):
        cluster.query(name, WEAK, min_at=Cursor(1, 10**6))

    assert cluster.outcome(cluster.query(name, WEAK, min_at=Cursor(1, 10**6))).reason == "overloaded"
    assert isinstance(cluster.outcome(cluster.query(name, WEAK)), Answer)


def weak(cluster, name, **kwargs):
    return cluster.outcome(cluster.query(name, WEAK, **kwargs), 0)


def test_a_member_that_never_covered_a_leader_has_no_age_and_meets_no_bound():
    cluster = three()
    cluster.outcome(cluster.execute(cluster.leader(), 3))
    cluster.drop = lambda sender, to, message: to == "d" and isinstance(message, Chunk)
    cluster.add("d", bootstrap=Bootstrap.JOIN)
    cluster.run(1000)
    node = cluster.nodes["d"]

    assert cluster.now - node.tenure.leader_contact_ms <= 100
    assert weak(cluster, "d") == Answer(0, node.replica.applied, None)
    assert weak(cluster, "d", max_age_ms=86_400_000) == NotExecuted("never-current", node.leader)
    assert node.covered_age_ms(cluster.now) is None

    cluster.drop = lambda sender, to, message: False
    cluster.run(3000)
    assert weak(cluster, "d", max_age_ms=200).value == 3


def test_a_state_ages_while_the_backlog_does_not_arrive_although_the_leader_sends():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == follower and isinstance(message, Append)
    cluster.outcome(cluster.execute(leader, 3))
    cluster.drop = lambda sender, to, message: to == follower and isinstance(message, Chunk)
    cluster.run(65_000)
    node = cluster.nodes[follower]

    assert cluster.now - node.tenure.leader_contact_ms <= 100
    assert node.replica.machine.value == 0
    assert weak(cluster, follower, max_age_ms=60_000) == NotExecuted("too-old", node.leader)
    assert weak(cluster, follower).age_ms >= 64_000


def test_a_new_leaders_messages_before_its_own_commit_make_no_state_current():
    # Its commit index may be behind what its predecessor answered to its clients.
    cluster = three()
    follower = cluster.followers()[0]
    node = cluster.nodes[follower]
    last = node.log.last()
    cluster.isolate(follower)
    cluster.run(500)
    age_ms = node.covered_age_ms(cluster.now)
    other = cluster.nodes[cluster.followers()[0]].me
    cluster.step(follower, BondUp(other, Preference.NORMAL, BUILD))
    cluster.step(follower, Received(other, Append(node.cluster, node.term + 1, last, (), node.commit, 1)))

    assert node.leader == other
    assert node.replica.applied.index == node.commit == last.index
    assert node.covered_age_ms(cluster.now) == age_ms >= 500


def test_an_append_that_comes_twice_makes_no_state_younger():
    cluster = three()
    follower, leader = cluster.followers()[0], cluster.leader()
    node = cluster.nodes[follower]
    old = Append(node.cluster, node.term, node.log.last(), (), node.commit, node.tenure.last_seq)
    cluster.drop = lambda sender, to, message: to == follower
    cluster.run(500)
    cluster.step(follower, Received(cluster.nodes[leader].me, old))

    assert node.covered_age_ms(cluster.now) >= 500


def test_a_leader_s_state_ages_while_no_quorum_answers_it():
    cluster = three()
    leader = cluster.leader()
    node = cluster.nodes[leader]
    cluster.run(1000)
    assert node.covered_age_ms(cluster.now) <= 100
    cluster.drop = lambda sender, to, message: to == leader
    cluster.run(700)

    assert node.role is Role.LEADER
    assert weak(cluster, leader, max_age_ms=500) == NotExecuted("too-old", node.me)


def test_what_waited_while_a_leader_stood_still_does_not_make_its_state_younger():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    cluster.run(1000)
    # The host stops it for half a minute; answers to its last broadcasts, and a query, wait for it.
    cluster.now += 30_000
    reply = AppendReply(
        node.cluster, node.term, ACK, node.log.last().index, node.tenure.leadership.seq, Cursor(1, 1)
    )
    cluster.tokens += 1
    cluster.step(
        leader,
        Received(cluster.nodes[follower].me, reply),
        Query(cluster.tokens, "value", WEAK, max_age_ms=29_000),
    )

    assert cluster.outcomes[leader, cluster.tokens] == NotExecuted("too-old", node.me)


def test_a_new_leader_keeps_the_age_that_it_had_until_it_knows_better():
    cluster = three()
    cluster.run(500)
    cluster.drop = lambda sender, to, message: isinstance(message, AppendReply)
    cluster.kill(cluster.leader())
    cluster.run(700)
    (node,) = [node for node in cluster.nodes.values() if node.tenure.leadership is not None]

    assert node.covered_age_ms(cluster.now) >= 700
    cluster.drop = lambda sender, to, message: False
    cluster.run(200)
    assert node.covered_age_ms(cluster.now) <= 100


def test_a_member_that_is_a_quorum_alone_is_always_current():
    cluster = RaftCluster(min_voters=1)
    cluster.add("a", bootstrap=Bootstrap.INIT)
    cluster.run(5000)

    assert weak(cluster, "a", max_age_ms=0).age_ms == 0
