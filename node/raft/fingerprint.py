"""A digest of everything that an object holds, so that no field can be left out of a comparison."""

from collections import deque
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

from msgspec import Struct


def fingerprint(value: Any) -> bytes:
    """Return 32 bytes that differ as soon as anything in ``value`` does, however deep.

    Dictionaries count in their order. Whatever holds values counts with all its fields.

    Raises:
        TypeError: something in it is neither plain data nor has fields.
    """
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return _hash(kind.__name__, (repr(value).encode(),))
    if kind is str:
        return _hash("str", (value.encode("utf-8", "surrogatepass"),))
    if kind is bytes or kind is bytearray:
        return _hash("bytes", (bytes(value),))
    if isinstance(value, Enum):
        return _hash(kind.__name__, (value.name.encode(),))
    if isinstance(value, dict):
        return _hash("dict", (part for pair in value.items() for part in map(fingerprint, pair)))
    if isinstance(value, list | tuple | deque):
        return _hash("list", map(fingerprint, value))
    names = field_names(value)
    parts = ((name.encode(), fingerprint(getattr(value, name))) for name in names)
    return _hash(kind.__name__, (part for pair in parts for part in pair))


def field_names(value: Any) -> tuple[str, ...]:
    """Return the names of all fields of an object.

    Raises:
        TypeError: it has none that can be told.
    """
    if isinstance(value, Struct):
        return value.__struct_fields__
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    slots = getattr(type(value), "__slots__", None)
    names = tuple(slots) if slots is not None else tuple(vars(value))
    if not names:
        raise TypeError(f"{type(value).__name__} has no fields")
    return names


def _hash(kind: str, parts: Iterable[bytes]) -> bytes:
    whole = sha256(kind.encode() + b"\x00")
    for part in parts:
        whole.update(len(part).to_bytes(8) + part)
    return whole.digest()
