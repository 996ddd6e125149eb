"""A trust_disk member is the incarnation whose promises its disk holds, or a new one that has made none."""

import os
import stat
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.raft.events import SaveVote
from node.storage import member
from node.storage.member import open_member_disk

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def opened(directory):
    return open_member_disk(directory, "n", NOW)


def closed(directory):
    """Open a new disk, vote, close it; return who voted."""
    disk = opened(directory)
    disk.storage.persist([SaveVote(7, Incarnation("n", disk.identity.peer_id))])
    disk.storage.close()
    return disk.identity


def test_a_restarted_member_is_the_same_incarnation_and_knows_its_vote(tmp_path):
    before = closed(tmp_path / "disk")
    again = opened(tmp_path / "disk")
    again.storage.close()
    assert again.identity.peer_id == before.peer_id
    assert again.storage.recovered.term == 7


def test_two_first_starts_at_once_choose_one_identity(tmp_path, monkeypatch):
    """Else the first would run under a key that the second has replaced, and could never start again."""
    directory = tmp_path / "disk"
    refused = []

    def meanwhile(path, identity):
        with pytest.raises(CorruptStorageError, match="in use") as caught:
            opened(directory)
        refused.append(caught.value)
        save(path, identity)

    save = member._save_key
    monkeypatch.setattr(member, "_save_key", meanwhile)
    first = opened(directory)
    first.storage.close()
    monkeypatch.undo()

    assert len(refused) == 1
    again = opened(directory)
    again.storage.close()
    assert again.identity.peer_id == first.identity.peer_id


def test_a_key_is_durable_and_so_is_its_name_before_there_is_a_log(tmp_path, monkeypatch):
    directory = tmp_path / "disk"
    synced = []
    fsync = os.fsync

    def sync(handle):
        fsync(handle)
        names = sorted(entry.name for entry in directory.iterdir())
        synced.append(
            (os.fstat(handle).st_ino, ["staged" if name.endswith(".new") else name for name in names])
        )

    monkeypatch.setattr(os, "fsync", sync)
    opened(directory).storage.close()

    key, folder = (directory / "identity.pem").stat().st_ino, directory.stat().st_ino
    assert synced[:2] == [(key, ["staged"]), (folder, ["identity.pem"])]


def test_a_new_directory_gives_a_new_incarnation_with_nothing_recovered(tmp_path):
    first, second = opened(tmp_path / "a"), opened(tmp_path / "b")
    first.storage.close()
    second.storage.close()
    assert first.identity.peer_id != second.identity.peer_id
    assert first.storage.recovered is None


def test_a_key_whose_log_is_gone_never_votes_again(tmp_path):
    before = closed(tmp_path / "disk")
    (tmp_path / "disk" / "log").unlink()
    again = opened(tmp_path / "disk")
    again.storage.close()
    assert again.identity.peer_id != before.peer_id


@pytest.mark.parametrize("left", ["log.1", "log.snapshot.7"])
def test_a_log_that_lacks_its_newest_part_stops_the_start_and_keeps_the_key(tmp_path, left):
    before = closed(tmp_path / "disk")
    (tmp_path / "disk" / "log").rename(tmp_path / "disk" / left)
    with pytest.raises(CorruptStorageError, match="log is missing, and other parts of the log are there"):
        opened(tmp_path / "disk")
    assert (tmp_path / "disk" / "identity.pem").read_bytes() == before.private_key_pem()


@pytest.mark.parametrize("damage", ["absent", "garbage", "another", "other curve"])
def test_a_log_without_the_key_that_wrote_it_stops_the_start(tmp_path, damage):
    closed(tmp_path / "disk")
    key_file = tmp_path / "disk" / "identity.pem"
    match damage:
        case "absent":
            key_file.unlink()
        case "garbage":
            key_file.write_bytes(b"-----BEGIN PRIVATE KEY-----")
        case "another":
            key_file.write_bytes(closed(tmp_path / "other").private_key_pem())
        case _:
            key = ec.generate_private_key(ec.SECP384R1())
            key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CorruptStorageError):
        opened(tmp_path / "disk")


def test_two_processes_never_share_an_incarnation(tmp_path):
    first = opened(tmp_path / "disk")
    with pytest.raises(CorruptStorageError, match="in use"):
        opened(tmp_path / "disk")
    first.storage.close()


def test_the_key_is_for_its_owner_only(tmp_path):
    closed(tmp_path / "disk")
    assert stat.S_IMODE((tmp_path / "disk" / "identity.pem").stat().st_mode) == 0o600
