"""trust_disk: the log is cut behind a snapshot that is durable, and a restarted member goes on from there."""

import pytest

from node.features import Features
from node.raft.events import (
    Halted,
    Persisted,
    SaveBase,
    SnapshotNotStored,
    SnapshotStored,
    SnapshotTaken,
)
from node.raft.messages import AppendReply, SyncAnswer, Verdict
from node.raft.snapshots import STORE_AGAIN_MS
from node.raft.types import EntryKind, Ok
from node.storage import file as file_storage
from node.storage.file import FileStorage
from tests.node.raft.cluster import Register, inc
from tests.node.raft.test_snapshots import SMALL, base, notices, write
from tests.node.storage.test_restart import Disks


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(file_storage, "SEGMENT_BYTES", 16 * 1024)
    monkeypatch.setattr(file_storage, "SPACE_BYTES", 4096)


def disks(tmp_path, **overrides):
    cluster = Disks(tmp_path, **{**SMALL, **overrides})
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    return cluster


def saved(cluster, name):
    """Return the index behind which the log on the disk begins."""
    return cluster.nodes[name].tenure.snaps.base


def based(tmp_path, count=60, **overrides):
    """Three members whose logs on the disk begin behind a snapshot."""
    cluster = disks(tmp_path, **overrides)
    write(cluster, count)
    cluster.run_until(lambda: all(saved(cluster, name) for name in cluster.nodes))
    cluster.run(2000)
    return cluster


def test_a_trust_disk_group_cuts_its_logs_in_memory_and_on_the_disk(tmp_path):
    cluster = based(tmp_path)
    for name in "abc":
        assert base(cluster, name) == saved(cluster, name) > 10
        assert len(list(tmp_path.glob(f"{name}.snapshot.*"))) == 1
        cluster.crash(name)
        storage = FileStorage(tmp_path / name, inc(name))
        assert storage.recovered.entries[0].index == storage.recovered.snapshot.evidence.anchor.index + 1
        storage.close()


def test_a_whole_group_that_lost_power_goes_on_from_its_snapshots(tmp_path):
    cluster = based(tmp_path)
    write(cluster, 7)
    cluster.run(500)
    identity, epoch = cluster.nodes["a"].cluster, cluster.nodes["a"].last_config.epoch
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
        assert cluster.nodes[name].commit >= base(cluster, name) > 10
    cluster.elect()
    cluster.run(1000)

    assert {node.cluster for node in cluster.nodes.values()} == {identity}
    assert cluster.nodes["a"].last_config.epoch >= epoch
    assert set(cluster.values().values()) == {67}
    write(cluster, 60)
    assert set(cluster.values().values()) == {127}
    assert not cluster.violations()
    assert not any(notices(cluster, name, Halted) for name in "abc")


def test_a_restarted_member_announces_what_its_snapshot_led_to(tmp_path):
    cluster = based(tmp_path)
    cluster.crash("a")
    cluster.start("a", bond=False)
    kinds = [type(notice).__name__ for notice in cluster.notices["a"]]
    assert kinds[:3] == ["LevelsChanged", "ConfigCommitted", "Advanced"]
    assert not notices(cluster, "a", SnapshotTaken)


def test_a_restarted_member_serves_its_snapshot_and_a_late_one_takes_it(tmp_path):
    cluster = based(tmp_path)
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.start("d", bond=True)
    cluster.run_until(lambda: cluster.nodes["d"].replica.machine.value == 60)
    assert [notice.fetched for notice in notices(cluster, "d", SnapshotTaken)] == [True]
    assert saved(cluster, "d") == base(cluster, "d") > 10


def test_a_command_is_executed_once_through_snapshot_crash_and_retry(tmp_path):
    cluster = disks(tmp_path)
    assert isinstance(cluster.outcome(cluster.execute("a", 1000, key=b"k" * 16)), Ok)
    write(cluster, 60)
    cluster.run_until(lambda: all(saved(cluster, name) for name in cluster.nodes))
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    assert isinstance(cluster.outcome(cluster.execute("b", 1000, key=b"k" * 16)), Ok)
    cluster.run(1000)
    assert set(cluster.values().values()) == {1060}


