"""Quotes from configfs-tsm (Linux 6.7 and newer; A13.1).

    mkdir <root>/<name>          ENOENT: no configfs-tsm; ENXIO: no provider. Either way: no TD
    read provider                "tdx_guest"; otherwise this is another kind of machine
    read generation              g
    write 64 bytes to inblob     takes effect when the file is closed, and configfs drops its error
    read generation              g + 1; otherwise our write was lost (such as EBUSY), or is not the only one
    read outblob                 the quote; made now, under a lock of the whole machine
    read generation              still g + 1; otherwise another process wrote in between
    rmdir                        always

There is one directory per request, so that no request reads another's report. The generation is checked all
the same, and at the end the quote itself must carry the requested REPORTDATA. There is no other way to a
quote, and in particular no fallback to the mock.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from attestation import files
from attestation.errors import MalformedError
from attestation.eventlog.ccel import LOG_BYTES_MAX
from attestation.files import FileError
from attestation.quote.codec import QUOTE_BYTES_MAX, TDReport, parse_quote_untrusted
from enclave.attester import REPORT_DATA_BYTES
from enclave.errors import NotATrustDomainError, QuoteUnavailableError

REPORT_ROOT: Final = Path("/sys/kernel/config/tsm/report")
CCEL_PATH: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
PROVIDER: Final = "tdx_guest"

NAME_PREFIX: Final = "bondstone-"
TEXT_BYTES_MAX: Final = 256

BACKOFF_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 5.0)
"""Waits between attempts. Together more than 30 s: an abandoned request may stay in flight that long."""

_BUSY: Final = frozenset({errno.EBUSY, errno.EINTR, errno.EAGAIN, errno.EEXIST})
# The kernel has waited 30 s by itself, or the host refused: worth a few attempts, not all of them.
_HOST: Final = frozenset({errno.ETIMEDOUT, errno.EIO})
HOST_ATTEMPTS_MAX: Final = 3

_WHY: Final = {
    errno.EBUSY: "another quote request is still in flight",
    errno.EINTR: "a signal interrupted the request",
    errno.ETIMEDOUT: "the host's quote generation service did not answer within 30 seconds",
    errno.EIO: "the host refused the request or its quote generation service failed",
    errno.EINVAL: "the kernel did not take 64 bytes of REPORTDATA",
    errno.EFBIG: "the host delivered more than the kernel takes",
    errno.EACCES: "reports may be made by root only",
    errno.EPERM: "reports may be made by root only",
}


class ReportTree(Protocol):
    """The file operations that the protocol uses. Each raises OSError, as the kernel does."""

    def names(self) -> list[str]:
        """Return the names of the report directories that exist."""
        ...

    def make(self, name: str) -> None:
        """Make a report directory."""
        ...

    def remove(self, name: str) -> None:
        """Remove a report directory."""
        ...

    def read(self, name: str, attribute: str, *, bytes_max: int) -> bytes:
        """Return a whole attribute, or the first ``bytes_max`` bytes of it."""
        ...

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write a whole attribute with one write, and close it."""
        ...


