"""Members that an operator removes: what is refused, who learns of it, and that they do not vote again."""

import pytest

from node.features import Features
from node.peers import Preference
from node.raft.entries import decode_config_untrusted, encode_config
from node.raft.events import Halted, Recovered, RemoveMember
from node.raft.membership_plan import removal
from node.raft.quorum import REMOVED_MAX, Config
from node.raft.types import REMOVED, Bootstrap, NotExecuted, Ok, Unknown
from tests.node.raft.cluster import RaftCluster, inc, three
from tests.node.raft.test_membership_plan import A, B, C, D, view

LINGERS_MS = 3500  # longer than a removed member goes on


def four(**overrides):
    cluster = three(**overrides)
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(2000)
    assert len(cluster.nodes[cluster.leader()].members) == 4
    return cluster


def remove(cluster, name, at=None, member=None):
    """Ask for the removal of ``name``; return under what its outcome is found."""
    leader = at or cluster.leader()
    cluster.tokens += 1
    cluster.step(leader, RemoveMember(cluster.tokens, member or cluster.nodes[name].me))
    return leader, cluster.tokens


def voters(cluster):
    return [voter.name for voter in cluster.nodes[cluster.leader()].members]


def test_a_voter_that_runs_is_removed_ends_by_itself_and_does_not_vote_again():
    cluster = four()
    gone = cluster.followers()[0]
    ticket = remove(cluster, gone)
    cluster.run(500)

    assert isinstance(cluster.outcomes[ticket], Ok)
    assert gone not in voters(cluster)
    assert cluster.nodes[gone].halted is None  # its vote may still be needed
    assert cluster.nodes[gone].me not in cluster.nodes[cluster.leader()].status().learners
    cluster.run(LINGERS_MS)
    assert cluster.nodes[gone].halted == REMOVED
    assert Halted(REMOVED) in cluster.notices[gone]
    assert gone not in voters(cluster)


def test_the_node_of_a_removed_member_joins_again_as_another_incarnation():
    cluster = four()
    gone = cluster.followers()[0]
    remove(cluster, gone)
    cluster.run(LINGERS_MS)
    cluster.kill(gone)
    cluster.add(gone, Bootstrap.JOIN, life=1)
    cluster.run(2000)

    assert cluster.nodes[gone].me in cluster.nodes[cluster.leader()].members


def test_a_learner_and_an_observer_are_removed_too():
    cluster = three(max_voters=3)
    for name, preference in (("d", Preference.NORMAL), ("e", Preference.OBSERVER)):
        cluster.add(name, Bootstrap.JOIN, preference=preference)
        cluster.run(1000)
        before = voters(cluster)
        ticket = remove(cluster, name)
        cluster.run(LINGERS_MS)

        assert isinstance(cluster.outcomes[ticket], Ok)
        assert cluster.nodes[name].halted == REMOVED
        assert voters(cluster) == before


def test_the_leader_removes_itself_answers_and_hands_over():
    cluster = four()
    leader = cluster.leader()
    ticket = remove(cluster, leader)
    cluster.run(400)  # much less than an election timeout

    assert isinstance(cluster.outcomes[ticket], Ok)
    assert cluster.leader() not in (None, leader)
    assert leader not in voters(cluster)
    cluster.run(LINGERS_MS)
    assert cluster.nodes[leader].halted == REMOVED


def test_a_removed_member_still_gives_the_vote_that_the_others_need():
    """It alone learns that its removal is committed, and then the leader dies: two of the old four are no quorum."""
    cluster = four()
    leader, (gone, *others) = cluster.leader(), cluster.followers()
    log = cluster.nodes[leader].log
    ticket = remove(cluster, gone)
    written = log.last().index
    cluster.drop = lambda sender, to, message: (
        sender == leader and to in others and getattr(message, "commit", 0) >= written
    )
    cluster.run_until(lambda: cluster.nodes[gone].commit >= written)
    cluster.kill(leader)
    cluster.run(1500)

    assert isinstance(cluster.outcomes[ticket], Ok)
    assert cluster.leader() in others


def test_a_removed_member_that_was_away_learns_it_from_the_next_leader_and_is_not_promoted():
    cluster = four(demote_after_ms=3_600_000)
    leader, (gone, *_) = cluster.leader(), cluster.followers()
    away = {gone}
    cluster.drop = lambda sender, to, message: bool(away & {sender, to})
    cluster.run(1200)
    remove(cluster, gone)
    cluster.run(500)
    away.add(leader)
    cluster.run(4000)
    cluster.elect()
    away.discard(gone)
    cluster.run(1500)

    assert gone not in voters(cluster)
    cluster.run(LINGERS_MS)
    assert cluster.nodes[gone].halted == REMOVED


