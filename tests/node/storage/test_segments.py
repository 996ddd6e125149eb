"""The log is cut by whole segments behind a durable snapshot, and neither is used if the other is not whole."""

import os
import tracemalloc
from pathlib import Path

import pytest

from attestation.files import FileError
from node.errors import CorruptStorageError, SnapshotFileError
from node.raft.events import SaveBase, SaveEntries, SaveTruncation, SaveVote
from node.raft.types import LOG_START, Position
from node.storage import file as file_storage
from node.storage import snapshot as snapshot_file
from node.storage.file import FileStorage
from node.sync.evidence import Anchor
from node.sync.image import Cutter
from node.sync.keeper import Snapshot
from tests.node.raft.cluster import inc
from tests.node.storage.test_file import ME, entries, reopen, torn

SEGMENT = 8192


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(file_storage, "SEGMENT_BYTES", SEGMENT)
    monkeypatch.setattr(file_storage, "SPACE_BYTES", 4096)
    return tmp_path / "log"


def place(entry):
    return Position(entry.term, entry.index, entry.chain)


def snapshot_at(entry, data=b"a state of some chunks", chunk_bytes=8):
    cutter = Cutter(chunk_bytes)
    cutter.add(data)
    cutter.end()
    return Snapshot.of(Anchor(entry.term, entry.index, entry.chain), cutter)


def store(storage, snapshot):
    for _ in storage.store(snapshot):
        pass


def append(storage, count, after=LOG_START, size=1000):
    """Write as many entries one after the other, and return them."""
    made = entries(count, after=after, payload=bytes(size))
    for entry in made:
        storage.persist([SaveEntries((entry,))])
    return made


def names(path):
    return sorted(other.name for other in path.parent.iterdir() if other.suffix != ".lock")


def based(path, at=30, count=40):
    """Leave a log of ``count`` entries that begins behind entry ``at``, and its snapshot."""
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b"))])
    log = append(storage, count)
    snapshot = snapshot_at(log[at - 1])
    store(storage, snapshot)
    storage.persist([SaveBase(snapshot.evidence)])
    storage.close()
    return log, snapshot


def snapshot_of(path):
    return next(path.parent.glob("log.snapshot.*"))


# ---- segments ---------------------------------------------------------------
def test_a_full_segment_is_followed_by_another_and_all_are_read(path):
    storage = FileStorage(path, ME)
    storage.persist([SaveVote(3, inc("b"))])
    log = append(storage, 30)
    storage.close()

    assert len(names(path)) > 3
    recovered = reopen(path)
    assert (recovered.term, recovered.voted_for, recovered.entries) == (3, inc("b"), log)
    assert reopen(path) == recovered


def test_a_start_goes_on_in_the_segment_that_it_finds(path):
    log = ()
    for _ in range(50):
        storage = FileStorage(path, ME)
        log += append(storage, 1, place(log[-1]) if log else LOG_START, size=10)
        storage.close()

    assert len(names(path)) == 1 + 50 * 1024 // SEGMENT // 2
    assert reopen(path).entries == log


def test_a_base_deletes_whole_segments_before_it_and_rewrites_nothing(path):
    storage = FileStorage(path, ME)
    log = append(storage, 39)
    before = {name: (path.with_name(name).stat().st_ino) for name in names(path)}
    snapshot = snapshot_at(log[29])
    store(storage, snapshot)
    storage.persist([SaveBase(snapshot.evidence)])

    after = {name: (path.with_name(name).stat().st_ino) for name in names(path)}
    gone = sorted(set(before) - set(after))
    assert gone == [f"log.{number}" for number in range(1, 7)]
    assert after == {name: node for name, node in before.items() if name not in gone} | {
        "log.snapshot.30": path.with_name("log.snapshot.30").stat().st_ino
    }
    more = append(storage, 5, place(log[-1]))
    storage.close()
    recovered = reopen(path)
    assert recovered.entries == log[30:] + more
    assert recovered.snapshot.evidence == snapshot.evidence


