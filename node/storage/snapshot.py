"""The file with the snapshot that the log of a trust_disk member begins behind.

    file = magic (24) length (2, big-endian) evidence chunk...

The evidence is the payload of a SNAPSHOT entry (``node.sync.evidence``), the same as in the log's base. The
file has its name only once all of it is durable, and the log names it only after that.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from attestation.files import FileError, open_own, sync_directory
from node.errors import SnapshotFileError
from node.sync.evidence import StateEvidence, encode_evidence
from node.sync.keeper import Snapshot
from node.sync.merkle import MerkleTree, leaf_of
from node.sync.packing import Chunks

MAGIC: Final = b"bondstone-snapshot/1\n\0\0\0"
STAGED: Final = ".new"  # ends the names of files in the making
SLICE_BYTES: Final = 1024 * 1024  # written and synced at a time: the log's own writes wait this long
SPARED_BYTES: Final = 32 * 1024 * 1024  # of free space that a snapshot leaves to the log
_LENGTH: Final = struct.Struct(">H")


def write_snapshot(path: Path, snapshot: Snapshot) -> Generator[None, None, None]:
    """Write ``snapshot`` to ``path`` in slices, one before each value that is yielded; then it is durable.

    A generator that is closed before its end, or that raises, leaves no file.

    Raises:
        OSError: the disk refuses it, or would have too little space left for the log.
    """
    staged = path.with_name(path.name + STAGED)
    staged.unlink(missing_ok=True)
    handle = open_own(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            _require_space(handle, snapshot.evidence.size)
            yield from _write_slices(handle, snapshot)
            os.fsync(handle)
        finally:
            os.close(handle)
        staged.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    sync_directory(path.parent)


def read_snapshot(path: Path, evidence: StateEvidence) -> Snapshot:
    """Return the snapshot in ``path``, which is the one that ``evidence`` is about.

    Raises:
        SnapshotFileError: it is not.
    """
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            return _read(path, file, evidence)
    except FileError as exc:
        if exc.absent:
            raise SnapshotFileError("snapshot-missing", f"{path}: the log begins behind this file") from exc
        raise SnapshotFileError("snapshot-unreadable", str(exc)) from exc
    except OSError as exc:
        raise SnapshotFileError("snapshot-unreadable", f"cannot read {path}: {exc.strerror}") from exc


def _head(evidence: StateEvidence) -> bytes:
    encoded = encode_evidence(evidence)
    return MAGIC + _LENGTH.pack(len(encoded)) + encoded


def _require_space(handle: int, size: int) -> None:
    """A log that finds no space ends its member; without a snapshot the member goes on."""
    disk = os.fstatvfs(handle)
    if disk.f_bavail * disk.f_frsize < size + SPARED_BYTES:
        raise OSError(errno.ENOSPC, f"a snapshot of {size} bytes would leave the log too little space")


def _write_slices(handle: int, snapshot: Snapshot) -> Iterator[None]:
    held = bytearray(_head(snapshot.evidence))
    for piece in snapshot.pieces():
        held += piece
        if len(held) >= SLICE_BYTES:
            _write(handle, held)
            held.clear()
            yield
    _write(handle, held)


def _write(handle: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    view.release()
    os.fdatasync(handle)


def _read(path: Path, file: BinaryIO, evidence: StateEvidence) -> Snapshot:
    head = _head(evidence)
    found = file.read(len(head))
    if not found.startswith(MAGIC):
        raise SnapshotFileError("snapshot-damaged", f"{path} is not a bondstone snapshot of this version")
    if found != head:
        raise SnapshotFileError(
            "snapshot-foreign", f"{path} has the state of another cluster or place than the log begins behind"
        )
    size = file.seek(0, os.SEEK_END) - len(head)
    if size != evidence.size:
        raise SnapshotFileError(
            "snapshot-torn", f"{path} has {size} bytes of a snapshot of {evidence.size} bytes"
        )
    file.seek(len(head))
    chunks, leaves = Chunks(), []
    for _ in range(evidence.count):
        chunk = file.read(evidence.chunk_bytes)
        chunks.append(chunk)
        leaves.append(leaf_of(chunk))
    tree = MerkleTree(leaves)
    if tree.root != evidence.root:
        raise SnapshotFileError("snapshot-damaged", f"{path} is not what the group agreed on")
    return Snapshot(evidence, chunks, tree)
