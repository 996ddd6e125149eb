"""The messages of a bond: frozen values and their CBOR form ``[tag, fields…]``.

Tags 1 to 5 belong to the handshake, tags from 16 up to an admitted bond. A later release may add fields at
the end of a message; this release ignores them. It may also add messages: one with an unknown tag below 64
ends the bond, and one with a higher unknown tag is ignored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from attestation.encoding import canonical
from attestation.errors import MalformedError
from node.bonds.wire.addresses import is_address
from node.errors import RemoteProtocolError
from node.features import FAMILY_CHARS_MAX, IMAGE_CHARS_MAX, NUMBER_MAX, Build, Span
from node.peers import Incarnation, Preference

PROTOCOL: Final = "bondstone/bond"
VERSIONS: Final = (2,)

ADDRESSES_MAX: Final = 8
URL_CHARS_MAX: Final = 512
ENTRIES_MAX: Final = 256
VERSIONS_MAX: Final = 16
TICKETS_MAX: Final = 8
# CBOR items of one message: first the limit of Hello and Prove, then of Attest, then of the largest message,
# Admit with ``ENTRIES_MAX`` entries of 14 items.
HELLO_ITEMS_MAX: Final = 256
TICKETS_ITEMS_MAX: Final = 64
ITEMS_MAX: Final = 16 * ENTRIES_MAX
FIELDS_MAX: Final = 64  # of a message of fixed form, so that a later release may add some
IGNORABLE_TAG: Final = 64  # an unknown message with this tag or a higher one is ignored
_HELLO_TAG: Final = 1
_PREFERENCES: Final = frozenset(item.value for item in Preference)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CODE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f]+")
_URL: Final = re.compile(r"https://[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEntry:
    """What a member announces of itself, and what others pass on so that all members can meet.

    An entry that was passed on is only a hint where to dial: the node that answers there has to prove
    everything itself.

    Attributes:
        peer: name and 32-byte id.
        addresses: each ``host:port`` at which the member accepts bonds.
        api_url: the URL of its HTTP API, or None.
    """

    peer: Incarnation
    preference: Preference
    addresses: tuple[str, ...]
    api_url: str | None


# ---- handshake ----------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of either side.

    Attributes:
        versions: of this protocol that the sender supports. One of them is this release's: otherwise decoding
            fails.
        nonce: 32 fresh bytes that the other side's tickets must be bound to.
        build: the sender's software and the levels that it knows.
    """

    versions: tuple[int, ...]
    network_id: bytes
    group_id: bytes
    nonce: bytes
    name: str
    build: Build


