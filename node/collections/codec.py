"""Bytes of keys and values, and back, by a declared type.

Text is its UTF-8 and bytes are themselves; everything else is JSON with members in the order of their names,
so equal values have equal bytes (compare-exchange compares bytes). Whole numbers as keys are 16 hexadecimal
digits of the number plus 2**63, so that their byte order is their order.
"""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from node.collections.errors import StoredValueError, ValueRefusedError

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_OFFSET: Final = 2**63


class Codec(Generic[T]):
    """Both directions of one type.

    Args:
        kind: the type: a ``msgspec.Struct``, a dataclass, or anything else that msgspec can decode.
        key: it is the type of keys (or of a set's elements).
    """

    def __init__(self, kind: type[T], *, key: bool = False) -> None:
        self._kind = kind
        self._encode, self._decode = _ways(kind, key=key)

    def encode(self, value: T) -> bytes:
        """Return the bytes of ``value``.

        Raises:
            ValueRefusedError: it is not of the type: a reader could not read it.
        """
        try:
            encoded = self._encode(value)
            self._decode(encoded)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise ValueRefusedError(f"{value!r:.80} is no {_name(self._kind)}: {exc}") from exc
        return encoded

    def decode(self, encoded: bytes) -> T:
        """Return the value of stored bytes.

        Raises:
            StoredValueError: they are no value of the type.
        """
        try:
            value: T = self._decode(encoded)
        except (TypeError, ValueError) as exc:
            raise StoredValueError(
                f"{encoded!r:.80} is stored, which is no {_name(self._kind)}: {exc}"
            ) from exc
        return value


def _ways(kind: Any, *, key: bool) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    if kind is str:
        return _exactly(str, str.encode), bytes.decode
    if kind is bytes:
        return _exactly(bytes, bytes), bytes
    if kind is int and key:
        return _exactly(int, _number_to_hex), _number_of_hex
    return _ENCODER.encode, msgspec.json.Decoder(kind).decode


def _exactly(kind: type, encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode_exactly(value: Any) -> bytes:
        if type(value) is not kind:
            raise TypeError(f"it is a {type(value).__name__}")
        return encode(value)

    return encode_exactly


def _number_to_hex(number: int) -> bytes:
    if not -_OFFSET <= number < _OFFSET:
        raise OverflowError("a whole number as a key has at most 64 bits")
    return b"%016x" % (number + _OFFSET)


def _number_of_hex(encoded: bytes) -> int:
    number = int(encoded, 16) - _OFFSET
    if _number_to_hex(number) != encoded:
        raise ValueError("a whole number as a key is 16 hexadecimal digits")
    return number


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
