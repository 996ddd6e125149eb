"""Protocol Buffers: a codec for ``node.etcd.messages``, made from the annotations of their fields.

Each message class has an encoder and a decoder, made once from one table of its fields, at its first use.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct

from node.errors import NodeError
from node.etcd import messages
from node.etcd.messages import Message

BYTES_MAX: Final = 2 * 1024 * 1024
# Fields of one message and of those within it. The largest transaction that etcd takes has some 10,000.
ITEMS_MAX: Final = 65536
DEPTH_MAX: Final = 64  # messages within messages; each nested transaction takes two

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_GROUP: Final = 3
_GROUP_END: Final = 4
_FIXED32: Final = 5
_TAG_MAX: Final = 2**32 - 1
_SIGN_64: Final = 1 << 63
_MASK_64: Final = (1 << 64) - 1
_SIGN_32: Final = 1 << 31
_MASK_32: Final = (1 << 32) - 1
_SMALL: Final = tuple(bytes((number,)) for number in range(128))
_NONE: Final[tuple[Any, ...]] = ()

M = TypeVar("M", bound=Message)
_Make = Callable[[int], Any]


class ProtobufError(NodeError):
    """Bytes are no message of the expected type, or too much of one."""


class Field(Struct, frozen=True):
    """One field of a message.

    Attributes:
        number: in the encoding.
        name: in the .proto file.
        kind: ``int64``, ``uint64``, ``uint32``, ``bool``, ``bytes`` or ``string``; or the class of an
            enumeration or of a message.
        repeated: it has a list of values.
        optional: it is None when it is absent.
        oneof: the names of the alternatives of which it is one, itself included.
    """

    number: int
    name: str
    kind: str | type[IntEnum] | type[Message]
    repeated: bool
    optional: bool
    oneof: frozenset[str]


# Of these, each optional field is an alternative of the one oneof that they have.
_HAVE_ONEOF: Final = (messages.Compare, messages.RequestOp, messages.ResponseOp, messages.WatchRequest)
_PLAIN: Final[dict[type, str]] = {int: "int64", bool: "bool", bytes: "bytes", str: "string"}


@cache
def fields_of(cls: type[Message]) -> tuple[Field, ...]:
    """Return the table of a message, by number."""
    hints = get_type_hints(cls, include_extras=True)
    fields = sorted((_field(name, hint) for name, hint in hints.items()), key=lambda one: one.number)
    if cls not in _HAVE_ONEOF:
        return tuple(fields)
    oneof = frozenset(one.name for one in fields if one.optional)
    return tuple(
        Field(one.number, one.name, one.kind, one.repeated, one.optional, oneof) if one.optional else one
        for one in fields
    )


def _field(name: str, hint: Any) -> Field:
    inner, *notes = get_args(hint)
    numbers = [note for note in notes if type(note) is int]
    kinds = [note for note in notes if type(note) is not int]
    repeated, optional = get_origin(inner) is list, isinstance(inner, UnionType)
    if repeated or optional:
        inner = get_args(inner)[0]
    if get_origin(inner) is Annotated:
        inner, *more = get_args(inner)
        kinds += more
    kind = kinds[0] if kinds else _PLAIN.get(inner, inner)
    return Field(numbers[0], name, kind, repeated, optional, frozenset())


# ---- writing -----------------------------------------------------------------------------
_Add = Callable[[bytes], None]
_Put = Callable[[Any, _Add], None]


def encode(message: Message) -> bytes:
    """Return the bytes of a message, its fields in the order of their numbers."""
    parts: list[bytes] = []
    _encoder_of(type(message))(message, parts.append)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SMALL[number] if number >= 0 else _varint(number & _MASK_64)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@cache
def _encoder_of(cls: type[Message]) -> Callable[[Any, _Add], None]:
    fields = fields_of(cls)
    if not fields:
        return lambda message, add: None  # noqa: ARG005
    get: Callable[[Any], tuple[Any, ...]] = attrgetter(*(one.name for one in fields))
    if len(fields) == 1:
        only = attrgetter(fields[0].name)

        def get(message: Any) -> tuple[Any, ...]:
            return (only(message),)

    puts = tuple(_put_of(one) for one in fields)
    # A value that is zero is left out. An alternative of a oneof is there, zero or not, unless it is None.
    kept = any(one.optional and not _is_message(one.kind) for one in fields)
    if kept:
        by_name = tuple((put, one.optional) for put, one in zip(puts, fields, strict=True))

        def encode_all(message: Any, add: _Add) -> None:
            for value, (put, optional) in zip(get(message), by_name, strict=True):
                if value or (optional and value is not None):
                    put(value, add)

        return encode_all

    def encode_set(message: Any, add: _Add) -> None:
        for value, put in zip(get(message), puts):  # noqa: B905 - as long by construction, and hot
            if value:
                put(value, add)

    return encode_set


def _is_message(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message)


def _put_of(field: Field) -> _Put:
    kind = field.kind
    if _is_message(kind):
        return _put_message(field, kind)
    if kind in {"bytes", "string"}:
        return _put_text(field)
    tag = _varint(field.number << 3 | _VARINT)
    if not field.repeated:
        ones = tuple(tag + small for small in _SMALL)

        def put_number(value: int, add: _Add) -> None:
            add(ones[value] if 0 <= value < 0x80 else tag + _varint(value))

        return put_number
    packed = _varint(field.number << 3 | _LENGTH)

    def put_packed(values: list[int], add: _Add) -> None:
        content = b"".join(map(_varint, values))
        add(packed + _varint(len(content)) + content)

    return put_packed


def _put_text(field: Field) -> _Put:
    tag = _varint(field.number << 3 | _LENGTH)
    heads = tuple(tag + small for small in _SMALL)

    def put_bytes(value: bytes, add: _Add) -> None:
        size = len(value)
        add(heads[size] if size < 0x80 else tag + _varint(size))
        add(value)

    def put_string(value: str, add: _Add) -> None:
        put_bytes(value.encode(), add)

    put = put_bytes if field.kind == "bytes" else put_string
    return _put_each(put) if field.repeated else put


def _put_message(field: Field, cls: Any) -> _Put:
    tag = _varint(field.number << 3 | _LENGTH)
    inner: Callable[[Any, _Add], None] | None = None

    def put(value: Message, add: _Add) -> None:
        nonlocal inner
        if inner is None:  # not before: messages contain each other
            inner = _encoder_of(cls)
        parts: list[bytes] = []
        inner(value, parts.append)
        content = b"".join(parts)
        add(tag + _varint(len(content)))
        add(content)

    return _put_each(put) if field.repeated else put


def _put_each(put: _Put) -> _Put:
    def put_each(values: list[Any], add: _Add) -> None:
        for value in values:
            put(value, add)

    return put_each


# ---- reading -----------------------------------------------------------------------------
class _Left:
    """How many items may still be read."""

    __slots__ = ("items",)

    def __init__(self, items: int) -> None:
        self.items = items

    def take(self) -> None:
        self.items -= 1
        if self.items < 0:
            raise ProtobufError("a message has too many fields")


def decode_untrusted(cls: type[M], data: bytes, *, items_max: int = ITEMS_MAX) -> M:
    """Return the message in ``data``. Unknown fields are skipped; of a repeated scalar, the last one counts.

    The pieces of a message within it that comes more than once are merged (protobuf.dev, Encoding).

    Args:
        cls: the class of the message.
        data: at most ``BYTES_MAX``; the caller has looked.
        items_max: fields that are read, nested, packed and skipped ones too.

    Raises:
        ProtobufError: it is no protobuf, a text is no UTF-8, or it has too many fields or levels.
    """
    message: M = _decoder_of(cls)(data, _Left(items_max), 0)
    return message


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number of 64 bits and the place behind it. Raises ProtobufError."""
    if at < end and data[at] < 0x80:  # most are
        return data[at], at + 1
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _MASK_64, at
        shift += 7
    raise ProtobufError("a number is cut off" if at >= end else "a number has more than ten bytes")


