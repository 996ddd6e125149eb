"""The whole member: any message in any role, any order; determinism; status."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.peers import BondLoss, Preference
from node.raft.events import BondDown, Received, Tick
from node.raft.types import Bootstrap, EntryKind, Role
from tests.node.raft.cluster import RaftCluster, three
from tests.node.raft.test_wire import KINDS, strategy


def in_role(role):
    """A member in this role, and the name of a bonded peer."""
    cluster = three()
    match role:
        case Role.LEADER:
            name = cluster.leader()
        case Role.FOLLOWER:
            name = cluster.followers()[0]
        case Role.LEARNER:
            name = "o"
            cluster.add(name, Bootstrap.JOIN, preference=Preference.OBSERVER)
            cluster.run(1000)
        case _:
            name = cluster.followers()[0]
            cluster.drop = lambda *_: True
            cluster.run_until(lambda: cluster.nodes[name].role is Role.PRE_CANDIDATE)
            if role is Role.CANDIDATE:
                cluster.nodes[name]._campaign(transfer=False)
    assert cluster.nodes[name].shown_role is role
    peer = next(n for n in "abc" if n != name)
    return cluster, name, peer


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_no_message_in_any_role_breaks_a_member(role, kind, data):
    cluster, name, peer = prepared(role)
    node = cluster.nodes[name]
    message = data.draw(strategy(kind))
    if hasattr(message, "cluster") and data.draw(st.booleans()):
        message = type(message)(
            **{f: getattr(message, f) for f in type(message).__slots__} | {"cluster": node.cluster}
        )
    term, commit = node.term, node.commit
    cluster.step(name, Received(cluster.nodes[peer].me, message))
    cluster.step(name, Tick())

    assert node.halted is not None or (node.term >= term and node.commit >= commit)


_PREPARED = {}


def prepared(role):
    """A fresh cluster only if the last one was halted or changed its role: elections cost time."""
    known = _PREPARED.get(role)
    if known is not None:
        cluster, name, _ = known
        node = cluster.nodes[name]
        if node.halted is None and node.shown_role is role:
            return known
    _PREPARED[role] = in_role(role)
    return _PREPARED[role]


def trace(seed):
    """A digest of everything that a small life of a cluster sends and does."""
    digest = hashlib.sha256()

    class Traced(RaftCluster):
        def step(self, name, *events):
            effects = super().step(name, *events)
            digest.update(repr((self.now, name, effects)).encode())
            return effects

    cluster = Traced(seed=seed)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    for i in range(20):
        cluster.execute("abc"[i % 3], i)
    cluster.run(1000)
    cluster.kill(cluster.leader())
    cluster.add("d", Bootstrap.JOIN)
    cluster.add("e", Bootstrap.JOIN)
    cluster.run(8000)
    return digest.hexdigest()


def test_equal_members_stepped_equally_have_equal_effects_under_every_hash_seed():
    root = Path(__file__).parents[3]
    code = "from tests.node.raft.test_member import trace; print(trace(3))"
    told = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=root,
            check=True,
        )
        told.add(done.stdout)

    assert len(told) == 1


def test_status_reports_the_state():
    cluster = three()
    cluster.outcome(cluster.execute("a", 1))
    cluster.run(300)
    leader = cluster.leader()
    status = cluster.nodes[leader].status()

    assert status.role is Role.LEADER
    assert status.online
    assert status.commit == status.last
    assert status.applied == status.commit.index
    assert {v.name for v in status.voters} == {"a", "b", "c"}
    assert set(status.match.values()) == {status.commit.index}


def test_term_at_gives_the_term_of_entries_in_the_log_only():
    cluster = three()
    node = cluster.nodes["a"]

    assert node.term_at(0) == 0
    assert node.term_at(1) == 1
    assert node.term_at(node.log.last().index + 1) is None


def test_time_in_the_log_never_goes_back_though_the_wall_clock_does():
    cluster = three()
    leader = cluster.nodes[cluster.leader()]
    for wall in (10**13, 5, 10**12):
        leader.step(cluster.now, Tick(), wall_ms=wall)
        leader._write(EntryKind.COMMAND, b"\x80")
    times = [leader.log.get(i).time_ms for i in range(1, leader.log.last().index + 1)]

    assert times == sorted(times)


def test_a_tick_is_asked_for_before_anything_is_late():
    cluster = three()
    for name, node in cluster.nodes.items():
        due = cluster.step(name, Tick()).next_tick_ms
        if node.role is Role.LEADER:
            assert due - cluster.now <= cluster.settings.heartbeat_ms
        else:
            assert due <= node.election_due


def test_bond_down_of_a_stranger_changes_nothing():
    cluster = three()
    name = cluster.followers()[0]
    before = cluster.nodes[name].status()
    cluster.step(name, BondDown(type(before.me)("x", bytes(32)), BondLoss.LOST))

    assert cluster.nodes[name].status() == before
