"""Elections (3.4 of docs/design/consensus.md), rule by rule."""

import pytest

from node.peers import BondLoss, Preference
from node.raft.election import STAGGER_MS
from node.raft.entries import encode_config, make_entry
from node.raft.events import BondDown, Received, RoleChanged
from node.raft.member import Member
from node.raft.messages import Append, AppendReply, TimeoutNow, Vote, VoteReply, VoteRequest
from node.raft.quorum import Config
from node.raft.types import (
    LOG_START,
    Bootstrap,
    Cursor,
    EntryKind,
    Position,
    Role,
    Settings,
)
from tests.node.raft.cluster import RaftCluster, inc, three


def request(node, term, *, pre=False, last=None, roll=None, transfer=False):
    return VoteRequest(node.cluster, term, pre, last or node.log.last(), roll or node.members, transfer)


def ask(cluster, name, sender, message):
    """Deliver one message and return what was answered to its sender."""
    sends = cluster.step(name, Received(cluster.nodes[sender].me, message)).sends
    return [s.message for s in sends if cluster.nodes[sender].me in s.to]


def test_exactly_one_leader_is_elected_and_the_others_follow_it():
    cluster = three()
    leader = cluster.leader()

    assert [n.role for n in cluster.nodes.values()].count(Role.LEADER) == 1
    assert {n.leader for n in cluster.nodes.values()} == {cluster.nodes[leader].me}


def test_a_killed_leader_is_replaced_within_a_second_because_its_bonds_break():
    for seed in range(20):
        cluster = RaftCluster(seed=seed)
        for name in "abc":
            cluster.add(name)
        cluster.run(1500)
        before = cluster.now
        cluster.kill(cluster.leader())
        cluster.elect()

        assert cluster.now - before < 1000


def test_a_frozen_leader_whose_bonds_hold_is_replaced_after_the_election_timeout():
    cluster = three()
    frozen = cluster.leader()
    cluster.drop = lambda sender, to, message: frozen in (sender, to)
    cluster.run(3500)

    assert cluster.leader() != frozen


def test_pre_vote_changes_nobodys_state():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    before = (node.term, node.voted_for, node.role)
    ask(cluster, a, b, request(node, node.term + 5, pre=True))

    assert (node.term, node.voted_for, node.role) == before


def test_a_member_that_receives_from_a_leader_refuses_pre_votes():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    (reply,) = ask(cluster, a, b, request(node, node.term + 1, pre=True))

    assert reply.vote is Vote.DENIED


def test_a_follower_that_lost_the_leaders_bond_does_not_count_as_hearing_it():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    cluster.step(a, BondDown(node.leader, BondLoss.LOST))
    (reply,) = ask(cluster, a, b, request(node, node.term + 1, pre=True))

    assert reply.vote is Vote.GRANTED


def test_a_pre_candidate_still_grants_its_unused_vote():
    """Or two that know the same term, one standing and one about to, split their votes again and again."""
    cluster = three()
    leader, (name, other) = cluster.leader(), cluster.followers()
    node, candidate = cluster.nodes[name], cluster.nodes[other]
    cluster.isolate(leader)
    cluster.drop = lambda *_: True
    node._become_follower(node.term + 1, None)
    cluster.run_until(lambda: node.role is Role.PRE_CANDIDATE)
    assert node.voted_for is None
    request = VoteRequest(node.cluster, node.term, False, node.log.last(), node.members, False)
    effects = cluster.step(name, Received(candidate.me, request))

    (reply,) = [send.message for send in effects.sends if isinstance(send.message, VoteReply)]
    assert reply.vote is Vote.GRANTED
    assert node.role is Role.FOLLOWER


def test_with_leases_a_lost_bond_does_not_free_the_promise_to_the_leader():
    cluster = three(lease_reads=True)
    a, b = cluster.followers()
    node = cluster.nodes[a]
    cluster.step(a, BondDown(node.leader, BondLoss.LOST))
    (pre,) = ask(cluster, a, b, request(node, node.term + 1, pre=True))
    term = node.term
    (real,) = ask(cluster, a, b, request(node, node.term + 1))

    assert (pre.vote, real.vote, node.term) == (Vote.DENIED, Vote.DENIED, term)


