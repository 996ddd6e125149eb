"""What becomes of reads whose cluster gives itself up while they wait."""

import pytest

from node.raft.events import Query
from node.raft.reads import Reads
from node.raft.types import Answer, Consistency, Cursor, NotExecuted
from node.simulation.scenario import Scenario

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
