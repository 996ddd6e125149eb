"""The follower against state machines without nodes around them: nothing is left out, nothing comes twice."""

import random
from pathlib import Path

import pytest

from node.api import schemas
from node.client.errors import UnreachableError
from node.machines.base import ApplyContext
from node.machines.kv import KeyValue
from tests.chaos.cluster import Node
from tests.chaos.follower import Follower
from tests.chaos.ledger import Change, Ledger


class FakeClient:
    """A node that has applied a prefix of the commands, and knows where it stands."""

    def __init__(self) -> None:
        self.machine = KeyValue()
        self.applied = 0
        self.silent = False

    def apply(self, *commands: dict) -> None:
        for command in commands:
            self.applied += 1
            context = ApplyContext(term=1, index=self.applied, sub=0, time_ms=0, group_id=bytes(32))
            self.machine.apply(command, context)

    def query(self, query: dict, *, consistency: str, min_at: schemas.At | None) -> schemas.QueryResult:
        assert consistency == "weak"
        if self.silent or (min_at is not None and min_at.index > self.applied):
            raise UnreachableError("behind")
        at = schemas.At(term=1, index=self.applied)
        return schemas.QueryResult(result=self.machine.query(query), at=at, age_ms=0)

    def close(self) -> None:
        pass


class FakeCluster:
    def __init__(self, count: int) -> None:
        self.nodes = [Node(number, Path(), "", "") for number in range(count)]
        self.clients = [FakeClient() for _ in self.nodes]

    def client(self, node: Node, **_times: float) -> FakeClient:
        return self.clients[node.number]


def put(key: str, value: str) -> dict:
    return {"op": "put", "key": key, "value": value}


def delete(key: str) -> dict:
    return {"op": "delete", "key": key}


@pytest.fixture
def cluster():
    return FakeCluster(2)


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def follower(cluster, ledger):
    return Follower(cluster, ledger, random.Random(1))


def test_every_change_between_two_looks_is_found(cluster, ledger, follower):
    cluster.clients[0].apply(
        put("a", "1"), put("a", "2"), put("b", "3"), delete("a"), put("a", "4"), delete("b"), delete("none"),
        put("a", "5"),
    )  # fmt: skip
    assert follower.step(cluster.nodes[0])
    assert [ledger.changes[revision] for revision in range(2, 9)] == [
        Change("a", "1", 1),
        Change("a", "2", 2),
        Change("b", "3", 1),
        Change("a", None, 0),
        Change("a", "4", 1),
        Change("b", None, 0),
        Change("a", "5", 2),
    ]
    assert sorted(ledger.changes) == list(range(2, 9))
    assert ledger.sights == [("node-0", 8, {"a": ("5", 2, 8)})]


def test_it_goes_on_at_another_node_where_it_stood(cluster, ledger, follower):
    for client in cluster.clients:
        client.apply(put("a", "1"))
    assert follower.step(cluster.nodes[0])
    cluster.clients[0].silent = True
    cluster.clients[1].apply(put("a", "2"), put("b", "3"))
    assert not follower.step(cluster.nodes[0])
    assert follower.step(cluster.nodes[1])
    assert sorted(ledger.changes) == [2, 3, 4]


def test_it_takes_nothing_from_a_node_that_is_behind_it(cluster, ledger, follower):
    cluster.clients[0].apply(put("a", "1"))
    assert follower.step(cluster.nodes[0])
    assert not follower.step(cluster.nodes[1])
    assert [node for node, _, _ in ledger.sights] == ["node-0"]


def test_it_reports_a_node_whose_state_goes_back(cluster, follower):
    cluster.clients[0].apply(put("a", "1"), put("a", "2"))
    assert follower.step(cluster.nodes[0])
    cluster.clients[0].machine = KeyValue()  # and yet it reports that it has applied as much
    with pytest.raises(AssertionError, match="as of revision 1, though 3 was known"):
        follower.step(cluster.nodes[0])


def test_a_store_of_many_pages_is_taken_whole(cluster, ledger, follower):
    cluster.clients[0].apply(*(put(f"k{number:05d}", str(number)) for number in range(2500)))
    assert follower.step(cluster.nodes[0])
    assert sorted(ledger.changes) == list(range(2, 2502))
