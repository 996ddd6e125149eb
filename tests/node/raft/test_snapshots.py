"""Markers, evidence, a log that is cut, and members that take the state instead of the log (3.5)."""

import cbor2
import msgspec
import pytest

from node.features import Features
from node.machines.base import StateMachine
from node.machines.system import EmptySystem
from node.raft.events import Halted, Received, SnapshotTaken, StateDiverged, Violation
from node.raft.messages import SnapshotDigest, SnapshotOffer, SyncAnswer, SyncAsk
from node.raft.ranges import PullState
from node.raft.types import (
    AlreadyExecuted,
    Bootstrap,
    Cursor,
    EntryKind,
    NotExecuted,
    Ok,
    Unknown,
)
from node.sync.evidence import MARKER, Anchor
from node.sync.snapshot_sync import decode_answer_untrusted, encode_answer
from tests.node.raft.cluster import RaftCluster, Register, three

SMALL = {
    "snapshot_bytes": 2_000, "snapshot_chunk_bytes": 64, "log_keep_bytes": 0, "log_keep_ms": 600_000
}  # fmt: skip


def write(cluster, count, name=None):
    for _ in range(count):
        assert isinstance(cluster.outcome(cluster.execute(name or cluster.elect(), 1)), Ok)


def base(cluster, name):
    return cluster.nodes[name].log.base.index


def pruned(count=60, **overrides):
    """Three members that have cut their logs."""
    cluster = three(**{**SMALL, **overrides})
    write(cluster, count)
    cluster.run_until(lambda: all(base(cluster, name) for name in cluster.nodes))
    cluster.run(2000)
    return cluster


def entries(cluster, name, kind):
    log = cluster.nodes[name].log
    return [entry for entry in log.slice(log.base.index + 1, log.last().index, 10**9) if entry.kind is kind]


def chunk_in(message):
    """Return the number of the chunk in ``message``; -1 if it brings none."""
    if not isinstance(message, SyncAnswer) or not message.payload:
        return -1
    return decode_answer_untrusted(message.payload)[0]


def notices(cluster, name, kind):
    return [notice for notice in cluster.notices[name] if isinstance(notice, kind)]


# ---- taking one --------------------------------------------------------------------
def test_every_member_has_the_same_snapshot_and_cuts_its_log_behind_it():
    cluster = pruned()
    held = {name: node.tenure.snaps.keeper.held.evidence for name, node in cluster.nodes.items()}

    assert len(set(held.values())) == 1
    assert len({base(cluster, name) for name in "abc"}) == 1
    assert held["a"].anchor.index == base(cluster, "a") > 10
    assert held["a"].count > 5
    assert set(cluster.values().values()) == {60}
    write(cluster, 5)
    assert not cluster.violations()


def test_a_log_stays_bounded_however_many_commands_there_are():
    cluster = three(**SMALL)
    most = 0
    for _ in range(8):
        write(cluster, 40)
        cluster.run(500)
        most = max([most, *(node.log.size for node in cluster.nodes.values())])
    # A snapshot is due when the log has grown by as much as the last one has.
    assert most < 4 * max(2_000, cluster.nodes["a"].tenure.snaps.keeper.held.evidence.size)
    assert cluster.nodes["a"].log.taken > 3 * most


def test_the_state_is_that_of_the_marker_and_not_that_of_the_end_of_the_batch():
    """Two commands, the marker and two more commands are applied in one step."""
    cluster = three(**{**SMALL, "snapshot_bytes": 10**9})
    leader = cluster.elect()
    node = cluster.nodes[leader]
    write(cluster, 3)
    follower = cluster.followers()[0]
    cluster.unbond(leader, follower)
    node._is_marker_due = lambda _: node.replica.machine.value == 5 and node.tenure.snaps.marker == 0
    write(cluster, 4)
    cluster.run_until(lambda: node.tenure.snaps.marker)
    write(cluster, 4)
    cluster.bond(leader, follower)
    cluster.run_until(lambda: len(set(cluster.values().values())) == 1)
    cluster.run(3000)

    found = {name: each.tenure.snaps.keeper.held.evidence for name, each in cluster.nodes.items()}
    assert len(set(found.values())) == 1
    assert not notices(cluster, follower, Halted)


