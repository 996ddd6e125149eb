"""The commands of version 3 that are lists; see the package's ``DESIGN.md`` for their forms."""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from node.machines.base import ApplyContext, CommandError
from node.machines.keys import KeyRange, Touched
from node.machines.kv import reading
from node.machines.kv.leases import (
    EXPIRED_KEYS_PER_TICK_MAX,
    EXPIRED_PER_TICK_MAX,
    LEASE_COST,
    LEASE_ID_MAX,
    TTL_MIN_S,
    KeyLease,
)
from node.machines.kv.reading import PREV_KV, Delete, Operation, Put, RangeQuery, Txn, key_range
from node.machines.kv.store import EVENT_COST, Store
from node.machines.kv.transactions import apply_txn, require_put, require_written_once, run_delete, run_put
from node.machines.kv.values import KEY_BYTES_MAX, KEY_COST, VALUE_BYTES_MAX

_PLAIN_PUT_MEMBERS: Final = 5
_EVERYTHING: Final = KeyRange(b"", None)


def apply_list(store: Store, command: list[Any], context: ApplyContext) -> list[Any]:
    if len(command) == _PLAIN_PUT_MEMBERS and command[0] == "put":
        return _apply_put(store, command, context)
    match command:
        case ["delete", *_]:
            deleted, rows = run_delete(store, reading.delete_of(command), store.revision + 1)
            return [store.revision, deleted, rows]
        case ["txn", *_]:
            return apply_txn(store, reading.txn_of(command), context)
        case ["put", *_]:
            return _apply_put(store, command, context)
        case ["compact", *_]:
            return _compact(store, reading.compact_of(command))
        case ["lease-grant", *_]:
            return _grant(store, *reading.grant_of(command), context)
        case ["lease-revoke", *_]:
            return _revoke(store, reading.revoke_of(command))
        case ["lease-renew", *_]:
            _require_member(context)
            return [store.revision, _renew(store, reading.renew_of(command), store.leases.ticks + 2)]
        case ["lease-tick", *_]:
            return _tick(store, command, context)
        case _:
            raise _unknown()


def _apply_put(store: Store, command: list[Any], context: ApplyContext) -> list[Any]:
    _, key, value, lease, flags = command if len(command) == _PLAIN_PUT_MEMBERS else (None,) * 5
    if (
        # Nearly all commands are such puts: with text, a lease or a flag they take the way of all the others.
        type(key) is bytes
        and type(value) is bytes
        and lease == 0 == flags
        and type(lease) is int is type(flags)
        and 0 < len(key) <= KEY_BYTES_MAX
        and len(value) <= VALUE_BYTES_MAX
    ):
        before = store.live.get(key)
        grown = len(key) + len(value) + EVENT_COST + (KEY_COST if before is None else 0)
        store.require_room(grown, context.quota_bytes)
        store.write(key, value, before, store.revision + 1)
        return [store.revision, None]
    put = reading.put_of(command)
    store.require_room(require_put(store, put), context.quota_bytes)
    row = run_put(store, put, store.revision + 1)
    return [store.revision, row]


def _compact(store: Store, revision: int) -> list[Any]:
    if revision <= store.compact_revision:
        raise CommandError("revision-compacted", f"the store is compacted up to {store.compact_revision}")
    if revision > store.revision:
        raise CommandError("revision-future", f"the store is at revision {store.revision}")
    store.compact(revision)
    return [store.revision]


# ---- leases -------------------------------------------------------------------------
def _grant(store: Store, lease_id: int, ttl_s: int, context: ApplyContext) -> list[Any]:
    if lease_id in store.leases.by_id:
        raise CommandError("lease-exists", "a lease with this id exists")
    store.require_room(LEASE_COST, context.quota_bytes)
    if not lease_id:
        lease_id = _fresh_id(store, context)
    ttl_s = max(ttl_s, TTL_MIN_S)
    store.set_lease(lease_id, store.leases.granted(ttl_s))
    return [store.revision, lease_id, ttl_s]


def _fresh_id(store: Store, context: ApplyContext) -> int:
    """Return an id that no lease ever had: drawn from the command's place in the log."""
    place = b"%b/%d/%d" % (context.group_id, context.index, context.sub)
    lease_id = int.from_bytes(hashlib.sha256(place).digest()[:8]) & LEASE_ID_MAX
    while not lease_id or lease_id in store.leases.by_id:
        lease_id = (lease_id + 1) & LEASE_ID_MAX
    return lease_id


def _revoke(store: Store, lease_id: int) -> list[Any]:
    if lease_id not in store.leases.by_id:
        raise CommandError("lease-not-found", "the lease is unknown or expired")
    deleted = store.end_lease(lease_id)
    return [store.revision, deleted]


