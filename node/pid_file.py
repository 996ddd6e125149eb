"""Which process runs a node, for the commands on the same machine that stop it.

``node.pid`` in the data directory has two lines: the process id, and the peer id of this incarnation in hex.
The process holds a lock on it as long as it lives, so a file that was left behind names nobody.
"""

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation import files
from attestation.files import FileError
from node.errors import ConfigError

NAME: Final = "node.pid"
BYTES_MAX: Final = 256


@contextmanager
def holding_pid_file(data_dir: Path, peer_id: bytes) -> Iterator[None]:
    """Name this process as the one that runs the node of ``data_dir``, while the context is open.

    Raises:
        ConfigError: the file cannot be written, or another process runs this node.
    """
    path = data_dir / NAME
    try:
        descriptor = files.open_own(path, os.O_RDWR | os.O_CREAT, mode=0o644)
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc
    try:
        if not _lock(descriptor):
            raise ConfigError(f"node.data_dir: another process runs a node in {data_dir}")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n{peer_id.hex()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node's process. ``handle``: a pidfd, so that a signal never reaches another process of that id."""

    peer_id: bytes
    handle: int

    def terminate(self) -> None:
        """Send SIGTERM: the node hands its leadership over, announces its end, and ends."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self.handle, signal.SIGTERM)

    def ends_within(self, seconds: float) -> bool:
        """Return whether the process ends within this time."""
        return bool(select.select([self.handle], [], [], seconds)[0])


@contextmanager
def running_node(data_dir: Path) -> Iterator[RunningNode]:
    """Find the process that runs the node of ``data_dir``.

    Raises:
        ConfigError: no process does, or the file is malformed.
    """
    path = data_dir / NAME
    nobody = ConfigError(f"no node runs in {data_dir}")
    try:
        descriptor = files.open_own(path, os.O_RDWR)
    except FileError as exc:
        raise (nobody if exc.absent else ConfigError(f"node.data_dir: {exc}")) from exc
    try:
        pid, peer_id = _read(path)
        handle = _open_process(pid)
        try:
            # Only now: the process that held the lock before ``handle`` was there could have ended meanwhile.
            if handle is None or _lock(descriptor):
                raise nobody
            if Path(f"/proc/{pid}").stat().st_uid != os.fstat(descriptor).st_uid:
                raise ConfigError(f"{path} names a process of another user than its own")
            yield RunningNode(peer_id, handle)
        finally:
            if handle is not None:
                os.close(handle)
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[int, bytes]:
    try:
        lines = files.read_text(path, bytes_max=BYTES_MAX).splitlines()
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc
    if not lines:
        raise ConfigError(f"no node runs in {path.parent}")
    match lines:
        case [pid, peer_id] if pid.isascii() and pid.isdigit() and len(pid) <= 10 and len(peer_id) == 64:
            try:
                return int(pid), bytes.fromhex(peer_id)
            except ValueError:
                pass
    raise ConfigError(f"{path} does not name a process and a peer id")


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
