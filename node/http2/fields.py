"""The one strict reading of a request's fields (RFC 9113 8.2 and 8.3), and HPACK around it.

Whoever puts HTTP/2 into HTTP/1.1 must refuse what HTTP/1.1 could read in two ways. This server hands both to
the same application, so it accepts of HTTP/2 what ``node.api.requests`` accepts of HTTP/1.1, and no more.
"""

import operator
import re
from functools import lru_cache
from typing import Final

import hpack
from msgspec import Struct

from node.http2.errors import BadFieldsError, ConnectionFaultError, ErrorCode, HeadTooLargeError
from node.http_syntax import HOST, LENGTH, METHOD, TARGET, VALUE

Fields = list[tuple[bytes, bytes]]
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
_VALUE: Final = re.compile(rb"(?![\t ])" + VALUE + rb"(?<![\t ])")
_METHOD: Final = re.compile(METHOD)
_TARGET: Final = re.compile(TARGET)
_HOST: Final = re.compile(HOST)
_LENGTH: Final = re.compile(LENGTH)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
# Fields of one hop (RFC 9113 8.2.2). `te` may announce that trailers are understood, and nothing else.
_OF_A_CONNECTION: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_ONCE: Final = frozenset({b"host", b"content-length", b"content-type", b"expect"})
# Three updates of the table's size at the start of a block. More than two are never needed (RFC 7541 4.2).
_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*+[\x00-\x7f]){3}")
# Begins each block of an answer: its table has no room, so no answer depends on another. Without it, a client
# that has lowered SETTINGS_HEADER_TABLE_SIZE would miss that this server did so too (RFC 9113 4.3.1).
_NO_TABLE: Final = b"\x20"


class Http2Request(Struct, frozen=True, gc=False):
    """A request, as it is handed to the application.

    Attributes:
        target: path and query.
        fields: with the host as the first one, names in lower case.
        body_bytes: what Content-Length declares; None: it is not sent.
        expects_continue: the client waits for ``100 Continue``.
    """

    method: bytes
    target: bytes
    fields: Fields
    body_bytes: int | None
    expects_continue: bool


def read_request_untrusted(fields: Fields, fields_max: int) -> Http2Request:
    """Return the request that these fields are.

    Raises:
        BadFieldsError: they are not a request with exactly one reading, or too many.
    """
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name not in _PSEUDO or name in pseudo or not _VALUE.fullmatch(value):
            raise BadFieldsError("a request has each of :method, :scheme, :authority and :path once")
        pseudo[name] = value
    regular = fields[len(pseudo) :]
    if len(regular) > fields_max:
        raise BadFieldsError(f"a request has at most {fields_max} header fields", "head-too-large")
    once = _read_regular(regular)
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method) or method == b"CONNECT" or not _TARGET.fullmatch(target):
        raise BadFieldsError("a request has a :method other than CONNECT, and a :path of this server")
    if pseudo.get(b":scheme") != b"https":
        raise BadFieldsError("the :scheme of a request is https")
    host = _host_of(pseudo.get(b":authority"), once.get(b"host"))
    expects = once.get(b"expect")
    if expects is not None and expects.lower() != b"100-continue":
        raise BadFieldsError("Expect can only be 100-continue")
    length = once.get(b"content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise BadFieldsError("Content-Length is one whole number")
    return Http2Request(
        method,
        target,
        [(b"host", host), *_whole_cookies([field for field in regular if field[0] != b"host"])],
        None if length is None else int(length),
        expects is not None,
    )


def _read_regular(fields: Fields) -> dict[bytes, bytes]:
    """Return those of the fields that must not be repeated.

    Raises:
        BadFieldsError: a field has another form, is of one hop, is a late pseudo-header field, or repeats.
    """
    once: dict[bytes, bytes] = {}
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise BadFieldsError("a field's name is a token in lower case, behind the pseudo-header fields")
        if not _VALUE.fullmatch(value):
            raise BadFieldsError("a field's value has no control characters, and no space at its ends")
        if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
            raise BadFieldsError(f"HTTP/2 has no header field {name.decode()} of this kind")
        if name in _ONCE:
            if name in once:
                raise BadFieldsError(f"two header fields {name.decode()}; send one")
            once[name] = value
    return once


def _whole_cookies(fields: Fields) -> Fields:
    """Return the fields with all cookies in one, as HTTP/1.1 has them (RFC 9113 8.2.3)."""
    crumbs = [value for name, value in fields if name == b"cookie"]
    if len(crumbs) < 2:
        return fields
    return [*(field for field in fields if field[0] != b"cookie"), (b"cookie", b"; ".join(crumbs))]


def _host_of(authority: bytes | None, host: bytes | None) -> bytes:
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise BadFieldsError(":authority and Host name the same host")
    named = host if authority is None else authority
    if named is None or not _HOST.fullmatch(named.lower()):
        raise BadFieldsError("a request has one :authority, or Host field, of the form host:port")
    return named


class HeaderDecoder:
    """HPACK of one connection (RFC 7541), bounded before it costs.

    Args:
        list_bytes_max: of the fields of one block, by RFC 9113 10.5.1.
    """

    def __init__(self, list_bytes_max: int) -> None:
        self._decoder = hpack.Decoder(list_bytes_max)
        self._last_block: bytes | None = None  # that was read without a change of the table, which is as then
        self._last_fields: Fields = []

    def decode_untrusted(self, block: bytes) -> Fields:
        """Return the fields of a whole block.

        Raises:
            ConnectionFaultError: the block cannot be read, so no later one can.
            HeadTooLargeError: it has more than the limit, at the point where the limit was passed.
        """
        if block == self._last_block:  # most clients repeat a head, and its block consists of indices then
            return self._last_fields
        self._last_block = None
        before = self._table()
        fields = self._decoded_untrusted(block)
        if all(map(operator.is_, before, self._table())):
            self._last_block, self._last_fields = block, fields
        return fields

    def _table(self) -> tuple[object, ...]:
        """Return what is another object after each change of the table: its sizes, its newest entry."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return table.maxsize, len(entries), entries[0] if entries else None

    def _decoded_untrusted(self, block: bytes) -> Fields:
        if _UPDATES.match(block):
            raise _undecodable("a header block begins with at most two updates of the table's size")
        try:
            return [(field[0], field[1]) for field in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as exc:
            raise HeadTooLargeError from exc
        except hpack.HPACKError as exc:
            raise _undecodable("a header block is not HPACK") from exc


def _undecodable(detail: str) -> ConnectionFaultError:
    return ConnectionFaultError(ErrorCode.COMPRESSION_ERROR, "compression-invalid", detail)


def _encoder() -> hpack.Encoder:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder


_ENCODER: Final = _encoder()  # keeps no state: its table has no room


@lru_cache(maxsize=1024)
def _encoded(name: bytes, value: bytes) -> bytes:
    assert _NAME.fullmatch(name.removeprefix(b":")), "the name of a field of an answer"
    assert _VALUE.fullmatch(value), "its value"
    # As a literal without indexing: with an empty table, each other form would mean the same.
    return _ENCODER.add((name, value), sensitive=True)


def encode_answer(status: int, fields: Fields) -> bytes:
    """Return the header block of an answer. It depends on no other block."""
    return _NO_TABLE + _encoded(b":status", b"%d" % status) + b"".join(_encoded(*field) for field in fields)


def encode_trailers(fields: Fields) -> bytes:
    """Return the header block of the trailer fields of an answer. It depends on no other block."""
    return _NO_TABLE + b"".join(_encoded(*field) for field in fields)