def test_with_leases_a_later_term_does_not_free_the_promise_to_the_leader():
    cluster = three(lease_reads=True)
    a, b = cluster.followers()
    node = cluster.nodes[a]
    later = node.term + 7
    cluster.step(
        a, Received(cluster.nodes[b].me, VoteReply(node.cluster, later, True, Vote.DENIED, None, LOG_START))
    )
    assert node.term == later
    (same,) = ask(cluster, a, b, request(node, later))
    (next_,) = ask(cluster, a, b, request(node, later + 1))
    assert (same.vote, next_.vote) == (Vote.DENIED, Vote.DENIED)

    cluster.now = node.tenure.bound_ms
    (after,) = ask(cluster, a, b, request(node, later + 1))

    assert after.vote is Vote.GRANTED


def test_with_leases_a_broken_bond_starts_no_election_before_the_promise_has_expired():
    cluster = three(lease_reads=True)
    leader, (a, b) = cluster.leader(), cluster.followers()
    node = cluster.nodes[a]
    cluster.drop = lambda sender, to, message: b in (sender, to)
    cluster.run(100)
    heard, term = node.tenure.leader_contact_ms, node.term
    cluster.kill(leader)
    asked = []

    def lose(sender, to, message):
        if sender == a and isinstance(message, VoteRequest):
            asked.append(cluster.now)
        return True

    cluster.drop = lose
    cluster.run(3000)

    promised = heard + node.settings.election_timeout_ms
    assert promised <= asked[0] < promised + node.settings.heartbeat_ms
    assert node.term == term


def test_a_refused_pre_vote_carries_the_refusers_own_term():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    (reply,) = ask(cluster, a, b, request(node, 1, pre=True))

    assert (reply.vote, reply.term) == (Vote.DENIED, node.term)


def test_a_pre_candidate_takes_the_term_of_a_member_that_refuses_it():
    """Without it two voters refuse each other for ever (seeds 3324, 3608 of the first prototype)."""
    cluster = three()
    follower = cluster.followers()[0]
    cluster.isolate(follower)
    cluster.run(3000)
    node = cluster.nodes[follower]
    assert node.role is Role.PRE_CANDIDATE
    other = cluster.leader()
    cluster.bond(follower, other)
    reply = VoteReply(node.cluster, node.term + 7, True, Vote.DENIED, None, LOG_START)
    wanted = node.term + 7
    cluster.step(follower, Received(cluster.nodes[other].me, reply))

    assert (node.term, node.role) == (wanted, Role.FOLLOWER)


def test_a_lonely_follower_keeps_its_term_and_does_not_disturb_the_leader():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    term = cluster.nodes[leader].term
    cluster.isolate(follower)
    cluster.run(20_000)
    cluster.heal()
    cluster.run(3000)

    assert cluster.leader() == leader
    assert cluster.nodes[leader].term == cluster.nodes[follower].term == term


def test_one_vote_per_term():
    cluster = three()
    a, b = cluster.followers()
    node, leader = cluster.nodes[a], cluster.leader()
    (first,) = ask(cluster, a, b, request(node, node.term + 1))
    (second,) = ask(cluster, a, leader, request(node, node.term))
    (again,) = ask(cluster, a, b, request(node, node.term))

    assert [first.vote, second.vote, again.vote] == [Vote.GRANTED, Vote.DENIED, Vote.GRANTED]


class ForgetsVotes(Member):
    def _remember_vote(self, candidate):
        pass


def test_without_recording_votes_two_candidates_get_one_voters_vote():
    cluster = RaftCluster(member=ForgetsVotes)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    cluster.run(500)
    a, b = cluster.followers()
    node, leader = cluster.nodes[a], cluster.leader()
    (first,) = ask(cluster, a, b, request(node, node.term + 1))
    (second,) = ask(cluster, a, leader, request(node, node.term))

    assert [first.vote, second.vote] == [Vote.GRANTED, Vote.GRANTED]


