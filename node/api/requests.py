"""Where each request on a connection begins and ends: the one strict reading of every head, without I/O.

An attacker can use two programs that read one message differently: a proxy may read as the body of a harmless
request what the server behind it reads as the next request. The parser below this (llhttp) is very tolerant:
it ends a message at its head for ``Upgrade`` and ``CONNECT``, accepts the start lines of other protocols, and
uses the last copy of a field that must be there once. So this module judges a head first, and refuses a head
that could be read in two ways. The parser receives one request at a time, exactly its bytes, and
``node.api.protocol`` closes the connection if the parser finds another end of the request.

This module accepts a subset of RFC 9112: the origin form of a target, ``HTTP/1.1`` or ``HTTP/1.0``, fields
without folding, a body by Content-Length or chunked without extensions and trailers, never both.
"""

import re
from typing import Final

from msgspec import Struct

from node.api.limits import CHUNKS_MAX, FIELDS_MAX
from node.http_syntax import HOST, LENGTH, METHOD, TARGET, VALUE

END_OF_HEAD: Final = b"\r\n\r\n"
_HEAD: Final = re.compile(
    rb"(?!CONNECT )" + METHOD + rb" " + TARGET + rb" HTTP/1\.([01])\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:" + VALUE + rb"\r\n)*+"
    rb"\r\n"
)
# The fields that decide where a message ends or which host it is for, and those that must not be repeated.
_DECISIVE: Final = re.compile(
    rb"\n(host|con(?:tent-(?:length|type)|nection)|transfer-encoding|upgrade|expect):([^\r]*+)"
)
_HOST: Final = re.compile(HOST)
_CLOSE: Final = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|\Z)")  # of a list, RFC 9110 5.6.1
_LENGTH: Final = re.compile(LENGTH)
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_LINE_BYTES_MAX: Final = 10


class BadRequestError(Exception):
    """The client sent a message that is no request with exactly one reading, or a request over a limit.

    Args:
        code: of ``node.api.problems``.
        detail: one sentence for people.
    """

    def __init__(self, detail: str, code: str = "http-invalid") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


# The values that ordinary clients change from request to request, in lines of the usual form. None of these
# fields decides where a message ends, except for the length, whose value is read for each request.
_CHANGING: Final = re.compile(
    rb"\n(content-length|idempotency-key|x-request-id|x-correlation-id|traceparent): ([!-~]++)\r",
    re.IGNORECASE,
)
_VALUE: Final = re.compile(rb"[!-~]{1,256}+")
_DIGITS: Final = re.compile(rb"[0-9]{1,15}+")


# Structs are cheap to make, and every request needs some.
class RequestHead(Struct, frozen=True, gc=False):
    """What a head states about its message.

    Attributes:
        body_bytes: size of the body that follows; 0 if it is chunked.
        chunked: the body itself marks its end.
        last: the last request on this connection: all bytes after it are ignored.
    """

    body_bytes: int
    chunked: bool
    last: bool


class Piece(Struct, frozen=True, gc=False):
    """Bytes of one request, in order.

    Attributes:
        head: of the request that begins with them, else None.
        ends: the request ends with them.
        repeated: the size of the head, if it is the last one on this connection except for ``changed``,
            otherwise 0.
        changed: other values than in the last head, by the number of the field, from 0.
    """

    data: bytes
    head: RequestHead | None
    ends: bool
    repeated: int = 0
    changed: dict[int, bytes] = {}


def read_head_untrusted(data: bytes) -> RequestHead:
    """Return what the head in ``data`` states. ``data`` is the whole head with its empty line.

    Raises:
        BadRequestError: it is not a head that can be read in one way only, or has too many fields.
    """
    if data.count(b"\r\n") > FIELDS_MAX + 2:
        raise BadRequestError(f"a request has at most {FIELDS_MAX} header fields", "head-too-large")
    match = _HEAD.fullmatch(data)
    if match is None:
        raise BadRequestError("not the head of an HTTP/1.1 request to a path of this server")
    fields: dict[bytes, bytes] = {}
    for name, value in _DECISIVE.findall(data.lower()):
        if name not in fields:
            fields[name] = value.strip(b" \t")
        elif name == b"connection":
            fields[name] += b"," + value
        else:
            raise BadRequestError(f"two header fields {name.decode()}; send one")
    old = match[1] == b"0"
    host = fields.get(b"host")
    if (host is None and not old) or (host is not None and not _HOST.fullmatch(host)):
        raise BadRequestError("a request has one Host field, of the form host:port")
    if b"upgrade" in fields:
        raise BadRequestError("this server supports HTTP/1.1 only: do not send Upgrade")
    if fields.get(b"expect", b"100-continue") != b"100-continue":
        raise BadRequestError("Expect can only be 100-continue")
    last = old or _CLOSE.search(fields.get(b"connection", b"")) is not None
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if old or length is not None or coding != b"chunked":
            raise BadRequestError("Transfer-Encoding can only be chunked, and without Content-Length")
        return RequestHead(0, chunked=True, last=last)
    if length is not None and not _LENGTH.fullmatch(length):
        raise BadRequestError("Content-Length is one whole number")
    return RequestHead(0 if length is None else int(length), chunked=False, last=last)


