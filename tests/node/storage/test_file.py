"""What a trust_disk member promised is there after a crash, or the member does not start."""

import fcntl
import os
from itertools import count
from pathlib import Path

import pytest

from node.errors import CorruptStorageError
from node.raft.entries import EMPTY_PAYLOAD, make_entry
from node.raft.events import Persisted, Received, SaveEntries, SaveTruncation, SaveVote
from node.raft.messages import Append, GenesisSignature
from node.raft.types import ORIGIN, EntryKind, Ok, Position
from node.storage.file import SPACE_BYTES, FileStorage
from tests.node.raft.cluster import Cluster, inc, three

ME = inc("a")


def entries(count, term=1, after=ORIGIN, payload=EMPTY_PAYLOAD):
    made = []
    for _ in range(count):
        made.append(make_entry(after, term=term, kind=EntryKind.NOOP, time_ms=5, payload=payload))
        after = Position(made[-1].term, made[-1].index, made[-1].chain)
    return tuple(made)


def reopen(path):
    storage = FileStorage(path, ME)
    recovered = storage.recovered
    storage.close()
    return recovered


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def test_what_was_persisted_is_recovered(path):
    log = entries(5)
    storage = FileStorage(path, ME)
    assert storage.recovered is None
    storage.persist([SaveVote(3, inc("b")), SaveEntries(log)])
    storage.persist([SaveTruncation(3), SaveEntries(entries(1, 4, Position(1, 3, log[2].chain)))])
    storage.persist([SaveVote(4, None)])
    storage.close()
    recovered = reopen(path)

    assert (recovered.term, recovered.voted_for) == (4, None)
    assert recovered.entries[:3] == log[:3]
    assert [(e.term, e.index) for e in recovered.entries[3:]] == [(4, 4)]
    assert reopen(path) == recovered


def used(path):
    """The file without the zeros at its end."""
    return path.read_bytes().rstrip(b"\0")


def test_a_write_that_a_crash_tore_is_cut_off(path):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(1, None), SaveEntries(entries(2))])
    durable = len(used(path))
    storage.persist([SaveVote(2, inc("b"))])
    storage.close()
    whole = path.read_bytes()
    for cut in range(durable, len(used(path)), 7):
        path.write_bytes(whole[:cut].ljust(len(whole), b"\0"))
        recovered = reopen(path)

        assert (recovered.term, len(recovered.entries)) == (1, 2)


def test_damage_to_what_was_durable_stops_the_member_and_is_left_as_it_is(path):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(1, None)])
    at = len(used(path)) - 1
    storage.persist([SaveVote(2, None)])
    storage.close()
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptStorageError, match=r"log: the batch at byte \d+ is not what was written"):
        FileStorage(path, ME)

    assert path.read_bytes() == whole


