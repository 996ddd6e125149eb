"""The durable state of a trust_disk member: its identity, and term, vote and log.

    <directory>/identity.pem    the incarnation's private key, PKCS #8, readable by its owner only
    <directory>/log, log.*      ``node.storage.file``

Either both are there or neither. A key without the log that it voted by would make a voter that has forgotten
its promises. So without a log there is a new key, and a new incarnation, which has promised nothing yet (rule
R1).
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation import files
from enclave.identity import Identity
from node.errors import CorruptStorageError
from node.peers import Incarnation
from node.storage.file import FileStorage, is_there

KEY_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDisk:
    """An open directory of a member. ``storage.close`` lets another process open it."""

    identity: Identity
    storage: FileStorage


def open_member_disk(directory: Path, name: str, now: datetime, *, hosts: Sequence[str] = ()) -> MemberDisk:
    """Go on as the incarnation that the directory holds; otherwise begin as a new one.

    Args:
        directory: made if it is absent.
        name: the node's.
        now: aware UTC time.
        hosts: see ``Identity.generate``.

    Raises:
        CorruptStorageError: the directory does not hold what was written, holds parts that do not match, or
            is in use by another process.
    """
    files.make_directory(directory, mode=0o700)
    key_file, log_file = directory / "identity.pem", directory / "log"
    with _alone_in(directory):
        if is_there(log_file):
            identity = Identity.of_key(_load_key(key_file), name, now, hosts=hosts)
        else:
            identity = Identity.generate(name, now, hosts=hosts)
            _save_key(key_file, identity)
        storage = FileStorage(log_file, Incarnation(identity.name, identity.peer_id))
    return MemberDisk(identity=identity, storage=storage)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Lock the directory: of two first starts at once, one would run under a key that the other replaced."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        raise CorruptStorageError(f"{directory} is in use by another process") from exc
    try:
        yield
    finally:
        os.close(handle)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        data = files.read_bytes(path, bytes_max=KEY_BYTES_MAX, secret=True)
        key = load_pem_private_key(data, password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise CorruptStorageError(
            f"{path}, the identity that wrote the log beside it, cannot be read: {exc}. "
            "hint: remove the whole directory; the node then joins as a new incarnation"
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CorruptStorageError(f"{path} is not a P-256 key")
    return key


def _save_key(path: Path, identity: Identity) -> None:
    """Make the key durable before the member promises anything under it."""
    files.replace(path, identity.private_key_pem(), mode=0o600, durable=True)