def _read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the bytes begin that a length announces, and where they end. Raises ProtobufError."""
    size, at = _read_varint(data, at, end)
    if size > end - at:
        raise ProtobufError("a length is beyond the end of its message")
    return at, at + size


def _skip(data: bytes, tag: int, at: int, left: _Left, depth: int) -> int:
    """Return the place behind a field that is not known. Raises ProtobufError."""
    wire = tag & 7
    end = len(data)
    if tag >> 3 == 0:
        raise ProtobufError("a field has no number")
    if wire == _VARINT:
        return _read_varint(data, at, end)[1]
    if wire == _LENGTH:
        return _read_length(data, at, end)[1]
    if wire in {_FIXED32, _FIXED64}:
        at += 4 if wire == _FIXED32 else 8
        if at > end:
            raise ProtobufError("a field is cut off")
        return at
    if wire != _GROUP:
        raise ProtobufError("a field has a kind that does not exist here")
    if depth >= DEPTH_MAX:
        raise ProtobufError("messages are nested too deeply")
    while True:
        left.take()
        inner, at = _read_tag(data, at, end)
        if inner & 7 == _GROUP_END:
            if inner >> 3 != tag >> 3:
                raise ProtobufError("a group ends with another number than it begins with")
            return at
        at = _skip(data, inner, at, left, depth + 1)


def _read_tag(data: bytes, at: int, end: int) -> tuple[int, int]:
    tag, after = _read_varint(data, at, end)
    if tag > _TAG_MAX or after - at > 5:
        raise ProtobufError("a field has a number beyond 2**29 - 1")
    return tag, after


def _signed_64(number: int) -> int:
    return number - (1 << 64) if number >= _SIGN_64 else number


def _signed_32(number: int) -> int:
    number &= _MASK_32
    return number - (1 << 32) if number >= _SIGN_32 else number


def _low_32(number: int) -> int:
    return number & _MASK_32


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise ProtobufError("a text is no UTF-8") from exc


_MAKE: Final[dict[str, _Make | None]] = {
    "int64": _signed_64,
    "uint64": None,
    "uint32": _low_32,
    "bool": bool,
}
_Decode = Callable[[bytes, _Left, int], Any]
# Reads the value of one field at a place, and returns the place behind it.
_Read = Callable[[bytes, int, dict[str, Any], _Left, int], int]


@cache
def _decoder_of(cls: type[Message]) -> _Decode:
    within: tuple[tuple[str, Any], ...] = tuple(
        (one.name, one.kind) for one in fields_of(cls) if _is_message(one.kind) and not one.repeated
    )
    readers = {tag: read for one in fields_of(cls) for tag, read in _readers_of(one, dict(within))}
    reader_of = readers.get

    def decode(data: bytes, left: _Left, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise ProtobufError("messages are nested too deeply")
        values: dict[str, Any] = {}
        at, end = 0, len(data)
        while at < end:
            left.take()
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _read_tag(data, at - 1, end)
            read = reader_of(tag)
            at = _skip(data, tag, at, left, depth) if read is None else read(data, at, values, left, depth)
        for name, inner in within:
            if name in values:  # the pieces of it
                values[name] = _merged(inner, values[name], left, depth + 1)
        return cls(**values)

    return decode


def _merged(cls: type[Message], pieces: list[bytes], left: _Left, depth: int) -> Any:
    """Return the message that these pieces make together; each of them is a message. Raises ProtobufError."""
    decode = _decoder_of(cls)
    if len(pieces) > 1:
        for piece in pieces:
            decode(piece, left, depth)
    return decode(b"".join(pieces), left, depth)


def _readers_of(field: Field, alternatives: dict[str, Any]) -> Iterator[tuple[int, _Read]]:
    """Yield the readers of a field, by tag. ``alternatives``: the classes of the messages beside it."""
    kind: Any = field.kind
    tag = field.number << 3 | _LENGTH
    if _is_message(kind):
        yield tag, _each_message(field.name, kind) if field.repeated else _pieces(field, alternatives)
    elif kind in {"bytes", "string"}:
        yield tag, _read_bytes(field, _text if kind == "string" else None)
    else:
        make = _MAKE[kind] if isinstance(kind, str) else _signed_32
        yield field.number << 3 | _VARINT, _read_number(field, make)
        if field.repeated:
            yield tag, _read_packed(field.name, make)


def _keeper(field: Field) -> Callable[[dict[str, Any], Any], None]:
    """Return what keeps a value of a field: beside the others of a list, in place of other alternatives."""
    name, others = field.name, tuple(field.oneof - {field.name})

    def append(values: dict[str, Any], value: Any) -> None:
        values.setdefault(name, []).append(value)

    def replace(values: dict[str, Any], value: Any) -> None:
        for other in others:
            values.pop(other, None)
        values[name] = value

    return append if field.repeated else replace


def _read_number(field: Field, make: _Make | None) -> _Read:
    keep = _keeper(field)

    def read(data: bytes, at: int, values: dict[str, Any], left: _Left, depth: int) -> int:  # noqa: ARG001
        number, at = _read_varint(data, at, len(data))
        keep(values, number if make is None else make(number))
        return at

    return read


def _read_bytes(field: Field, make: Callable[[bytes], Any] | None) -> _Read:
    keep = _keeper(field)

    def read(data: bytes, at: int, values: dict[str, Any], left: _Left, depth: int) -> int:  # noqa: ARG001
        start, at = _read_length(data, at, len(data))
        keep(values, data[start:at] if make is None else make(data[start:at]))
        return at

    return read


def _pieces(field: Field, alternatives: dict[str, Any]) -> _Read:
    """Collect the pieces of a message: in a row, they are the encoding of what they make together.

    Those of an alternative that it replaces must have been a message too.
    """
    name, others = field.name, tuple(field.oneof - {field.name})

    def read(data: bytes, at: int, values: dict[str, Any], left: _Left, depth: int) -> int:
        start, at = _read_length(data, at, len(data))
        for other in others:
            if other in values:
                _merged(alternatives[other], values.pop(other), left, depth + 1)
        values.setdefault(name, []).append(data[start:at])
        return at

    return read


def _each_message(name: str, cls: type[Message]) -> _Read:
    def read(data: bytes, at: int, values: dict[str, Any], left: _Left, depth: int) -> int:
        start, at = _read_length(data, at, len(data))
        values.setdefault(name, []).append(_decoder_of(cls)(data[start:at], left, depth + 1))
        return at

    return read


def _read_packed(name: str, make: _Make | None) -> _Read:
    def read(data: bytes, at: int, values: dict[str, Any], left: _Left, depth: int) -> int:  # noqa: ARG001
        place, end = _read_length(data, at, len(data))
        numbers = values.setdefault(name, [])
        while place < end:
            left.take()
            number, place = _read_varint(data, place, end)
            numbers.append(number if make is None else make(number))
        return end

    return read
