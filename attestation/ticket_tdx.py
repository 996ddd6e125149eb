"""The TDX ticket: a quote, what it is said for, and what helps to judge it.

    ticket      = {"quote": bytes, "claims": claims, ? "endorsements": map, ? "event_log": bytes}
    claims      = {"peer_id", "network_id", "group_id" or null, "started_at", "quoted_at",
                   "expires_at" or null, "binding" or null}       times in whole Unix seconds
    REPORTDATA  = SHA-512 over deterministic CBOR of ["bondstone/tdx-ticket/v1", claims]

Only the quote is signed, and REPORTDATA makes the claims part of it. Endorsements are signed by Intel and
the event log must replay to the quote's registers, so neither needs the attester's word.
"""

import hashlib
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from attestation.canonical import decode_untrusted, encode
from attestation.collateral import Endorsements
from attestation.errors import MalformedError
from attestation.quote import QUOTE_BYTES_MAX

TICKET_CLASS: Final = "tdx"
TICKET_BYTES_MAX: Final = 512 * 1024
"""Several times the largest real one (a quote of 8 kB, collateral of 40 kB, a trimmed CCEL of 100 kB)."""

EVENT_LOG_BYTES_MAX: Final = 256 * 1024
ID_BYTES: Final = 32
DOMAIN: Final = "bondstone/tdx-ticket/v1"

# 9999-12-31T23:59:59Z, the last second that datetime and RFC 5280 can say.
_SECONDS_MAX: Final = 253_402_300_799


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """What the attester says the quote is for. Times are aware UTC, in whole seconds.

    Attributes:
        peer_id: the incarnation whose key this TD holds, 32 bytes.
        network_id: 32 bytes.
        group_id: 32 bytes; None for a node without a group.
        started_at: when the node started, by its own clock.
        quoted_at: when the quote was asked for, by its own clock.
        expires_at: after this the attester itself no longer stands by the ticket; None: no such time.
        binding: 32 bytes that tie the ticket to one connection or nonce; None for a published ticket.
    """

    peer_id: bytes
    network_id: bytes
    group_id: bytes | None
    started_at: datetime
    quoted_at: datetime
    expires_at: datetime | None
    binding: bytes | None

    def to_value(self) -> dict[str, Any]:
        """Return the claims as the CBOR map that is hashed and sent."""
        return {
            item.name: int(value.timestamp()) if isinstance(value, datetime) else value
            for item in fields(self)
            for value in (getattr(self, item.name),)
        }

    def report_data(self) -> bytes:
        """Return the 64 bytes that a quote for these claims carries."""
        return hashlib.sha512(encode([DOMAIN, self.to_value()])).digest()

    @classmethod
    def from_value_untrusted(cls, value: Any) -> "TdxClaims":
        """Read what :meth:`to_value` made.

        Raises:
            MalformedError: ``ticket-malformed``.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(value, dict) or value.keys() != names:
            raise _malformed(f"the claims are not exactly {', '.join(sorted(names))}")
        return cls(
            peer_id=_id(value, "peer_id"),
            network_id=_id(value, "network_id"),
            group_id=None if value["group_id"] is None else _id(value, "group_id"),
            started_at=_time(value, "started_at"),
            quoted_at=_time(value, "quoted_at"),
            expires_at=None if value["expires_at"] is None else _time(value, "expires_at"),
            binding=None if value["binding"] is None else _id(value, "binding"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTicket:
    """A ticket, parsed but not judged.

    Attributes:
        quote: raw.
        endorsements: stapled collateral for the attester's own platform.
        event_log: as ``attestation.eventlog_evidence`` reads it.
    """

    quote: bytes
    claims: TdxClaims
    endorsements: Endorsements | None = None
    event_log: bytes | None = None

    def encode(self) -> bytes:
        """Return the ticket's bytes.

        Raises:
            ValueError: some part is larger than every verifier's limit.
        """
        value: dict[str, Any] = {"quote": self.quote, "claims": self.claims.to_value()}
        if self.endorsements is not None:
            value["endorsements"] = self.endorsements.to_value()
        if self.event_log is not None:
            value["event_log"] = self.event_log
        encoded = encode(value)
        if (
            len(encoded) > TICKET_BYTES_MAX
            or len(self.quote) > QUOTE_BYTES_MAX
            or len(self.event_log or b"") > EVENT_LOG_BYTES_MAX
        ):
            raise ValueError(
                f"a ticket of {len(encoded)} bytes with a quote of {len(self.quote)} and an event log "
                f"of {len(self.event_log or b'')}: the limits are {TICKET_BYTES_MAX}, "
                f"{QUOTE_BYTES_MAX} and {EVENT_LOG_BYTES_MAX}"
            )
        return encoded


def parse_ticket_untrusted(data: bytes) -> TdxTicket:
    """Parse a ticket's bytes; nothing in it is verified.

    Raises:
        MalformedError: ``ticket-too-large``, ``ticket-malformed``, or what the CBOR is not.
    """
    if len(data) > TICKET_BYTES_MAX:
        raise MalformedError("ticket-too-large", f"a ticket of {len(data)} bytes, at most {TICKET_BYTES_MAX}")
    value = decode_untrusted(data, bytes_max=TICKET_BYTES_MAX)
    if (
        not isinstance(value, dict)
        or not {"quote", "claims"} <= value.keys()
        or not value.keys() <= {"quote", "claims", "endorsements", "event_log"}
    ):
        raise _malformed("a ticket has quote, claims, and at most endorsements and event_log")
    return TdxTicket(
        quote=_bytes(value, "quote", QUOTE_BYTES_MAX),
        claims=TdxClaims.from_value_untrusted(value["claims"]),
        endorsements=(None if endorsements is None else Endorsements.from_value_untrusted(endorsements)),
        event_log=(_bytes(value, "event_log", EVENT_LOG_BYTES_MAX) if "event_log" in value else None),
    )


def _malformed(text: str) -> MalformedError:
    return MalformedError("ticket-malformed", text)


def _bytes(value: dict[str, Any], name: str, bytes_max: int) -> bytes:
    item = value[name]
    if not isinstance(item, bytes) or len(item) > bytes_max:
        raise _malformed(f"{name} is not a byte string of at most {bytes_max} bytes")
    return item


def _id(value: dict[str, Any], name: str) -> bytes:
    item = value[name]
    if not isinstance(item, bytes) or len(item) != ID_BYTES:
        raise _malformed(f"claim {name} is not {ID_BYTES} bytes")
    return item


def _time(value: dict[str, Any], name: str) -> datetime:
    item = value[name]
    # bool is an int in Python, and is none in CBOR.
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= _SECONDS_MAX:
        raise _malformed(f"claim {name} is not a time in Unix seconds")
    return datetime.fromtimestamp(item, UTC)