def test_a_snapshot_is_made_in_slices_and_commands_go_on_between_them(monkeypatch):
    monkeypatch.setattr("node.sync.keeper.SLICE_BYTES", 1)
    cluster = three(**{**SMALL, "snapshot_bytes": 10**9})
    leader = cluster.elect()
    node = cluster.nodes[leader]
    write(cluster, 3)
    node._is_marker_due = lambda _: node.tenure.snaps.marker == 0
    cluster.step(leader)
    cluster.deliver()
    steps = 0
    while node.tenure.snaps.keeper.making is not None:
        value = node.replica.machine.value
        effects = cluster.step(leader)
        assert node.tenure.snaps.keeper.making is None or effects.next_tick_ms == cluster.now
        steps += 1
        assert node.replica.machine.value == value
    assert steps >= 4
    write(cluster, 3)
    cluster.run_until(lambda: node.tenure.snaps.keeper.held is not None)


def test_evidence_is_written_only_when_a_quorum_of_voters_reported_it():
    cluster = three(**SMALL)
    cluster.drop = lambda sender, to, message: isinstance(message, SnapshotDigest)
    write(cluster, 60)
    cluster.run(5000)
    assert [base(cluster, name) for name in "abc"] == [0, 0, 0]
    assert len(entries(cluster, "a", EntryKind.SNAPSHOT)) == 1  # and no second marker meanwhile
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: all(base(cluster, name) for name in "abc"))


def test_the_next_leader_brings_a_marker_to_its_evidence():
    cluster = three(**SMALL)
    cluster.drop = lambda sender, to, message: isinstance(message, SnapshotDigest)
    write(cluster, 60)
    cluster.run(2000)
    cluster.kill(cluster.leader())
    cluster.drop = lambda *_: False
    cluster.elect()
    cluster.run_until(lambda: all(base(cluster, name) for name in cluster.nodes))


def test_an_idle_group_takes_a_snapshot_of_what_is_new_after_a_while_and_no_more():
    cluster = three(snapshot_ms=5000, log_keep_bytes=0)
    write(cluster, 1)
    cluster.run(6000)
    assert notices(cluster, "a", SnapshotTaken)


def test_the_log_is_kept_for_laggards_up_to_its_limits():
    cluster = pruned(120, log_keep_bytes=3_000)
    for node in cluster.nodes.values():
        assert node.log.base.index < node.tenure.snaps.keeper.held.evidence.anchor.index
        assert node.log.size > 2_500
    aged = pruned(120, log_keep_bytes=10**9, log_keep_ms=1)
    aged.run(2000)
    write(aged, 1)
    aged.run(2000)
    assert aged.nodes["a"].log.base.index == aged.nodes["a"].tenure.snaps.keeper.held.evidence.anchor.index


def test_below_level_2_nothing_of_it_is_written():
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name, features=Features(1, 1))
    cluster.elect()
    write(cluster, 60)
    cluster.run(2000)
    assert entries(cluster, "a", EntryKind.SNAPSHOT) == []


class Mute(StateMachine):
    """Offers no snapshots."""

    value = 0
    signature = "test/register/v1"

    def apply(self, command, context):
        self.value += command
        return self.value

    def query(self, query):
        return self.value


class Raising(Register):
    """``snapshot`` raises on one member."""

    def snapshot(self):
        raise ZeroDivisionError


def test_a_machine_whose_freeze_raises_costs_its_member_only_the_snapshot():
    cluster = RaftCluster(**SMALL)
    raised = []
    for name in "abc":
        cluster.add(name, machine=Raising() if name == "c" else None)
    cluster.nodes["c"].on_raised = lambda what, exc: raised.append((what, type(exc)))
    cluster.elect()
    write(cluster, 60)
    cluster.run(3000)

    assert ("freeze", ZeroDivisionError) in raised
    assert base(cluster, "a") > 0
    assert base(cluster, "b") > 0
    assert base(cluster, "c") == 0  # it could not serve what it would have cut
    assert cluster.nodes["c"].halted is None
    assert len(set(cluster.values().values())) == 1