def test_a_removal_is_asked_for_twice_and_happens_once():
    cluster = four()
    gone = cluster.followers()[0]
    first = remove(cluster, gone)
    cluster.run(500)
    epoch = cluster.nodes[cluster.leader()].last_config.epoch
    second = remove(cluster, gone)
    cluster.run(100)

    assert isinstance(cluster.outcomes[first], Ok)
    assert isinstance(cluster.outcomes[second], Ok)
    assert cluster.nodes[cluster.leader()].last_config.epoch == epoch


def test_what_a_leader_cannot_do_now_is_refused_by_name():
    cluster = four()
    follower, gone = cluster.followers()[:2]

    def refused(*asked, **how):
        return cluster.outcomes[remove(cluster, *asked, **how)].reason

    assert refused(gone, at=follower) == "not-leader"
    assert refused("x", member=inc("x")) == "no-such-member"
    cluster.drop = lambda *_: True
    remove(cluster, gone)
    assert refused(follower) == "change-pending"


def test_no_member_is_removed_below_the_level_that_has_removals():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name, features=Features(1, 1))
    cluster.elect()
    cluster.run(300)
    ticket = remove(cluster, cluster.followers()[0])

    assert cluster.outcomes[ticket] == NotExecuted("feature-level-too-low", cluster.nodes[ticket[0]].me)


def test_a_removal_whose_leader_is_lost_may_or_may_not_happen():
    cluster = four()
    leader, gone = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: leader in (sender, to)
    ticket = remove(cluster, gone)
    cluster.run(3000)

    assert cluster.outcomes[ticket] == Unknown("leader-lost")


@pytest.mark.parametrize(
    ("seen", "member", "reason"),
    [
        (view(min_voters=3), B, "below-min-voters"),
        (view(responsive=(A,)), B, "would-lose-quorum"),
        (view((A, B, C, D), responsive=(A, B, D), tie_break=False), B, None),
        (view((A, B, C), responsive=(A, B), tie_break=False), B, "would-lose-quorum"),
        (view((A, B, C), responsive=(A, B), min_voters=2), B, "too-few-copies"),
        (view((A, B, C), responsive=(A, B), min_voters=2), C, None),
        (view((A, B, C), min_voters=2), A, None),
        (view((A,), min_voters=1), A, "below-min-voters"),
        (view((A, B, C), min_voters=3), D, None),
    ],
)
def test_a_removal_leaves_a_group_that_goes_on(seen, member, reason):
    planned = removal(seen, member)

    if reason is None:
        assert member not in planned.voters
        assert planned.removed == (member,)
        assert planned.epoch == seen.config.epoch + 1
    else:
        assert planned == NotExecuted(reason, A)


def test_the_tie_of_voters_without_their_leader_is_one_that_answers():
    assert removal(view((A, B, C), responsive=(A, C, B)), A).tie == B
    assert removal(view((A, B, C), responsive=(A, B, C)), C).tie == A


def test_the_oldest_removals_are_forgotten():
    many = tuple(inc(f"n{number}") for number in range(REMOVED_MAX))
    config = Config(epoch=7, voters=(A, B, C), tie=None, reason="test", removed=many)
    seen = view()
    seen = type(seen)(**{name: getattr(seen, name) for name in seen.__slots__} | {"config": config})
    planned = removal(seen, D)

    assert planned.removed == (*many[1:], D)
    assert decode_config_untrusted(encode_config(planned))[0] == planned


def test_a_trust_disk_member_that_was_removed_stays_out_when_it_starts_again():
    cluster = four(trust_disk=True)
    gone = cluster.followers()[0]
    remove(cluster, gone)
    cluster.run(LINGERS_MS)
    old = cluster.kill(gone)
    entries = old.log.slice(1, old.log.last().index, 10**9)
    cluster.add(gone, Bootstrap.JOIN, recovered=Recovered(old.term, old.voted_for, entries))
    cluster.run(1000)

    assert old.halted == REMOVED
    assert gone not in voters(cluster)
    cluster.run(LINGERS_MS)
    assert cluster.nodes[gone].halted == REMOVED
