"""The fields of wire messages: plain CBOR values to checked ones, and back.

Every function that takes a foreign value raises ``RemoteProtocolError`` and nothing else.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, NoReturn, cast

from node.errors import RemoteProtocolError
from node.raft.entries import (
    INTEGER_MAX,
    check_payload_untrusted,
    incarnation_untrusted,
    make_entry,
)
from node.raft.types import Cursor, Entry, EntryKind, Incarnation, Position

ENTRIES_MAX: Final = 65_536


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
    if type(value) is not list or len(value) != count:
        refuse(f"not an array of {count}")
    return value


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


def entries_after(value: Any, after: Position) -> tuple[Entry, ...]:
    entries = []
    previous = after
    for item in array(value, ENTRIES_MAX):
        match item:
            case [term, kind_code, time_ms, bytes(payload)]:
                kind = cast("EntryKind", enumeration(EntryKind, uint(kind_code)))
                check_payload_untrusted(kind, payload)
                if uint(term) < previous.term or previous.index >= INTEGER_MAX:
                    refuse("terms go back within a log")
                entry = make_entry(previous, term=term, kind=kind, time_ms=uint(time_ms), payload=payload)
            case _:
                refuse("not an entry")
        entries.append(entry)
        previous = Position(entry.term, entry.index, entry.chain)
    return tuple(entries)


def put_entries(entries: tuple[Entry, ...]) -> list[Any]:
    return [[e.term, int(e.kind), e.time_ms, e.payload] for e in entries]


def put_incarnation(incarnation: Incarnation | None) -> list[Any] | None:
    return None if incarnation is None else [incarnation.name, incarnation.id]


def put_incarnations(incarnations: tuple[Incarnation, ...]) -> list[Any]:
    return [[incarnation.name, incarnation.id] for incarnation in incarnations]
