"""The audit log: hash-chained JSON lines of who was admitted, refused, expired, and why.

One event a line::

    {"seq": 7, "at": "2026-01-31T12:00:00.000000Z", "kind": "bond-refused", …, "prev": HEX, "hash": HEX}

``hash`` = ``digest("bondstone/audit-event/v1", prev, body)``, the body being the event without ``prev`` and
``hash``. ``prev`` is the hash of the event before, 64 zeros for the first. So whoever keeps one hash can tell
later that nothing before it was changed or taken out.

What it cannot do: the disk is the host's, which can cut the end off, or the whole file. Only a hash
that somebody outside has kept proves that. A file that breaks the chain is put aside unchanged, and a new one
starts with an event that says so; the chain in it starts anew, and nothing claims otherwise.
"""

import fcntl
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from attestation.canonical import digest
from node.errors import ConfigError, CorruptStorageError

DOMAIN: Final = "bondstone/audit-event/v1"
HASH_START: Final = "00" * 32
LINE_BYTES_MAX: Final = 64 * 1024
TEXT_CHARS_MAX: Final = 4096
WINDOW_EVENTS: Final = 4096
LIMIT_MAX: Final = 1000
_RESERVED: Final = frozenset({"seq", "at", "kind", "prev", "hash"})


class AuditChainError(CorruptStorageError):
    """The log is not the chain that it claims to be.

    Attributes:
        seq: number of the first event that does not fit.
        reason: stable kebab-case code.
    """

    def __init__(self, seq: int, reason: str, message: str) -> None:
        super().__init__(f"event {seq}: {message} [{reason}]")
        self.seq = seq
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The end of a verified chain. ``seq`` 0 and ``HASH_START`` when it is empty."""

    seq: int
    hash: str


_EMPTY: Final = AuditHead(seq=0, hash=HASH_START)


def hash_of(event: dict[str, Any]) -> str:
    """Return the hash that ``event`` must carry, lower-case hex."""
    body = {key: value for key, value in event.items() if key not in {"prev", "hash"}}
    return digest(DOMAIN, bytes.fromhex(event["prev"]), body).hex()


def verify_untrusted(lines: Iterable[bytes], *, after: AuditHead = _EMPTY) -> AuditHead:
    """Check a run of the log and return its end.

    Args:
        lines: one JSON event each.
        after: the end of what was checked before; the log's very start by default.

    Raises:
        AuditChainError: the first event that does not fit.
    """
    head = after
    for line in lines:
        event = _event_untrusted(line, head.seq + 1)
        if event["prev"] != head.hash:
            raise AuditChainError(head.seq + 1, "chain-broken", "does not follow the event before")
        head = AuditHead(seq=head.seq + 1, hash=event["hash"])
    return head


def _event_untrusted(line: bytes, seq: int) -> dict[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise AuditChainError(seq, "line-too-long", f"over {LINE_BYTES_MAX} bytes")
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise AuditChainError(seq, "not-json", "is not a line of JSON") from exc
    if not isinstance(event, dict) or not event.keys() >= _RESERVED:
        raise AuditChainError(seq, "not-an-event", "lacks one of seq, at, kind, prev, hash")
    if isinstance(event["seq"], bool) or event["seq"] != seq:
        raise AuditChainError(seq, "seq-gap", f"has number {event['seq']!r}")
    try:
        expected = hash_of(event)
    except (TypeError, ValueError, RecursionError) as exc:
        raise AuditChainError(seq, "not-an-event", "cannot be hashed") from exc
    if event["hash"] != expected:
        raise AuditChainError(seq, "hash-mismatch", "was changed after it was written")
    return event


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it, texts cut to a bound; so that what is read back hashes the same."""
    match value:
        case None | bool() | int():
            return value
        case str():
            # Lone surrogates would not survive the way through UTF-8.
            return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()
        case bytes():
            return _plain(value.hex())
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            # Floats are left out on purpose: their text form is not the same everywhere.
            return _plain(str(value))


