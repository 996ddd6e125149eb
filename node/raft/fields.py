"""The fields of wire messages: conversion of plain CBOR values to checked ones, and back.

Every function that takes a foreign value raises ``FieldError`` or ``RemoteProtocolError`` and nothing else;
``node.raft.wire`` makes the second of the first.
"""

from itertools import pairwise
from typing import Any, Final, NoReturn

from attestation.encoding.fields import Check, FieldError, array, array_of, bytes_of, integer, row
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

UINT: Final = integer(0, INTEGER_MAX)
DIGEST: Final = bytes_of(32)


def refuse(why: str) -> NoReturn:
    raise RemoteProtocolError("malformed-message", f"malformed consensus message: {why}")


def position(value: Any) -> Position:
    if type(value) is not list or len(value) != 3:
        raise FieldError("a position")
    return Position(UINT(value[0]), UINT(value[1]), DIGEST(value[2]))


def cursor(value: Any) -> Cursor:
    if type(value) is not list or len(value) != 2:
        raise FieldError("a cursor")
    return Cursor(UINT(value[0]), UINT(value[1]))


def incarnations(count_max: int) -> Check[tuple[Incarnation, ...]]:
    """Check for at most ``count_max`` incarnations, sorted and distinct."""
    each = array_of(incarnation_untrusted, count_max)

    def check(value: Any) -> tuple[Incarnation, ...]:
        found = each(value)
        if any(a >= b for a, b in pairwise(found)):
            raise FieldError("incarnations that are sorted and distinct")
        return found

    return check


# Entries travel in four columns, ``[[term...], kinds as bytes, [time_ms...], [payload...]]``: each check is
# then done on a whole column at a time.
_KINDS: Final = {int(kind): kind for kind in EntryKind}
_COLUMNS: Final = row(4)
_PAYLOADS: Final = array(ENTRIES_MAX)


def entries_after(value: Any, after: Position) -> tuple[Entry, ...]:
    raw_terms, raw_kinds, raw_times, raw_payloads = _COLUMNS(value)
    payloads = _PAYLOADS(raw_payloads)
    count = len(payloads)
    if count == 0 and raw_terms == raw_times == [] and raw_kinds == b"":
        return ()
    terms, times = uints(raw_terms, count), uints(raw_times, count)
    if type(raw_kinds) is not bytes or len(raw_kinds) != count or not _KINDS.keys() >= set(raw_kinds):
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
