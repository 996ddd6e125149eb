"""The queries of version 3 that are lists; see the package's ``DESIGN.md`` for their forms."""

from typing import Any
from zlib import crc32

from node.machines.base import CommandError
from node.machines.keys import KeyRange, Touched
from node.machines.kv import reading
from node.machines.kv.ranges import read_range
from node.machines.kv.reading import key_range
from node.machines.kv.store import Store


def answer_list(store: Store, query: list[Any], quota_bytes: int) -> list[Any]:
    match query:
        case ["range", *_]:
            asked = reading.range_of(query)
            if asked.revision:
                store.require_readable(asked.revision)
            return [store.revision, *read_range(store, asked, store.revision)]
        case ["lease-ttl", *_]:
            return _time_to_live(store, *reading.ttl_query_of(query))
        case ["leases"]:
            return [store.revision, sorted(store.leases.by_id)]
        case ["hashkv", *_]:
            return _hash(store, reading.hash_query_of(query))
        case ["store"]:
            used = store.bytes_used
            full = used >= quota_bytes
            keys = len(store.live)
            return [store.revision, store.compact_revision, keys, used, store.bytes_live, full]
        case _:
            raise _unknown()


def _time_to_live(store: Store, lease_id: int, with_keys: bool) -> list[Any]:
    lease = store.leases.by_id.get(lease_id)
    if lease is None:
        return [store.revision, -1, 0, []]
    keys = sorted(store.leases.keys_of[lease_id]) if with_keys else []
    return [store.revision, store.leases.remaining_s(lease), lease.ttl_s, keys]


def _hash(store: Store, revision: int) -> list[Any]:
    """Return a digest of all that can be read from the floor up to ``revision``.

    It is the sum of a CRC-32 for each version, so that it does not depend on any order.
    """
    if revision:
        store.require_readable(revision)
    total = 0
    for key, version, ended in store.versions_until(revision or store.revision):
        numbers = (version.create_revision, version.mod_revision, version.version, version.lease, ended)
        head = b"%d/%d/%d/%d/%d/%d/" % (len(key), *numbers)
        total += crc32(version.value, crc32(key, crc32(head)))
    return [store.revision, total & 0xFFFFFFFF, store.compact_revision]


def keys_of_list_query(query: list[Any]) -> Touched:
    match query:
        case ["range", *_]:
            asked = reading.range_of(query)
            return Touched(reads=(key_range(asked.key, asked.end),))
        case ["lease-ttl", *_]:
            _, with_keys = reading.ttl_query_of(query)
            return Touched(reads=(KeyRange(b"", None),) if with_keys else ())
        case ["leases"] | ["store"]:
            return Touched()
        case ["hashkv", *_]:
            return Touched(reads=(KeyRange(b"", None),))
        case _:
            raise _unknown()


def _unknown() -> CommandError:
    return CommandError("op-unknown", "the queries are `range`, `lease-ttl`, `leases`, `hashkv` and `store`")