class AuditLog:
    """Appends events, keeps the recent ones at hand and reads the others from the file.

    One process writes; every event is on its way to the disk (written, flushed) when ``append`` returns.

    Args:
        path: the file, made with mode 0600; None keeps only the recent window, in memory.
        now: the clock.
    """

    def __init__(self, path: Path | None, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now
        self._head = _EMPTY
        self._window: deque[dict[str, Any]] = deque(maxlen=WINDOW_EVENTS)
        self._offsets: list[tuple[int, int]] = []  # (seq, offset of its line), every WINDOW_EVENTS-th
        self._size = 0
        self._file: BinaryIO | None = None
        if path is not None:
            self._open(path)

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Add one event and return it.

        Args:
            kind: kebab-case.
            fields: JSON-able; bytes become hex, times ISO 8601, long texts are cut.
        """
        assert not _RESERVED & fields.keys()
        event: dict[str, Any] = {
            "seq": self._head.seq + 1,
            "at": _plain(self._now()),
            "kind": kind,
            **_plain(fields),
            "prev": self._head.hash,
        }
        event["hash"] = hash_of(event)
        line = _line_of(event)
        if len(line) > LINE_BYTES_MAX:
            return self.append(kind, too_large=True, bytes=len(line))
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
        self._remember(event, len(line))
        return event

    def head(self) -> AuditHead:
        return self._head

    def events(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to ``limit`` (at most 1000) events that follow number ``after``, oldest first.

        Without a file only the recent window is there: the first number returned says what is gone.
        """
        limit = max(0, min(limit, LIMIT_MAX))
        if not self._window or after >= self._head.seq or limit == 0:
            return []
        first = self._window[0]["seq"]
        if after + 1 < first and self._path is not None:
            return self._read(max(after, 0), limit)
        start = max(after + 1 - first, 0)
        return [self._window[i] for i in range(start, min(start + limit, len(self._window)))]

    def verify(self) -> AuditHead:
        """Check the whole file from its start and return its end.

        Raises:
            AuditChainError: the first event that does not fit.
        """
        if self._path is None:
            first = self._window[0] if self._window else None
            after = _EMPTY if first is None else AuditHead(seq=first["seq"] - 1, hash=first["prev"])
            return verify_untrusted(map(_line_of, self._window), after=after)
        return verify_untrusted(lines_of(self._path))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(path)
            broken = self._load(path)
            if broken is None:
                return
            good, aside = self._head, _free_name(path)
            path.rename(aside)
            self._file.close()
            self._reset()
            self._file = _open_locked(path)
        except OSError as exc:
            raise ConfigError(f"cannot open the audit log {path}: {exc.strerror}") from exc
        self.append(
            "audit-chain-broken",
            reason=broken.reason,
            message=str(broken),
            first_bad_seq=broken.seq,
            last_good_hash=good.hash,
            put_aside=aside.name,
        )

    def _load(self, path: Path) -> AuditChainError | None:
        """Follow the chain in ``path`` to its end; return where it breaks."""
        try:
            for line in lines_of(path):
                seq = self._head.seq + 1
                if not line.endswith(b"\n"):
                    # A write that was cut off, by a crash or by the host.
                    raise AuditChainError(seq, "torn-line", "has no end")
                verify_untrusted([line], after=self._head)
                self._remember(json.loads(line), len(line))
        except AuditChainError as exc:
            return exc
        return None

    def _reset(self) -> None:
        self._head, self._size = _EMPTY, 0
        self._window.clear()
        self._offsets.clear()

    def _remember(self, event: dict[str, Any], line_bytes: int) -> None:
        self._index(event["seq"])
        self._size += line_bytes
        self._window.append(event)
        self._head = AuditHead(seq=event["seq"], hash=event["hash"])

    def _index(self, seq: int) -> None:
        if seq % WINDOW_EVENTS == 1:
            self._offsets.append((seq, self._size))

    def _read(self, after: int, limit: int) -> list[dict[str, Any]]:
        assert self._path is not None
        offset = max(place for seq, place in self._offsets if seq <= after + 1)
        events = []
        for line in lines_of(self._path, offset=offset):
            event = json.loads(line)
            if event["seq"] > after:
                events.append(event)
            if len(events) == limit:
                break
        return events


def _open_locked(path: Path) -> BinaryIO:
    """Open for appending, for this process alone: two writers would break the chain."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise ConfigError(f"the audit log {path} is in use by another running node") from exc
    return os.fdopen(descriptor, "ab")


def _line_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def lines_of(path: Path, *, offset: int = 0) -> Iterator[bytes]:
    """Yield the lines of an audit log, none of them longer than the limit by more than a byte."""
    with path.open("rb") as file:
        file.seek(offset)
        # A longer line comes in parts, of which the first is refused.
        while line := file.readline(LINE_BYTES_MAX + 1):
            yield line


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return candidate
