"""Section 3.6: the quorum changes through the log, and only there."""

import pytest

from node.peers import BondLoss, Preference
from node.raft.entries import encode_config
from node.raft.events import Received
from node.raft.messages import AppendReply, Verdict
from node.raft.quorum import Config, is_quorum, is_quorum_of_all, tie_for
from node.raft.types import Bootstrap, Cursor, EntryKind, Ok, Role
from tests.node.raft.cluster import RaftCluster, inc, three

A, B, C, D = (inc(name) for name in "abcd")


def config(*voters, tie=None):
    return Config(epoch=1, voters=tuple(sorted(voters)), tie=tie, reason="test")


def voters(cluster, name=None):
    return sorted(v.name for v in cluster.nodes[name or cluster.leader()].members)


def test_a_majority_is_a_quorum_and_half_is_one_only_with_the_tie():
    even = config(A, B, C, D, tie=A)

    assert is_quorum(even, {A, B})
    assert is_quorum(even, {B, C, D})
    assert not is_quorum(even, {B, C})
    assert not is_quorum(config(A, B, C, D), {A, B})
    assert not is_quorum(config(A, B, C), {A, D})


def test_only_an_even_configuration_with_tie_break_has_a_tie():
    assert tie_for({A, B}, A, tie_break=True) == A
    assert tie_for({A, B, C}, A, tie_break=True) is None
    assert tie_for({A, B}, A, tie_break=False) is None
    assert tie_for({B, C}, A, tie_break=True) is None


def test_a_quorum_is_needed_in_every_active_configuration():
    """With the tie-break {A} and {B, C} are both quorums, of neighbouring configurations (3.6)."""
    old, new = config(A, B, C), config(A, B, tie=A)

    assert is_quorum_of_all([new], {A})
    assert is_quorum_of_all([old], {B, C})
    assert not is_quorum_of_all([old, new], {A})
    assert not is_quorum_of_all([old, new], {B, C})


def test_a_learner_is_promoted_after_it_kept_up():
    cluster = three()
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(2000)

    assert voters(cluster) == ["a", "b", "c", "d"]
    assert all(n.role is not Role.LEARNER for n in cluster.nodes.values())


def test_a_learner_whose_answers_miss_every_other_check_is_promoted_too():
    """Where a heartbeat's time is short for its host, that is how answers come (seed 450002185)."""
    cluster = three()
    heartbeat_ms = cluster.settings.heartbeat_ms
    cluster.drop = lambda sender, _to, message: (
        sender == "d" and type(message) is AppendReply and cluster.now // heartbeat_ms % 2
    )
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(10 * heartbeat_ms)

    assert voters(cluster) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("word", ["lag", "silence"])
def test_a_learner_that_lags_or_stops_answering_starts_its_catch_up_rounds_again(word):
    cluster = three()
    cluster.add("d", Bootstrap.JOIN)
    leadership = cluster.nodes[cluster.leader()].tenure.leadership
    learner = cluster.nodes["d"].me
    cluster.run_until(lambda: leadership.streak.get(learner), stride=1)
    cluster.drop = lambda sender, *_: sender == "d"
    if word == "lag":
        node = cluster.nodes["d"]
        lagging = AppendReply(node.cluster, node.term, Verdict.ABSTAIN, 0, leadership.seq, Cursor(0, 0))
        cluster.step(cluster.leader(), Received(learner, lagging))
    else:
        cluster.run(cluster.settings.election_timeout_ms + 200)

    assert leadership.streak[learner] == 0


def test_an_observer_is_never_promoted_but_sees_everything():
    cluster = three()
    cluster.add("o", Bootstrap.JOIN, preference=Preference.OBSERVER)
    cluster.execute(cluster.leader(), 9)
    cluster.run(5000)

    assert voters(cluster) == ["a", "b", "c"]
    assert cluster.values()["o"] == 9


def test_beyond_max_voters_members_stay_learners_and_replace_the_fallen():
    cluster = three(max_voters=3)
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(2000)
    assert voters(cluster) == ["a", "b", "c"]
    cluster.kill(cluster.followers()[0] if cluster.followers()[0] != "d" else cluster.followers()[1])
    cluster.run(6000)

    assert len(voters(cluster)) == 3
    assert "d" in voters(cluster)


def test_a_voter_without_answers_is_demoted_after_demote_after_and_not_before():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.kill(follower)
    cluster.run(2500)
    before = voters(cluster)
    cluster.run(1500)

    assert (before, voters(cluster)) == (["a", "b", "c"], sorted(cluster.nodes))


def test_a_voter_that_departs_or_whose_ticket_expires_is_demoted_at_once():
    for loss in (BondLoss.DEPARTED, BondLoss.EXPIRED):
        cluster = three()
        follower = cluster.followers()[0]
        cluster.isolate(follower, loss)
        cluster.run(300)

        assert follower not in voters(cluster)


def test_a_lost_bond_alone_demotes_no_voter_at_once():
    cluster = three()
    cluster.isolate(cluster.followers()[0], BondLoss.LOST)
    cluster.run(300)

    assert voters(cluster) == ["a", "b", "c"]


def test_a_voter_that_makes_no_progress_is_demoted():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda _, to, message: to == follower and getattr(message, "entries", ())
    cluster.execute(leader, 1)
    cluster.run(9000)

    assert follower not in voters(cluster)
    assert cluster.nodes[leader].tenure.leadership.answered_ms[cluster.nodes[follower].me] > cluster.now - 500


