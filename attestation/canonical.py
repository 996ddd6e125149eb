"""Deterministic CBOR (RFC 8949 4.2.1) and the one way in which bondstone derives digests."""

import hashlib
from io import BytesIO
from typing import Any, Final

import cbor2

from attestation.errors import MalformedError

DEPTH_MAX: Final = 32
_SCALARS: Final = frozenset({type(None), bool, int, str, bytes})


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
    except (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError, MemoryError) as exc:
        raise MalformedError("cbor-invalid", "not valid CBOR") from exc
    if stream.tell() != len(data):
        raise MalformedError("cbor-trailing", "bytes follow the CBOR item")
    _require_plain(value, 0)
    return value


def _require_plain(value: Any, depth: int) -> None:
    # Exact types, and scalars without a call each: this runs over every message and every entry.
    kind = type(value)
    if kind in _SCALARS:
        return
    if depth > DEPTH_MAX:
        raise MalformedError("cbor-too-deep", f"CBOR nested deeper than {DEPTH_MAX}")
    if kind is list:
        for item in value:
            if type(item) not in _SCALARS:
                _require_plain(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise MalformedError("cbor-key", "a CBOR map key is not text")
            if type(item) not in _SCALARS:
                _require_plain(item, depth + 1)
    else:
        raise MalformedError("cbor-type", f"CBOR value of type {kind.__name__} is not plain data")
