"""A member reports who is missing, and whether waiting can help; one that has stopped leads nobody."""

import pytest

from node.peers import BondLoss
from node.raft.events import QuorumChanged
from node.raft.outlook import Absence, Outlook, Quorum, describe
from node.raft.quorum import Config
from node.raft.state import HaltError
from node.raft.types import Bootstrap, Role
from tests.node.raft.cluster import RaftCluster, inc, three

UNREACHABLE, DEPARTED, RESTARTED, EXPIRED = (
    Absence.UNREACHABLE,
    Absence.DEPARTED,
    Absence.RESTARTED,
    Absence.EXPIRED,
)


def seen(cluster, name):
    outlook = cluster.nodes[name].outlook()
    return outlook.quorum, {one.voter.name: one.why for one in outlook.absent}


def told(cluster, name):
    return [n.outlook.quorum for n in cluster.notices[name] if isinstance(n, QuorumChanged)]


def test_with_a_leader_there_is_a_quorum_and_the_leader_names_the_missing_voters():
    cluster = three()
    leader, (first, second) = cluster.leader(), cluster.followers()
    assert seen(cluster, leader) == seen(cluster, first) == (Quorum.HELD, {})

    cluster.kill(second)
    cluster.run(1500)
    assert seen(cluster, leader) == (Quorum.HELD, {second: UNREACHABLE})
    assert seen(cluster, first) == (Quorum.HELD, {})
    assert told(cluster, leader) == told(cluster, first) == []


def test_voters_that_only_cannot_be_reached_may_come_back():
    cluster = three()
    leader, followers = cluster.leader(), cluster.followers()
    cluster.isolate(leader)
    cluster.run(3000)

    assert seen(cluster, leader) == (Quorum.LOST, dict.fromkeys(followers, UNREACHABLE))
    assert cluster.nodes[leader].outlook().waiting_helps
    assert told(cluster, leader) == [Quorum.LOST]
    cluster.heal()
    cluster.run(3000)
    assert seen(cluster, leader)[0] is Quorum.HELD
    assert told(cluster, leader) == [Quorum.LOST, Quorum.HELD]


def test_a_quorum_that_departed_is_gone_for_good_and_waiting_does_not_help():
    cluster = three()
    leader, followers = cluster.leader(), cluster.followers()
    cluster.isolate(leader, loss=BondLoss.DEPARTED)
    cluster.run(3000)

    assert seen(cluster, leader) == (Quorum.GONE, dict.fromkeys(followers, DEPARTED))
    assert not cluster.nodes[leader].outlook().waiting_helps
    text = describe(cluster.nodes[leader].outlook())
    assert all(f"{name} (departed)" in text for name in followers)
    assert "waiting does not help" in text


def test_voters_whose_nodes_are_back_as_other_incarnations_are_gone_for_good():
    cluster = three()
    leader, followers = cluster.leader(), cluster.followers()
    for name in followers:
        cluster.kill(name)
    cluster.run(2000)
    assert seen(cluster, leader)[0] is Quorum.LOST
    for name in followers:
        cluster.add(name, bootstrap=Bootstrap.JOIN, life=1)
    cluster.run(3000)

    assert seen(cluster, leader) == (Quorum.GONE, dict.fromkeys(followers, RESTARTED))
    # They know the same as soon as they have a configuration; before that they know nothing.
    assert {seen(cluster, name)[0] for name in followers} <= {Quorum.GONE, Quorum.UNKNOWN}
    # It stays known when they leave again.
    for name in followers:
        cluster.kill(name)
    cluster.run(2000)
    assert seen(cluster, leader) == (Quorum.GONE, dict.fromkeys(followers, RESTARTED))
    assert told(cluster, leader) == [Quorum.LOST, Quorum.LOST, Quorum.GONE] or told(cluster, leader) == [
        Quorum.LOST,
        Quorum.GONE,
    ]


def test_one_that_may_come_back_is_enough_to_wait_for_if_it_makes_the_quorum():
    cluster = three()
    leader, (first, second) = cluster.leader(), cluster.followers()
    cluster.unbond(leader, first, BondLoss.DEPARTED)
    cluster.unbond(leader, second, BondLoss.EXPIRED)
    cluster.unbond(first, second)
    cluster.run(3000)

    assert seen(cluster, leader) == (Quorum.LOST, {first: DEPARTED, second: EXPIRED})


def test_a_voter_with_a_disk_that_departed_may_be_started_again():
    cluster = three(trust_disk=True)
    leader, followers = cluster.leader(), cluster.followers()
    cluster.isolate(leader, loss=BondLoss.DEPARTED)
    cluster.run(3000)

    assert seen(cluster, leader) == (Quorum.LOST, dict.fromkeys(followers, DEPARTED))


def test_one_of_two_voters_that_leads_alone_reports_that_it_commits_nothing():
    """It is a quorum by the tie, online and ready; commands looked like "try again" for ever."""
    cluster = three()
    tie, (first, second) = cluster.leader(), cluster.followers()
    cluster.kill(second)
    cluster.run_until(lambda: len(cluster.nodes[tie].tenure.active[0].voters) == 2)
    cluster.kill(first)
    cluster.run(4000)

    assert cluster.nodes[tie].role is Role.LEADER
    assert cluster.nodes[tie].status().online
    assert seen(cluster, tie)[0] is Quorum.SHORT
    assert told(cluster, tie)[-1] is Quorum.SHORT
    cluster.add("d", bootstrap=Bootstrap.JOIN)
    cluster.run(3000)
    assert seen(cluster, tie)[0] is Quorum.HELD
    assert told(cluster, tie)[-1] is Quorum.HELD


def test_a_member_that_enters_knows_no_quorum_yet():
    cluster = RaftCluster()
    cluster.add("a", bootstrap=Bootstrap.JOIN)

    assert cluster.nodes["a"].outlook() == Outlook(Quorum.UNKNOWN)


def test_every_active_configuration_must_have_its_quorum():
    cluster = three()
    leader, (first, _) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    cluster.isolate(leader)
    cluster.bond(leader, first)
    cluster.drop = lambda sender, to, message: True
    cluster.run(2000)
    assert seen(cluster, leader)[0] is Quorum.ELECTING

    voters = tuple(sorted((node.me, inc("x"), inc("y"))))
    node.tenure.configs.append(
        (node.log.last().index + 1, Config(epoch=9, voters=voters, tie=None, reason="test"))
    )
    node._refresh_active()
    assert seen(cluster, leader)[0] is Quorum.LOST
    assert {"x", "y"} <= set(seen(cluster, leader)[1])


# ---- who has stopped ---------------------------------------------------------------
def test_a_halted_leader_no_longer_leads():
    cluster = three()
    name = cluster.leader()
    node = cluster.nodes[name]
    assert node.status().role is Role.LEADER

    def broken():
        raise HaltError("log-divergence")

    node._settle = broken
    cluster.step(name)
    status = node.status()

    assert status.halted == "log-divergence"
    assert status.role is Role.FOLLOWER
    assert status.leader is None
    assert not status.online
    assert status.match == {}
    assert node.outlook() == Outlook(Quorum.UNKNOWN)


@pytest.mark.parametrize("quorum", Quorum)
def test_every_outlook_has_a_sentence(quorum):
    assert describe(Outlook(quorum))
