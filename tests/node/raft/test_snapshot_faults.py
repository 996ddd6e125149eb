"""Bad input around snapshots: each fault costs what it must, is named, and the group goes on (3.5)."""

import pytest

from node.raft.events import Halted, SyncFailed
from node.raft.messages import SyncAnswer
from node.raft.types import Bootstrap, Cursor
from node.sync.snapshot_sync import decode_answer_untrusted, encode_answer
from tests.node.raft.cluster import RaftCluster, Register
from tests.node.raft.test_snapshots import SMALL, base, notices, pruned, write


class RaisesAtOnce(Register):
    def freeze(self):
        raise ZeroDivisionError

    def thaw(self):
        raise NotImplementedError


class RaisesOnTheWay(RaisesAtOnce):
    """The third of its items cannot be made."""

    released = 0

    def freeze(self):
        return self

    def items(self):
        yield self.value
        yield len(self.history)
        raise ZeroDivisionError

    def release(self):
        self.released += 1


class NotPlain(RaisesOnTheWay):
    def items(self):
        yield object()


@pytest.mark.parametrize("machine", [RaisesAtOnce, RaisesOnTheWay, NotPlain])
def test_a_freeze_that_raises_costs_its_member_the_snapshot_and_nothing_else(machine):
    cluster = RaftCluster(**SMALL)
    bad = machine()
    for name in "abc":
        cluster.add(name, machine=bad if name == "c" else Whole())
    raised = []
    cluster.nodes["c"].on_raised = lambda what, exc: raised.append(what)
    cluster.elect()
    write(cluster, 80)
    cluster.run(3000)

    assert set(raised) == {"freeze"}
    assert base(cluster, "a") > 0
    assert base(cluster, "b") > 0
    assert base(cluster, "c") == 0
    assert not notices(cluster, "c", Halted)
    assert set(cluster.values().values()) == {80}
    if isinstance(bad, RaisesOnTheWay):
        assert bad.released == len(raised)
    write(cluster, 1)


class Whole(Register):
    """Freezes, and can be thawed."""

    def freeze(self):
        return Items([self.value, list(self.history)])

    def thaw(self):
        return Parts(self)


class Items:
    def __init__(self, items):
        self._items = items

    def items(self):
        return iter(self._items)

    def release(self):
        pass


class Parts:
    def __init__(self, machine):
        self.machine, self.items = machine, []

    def take(self, item):
        self.items.append(item)

    def finish(self):
        self.machine.restore(self.items)


@pytest.mark.parametrize("slow", ["one of three", "all"])
def test_peers_that_serve_slowly_for_ever_do_not_stop_an_install(slow):
    """Each answers one request in two election timeouts, and no other."""
    cluster = pruned()
    served = dict.fromkeys("abc", 0)

    def rarely(sender, to, message):
        if not isinstance(message, SyncAnswer) or (slow != "all" and sender != cluster.followers()[0]):
            return False
        late = cluster.now - served[sender] < 2 * cluster.settings.election_timeout_ms
        if not late:
            served[sender] = cluster.now
        return late

    cluster.drop = rarely
    node = cluster.add("d", Bootstrap.JOIN)
    cluster.run_until(lambda: node.replica.machine.value == 60, 20_000 if slow != "all" else 400_000)
    assert not cluster.violations()
    assert not notices(cluster, "d", SyncFailed)


@pytest.mark.parametrize("what", ["another anchor", "a flipped byte"])
def test_what_does_not_lead_to_the_root_of_the_evidence_is_refused_from_every_peer(what):
    """A chunk of another snapshot with a proof of its own is right, but not for this anchor."""
    cluster = pruned()
    other = pruned(90)
    snapshot = other.nodes["a"].tenure.snaps.keeper.held

    class Lying(type(cluster.nodes["a"])):
        def _answers_to(self, peer, root, payload):
            found = []
            for answer in super()._answers_to(peer, root, payload):
                number, data, proof = decode_answer_untrusted(answer)
                if what == "another anchor":
                    data, proof = snapshot.chunk(number % snapshot.evidence.count)
                else:
                    data = data[:-1] + bytes([data[-1] ^ 4])
                found.append(encode_answer(number, data, proof))
            return found

    for name in "abc":
        cluster.nodes[name].__class__ = Lying
    node = cluster.add("d", Bootstrap.JOIN)
    cluster.run(10_000)
    assert {violation.reason for violation in cluster.violations()} == {"chunk-not-proven"}
    assert {violation.peer for violation in cluster.violations()} == {cluster.nodes[n].me for n in "abc"}
    assert (node.halted, node.replica.applied, node.log.last().index) == (None, Cursor(0, 0), 0)
    write(cluster, 2)