@dataclass(frozen=True, slots=True, kw_only=True)
class Prove:
    """Attributes: ``proof`` 32 bytes, see ``handshake.proof_of``."""

    proof: bytes
    entry: PeerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """Attributes: ``tickets`` by ticket class, bound to this connection and the receiver's nonce."""

    tickets: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    peers: tuple[PeerEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Also ends an admitted bond. Attributes: ``code`` of ``refusals``; ``reason`` kebab-case."""

    code: int
    reason: str


# ---- admitted -------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Departure:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEntryUpdate:
    entry: PeerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class BondFormed:
    entry: PeerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ReattestRequest:
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reattest:
    """Attributes: ``nonce`` of the request that it answers."""

    nonce: bytes
    tickets: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class ClaimsChanged:
    """The claims of the sender's tickets have changed: the receiver may ask for new tickets at once."""


@dataclass(frozen=True, slots=True)
class LaterMessage:
    """A message of a later release that a receiver need not understand. Never encoded."""

    tag: int


@dataclass(frozen=True, slots=True)
class Payload:
    """A whole payload."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a payload.

    Attributes:
        stream: 0 consensus, 1 bulk; parts of one stream come in order.
        last: this part completes the payload.
    """

    stream: int
    last: bool
    data: bytes


HandshakeMessage = Hello | Prove | Attest | Admit | Refuse
BondMessage = (
    Refuse
    | Ping
    | Pong
    | Departure
    | PeerEntryUpdate
    | BondFormed
    | ReattestRequest
    | Reattest
    | ClaimsChanged
    | LaterMessage
    | Payload
    | Fragment
)
Message = HandshakeMessage | BondMessage


def _fail(what: str) -> RemoteProtocolError:
    return RemoteProtocolError("malformed-message", f"malformed bond message: {what}")


def _bytes32(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise _fail("expected 32 bytes")
    return value


def _blob(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _fail("expected bytes")
    return value


def _integer(value: Any, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _fail(f"expected an integer in {low}..{high}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _fail("expected a boolean")
    return value


def _text(value: Any, pattern: re.Pattern[str], *, chars_max: int) -> str:
    if not isinstance(value, str) or len(value) > chars_max or not pattern.fullmatch(value):
        raise _fail("text of an unexpected form")
    return value


def _list(value: Any, *, items_max: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > items_max:
        raise _fail(f"expected a list of at most {items_max}")
    return value


def is_name(name: str) -> bool:
    """Return whether ``name`` can name a member: 1 to 64 of ``A-Za-z0-9._-``, not starting with ``._-``."""
    return _NAME.fullmatch(name) is not None


def _address(value: Any) -> str:
    if not isinstance(value, str) or not is_address(value):
        raise _fail("an address that is not host:port")
    return value


def _tickets(value: Any) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > TICKETS_MAX:
        raise _fail(f"expected a map of at most {TICKETS_MAX} tickets")
    return {_text(key, _CODE, chars_max=64): _blob(item) for key, item in value.items()}


def _entry_to_value(entry: PeerEntry) -> list[Any]:
    return [
        entry.peer.id,
        entry.peer.name,
        entry.preference.value,
        list(entry.addresses),
        entry.api_url,
    ]


def _entry(value: Any) -> PeerEntry:
    fields = _list(value, items_max=FIELDS_MAX)
    if len(fields) < 5:
        raise _fail("a peer entry has five fields")
    peer_id, name, preference, addresses, api_url = fields[:5]
    if not isinstance(preference, str) or preference not in _PREFERENCES:
        raise _fail("unknown leadership preference")
    return PeerEntry(
        peer=Incarnation(_text(name, _NAME, chars_max=64), _bytes32(peer_id)),
        preference=Preference(preference),
        addresses=tuple(_address(item) for item in _list(addresses, items_max=ADDRESSES_MAX)),
        api_url=None if api_url is None else _text(api_url, _URL, chars_max=URL_CHARS_MAX),
    )


def _build_to_value(build: Build) -> dict[str, Any]:
    return {
        "image": build.image,
        "features": list(build.features),
        "machine": [build.family, *build.versions],
    }


def _build(value: Any) -> Build:
    """Return the build in ``value``; fields that a later release adds are ignored."""
    if not isinstance(value, dict) or len(value) > FIELDS_MAX:
        raise _fail("a build is a map")
    image = _text(value.get("image"), _PRINTABLE, chars_max=IMAGE_CHARS_MAX)
    machine = _list(value.get("machine"), items_max=FIELDS_MAX)
    if len(machine) < 3:
        raise _fail("a machine is its family and a range of versions")
    family = _text(machine[0], _PRINTABLE, chars_max=FAMILY_CHARS_MAX)
    return Build(image, _span(value.get("features")), family, _span(machine[1:]))


def _span(value: Any) -> Span:
    numbers = _list(value, items_max=FIELDS_MAX)
    if len(numbers) < 2:
        raise _fail("a range has two ends")
    low, high = (_integer(item, low=1, high=NUMBER_MAX) for item in numbers[:2])
    if low > high:
        raise _fail("a range that ends before it begins")
    return Span(low, high)


def _hello(protocol: Any, versions: Any, *fields: Any) -> Hello:
    if protocol != PROTOCOL:
        raise _fail("another protocol")
    listed = _list(versions, items_max=VERSIONS_MAX)
    numbers = tuple(_integer(item, low=1, high=65535) for item in listed)
    if not set(numbers) & set(VERSIONS):
        # The following fields cannot be read, because every version has its own.
        raise RemoteProtocolError(
            "version-mismatch",
            f"the peer has versions {list(numbers)} of the bond protocol, this release {list(VERSIONS)}: "
            "releases before feature levels cannot be in one group with later ones",
        )
    network_id, group_id, nonce, name, build = fields
    return Hello(
        versions=numbers,
        network_id=_bytes32(network_id),
        group_id=_bytes32(group_id),
        nonce=_bytes32(nonce),
        name=_text(name, _NAME, chars_max=64),
        build=_build(build),
    )


# One row per message: tag, class, number of fields, value -> fields, fields -> value.
_TABLE: Final[tuple[tuple[int, type, int, Callable[[Any], list[Any]], Callable[..., Message]], ...]] = (
    (
        1,
        Hello,
        7,
        lambda m: [
            PROTOCOL,
            list(m.versions),
            m.network_id,
            m.group_id,
            m.nonce,
            m.name,
            _build_to_value(m.build),
        ],
        _hello,
    ),
    (
        2,
        Prove,
        2,
        lambda m: [m.proof, _entry_to_value(m.entry)],
        lambda proof, entry: Prove(proof=_bytes32(proof), entry=_entry(entry)),
    ),
    (3, Attest, 1, lambda m: [m.tickets], lambda tickets: Attest(tickets=_tickets(tickets))),
    (
        4,
        Admit,
        1,
        lambda m: [[_entry_to_value(entry) for entry in m.peers]],
        lambda peers: Admit(peers=tuple(_entry(item) for item in _list(peers, items_max=ENTRIES_MAX))),
    ),
    (
        5,
        Refuse,
        2,
        lambda m: [m.code, m.reason],
        lambda code, reason: Refuse(
            code=_integer(code, low=0, high=99_999), reason=_text(reason, _CODE, chars_max=64)
        ),
    ),
    (16, Ping, 0, lambda _: [], Ping),
    (17, Pong, 0, lambda _: [], Pong),
    (18, Departure, 0, lambda _: [], Departure),
    (
        19,
        PeerEntryUpdate,
        1,
        lambda m: [_entry_to_value(m.entry)],
        lambda entry: PeerEntryUpdate(entry=_entry(entry)),
    ),
    (
        20,
        BondFormed,
        1,
        lambda m: [_entry_to_value(m.entry)],
        lambda entry: BondFormed(entry=_entry(entry)),
    ),
    (
        21,
        ReattestRequest,
        1,
        lambda m: [m.nonce],
        lambda nonce: ReattestRequest(nonce=_bytes32(nonce)),
    ),
    (
        22,
        Reattest,
        2,
        lambda m: [m.nonce, m.tickets],
        lambda nonce, tickets: Reattest(nonce=_bytes32(nonce), tickets=_tickets(tickets)),
    ),
    (25, ClaimsChanged, 0, lambda _: [], ClaimsChanged),
    (23, Payload, 1, lambda m: [m.data], lambda data: Payload(_blob(data))),
    (
        24,
        Fragment,
        3,
        lambda m: [m.stream, m.last, m.data],
        lambda stream, last, data: Fragment(_integer(stream, low=0, high=1), _flag(last), _blob(data)),
    ),
)
_ENCODE: Final = {cls: (tag, to_fields) for tag, cls, _, to_fields, _ in _TABLE}
_DECODE: Final = {tag: (count, from_fields) for tag, _, count, _, from_fields in _TABLE}


# Nearly everything that a bond carries is payloads, and most are small. Their CBOR is therefore written and
# read without the general codec: the same bytes at a fraction of the cost. ``[23, bytes]``: two bytes, a
# head, the data.
_PAYLOAD_START: Final = b"\x82\x17"
_LONG_HEADS: Final = {0x58: 1, 0x59: 2, 0x5A: 4}  # initial byte -> bytes of length that follow


def _payload_head(size: int) -> bytes:
    """Return what precedes the data of a payload in deterministic CBOR (RFC 8949 3.1, major type 2)."""
    if size < 24:
        return _PAYLOAD_START + bytes((0x40 | size,))
    initial = 0x58 if size < 1 << 8 else 0x59 if size < 1 << 16 else 0x5A
    return _PAYLOAD_START + bytes((initial,)) + size.to_bytes(_LONG_HEADS[initial], "big")


def _payload_or_none(data: bytes) -> Payload | None:
    """Return the payload if ``data`` is exactly the encoding of one."""
    if len(data) < 3 or not data.startswith(_PAYLOAD_START):
        return None
    start = 3 + _LONG_HEADS.get(data[2], 0)
    if len(data) < start or not data.startswith(_payload_head(len(data) - start)):
        return None
    return Payload(data[start:])


def encode(message: Message) -> bytes:
    """Return the deterministic CBOR of ``message``."""
    if type(message) is Payload:
        return _payload_head(len(message.data)) + message.data
    tag, to_fields = _ENCODE[type(message)]
    return canonical.encode([tag, *to_fields(message)])


def decode_untrusted(data: bytes, *, items_max: int = ITEMS_MAX) -> Message:
    """Parse one message. The caller's frame limit bounds the size of ``data``, ``items_max`` its CBOR items.

    Raises:
        RemoteProtocolError: ``malformed-message``.
    """
    payload = _payload_or_none(data)
    if payload is not None:
        return payload
    try:
        value = canonical.decode_untrusted(data, bytes_max=len(data), items_max=items_max)
    except MalformedError as exc:
        raise _fail(exc.reason) from exc
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise _fail("not an array that starts with a tag")
    tag, fields = value[0], value[1:]
    known = _DECODE.get(tag)
    if known is None:
        if tag >= IGNORABLE_TAG:
            return LaterMessage(tag)
        raise _fail(f"unknown tag {tag}")
    count, decoder = known
    if len(fields) < count and tag != _HELLO_TAG:
        raise _fail("too few fields")
    try:
        return decoder(*fields[:count])
    except (TypeError, ValueError) as exc:
        raise _fail("wrong number of fields") from exc
