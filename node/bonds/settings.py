"""What an operator may set, and what the node's surroundings provide: clocks and randomness.

None of it is in the GroupId: two members with different timings can still work together.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from node.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BondSettings:
    """Times in milliseconds, sizes in bytes.

    Attributes:
        proof_timeout_ms: a connection that has not proved the group key by then is dropped. Short,
            because until then any stranger may be on the other side.
        handshake_timeout_ms: the whole handshake, quotes included (a real quote takes up to seconds).
        tick_ms: how often timers are checked.
        ping_interval_ms: after this time without a byte from the peer the node sends it a ping.
        silence_ms: after this time without a byte the bond closes.
        reconnect_min_ms, reconnect_max_ms: back-off when an address cannot be reached.
        refused_min_ms, refused_max_ms: back-off when either side refused for a reason that lasts until
            something is changed.
        yield_ms: the larger peer id lets the smaller one dial first, to spare both a second handshake.
        forget_after_ms: a learned address that has failed for this time is forgotten. Seeds never are.
        linger_ms: how long a refused peer has to read the reason, before the socket closes.
        depart_ms: how long a departing member waits for its goodbyes to be written.
        claims_interval_ms: a peer whose tickets claim something new is asked for them at most this often.
        handshakes_max: concurrent handshakes that other nodes opened, in the whole process.
        handshakes_per_address_max: the same, per remote IP address.
        payload_bytes_max: largest payload, sent or received.
        send_buffer_bytes_max: with more than this waiting the peer is too slow and its bond closes.
    """

    proof_timeout_ms: int = 3000
    handshake_timeout_ms: int = 15_000
    tick_ms: int = 100
    ping_interval_ms: int = 500
    silence_ms: int = 3000
    reconnect_min_ms: int = 100
    reconnect_max_ms: int = 5000
    refused_min_ms: int = 1000
    refused_max_ms: int = 30_000
    yield_ms: int = 300
    forget_after_ms: int = 600_000
    linger_ms: int = 1000
    depart_ms: int = 1000
    claims_interval_ms: int = 1000
    handshakes_max: int = 64
    handshakes_per_address_max: int = 16
    payload_bytes_max: int = 16 * 1024 * 1024
    send_buffer_bytes_max: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"bonds.{name} must be positive")
        if self.silence_ms < 2 * self.ping_interval_ms:
            raise ConfigError("bonds.silence_ms must be at least twice bonds.ping_interval_ms")
        if self.proof_timeout_ms > self.handshake_timeout_ms:
            raise ConfigError("bonds.proof_timeout_ms must not exceed bonds.handshake_timeout_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The clocks and the randomness that drivers give to the cores.

    Attributes:
        now: aware UTC time. The host's clock: it may end trust early, never prolong it.
        monotonic_ms: milliseconds from an arbitrary start, never going back.
        randrange: uniform integer in [0, n).
        nonce: 32 unpredictable bytes.
    """

    now: Callable[[], datetime]
    monotonic_ms: Callable[[], int]
    randrange: Callable[[int], int]
    nonce: Callable[[], bytes]

    @classmethod
    def system(cls) -> "Environment":
        return cls(
            now=lambda: datetime.now(UTC),
            monotonic_ms=lambda: time.monotonic_ns() // 1_000_000,
            randrange=secrets.randbelow,
            nonce=lambda: secrets.token_bytes(32),
        )