# ---- states that differ ------------------------------------------------------------
class Differs(Register):
    def apply(self, command, context):
        result = super().apply(command, context)
        if self.value == 20:
            self.value += 1
        return result


@pytest.mark.parametrize("liar", ["a", "c"])
def test_a_member_whose_state_differs_halts_and_is_named_and_the_others_go_on(liar):
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name, machine=Differs() if name == liar else None)
    cluster.elect()
    for _ in range(60):
        cluster.tokens += 1
        cluster.run(5)
        leader = cluster.elect()
        cluster.execute(leader, 1)
    cluster.run_until(lambda: cluster.nodes[liar].halted is not None)
    cluster.run(2000)

    assert cluster.nodes[liar].halted == "state-diverged"
    assert notices(cluster, liar, Halted) == [Halted("state-diverged")]
    others = sorted(set("abc") - {liar})
    assert all(cluster.nodes[name].halted is None for name in others)
    cluster.isolate(liar)
    write(cluster, 3)


def test_the_leader_names_the_member_whose_state_differs():
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name)
    leader = cluster.elect()
    liar = cluster.followers()[0]
    cluster.nodes[liar].replica.machine.value = 7
    write(cluster, 60)
    cluster.run_until(lambda: cluster.nodes[liar].halted is not None)

    (named,) = set(notices(cluster, leader, StateDiverged))
    assert named.peer == cluster.nodes[liar].me


def test_two_members_that_differ_write_no_evidence_and_cut_nothing():
    cluster = RaftCluster(**SMALL, max_voters=2)
    for name in "ab":
        cluster.add(name, expect=2)
    cluster.elect()
    cluster.nodes["b"].replica.machine.value = 7
    write(cluster, 60)
    cluster.run(5000)

    assert [base(cluster, name) for name in "ab"] == [0, 0]
    assert [cluster.nodes[name].halted for name in "ab"] == [None, None]


# ---- installing --------------------------------------------------------------------
def joined(cluster, name="d", **options):
    cluster.add(name, Bootstrap.JOIN, **options)
    cluster.run_until(lambda: cluster.nodes[name].me in cluster.nodes[cluster.elect()].members)
    return cluster.nodes[name]


def test_a_joiner_takes_the_state_and_then_the_rest_of_the_log_and_becomes_a_voter():
    cluster = pruned()
    at = base(cluster, "a")
    write(cluster, 3)
    node = joined(cluster)
    cluster.run(500)

    assert node.log.base.index == at
    assert set(cluster.values().values()) == {63}
    assert len({n.replica.table.snapshot_digest() for n in cluster.nodes.values()}) == 1
    assert node.replica.machine.history == cluster.nodes["a"].replica.machine.history
    assert node.status().voters == cluster.nodes["a"].status().voters
    assert node.replica.commands == cluster.nodes["a"].replica.commands
    assert not cluster.violations()
    (taken,) = notices(cluster, "d", SnapshotTaken)[:1]
    assert taken.fetched
    assert taken.at.index == at


def test_a_joiner_serves_what_it_took_after_all_others_are_gone():
    cluster = pruned(min_voters=1)
    joined(cluster)
    for name in "abc":
        if name != cluster.leader():
            cluster.kill(name)
            cluster.run(6000)
    leader = cluster.elect()
    cluster.run_until(lambda: len(cluster.nodes[leader].members) == 2)
    asked = []
    cluster.drop = lambda sender, to, message: (
        isinstance(message, SyncAsk) and to == leader and not asked.append(to)
    )
    joined(cluster, "e")
    assert set(cluster.values().values()) == {60}


def test_chunks_come_from_several_members_at_once():
    cluster = pruned()
    served = set()

    def watch(sender, to, message):
        if isinstance(message, SyncAnswer):
            served.add(sender)
        return False

    cluster.drop = watch
    joined(cluster)
    assert len(served) == 3


