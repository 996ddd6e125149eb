"""A survivor founds a new generation: only if it may, from the position that was named, never beside a living group."""

from functools import partial

import pytest

from node.raft.events import Halted, Recover
from node.raft.member import Member
from node.raft.messages import Alive
from node.raft.recovering import PATIENCE, PREDECESSOR_LIVES
from node.raft.succession import INDEX_JUMP, generation_of
from node.raft.types import Bootstrap, Ok, Role
from tests.node.raft.cluster import RaftCluster

YES = b"signed"


class Permits:
    """The group's authority, which signs with one word."""

    def __init__(self):
        self.asked = []

    def permits(self, statement, approval):
        self.asked.append(statement)
        return approval == YES


def group(names="abc", **overrides):
    """Founders that permit a survivor to recover, with a leader and some writes."""
    cluster = RaftCluster(member=partial(Member, recovery=Permits()), **overrides)
    for name in names:
        cluster.add(name, expect=len(names))
    cluster.elect()
    cluster.run(300)
    for number in (1, 2, 3):
        cluster.execute(cluster.leader(), number, key=b"k%d" % number)
    cluster.run(300)
    return cluster


def wait(cluster):
    cluster.run((PATIENCE + 2) * cluster.settings.election_timeout_ms)


def alone(cluster, survivor="a"):
    """Kill all but ``survivor``, and wait until it may recover."""
    for name in list(cluster.nodes):
        if name != survivor:
            cluster.kill(name)
    wait(cluster)
    return cluster.nodes[survivor]


def recover(cluster, name, *, position=None, approval=YES):
    cluster.tokens += 1
    node = cluster.nodes[name]
    cluster.step(name, Recover(cluster.tokens, position or node.log.last(), approval))
    return cluster.outcomes[name, cluster.tokens]


def test_state_sessions_and_keys_survive_and_what_was_executed_is_not_executed_again():
    cluster = group()
    node = alone(cluster)
    before, cluster_id = node.log.last(), node.cluster
    outcome = recover(cluster, "a")
    cluster.run(500)

    assert outcome == Ok((), outcome.at)
    assert outcome.at.index == before.index + INDEX_JUMP + 1
    assert node.cluster not in (None, cluster_id)
    assert node.role is Role.LEADER
    assert generation_of(node.term) == node.held_generation == 1
    assert node.replica.machine.value == 6
    ticket = cluster.execute("a", 3, key=b"k3")  # a repetition
    cluster.run(300)
    assert node.replica.machine.value == 6
    assert cluster.outcomes[ticket].at.index <= before.index
    cluster.execute("a", 10)
    cluster.run(300)
    assert node.replica.machine.value == 16


def test_what_its_log_holds_and_nobody_announced_as_committed_is_kept():
    cluster = group()
    leader = cluster.leader()
    survivor = cluster.followers()[0]
    node = cluster.nodes[survivor]
    cluster.drop = lambda sender, to, message: to == survivor and getattr(message, "entries", None) == ()
    ticket = cluster.execute(leader, 100)
    cluster.deliver()
    assert isinstance(cluster.outcomes[ticket], Ok)
    assert node.commit < node.log.last().index
    alone(cluster, survivor)
    recover(cluster, survivor)
    cluster.run(500)

    assert node.replica.machine.value == 106


def test_fresh_nodes_join_the_new_generation_by_a_snapshot_and_vote():
    cluster = group()
    node = alone(cluster)
    recover(cluster, "a")
    for name in "bc":
        cluster.add(name, Bootstrap.JOIN, life=1)
    cluster.run(3000)

    assert cluster.values() == {"a": 6, "b": 6, "c": 6}
    assert {voter.name for voter in node.members} == {"a", "b", "c"}
    assert {one.held_generation for one in cluster.nodes.values()} == {1}
    cluster.kill("a")
    cluster.elect()
    cluster.execute(cluster.leader(), 1)
    cluster.run(500)
    assert set(cluster.values().values()) == {7}


@pytest.mark.parametrize("bootstrap", [Bootstrap.JOIN, Bootstrap.EXPECT])
def test_nodes_that_came_back_before_the_recovery_follow_the_survivor_once_they_are_restarted(bootstrap):
    """Those that found no leader hold nothing, or the old genesis: they stay in that cluster while they live."""
    cluster = group()
    for life in (1, 2):
        for name in "bc":
            cluster.kill(name)
        cluster.run(3000)
        for name in "bc":
            cluster.add(name, bootstrap, life=life)
        wait(cluster)
        if life == 1:
            assert isinstance(recover(cluster, "a"), Ok)
    cluster.run(4000)

    assert cluster.values() == {"a": 6, "b": 6, "c": 6}
    assert {voter.name for voter in cluster.nodes["a"].members} == {"a", "b", "c"}


def test_a_second_recovery_is_another_generation():
    cluster = group()
    alone(cluster)
    recover(cluster, "a")
    for name in "bc":
        cluster.add(name, Bootstrap.JOIN, life=1)
    cluster.run(3000)
    node = alone(cluster, "b")
    first = node.cluster
    assert isinstance(recover(cluster, "b"), Ok)
    cluster.run(500)

    assert node.held_generation == 2
    assert node.cluster != first
    assert node.replica.machine.value == 6


