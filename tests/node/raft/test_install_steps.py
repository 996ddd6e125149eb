"""No step of an install is long, however large the state: counted in rows and bytes, so that no clock decides."""

import pytest

from node.machines.base import ApplyContext
from node.machines.collections.machine import CollectionsMachine
from node.machines.collections.thawing import ThawingRows
from node.machines.kv.frozen_older import ROWS_MAX
from node.machines.kv.machine import KeyValue, ThawingStore
from node.raft.events import SnapshotTaken
from node.raft.install import LOADED_BYTES, LOADED_FRAMES
from node.raft.types import Bootstrap
from node.sync.freeing import Freeing
from node.sync.image import Cutter
from node.sync.keeper import SLICE_BYTES
from tests.node.raft.cluster import RaftCluster
from tests.node.raft.test_snapshots import notices

COUNT = 30_000
FRAME_BYTES_MAX = 70 * 1024


def context(index):
    return ApplyContext(1, index, 0, index, bytes(32))


def store():
    machine = KeyValue()
    for number in range(COUNT):
        machine.apply({"op": "put", "key": f"k{number:06}", "value": "v"}, context(number + 1))
    return machine


def queue():
    machine = CollectionsMachine()
    machine.apply({"op": "declare", "name": "q", "kind": "queue"}, context(1))
    for start in range(0, COUNT, 1000):
        keys = [f"k{number:06}" for number in range(start, start + 1000)]
        command = {"op": "queue-push", "name": "q", "keys": keys, "values": keys}
        command["priorities"] = [number * 7919 % 1009 for number in range(start, start + 1000)]
        machine.apply(command, context(start + 2))
    return machine


class Counted:
    """Counts what the steps of one member do."""

    def __init__(self, monkeypatch):
        self.now = {}
        self.most = {}
        for cls in (ThawingStore, ThawingRows):
            monkeypatch.setattr(cls, "take", self._counting(cls.take, "rows", self._rows))
        monkeypatch.setattr(Cutter, "add", self._counting(Cutter.add, "cut", len))

    @staticmethod
    def _rows(item):
        return len(item[1]) if item[0] in ("live", "past") else len(item)

    def _counting(self, method, name, cost):
        def counted(this, what):
            self.now[name] = self.now.get(name, 0) + cost(what)
            return method(this, what)

        return counted

    def watch(self, node):
        step_many = node.step_many

        def watched(*args, **options):
            self.now = {}
            effects = step_many(*args, **options)
            for name, count in self.now.items():
                self.most[name] = max(self.most.get(name, 0), count)
            return effects

        node.step_many = watched


@pytest.mark.parametrize("make", [store, queue])
def test_a_snapshot_is_made_compared_and_loaded_in_steps_of_bounded_work(make, monkeypatch):
    counted = Counted(monkeypatch)
    cluster = RaftCluster(snapshot_ms=10_000, log_keep_bytes=0, log_keep_ms=0)
    for name in "abc":
        counted.watch(cluster.add(name, machine=make()))
    cluster.run_until(lambda: all(node.log.base.index for node in cluster.nodes.values()), 60_000)
    assert 0 < counted.most["cut"] <= SLICE_BYTES + FRAME_BYTES_MAX

    node = cluster.add("d", Bootstrap.JOIN, machine=type(make())())
    counted.watch(node)
    counted.most.clear()
    cluster.run_until(lambda: any(taken.fetched for taken in notices(cluster, "d", SnapshotTaken)), 60_000)
    assert node.replica.machine.snapshot() == cluster.nodes["a"].replica.machine.snapshot()
    assert 0 < counted.most["cut"] <= LOADED_BYTES + cluster.settings.snapshot_chunk_bytes
    assert 0 < counted.most["rows"] <= LOADED_FRAMES * ROWS_MAX


def test_a_large_state_that_is_replaced_is_freed_in_steps_of_bounded_work(monkeypatch):
    """The member had a state of its own, of many keys, when it takes that of the group."""
    cluster = RaftCluster(snapshot_ms=10_000, log_keep_bytes=0, log_keep_ms=0)
    for name in "abc":
        cluster.add(name, machine=KeyValue())
    cluster.run_until(lambda: all(node.log.base.index for node in cluster.nodes.values()), 60_000)

    node = cluster.add("d", Bootstrap.JOIN, machine=store())
    took = []
    work = Freeing.work

    def counting(freeing):
        took.append(1)
        work(freeing)

    monkeypatch.setattr(Freeing, "work", counting)
    cluster.run_until(lambda: any(taken.fetched for taken in notices(cluster, "d", SnapshotTaken)), 60_000)
    assert node.replica.machine.snapshot() == cluster.nodes["a"].replica.machine.snapshot()
    cluster.run_until(lambda: not node.freeing.is_waiting, 60_000)
    assert len(took) > COUNT // 1024