def test_an_install_goes_on_after_its_sources_are_lost_one_by_one():
    cluster = pruned()
    answered = dict.fromkeys("abc", 0)

    def lose(sender, to, message):
        if not isinstance(message, SyncAnswer):
            return False
        answered[sender] += 1
        return answered[sender] > 2  # then nothing until the bond breaks

    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lose
    node = cluster.nodes["d"]
    cluster.run_until(lambda: node.tenure.installing is not None and node.tenure.installing.progress.done > 3)
    done = node.tenure.installing.progress.done
    for name in cluster.followers():
        if name != "d":
            cluster.unbond("d", name)
    cluster.run(50)
    assert node.tenure.installing.progress.done >= done
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: cluster.values()["d"] == 60, 60_000)


def test_an_offer_that_ends_in_the_middle_is_replaced_by_another():
    """The snapshot that is fetched is given up by all; a newer one is fetched from the beginning."""
    cluster = pruned()
    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lambda sender, to, message: chunk_in(message) > 2
    node = cluster.nodes["d"]
    cluster.run_until(
        lambda: node.tenure.installing is not None and node.tenure.installing.progress.done == 3
    )
    old = node.tenure.installing.anchor.index
    write(cluster, 150)
    cluster.run_until(lambda: base(cluster, "a") > old)
    cluster.run(30_000)
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: cluster.values()["d"] == 210, 120_000)
    assert base(cluster, "d") > old


@pytest.mark.parametrize("what", ["flipped byte", "proof of another chunk"])
def test_a_chunk_that_is_not_proven_is_a_violation_and_the_others_serve(what):
    cluster = pruned()
    bad = cluster.followers()[0]

    class Lying(type(cluster.nodes[bad])):
        def _on_sync_ask(self, sender, m):
            snapshot = self.tenure.snaps.keeper.serve(m.root, self.now)
            (number,) = cbor2.loads(m.payload)
            data, proof = snapshot.chunk(number)
            if what == "flipped byte":
                data = bytes([data[0] ^ 1]) + data[1:]
            else:
                _, proof = snapshot.chunk((number + 1) % 3)
            self._send(sender, SyncAnswer(self._cluster, m.root, encode_answer(number, data, proof)))

    cluster.nodes[bad].__class__ = Lying
    cluster.add("d", Bootstrap.JOIN)
    cluster.run_until(lambda: cluster.values()["d"] == 60)

    assert Violation(cluster.nodes[bad].me, "chunk-not-proven") in cluster.notices["d"]
    assert {violation.peer for violation in cluster.violations()} == {cluster.nodes[bad].me}


def test_nothing_is_applied_or_read_while_half_of_it_is_here():
    cluster = pruned()
    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lambda sender, to, message: chunk_in(message) == 2
    node = cluster.nodes["d"]
    cluster.run_until(lambda: node.tenure.installing is not None and node.tenure.installing.progress.done > 3)

    assert node.replica.machine.value == 0
    assert node.replica.applied == Cursor(0, 0)
    assert node.log.last().index == node.commit == 0
    status = node.status()
    assert status.install is not None
    assert 3 < status.install.done < status.install.count
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: cluster.values()["d"] == 60)
    assert node.status().install is None


def test_a_snapshot_that_is_not_ahead_any_more_is_dropped():
    cluster = pruned()
    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lambda sender, to, message: chunk_in(message) == 2
    node = cluster.nodes["d"]
    cluster.run_until(lambda: node.tenure.installing is not None and node.tenure.installing.progress.done > 3)
    node.tenure.commit = node.tenure.installing.anchor.index
    node._drive_install(node.tenure.installing)
    assert node.tenure.installing is None


def test_a_restarted_voter_that_lacks_little_pulls_entries():
    cluster = pruned(log_keep_bytes=1_500)
    name = cluster.followers()[0]
    cluster.isolate(name)
    write(cluster, 5)
    assert base(cluster, cluster.elect()) > 0
    seen = []
    cluster.drop = lambda sender, to, message: isinstance(message, SyncAsk) and not seen.append(message)
    cluster.heal()
    cluster.run_until(lambda: len(set(cluster.values().values())) == 1)
    assert seen == []


