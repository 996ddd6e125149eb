"""A fake of the kernel's configfs-tsm tree, with the semantics of drivers/virt/coco/guest/report.c.

``FakeTsm`` is the model. It is offered in two ways, and one test suite runs over both:

    FakeTree      the model behind ``enclave.tsm.ReportTree``: everywhere
    mounted()     the model as a real file system through FUSE, so that the very file operations (mkdir,
                  open, write, close, read, rmdir) of ``enclave.tsm.ConfigfsTree`` run: where /dev/fuse is

What it keeps of the kernel: attributes appear with mkdir and go with rmdir; a binary write is buffered,
takes effect when the file is closed, and its error is lost then; every effective write counts up
``generation``; outblob is made when it is read, under one lock, and cached until the next write; inblob of
another size than 64 makes outblob EINVAL; errors arise where the documents put them (A13.1).
"""

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

INBLOB_BYTES_MAX = 64


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@dataclass
class Report:
    """One report directory."""

    inblob: bytes | None = None
    write_generation: int = 0
    read_generation: int = -1
    outblob: bytes = b""


@dataclass
class FakeTsm:
    """The model. Tests set its fields; each list of errors is used up from the front.

    Attributes:
        quote: makes the report from 64 bytes, or raises OSError as a provider would.
        provider: None: no provider is registered, so mkdir gives ENXIO.
        present: False: configfs-tsm itself is not there.
        lost_writes: this many effective writes fail, without an error, as errors at close do.
        before_read: is called before outblob is made: somebody else's hand in the directory.
        calls: every operation, in order.
    """

    quote: Callable[[bytes], bytes]
    provider: str | None = "tdx_guest"
    present: bool = True
    mkdir_errors: list[int] = field(default_factory=list)
    write_errors: list[int] = field(default_factory=list)
    outblob_errors: list[int] = field(default_factory=list)
    rmdir_errors: list[int] = field(default_factory=list)
    lost_writes: int = 0
    before_read: Callable[[str], None] | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def make(self, name: str) -> None:
        self.calls.append(("mkdir", name))
        if not self.present:
            raise failed(errno.ENOENT)
        if self.mkdir_errors:
            raise failed(self.mkdir_errors.pop(0))
        if self.provider is None:
            raise failed(errno.ENXIO)
        if name in self.reports:
            raise failed(errno.EEXIST)
        self.reports[name] = Report()

    def remove(self, name: str) -> None:
        self.calls.append(("rmdir", name))
        if self.rmdir_errors:
            raise failed(self.rmdir_errors.pop(0))
        if self.reports.pop(name, None) is None:
            raise failed(errno.ENOENT)

    def names(self) -> list[str]:
        if not self.present:
            raise failed(errno.ENOENT)
        return sorted(self.reports)

    def accept_write(self, name: str, attribute: str, size: int) -> None:
        """What write(2) itself answers; the effect comes with :meth:`close_write`."""
        self._report(name)
        if attribute != "inblob":
            raise failed(errno.EACCES)
        if self.write_errors:
            raise failed(self.write_errors.pop(0))
        if size > INBLOB_BYTES_MAX:
            raise failed(errno.EFBIG)

    def close_write(self, name: str, attribute: str, data: bytes) -> None:
        self.calls.append(("write", attribute, data.hex()))
        if self.lost_writes:
            self.lost_writes -= 1
            return
        report = self._report(name)
        report.inblob = data
        report.write_generation += 1

    def content(self, name: str, attribute: str) -> bytes:
        """What the first read(2) of an attribute makes."""
        self.calls.append(("read", attribute))
        report = self._report(name)
        if attribute == "provider":
            if self.provider is None:
                raise failed(errno.ENXIO)
            return f"{self.provider}\n".encode()
        if attribute == "generation":
            return f"{report.write_generation}\n".encode()
        if attribute != "outblob":
            raise failed(errno.EACCES)
        if self.before_read is not None:
            self.before_read(name)
        if self.outblob_errors:
            raise failed(self.outblob_errors.pop(0))
        if report.inblob is None or len(report.inblob) != INBLOB_BYTES_MAX:
            raise failed(errno.EINVAL)
        if report.read_generation != report.write_generation:
            report.outblob = self.quote(report.inblob)
            report.read_generation = report.write_generation
        return report.outblob

    def _report(self, name: str) -> Report:
        try:
            return self.reports[name]
        except KeyError:
            raise failed(errno.ENOENT) from None


