"""Files are opened in one place: without waiting, regular ones alone, bounded, never through somebody's link."""

import logging
import os
import socket
import stat
from pathlib import Path

import pytest

from attestation import files
from attestation.files import FileError


def kinds(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "to-fifo").symlink_to(folder / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.close()
    return {"absent": folder / "absent", **{p.name: p for p in folder.iterdir()}, "device": Path("/dev/zero")}


READ_ERRORS = {
    "absent": "No such file or directory",
    "fifo": "it is a FIFO, not a regular file",
    "to-fifo": "it is a FIFO, not a regular file",
    "directory": "it is a directory, not a regular file",
    "loop": "Too many levels of symbolic links",
    "socket": "No such device or address",
    "device": "it is a device, not a regular file",
}


@pytest.mark.parametrize("kind", READ_ERRORS)
def test_a_file_that_is_not_regular_is_refused_at_once_in_one_sentence_with_its_name(tmp_path, kind):
    path = kinds(tmp_path)[kind]
    with pytest.raises(FileError) as caught:
        files.read_bytes(path, bytes_max=10)
    assert str(caught.value) == f"cannot read {path}: {READ_ERRORS[kind]}"
    assert caught.value.absent == (kind == "absent")


def test_a_file_above_its_bound_is_refused_and_one_at_the_bound_is_not(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    assert files.read_bytes(path, bytes_max=10) == b"0123456789"
    with pytest.raises(FileError, match=r"/f is larger than 9 bytes"):
        files.read_bytes(path, bytes_max=9)


def test_a_link_to_a_regular_file_is_read(tmp_path):
    (tmp_path / "data").write_bytes(b"x")
    (tmp_path / "link").symlink_to("data")
    assert files.read_bytes(tmp_path / "link", bytes_max=1) == b"x"


def test_bytes_that_are_not_text_are_refused_with_the_files_name(tmp_path):
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(FileError, match="/f is not UTF-8 text"):
        files.read_text(tmp_path / "f", bytes_max=9)


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o666, True), (0o644, True), (0o660, True), (0o604, True), (0o640, False), (0o600, False)],
)
def test_a_secret_that_others_may_use_is_warned_of_once(tmp_path, caplog, mode, warned):
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        files.read_bytes(path, bytes_max=10, secret=True)
        files.read_bytes(path, bytes_max=10, secret=True)
    assert len(caplog.records) == warned
    if warned:
        assert f"{path} is a secret, but other users may read or change it (mode {mode:04o})" in caplog.text
        assert "b'secret'" not in caplog.text


def test_a_file_that_is_not_secret_causes_no_warning(tmp_path, caplog):
    path = tmp_path / "policy"
    path.write_bytes(b"x")
    path.chmod(0o666)
    files.read_bytes(path, bytes_max=10)
    assert not caplog.records


def test_replacing_writes_through_no_link_and_leaves_nothing_beside(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("freshness.new", ".freshness.cbor.new", "freshness.cbor.new", "freshness.cbor"):
        (tmp_path / name).symlink_to(victim)
    files.replace(tmp_path / "freshness.cbor", b"new", durable=True)
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "freshness.cbor").read_bytes() == b"new"
    assert not (tmp_path / "freshness.cbor").is_symlink()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*/f: No space left on device"):
        files.replace(path, b"new", durable=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_a_directory_is_refused_with_a_message(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*/f: Is a directory"):
        files.replace(tmp_path / "f", b"x")


def test_a_new_secret_is_the_owners_alone_and_never_overwrites(tmp_path):
    path = tmp_path / "token"
    files.create(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileError, match=r"cannot write .*/token: File exists"):
        files.create(path, b"two")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="File exists"):
        files.create(tmp_path / "link", b"two")
    assert path.read_bytes() == b"one"


def test_the_programs_own_files_are_not_opened_through_links_or_as_something_else(tmp_path):
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(FileError, match=r"cannot open .*/audit.jsonl: Too many levels of symbolic links"):
        files.open_own(tmp_path / "audit.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with pytest.raises(FileError, match="a FIFO"):
        files.open_own(tmp_path / "lock", os.O_RDWR | os.O_CREAT)


def test_an_output_may_be_anything_and_its_error_names_it(tmp_path):
    files.write_output(Path("/dev/null"), b"x")
    files.write_output(tmp_path / "out", b"x")
    assert (tmp_path / "out").read_bytes() == b"x"
    with pytest.raises(FileError, match=f"cannot write {tmp_path}: Is a directory"):
        files.write_output(tmp_path, b"x")


def test_a_directory_that_cannot_be_made_is_refused_with_a_message(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileError, match=r"cannot make the directory .*/f/x: Not a directory"):
        files.make_directory(tmp_path / "f" / "x")
