"""A digest of everything that an object holds, so that no field can be left out of a comparison."""

from collections import OrderedDict, deque
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec

# Who walks a frozen table, and what only saves a digest.
NOT_STATE: Final = frozenset({"_frozen", "_sought", "_known"})


def fingerprint(value: Any) -> bytes:
    """Return 32 bytes that differ if any part of ``value`` differs, at any depth.

    All fields of an object count, except those in ``NOT_STATE``, and the order of dictionaries counts.

    Raises:
        TypeError: a part of it is not plain data and has no fields.
    """
    try:
        return sha256(_ENCODER.encode(value)).digest()
    except OverflowError:  # an integer of more than 64 bits
        return sha256(_ENCODER.encode(_with_integers_as_text(value))).digest()


def field_names(value: Any) -> tuple[str, ...]:
    """Return the names of all fields of an object.

    Raises:
        TypeError: its fields cannot be determined.
    """
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    # A class that mypyc has compiled (the simulator's copy) has neither slots nor a dictionary.
    slots = getattr(type(value), "__slots__", getattr(type(value), "__mypyc_attrs__", None))
    names = tuple(slots) if slots is not None else tuple(getattr(value, "__dict__", ()))
    if not names:
        raise TypeError(f"{type(value).__name__} has no fields")
    return names


def _what_it_holds(value: Any) -> Any:
    """Return the content of a value of a type that the encoder does not know."""
    if isinstance(value, deque):
        return list(value)
    held = {name: getattr(value, name) for name in field_names(value) if name not in NOT_STATE}
    for name, content in held.items():
        if isinstance(content, OrderedDict):
            # The encoder would write it in the order of a plain dictionary, which ``move_to_end`` leaves.
            held[name] = list(content.items())
    return held


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_what_it_holds)


def _with_integers_as_text(value: Any) -> Any:
    if type(value) is int:
        return ["int", str(value)]
    if value is None or isinstance(value, bool | str | bytes | bytearray):
        return value
    if isinstance(value, dict):
        return [[_with_integers_as_text(key), _with_integers_as_text(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_with_integers_as_text(item) for item in value]
    return _with_integers_as_text(_what_it_holds(value))