class FakeTree:
    """The model as the file operations that the attester asks for."""

    def __init__(self, tsm: FakeTsm) -> None:
        self._tsm = tsm

    def names(self) -> list[str]:
        return self._tsm.names()

    def make(self, name: str) -> None:
        self._tsm.make(name)

    def remove(self, name: str) -> None:
        self._tsm.remove(name)

    def read(self, name: str, attribute: str, *, bytes_max: int) -> bytes:
        return self._tsm.content(name, attribute)[:bytes_max]

    def write(self, name: str, attribute: str, data: bytes) -> None:
        self._tsm.accept_write(name, attribute, len(data))
        self._tsm.close_write(name, attribute, data)


# ---- through FUSE -----------------------------------------------------------------------------------

_MODES = {"inblob": 0o200, "outblob": 0o400, "provider": 0o400, "generation": 0o400}


def fuse_or_skip() -> Any:
    """Return the FUSE binding, or skip the test, naming what is missing."""
    if not Path("/dev/fuse").exists() or os.geteuid() != 0:
        pytest.skip("needs root and /dev/fuse to mount the fake tree")
    try:
        return __import__("mfusepy")
    except (ImportError, OSError) as exc:
        pytest.skip(f"needs mfusepy and libfuse (apt-get install libfuse3-3): {exc}")


@contextlib.contextmanager
def mounted(tsm: FakeTsm, directory: Path) -> Iterator[Path]:
    """Mount the model at ``directory`` until the block ends."""
    fuse = fuse_or_skip()
    ready = threading.Event()

    def serve() -> None:
        fuse.FUSE(
            _operations(fuse, tsm, ready), str(directory), foreground=True, nothreads=True, direct_io=True
        )

    thread = threading.Thread(target=serve, name="fuse", daemon=True)
    thread.start()
    try:
        assert ready.wait(10), "the fake tree was not mounted"
        yield directory
    finally:
        _unmount(directory)
        thread.join(10)
        assert not thread.is_alive(), "the fake tree was not unmounted"


def _unmount(directory: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(str(directory).encode(), 0) != 0:
        raise failed(ctypes.get_errno())


def _operations(fuse: Any, tsm: FakeTsm, ready: threading.Event) -> Any:
    class Operations(fuse.Operations):  # type: ignore[misc]  # mfusepy has no types
        """Report directories as files. One handle is one open file, with its own buffer."""

        use_ns = True

        def __init__(self) -> None:
            self._handles: dict[int, bytes | None] = {}
            self._next = 1

        def init(self, path: str) -> None:
            ready.set()

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            name, attribute = _split(path)
            if not name:
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if name not in tsm.reports or (attribute and attribute not in _MODES):
                raise fuse.FuseOSError(errno.ENOENT)
            if not attribute:
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            return {"st_mode": stat.S_IFREG | _MODES[attribute], "st_nlink": 1, "st_size": 4096}

        def readdir(self, path: str, fh: int) -> list[str]:
            name, _ = _split(path)
            return [".", "..", *(_MODES if name else tsm.names())]

        def mkdir(self, path: str, mode: int) -> None:
            self._do(tsm.make, _split(path)[0])

        def rmdir(self, path: str) -> None:
            self._do(tsm.remove, _split(path)[0])

        def open(self, path: str, flags: int) -> int:
            self._next += 1
            self._handles[self._next] = None
            return self._next

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            held = self._handles[fh]
            if held is None:
                held = self._handles[fh] = self._do(tsm.content, *_split(path))
            return held[offset : offset + size]

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            held = (self._handles[fh] or b"")[:offset] + data
            self._do(tsm.accept_write, *_split(path), len(held))
            self._handles[fh] = held
            return len(data)

        # Flush is what close(2) waits for; release comes later, from nobody in particular.
        def flush(self, path: str, fh: int) -> None:
            name, attribute = _split(path)
            held = self._handles[fh]
            if attribute == "inblob" and held is not None:
                self._handles[fh] = None
                tsm.close_write(name, attribute, held)

        def release(self, path: str, fh: int) -> None:
            self._handles.pop(fh, None)

        @staticmethod
        def _do(operation: Callable[..., Any], *args: Any) -> Any:
            try:
                return operation(*args)
            except OSError as exc:
                raise fuse.FuseOSError(exc.errno) from exc

    return Operations()


def _split(path: str) -> tuple[str, str]:
    name, _, attribute = path.strip("/").partition("/")
    return name, attribute
