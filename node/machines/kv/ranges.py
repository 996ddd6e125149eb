"""Ranges with every option of etcd's, at the head or at any revision that can be read."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from node.machines.kv.reading import COUNT_ONLY, KEYS_ONLY, RangeQuery, span
from node.machines.kv.store import Store
from node.machines.kv.values import Version, row_of

_DESCEND: Final = 2
_NONE: Final = 0
_KEY_TARGET: Final = 0

_Pair = tuple[bytes, Version]
_SORT_KEYS: Final[tuple[Callable[[_Pair], Any], ...]] = (
    lambda pair: pair[0],
    lambda pair: pair[1].version,
    lambda pair: pair[1].create_revision,
    lambda pair: pair[1].mod_revision,
    lambda pair: pair[1].value,
)


def read_range(store: Store, query: RangeQuery, head: int) -> list[Any]:
    """Return ``[rows, more, count]``.

    Args:
        store: in the middle of a transaction, perhaps.
        query: names a revision that can be read, or 0.
        head: the revision before the command that asks. A transaction that names it does not see its own
            writes, and one that names none does.
    """
    at = query.revision or store.revision
    at_head = not query.revision or (at == head == store.revision)
    start, end = span(query.key, query.end)
    if at_head and _is_plain(query):
        return _read_plain(store, query, start, end)
    keys: Iterable[bytes] = store.keys.between(start, end) if at_head else store.known_keys(start, end)
    found: list[_Pair] = []
    for key in keys:
        version = store.live[key] if at_head else store.version_at(key, at)
        if version is not None:
            found.append((key, version))
    count = len(found)
    if query.flags & COUNT_ONLY:
        return [[], False, count]
    found = [pair for pair in found if _passes(query, pair[1])]
    if query.order != _NONE or query.target != _KEY_TARGET:
        sort_key = _SORT_KEYS[query.target]
        # A stable sort keeps equal values in the order of their keys, descending too.
        found.sort(key=sort_key, reverse=query.order == _DESCEND)
    return _shown(query, found, count)


def _is_plain(query: RangeQuery) -> bool:
    """Whether the rows come in the order of the keys, and all count."""
    ascending = query.target == _KEY_TARGET and query.order != _DESCEND
    return ascending and not (query.min_mod or query.max_mod or query.min_create or query.max_create)


def _read_plain(store: Store, query: RangeQuery, start: bytes, end: bytes | None) -> list[Any]:
    if not query.end:
        version = store.live.get(query.key)
        found = [] if version is None else [(query.key, version)]
        return [[], False, len(found)] if query.flags & COUNT_ONLY else _shown(query, found, len(found))
    count = store.keys.count(start, end)
    if query.flags & COUNT_ONLY:
        return [[], False, count]
    keys = store.keys.between(start, end)
    wanted = islice(keys, query.limit + 1) if query.limit > 0 else keys
    return _shown(query, [(key, store.live[key]) for key in wanted], count)


def _shown(query: RangeQuery, found: list[_Pair], count: int) -> list[Any]:
    more = 0 < query.limit < len(found)
    if more:
        found = found[: query.limit]
    rows = [row_of(key, version) for key, version in found]
    if query.flags & KEYS_ONLY:
        for row in rows:
            row[1] = b""
    return [rows, more, count]


def _passes(query: RangeQuery, version: Version) -> bool:
    return (
        (not query.min_mod or version.mod_revision >= query.min_mod)
        and (not query.max_mod or version.mod_revision <= query.max_mod)
        and (not query.min_create or version.create_revision >= query.min_create)
        and (not query.max_create or version.create_revision <= query.max_create)
    )