# ---- order ----------------------------------------------------------------------
def test_the_log_names_a_snapshot_only_after_it_is_durable(tmp_path):
    cluster = disks(tmp_path)
    cluster.unready = {"b"}
    write(cluster, 60)
    cluster.run(3000)
    assert saved(cluster, "a") > 10
    assert saved(cluster, "b") == 0
    assert base(cluster, "b") > 10  # what it has in memory does not depend on the disk
    (snapshot,) = cluster.unstored["b"]

    records = []
    persist = cluster.files["b"].persist
    cluster.files["b"].persist = lambda batch: (records.extend(batch), persist(batch))
    cluster.finish("b", snapshot)
    assert records == [SaveBase(snapshot.evidence)]
    assert saved(cluster, "b") == snapshot.evidence.anchor.index


def test_a_crash_before_the_base_goes_on_from_the_log_and_removes_the_snapshot(tmp_path):
    cluster = disks(tmp_path)
    cluster.unready = {"b"}
    write(cluster, 60)
    cluster.run(3000)
    (snapshot,) = cluster.unstored["b"]
    making = cluster.files["b"].store(snapshot)
    for _ in making:
        pass
    assert list(tmp_path.glob("b.snapshot.*"))
    cluster.crash("b")
    node = cluster.start("b")

    assert not list(tmp_path.glob("b.snapshot.*"))
    assert node.log.base.index == 0
    cluster.run(2000)
    assert node.replica.machine.value == 60


def lagging(tmp_path, **overrides):
    """A group that has cut its logs, and ``c``, which has been away since long before."""
    cluster = disks(tmp_path, **overrides)
    cluster.elect()
    away = cluster.followers()[0]
    cluster.isolate(away)
    write(cluster, 60, cluster.elect())
    cluster.run_until(lambda: all(base(cluster, name) > 10 for name in cluster.nodes if name != away))
    cluster.run(1000)
    return cluster, away


def test_a_member_that_takes_the_state_acks_nothing_of_it_before_its_disk_has_the_base(tmp_path):
    cluster, away = lagging(tmp_path)
    node = cluster.nodes[away]
    before = node.log.last().index
    acked = []
    cluster.drop = lambda sender, to, message: (
        sender == away
        and isinstance(message, AppendReply)
        and message.verdict is Verdict.ACK
        and acked.append(message.match)
    )
    cluster.unready = {away}
    cluster.heal()
    cluster.run(3000)
    (snapshot,) = cluster.unstored[away]
    anchor = snapshot.evidence.anchor
    assert node.log.base.index == 0  # nothing has changed while the snapshot is on its way
    assert node.replica.machine.value < 60

    cluster.slow = {away}  # the snapshot is durable, the base is not
    cluster.finish(away, snapshot)
    cluster.run(2000)
    assert node.log.base.index == anchor.index
    assert node.tenure.durable_index == 0
    assert not [match for match in acked if match > before]

    cluster.slow = set()
    serial, records = cluster.unsynced[away][0]
    assert SaveBase(snapshot.evidence) in records
    cluster.files[away].persist([record for _, batch in cluster.unsynced[away] for record in batch])
    last = cluster.unsynced[away][-1][0]
    cluster.unsynced[away].clear()
    cluster.step(away, Persisted(serial))
    assert node.tenure.durable_index == anchor.index
    cluster.step(away, Persisted(last))
    cluster.run(2000)
    assert max(acked) == node.log.last().index


def test_an_installed_state_and_the_entries_pulled_after_it_survive_a_crash(tmp_path):
    cluster, away = lagging(tmp_path)
    cluster.heal()
    cluster.run_until(lambda: cluster.nodes[away].log.base.index)
    write(cluster, 5)
    cluster.run(1000)
    value, last = cluster.nodes[away].replica.machine.value, cluster.nodes[away].log.last()
    assert value == 65
    cluster.crash(away)
    node = cluster.start(away, bond=False)

    assert node.log.base.index == saved(cluster, away) > 10
    assert node.log.last() == last
    cluster.heal()
    cluster.run(1000)
    assert node.replica.machine.value == 65


@pytest.mark.parametrize("stage", ["fetching", "storing", "stored", "based"])
def test_a_crash_at_each_stage_of_an_install_leaves_a_member_that_catches_up(tmp_path, stage):
    cluster, away = lagging(tmp_path)
    if stage == "fetching":
        cluster.drop = lambda sender, to, message: isinstance(message, SyncAnswer)
    else:
        cluster.unready = {away}
    cluster.heal()
    cluster.run(3000)
    if stage != "fetching":
        (snapshot,) = cluster.unstored[away]
        making = cluster.files[away].store(snapshot)
        next(making, None)
        if stage != "storing":
            for _ in making:
                pass
        if stage == "based":
            cluster.files[away].persist([SaveBase(snapshot.evidence)])
    cluster.crash(away)
    cluster.drop, cluster.unready = lambda *_: False, set()
    node = cluster.start(away)
    assert (node.log.base.index > 0) == (stage == "based")
    cluster.run_until(lambda: node.replica.machine.value == 60)
    assert not cluster.violations()