def test_a_shorter_log_gets_no_vote():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    last = node.log.last()
    short = Position(last.term, last.index - 1, bytes(32))
    (reply,) = ask(cluster, a, b, request(node, node.term + 1, last=short))

    assert reply.vote is Vote.DENIED


def test_an_older_last_term_gets_no_vote_however_long_the_log():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    long = Position(node.log.last().term - 1, 10_000, bytes(32))
    (reply,) = ask(cluster, a, b, request(node, node.term + 1, last=long))

    assert reply.vote is Vote.DENIED


def test_a_lagging_voter_grants():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    ahead = Position(node.log.last().term, node.log.last().index + 50, bytes(32))
    (reply,) = ask(cluster, a, b, request(node, node.term + 1, last=ahead))

    assert reply.vote is Vote.GRANTED


def test_a_member_outside_the_roll_abstains_and_is_bound_by_nothing():
    cluster = three()
    cluster.add("d", Bootstrap.JOIN, preference=Preference.OBSERVER)
    cluster.run(2000)
    node, leader = cluster.nodes["d"], cluster.leader()
    term = node.term
    (reply,) = ask(cluster, "d", leader, request(cluster.nodes[leader], term + 9))

    assert (reply.vote, node.term, node.voted_for) == (Vote.ABSTAIN, term, None)


def test_an_observer_abstains_even_if_the_roll_names_it():
    cluster = three()
    cluster.add("d", Bootstrap.JOIN, preference=Preference.OBSERVER)
    cluster.run(2000)
    node, leader = cluster.nodes["d"], cluster.leader()
    roll = tuple(sorted((node.me, *node.members)))
    (reply,) = ask(cluster, "d", leader, request(node, node.term + 1, roll=roll))

    assert reply.vote is Vote.ABSTAIN


def test_a_promoted_voter_that_has_not_seen_its_promotion_votes():
    """Eligibility comes from the candidate's roll (etcd: campaign_learner_must_vote)."""
    cluster = three()
    node = cluster.add("d", Bootstrap.JOIN, bond=False)
    candidate = cluster.nodes["a"]
    cluster.bond("d", "a")
    cluster.wire.clear()
    roll = tuple(sorted((node.me, *candidate.members)))
    message = VoteRequest(candidate.cluster, 9, False, candidate.log.last(), roll, False)
    (reply,) = [m for m in ask(cluster, "d", "a", message) if isinstance(m, VoteReply)]

    assert (reply.vote, node.voted_for) == (Vote.GRANTED, candidate.me)


def test_a_rebooted_voter_is_another_incarnation_and_abstains():
    """Named schedule 7, rollback-vote: the old vote died with the old incarnation."""
    cluster = three()
    victim = cluster.followers()[0]
    old = cluster.nodes[victim].me
    other = cluster.followers()[1]
    cluster.kill(victim)
    node = cluster.add(victim, Bootstrap.JOIN, life=1)
    cluster.deliver()
    asker = cluster.nodes[other]
    assert old in asker.members
    (reply,) = ask(cluster, victim, other, request(asker, asker.term + 1))

    assert (node.me != old, reply.vote) == (True, Vote.ABSTAIN)


def test_an_observer_never_stands():
    cluster = RaftCluster()
    cluster.add("a", Bootstrap.INIT)
    cluster.add("o", Bootstrap.JOIN, preference=Preference.OBSERVER)
    cluster.run(3000)
    cluster.kill("a")
    cluster.run(30_000)

    assert cluster.nodes["o"].role is Role.FOLLOWER
    assert not any(isinstance(n, RoleChanged) and n.role is Role.PRE_CANDIDATE for n in cluster.notices["o"])


def test_a_reluctant_member_waits_longer_than_any_normal_one():
    cluster = RaftCluster()
    node = cluster.add("r", Bootstrap.JOIN, preference=Preference.RELUCTANT)
    slowest = cluster.settings.election_timeout_ms + cluster.settings.election_jitter_ms

    assert all(node._draw_election_wait() > slowest for _ in range(100))


