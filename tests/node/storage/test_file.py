"""What a trust_disk member promised is there after a crash, or the member does not start."""

import fcntl
import os
from itertools import count
from pathlib import Path

import pytest

from node.errors import CorruptStorageError
from node.raft.entries import EMPTY_PAYLOAD, make_entry
from node.raft.events import SaveEnd, SaveEntries, SaveTruncation, SaveVote
from node.raft.messages import DISSOLVED_MAX
from node.raft.types import LOG_START, EntryKind, Position
from node.storage.file import SPACE_BYTES, FileStorage
from tests.node.raft.cluster import inc

ME = inc("a")


def entries(count, term=1, after=LOG_START, payload=EMPTY_PAYLOAD):
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


def test_the_term_begins_anew_with_an_empty_log_and_only_then(path):
    # A member that left a cluster which gave itself up enters the next one at a lower term.
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(7, None), SaveEntries(entries(2))])
    storage.persist([SaveTruncation(0), SaveVote(0, None)])
    storage.persist([SaveVote(1, inc("b")), SaveEntries(entries(1))])
    storage.close()

    recovered = reopen(path)
    assert (recovered.term, recovered.voted_for, len(recovered.entries)) == (1, inc("b"), 1)

    storage = FileStorage(path, ME)
    storage.persist([SaveVote(0, None)])
    storage.close()
    with pytest.raises(CorruptStorageError, match="bytes that are not a record"):
        FileStorage(path, ME)


def test_the_clusters_that_ended_are_remembered_the_last_of_them(path):
    clusters = [bytes([number]) * 32 for number in range(DISSOLVED_MAX + 6)]
    storage = FileStorage(path, ME)
    for cluster in clusters[:-1]:
        storage.persist([SaveVote(1, None), SaveEntries(entries(2))])
        storage.persist([SaveEnd(cluster), SaveTruncation(0), SaveVote(0, None)])
    storage.close()

    assert reopen(path).ended == tuple(clusters[5:-1])
    storage = FileStorage(path, ME)  # compacted since
    storage.persist([SaveEnd(clusters[-1])])
    storage.close()
    assert reopen(path).ended == tuple(clusters[6:])


@pytest.mark.parametrize("left", [SPACE_BYTES - 1, 4096, 600])
def test_a_file_that_was_cut_is_refused_though_what_is_left_is_whole(path, left):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(1, None), SaveEntries(entries(2))])
    for number in range(2, 20):
        storage.persist([SaveVote(number, None)])
    storage.close()
    path.write_bytes(path.read_bytes()[:left])

    with pytest.raises(CorruptStorageError):
        FileStorage(path, ME)


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
        before, again = reopen(path), reopen(path)

        assert before == again
        assert (before.term, len(before.entries)) == (1, 2)
        for older in path.parent.glob("log.[0-9]*"):
            older.unlink()


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


def torn(path):
    """Leave a log whose last write a crash tore, so that the next start begins another segment."""
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b")), SaveEntries(entries(20))])
    storage.persist([SaveVote(4, None)])
    storage.close()
    whole = path.read_bytes()
    last = len(used(path)) - 1
    path.write_bytes(whole[:last] + b"\xff" + whole[last + 1 :])


def test_a_segment_is_durable_before_it_has_the_name_and_the_name_before_a_promise(path, monkeypatch):
    torn(path)
    done = []
    fsync, rename, link = os.fsync, Path.rename, os.link

    def sync(handle):
        fsync(handle)
        done.append(("sync", os.fstat(handle).st_ino))

    def put(source, target):
        rename(source, target)
        done.append(("rename", target.stat().st_ino))

    def keep(source, target):
        link(source, target)
        done.append(("keep", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", keep)
    monkeypatch.setattr(Path, "rename", put)
    FileStorage(path, ME).close()

    older, newest = path.with_name("log.1").stat().st_ino, path.stat().st_ino
    directory = path.parent.stat().st_ino
    assert done == [("keep", older), ("sync", newest), ("rename", newest), ("sync", directory)]


def test_what_a_start_finds_is_durable_before_it_is_relied_upon(path, monkeypatch):
    """A process that was killed may have left writes that the disk does not have yet."""
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b"))])
    storage.close()
    synced = []
    fsync = os.fsync

    def sync(handle):
        fsync(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    storage = FileStorage(path, ME)
    assert synced == [path.stat().st_ino]
    storage.close()


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open", "rename", "link"])
def test_a_start_that_fails_anywhere_loses_nothing(path, monkeypatch, call):
    torn(path)
    failures = 0
    for number in range(100):
        with monkeypatch.context() as patch:
            fail_at(patch, call, number)
            try:
                FileStorage(path, ME).close()
                break
            except OSError:
                failures += 1

    assert failures >= 1
    for _ in range(2):
        recovered = reopen(path)
        assert (recovered.term, recovered.voted_for, recovered.entries) == (3, inc("b"), entries(20))


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
