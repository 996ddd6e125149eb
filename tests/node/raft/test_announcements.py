"""Who waits for the news of a commit gets it at once; for nobody else it has to hurry."""

from node.raft.messages import Append
from node.raft.types import Bootstrap
from tests.node.raft.cluster import three


def announcements(cluster, leader):
    """Record every empty Append of the leader from now on: whether it may wait."""
    seen = []
    plain_step = cluster.step

    def step(name, *events):
        effects = plain_step(name, *events)
        if name == leader:
            seen.extend(
                send.lazy
                for send in effects.sends
                if isinstance(send.message, Append) and not send.message.entries
            )
        return effects

    cluster.step = step
    return seen


def test_news_of_the_leaders_own_commands_may_wait():
    cluster = three()
    seen = announcements(cluster, cluster.leader())
    cluster.execute(cluster.leader(), 5)
    cluster.deliver()

    assert seen == [True]


def test_news_of_a_forwarded_command_may_not_wait():
    cluster = three()
    seen = announcements(cluster, cluster.leader())
    cluster.execute(cluster.followers()[0], 5)
    cluster.deliver()

    assert seen == [False]


def test_a_read_round_may_not_wait():
    cluster = three()
    seen = announcements(cluster, cluster.leader())
    cluster.query(cluster.leader())
    cluster.deliver()

    assert seen == [False]


def test_news_of_a_configuration_may_not_wait():
    """A voter that does not know of its commit needs a quorum of the Cfg before it too."""
    cluster = three()
    seen = announcements(cluster, cluster.leader())
    cluster.add("d", bootstrap=Bootstrap.JOIN)
    cluster.run_until(lambda: len(cluster.nodes[cluster.leader()].members) == 4)
    cluster.deliver()

    assert seen
    assert not any(seen)
