"""Found on real processes: under steady writes no heartbeat was ever due, and what hung on it never happened."""

from node.raft.events import Tick
from node.raft.types import Bootstrap, Role
from tests.node.raft.cluster import three


def write_steadily(cluster, leader, ms, stride=20):
    """One write every ``stride`` ms: far more often than a heartbeat falls due."""
    for _ in range(ms // stride):
        if cluster.nodes[leader].role is Role.LEADER:
            cluster.execute(leader, 1)
        cluster.run(stride)


def test_a_learner_is_promoted_under_steady_writes():
    cluster = three()
    leader = cluster.elect()
    cluster.add("d", bootstrap=Bootstrap.JOIN)
    write_steadily(cluster, leader, 2000)

    assert "d" in {voter.name for voter in cluster.nodes[leader].members}


def test_a_voter_without_answers_is_demoted_under_steady_writes():
    cluster = three()
    leader = cluster.elect()
    silent = next(name for name in cluster.nodes if name != leader)
    cluster.kill(silent)
    write_steadily(cluster, leader, cluster.settings.demote_after_ms + 500)

    assert silent not in {voter.name for voter in cluster.nodes[leader].members}


def test_a_leader_without_a_quorum_steps_down_under_steady_writes():
    cluster = three()
    leader = cluster.elect()
    cluster.drop = lambda sender, to, message: True
    write_steadily(cluster, leader, cluster.settings.election_timeout_ms + 500)
    cluster.step(leader, Tick())

    assert cluster.nodes[leader].role is not Role.LEADER