def test_a_voter_that_was_away_for_long_takes_the_state_and_its_unfinished_commands_are_answered_once():
    cluster = pruned()
    name = cluster.followers()[0]
    node = cluster.nodes[name]
    write(cluster, 1, name)
    # Its command reaches the leader, and the answer does not come back.
    ticket = cluster.execute(name, 100)
    keyed = cluster.execute(name, 1000, key=b"once")
    cluster.drop = lambda sender, to, message: to == name
    cluster.deliver()
    cluster.run(300)
    cluster.isolate(name)
    cluster.drop = lambda *_: False
    for _ in range(4):
        write(cluster, 60)
        cluster.run(1000)
    assert base(cluster, cluster.elect()) > node.log.last().index
    cluster.heal()
    done = cluster.outcome(ticket)
    cluster.outcome(keyed)
    cluster.run(2000)

    assert node.log.base.index > 0
    assert any(taken.fetched for taken in notices(cluster, name, SnapshotTaken))
    assert isinstance(done, Ok | AlreadyExecuted)
    assert set(cluster.values().values()) == {61 + 100 + 1000 + 240}
    # The key is remembered over the install: a copy is not executed.
    cluster.outcome(cluster.execute(name, 1000, key=b"once"))
    assert set(cluster.values().values()) == {61 + 100 + 1000 + 240}


def test_commands_of_a_session_that_ended_in_what_was_skipped_are_unknown_and_not_repeated():
    cluster = pruned(session_ttl_ms=3_000)
    name = cluster.followers()[0]
    write(cluster, 1, name)
    ticket = cluster.execute(name, 100)
    cluster.drop = lambda sender, to, message: to == name
    cluster.deliver()
    cluster.isolate(name)
    cluster.drop = lambda *_: False
    for _ in range(6):
        write(cluster, 40)
        cluster.run(2000)
    cluster.heal()
    assert cluster.outcome(ticket) == Unknown("session-expired")
    cluster.run(3000)
    assert set(cluster.values().values()) == {61 + 100 + 240}


def test_a_cursor_below_the_base_is_judged_by_the_terms_that_the_state_remembers():
    cluster = pruned()
    node = joined(cluster)
    early = Cursor(node.replica.terms[-1][1], 5)
    assert early.index < node.log.base.index
    assert cluster.outcome(cluster.query("d", min_at=early)).value == 60
    wrong = Cursor(early.term + 7, 5)
    assert cluster.outcome(cluster.query("d", min_at=wrong)) == NotExecuted("superseded", node.leader)
    assert node.term_at(5) == early.term


def test_a_state_of_another_cluster_or_anchor_stops_the_member_before_it_takes_any_of_it():
    cluster = pruned()
    cluster.add("d", Bootstrap.JOIN)
    node = cluster.nodes["d"]
    node._is_genesis = lambda entry: False
    cluster.run_until(lambda: node.halted is not None)
    assert node.halted == "snapshot-not-restorable"
    assert node.replica.machine.value == 0


class OfVersion1(Register):
    def restore(self, snapshot):
        raise ValueError("a snapshot of another version of this machine")


def test_a_snapshot_that_the_machine_refuses_stops_the_member_by_name():
    cluster = pruned()
    cluster.add("d", Bootstrap.JOIN, machine=OfVersion1())
    node = cluster.nodes["d"]
    raised = []
    node.on_raised = lambda what, exc: raised.append(what)
    cluster.run_until(lambda: node.halted is not None)
    assert node.halted == "snapshot-not-restorable"
    assert raised == ["restore"]
    assert node.replica.applied == Cursor(0, 0)


def test_a_founder_that_missed_its_genesis_still_gets_it_when_the_log_was_cut():
    cluster = pruned()
    node = cluster.nodes[cluster.leader()]
    assert node.log.base.index > 1
    assert node._first_entry().index == 1
    assert node._first_entry().chain == node.cluster


# ---- faults ------------------------------------------------------------------------
def test_a_leader_that_is_a_quorum_of_two_by_the_tie_break_cannot_make_its_own_state_the_groups():
    """Otherwise a broken leader would halt the only member whose state is right."""
    cluster = three(**SMALL, min_voters=2)
    leader = cluster.elect()
    gone, other = cluster.followers()
    cluster.kill(gone)
    cluster.run_until(lambda: len(cluster.nodes[leader].members) == 2 and cluster.nodes[leader].status().tie)
    node = cluster.nodes[leader]
    assert node.status().tie == node.me
    assert node._have({node.me})
    node.replica.machine.value = 7
    write(cluster, 60)
    cluster.run(5000)

    assert [base(cluster, name) for name in (leader, other)] == [0, 0]
    assert [cluster.nodes[name].halted for name in (leader, other)] == [None, None]