def test_the_files_take_no_more_than_what_follows_the_base_however_long_the_member_writes(path):
    storage = FileStorage(path, ME)
    last, most = LOG_START, 0
    for _ in range(30):
        log = append(storage, 20, last)
        last = place(log[-1])
        snapshot = snapshot_at(log[15])
        store(storage, snapshot)
        storage.persist([SaveBase(snapshot.evidence)])
        most = max(most, sum(other.stat().st_size for other in path.parent.iterdir()))
        assert len(list(path.parent.glob("log.snapshot.*"))) == 1
    storage.close()

    assert most <= 4 * SEGMENT + 20 * 1536
    assert len(reopen(path).entries) == 4


def test_a_segment_to_whose_entries_a_later_one_went_back_is_kept(path):
    """The later segment does not know the chain there."""
    storage = FileStorage(path, ME)
    log = append(storage, 12)
    assert names(path) == ["log", "log.1", "log.2"]
    at = log[storage._segments[-1].begin - 2]
    storage.persist([SaveTruncation(at.index)])
    other = append(storage, 30, place(at), size=1001)
    early, late = snapshot_at(other[0]), snapshot_at(other[25])
    store(storage, early)
    storage.persist([SaveBase(early.evidence)])
    assert "log.2" in names(path)  # the next one begins before the base too
    storage.close()
    assert reopen(path).entries == other[1:]

    storage = FileStorage(path, ME)
    store(storage, late)
    storage.persist([SaveBase(late.evidence)])
    storage.close()
    assert "log.3" not in names(path)
    assert reopen(path).entries == other[26:]


@pytest.mark.parametrize("deleted", [1, 2, 3])
def test_a_cut_that_a_crash_interrupted_goes_on_at_the_next_start(path, monkeypatch, deleted):
    """Even where what is left would begin with a segment that goes back behind its begin."""
    storage = FileStorage(path, ME)
    log = append(storage, 12)
    at = log[storage._segments[-1].begin - 2]
    storage.persist([SaveTruncation(at.index)])
    other = append(storage, 30, place(at), size=1001)
    late = snapshot_at(other[25])
    store(storage, late)
    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "_cut", lambda _: None)
        storage.persist([SaveBase(late.evidence)])
    storage.close()
    for number in range(1, deleted + 1):
        path.with_name(f"log.{number}").unlink()

    assert reopen(path).entries == other[26:]
    assert not {"log.1", "log.2", "log.3"} & set(names(path))


def test_a_first_segment_that_goes_back_behind_its_begin_is_refused_without_a_base(path):
    storage = FileStorage(path, ME)
    log = append(storage, 12)
    at = log[storage._segments[-1].begin - 2]
    storage.persist([SaveTruncation(at.index)])
    append(storage, 30, place(at), size=1001)
    storage.close()
    path.with_name("log.1").unlink()
    path.with_name("log.2").unlink()
    with pytest.raises(CorruptStorageError, match="missing"):
        FileStorage(path, ME)


@pytest.mark.parametrize("at", [50, 4])
def test_a_segment_that_begins_right_after_a_fetched_state_follows_it(path, at):
    """The beginning named the last entry from before the fetch: the node could not be started again."""
    storage = FileStorage(path, ME)
    append(storage, 7, size=300)
    log = entries(60, payload=bytes(1000))  # of others: its own ones differ
    snapshot = snapshot_at(log[at - 1])
    store(storage, snapshot)
    storage.persist([SaveBase(snapshot.evidence)])
    for term in range(1, 40):
        storage.persist([SaveVote(term, None)])
    storage.persist([SaveEntries(log[at:])])
    storage.close()

    recovered = reopen(path)
    assert recovered.entries == log[at:]
    assert recovered.snapshot.evidence == snapshot.evidence


def test_a_state_that_was_fetched_takes_the_place_of_the_whole_log(path):
    storage = FileStorage(path, ME)
    append(storage, 20, size=900)
    log = entries(60, payload=bytes(1000))
    snapshot = snapshot_at(log[49])
    store(storage, snapshot)
    storage.persist([SaveBase(snapshot.evidence), SaveEntries(log[50:])])
    storage.close()

    recovered = reopen(path)
    assert recovered.entries == log[50:]
    assert recovered.snapshot.evidence == snapshot.evidence
    assert len(names(path)) == 2


