"""Leadership transfer (3.4): to whom, when the target is asked to stand, and what waits meanwhile."""

import pytest

from node.peers import BondLoss, Preference
from node.raft.events import Received, Recovered, TransferLeadership
from node.raft.messages import Append, Chunk, TimeoutNow
from node.raft.types import Bootstrap, NotExecuted, Ok, Role, Unknown
from tests.node.raft.cluster import inc, three


def transfer(cluster, target=None):
    """Ask the leader to hand over; return the ticket of that."""
    leader = cluster.leader()
    cluster.tokens += 1
    peer = None if target is None else cluster.nodes[target].me
    cluster.step(leader, TransferLeadership(cluster.tokens, peer))
    return leader, cluster.tokens


def comes_back_as_an_observer(cluster, name):
    """Restart a trust_disk voter as the same incarnation, which wants to lead no more."""
    old = cluster.kill(name)
    entries = old.log.slice(1, old.log.last().index, 10**9)
    recovered = Recovered(old.term, old.voted_for, entries)
    cluster.add(name, preference=Preference.OBSERVER, recovered=recovered)


class Starved:
    """Keeps what is on its way to ``target``, and notes which members are asked to stand at once."""

    def __init__(self, cluster, target):
        self.cluster, self.target = cluster, target
        self.kept = []
        self.told = []
        cluster.drop = self.drop

    def drop(self, sender, to, message):
        if isinstance(message, TimeoutNow):
            self.told.append(to)
        keeps = to == self.target and isinstance(message, Append | Chunk)
        if keeps:
            self.kept.append((sender, to, message))
        return keeps

    def feed(self):
        self.target = None
        self.cluster.wire.extend(self.kept)


def test_leadership_is_transferred_to_the_member_that_is_asked_for():
    cluster = three()
    target = cluster.followers()[1]
    ticket = transfer(cluster, target)
    cluster.run(1000)

    assert cluster.leader() == target
    assert isinstance(cluster.outcomes[ticket], Ok)


def test_a_transfer_that_another_leader_ended_may_not_have_happened():
    cluster = three()
    leader, (target, other) = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: leader in (sender, to)
    ticket = transfer(cluster, target)
    cluster.nodes[target].election_due = 10**9
    cluster.run_until(lambda: cluster.nodes[other].role is Role.LEADER)
    cluster.drop = lambda *_: False
    cluster.run(500)

    assert cluster.outcomes[ticket] == Unknown("transfer-lost")


def test_a_transfer_is_done_when_its_target_leads_and_not_when_it_only_stands():
    cluster = three()
    leader, target = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == leader and isinstance(message, Append)
    ticket = transfer(cluster, target)
    cluster.deliver()
    assert cluster.nodes[leader].role is Role.FOLLOWER
    assert ticket not in cluster.outcomes

    cluster.drop = lambda *_: False
    cluster.run(200)
    assert isinstance(cluster.outcomes[ticket], Ok)


def test_a_transfer_without_a_reported_result_is_of_unknown_outcome():
    cluster = three()
    leader, target = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: to == leader and isinstance(message, Append)
    ticket = transfer(cluster, target)
    cluster.deliver()
    cluster.drop = lambda sender, to, message: leader in (sender, to)
    cluster.run(1100)

    assert cluster.outcomes[ticket] == Unknown("transfer-lost")


def test_leadership_is_not_handed_to_an_observer():
    cluster = three(trust_disk=True)
    leader, (name, _) = cluster.leader(), cluster.followers()
    comes_back_as_an_observer(cluster, name)
    asked = transfer(cluster, name)

    assert cluster.outcomes[asked] == NotExecuted("no-such-voter", cluster.nodes[leader].me)


def test_a_voter_that_comes_back_as_an_observer_is_soon_demoted():
    cluster = three(trust_disk=True)
    leader, (name, other) = cluster.leader(), cluster.followers()
    comes_back_as_an_observer(cluster, name)
    cluster.run(1000)

    assert {voter.name for voter in cluster.nodes[leader].status().voters} == {leader, other}


def test_where_no_voter_may_be_missing_an_observer_is_replaced():
    cluster = three(trust_disk=True, min_voters=3, max_voters=3)
    leader, (name, other) = cluster.leader(), cluster.followers()
    cluster.add("d", Bootstrap.JOIN)
    cluster.run(1000)
    comes_back_as_an_observer(cluster, name)
    cluster.run(1000)

    assert {voter.name for voter in cluster.nodes[leader].status().voters} == {leader, other, "d"}


