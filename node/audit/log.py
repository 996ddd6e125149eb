"""The audit log of a running node: which peers were admitted, refused or expired, and why.

A file that breaks the chain is put aside unchanged. The good part before the break is kept, and the log goes
on from there with an event that reports the break. At start only the current file is checked, and that it
follows the file before. ``verify`` checks everything.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from attestation.files import FileError, make_directory
from enclave.identity import Identity
from node.audit.chain import (
    EMPTY,
    GONE_TO_SEQ,
    LINE_BYTES_MAX,
    RESERVED,
    AuditChain,
    AuditChainError,
    AuditHead,
    event_untrusted,
    gone_to,
    hash_of,
    head_of,
    line_of,
    place_before,
    verify_kept_untrusted,
)
from node.audit.life import KIND, signed_fields
from node.audit.segments import Segment, SegmentFiles, end_of_untrusted, lines_of, lines_of_log
from node.errors import ConfigError

logger = logging.getLogger(__name__)

TEXT_CHARS_MAX: Final = 4096
LOGGED_CHARS_MAX: Final = 512
WINDOW_EVENTS: Final = 4096
LIMIT_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLimits:
    """How much of the disk the log may use: about ``segments_max`` times ``segment_bytes``.

    Attributes:
        segment_bytes: a file of this size is full.
        segments_max: number of files in all; when there are more the oldest is deleted.
    """

    segment_bytes: int = 4 * 1024 * 1024
    segments_max: int = 64


class AuditLog:
    """Appends events, keeps the recent ones in memory and reads the others from the files.

    One process writes; the operating system has every event when ``append`` returns.

    Args:
        path: the file that is written, made with mode 0600; None keeps only the recent window, in memory.
        now: the clock.
        limits: of the files.
        life: of the incarnation that writes; the first event of the life is signed. None, for tests and
            tools: no life.

    Raises:
        ConfigError: the files cannot be used, or another process uses them.
    """

    def __init__(
        self,
        path: Path | None,
        now: Callable[[], datetime],
        limits: AuditLimits | None = None,
        *,
        life: Identity | None = None,
    ) -> None:
        self._now = now
        self._limits = limits or AuditLimits()
        self._life = life
        self._head = EMPTY
        self._window: deque[dict[str, Any]] = deque(maxlen=WINDOW_EVENTS)
        self._files = None if path is None else SegmentFiles(path)
        self._full: list[Segment] = []
        self._first_seq = 1  # of the current file
        self._size = 0  # of the current file
        self._is_torn = False  # the file may hold a part of a line behind ``_size``
        self._gone_to = 0
        self._lost = 0
        self._descriptor = self._lock = -1
        if self._files is not None:
            try:
                make_directory(self._files.path.parent)
                self._lock = self._files.lock()
                self._recover(self._files)
                if self._lost:
                    raise OSError(errno.ENOSPC, "the first event of this process cannot be written")
            except OSError as exc:
                self.close()
                raise ConfigError(f"the audit log {path}: {exc.strerror or exc}") from exc
        else:
            self._begin_life()

    def append(self, kind: str, **fields: Any) -> dict[str, Any] | None:
        """Add one event and return it; None if the disk did not accept it.

        In that case no part of the event is in the log, and the node goes on. The next event that the disk
        accepts is preceded by one that reports how many are missing.

        Args:
            kind: kebab-case.
            fields: JSON-able; bytes become hex, times ISO 8601, long texts are cut.
        """
        assert not RESERVED & fields.keys()
        if self._files is not None and self._size >= self._limits.segment_bytes:
            self._rotate(self._files)
        if self._lost and self._add("audit-events-lost", {"count": self._lost}) is not None:
            self._lost = 0
        event = self._add(kind, fields)
        if event is None:
            self._lost += 1
        else:
            _log_event(event)
        return event

    def head(self) -> AuditHead:
        return self._head

    def events(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return up to ``limit`` (at most 1000) events that follow number ``after``, oldest first.

        The oldest events may have been deleted: the first number that is returned shows that.

        Raises:
            AuditChainError: a file does not hold what was written there.
        """
        limit = max(0, min(limit, LIMIT_MAX))
        after = max(0, after)
        if not self._window or after >= self._head.seq or limit == 0:
            return []
        first = self._window[0]["seq"]
        if after + 1 < first and self._files is not None:
            return self._read(after, limit)
        start = max(after + 1 - first, 0)
        return [self._window[i] for i in range(start, min(start + limit, len(self._window)))]

    def verify(self) -> AuditChain:
        """Check everything that is kept.

        Raises:
            AuditChainError: the first event that does not fit.
        """
        if self._head == EMPTY:
            return AuditChain(after=EMPTY, head=EMPTY)
        if self._files is not None:
            return verify_kept_untrusted(lines_of_log(self._files.path))
        head = after = place_before(self._window[0]) if self._window else EMPTY
        for event in self._window:
            head = head_of(event_untrusted(line_of(event), after=head))
        return AuditChain(after=after, head=head)

    def close(self) -> None:
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock = -1

    # ---- writing ----------------------------------------------------------------------
    def _add(self, kind: str, fields: dict[str, Any], *, at: str | None = None) -> dict[str, Any] | None:
        event: dict[str, Any] = {
            "seq": self._head.seq + 1,
            "at": at or _plain(self._now()),
            "kind": kind,
            **_plain(fields),
            "prev": self._head.hash,
        }
        event["hash"] = hash_of(event)
        line = line_of(event)
        if len(line) > LINE_BYTES_MAX:
            return self._add(kind, {"too_large": True, "bytes": len(line)})
        if self._files is not None and not self._write(line):
            return None
        self._remember(event, len(line))
        return event

    def _write(self, line: bytes) -> bool:
        """Write all of a line, otherwise nothing of it."""
        if self._is_torn and not self._cut_back():
            return False
        try:
            if os.write(self._descriptor, line) == len(line):
                return True
            why = "the disk is full"
        except OSError as exc:
            why = str(exc.strerror)
        logger.error("an event is missing in the audit log: %s", why)
        self._cut_back()
        return False

    def _cut_back(self) -> bool:
        """Remove a partly written line. This can fail for now, if the file system became read-only."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._is_torn = True
        else:
            self._is_torn = False
        return not self._is_torn

    def _remember(self, event: dict[str, Any], line_bytes: int) -> None:
        self._size += line_bytes
        self._window.append(event)
        self._head = head_of(event)
        self._gone_to = max(self._gone_to, gone_to(event))

    # ---- segments ---------------------------------------------------------------------
    def _rotate(self, files: SegmentFiles) -> None:
        """Begin a new file, and delete the oldest if there are too many."""
        if self._is_torn and not self._cut_back():
            return
        try:
            full, descriptor = files.change(self._first_seq)
        except OSError as exc:
            # Nothing is lost: the log goes on in the old file.
            logger.error("the audit log cannot begin a new file: %s", exc.strerror or exc)  # noqa: TRY400
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._first_seq, self._size = self._head.seq + 1, 0
        self._full.append(full)
        self._add("audit-segment-begun", {"predecessor": full.path.name})
        while len(self._full) >= self._limits.segments_max and self._delete_oldest():
            pass

    def _delete_oldest(self) -> bool:
        """Report the deletion, then delete: a crash in between leaves too much, never too little."""
        oldest = self._full[0]
        end = end_of_untrusted(oldest.path)
        next_seq = self._full[1].first_seq if len(self._full) > 1 else self._first_seq
        said = self._add(
            "audit-segment-deleted",
            {
                "segment": oldest.path.name,
                "first_seq": oldest.first_seq,
                GONE_TO_SEQ: next_seq - 1,
                "last_hash": None if end is None else end.hash,
            },
        )
        if said is None:
            return False
        oldest.path.unlink(missing_ok=True)
        del self._full[0]
        return True

    # ---- start ------------------------------------------------------------------------
    def _recover(self, files: SegmentFiles) -> None:
        """Find the end of the chain. Files outside the chain are put aside, and an event reports that."""
        files.reopen_last()
        self._full = files.full()
        link = end_of_untrusted(self._full[-1].path) if self._full else EMPTY
        aside: list[str] = []
        start, broken = self._load(files.path, link)
        if broken is not None:
            aside.append(files.put_aside(files.path))
            files.copy(aside[0], self._size)
        self._descriptor = files.open_written()
        if start is None or start != link or (not self._full and start.seq > self._gone_to):
            # The current file begins at a place where no file that is left ends.
            start = start or EMPTY
            missing = AuditChainError(start.seq, "predecessor-missing", "is not the end of the file before")
            broken = broken or missing
            aside += [files.put_aside(segment.path) for segment in self._full]
            self._full.clear()
        self._first_seq = start.seq + 1
        if self._size == 0:
            self._head = start
        last_good = self._head.hash
        self._begin_life()
        if broken is None:
            return
        self._add(
            "audit-chain-broken",
            {
                "reason": broken.reason,
                "message": str(broken),
                "first_bad_seq": broken.seq,
                "last_good_hash": last_good,
                "put_aside": aside,
                GONE_TO_SEQ: (self._full[0].first_seq if self._full else self._first_seq) - 1,
            },
        )

    def _begin_life(self) -> None:
        """Write the first event of this life, signed for its place in the chain."""
        if self._life is None:
            return
        at = _plain(self._now())
        place = {"seq": self._head.seq + 1, "prev": self._head.hash, "at": at}
        if self._add(KIND, signed_fields(self._life, **place), at=at) is None:
            self._lost += 1

    def _load(self, path: Path, link: AuditHead | None) -> tuple[AuditHead | None, AuditChainError | None]:
        """Follow the chain in ``path`` to its end. Return where it starts, and where it breaks.

        Args:
            path: the file that is written.
            link: the place that it should start from.
        """
        start: AuditHead | None = None
        try:
            if path.exists() and path.stat().st_size == 0:
                # A new file begins with its first event, so this one was emptied, or a crash came in between.
                raise AuditChainError(0, "emptied", "is missing: the file is empty")
            for line in lines_of(path) if path.exists() else ():
                event = event_untrusted(line, after=None if start is None else self._head)
                if not line.endswith(b"\n"):
                    # A crash or the host cut the write off.
                    raise AuditChainError(event["seq"], "torn-line", "has no end")
                start = start or place_before(event)
                self._remember(event, len(line))
        except AuditChainError as exc:
            if not exc.seq:
                exc = AuditChainError((link or EMPTY).seq + 1, exc.reason, exc.message)
            return start or link, exc
        return start or link, None

    # ---- reading ----------------------------------------------------------------------
    def _read(self, after: int, limit: int) -> list[dict[str, Any]]:
        oldest = self._full[0].first_seq if self._full else self._first_seq
        seq = max(after + 1, oldest)
        events: list[dict[str, Any]] = []
        head: AuditHead | None = None
        for line in islice(self._lines_from(seq), limit):
            event = event_untrusted(line, after=head)
            if head is None and event["seq"] != seq:
                raise AuditChainError(seq, "seq-gap", f"has number {event['seq']}")
            head = head_of(event)
            events.append(event)
        return events

    def _lines_from(self, seq: int) -> Iterator[bytes]:
        assert self._files is not None
        files = [*self._full, Segment(first_seq=self._first_seq, path=self._files.path)]
        begin = max((i for i, file in enumerate(files) if file.first_seq <= seq), default=0)
        for file in files[begin:]:
            try:
                yield from islice(lines_of(file.path), max(0, seq - file.first_seq), None)
            except FileError as exc:
                raise AuditChainError(file.first_seq, "segment-missing", f"was in {file.path.name}") from exc


def _log_event(event: dict[str, Any]) -> None:
    """Log the node's main events: elections, demotions, admissions, refusals, halts."""
    if logger.isEnabledFor(logging.INFO):
        texts = [f"{key}={value}" for key, value in event.items() if key not in RESERVED and _is_short(value)]
        # Log rations go by the format, so it contains the kind; the values are arguments.
        logger.info(f"{event['kind']} %s", " ".join(texts))  # noqa: G004


def _is_short(value: Any) -> bool:
    return isinstance(value, int | str) and len(str(value)) <= LOGGED_CHARS_MAX


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON represents it, long texts cut, so that it has the same hash when read back."""
    match value:
        case None | bool() | int():
            return value
        case str():
            # UTF-8 cannot encode lone surrogates.
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
            # Floats are left out on purpose: their text form is not the same on every platform.
            return _plain(str(value))
