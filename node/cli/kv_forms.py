"""Commands and queries of the key-value machine's third version in JSON, and what its answers hold.

Bytes are base64 there; the numbers are etcd's own (docs/kv.md).
"""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from node.client import AnswerInvalidError
from node.errors import ConfigError

ONE_KEY: Final = b""
TO_THE_END: Final = b"\0"
FIRST_KEY: Final = b"\0"
PREV_KV, IGNORE_VALUE, IGNORE_LEASE = 1, 2, 4
KEYS_ONLY, COUNT_ONLY = 1, 2
LEASE_ID_MAX: Final = 2**63 - 1
_LEASE_ID: Final = re.compile(r"[0-9a-fA-F]{1,16}")


class SortBy(StrEnum):
    """What a range is sorted by."""

    KEY = "key"
    VERSION = "version"
    CREATE = "create"
    MODIFY = "modify"
    VALUE = "value"


class Order(StrEnum):
    """In which direction."""

    ASCEND = "ascend"
    DESCEND = "descend"


_TARGETS: Final = {
    SortBy.KEY: 0,
    SortBy.VERSION: 1,
    SortBy.CREATE: 2,
    SortBy.MODIFY: 3,
    SortBy.VALUE: 4,
}
_ORDERS: Final = {Order.ASCEND: 1, Order.DESCEND: 2}


class Row(NamedTuple):
    """What a key holds."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a range: of the store's ``revision``, ``count`` keys in the whole range."""

    revision: int
    rows: list[Row]
    more: bool
    count: int


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def bounds(key: bytes, end: bytes | None, *, prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """Return the first key and the end that the machine takes.

    Raises:
        ConfigError: more than one of ``end``, ``prefix`` and ``from_key`` is given, or no key at all.
    """
    if (end is not None) + prefix + from_key > 1:
        raise ConfigError("a range has one end: RANGE_END, --prefix or --from-key")
    if prefix:
        return key or FIRST_KEY, end_of_prefix(key)
    if from_key:
        return key or FIRST_KEY, TO_THE_END
    if not key:
        raise ConfigError("the key is empty. hint: --prefix or --from-key, for all keys")
    return key, ONE_KEY if end is None else end


def end_of_prefix(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with ``prefix``."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else TO_THE_END


def put(key: bytes, value: bytes, *, lease: int = 0, flags: int = 0) -> list[Any]:
    return ["put", b64(key), b64(value), lease, flags]


def delete(span: tuple[bytes, bytes], *, prev_kv: bool = False) -> list[Any]:
    return ["delete", *map(b64, span), PREV_KV * prev_kv]


def range_(
    span: tuple[bytes, bytes],
    *,
    limit: int = 0,
    revision: int = 0,
    sort_by: SortBy | None = None,
    order: Order | None = None,
    keys_only: bool = False,
    count_only: bool = False,
) -> list[Any]:
    """Return the query. Without an order a range is in that of its keys; ``sort_by`` alone ascends."""
    direction = 0 if order is None and sort_by is None else _ORDERS[order or Order.ASCEND]
    target = _TARGETS[sort_by or SortBy.KEY]
    flags = KEYS_ONLY * keys_only | COUNT_ONLY * count_only
    return ["range", *map(b64, span), limit, revision, direction, target, flags, 0, 0, 0, 0]


def lease_id(text: str) -> int:
    """Return a lease's id, which etcd's tools write in hex.

    Raises:
        ConfigError: it is none.
    """
    number = int(text, 16) if _LEASE_ID.fullmatch(text) else LEASE_ID_MAX + 1
    if number > LEASE_ID_MAX:
        raise ConfigError(f"{text[:64]!r} is not the id of a lease: up to 16 hex digits")
    return number


def found(answer: Any) -> Found:
    """Return a range's answer: ``[revision, rows, more, count]``. Raises AnswerInvalidError."""
    match answer:
        case [int(revision), [*rows], bool(more), int(count)]:
            return Found(revision, [row(each) for each in rows], more, count)
        case _:
            raise invalid()


def row(value: Any) -> Row:
    """Return a row of an answer. Raises AnswerInvalidError."""
    match value:
        case [str(key), str(held), int(created), int(modified), int(version), int(lease)]:
            return Row(of_b64(key), of_b64(held), created, modified, version, lease)
        case _:
            raise invalid()


def of_b64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid() from exc


def whole(value: Any) -> int:
    """Return a number of an answer. Raises AnswerInvalidError."""
    if type(value) is not int:
        raise invalid()
    return value


def members(answer: Any, count: int) -> list[Any]:
    """Return the members of an answer, which must be this many. Raises AnswerInvalidError."""
    if not isinstance(answer, list) or len(answer) != count:
        raise invalid()
    return answer


def invalid() -> AnswerInvalidError:
    return AnswerInvalidError("the answer has another form than the key-value machine's third version gives")
