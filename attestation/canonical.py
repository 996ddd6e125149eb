"""Deterministic CBOR (RFC 8949 4.2.1) and the one way in which bondstone derives digests."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from io import BytesIO
from typing import Any, Final

import cbor2

from attestation.errors import MalformedError

DEPTH_MAX: Final = 32
_SCALARS: Final = frozenset({type(None), bool, int, str, bytes})
# Not MemoryError: a length that nobody has the bytes for is the end of the stream, and what a starved host
# cannot decode, others can.
_DECODING_FAILED: Final = (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError)
_READ_AHEAD_BYTES: Final = 256


def encode(value: Any) -> bytes:
    """Return the deterministic CBOR encoding of ``value``."""
    return cbor2.dumps(value, canonical=True)


def digest(domain: str, *parts: Any) -> bytes:
    """Return SHA-256 over deterministic CBOR of ``[domain, *parts]``: injective, 32 bytes.

    Args:
        domain: ``bondstone/<what>/v1``.
        parts: CBOR-able values.
    """
    return hashlib.sha256(encode([domain, *parts])).digest()


def decode_untrusted(data: bytes, *, bytes_max: int) -> Any:
    """Decode exactly one CBOR item of plain data that fills ``data``.

    Plain data: null, booleans, integers, text, bytes, arrays and maps with text keys. Tags, floats and
    every other extension are refused, so a decoder can never be made to build anything surprising.

    Raises:
        MalformedError: too long, not CBOR, trailing bytes, too deep, or not plain data.
    """
    if len(data) > bytes_max:
        raise MalformedError("cbor-too-large", f"{len(data)} bytes of CBOR, at most {bytes_max}")
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except _DECODING_FAILED as exc:
        raise MalformedError("cbor-invalid", "not valid CBOR") from exc
    if stream.tell() != len(data):
        raise MalformedError("cbor-trailing", "bytes follow the CBOR item")
    _require_plain_untrusted(value, len(data))
    return value


def decode_each_untrusted(encoded: Sequence[bytes], *, bytes_max: int) -> Iterator[Any]:
    """Yield what ``decode_untrusted`` returns for each of ``encoded``, at little more than half the cost.

    A ``MalformedError`` is yielded in the place of what is malformed.
    """
    stream = BytesIO(b"".join(encoded))
    decoder = cbor2.CBORDecoder(stream, read_size=_READ_AHEAD_BYTES)
    end = 0
    for data in encoded:
        end += len(data)
        try:
            value = decoder.decode()
            if stream.tell() != end or len(data) > bytes_max:
                raise MalformedError("cbor-trailing", "not exactly one CBOR item")
            if type(value) not in _SCALARS:
                _count_plain_untrusted(value, len(data), 0)
        except (MalformedError, *_DECODING_FAILED):
            value = _judge_untrusted(data, bytes_max)
            stream.seek(end)
            decoder = cbor2.CBORDecoder(stream, read_size=_READ_AHEAD_BYTES)
        yield value


def _judge_untrusted(data: bytes, bytes_max: int) -> Any:
    """Return what is in ``data`` by itself, or what is wrong with it."""
    try:
        return decode_untrusted(data, bytes_max=bytes_max)
    except MalformedError as exc:
        return exc


def _require_plain_untrusted(value: Any, items_max: int) -> None:
    """Raise ``MalformedError`` unless ``value`` is plain data of so many items at most.

    An item takes a byte at least. There are more of them than bytes only with shared references (tags 28
    and 29): two hundred bytes of these make a tree that nobody can walk to its end.
    """
    if type(value) not in _SCALARS:
        _count_plain_untrusted(value, items_max, 0)


def _count_plain_untrusted(value: Any, items_max: int, depth: int) -> int:
    """Return how many items there may still be after those in ``value``, which is no scalar."""
    # Exact types, and scalars without a call each: this runs over every message and every entry.
    kind = type(value)
    if depth > DEPTH_MAX:
        raise MalformedError("cbor-too-deep", f"CBOR nested deeper than {DEPTH_MAX}")
    if kind is list:
        items: Collection[Any] = value
    elif kind is dict:
        for key in value:
            if type(key) is not str:
                raise MalformedError("cbor-key", "a CBOR map key is not text")
        items = value.values()
    else:
        raise MalformedError("cbor-type", f"CBOR value of type {kind.__name__} is not plain data")
    items_max -= len(items)
    if items_max < 0:
        raise MalformedError("cbor-shared", "CBOR with shared references")
    for item in items:
        if type(item) not in _SCALARS:
            items_max = _count_plain_untrusted(item, items_max, depth + 1)
    return items_max
