"""What becomes of what a member waits for, or has found, when its cluster gives itself up."""

import pytest

from node.raft.events import Query, TransferLeadership
from node.raft.member import Member
from node.raft.reads import Reads
from node.raft.types import Answer, Consistency, Cursor, NotExecuted, Role
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.scenario import Scenario
from tests.node.simulation import ablations

FAR = 40  # further than the log of the cluster that goes on will reach
TOKEN = 1 << 50


def read_confirmed_in_a_cluster_that_ends(min_at=None):
    """Return what a strong read is answered that E, when its cluster was still one, knew to be of index 40."""
    scenario = Scenario()
    for command in (
        "cluster a b d e bootstrap=auto rivals=true cut=d,e",
        "run 8s",
        "put w1 a x=1",
        "run 500ms",
        "cut e | a b d",
    ):
        scenario.do(command)
    process = scenario.cluster.process_at("e")
    told: list[object] = []
    process.ask(TOKEN, Query(TOKEN, {"key": "x"}, Consistency.STRONG, min_at), told.append)
    reads = process.member.reads
    reads.settled.append((FAR, reads.round.queries.pop()))
    for command in ("mend a b | d", "mend d | e", "heal", "wait voters a b d e", "run 2s"):
        scenario.do(command)
    assert process.log.last().index < FAR
    return told


def test_a_read_confirmed_in_a_cluster_that_ended_is_asked_again_in_the_next():
    (answer,) = read_confirmed_in_a_cluster_that_ends()

    assert isinstance(answer, Answer)
    assert answer.value == "1"


def test_without_that_it_waits_for_an_index_of_another_log(monkeypatch):
    monkeypatch.setattr(Reads, "ask_again", lambda _: None)

    assert read_confirmed_in_a_cluster_that_ends() == []


@pytest.mark.parametrize("min_at", [Cursor(2, FAR)])
def test_a_cursor_of_a_cluster_that_ended_is_superseded(min_at):
    (refusal,) = read_confirmed_in_a_cluster_that_ends(min_at)

    assert refusal == NotExecuted("superseded", None)


def missed_the_end_of_its_cluster(*, restarts):
    """B learns from A, is cut off, and does not learn that A gave its cluster up for C's."""
    scenario = Scenario()
    for command in (
        "cluster a b c bootstrap=auto trust_disk=true rivals=true observer=b cut=c",
        "run 8s",
        "put w1 c x=1",
        "run 500ms",
        "cut b | a c",
        "mend a b | c",
        "cut b | a c",
        "wait voters a c",
        *(("crash a", "boot a") if restarts else ()),
        "heal",
    ):
        scenario.do(command)
    recovers = scenario.cluster.can_recover()
    scenario.do("run 20s")
    return recovers, len({process.member.cluster for process in scenario.cluster.alive()})


@pytest.mark.parametrize("restarts", [False, True])
def test_a_member_that_missed_the_end_of_its_cluster_is_informed_by_one_that_acknowledged_it(restarts):
    assert missed_the_end_of_its_cluster(restarts=restarts) == (True, 1)


class TwoClusters:
    """A and B found one cluster; D, E and F found the other, whose log becomes longer."""

    def __init__(self, member: type[Member]) -> None:
        self.scenario = Scenario(member=member)
        self.do("cluster a b d e f bootstrap=auto rivals=true cut=d,e,f", "run 8s")

    def do(self, *commands: str) -> None:
        for command in commands:
            self.scenario.do(command)

    def at(self, place: str) -> Process:
        process = self.scenario.cluster.process_at(place)
        assert process is not None
        return process

    def hand_over(self, target: str) -> None:
        """Request that the leader of the other cluster hands over, and run until ``target`` leads."""
        for process in map(self.at, "def"):
            process.ask(TOKEN, TransferLeadership(TOKEN, self.at(target).inc), lambda _: None)
        for _ in range(1000):
            if self.at(target).view.role is Role.LEADER:
                return
            self.do("run 100us")
        raise AssertionError(f"{target} never leads")

    def until_written(self, index: int, *places: str) -> None:
        for _ in range(1000):
            if all(self.at(place).log.last().index >= index for place in places):
                return
            self.do("run 100us")
        raise AssertionError(f"not all of {places} receive {index}")


def leads_after_it_counted_claims_in_a_cluster_that_ended(member: type[Member]) -> TwoClusters:
    """E counts claims about a far index, its cluster ends, and in the next it wins with an entry that few hold."""
    group = TwoClusters(member)
    for target in "de" * 12:
        group.hand_over(target)
        group.do("run 100ms")
    group.hand_over("d")
    first_own = group.at("d").log.last().index
    group.until_written(first_own, "e", "f")
    assert max(group.at(place).view.commit for place in "ef") < first_own
    group.do("crash d", "put w1 a x=1", "run 5s")
    assert group.at("e").view.role is Role.LEADER

    group.do("heal", "boot d", "wait voters a b d e f within 60s", "run 5s", "transfer a", "wait leader a")
    group.do("run 1s", *(f"hold a {place} Append" for place in "bdf"), "put w2 a x=2")
    index = group.at("a").log.last().index
    assert index < first_own
    group.until_written(index, "e")
    group.do("transfer e", "run 50ms")
    return group


def test_a_member_takes_nothing_that_it_found_by_rule_k_into_the_next_cluster():
    group = leads_after_it_counted_claims_in_a_cluster_that_ended(Member)

    assert group.at("e").view.role is Role.LEADER
    group.do("heal", "wait settled")
    assert group.scenario.do("outcome w2") == ["w2: ok, was 1"]


def test_otherwise_it_commits_there_what_no_quorum_holds():
    with pytest.raises(InvariantError, match="own-term-commit"):
        leads_after_it_counted_claims_in_a_cluster_that_ended(ablations.KeepsClaims)