def asks_after_a_lost_bond(preference):
    """Return after how long the follower of the highest rank asks for votes once its bond with the leader broke."""
    cluster = RaftCluster()
    *others, name = sorted("abc", key=inc)
    for other in others:
        cluster.add(other)
    cluster.add(name, preference=preference)
    cluster.elect()
    cluster.run(300)
    lost, asked = cluster.now, []

    def drop(sender, _to, message):
        if sender == name and isinstance(message, VoteRequest):
            asked.append(cluster.now)
        return True

    assert cluster.leader() != name
    cluster.drop = drop
    cluster.unbond(cluster.leader(), name)
    cluster.run(500)
    return asked[0] - lost


def test_a_reluctant_follower_leaves_the_others_more_time_to_stand_when_the_leaders_bond_breaks():
    rank, factor = 2, Settings().reluctant_factor
    last_normal = (rank + 1) * STAGGER_MS

    assert rank * STAGGER_MS <= asks_after_a_lost_bond(Preference.NORMAL) < last_normal
    assert rank * STAGGER_MS * factor <= asks_after_a_lost_bond(Preference.RELUCTANT) < last_normal * factor


def test_only_the_leader_can_hand_over_leadership():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    ask(cluster, a, b, TimeoutNow(node.cluster, node.term))

    assert [v.reason for v in cluster.violations()] == ["transfer-by-non-leader"]
    assert node.role is Role.FOLLOWER


def test_a_second_leader_of_a_term_is_a_violation():
    cluster = three()
    a, b = cluster.followers()
    node = cluster.nodes[a]
    message = Append(node.cluster, node.term, node.log.last(), (), node.commit, 1)
    assert ask(cluster, a, b, message) == []

    assert [v.reason for v in cluster.violations()] == ["second-leader-in-term"]


def test_check_quorum_deposes_a_leader_without_answers_but_not_a_new_one():
    cluster = three()
    leader = cluster.leader()
    cluster.drop = lambda sender, to, message: leader in (sender, to)
    cluster.run(500)
    young = cluster.nodes[leader].role
    cluster.run(1200)

    assert (young, cluster.nodes[leader].role is Role.LEADER) == (Role.LEADER, False)


def test_messages_of_a_peer_without_a_bond_are_ignored():
    cluster = three()
    leader = cluster.leader()
    stranger = inc("x")
    node = cluster.nodes[leader]
    message = VoteRequest(node.cluster, node.term + 9, False, node.log.last(), node.members, False)

    assert cluster.step(leader, Received(stranger, message)).sends == []
    assert node.role is Role.LEADER


class HearsOfNoCommit(Member):
    def _learn_commit(self, commit):
        pass


class CountsNoClaims(Member):
    def _count_claims(self):
        pass


class KnowsNoCommit(HearsOfNoCommit, CountsNoClaims):
    pass


def left_behind_by_a_dead_leader(member):
    """A leader commits that one voter is a voter no more, sends that to this one alone, and dies.

    The two that are left need three of the four old voters as long as they do not know of the commit. The third
    holds more of the dead leader's log than they do, so it refuses them; and it may not stand itself.
    """
    cluster = RaftCluster(member=member, tie_break=False)
    for name in "abcd":
        cluster.add(name, expect=4)
    leader = cluster.elect()
    cluster.run(300)
    demoted, *left = cluster.followers()
    lead = cluster.nodes[leader]

    def drop(sender, to, message):
        unheard = sender == demoted and to == leader and isinstance(message, AppendReply)
        changed = lead.tenure.configs[-1][0]
        return unheard or (to in left and isinstance(message, Append) and 1 < changed <= message.commit)

    cluster.drop = drop
    cluster.run_until(lambda: 1 < lead.tenure.configs[-1][0] <= lead.commit, stride=1)
    cluster.execute(leader, 7)
    cluster.run(10)
    assert cluster.nodes[demoted].log.last() > max(cluster.nodes[name].log.last() for name in left)
    cluster.kill(leader)
    cluster.drop = lambda *_: False
    cluster.run(20_000)
    return {name for name, node in cluster.nodes.items() if node.role is Role.LEADER} & set(left)