# ---- a full disk ----------------------------------------------------------------
def test_a_member_whose_disk_takes_no_snapshot_goes_on_says_so_and_tries_again(tmp_path):
    cluster = disks(tmp_path)
    cluster.unready = {"b"}
    write(cluster, 60)
    cluster.run(3000)
    (snapshot,) = cluster.unstored["b"]
    cluster.unstored["b"].clear()
    cluster.step("b", SnapshotStored(snapshot.evidence.anchor, "no space left on device"))
    anchor = snapshot.evidence.anchor
    assert notices(cluster, "b", SnapshotNotStored) == [
        SnapshotNotStored((anchor.term, anchor.index), "no space left on device")
    ]
    assert isinstance(cluster.outcome(cluster.execute("b", 1)), Ok)
    assert not cluster.unstored["b"]
    cluster.run(STORE_AGAIN_MS + 1000)
    (again,) = cluster.unstored["b"]
    cluster.finish("b", again)
    assert saved(cluster, "b") == again.evidence.anchor.index


def test_a_member_that_cannot_store_the_state_it_fetched_keeps_its_own_and_tries_again(tmp_path):
    cluster, away = lagging(tmp_path)
    node = cluster.nodes[away]
    cluster.unready = {away}
    cluster.heal()
    cluster.run(3000)
    (snapshot,) = cluster.unstored[away]
    cluster.unstored[away].clear()
    cluster.step(away, SnapshotStored(snapshot.evidence.anchor, "no space left on device"))
    assert len(notices(cluster, away, SnapshotNotStored)) == 1
    assert node.log.base.index == 0
    assert node.status().install is not None
    cluster.unready = set()
    cluster.run(STORE_AGAIN_MS + 1000)
    assert node.replica.machine.value == 60


# ---- what a start refuses ---------------------------------------------------------
def restarted(cluster, name, **kwargs):
    cluster.crash(name)
    return cluster.start(name, bond=False, **kwargs)


def test_a_member_whose_software_does_not_know_the_level_of_its_snapshot_stops(tmp_path):
    cluster = based(tmp_path)
    node = restarted(cluster, "a", features=Features(1, 1))
    assert node.halted == "feature-level-too-low"
    assert notices(cluster, "a", Halted) == [Halted("feature-level-too-low")]


def test_a_member_whose_machine_cannot_take_its_snapshot_stops(tmp_path):
    class Refusing(Register):
        def restore(self, snapshot):
            raise ValueError("of an earlier layout")

    cluster = based(tmp_path)
    node = restarted(cluster, "a", machine=Refusing())
    assert node.halted == "snapshot-not-restorable"
    assert notices(cluster, "a", Halted) == [Halted("snapshot-not-restorable")]


def test_the_restarted_member_compares_its_snapshot_with_the_evidence_in_its_log(tmp_path):
    cluster = based(tmp_path)
    node = restarted(cluster, "a")
    log = node.log
    kinds = [entry.kind for entry in log.slice(log.base.index + 1, log.last().index, 10**9)]
    assert EntryKind.SNAPSHOT in kinds  # the evidence
    cluster.heal()
    cluster.run(2000)
    assert node.halted is None
    assert node.tenure.snaps.keeper.known == node.tenure.snaps.keeper.held.evidence


def test_an_own_snapshot_that_becomes_durable_after_an_install_is_no_base_any_more(tmp_path):
    """The log would go back to an earlier place."""
    cluster = disks(tmp_path)
    away = cluster.followers()[0]
    cluster.unready = {away}
    write(cluster, 60, cluster.elect())
    cluster.run(3000)
    (own,) = cluster.unstored[away]
    cluster.isolate(away)
    write(cluster, 120, cluster.elect())
    cluster.run_until(lambda: all(base(cluster, name) > 60 for name in cluster.nodes if name != away))
    cluster.heal()
    cluster.run(3000)
    _, fetched = cluster.unstored[away]
    cluster.finish(away, fetched)
    cluster.run(1000)
    assert saved(cluster, away) == fetched.evidence.anchor.index
    cluster.finish(away, own)
    cluster.run(1000)
    assert saved(cluster, away) == fetched.evidence.anchor.index
    assert restarted(cluster, away).halted is None