class ConfigfsTree:
    """The kernel's own tree."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        return os.listdir(self._root)  # noqa: PTH208 - names, as configfs gives them

    def make(self, name: str) -> None:
        (self._root / name).mkdir(mode=0o700)

    def remove(self, name: str) -> None:
        (self._root / name).rmdir()

    def read(self, name: str, attribute: str, *, bytes_max: int) -> bytes:
        descriptor = os.open(self._root / name / attribute, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts: list[bytes] = []
            while (wanted := bytes_max - sum(map(len, parts))) > 0:
                part = os.read(descriptor, wanted)
                if not part:
                    break
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        descriptor = os.open(self._root / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.EIO, f"{written} of {len(data)} bytes were taken")
        finally:
            # The kernel handles the bytes of a binary attribute at this point.
            os.close(descriptor)


class _RetryError(Exception):
    """This attempt gave no quote, but another may. The message is for people."""

    def __init__(self, message: str, *, host: bool = False) -> None:
        super().__init__(message)
        self.host = host


class TsmAttester:
    """An :class:`enclave.attester.Attester` over configfs-tsm.

    Args:
        root: where the kernel has its report directories.
        event_log: the CCEL log that firmware left.
        tree: the file operations, the kernel's own except in tests.
        sleep: waits for the given number of seconds.
    """

    def __init__(
        self,
        root: Path = REPORT_ROOT,
        *,
        event_log: Path = CCEL_PATH,
        tree: ReportTree | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._event_log = event_log
        self._tree: ReportTree = tree or ConfigfsTree(root)
        self._sleep = sleep

    @property
    def mock(self) -> bool:
        return False

    @property
    def provider(self) -> str:
        return PROVIDER

    def probe(self) -> None:
        """Make sure that this is a TD with quotes, and remove directories that dead processes left.

        Raises:
            NotATrustDomainError: it is not a TD with quotes.
            QuoteUnavailableError: this cannot be determined now.
        """
        self._remove_stale()
        self._attempts(self._require_provider)

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over exactly 64 bytes of REPORTDATA. Blocking, for up to minutes.

        Raises:
            ValueError: another length.
            NotATrustDomainError: there is no TD here.
            QuoteUnavailableError: retries did not help; the message has the cause of the last failure.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"REPORTDATA has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        quote = self._attempts(lambda name: self._request(name, report_data))
        _require_report_data(quote, report_data)
        return quote

    def event_log(self) -> bytes | None:
        """Return the CCEL log, or None if this platform has none.

        Raises:
            QuoteUnavailableError: it is there, but cannot be read, or is too large.
        """
        try:
            return files.read_bytes(self._event_log, bytes_max=LOG_BYTES_MAX)
        except FileError as exc:
            if exc.absent:
                return None
            raise QuoteUnavailableError(f"the event log: {exc}") from exc

    # ---- one request ------------------------------------------------------------------------------

    def _require_provider(self, name: str) -> bytes:
        provider = self._tree.read(name, "provider", bytes_max=TEXT_BYTES_MAX).strip()
        if provider != PROVIDER.encode():
            raise NotATrustDomainError(
                f"the kernel's report provider is {provider.decode('ascii', 'replace')!r}, "
                f"not {PROVIDER!r}: this is not an Intel TDX guest"
            )
        return provider

    def _request(self, name: str, report_data: bytes) -> bytes:
        self._require_provider(name)
        expected = self._generation(name) + 1
        self._tree.write(name, "inblob", report_data)
        self._require_generation(name, expected)
        quote = self._tree.read(name, "outblob", bytes_max=QUOTE_BYTES_MAX + 1)
        self._require_generation(name, expected)
        if not quote:
            raise _RetryError("the host delivered an empty quote", host=True)
        if len(quote) > QUOTE_BYTES_MAX:
            raise QuoteUnavailableError(f"the quote has more than {QUOTE_BYTES_MAX} bytes")
        return quote

    def _require_generation(self, name: str, expected: int) -> None:
        actual = self._generation(name)
        if actual != expected:
            # The report may be for bytes that another process wrote instead of, or after, our own.
            raise _RetryError(f"the report's generation is {actual}, not {expected}")

    def _generation(self, name: str) -> int:
        text = self._tree.read(name, "generation", bytes_max=TEXT_BYTES_MAX)
        try:
            return int(text)
        except ValueError as exc:
            raise QuoteUnavailableError(f"the kernel's generation is {text!r}, not a number") from exc

    # ---- attempts ---------------------------------------------------------------------------------

    def _attempts(self, request: Callable[[str], bytes]) -> bytes:
        host_attempts = 0
        why = ""
        for wait in (*BACKOFF_S, None):
            try:
                return self._in_directory(request)
            except _RetryError as exc:
                why = str(exc)
                host_attempts += exc.host
            if wait is None or host_attempts == HOST_ATTEMPTS_MAX:
                break
            self._sleep(wait)
        raise QuoteUnavailableError(f"no quote could be made: {why}")

    def _in_directory(self, request: Callable[[str], bytes]) -> bytes:
        # The process id lets a later start detect directories that a dead process left behind.
        name = f"{NAME_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._tree.make(name)
        except OSError as exc:
            raise self._judged(exc) from exc
        try:
            return request(name)
        except FileNotFoundError as exc:
            raise _RetryError("another process removed the report's directory") from exc
        except OSError as exc:
            raise self._judged(exc) from exc
        finally:
            # If the directory cannot be removed, a good quote is still returned, and a failure still has its
            # own cause. The next start removes the directory.
            with contextlib.suppress(OSError):
                self._tree.remove(name)

    def _judged(self, exc: OSError) -> Exception:
        """Return what an error of the kernel means."""
        code = exc.errno or 0
        if code == errno.ENOENT:
            return NotATrustDomainError(
                f"{self._root} is not there: this machine is not a TDX guest, or its kernel is older than "
                "6.7, or configfs is not mounted (mount -t configfs none /sys/kernel/config)"
            )
        if code == errno.ENXIO:
            return NotATrustDomainError(
                "the kernel has no provider of reports: this machine is not a TDX guest, or the driver is "
                "not loaded (modprobe tdx_guest)"
            )
        why = _WHY.get(code, exc.strerror or "unknown error")
        if code in _BUSY | _HOST:
            return _RetryError(f"{why} ({errno.errorcode[code]})", host=code in _HOST)
        return QuoteUnavailableError(f"no quote could be made: {why} ({errno.errorcode.get(code, code)})")

    def _remove_stale(self) -> None:
        try:
            names = self._tree.names()
        except OSError as exc:
            raise self._judged(exc) from exc
        for name in names:
            pid = name.removeprefix(NAME_PREFIX).partition("-")[0]
            if not name.startswith(NAME_PREFIX) or not pid.isdecimal() or _is_alive(int(pid)):
                continue
            # Another process may have removed it first at its start, or it is still in use.
            with contextlib.suppress(OSError):
                self._tree.remove(name)


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _require_report_data(quote: bytes, report_data: bytes) -> None:
    try:
        body = parse_quote_untrusted(quote).body
    except MalformedError as exc:
        raise QuoteUnavailableError(f"the quote that the host delivered cannot be read: {exc}") from exc
    if not isinstance(body, TDReport):
        raise QuoteUnavailableError("the host delivered the quote of an SGX enclave")
    if body.report_data != report_data:
        raise QuoteUnavailableError("the host delivered a quote with another REPORTDATA")