class _Form(Struct, frozen=True, gc=False):
    """A head that was read, without the values that its client may change.

    Attributes:
        parts: what is in front of each of these values, in order, and behind the last one.
        fields: the number of the field of each value, from 0.
        length: the number of the field with the length of the body; -1: none.
        last: as in ``RequestHead``.
    """

    parts: tuple[bytes, ...]
    fields: tuple[int, ...]
    length: int
    last: bool

    @classmethod
    def of(cls, data: bytes, head: RequestHead) -> "_Form | None":
        """Return the form of a head; None if its client may change nothing, or its body is chunked."""
        if head.chunked:
            return None
        parts: list[bytes] = []
        fields: list[int] = []
        names: list[bytes] = []
        place = 0
        for match in _CHANGING.finditer(data):
            start, end = match.span(2)
            parts.append(data[place:start])
            fields.append(data.count(b"\n", 0, start) - 1)
            names.append(match[1].lower())
            place = end
        if not names or len(set(names)) < len(names):
            return None
        parts.append(data[place:])
        length = fields[names.index(b"content-length")] if b"content-length" in names else -1
        return cls(tuple(parts), tuple(fields), length, head.last)

    def read_untrusted(self, buffer: bytes, head_bytes_max: int) -> Piece | None:
        """Return the request in ``buffer`` if it is whole and its head has this form."""
        place, body_bytes, length = 0, 0, self.length
        changed: dict[int, bytes] = {}
        for part, field in zip(self.parts, self.fields, strict=False):  # one part is behind all values
            if not buffer.startswith(part, place):
                return None
            pattern = _DIGITS if field == length else _VALUE
            match = pattern.match(buffer, place + len(part))
            if match is None:
                return None
            value = changed[field] = match[0]
            if field == length:
                body_bytes = int(value)
            place = match.end()
        part = self.parts[-1]
        if not buffer.startswith(part, place):
            return None
        place += len(part)
        if place > head_bytes_max or len(buffer) - place != body_bytes:
            return None
        head = RequestHead(body_bytes, chunked=False, last=self.last)
        return Piece(buffer, head, ends=True, repeated=place, changed=changed)


