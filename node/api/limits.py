"""Limits on all that the API accepts from outside."""

from dataclasses import dataclass
from typing import Final

# JSON nesting inside a command or query. The log's own framing adds a few levels to it, and CBOR that is
# nested deeper than ``attestation.encoding.canonical.DEPTH_MAX`` is refused by peers.
VALUE_DEPTH_MAX: Final = 24
# JSON nesting of a whole body: a command and the few levels that the request adds around it.
BODY_DEPTH_MAX: Final = VALUE_DEPTH_MAX + 4
# Commas and opening brackets of a whole body. This many values cost every member some ten milliseconds. A
# thousand commands of four members have 5,000.
BODY_VALUES_MAX: Final = 8192
INTEGER_MAX: Final = 2**63 - 1
INTEGER_MIN: Final = -(2**63)
MEMBER_CHARACTERS_MAX: Final = 128  # of a name or a peer id
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 128
AUDIT_EVENTS_MAX: Final = 1000
KV_PAGE_DEFAULT: Final = 1000  # keys
KV_PAGE_MAX: Final = 10_000
# Of one head. Each field costs more than its bytes; browsers send about 20.
FIELDS_MAX: Final = 100
# Of one body. Each chunk costs more than its bytes; honest ones of 1 MiB have 256 bytes and more.
CHUNKS_MAX: Final = 4096
# Requests that one connection has sent ahead of the answers.
PIPELINED_MAX: Final = 64
# A refused body of up to this size is read and thrown away, so that a client that sends first and reads
# later gets its answer instead of a reset connection.
DISCARD_BYTES_MAX: Final = 32 * 1024 * 1024
# Parts of the time that an idempotency key is remembered for (``node.api.freshness``).
REPEATED_OF_TTL: Final = 0.5
AGE_OF_TTL: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Sizes in bytes, times in seconds.

    Attributes:
        connections_max: with TLS established.
        handshakes_max: connections whose TLS handshake is not over, beside them.
        bodies_bytes_max: the bodies of all requests in progress together.
        evidence_waiting_max: requests for evidence that wait for one of ``concurrent_evidence_max`` turns.
        calls_max: calls of gRPC in progress, streams too.
        session_ttl_s: for how long the group remembers an idempotency key.
        access_lag_s: how long ago the access list here may have been the group's, for operations that the log
            does not judge again.
    """

    body_bytes_max: int = 4 * 1024 * 1024
    head_bytes_max: int = 32 * 1024
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 10.0
    tls_handshake_timeout_s: float = 10.0
    tls_shutdown_timeout_s: float = 5.0
    shutdown_timeout_s: int = 5
    command_timeout_s: float = 10.0
    query_timeout_s: float = 10.0
    concurrent_requests_max: int = 1024
    connections_max: int = 2048
    handshakes_max: int = 256
    bodies_bytes_max: int = 64 * 1024 * 1024
    concurrent_evidence_max: int = 4
    evidence_waiting_max: int = 64
    evidence_wait_s_max: float = 10.0
    calls_max: int = 16384
    session_ttl_s: float = 60.0
    access_lag_s: float = 10.0

    @property
    def keyed_age_s_max(self) -> float:
        """How old a request with an Idempotency-Key may be when the node gives it to the group."""
        return self.session_ttl_s * AGE_OF_TTL

    @property
    def idle_s_max(self) -> float:
        """When to close a connection without requests.

        The node closes it before its next request could be too old. An honest client then connects again.
        """
        return min(self.keep_alive_s, self.keyed_age_s_max * 2 / 3)