@pytest.mark.parametrize("member", [Member, HearsOfNoCommit, CountsNoClaims])
def test_a_demoted_voter_that_learned_of_it_does_not_keep_the_others_from_electing(member):
    """Seed 600184310. Either is enough: that voter names the commit, or what the dead leader had is counted."""
    assert left_behind_by_a_dead_leader(member)


def test_without_learning_the_commit_the_remaining_voters_never_elect_a_leader():
    assert not left_behind_by_a_dead_leader(KnowsNoCommit)


def test_a_candidate_that_learns_of_its_own_demotion_does_not_stand_again():
    """Seed 21027515: otherwise the vote from which it learns that elects a member that is no voter."""
    cluster = three()
    leader, (name, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[name]
    config = node.last_config
    wish = Config(
        epoch=2, voters=tuple(v for v in config.voters if v.name != name), tie=None, reason="demote"
    )
    last = node.log.last()
    entry = make_entry(
        last, term=last.term, kind=EntryKind.CONFIG, time_ms=2**41, payload=encode_config(wish)
    )
    append = Append(node.cluster, node.term, last, (entry,), node.commit, 10**6)
    cluster.step(name, Received(cluster.nodes[leader].me, append))
    cluster.isolate(name)
    cluster.heal()
    cluster.drop = lambda *_: True
    cluster.run(3000)
    node._campaign(transfer=False)
    for voter in (leader, other):
        commit = Position(entry.term, entry.index, entry.chain)
        told = VoteReply(node.cluster, node.term, False, Vote.GRANTED, None, commit)
        cluster.step(name, Received(cluster.nodes[voter].me, told))

    assert node.commit == entry.index
    assert node.log.last().index == entry.index  # it opened no term


class PullsFromNoRefuser(Member):
    def _pull_from_refuser(self, sender, m):
        pass


@pytest.mark.parametrize(("member", "leads"), [(Member, True), (PullsFromNoRefuser, False)])
def test_a_candidate_that_is_refused_for_its_log_pulls_what_is_committed_from_the_refuser(member, leads):
    """The refuser cannot lead itself: nobody receives that it stands."""
    cluster = three(member=member, demote_to_two_after_ms=10**9)
    leader, (name, refuser) = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: sender == leader and to == name
    cluster.outcome(cluster.execute(leader, 7))
    cluster.run(200)
    assert cluster.nodes[refuser].commit > cluster.nodes[name].log.last().index
    cluster.kill(leader)
    cluster.drop = lambda sender, to, message: sender == refuser and isinstance(message, VoteRequest)
    cluster.run(10_000)

    assert (cluster.nodes[name].role is Role.LEADER) is leads


def test_entries_pulled_from_a_refuser_are_no_claim_about_a_leader_that_the_term_does_not_have():
    """The simulator's oracle found it: the term of the election had no leader whose log could be equal."""
    cluster = three(demote_to_two_after_ms=10**9)
    leader, (name, refuser) = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: sender == leader and to == name
    cluster.outcome(cluster.execute(leader, 7))
    cluster.run(200)
    node, held = cluster.nodes[name], cluster.nodes[refuser].log.last()
    cluster.kill(leader)
    cluster.step(
        refuser, Received(node.me, VoteRequest(node.cluster, 9, False, LOG_START, node.members, False))
    )
    claims = []

    def watch(sender, to, message):
        if isinstance(message, VoteReply) and sender == name and node.tenure.verified_term == 9:
            claims.append((message.verified, node.log.last()))
        asks = refuser if node.tenure.verified_term == 9 else name
        return isinstance(message, VoteRequest) and (sender != asks or not message.pre)

    cluster.drop = watch
    cluster.run_until(lambda: claims, 20_000)
    assert claims[0] == (Cursor(0, 0), held)

    # The term has a leader after all: now it is known whose log that is.
    led = Append(node.cluster, 9, held, (), held.index, 1)
    cluster.step(name, Received(cluster.nodes[refuser].me, led))
    assert (node.term, node.tenure.verified_leader) == (9, cluster.nodes[refuser].me)
