"""The one place that opens files.

The host owns the disk, and people mistype names: a name may lead to a FIFO that blocks the process that opens
it, a device, a directory, a link to another place, or an endless file. So every file is opened without
waiting, must be a regular file, and is read up to a bound. A file that is written beside others is always
a new file, never one that was there. Every failure is a ``FileError``: one sentence with the file's name.

Kernel interfaces that look like files (``enclave.tsm``) have their own rules.
"""

import contextlib
import errno
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Final

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_OWN: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW
_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Only the file's owner and its group may read a secret; only the owner may change it.
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP

_log = logging.getLogger(__name__)
_warned: set[tuple[str, int]] = set()


class FileError(OSError):
    """A file cannot be used. The text is one sentence that names it.

    ``errno`` is the system's, if the system refused it.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno

    @property
    def absent(self) -> bool:
        """True if there is no file of that name."""
        return self.errno == errno.ENOENT

    def __str__(self) -> str:
        return str(self.args[0])


def read_bytes(path: Path, *, bytes_max: int, secret: bool = False) -> bytes:
    """Return what is in a file.

    Args:
        path: a link is followed.
        bytes_max: a larger file is refused.
        secret: a key or a token: a warning is logged if other users may read or change it.

    Raises:
        FileError: it is not there, no regular file, too large, or cannot be read.
    """
    with open_to_read(path) as file:
        if secret:
            warn_of_mode(path, os.fstat(file.fileno()).st_mode)
        try:
            data = file.read(bytes_max + 1)
        except OSError as exc:
            raise _error("read", path, exc) from exc
    if len(data) > bytes_max:
        raise FileError(f"{path} is larger than {bytes_max} bytes")
    return data


def read_text(path: Path, *, bytes_max: int, secret: bool = False) -> str:
    """Return the UTF-8 text of a file, as ``read_bytes``.

    Raises:
        FileError: as there; or it is not text.
    """
    try:
        return read_bytes(path, bytes_max=bytes_max, secret=secret).decode()
    except UnicodeDecodeError as exc:
        raise FileError(f"{path} is not UTF-8 text") from exc


def open_to_read(path: Path) -> BinaryIO:
    """Return a regular file, open for reading; a link is followed.

    Raises:
        FileError: it is not there, no regular file, or cannot be opened.
    """
    return os.fdopen(_open(path, _READ, 0, "read"), "rb")


def open_own(path: Path, flags: int, *, mode: int = 0o600) -> int:
    """Return a descriptor of one of the program's own files, such as a log or a lock; no link is followed.

    Args:
        path: the file.
        flags: of ``os.open``: how to open it, and whether to make it.
        mode: the mode of a new file.

    Raises:
        FileError: it is a link or no regular file, or cannot be opened.
    """
    return _open(path, flags | _OWN, mode, "open")


def create(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a new file, readable by its owner alone unless ``mode`` allows more.

    Raises:
        FileError: there is something of that name, or it cannot be written.
    """
    descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, mode, "write")
    try:
        _write(descriptor, data, durable=False)
    except OSError as exc:
        with contextlib.suppress(OSError):
            path.unlink()
        raise _error("write", path, exc) from exc


def replace(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Put a new file in the place of ``path``, as a whole or not at all.

    The data is written beside it, under a name that does not exist yet, so a link that an attacker put there
    is not followed. A link at ``path`` itself is replaced, not followed.

    Args:
        path: the file to replace.
        data: its new content.
        mode: of the new file.
        durable: return only when it is on the disk.

    Raises:
        FileError: it cannot be written; ``path`` is as it was.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, mode)
        try:
            _write(descriptor, data, durable=durable)
            staged.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise
        if durable:
            sync_directory(path.parent)
    except OSError as exc:
        raise _error("write", path, exc) from exc


def write_output(path: Path, data: bytes) -> None:
    """Write a user's output to the place that the user named, which may also be a FIFO or a device.

    Raises:
        FileError: it cannot be written.
    """
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as exc:
        raise _error("write", path, exc) from exc


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make a directory and its parents, unless it is there.

    Raises:
        FileError: it cannot be made.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as exc:
        raise FileError(f"cannot make the directory {path}: {_why(exc)}", errno=exc.errno) from exc


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises:
        FileError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise _error("remove", path, exc) from exc


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def warn_of_mode(path: Path, mode: int) -> None:
    """Log, once for each file and mode, that other users may read or change a secret."""
    permissions = stat.S_IMODE(mode)
    if permissions & _TOO_OPEN and (str(path), permissions) not in _warned:
        _warned.add((str(path), permissions))
        _log.warning(
            "%s is a secret, but other users may read or change it (mode %04o): run chmod 600 on it",
            path,
            permissions,
        )


def _open(path: Path, flags: int, mode: int, verb: str) -> int:
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as exc:
        raise _error(verb, path, exc) from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise FileError(f"cannot {verb} {path}: it is {kind}, not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, data: bytes, *, durable: bool) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _error(verb: str, path: Path, exc: OSError) -> FileError:
    return FileError(f"cannot {verb} {path}: {_why(exc)}", errno=exc.errno)


def _why(exc: OSError) -> str:
    return exc.strerror or str(exc)