def test_a_partition_that_was_taken_for_a_loss_the_successor_halts_when_it_meets_the_living_quorum():
    cluster = group()
    survivor, *others = sorted(cluster.nodes)
    for other in others:
        cluster.unbond(survivor, other)
    wait(cluster)
    assert isinstance(recover(cluster, survivor), Ok)
    cluster.run(500)
    lost = cluster.execute(survivor, 1000)
    kept = cluster.execute(cluster.nodes[others[0]].leader.name, 10)
    cluster.run(500)
    assert isinstance(cluster.outcomes[kept], Ok)
    cluster.bond(survivor, others[0])
    cluster.run(2000)

    assert cluster.nodes[survivor].halted == PREDECESSOR_LIVES
    assert Halted(PREDECESSOR_LIVES) in cluster.notices[survivor]
    assert isinstance(cluster.outcomes[lost], Ok)  # what an accepted recovery can cost
    for other in others:
        assert cluster.nodes[other].halted is None
        assert cluster.nodes[other].replica.machine.value == 16
    assert cluster.nodes[others[0]].leader.name in others


def test_another_survivor_without_a_leader_halts_nobody_and_is_not_halted():
    cluster = group("abcde")
    for name in "cde":
        cluster.kill(name)
    wait(cluster)
    recover(cluster, "a")
    cluster.run(3000)

    assert cluster.nodes["a"].halted is None
    assert cluster.nodes["a"].role is Role.LEADER
    assert cluster.nodes["b"].halted is None
    assert cluster.nodes["b"].cluster != cluster.nodes["a"].cluster


def test_only_one_of_two_survivors_recovers_where_they_see_each_other():
    cluster = group("abcde")
    for name in "cde":
        cluster.kill(name)
    wait(cluster)
    recover(cluster, "a")
    cluster.run(1000)

    assert recover(cluster, "b").reason == "another-cluster-is-here"


def test_alive_counts_against_the_cluster_that_it_names_alone():
    cluster = group()
    node = alone(cluster)
    old = node.cluster
    recover(cluster, "a")
    node._on_alive(Alive(old, bytes(32)))
    node._on_alive(Alive(bytes(32), node.cluster))
    assert node.halted is None


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"approval": b""}, "approval-refused"),
        ({"approval": b"forged"}, "approval-refused"),
        ({"position": "old"}, "position-differs"),
    ],
)
def test_what_the_operator_must_repeat_is_compared(how, reason):
    cluster = group()
    node = alone(cluster)
    last = node.log.last()
    if how.get("position"):
        how = {"position": last._replace(index=last.index - 1)}

    assert recover(cluster, "a", **how).reason == reason
    assert node.log.last() == last
    assert node.held_generation == 0


def test_without_permission_in_the_group_document_nothing_recovers():
    cluster = RaftCluster()
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    alone(cluster)

    assert recover(cluster, "a").reason == "recovery-not-authorized"


def test_a_group_that_lives_or_lived_a_moment_ago_is_not_recovered():
    cluster = group()
    leader, follower = cluster.leader(), cluster.followers()[0]
    assert recover(cluster, leader).reason == "group-is-alive"
    assert recover(cluster, follower).reason == "group-is-alive"
    for name in list(cluster.nodes):
        if name != follower:
            cluster.kill(name)
    cluster.run(2 * cluster.settings.election_timeout_ms)
    assert recover(cluster, follower).reason == "group-is-alive"


def test_with_trust_disk_the_voters_come_back_and_nobody_recovers():
    cluster = group(trust_disk=True)
    alone(cluster)

    assert recover(cluster, "a").reason == "recovery-needs-no-survivor"


def test_a_learner_is_no_survivor():
    cluster = group(max_voters=3)
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(1000)
    alone(cluster, "d")

    assert recover(cluster, "d").reason == "not-a-voter"


def test_a_successor_that_the_group_does_not_permit_is_entered_by_nobody():
    cluster = group()
    node = alone(cluster)
    recover(cluster, "a")
    cluster.run(500)
    genesis = node.replica.genesis
    stranger = RaftCluster(seed=2).add("x", bond=False)

    assert node._is_genesis(genesis)
    assert not stranger._is_genesis(genesis)


def test_whoever_joined_the_successor_halts_too_when_the_predecessor_lives():
    """Its founder is gone, and two that joined it are a quorum: they went on beside the living one for ever."""
    cluster = group("abcde")
    survivor, *others = sorted(cluster.nodes)
    for other in others:
        cluster.unbond(survivor, other)
    wait(cluster)
    assert isinstance(recover(cluster, survivor), Ok)
    for name in "xy":
        cluster.add(name, Bootstrap.JOIN, bond=False)
        cluster.bond(survivor, name)
    cluster.bond("x", "y")
    cluster.run_until(lambda: len(cluster.nodes["x"].members) == 3, 10_000)
    cluster.kill(survivor)
    cluster.run_until(lambda: Role.LEADER in {cluster.nodes["x"].role, cluster.nodes["y"].role}, 10_000)
    for name in "xy":
        cluster.bond(name, others[0])
    cluster.run(3000)

    assert {cluster.nodes[name].halted for name in "xy"} == {PREDECESSOR_LIVES}
    assert {cluster.nodes[other].halted for other in others} == {None}