class RequestReader:
    """Cuts what one connection sends into pieces of requests.

    Args:
        head_bytes_max: of a head, with its empty line.
    """

    def __init__(self, head_bytes_max: int) -> None:
        self._head_bytes_max = head_bytes_max
        self._buffer = b""
        self._body_left = 0
        self._chunks: _Chunks | None = None
        self._over = False  # all further bytes are ignored
        self._last_head = b""
        self._last_read = RequestHead(0, chunked=False, last=False)
        self._form: _Form | None = None  # of the last head, once ``_form_sought``
        self._form_sought = False

    @property
    def in_head(self) -> bool:
        """Whether a part of a head has been received, but not all of it."""
        return bool(self._buffer) and self._body_left == 0 and self._chunks is None

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the connection."""
        self._buffer = self._buffer + data if self._buffer else data

    def next_piece_untrusted(self) -> Piece | None:
        """Return the next piece, or None if more bytes are needed first.

        Raises:
            BadRequestError: no further bytes of this connection can be trusted to be a request.
        """
        buffer = self._buffer
        if not buffer:
            return None
        if self._over:
            self._buffer = b""
            return None
        if self._chunks is not None:
            return self._of_chunks(buffer, None, 0)
        if self._body_left:
            return self._of_body(buffer, None, 0)
        last = self._last_head
        if last and buffer.startswith(last):
            # Most clients repeat the same head: it is read once.
            head, end = self._last_read, len(last)
            if len(buffer) - end == head.body_bytes and not head.chunked:
                self._buffer, self._over = b"", head.last
                return Piece(buffer, head, ends=True, repeated=end)
            return self._begun(buffer, head, end)
        if last:
            piece = self._of_form(buffer)
            if piece is not None:
                return piece
        end = buffer.find(END_OF_HEAD, 0, self._head_bytes_max)
        if end < 0:
            if len(buffer) >= self._head_bytes_max:
                raise BadRequestError(
                    f"request line and header fields have at most {self._head_bytes_max} bytes",
                    "head-too-large",
                )
            return None
        end += len(END_OF_HEAD)
        data = buffer[:end]
        head = self._last_read = read_head_untrusted(data)
        self._last_head = data
        self._form, self._form_sought = None, False
        return self._begun(buffer, head, end)

    def _of_form(self, buffer: bytes) -> Piece | None:
        """Return the request in ``buffer`` if it is whole and has the last head with other values."""
        if not self._form_sought:
            self._form, self._form_sought = _Form.of(self._last_head, self._last_read), True
        if self._form is None:
            return None
        piece = self._form.read_untrusted(buffer, self._head_bytes_max)
        if piece is not None:
            assert piece.head is not None
            self._last_head, self._last_read = buffer[: piece.repeated], piece.head
            self._buffer, self._over = b"", piece.head.last
        return piece

    def _begun(self, buffer: bytes, head: RequestHead, end: int) -> Piece | None:
        if head.chunked:
            self._chunks = _Chunks()
            return self._of_chunks(buffer, head, end)
        self._body_left = head.body_bytes
        return self._of_body(buffer, head, end)

    def _of_body(self, buffer: bytes, head: RequestHead | None, start: int) -> Piece:
        size = len(buffer) - start
        if size <= self._body_left:
            self._body_left -= size
            self._buffer = b""
            data = buffer
        else:
            end = start + self._body_left
            self._body_left = 0
            data, self._buffer = buffer[:end], buffer[end:]
        return self._piece(data, head, ends=self._body_left == 0)

    def _of_chunks(self, buffer: bytes, head: RequestHead | None, start: int) -> Piece | None:
        assert self._chunks is not None
        end = self._chunks.advance_untrusted(buffer, start)
        ends = self._chunks.over
        if ends:
            self._chunks = None
        data, self._buffer = buffer[:end], buffer[end:]
        return self._piece(data, head, ends=ends) if data else None

    def _piece(self, data: bytes, head: RequestHead | None, *, ends: bool) -> Piece:
        if ends and self._last_read.last:
            self._over = True
        return Piece(data, head, ends)


class _Chunks:
    """Finds the end of one chunked body."""

    def __init__(self) -> None:
        self.over = False
        self._left = 0  # bytes left of the chunk, with the line break behind it
        self._count = 0

    def advance_untrusted(self, data: bytes, place: int) -> int:
        """Return the end of the whole parts of the body in ``data``, from ``place`` on.

        Raises:
            BadRequestError
        """
        while place < len(data):
            if self._left > 2:
                step = min(self._left - 2, len(data) - place)
                self._left -= step
                place += step
            elif self._left:
                if len(data) < place + 2:
                    return place
                if data[place : place + 2] != b"\r\n":
                    raise BadRequestError("a chunk is longer than its declared size")
                self._left = 0
                place += 2
            else:
                match = _CHUNK_LINE.match(data, place)
                if match is None:
                    if len(data) - place >= _CHUNK_LINE_BYTES_MAX or b"\n" in data[place:]:
                        raise BadRequestError("a chunk begins with its size and nothing else")
                    return place
                size = int(match[1], 16)
                if size == 0:
                    return self._end(data, place, match.end())
                self._count += 1
                if self._count > CHUNKS_MAX:
                    raise BadRequestError(f"a body comes in at most {CHUNKS_MAX} chunks", "body-too-large")
                self._left = size + 2
                place = match.end()
        return place

    def _end(self, data: bytes, place: int, after: int) -> int:
        if data[after : after + 2] == b"\r\n":
            self.over = True
            return after + 2
        if len(data) >= after + 2 or data[after : after + 1] not in {b"", b"\r"}:
            raise BadRequestError("a chunked body ends without trailer fields")
        return place  # the empty line has not been received yet
