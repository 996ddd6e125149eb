"""The messages of a bond: frozen values and their CBOR form ``[tag, fields…]``.

Tags 1 to 5 belong to the handshake, tags from 16 up to an admitted bond. A later release may add fields at
the end of a message; this release ignores them. It may also add messages: one with an unknown tag below 64
ends the bond, and one with a higher unknown tag is ignored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from attestation.encoding import canonical
from attestation.encoding.fields import (
    ROW_ITEMS_MAX,
    Check,
    FieldError,
    array,
    array_of,
    bytes_of,
    flag,
    integer,
    map_of,
    octets,
    one_of,
    optional,
    row,
    text,
)
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
IGNORABLE_TAG: Final = 64  # an unknown message with this tag or a higher one is ignored
_HELLO_TAG: Final = 1
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


def is_name(name: str) -> bool:
    """Return whether ``name`` can name a member: 1 to 64 of ``A-Za-z0-9._-``, not starting with ``._-``."""
    return _NAME.fullmatch(name) is not None


_DIGEST: Final = bytes_of(32)
_MEMBER_NAME: Final = text(64, _NAME, form="a member's name")
_REASON: Final = text(64, _CODE, form="a reason")
_TICKETS: Final = map_of(text(64, _CODE, form="a ticket's class"), octets, TICKETS_MAX)
_VERSIONS: Final = array_of(integer(1, 65535), VERSIONS_MAX)
_ENTRY: Final = row(5)
_ADDRESSES: Final = array(ADDRESSES_MAX)
_API_URL: Final = optional(text(URL_CHARS_MAX, _URL, form="a URL"))
_PREFERENCE: Final = one_of(Preference)
_IMAGE: Final = text(IMAGE_CHARS_MAX, _PRINTABLE, form="printable text")
_FAMILY: Final = text(FAMILY_CHARS_MAX, _PRINTABLE, form="printable text")
_MACHINE: Final = row(3)
_SPAN: Final = row(2)
_LEVEL: Final = integer(1, NUMBER_MAX)


def _address(value: Any) -> str:
    if not isinstance(value, str) or not is_address(value):
        raise FieldError("an address of the form host:port")
    return value


def _entry_to_value(entry: PeerEntry) -> list[Any]:
    return [
        entry.peer.id,
        entry.peer.name,
        entry.preference.value,
        list(entry.addresses),
        entry.api_url,
    ]


def _entry(value: Any) -> PeerEntry:
    peer_id, name, preference, addresses, api_url = _ENTRY(value)
    return PeerEntry(
        peer=Incarnation(_MEMBER_NAME(name), _DIGEST(peer_id)),
        preference=_PREFERENCE(preference),
        addresses=tuple(_address(item) for item in _ADDRESSES(addresses)),
        api_url=_API_URL(api_url),
    )


def _entries_to_value(entries: tuple[PeerEntry, ...]) -> list[Any]:
    return [_entry_to_value(entry) for entry in entries]


def _build_to_value(build: Build) -> dict[str, Any]:
    return {
        "image": build.image,
        "features": list(build.features),
        "machine": [build.family, *build.versions],
    }


def _build(value: Any) -> Build:
    """Return the build in ``value``; fields that a later release adds are ignored."""
    if not isinstance(value, dict) or len(value) > ROW_ITEMS_MAX:
        raise FieldError("a map that describes a build")
    family, low, high = _MACHINE(value.get("machine"))
    return Build(
        _IMAGE(value.get("image")), _span(value.get("features")), _FAMILY(family), _span([low, high])
    )


def _span(value: Any) -> Span:
    low, high = map(_LEVEL, _SPAN(value))
    if low > high:
        raise FieldError("a range that ends where it begins, or later")
    return Span(low, high)


def _protocol(value: Any) -> str:
    if value != PROTOCOL:
        raise FieldError(f"the protocol {PROTOCOL}")
    return PROTOCOL


def _versions(value: Any) -> tuple[int, ...]:
    numbers = _VERSIONS(value)
    if not set(numbers) & set(VERSIONS):
        # The following fields cannot be read, because every version has its own.
        raise RemoteProtocolError(
            "version-mismatch",
            f"the peer has versions {list(numbers)} of the bond protocol, this release {list(VERSIONS)}: "
            "releases before feature levels cannot be in one group with later ones",
        )
    return numbers


class _Field(NamedTuple):
    """One field of a message on the wire.

    Attributes:
        name: of the attribute; empty: a constant, which is checked and not kept.
        check: of what is read.
        write: makes the plain value of the attribute's.
    """

    name: str
    check: Check[Any]
    write: Callable[[Any], Any]


def _plain(value: Any) -> Any:
    return value


def _field(name: str, check: Check[Any], write: Callable[[Any], Any] = _plain) -> _Field:
    return _Field(name, check, write)


_A_PROTOCOL: Final = _field("", _protocol, lambda _: PROTOCOL)
_AN_ENTRY: Final = _field("entry", _entry, _entry_to_value)
_A_NONCE: Final = _field("nonce", _DIGEST)
_TICKET_MAP: Final = _field("tickets", _TICKETS)

# One row per message: tag, class, fields in the order of the wire.
_TABLE: Final[tuple[tuple[int, type[Message], tuple[_Field, ...]], ...]] = (
    (
        _HELLO_TAG,
        Hello,
        (
            _A_PROTOCOL,
            _field("versions", _versions, list),
            _field("network_id", _DIGEST),
            _field("group_id", _DIGEST),
            _A_NONCE,
            _field("name", _MEMBER_NAME),
            _field("build", _build, _build_to_value),
        ),
    ),
    (2, Prove, (_field("proof", _DIGEST), _AN_ENTRY)),
    (3, Attest, (_TICKET_MAP,)),
    (4, Admit, (_field("peers", array_of(_entry, ENTRIES_MAX), _entries_to_value),)),
    (5, Refuse, (_field("code", integer(0, 99_999)), _field("reason", _REASON))),
    (16, Ping, ()),
    (17, Pong, ()),
    (18, Departure, ()),
    (19, PeerEntryUpdate, (_AN_ENTRY,)),
    (20, BondFormed, (_AN_ENTRY,)),
    (21, ReattestRequest, (_A_NONCE,)),
    (22, Reattest, (_A_NONCE, _TICKET_MAP)),
    (25, ClaimsChanged, ()),
    (23, Payload, (_field("data", octets),)),
    (24, Fragment, (_field("stream", integer(0, 1)), _field("last", flag), _field("data", octets))),
)
_ENCODE: Final = {cls: (tag, fields) for tag, cls, fields in _TABLE}
_DECODE: Final = {tag: (cls, fields) for tag, cls, fields in _TABLE}


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
    tag, fields = _ENCODE[type(message)]
    return canonical.encode(
        [tag, *(field.write(getattr(message, field.name) if field.name else None) for field in fields)]
    )


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
    cls, expected = known
    try:
        if tag == _HELLO_TAG:
            _require_version(fields)
        if len(fields) < len(expected):
            raise _fail("too few fields")
        found = {field.name: field.check(item) for field, item in zip(expected, fields, strict=False)}
    except FieldError as exc:
        raise _fail(str(exc)) from exc
    found.pop("", None)
    return cls(**found)


def _require_version(fields: list[Any]) -> None:
    """Refuse a Hello of another version by its version, whatever other fields it has or lacks."""
    for check, item in zip((_protocol, _versions), fields, strict=False):
        check(item)
