"""Strict reading of the commands and queries that are lists, before anything is looked up.

Where bytes are wanted, text is base64 (RFC 4648 section 4): JSON has no bytes.
"""

import base64
import binascii
from typing import Any, Final

from msgspec import Struct

from node.machines.base import CommandError
from node.machines.keys import KeyRange
from node.machines.kv.leases import LEASE_ID_MAX, TTL_MAX_S
from node.machines.kv.values import KEY_BYTES_MAX, VALUE_BYTES_MAX

PREV_KV: Final = 1
IGNORE_VALUE: Final = 2
IGNORE_LEASE: Final = 4
KEYS_ONLY: Final = 1
COUNT_ONLY: Final = 2
BRANCH_ITEMS_MAX: Final = 128  # compares, and operations of each branch, as in etcd
DEPTH_MAX: Final = 8  # of transactions within transactions
RENEWED_MAX: Final = 4096
ITEMS_MAX: Final = 4096  # compares and operations of a whole command
_INT64_MAX: Final = 2**63 - 1
_INT64_MIN: Final = -(2**63)
_ALL: Final = b"\x00"  # as ``range_end``: every key from ``key`` on


class Put(Struct, frozen=True):
    key: bytes
    value: bytes
    lease: int
    flags: int


class Delete(Struct, frozen=True):
    key: bytes
    end: bytes
    flags: int


class RangeQuery(Struct, frozen=True):
    """``revision`` is at least 0, which stands for the head; so are the others' zeros for no filter."""

    key: bytes
    end: bytes
    limit: int
    revision: int
    order: int
    target: int
    flags: int
    min_mod: int
    max_mod: int
    min_create: int
    max_create: int


class Compare(Struct, frozen=True):
    target: int
    result: int
    key: bytes
    end: bytes
    operand: Any  # bytes for a value, otherwise a whole number


class Txn(Struct, frozen=True):
    compares: tuple[Compare, ...]
    success: "tuple[Put | Delete | RangeQuery | Txn, ...]"
    failure: "tuple[Put | Delete | RangeQuery | Txn, ...]"


Operation = Put | Delete | RangeQuery | Txn


def span(key: bytes, end: bytes) -> tuple[bytes, bytes | None]:
    """Return first key and the key behind the last (None: there is no end), of etcd's ``range_end``."""
    if not end:
        return key, key + b"\x00"
    return (key, None) if end == _ALL else (key, max(key, end))


def key_range(key: bytes, end: bytes) -> KeyRange:
    return KeyRange(*span(key, end))


def put_of(command: list[Any]) -> Put:
    _, key, value, lease, flags = _members(command, 5)
    put = Put(_key(key), _bytes("value", value, VALUE_BYTES_MAX), _lease_id(lease), _flags(flags, 7))
    if put.flags & IGNORE_VALUE and put.value:
        raise CommandError("value-provided", "with `ignore_value` the value is empty")
    if put.flags & IGNORE_LEASE and put.lease:
        raise CommandError("lease-provided", "with `ignore_lease` the lease is 0")
    return put


def delete_of(command: list[Any]) -> Delete:
    _, key, end, flags = _members(command, 4)
    return Delete(_key(key), _bytes("range_end", end, KEY_BYTES_MAX), _flags(flags, 1))


def range_of(query: list[Any]) -> RangeQuery:
    _, key, end, limit, revision, order, target, flags, min_mod, max_mod, min_create, max_create = _members(
        query, 12
    )
    return RangeQuery(
        _key(key),
        _bytes("range_end", end, KEY_BYTES_MAX),
        _int64("limit", limit),
        max(_int64("revision", revision), 0),
        _whole("sort_order", order, 0, 2),
        _whole("sort_target", target, 0, 4),
        _flags(flags, 3),
        _int64("min_mod", min_mod),
        _int64("max_mod", max_mod),
        _int64("min_create", min_create),
        _int64("max_create", max_create),
    )


def txn_of(command: list[Any]) -> Txn:
    return _TxnReader().txn(command, 1)


class _TxnReader:
    def __init__(self) -> None:
        self._items = 0

    def txn(self, command: list[Any], depth: int) -> Txn:
        _, compares, success, failure = _members(command, 4)
        if depth > DEPTH_MAX:
            raise CommandError("too-many-operations", f"transactions are nested at most {DEPTH_MAX} deep")
        for branch in (compares, success, failure):
            self._count(branch)
        return Txn(
            tuple(_compare_of(one) for one in compares),
            tuple(self._operation(one, depth) for one in success),
            tuple(self._operation(one, depth) for one in failure),
        )

    def _count(self, branch: Any) -> None:
        if not isinstance(branch, list):
            raise CommandError("member-type", "compares and branches are lists")
        self._items += len(branch)
        if len(branch) > BRANCH_ITEMS_MAX or self._items > ITEMS_MAX:
            raise CommandError(
                "too-many-operations", f"at most {BRANCH_ITEMS_MAX} in each branch, {ITEMS_MAX} in all"
            )

    def _operation(self, operation: Any, depth: int) -> Operation:
        match operation:
            case ["put", *_]:
                return put_of(operation)
            case ["delete", *_]:
                return delete_of(operation)
            case ["range", *_]:
                return range_of(operation)
            case ["txn", *_]:
                return self.txn(operation, depth + 1)
            case []:
                raise CommandError("key-not-found", "an operation has no content")
            case _:
                raise CommandError("op-unknown", "operations are `put`, `delete`, `range` and `txn`")