def test_a_leader_that_has_not_applied_the_level_yet_writes_no_evidence():
    """It would halt: an entry above the level that it has applied."""
    cluster = three(**SMALL)
    cluster.drop = lambda sender, to, message: isinstance(message, SnapshotDigest)
    write(cluster, 60)
    cluster.run(2000)
    leader = cluster.nodes[cluster.leader()]
    (marker,) = entries(cluster, cluster.leader(), EntryKind.SNAPSHOT)
    levels, applied = leader.replica.levels, leader.replica.applied
    leader.replica.levels, leader.replica.applied = None, Cursor(0, 0)
    evidence = leader.tenure.snaps.keeper.ready.evidence
    leader._begin_reports()
    leader.tenure.snaps.reports.update(dict.fromkeys(leader.members, evidence))
    leader._lead_snapshots(leader.tenure.leadership)
    assert leader.log.last().index == applied.index
    leader.replica.levels, leader.replica.applied = levels, applied
    leader._lead_snapshots(leader.tenure.leadership)
    assert leader.log.last().index == applied.index + 1
    assert marker.index == evidence.anchor.index


def test_one_peer_that_offers_a_later_snapshot_and_serves_none_of_it_does_not_stop_an_install():
    cluster = pruned()
    bad = cluster.followers()[0]
    evidence = cluster.nodes[bad].tenure.snaps.keeper.held.evidence
    later = msgspec.structs.replace(
        evidence, anchor=Anchor(9, 10**9, bytes(32)), root=bytes(32), count=8, size=8 * evidence.chunk_bytes
    )

    class Offering(type(cluster.nodes[bad])):
        def _offer_snapshot(self, peer):
            self._send(peer, SnapshotOffer(self._cluster, self.log.base.index, later))

        def _on_sync_ask(self, sender, m):
            pass

    cluster.nodes[bad].__class__ = Offering
    # Its offer alone has come when the fetch begins.
    cluster.drop = lambda sender, to, message: (
        isinstance(message, SnapshotOffer) and message.evidence != later
    )
    cluster.add("d", Bootstrap.JOIN)
    node = cluster.nodes["d"]
    node._is_out_of_reach = lambda pull: bool(node.tenure.offers)
    cluster.run_until(lambda: node.tenure.installing is not None)
    assert node.tenure.installing.anchor == later.anchor
    del node._is_out_of_reach
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: cluster.values()["d"] == 60, 60_000)


def test_of_several_snapshots_the_one_that_most_peers_offer_is_fetched():
    cluster = pruned()
    bad = cluster.followers()[0]
    evidence = cluster.nodes[bad].tenure.snaps.keeper.held.evidence
    later = msgspec.structs.replace(evidence, anchor=Anchor(9, 10**9, bytes(32)), root=bytes(32))

    class Offering(type(cluster.nodes[bad])):
        def _offer_snapshot(self, peer):
            self._send(peer, SnapshotOffer(self._cluster, self.log.base.index, later))

    cluster.nodes[bad].__class__ = Offering
    cluster.add("d", Bootstrap.JOIN)
    cluster.drop = lambda sender, to, message: isinstance(message, SyncAnswer)
    node = cluster.nodes["d"]
    cluster.run_until(lambda: node.tenure.installing is not None)
    assert node.tenure.installing.anchor == evidence.anchor
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: cluster.values()["d"] == 60)


def test_a_range_below_the_base_is_not_asked_for_again():
    """Entries came otherwise, and were cut off, while an answer was under way."""
    cluster = pruned()
    name = cluster.followers()[0]
    node = cluster.nodes[name]
    assert node.log.base.index > 3
    pull = PullState(node.term, node.log.last().index + 5, 2, node.now, node.now, joined=True)
    pull.again = [(1, 3)]
    pull.known = dict.fromkeys(node.audience, node.log.last().index + 5)
    node.tenure.pull = pull
    node._drive_pull(pull)
    assert {asked.after for flight in pull.in_flight.values() for asked in flight.ranges.values()} <= {
        node.commit
    }