def _tick(store: Store, command: list[Any], context: ApplyContext) -> list[Any]:
    _require_member(context)
    term, clock_ms, settled_ms, renewed = reading.tick_of(command)
    if term != context.term:
        raise CommandError("lease-tick-stale", "the member that made the tick leads no more")
    leases = store.leases
    settled_ms = max(leases.clock_ms, min(settled_ms, clock_ms))
    store.tick(clock_ms)
    for lease_id, lease in leases.settled(settled_ms):
        store.set_lease(lease_id, lease)
    ttls = _renew(store, renewed, leases.ticks + 1)
    return [store.revision, _expire(store), ttls]


def _require_member(context: ApplyContext) -> None:
    if context.credential is not None:
        raise CommandError("member-only", "only the members renew leases and move the lease clock")


def _renew(store: Store, renewed: tuple[int, ...], settles_at: int) -> list[int]:
    """Return the TTL of each lease, 0 of one that there is not."""
    ttls: list[int] = []
    for lease_id in renewed:
        lease = store.leases.by_id.get(lease_id)
        if lease is not None:
            store.set_lease(lease_id, KeyLease(lease.ttl_s, None, settles_at))
        ttls.append(0 if lease is None else lease.ttl_s)
    return ttls


def _expire(store: Store) -> list[int]:
    """End the leases that are due, as many as one tick may; return which."""
    expired: list[int] = []
    keys = 0
    while len(expired) < EXPIRED_PER_TICK_MAX and keys < EXPIRED_KEYS_PER_TICK_MAX:
        lease_id = store.leases.next_due()
        if lease_id is None:
            break
        keys += store.end_lease(lease_id)
        expired.append(lease_id)
    return expired


# ---- what can be known beforehand ------------------------------------------------------
def check_list(command: list[Any]) -> None:
    """Raise the refusal that ``apply_list`` gives in every state."""
    match command:
        case ["put", *_]:
            reading.put_of(command)
        case ["delete", *_]:
            reading.delete_of(command)
        case ["txn", *_]:
            require_written_once(reading.txn_of(command))
        case ["compact", *_]:
            reading.compact_of(command)
        case ["lease-grant", *_]:
            reading.grant_of(command)
        case ["lease-revoke", *_]:
            reading.revoke_of(command)
        case ["lease-renew", *_]:
            reading.renew_of(command)
        case ["lease-tick", *_]:
            reading.tick_of(command)
        case _:
            raise _unknown()


def frees_list(command: list[Any]) -> bool:
    """Return whether the command only deletes or forgets. A deletion leaves an event, until a compaction."""
    return bool(command) and command[0] in ("delete", "compact", "lease-revoke", "lease-renew", "lease-tick")


def keys_of_list(command: list[Any]) -> Touched:
    match command:
        case ["put", *_]:
            return _touched([reading.put_of(command)])
        case ["delete", *_]:
            return _touched([reading.delete_of(command)])
        case ["txn", *_]:
            return _touched([reading.txn_of(command)])
        case ["lease-grant", *_]:
            return Touched()
        case ["compact" | "lease-revoke" | "lease-renew" | "lease-tick", *_]:
            return Touched(writes=(_EVERYTHING,))
        case _:
            raise _unknown()


def _touched(operations: list[Operation]) -> Touched:
    reads: list[KeyRange] = []
    writes: list[KeyRange] = []
    for writing, keys in _ranges_of(operations):
        (writes if writing else reads).append(keys)
    return Touched(reads=tuple(dict.fromkeys(reads)), writes=tuple(dict.fromkeys(writes)))


def _ranges_of(operations: "list[Operation] | tuple[Operation, ...]") -> Iterator[tuple[bool, KeyRange]]:
    """Yield what each operation of each branch touches: whether it writes, and where."""
    for operation in operations:
        match operation:
            case Put(key=key, flags=flags):
                yield True, key_range(key, b"")
                if flags & PREV_KV:
                    yield False, key_range(key, b"")
            case Delete(key=key, end=end, flags=flags):
                yield True, key_range(key, end)
                if flags & PREV_KV:
                    yield False, key_range(key, end)
            case RangeQuery(key=key, end=end):
                yield False, key_range(key, end)
            case Txn(compares, success, failure):
                for compare in compares:
                    yield False, key_range(compare.key, compare.end)
                yield from _ranges_of(success)
                yield from _ranges_of(failure)


def _unknown() -> CommandError:
    return CommandError(
        "op-unknown",
        "the commands are `put`, `delete`, `txn`, `compact`, `lease-grant` and `lease-revoke`",
    )