VALUE_TARGET: Final = 3


def _compare_of(compare: Any) -> Compare:
    if not isinstance(compare, list) or len(compare) != 5:
        raise CommandError("member-missing", "a compare is [target, result, key, range_end, operand]")
    target, result, key, end, operand = compare
    target = _whole("target", target, 0, 4)
    return Compare(
        target,
        _whole("result", result, 0, 3),
        _key(key),
        _bytes("range_end", end, KEY_BYTES_MAX),
        _bytes("operand", operand, VALUE_BYTES_MAX) if target == VALUE_TARGET else _int64("operand", operand),
    )


def compact_of(command: list[Any]) -> int:
    _, revision = _members(command, 2)
    return _int64("revision", revision)


def grant_of(command: list[Any]) -> tuple[int, int]:
    """Return the id, 0 if the machine chooses, and the TTL that was asked for."""
    _, lease_id, ttl_s = _members(command, 3)
    lease_id, ttl_s = _lease_id(lease_id), _int64("ttl_s", ttl_s)
    if ttl_s > TTL_MAX_S:
        raise CommandError("lease-ttl-too-large", f"a lease lasts at most {TTL_MAX_S} seconds")
    return lease_id, ttl_s


def revoke_of(command: list[Any]) -> int:
    _, lease_id = _members(command, 2)
    return _lease_id(lease_id)


def tick_of(command: list[Any]) -> tuple[int, int, int, tuple[int, ...]]:
    """Return the maker's term, the clock, the clock when the tick before was applied, and the renewals."""
    _, term, clock_ms, settled_ms, renewed = _members(command, 5)
    return (
        _whole("term", term, 0, _INT64_MAX),
        _whole("clock_ms", clock_ms, 0, _INT64_MAX),
        _whole("settled_ms", settled_ms, 0, _INT64_MAX),
        _renewed(renewed),
    )


def renew_of(command: list[Any]) -> tuple[int, ...]:
    _, renewed = _members(command, 2)
    return _renewed(renewed)


def _renewed(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise CommandError("member-type", "renewals are a list")
    if len(value) > RENEWED_MAX:
        raise CommandError("too-many-operations", f"at most {RENEWED_MAX} renewals at a time")
    return tuple(_lease_id(one) for one in value)


def ttl_query_of(query: list[Any]) -> tuple[int, bool]:
    _, lease_id, with_keys = _members(query, 3)
    if not isinstance(with_keys, bool):
        raise CommandError("member-type", "`with_keys` is true or false")
    return _lease_id(lease_id), with_keys


def hash_query_of(query: list[Any]) -> int:
    _, revision = _members(query, 2)
    return max(_int64("revision", revision), 0)


def _members(command: list[Any], count: int) -> list[Any]:
    if len(command) != count:
        raise CommandError("member-missing", f"`{command[0]}` has {count} members, with its name")
    return command


def _key(value: Any) -> bytes:
    key = _bytes("key", value, KEY_BYTES_MAX)
    if not key:
        raise CommandError("key-not-provided", "a key has at least one byte")
    return key


def _bytes(name: str, value: Any, bytes_max: int) -> bytes:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise CommandError("base64-invalid", f"`{name}` is not base64 (RFC 4648 section 4)") from exc
    if not isinstance(value, bytes):
        raise CommandError("member-type", f"`{name}` is bytes, or text in base64")
    if len(value) > bytes_max:
        raise CommandError(f"{name}-too-large", f"`{name}` has {len(value)} bytes, at most {bytes_max}")
    return value


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int:
        raise CommandError("member-type", f"`{name}` is a whole number")
    if not low <= value <= high:
        raise CommandError("member-range", f"`{name}` is from {low} to {high}")
    return value


def _int64(name: str, value: Any) -> int:
    return _whole(name, value, _INT64_MIN, _INT64_MAX)


def _lease_id(value: Any) -> int:
    return _whole("lease", value, 0, LEASE_ID_MAX)


def _flags(value: Any, known: int) -> int:
    return _whole("flags", value, 0, known)