def test_the_start_holds_one_segment_and_the_entries_behind_the_base_and_no_more(path, monkeypatch):
    monkeypatch.setattr(file_storage, "SEGMENT_BYTES", 256 * 1024)
    monkeypatch.setattr(file_storage, "_deleted", lambda _: False)  # so that all segments stay
    storage = FileStorage(path, ME)
    last = LOG_START
    for _ in range(20):
        log = append(storage, 10, last, size=20_000)
        last = place(log[-1])
        snapshot = snapshot_at(log[-1])
        store(storage, snapshot)
        storage.persist([SaveBase(snapshot.evidence)])
    storage.close()
    assert sum(other.stat().st_size for other in path.parent.iterdir()) > 4_000_000

    tracemalloc.start()
    reopen(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # a window of 1 MiB, ten entries, the body of one batch


# ---- a crash between two steps ------------------------------------------------
def test_the_start_of_a_segment_that_was_interrupted_leaves_both_names_on_one_file(path):
    torn(path)
    os.link(path, path.with_name("log.1"))
    recovered = reopen(path)
    assert recovered.entries == entries(20)
    assert reopen(path) == recovered


def test_a_snapshot_that_no_base_names_is_removed(path):
    log, snapshot = based(path)
    storage = FileStorage(path, ME)
    store(storage, snapshot_at(log[35]))
    making = storage.store(snapshot_at(log[37], bytes(3_000_000), 1 << 20))
    next(making)
    assert {"log.snapshot.36", "log.snapshot.38.new"} <= set(names(path))
    storage.close()
    recovered = reopen(path)

    assert recovered.snapshot.evidence == snapshot.evidence
    assert [name for name in names(path) if "snapshot" in name] == ["log.snapshot.30"]
    making.close()


def test_a_crash_before_the_old_segments_are_deleted_leaves_what_the_next_start_deletes(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "_cut", lambda _: None)
        log, _ = based(path)
        before = names(path)
    assert reopen(path).entries == log[30:]
    assert set(before) - set(names(path)) == {f"log.{number}" for number in range(1, 7)}


def test_a_snapshot_is_durable_before_it_has_its_name_and_the_name_before_it_is_reported(path, monkeypatch):
    storage = FileStorage(path, ME)
    log = append(storage, 3)
    done = []
    fsync, rename = os.fsync, Path.rename

    def sync(handle):
        fsync(handle)
        done.append(("sync", os.fstat(handle).st_ino))

    def put(source, target):
        rename(source, target)
        done.append(("rename", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", put)
    store(storage, snapshot_at(log[1]))
    storage.close()

    file, directory = snapshot_of(path).stat().st_ino, path.parent.stat().st_ino
    assert done == [("sync", file), ("rename", file), ("sync", directory)]


def test_the_log_is_written_between_two_slices_of_a_snapshot(path):
    storage = FileStorage(path, ME)
    log = append(storage, 3)
    making = storage.store(snapshot_at(log[1], bytes(5_000_000), 1 << 20))
    slices = 0
    for _ in making:
        slices += 1
        log += append(storage, 1, place(log[-1]))
    storage.close()

    assert slices == 4
    assert reopen(path).entries == log


# ---- the disk is full, or fails ------------------------------------------------
@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "fstatvfs"])
def test_a_snapshot_that_the_disk_refuses_leaves_no_file_and_the_log_goes_on(path, monkeypatch, call):
    log, _ = based(path)
    storage = FileStorage(path, ME)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="no space"):
            store(storage, snapshot_at(log[35]))
    assert [name for name in names(path) if "snapshot" in name] == ["log.snapshot.30"]
    log += append(storage, 2, place(log[-1]))
    store(storage, snapshot_at(log[35]))
    storage.close()

    assert reopen(path).entries == log[30:]


def refuse(*_):
    raise OSError("no space left on device")