def test_a_transfer_to_an_unresponsive_member_is_given_up_and_commands_go_on():
    cluster = three()
    leader, target = cluster.leader(), cluster.followers()[1]
    cluster.drop = lambda sender, to, message: target in (sender, to)
    cluster.execute(leader, 1)
    given_up = transfer(cluster, target)
    ticket = cluster.execute(leader, 2)
    cluster.run(1500)

    assert cluster.outcomes[given_up] == NotExecuted("transfer-timeout", cluster.nodes[leader].me)
    assert isinstance(cluster.outcome(ticket), Ok)


def test_a_transfer_whose_target_received_the_request_may_still_happen():
    cluster = three()
    leader, target = cluster.leader(), cluster.followers()[1]
    late = []

    def slow(sender, to, message):
        if isinstance(message, TimeoutNow):
            late.append(message)
        return isinstance(message, TimeoutNow)

    cluster.drop = slow
    ticket = transfer(cluster, target)
    cluster.run(1500)
    assert cluster.outcomes[ticket] == Unknown("transfer-timeout")

    cluster.drop = lambda *_: False
    cluster.step(target, Received(cluster.nodes[leader].me, late[0]))
    cluster.run(300)
    assert cluster.leader() == target


def test_the_target_gets_the_request_to_stand_only_when_it_holds_all_that_the_leader_wrote():
    """Told before, it would be refused every vote, and the group be without a leader for nothing."""
    cluster = three()
    target = cluster.followers()[0]
    starved = Starved(cluster, target)
    cluster.outcome(cluster.execute(cluster.leader(), 7))
    ticket = transfer(cluster, target)
    cluster.run(300)
    assert starved.told == []

    starved.feed()
    cluster.run(300)

    assert starved.told == [target]
    assert cluster.leader() == target
    assert isinstance(cluster.outcomes[ticket], Ok)


def test_an_unresponsive_member_is_not_chosen_as_the_successor_though_it_holds_as_much_and_is_bonded():
    cluster = three()
    # Of equals the largest identity is taken: that one is silent here.
    *_, awake, silent = sorted(cluster.followers(), key=inc)
    cluster.drop = lambda sender, to, message: silent in (sender, to)
    cluster.run(1500)
    node = cluster.nodes[cluster.leader()]
    assert node.tenure.leadership.match[inc(silent)] == node.tenure.leadership.match[inc(awake)]
    assert inc(silent) in node.peers
    ticket = transfer(cluster)
    cluster.run(500)

    assert cluster.leader() == awake
    assert isinstance(cluster.outcomes[ticket], Ok)


def test_no_configuration_is_proposed_while_leadership_is_handed_over():
    """It is one more entry that the target lacks. Who leads afterwards proposes it."""
    cluster = three()
    leader, (target, other) = cluster.leader(), cluster.followers()
    starved = Starved(cluster, target)
    cluster.outcome(cluster.execute(leader, 7))
    ticket = transfer(cluster, target)
    last = cluster.nodes[leader].log.last()
    cluster.isolate(other, BondLoss.DEPARTED)
    cluster.run(500)
    assert cluster.nodes[leader].log.last() == last

    starved.feed()
    cluster.run(1000)

    assert isinstance(cluster.outcomes[ticket], Ok)
    assert cluster.leader() == target
    assert inc(other) not in cluster.nodes[target].members


def test_a_transfer_to_a_member_that_does_not_answer_is_refused():
    cluster = three()
    leader, target = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda sender, to, message: target in (sender, to)
    cluster.run(1500)
    refused = transfer(cluster, target)

    assert cluster.outcomes[refused] == NotExecuted("not-connected", cluster.nodes[leader].me)


@pytest.mark.parametrize("named", [True, False])
def test_a_transfer_to_a_laggard_is_refused_before_commands_wait_for_it(named):
    cluster = three()
    leader, laggards = cluster.leader(), cluster.followers()
    cluster.drop = lambda sender, to, message: (
        isinstance(message, Chunk)
        or (sender == leader and isinstance(message, Append) and bool(message.entries))
    )
    cluster.execute(leader, 7)
    cluster.run(300)
    refused = transfer(cluster, laggards[0]) if named else transfer(cluster)

    assert cluster.outcomes[refused] == NotExecuted("lagging", cluster.nodes[leader].me)
    assert cluster.nodes[leader].tenure.leadership.transfer is None
