"""Deterministic CBOR (RFC 8949 4.2.1) and the one way in which bondstone derives digests."""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final, NoReturn

import cbor2

from attestation.errors import MalformedError

DEPTH_MAX: Final = 32
_SCALARS: Final = frozenset({type(None), bool, int, str, bytes})
# Not MemoryError: a length beyond the data is reported as the end of the stream. And if this host is short of
# memory, other hosts can still decode the same bytes.
_DECODING_FAILED: Final = (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError)
_READ_AHEAD_BYTES: Final = 256
_FEW_ITEMS: Final = 64  # of an array or map: to look at more costs more than it saves
# The values that cbor2 builds for these tags cost more than their bytes: a decimal of 100 kB takes a second,
# and shared references of 200 bytes make a tree that no program can walk to its end. Of all tags only big
# integers (2, 3) remain, and the tags that cbor2 does not know, which it keeps as they are.
_REFUSED_TAGS: Final = (
    0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("a CBOR tag")


_DECODERS: Final = dict.fromkeys(_REFUSED_TAGS, _refuse_tag)


def encode(value: Any) -> bytes:
    """Return the deterministic CBOR encoding of ``value``."""
    if _is_in_order(value):
        return cbor2.dumps(value)
    return cbor2.dumps(value, canonical=True)


def _is_in_order(value: Any, depth: int = 0) -> bool:
    """Return whether ``value`` is small plain data whose maps have their keys in the deterministic order.

    Then its plain encoding is the deterministic one: ``canonical`` orders the keys of maps, and shortens
    floats. cbor2 takes three times as long to find the order, because it encodes every key by itself.
    """
    kind = type(value)
    if kind in _SCALARS:
        return True
    if (kind is not dict and kind is not list) or len(value) > _FEW_ITEMS or depth > DEPTH_MAX:
        return False
    if kind is dict:
        before, before_size = "", 0
        for key in value:
            # By RFC 8949 4.2.1 a shorter text comes first, because its head does; equal heads leave the text.
            if type(key) is not str or not key.isascii():
                return False
            size = len(key)
            if size <= before_size and (size < before_size or key < before):
                return False
            before, before_size = key, size
        value = value.values()
    for item in value:
        if type(item) in _SCALARS:
            continue
        if not _is_in_order(item, depth + 1):
            return False
    return True


def digest(domain: str, *parts: Any) -> bytes:
    """Return SHA-256 over deterministic CBOR of ``[domain, *parts]``: injective, 32 bytes.

    Args:
        domain: ``bondstone/<what>/v1``.
        parts: CBOR-able values.
    """
    return hashlib.sha256(encode([domain, *parts])).digest()


# How many bytes the head of a data item has, by its first byte (RFC 8949 3). A head that is not well-formed,
# or of indefinite length, counts as one byte: the bytes after it are counted by themselves.
_HEAD_BYTES: Final = tuple({24: 2, 25: 3, 26: 5, 27: 9}.get(initial & 0x1F, 1) for initial in range(256))
_STRINGS: Final = range(0x40, 0x80)  # byte and text strings: their content follows the head


def decode_untrusted(data: bytes, *, bytes_max: int, items_max: int) -> Any:
    """Decode exactly one CBOR item of plain data that fills ``data``.

    Plain data: null, booleans, integers, text, bytes, arrays and maps with text keys. Tags, floats and
    every other extension are refused, so a decoder can never be made to build anything surprising.

    Args:
        data: from outside.
        bytes_max: of ``data``.
        items_max: data items in it, counted before any is built: an empty list has one byte, and costs as
            much to build and to check as a hundred bytes.

    Raises:
        MalformedError: too long, too many items, not CBOR, trailing bytes, too deep, or not plain data.
    """
    if len(data) > bytes_max:
        raise MalformedError("cbor-too-large", f"{len(data)} bytes of CBOR, at most {bytes_max}")
    if len(data) > items_max:  # an item has at least one byte
        _require_few_items_untrusted(data, items_max)
    return _decode_untrusted(data)


def _require_few_items_untrusted(data: bytes, items_max: int) -> None:
    """Raise ``MalformedError`` if there are more heads of items in ``data``, however they nest."""
    place, end, left = 0, len(data), items_max
    while place < end:
        if left == 0:
            raise MalformedError("cbor-too-many-items", f"more than {items_max} items of CBOR")
        left -= 1
        initial = data[place]
        head = _HEAD_BYTES[initial]
        if initial in _STRINGS:
            info = initial & 0x1F
            if info < 24:
                place += info
            elif head > 1:
                place += int.from_bytes(data[place + 1 : place + head], "big")
        place += head


def _decode_untrusted(data: bytes) -> Any:
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream, semantic_decoders=_DECODERS).decode()
    except _DECODING_FAILED as exc:
        raise MalformedError("cbor-invalid", "not valid CBOR") from exc
    if stream.tell() != len(data):
        raise MalformedError("cbor-trailing", "bytes follow the CBOR item")
    if type(value) not in _SCALARS:
        _require_plain_untrusted(value)
    return value


def decode_each_untrusted(encoded: Sequence[bytes], *, bytes_max: int) -> list[Any]:
    """Return what ``decode_untrusted`` returns for each of ``encoded``, at little more than half the cost.

    Items are not counted: these are entries of a log, which every member must judge alike. The node that
    appends an entry to the log counts its items before.

    For a malformed element, the result has a ``MalformedError`` at its place.
    """
    stream = BytesIO(b"".join(encoded))
    decoder = _decoder_of_many(stream)
    decoded = []
    end = 0
    for data in encoded:
        end += len(data)
        try:
            value = decoder.decode()
            if stream.tell() != end or len(data) > bytes_max:
                raise MalformedError("cbor-trailing", "not exactly one CBOR item")
            if type(value) not in _SCALARS:
                _require_plain_untrusted(value)
        except (MalformedError, *_DECODING_FAILED):
            value = _judge_untrusted(data, bytes_max)
            stream.seek(end)
            decoder = _decoder_of_many(stream)
        decoded.append(value)
    return decoded


def _decoder_of_many(stream: BytesIO) -> cbor2.CBORDecoder:
    return cbor2.CBORDecoder(stream, read_size=_READ_AHEAD_BYTES, semantic_decoders=_DECODERS)


def _judge_untrusted(data: bytes, bytes_max: int) -> Any:
    """Return the value that ``data`` alone encodes, otherwise its error."""
    try:
        return decode_untrusted(data, bytes_max=bytes_max, items_max=bytes_max)
    except MalformedError as exc:
        return exc


def _require_plain_untrusted(value: Any, depth: int = 0) -> None:
    """Raise ``MalformedError`` unless ``value``, which is no scalar, is plain data."""
    # Exact types, and no call per scalar, for speed: this runs over every message and every entry.
    kind = type(value)
    if depth > DEPTH_MAX:
        raise MalformedError("cbor-too-deep", f"CBOR nested deeper than {DEPTH_MAX}")
    if kind is list:
        for item in value:
            if type(item) not in _SCALARS:
                _require_plain_untrusted(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise MalformedError("cbor-key", "a CBOR map key is not text")
            if type(item) not in _SCALARS:
                _require_plain_untrusted(item, depth + 1)
    else:
        raise MalformedError("cbor-type", f"CBOR value of type {kind.__name__} is not plain data")