def test_a_snapshot_leaves_the_log_some_space(path, monkeypatch):
    monkeypatch.setattr(snapshot_file, "SPARED_BYTES", 1 << 60)
    storage = FileStorage(path, ME)
    log = append(storage, 3)
    with pytest.raises(OSError, match="leave the log too little space"):
        store(storage, snapshot_at(log[1]))
    storage.close()
    assert names(path) == ["log"]


# ---- damaged and hostile files -------------------------------------------------
def refused(path, reason):
    """Require that the log is refused with ``reason``, twice, and nothing in the directory changes."""
    before = names(path)
    for _ in range(2):
        with pytest.raises(SnapshotFileError) as caught:
            FileStorage(path, ME)
        assert caught.value.reason == reason
        assert str(caught.value).endswith(f"({reason})")
        assert "\n" not in str(caught.value)
    assert names(path) == before


def test_a_log_without_the_snapshot_that_it_begins_behind_is_refused(path):
    based(path)
    snapshot_of(path).unlink()
    refused(path, "snapshot-missing")


def test_a_snapshot_with_any_flipped_byte_is_refused(path):
    based(path)
    target = snapshot_of(path)
    whole = target.read_bytes()
    for at in range(len(whole)):
        target.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SnapshotFileError) as caught:
            FileStorage(path, ME)
        assert caught.value.reason in ("snapshot-damaged", "snapshot-foreign")
    target.write_bytes(whole)
    assert reopen(path).snapshot is not None


@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: whole[:-20], lambda w: w + b"\0"])
def test_a_snapshot_that_is_shorter_or_longer_than_it_was_is_refused(path, change):
    based(path)
    target = snapshot_of(path)
    target.write_bytes(change(target.read_bytes()))
    refused(path, "snapshot-torn")


def test_a_snapshot_of_another_cluster_or_place_is_refused(path, tmp_path):
    based(path)
    other = tmp_path / "other" / "log"
    other.parent.mkdir()
    based(other, at=29)
    snapshot_of(path).write_bytes(snapshot_of(other).read_bytes())
    refused(path, "snapshot-foreign")


def test_an_empty_snapshot_is_refused(path):
    based(path)
    snapshot_of(path).write_bytes(b"")
    refused(path, "snapshot-damaged")


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_snapshot_that_is_no_regular_file_is_refused_without_waiting(path, tmp_path, kind):
    based(path)
    target = snapshot_of(path)
    moved = tmp_path / "elsewhere"
    target.rename(moved)
    make(kind, target, moved)
    refused(path, "snapshot-unreadable")


def make(kind, target, moved):
    match kind:
        case "link":
            target.symlink_to(moved)
        case "fifo":
            os.mkfifo(target)
        case _:
            target.mkdir()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_segment_that_is_no_regular_file_is_refused_without_waiting(path, tmp_path, kind):
    based(path)
    target = path.with_name("log.7")
    moved = tmp_path / "elsewhere"
    target.rename(moved)
    make(kind, target, moved)
    with pytest.raises(FileError, match=r"cannot open .*log\.7: "):
        FileStorage(path, ME)


def test_segments_that_are_missing_or_renamed_are_refused(path):
    storage = FileStorage(path, ME)
    append(storage, 40)
    storage.close()
    first, second = path.with_name("log.1"), path.with_name("log.2")
    whole = first.read_bytes()
    first.unlink()
    with pytest.raises(CorruptStorageError, match="segments before the first one that is there are missing"):
        FileStorage(path, ME)
    first.write_bytes(whole)
    second.rename(path.with_name("log.9"))
    with pytest.raises(CorruptStorageError, match="does not follow segment 1"):
        FileStorage(path, ME)
    path.with_name("log.9").rename(path.with_name("log.02"))
    with pytest.raises(CorruptStorageError, match=r"log\.02: it is segment 2"):
        FileStorage(path, ME)


def test_damage_in_a_segment_that_another_follows_is_refused(path):
    based(path, at=20)
    target = path.with_name("log.6")
    whole = bytearray(target.read_bytes())
    whole[5000] ^= 1
    target.write_bytes(whole)
    with pytest.raises(CorruptStorageError, match="does not follow segment 6"):
        FileStorage(path, ME)
