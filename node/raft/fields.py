"""The fields of wire messages: conversion of plain CBOR values to checked ones, and back.

Every function that takes a foreign value raises ``RemoteProtocolError`` and nothing else.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, NoReturn

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.raft.entries import (
    INTEGER_MAX,
    check_payload_untrusted,
    incarnation_untrusted,
    make_entries,
)
from node.raft.types import Cursor, Entry, EntryKind, Position

ENTRIES_MAX: Final = 65_536
FIELDS_MAX: Final = 64  # of an array of fixed form, so that a later release may add some


def refuse(why: str) -> NoReturn:
    raise RemoteProtocolError("malformed-message", f"malformed consensus message: {why}")


def uint(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= INTEGER_MAX:
        refuse("not an unsigned integer")
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        refuse("not a boolean")
    return value


def digest32(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 32:
        refuse("not 32 bytes")
    return value


def nonce16(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 16:
        refuse("not a 16-byte nonce")
    return value


def octets(value: Any, bytes_max: int) -> bytes:
    if type(value) is not bytes or len(value) > bytes_max:
        refuse("not bytes, or too long")
    return value


def fixed_array(value: Any, count: int) -> list[Any]:
    """Return the first ``count`` items, and ignore the items that a later release adds behind them."""
    if type(value) is not list or not count <= len(value) <= FIELDS_MAX:
        refuse(f"not an array of {count}")
    return value if len(value) == count else value[:count]


def array(value: Any, count_max: int) -> list[Any]:
    if type(value) is not list or len(value) > count_max:
        refuse("not an array, or too long")
    return value


def short_text(value: Any) -> str:
    if type(value) is not str or len(value) > 64:
        refuse("not a short text")
    return value


def position(value: Any) -> Position:
    if type(value) is not list or len(value) != 3:
        refuse("not a position")
    return Position(uint(value[0]), uint(value[1]), digest32(value[2]))


def cursor(value: Any) -> Cursor:
    if type(value) is not list or len(value) != 2:
        refuse("not a cursor")
    return Cursor(uint(value[0]), uint(value[1]))


def incarnation_or_none(value: Any) -> Incarnation | None:
    return None if value is None else incarnation_untrusted(value)


def incarnations(value: Any, count_max: int) -> tuple[Incarnation, ...]:
    found = tuple(incarnation_untrusted(item) for item in array(value, count_max))
    if any(a >= b for a, b in pairwise(found)):
        refuse("incarnations are not sorted and distinct")
    return found


def enumeration(kind: Callable[[Any], Any], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        refuse("unknown enumeration value")


# Entries travel in four columns, ``[[term...], kinds as bytes, [time_ms...], [payload...]]``: each check is
# then done on a whole column at a time.
_KINDS: Final = {int(kind): kind for kind in EntryKind}


def entries_after(value: Any, after: Position) -> tuple[Entry, ...]:
    raw_terms, raw_kinds, raw_times, raw_payloads = fixed_array(value, 4)
    payloads = array(raw_payloads, ENTRIES_MAX)
    count = len(payloads)
    if count == 0 and raw_terms == raw_times == [] and raw_kinds == b"":
        return ()
    terms, times = uints(raw_terms, count), uints(raw_times, count)
    if len(octets(raw_kinds, count)) != count or not _KINDS.keys() >= set(raw_kinds):
        refuse("not a kind of entry for each entry")
    kinds = [_KINDS[code] for code in raw_kinds]
    if set(map(type, payloads)) != {bytes}:
        refuse("a payload that is not bytes")
    if terms[0] < after.term or terms != sorted(terms) or after.index > INTEGER_MAX - count:
        refuse("terms go back within a log")
    if kinds.count(EntryKind.COMMAND) != count:
        for kind, payload in zip(kinds, payloads, strict=True):
            check_payload_untrusted(kind, payload)
    return make_entries(after, zip(terms, kinds, times, payloads, strict=True))


def uints(value: Any, count: int) -> list[int]:
    """Check a column of ``count`` unsigned integers, at least one."""
    if type(value) is not list or len(value) != count or set(map(type, value)) != {int}:
        refuse("not a column of unsigned integers")
    if min(value) < 0 or max(value) > INTEGER_MAX:
        refuse("not an unsigned integer")
    return value


def put_entries(entries: tuple[Entry, ...]) -> list[Any]:
    return [
        [entry.term for entry in entries],
        bytes([entry.kind for entry in entries]),
        [entry.time_ms for entry in entries],
        [entry.payload for entry in entries],
    ]


def put_incarnation(incarnation: Incarnation | None) -> list[Any] | None:
    return None if incarnation is None else [incarnation.name, incarnation.id]


def put_incarnations(incarnations: tuple[Incarnation, ...]) -> list[Any]:
    return [[incarnation.name, incarnation.id] for incarnation in incarnations]
