"""The chain of an audit log: one JSON event a line, each with the hash of the one before.

::

    {"seq": 7, "at": "2026-01-31T12:00:00.000000Z", "kind": "bond-refused", …, "prev": HEX, "hash": HEX}

``hash`` = ``digest("bondstone/audit-event/v1", prev, body)``, where the body is the event without ``prev``
and ``hash``. ``prev`` is the hash of the event before, 64 zeros for the first. So a reader that keeps one
hash can check later that no event before it was changed or removed.

The chain does not protect its end: the disk belongs to the host, which can cut the end off, or delete the
whole file. Only a hash that is kept outside the node reveals that.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from attestation.encoding.canonical import digest
from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError
from node.audit.life import LifeError, SignedLife, life_untrusted
from node.errors import CorruptStorageError

DOMAIN: Final = "bondstone/audit-event/v1"
HASH_START: Final = "00" * 32
LINE_BYTES_MAX: Final = 64 * 1024
RESERVED: Final = frozenset({"seq", "at", "kind", "prev", "hash"})
# The depth of a ticket's claims (``attestation.encoding.canonical.DEPTH_MAX``), and of the event around them.
DEPTH_MAX: Final = 64
# In an event that reports a deletion: the number of the last event that is no longer in the log.
GONE_TO_SEQ: Final = "gone_to_seq"
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class AuditChainError(CorruptStorageError):
    """The log is not an unbroken chain.

    Attributes:
        seq: number of the first event that does not fit.
        reason: stable kebab-case code.
    """

    def __init__(self, seq: int, reason: str, message: str) -> None:
        super().__init__(f"event {seq}: {message} [{reason}]")
        self.seq = seq
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """A place in a chain: an event's number and hash. ``seq`` 0 and ``HASH_START`` before the first."""

    seq: int
    hash: str


EMPTY: Final = AuditHead(seq=0, hash=HASH_START)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChain:
    """A verified chain.

    Attributes:
        after: the place after which it begins: the very start, or the last deleted event.
        head: its end.
        lives: those that begin in it, each signed by its incarnation. Events before the first life belong to
            a life whose beginning is deleted, or to none.
    """

    after: AuditHead
    head: AuditHead
    lives: tuple[SignedLife, ...] = ()


def hash_of(event: dict[str, Any]) -> str:
    """Return the hash that ``event`` must carry, lower-case hex."""
    body = {key: value for key, value in event.items() if key not in {"prev", "hash"}}
    return digest(DOMAIN, bytes.fromhex(event["prev"]), body).hex()


def line_of(event: dict[str, Any]) -> bytes:
    """Return the line of the log that holds ``event``, with its newline."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def event_untrusted(line: bytes, *, after: AuditHead | None) -> dict[str, Any]:
    """Return the event in ``line``, after a check of its own hash.

    Args:
        line: JSON.
        after: the place that it must follow. None: it may follow any place.

    Raises:
        AuditChainError: the line is not an event, was changed, or follows another place.
    """
    seq = 0 if after is None else after.seq + 1
    if len(line) > LINE_BYTES_MAX:
        raise AuditChainError(seq, "line-too-long", f"over {LINE_BYTES_MAX} bytes")
    try:
        event = parse_strict_untrusted(line, depth_max=DEPTH_MAX, values_max=LINE_BYTES_MAX)
    except MalformedError as exc:
        raise AuditChainError(seq, "not-json", f"is not a line of JSON: {exc.message}") from exc
    if not isinstance(event, dict) or not event.keys() >= RESERVED:
        raise AuditChainError(seq, "not-an-event", "lacks one of seq, at, kind, prev, hash")
    found = event["seq"]
    if type(found) is not int or found < 1 or (after is not None and found != seq):
        raise AuditChainError(seq, "seq-gap", f"has number {found!r}")
    prev = event["prev"]
    if not isinstance(prev, str) or _HASH.fullmatch(prev) is None:
        raise AuditChainError(found, "not-an-event", "does not name the event before")
    if event["hash"] != hash_of(event):
        raise AuditChainError(found, "hash-mismatch", "was changed after it was written")
    if (after is not None and prev != after.hash) or (found == 1 and prev != HASH_START):
        raise AuditChainError(found, "chain-broken", "does not follow the event before")
    try:
        life_untrusted(event)
    except LifeError as exc:
        raise AuditChainError(found, "life-forged", str(exc)) from exc
    return event


def head_of(event: dict[str, Any]) -> AuditHead:
    """Return the place of a checked event."""
    return AuditHead(seq=event["seq"], hash=event["hash"])


def place_before(event: dict[str, Any]) -> AuditHead:
    """Return the place that a checked event claims to follow."""
    return AuditHead(seq=event["seq"] - 1, hash=event["prev"])


def verify_untrusted(lines: Iterable[bytes], *, after: AuditHead = EMPTY) -> AuditHead:
    """Check a run of the log and return its end.

    Args:
        lines: one JSON event each.
        after: the end of the part that was checked before; by default the log's very start.

    Raises:
        AuditChainError: the first event that does not fit.
    """
    head = after
    for line in lines:
        head = head_of(event_untrusted(line, after=head))
    return head


class HeadGoneError(Exception):
    """The log reports that the event of the kept head was deleted, so the head can no longer be checked."""


def verify_kept_untrusted(lines: Iterable[bytes], *, kept: AuditHead | None = None) -> AuditChain:
    """Check all that is left of a log whose oldest events may have been deleted.

    The node's own deletion leaves an event with ``gone_to_seq``. If the beginning is missing without such an
    event, something other than the node removed it.

    Args:
        lines: of the log.
        kept: a head of this log that was kept outside the node: it must be in the chain.

    Raises:
        AuditChainError: the first event that does not fit; ``start-missing``, ``emptied``, ``head-mismatch``,
            ``cut-off``.
        HeadGoneError: the kept head is before the first event that is left.
    """
    after, head = EMPTY, EMPTY
    gone = 0
    begun = False
    lives: list[SignedLife] = []
    for line in lines:
        event = event_untrusted(line, after=head if begun else None)
        if not begun:
            after, begun = place_before(event), True
            _require_kept(after, kept)
        gone = max(gone, gone_to(event))
        head = head_of(event)
        _require_kept(head, kept)
        life = life_untrusted(event)
        if life is not None:
            lives.append(life)
    if not begun:
        raise AuditChainError(1, "emptied", "is missing: there are no events at all")
    if after.seq > gone:
        raise AuditChainError(
            gone + 1,
            "start-missing",
            f"and those up to {after.seq} are missing, and no event records their deletion",
        )
    if kept is not None and head.seq < kept.seq:
        raise AuditChainError(
            head.seq + 1, "cut-off", f"is missing, and so are those up to the kept {kept.seq}"
        )
    if kept is not None and kept.seq < after.seq:
        raise HeadGoneError(f"the events up to {after.seq} are deleted, and with them the kept {kept.seq}")
    return AuditChain(after=after, head=head, lives=tuple(lives))


def _require_kept(place: AuditHead, kept: AuditHead | None) -> None:
    if kept is not None and place.seq == kept.seq and place.hash != kept.hash:
        raise AuditChainError(place.seq, "head-mismatch", "is not the event whose hash was kept")


def gone_to(event: dict[str, Any]) -> int:
    """Return the number of the last event that a checked event reports as deleted; 0 if it reports none."""
    gone = event.get(GONE_TO_SEQ, 0)
    return gone if type(gone) is int else 0
