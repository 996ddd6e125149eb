"""Transactions: every compare and the choice of every branch first, then every check, then the changes.

All compares see the state before the transaction. All changes carry one revision. A refusal changes nothing.
"""

from bisect import bisect_left
from operator import eq, gt, lt, ne
from typing import Any, Final

from msgspec import Struct

from node.machines.base import ApplyContext, CommandError
from node.machines.kv.ranges import read_range
from node.machines.kv.reading import (
    IGNORE_LEASE,
    IGNORE_VALUE,
    PREV_KV,
    VALUE_TARGET,
    Compare,
    Delete,
    Operation,
    Put,
    RangeQuery,
    Txn,
    span,
)
from node.machines.kv.store import EVENT_COST, Store
from node.machines.kv.values import KEY_COST, Version, row_of

_RESULTS: Final = (eq, gt, lt, ne)  # by etcd's numbers
_ABSENT: Final = Version(b"", 0, 0, 0)


class Chosen(Struct, frozen=True):
    """A transaction with the branch that will run, in which every nested one is chosen too."""

    succeeded: bool
    operations: "tuple[Put | Delete | RangeQuery | Chosen, ...]"


# ---- what holds in every state ----------------------------------------------------
def require_written_once(txn: Txn) -> None:
    """Raise if one path through the transaction may write a key twice."""
    _written_by(txn)


class _Written(Struct, frozen=True):
    puts: frozenset[bytes]
    spans: tuple[tuple[bytes, bytes | None], ...]


def _written_by(txn: Txn) -> _Written:
    """Return what either branch may write, after each has been judged by itself."""
    success, failure = _written_in(txn.success), _written_in(txn.failure)
    return _Written(success.puts | failure.puts, success.spans + failure.spans)


def _written_in(operations: tuple[Operation, ...]) -> _Written:
    parts = [_of_operation(one) for one in operations if not isinstance(one, RangeQuery)]
    owner: dict[bytes, int] = {}
    for number, part in enumerate(parts):
        for key in part.puts:
            if owner.setdefault(key, number) != number:
                raise _duplicate()
    keys = sorted(owner) if any(part.spans for part in parts) else []
    for number, part in enumerate(parts):
        for start, end in part.spans:
            place = bisect_left(keys, start)
            while place < len(keys) and (end is None or keys[place] < end):
                if owner[keys[place]] != number:
                    raise _duplicate()
                place += 1
    return _Written(frozenset(owner), tuple(one for part in parts for one in part.spans))


def _of_operation(operation: Put | Delete | Txn) -> _Written:
    match operation:
        case Put(key=key):
            return _Written(frozenset((key,)), ())
        case Delete(key=key, end=end):
            return _Written(frozenset(), (span(key, end),))
        case Txn():
            return _written_by(operation)


def _duplicate() -> CommandError:
    return CommandError("duplicate-key", "a transaction writes a key at most once on each path")


# ---- which branches run -------------------------------------------------------------
def choose(store: Store, txn: Txn) -> Chosen:
    """Evaluate every compare on the path that will run."""
    succeeded = all(_holds(store, compare) for compare in txn.compares)
    branch = txn.success if succeeded else txn.failure
    return Chosen(succeeded, tuple(choose(store, one) if isinstance(one, Txn) else one for one in branch))


def _holds(store: Store, compare: Compare) -> bool:
    if not compare.end:
        return _holds_for(store.live.get(compare.key), compare)
    keys = list(store.keys.between(*span(compare.key, compare.end)))
    if not keys:
        return _holds_for(None, compare)
    return all(_holds_for(store.live[key], compare) for key in keys)


def _holds_for(version: Version | None, compare: Compare) -> bool:
    if compare.target == VALUE_TARGET:
        return version is not None and _RESULTS[compare.result](version.value, compare.operand)
    known = version or _ABSENT
    members = (known.version, known.create_revision, known.mod_revision, known.value, known.lease)
    return bool(_RESULTS[compare.result](members[compare.target], compare.operand))


# ---- what the state allows ------------------------------------------------------------
def require_allowed(store: Store, chosen: Chosen, quota_bytes: int) -> None:
    """Raise if anything on the chosen path would be refused; then nothing of it is applied."""
    grown = _growth(store, chosen.operations)
    if grown:
        store.require_room(grown, quota_bytes)


def _growth(store: Store, operations: tuple[Any, ...]) -> int:
    grown = 0
    for operation in operations:
        match operation:
            case Put():
                grown += require_put(store, operation)
            case RangeQuery(revision=revision) if revision:
                store.require_readable(revision)
            case Chosen(operations=nested):
                grown += _growth(store, nested)
            case _:  # nothing that a state refuses
                pass
    return grown


def require_put(store: Store, put: Put) -> int:
    """Return how much the store grows by a put.

    Raises:
        CommandError: the state does not allow it.
    """
    before = store.live.get(put.key)
    if before is None and put.flags & (IGNORE_VALUE | IGNORE_LEASE):
        raise CommandError("key-not-found", "the key holds no value or lease to keep")
    if put.lease and put.lease not in store.leases.by_id:
        raise CommandError("lease-not-found", "the lease is unknown or expired")
    value = before.value if before is not None and put.flags & IGNORE_VALUE else put.value
    return len(put.key) + len(value) + EVENT_COST + (KEY_COST if before is None else 0)


# ---- the changes ------------------------------------------------------------------------
def run(store: Store, chosen: Chosen, head: int) -> list[Any]:
    """Apply what was allowed; return ``[succeeded, responses]``."""
    responses: list[Any] = []
    for operation in chosen.operations:
        match operation:
            case Put():
                responses.append(["put", run_put(store, operation, head + 1)])
            case Delete():
                responses.append(["delete", *run_delete(store, operation, head + 1)])
            case RangeQuery():
                responses.append(["range", *read_range(store, operation, head)])
            case Chosen():
                responses.append(["txn", *run(store, operation, head)])
    return [chosen.succeeded, responses]


def run_put(store: Store, put: Put, revision: int) -> list[Any] | None:
    """Return the row before, if it was asked for and there was one."""
    before = store.live.get(put.key)
    value, lease = put.value, put.lease
    if before is not None:
        value = before.value if put.flags & IGNORE_VALUE else value
        lease = before.lease if put.flags & IGNORE_LEASE else lease
    store.write(put.key, value, before, revision, lease)
    return row_of(put.key, before) if put.flags & PREV_KV and before is not None else None


def run_delete(store: Store, delete: Delete, revision: int) -> tuple[int, list[Any]]:
    """Return how many keys were deleted, and their rows if they were asked for."""
    keys = list(store.keys.between(*span(delete.key, delete.end)))
    rows: list[Any] = []
    for key in keys:
        before = store.live[key]
        if delete.flags & PREV_KV:
            rows.append(row_of(key, before))
        store.remove(key, before, revision)
    return len(keys), rows


def apply_txn(store: Store, txn: Txn, context: ApplyContext) -> list[Any]:
    require_written_once(txn)
    chosen = choose(store, txn)
    require_allowed(store, chosen, context.quota_bytes)
    succeeded, responses = run(store, chosen, store.revision)
    return [store.revision, succeeded, responses]