def test_no_voter_is_demoted_below_min_voters():
    cluster = three(min_voters=3)
    cluster.kill(cluster.followers()[0])
    cluster.run(8000)

    assert voters(cluster) == ["a", "b", "c"]


def test_shrink_cascade_writes_go_on_down_to_min_voters_then_stop_then_resume():
    """Named schedule 12."""
    cluster = RaftCluster()
    for name in "abcde":
        cluster.add(name, expect=5)
    cluster.elect()
    cluster.run(300)
    for _ in range(3):
        victim = cluster.followers()[0]
        cluster.kill(victim)
        cluster.elect()
        cluster.run(5000)
        assert isinstance(cluster.outcome(cluster.execute(cluster.leader(), 1)), Ok)
    assert len(voters(cluster)) == 2
    survivor = cluster.leader()
    cluster.kill(cluster.followers()[0])
    stuck = cluster.execute(survivor, 1)
    cluster.run(10_000)

    if survivor == cluster.leader():
        # The tie keeps it a quorum of the last two; it may write, but never shrink further.
        assert len(voters(cluster)) == 2
    else:
        assert stuck not in cluster.outcomes
    for name in "xy":
        cluster.add(name, Bootstrap.JOIN)
    assert isinstance(cluster.outcome(stuck), Ok)


def test_two_voters_without_tie_break_stop_when_one_dies():
    cluster = RaftCluster(tie_break=False)
    for name in "ab":
        cluster.add(name, expect=2)
    leader = cluster.elect()
    cluster.run(300)
    cluster.kill(cluster.followers()[0])
    ticket = cluster.execute(leader, 1)
    cluster.run(10_000)

    assert ticket not in cluster.outcomes
    assert cluster.leader() is None


def test_a_rebooted_voter_is_replaced_by_its_new_incarnation_in_one_step():
    cluster = three()
    victim = cluster.followers()[0]
    epoch = cluster.nodes[cluster.leader()].last_config.epoch
    old = cluster.kill(victim).me
    cluster.add(victim, Bootstrap.JOIN, life=1)
    cluster.run(2500)
    config = cluster.nodes[cluster.leader()].last_config

    assert config.epoch == epoch + 1
    assert config.reason.startswith("replace")
    assert old not in config.voters
    assert cluster.nodes[victim].me in config.voters


def test_a_second_member_of_a_name_waits_until_the_first_no_longer_answers():
    """Named schedule 8, cloned disk."""
    cluster = three()
    first = cluster.followers()[0]
    node = cluster.nodes[first]
    twin = cluster.add("twin", Bootstrap.JOIN, bond=False)
    twin.me = type(twin.me)(first, twin.me.id)
    for other in ("a", "b", "c"):
        cluster.bond("twin", other)
    cluster.run(4000)

    assert twin.me not in cluster.nodes[cluster.leader()].members
    assert node.me in cluster.nodes[cluster.leader()].members


def test_at_most_one_configuration_is_uncommitted():
    cluster = three()
    pending = []
    cluster.add("d", Bootstrap.JOIN)
    cluster.add("e", Bootstrap.JOIN)
    for _ in range(300):
        cluster.run(10)
        for node in cluster.nodes.values():
            pending.append(sum(index > node.commit for index, _ in node.tenure.configs))

    assert max(pending) <= 1
    assert voters(cluster) == ["a", "b", "c", "d", "e"]


def test_a_leader_that_is_demoted_steps_down_when_that_commits():
    cluster = three()
    leader = cluster.leader()
    node = cluster.nodes[leader]
    rest = tuple(v for v in node.members if v != node.me)
    wish = Config(epoch=2, voters=rest, tie=None, reason="without its leader")
    node._write(EntryKind.CONFIG, encode_config(wish))
    cluster.run(100)
    assert node.role is not Role.LEADER
    cluster.elect()

    assert cluster.leader() != leader


def test_no_configuration_is_written_that_the_present_voters_could_not_commit():
    """With the tie-break the leader alone is a quorum of the next one; of the present too few answer it."""
    cluster = three()
    leader, (gone, _) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    between = node.tenure.leadership.census_due - node.settings.heartbeat_ms // 2
    cluster.run(between - cluster.now)
    cluster.execute(leader, 1)
    cluster.deliver()
    cluster.drop = lambda *_: True
    cluster.run(node.settings.election_timeout_ms)  # the last answers are too old, as of the next census
    assert node.role is Role.LEADER
    assert node._responsive(node.tenure.leadership) == {node.me}
    last = node.log.last()
    cluster.unbond(leader, gone, BondLoss.DEPARTED)

    assert node.role is Role.LEADER
    assert node.log.last() == last


def test_no_configuration_is_written_that_its_own_voters_could_not_commit():
    """It would stay open, and its half that is silent be needed, though two of the present three are there."""
    cluster = three(tie_break=False)
    leader, (gone, silent) = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: silent in (sender, to)
    cluster.run(1500)
    cluster.unbond(leader, gone, BondLoss.DEPARTED)
    cluster.run(300)
    assert voters(cluster, leader) == ["a", "b", "c"]
    cluster.bond(leader, gone)

    assert isinstance(cluster.outcome(cluster.execute(leader, 1), 500), Ok)
