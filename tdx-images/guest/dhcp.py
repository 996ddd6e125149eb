"""DHCPv4, the client's side, as values: messages out, leases in (RFC 2131, RFC 2132). No sockets here.

The server is the host, so its answers are hostile input: they are bounded, checked against our transaction,
and used for an address only.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

MESSAGE_BYTES_MAX = 1500
LEASE_SECONDS_MIN = 60
LEASE_SECONDS_MAX = 7 * 24 * 3600
RETRY_SECONDS_MIN = 60

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6

_COOKIE = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s192x")
_OPTIONS_WANTED = bytes((1, 3, 6, 51, 54))


class DhcpError(Exception):
    """A message that is not a valid answer to our request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    address: IPv4Address
    prefix: int
    routers: tuple[IPv4Address, ...]
    name_servers: tuple[IPv4Address, ...]
    server: IPv4Address
    seconds: int


class Tenancy:
    """How long a lease is held, and when to renew it (RFC 2131, 4.4.5). Times are monotonic seconds."""

    def __init__(self, lease: Lease, *, now: float) -> None:
        self.renewed(lease, now=now)

    def renewed(self, lease: Lease, *, now: float) -> None:
        """Record that a server acknowledged this lease: renew at T1, half of its time."""
        self.lease = lease
        self._expires_at = now + lease.seconds
        self.ask_at = now + lease.seconds / 2

    def unanswered(self, *, now: float) -> None:
        """Record that no server answered: retry after half of the rest, but not sooner than in a minute."""
        self.ask_at = now + max((self._expires_at - now) / 2, RETRY_SECONDS_MIN)

    def expired(self, *, now: float) -> bool:
        """Return whether the lease has expired, so that a new address has to be discovered."""
        return now >= self._expires_at


def message(
    kind: int,
    *,
    transaction: int,
    hardware: bytes,
    offered: Lease | None = None,
    bound: IPv4Address | None = None,
) -> bytes:
    """Return a DISCOVER, a REQUEST for an offer, or a renewing REQUEST for the address we are bound to."""
    client = bound.packed if bound else bytes(4)
    broadcast = 0 if bound else 0x8000
    head = _HEADER.pack(
        1, 1, 6, 0, transaction, 0, broadcast, client, bytes(4), bytes(4), bytes(4), hardware.ljust(16, b"\0")
    )
    options = bytes((53, 1, kind)) + bytes((55, len(_OPTIONS_WANTED))) + _OPTIONS_WANTED
    if offered is not None and bound is None:
        options += b"\x32\x04" + offered.address.packed + b"\x36\x04" + offered.server.packed
    return (head + _COOKIE + options + b"\xff").ljust(300, b"\0")


def parse_answer_untrusted(data: bytes, *, transaction: int, hardware: bytes) -> tuple[int, Lease | None]:
    """Return the kind of an answer, and its lease unless it is a NAK.

    Raises:
        DhcpError: malformed, or for another client.
    """
    if not _HEADER.size + 4 <= len(data) <= MESSAGE_BYTES_MAX:
        raise DhcpError(f"an answer of {len(data)} bytes")
    op, _, _, _, seen, _, _, _, given, _, _, chaddr = _HEADER.unpack_from(data)
    if op != 2 or seen != transaction or chaddr[:6] != hardware:
        raise DhcpError("an answer to another client")
    if data[_HEADER.size : _HEADER.size + 4] != _COOKIE:
        raise DhcpError("an answer without options")
    options = _options(data[_HEADER.size + 4 :])
    kind = options.get(53, b"")
    if len(kind) != 1:
        raise DhcpError("an answer without a type")
    if kind[0] == NAK:
        return NAK, None
    if kind[0] not in {OFFER, ACK}:
        raise DhcpError(f"an answer of type {kind[0]}")
    return kind[0], _lease(given, options)


def _lease(given: bytes, options: dict[int, bytes]) -> Lease:
    address = IPv4Address(given)
    if (
        address.is_unspecified
        or address.is_multicast
        or address.is_loopback
        or address == IPv4Address("255.255.255.255")
    ):
        raise DhcpError(f"{address} is no address for an interface")
    mask = int.from_bytes(_sized(options, 1, 4), "big")
    prefix = mask.bit_count()
    if mask != (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF or not prefix:
        raise DhcpError("a network mask with holes")
    seconds = int.from_bytes(_sized(options, 51, 4), "big")
    return Lease(
        address=address,
        prefix=prefix,
        routers=_addresses(options.get(3, b"")),
        name_servers=_addresses(options.get(6, b"")),
        server=IPv4Address(_sized(options, 54, 4)),
        seconds=min(max(seconds, LEASE_SECONDS_MIN), LEASE_SECONDS_MAX),
    )


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data) and data[offset] != 255:
        if data[offset] == 0:
            offset += 1
            continue
        size = data[offset + 1] if offset + 1 < len(data) else 256
        value = data[offset + 2 : offset + 2 + size]
        if len(value) != size:
            raise DhcpError("an option runs past the end")
        found[data[offset]] = value
        offset += 2 + size
    return found


def _sized(options: dict[int, bytes], option: int, size: int) -> bytes:
    value = options.get(option, b"")
    if len(value) != size:
        raise DhcpError(f"option {option} is missing or malformed")
    return value


def _addresses(value: bytes) -> tuple[IPv4Address, ...]:
    if len(value) % 4 or len(value) > 16:
        raise DhcpError("a list of addresses of the wrong size")
    return tuple(IPv4Address(value[at : at + 4]) for at in range(0, len(value), 4))