def test_what_does_not_fit_into_the_space_laid_down_is_recovered(path):
    storage = FileStorage(path, ME)
    log = entries(5, payload=bytes(SPACE_BYTES // 2))
    storage.persist([SaveVote(1, None), SaveEntries(log[:1])])
    storage.persist([SaveEntries(log[1:4])])
    storage.persist([SaveEntries(log[4:])])
    storage.close()

    assert reopen(path).entries == log
    assert reopen(path).entries == log


def test_a_write_goes_to_the_disk_before_it_is_reported_and_changes_no_size(path, monkeypatch):
    storage = FileStorage(path, ME)
    size = path.stat().st_size
    writes = []

    def write(handle, data, at):
        writes.append((fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DSYNC, at + len(data)))
        return pwrite(handle, data, at)

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", write)
    storage.persist([SaveVote(1, None), SaveEntries(entries(100))])
    storage.persist([SaveEntries(entries(1, payload=bytes(SPACE_BYTES)))])
    storage.close()

    assert [synced for synced, _ in writes] == [os.O_DSYNC] * 3
    assert writes[0][1] <= size  # into zeros that were there
    assert writes[1][1] > writes[2][1] > size  # first new zeros, then the batch into them


def test_a_write_in_pieces_is_whole(path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: pwrite(handle, data[:40_000], at))
    storage = FileStorage(path, ME)
    log = entries(3, payload=bytes(100_000))
    storage.persist([SaveEntries(log)])
    storage.close()

    assert reopen(path).entries == log


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open", "rename"])
def test_a_start_that_fails_anywhere_loses_nothing(path, monkeypatch, call):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b")), SaveEntries(entries(20))])
    storage.close()
    before = reopen(path)
    failures = 0
    for number in range(100):
        with monkeypatch.context() as patch:
            fail_at(patch, call, number)
            try:
                FileStorage(path, ME).close()
                break
            except OSError:
                failures += 1
        assert reopen(path) == before

    assert failures >= 1
    assert reopen(path) == before


def fail_at(patch, call, number):
    """Let call ``number`` of ``call`` fail, as a full or broken disk does."""
    holder = Path if call == "rename" else os
    original, calls = getattr(holder, call), count()

    def failing(*args, **kwargs):
        if next(calls) == number:
            raise OSError("no space left on device")
        return original(*args, **kwargs)

    patch.setattr(holder, call, failing)


def test_a_write_that_fails_in_the_middle_was_never_reported_and_loses_nothing_before_it(path, monkeypatch):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b"))])
    pwrite = os.pwrite

    def failing(handle, data, at):
        pwrite(handle, data[:700], at)
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="no space"):
        storage.persist([SaveVote(4, None), SaveEntries(entries(100))])
    monkeypatch.undo()
    storage.close()
    recovered = reopen(path)

    assert (recovered.term, recovered.voted_for, recovered.entries) == (3, inc("b"), ())


def test_another_incarnations_file_is_refused(path):
    FileStorage(path, ME).close()

    with pytest.raises(CorruptStorageError, match="another incarnation"):
        FileStorage(path, inc("a", 1))


def test_one_file_has_one_owner(path):
    storage = FileStorage(path, ME)
    with pytest.raises(CorruptStorageError, match="in use"):
        FileStorage(path, ME)
    storage.close()

    assert reopen(path) is not None


def test_a_foreign_file_is_refused_and_left_alone(path):
    path.write_bytes(b"something else")
    with pytest.raises(CorruptStorageError):
        FileStorage(path, ME)

    assert path.read_bytes() == b"something else"


# ---- together with the member -----------------------------------------------
class Disks(Cluster):
    """A cluster whose members write to real files; a crash loses what was not persisted."""

    def __init__(self, directory, **settings):
        super().__init__(trust_disk=True, **settings)
        self.directory = directory
        self.files = {}

    def start(self, name, **kwargs):
        self.files[name] = FileStorage(self.directory / name, inc(name))
        return self.add(name, recovered=self.files[name].recovered, **kwargs)

    def step(self, name, *events):
        waiting = len(self.unsynced[name]) if name in self.unsynced else 0
        self.sync = False
        effects = super().step(name, *events)
        for serial, records in self.unsynced[name][waiting:]:
            self.files[name].persist(records)
            self.unsynced[name].clear()
            self.step(name, Persisted(serial))
        return effects

    def crash(self, name):
        self.kill(name)
        self.files.pop(name).close()


def test_a_whole_trust_disk_cluster_that_lost_power_goes_on_where_it_was(tmp_path):
    cluster = Disks(tmp_path)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    for _ in range(10):
        assert isinstance(cluster.outcome(cluster.execute("a", 1)), Ok)
    identity = cluster.nodes["a"].cluster
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(1000)

    assert {n.cluster for n in cluster.nodes.values()} == {identity}
    assert cluster.values() == {"a": 10, "b": 10, "c": 10}


def test_a_vote_survives_the_crash_of_the_voter(tmp_path):
    cluster = Disks(tmp_path)
    for name in "abc":
        cluster.start(name)
    cluster.elect()
    cluster.run(500)
    follower = cluster.followers()[0]
    before = cluster.nodes[follower]
    term, vote = before.term, before.voted_for
    cluster.crash(follower)
    after = cluster.start(follower, bond=False)

    assert (after.term, after.voted_for) == (term, vote)
    assert after.is_voter


def test_nothing_is_promised_before_it_is_durable():
    cluster = three(trust_disk=True)
    cluster.sync = False
    leader, (follower, other) = cluster.leader(), cluster.followers()
    ticket = cluster.execute(leader, 5)
    cluster.run(50)
    node = cluster.nodes[leader]

    assert ticket not in cluster.outcomes
    assert node.commit < node.log.last().index
    assert cluster.nodes[follower].log.last() == node.log.last()
    assert not any(index == node.log.last().index for index in node.lead.match.values())
    for name in (follower, leader):
        serial = cluster.unsynced[name][-1][0]
        cluster.step(name, Persisted(serial))
    cluster.deliver()
    assert isinstance(cluster.outcomes[ticket], Ok)
    assert other not in [v.name for v, index in node.lead.match.items() if index == node.log.last().index]


def test_a_late_report_of_a_truncated_write_proves_nothing_about_what_replaced_it():
    """Named schedule 23, the ABA case of asynchronous storage."""
    cluster = three(trust_disk=True)
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    cluster.sync = False
    last = node.log.last()
    (first,) = entries(1, node.term, last)
    cluster.step(follower, Received(node.me, Append(node.cluster, node.term, last, (first,), 0, 50)))
    stale = cluster.unsynced[follower][-1][0]
    (second,) = entries(1, node.term + 1, last)
    other = cluster.nodes[cluster.followers()[1]].me
    cluster.step(follower, Received(other, Append(node.cluster, node.term + 1, last, (second,), 0, 1)))
    released = cluster.step(follower, Persisted(stale)).sends

    assert all(s.message.term == node.term for s in released)
    assert cluster.nodes[follower].durable_index < second.index


def founders(tmp_path, drop):
    cluster = Disks(tmp_path)
    cluster.drop = drop
    for name in "abc":
        cluster.start(name)
    cluster.run(1000)
    return cluster, *sorted(cluster.nodes, key=lambda n: cluster.nodes[n].me)


def test_a_founder_that_signed_does_not_sign_another_genesis_after_a_restart(tmp_path):
    cluster, collector, signer, _ = founders(tmp_path, lambda s, t, m: isinstance(m, GenesisSignature))
    cluster.crash(signer)
    cluster.start(signer)
    cluster.drop = lambda *_: False
    signed = []
    cluster.drop = lambda s, t, m: s == signer and isinstance(m, GenesisSignature) and signed.append(m)
    cluster.run(5000)

    assert signed == []
    assert cluster.nodes[collector].cluster is None


def test_a_collector_that_restarts_frees_the_signatures_that_it_can_no_longer_use(tmp_path):
    cluster, collector, _, _ = founders(tmp_path, lambda s, t, m: isinstance(m, GenesisSignature))
    cluster.crash(collector)
    cluster.drop = lambda *_: False
    cluster.start(collector)
    cluster.elect()

    assert len({n.cluster for n in cluster.nodes.values()}) == 1
