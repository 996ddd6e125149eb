"""Section 3.7: strong reads cost a quorum, also on followers; leases must be asked for; weak reads say how old."""

from node.raft.events import Cancel, Query, Tick, TransferLeadership
from node.raft.member import Member
from node.raft.messages import Append, ReadIndex
from node.raft.types import Answer, Consistency, Cursor, Failed, NotExecuted, Role
from tests.node.raft.cluster import Cluster, three

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


class NoRound(Member):
    def _needs_round(self):
        return False


def test_without_the_quorum_round_a_cut_off_leader_answers_from_the_past():
    cluster = Cluster(member=NoRound)
    for name in "abc":
        cluster.add(name)
    leader = cluster.elect()
    cluster.drop = lambda sender, to, message: leader in (sender, to)

    assert isinstance(cluster.outcome(cluster.query(leader), 100), Answer)


def test_read_after_crash_sees_what_the_dead_leader_acknowledged():
    """C9, named schedule 20."""
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


def test_a_weak_read_answers_without_a_leader_and_says_its_age():
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


def test_a_read_after_a_cursor_that_never_came_to_be_says_so():
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
    cluster = Cluster(member=member, lease_reads=True)
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


class NeverRechecks(Member):
    def _lease_still_holds(self):
        return True


def test_without_the_second_look_a_frozen_leader_answers_from_the_past():
    cluster = leased(NeverRechecks)
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


def test_a_lease_runs_from_the_sending_of_what_was_echoed():
    cluster = leased()
    node = cluster.nodes[cluster.leader()]

    assert node.lead.lease_ms <= cluster.now + cluster.settings.election_timeout_ms * 9 // 10
    assert node.lead.lease_ms > cluster.now