class Unreadable(Register):
    """Its snapshot can be encoded, and not be read back."""

    def snapshot(self):
        return {1: self.value}


class OneWay(StateMachine):
    """Has ``snapshot``, for whatever purpose, and no ``restore``."""

    value = 0
    signature = "test/register/v1"

    def apply(self, command, context):
        self.value += command
        return self.value

    def query(self, query):
        return self.value

    def snapshot(self):
        return self.value


@pytest.mark.parametrize("machine", [Unreadable, OneWay])
def test_no_log_is_cut_behind_a_state_that_nobody_could_take_back(machine):
    """Otherwise no member could ever join again, and the group would end with its last member."""
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name, machine=machine())
    cluster.elect()
    write(cluster, 60)
    cluster.run(3000)

    assert [base(cluster, name) for name in "abc"] == [0, 0, 0]
    assert joined(cluster).replica.machine.value == 60


class Watched(Register):
    """A machine that freezes, and keeps what it has to inform of changes."""

    def __init__(self):
        super().__init__()
        self.frozen = []

    def freeze(self):
        self.frozen.append(self)
        return self

    def thaw(self):
        raise NotImplementedError

    def items(self):
        yield self.value

    def release(self):
        self.frozen.clear()


class RaisingSystem(EmptySystem):
    def snapshot(self):
        raise ZeroDivisionError


def test_a_system_state_that_raises_leaves_no_frozen_machine_behind():
    cluster = RaftCluster(**SMALL, system=RaisingSystem)
    machines = [Watched(), Watched(), Watched()]
    for name, machine in zip("abc", machines, strict=True):
        cluster.add(name, machine=machine)
    cluster.elect()
    write(cluster, 60)
    cluster.run(3000)
    assert len(entries(cluster, "a", EntryKind.SNAPSHOT)) >= 1
    assert [machine.frozen for machine in machines] == [[], [], []]


def test_evidence_alone_is_no_reason_for_another_snapshot():
    cluster = three(snapshot_ms=5000, log_keep_bytes=10**9, session_ttl_ms=86_400_000)
    write(cluster, 1)
    cluster.run(60_000)
    kinds = [entry.payload == MARKER for entry in entries(cluster, "a", EntryKind.SNAPSHOT)]
    assert kinds == [True, False]


def test_a_cursor_of_nothing_is_always_applied():
    cluster = pruned()
    assert cluster.outcome(cluster.query("a", min_at=Cursor(0, 0))).value == 60


def test_a_peer_whose_state_differs_is_named_once():
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name)
    leader = cluster.nodes[cluster.elect()]
    write(cluster, 60)
    cluster.run_until(lambda: all(base(cluster, name) for name in cluster.nodes))
    peer = cluster.nodes[cluster.followers()[0]].me
    known = leader.tenure.snaps.keeper.known
    for number in range(5):
        wrong = msgspec.structs.replace(known, root=bytes([number]) * 32)
        cluster.step(leader.me.name, Received(peer, SnapshotDigest(leader.cluster, leader.term, wrong)))
    assert [notice.peer for notice in notices(cluster, leader.me.name, StateDiverged)] == [peer]


def test_a_member_whose_own_log_reaches_the_snapshot_that_all_others_cut_behind_commits_it():
    """Its log was not proven, so it could neither pull what it had nor install what was not ahead."""
    cluster = pruned()
    name = cluster.followers()[0]
    node = cluster.nodes[name]
    anchor = node.tenure.snaps.keeper.held.evidence.anchor
    last = node.log.last().index
    node.tenure.commit, node.tenure.verified_index = anchor.index, 0
    below = Anchor(*node.log.position(last))
    node.tenure.pull = PullState(node.term, last + 1, anchor.index, node.now, node.now)
    evidence = msgspec.structs.replace(node.tenure.snaps.keeper.held.evidence, anchor=below)
    leader = cluster.nodes[cluster.leader()].me
    cluster.step(name, Received(leader, SnapshotOffer(node.cluster, last, evidence)))
    assert node.commit == last
    assert node.tenure.installing is None
    assert node.tenure.pull is None or node.tenure.pull.at == last
