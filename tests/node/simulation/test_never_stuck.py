"""Schedules 26a to 26d of docs/design/consensus.md: a group that could go on does go on.

26e and 26f are ``scenarios/63-stale-grant.txt`` and ``64-undurable-leader.txt``.
"""

import pytest

from node.raft.member import Member
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.scenario import Scenario
from node.simulation.scenario_file import ScenarioError
from tests.node.simulation import ablations


class Group:
    """A group with default settings that A leads; ``options`` are those of a scenario's ``cluster``."""

    def __init__(self, names: str, options: str = "", member: type[Member] = Member) -> None:
        self.scenario = Scenario(member=member)
        self.calls = 0
        self.do(f"cluster {names} {options}")
        self.do("wait leader")
        self.do("transfer a")
        self.do("wait leader a")

    def do(self, command: str) -> list[str]:
        return self.scenario.do(command)

    def at(self, place: str) -> Process:
        process = self.scenario.cluster.process_at(place)
        assert process is not None
        return process

    def write(self, place: str) -> None:
        """Require that a member at ``place`` executes a write within five seconds."""
        self.calls += 1
        self.do(f"put w{self.calls} {place} x={self.calls}")
        self.do("run 5s")
        assert ": ok" in self.do(f"outcome w{self.calls}")[0]

    def until_listed(self, place: str, epoch: int) -> None:
        """Run until the log at ``place`` holds the configuration of ``epoch``, and not a step longer."""
        process = self.at(place)
        for _ in range(100_000):
            if process.view.configs and process.view.configs[-1][1].epoch >= epoch:
                return
            self.do("run 100us")
        raise AssertionError(f"{place} never receives configuration {epoch}")

    def lose_the_leader_that_commits(self, epoch: int, *others: str) -> None:
        """A commits the configuration of ``epoch`` on the ACKs of ``others``, and dies before it announces that."""
        for other in others:
            self.until_listed(other, epoch)
        self.do(f"cut a -> {' '.join(place for place in self.alive() if place != 'a')}")
        self.do("run 2ms")
        assert self.at("a").view.commit >= self.at("a").view.configs[-1][0]
        assert all(self.at(other).view.commit < self.at(other).view.configs[-1][0] for other in others)
        self.do("crash a")

    def alive(self) -> list[str]:
        return [process.place for process in self.scenario.cluster.alive()]


def two_to_three(member: type[Member]) -> Group:
    group = Group("a b c", "founders=a,b", member)
    group.lose_the_leader_that_commits(2, "b")
    return group


def replaced_in_three(member: type[Member]) -> Group:
    group = Group("a b c", member=member)
    group.do("crash c")
    group.do("boot c")
    group.lose_the_leader_that_commits(2, "b")
    return group


def four_to_three(member: type[Member]) -> Group:
    group = Group("a b c d", member=member)
    group.do("crash d")
    group.lose_the_leader_that_commits(2, "b", "c")
    return group


@pytest.mark.parametrize("change", [two_to_three, replaced_in_three, four_to_three])
def test_a_leader_that_commits_a_configuration_and_dies_before_it_says_so_is_replaced(change):
    """Schedule 26a, and rule K."""
    group = change(Member)

    group.do("wait leader within 3s")
    group.write("b")


@pytest.mark.parametrize("change", [two_to_three, replaced_in_three, four_to_three])
def test_without_rule_k_the_living_quorum_of_that_configuration_never_leads(change):
    group = change(ablations.CountsNoClaims)

    with pytest.raises(ScenarioError, match="no leader"):
        group.do("wait leader within 60s")


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
def test_a_rolling_restart_may_go_on_as_soon_as_the_new_incarnation_is_listed(rounds):
    """Schedule 26c: then the leader goes, whether that change is committed or not."""
    group = Group("a b c")
    for round_ in range(rounds):
        leader = group.scenario.cluster.leader()
        assert leader is not None, round_
        epoch = leader.view.configs[-1][1].epoch
        others = [place for place in group.alive() if place != leader.place]
        victim = others[round_ % 2]
        group.do(f"crash {victim}")
        group.do(f"boot {victim}")
        group.until_listed(leader.place, epoch + 1)
        group.do(f"crash {leader.place}")
        group.do(f"boot {leader.place}")
        group.do("wait leader within 5s")
        group.do("run 5s")
    group.write("a")


def demoted_while_its_answers_are_lost(member: type[Member]) -> Group:
    """A demotes D, whose answers are lost; all hold that configuration, and A dies before it announces it."""
    group = Group("a b c d", "reluctant=b,c", member)
    group.do("hold d a AppendReply")
    group.lose_the_leader_that_commits(2, "b", "c", "d")
    group.do("heal")
    group.do("run 3s")
    return group


def test_a_member_that_learns_by_rule_k_that_it_has_no_vote_does_not_stand():
    group = demoted_while_its_answers_are_lost(Member)

    group.do("wait leader but d")
    assert group.at("d").view.term == group.at("b").view.term
    group.write("b")


def test_a_member_without_a_vote_that_stands_all_the_same_leads_a_term_for_nobody():
    with pytest.raises(InvariantError, match="truthful-ack"):
        demoted_while_its_answers_are_lost(ablations.DemotedByClaimsStands)


def all_catch_up_and_the_leader_dies(member: type[Member]) -> Group:
    """B and C lack entries of A's, whose chunks do not come, and A dies."""
    group = Group("a b c", member=member)
    for follower in "bc":
        group.do(f"hold a {follower} Append")
    group.do("put w0 a x=0")
    group.do("run 300ms")
    for follower in "bc":
        group.do(f"discard a {follower}")
        group.do(f"hold a {follower} Chunk")
    group.do("run 200ms")
    assert all(group.at(follower).member.tenure.pull is not None for follower in "bc")
    group.do("crash a")
    return group


class WaitsForALeader(Member):
    """A member that catches up leaves the others ten election timeouts, though its leader is gone."""

    def _may_stand(self) -> bool:
        return self.tenure.pull is None and super()._may_stand()


def test_followers_that_are_all_catching_up_elect_within_two_election_timeouts():
    """Schedule 26d."""
    group = all_catch_up_and_the_leader_dies(Member)

    group.do("wait leader within 2s")
    group.write("b")


def test_followers_that_wait_for_others_to_stand_leave_the_group_without_a_leader():
    group = all_catch_up_and_the_leader_dies(WaitsForALeader)

    with pytest.raises(ScenarioError, match="no leader"):
        group.do("wait leader within 5s")
