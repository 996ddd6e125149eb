"""One call of every operation that the API answers with success, for the tests that try all of them.

`make check` compares this table with the operations (``tests/test_rules.py``): an operation that is added without
a row, or without the body that it reads, would otherwise be noticed only by the whole folder's tests.
"""

from dataclasses import dataclass
from typing import Any, Final

from node.system.grants import AccessRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """``query``: with its question mark. ``opened_by``: the roles that may call it, beside ``admin``.

    ``holds``: a key that the store must hold, otherwise the answer is no success.
    """

    query: str = ""
    holds: bytes | None = None
    body: Any = None
    opened_by: frozenset[AccessRole] = frozenset()


def _call(*opened_by: AccessRole, query: str = "", body: Any = None, holds: bytes | None = None) -> Call:
    return Call(query=query, body=body, holds=holds, opened_by=frozenset(opened_by))


READ, WRITE, AUDIT, METRICS = AccessRole.READ, AccessRole.WRITE, AccessRole.AUDIT, AccessRole.METRICS

CALLS: Final = {
    "health": _call(),
    "ready": _call(),
    "metrics": _call(READ, METRICS),
    "openapi": _call(),
    "group": _call(READ),
    "members": _call(READ),
    "safe_to_stop": _call(READ),
    "remove": _call(query="?member=node-b"),
    "survivor": _call(),
    "recover": _call(body={"log_end": {"term": 3, "index": 9, "chain": "ab" * 32}}),
    "transfer": _call(body={}),
    "bonds": _call(READ),
    "commands": _call(WRITE, body={"command": {"op": "put", "key": "a", "value": "1"}}),
    "queries": _call(READ, body={"query": {"op": "get", "key": "a"}}),
    "kv_get": _call(READ, holds=b"{key}"),
    "kv_put": _call(WRITE, body={"any": "bytes"}),
    "kv_delete": _call(WRITE),
    "kv_range": _call(READ, query="?prefix=a"),
    "kv_delete_range": _call(WRITE, query="?prefix=a"),
    "evidence": _call(query="?nonce=" + "00" * 16),
    "peers": _call(AUDIT),
    "audit_events": _call(AUDIT),
    "audit_head": _call(AUDIT),
    "access_list": _call(),
    "access_new": _call(body={"name": "ci", "roles": ["read"], "token_sha256": "ab" * 32}),
    "access_revoke": _call(query="?name=read"),
    "provision": _call(body={"group_key": "ab" * 32}),
    "birth_certificate": _call(),
    "confirm": _call(body={"birth_certificate": "q80="}),
}
