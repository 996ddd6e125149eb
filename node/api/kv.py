"""``/v1/kv/{key}`` and ``/v1/kv``: keys as paths, values as bodies, revisions as entity tags.

    GET     /v1/kv/KEY      the value; its revision is the ETag
    PUT     /v1/kv/KEY      writes the body; If-Match: "REVISION", If-Match: * (it exists), If-None-Match: *
    DELETE  /v1/kv/KEY      with If-Match, too
    GET     /v1/kv          a page of a range: prefix, or from and to
    DELETE  /v1/kv          a range

A key is every byte behind ``/v1/kv/``, percent-decoded once: a slash is a slash, encoded or not. A write is
one command of the key-value machine from its third version on, so a condition is judged where it is applied.
The machine refuses callers, sizes and leases as it does for every other command.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import Receive, Scope

from node.api import schemas
from node.api.access import AccessGate
from node.api.body import read_octets
from node.api.commands import HandOver, idempotency_key
from node.api.hot import CONTENT_TYPE, HotAnswer, content_length
from node.api.kv_schemas import KvDeleted, KvItem, KvPage, KvWritten
from node.api.limits import INTEGER_MAX, KV_PAGE_DEFAULT, KV_PAGE_MAX, ApiLimits
from node.api.operations import BY_NAME, KV_KEY_PATH
from node.api.outcomes import not_executed, outcome_unknown, state_machine_refused
from node.api.problems import ProblemError
from node.api.service import Service
from node.group.errors import GroupClosedError
from node.raft.types import (
    AlreadyExecuted,
    Answer,
    Applied,
    Consistency,
    Cursor,
    Failed,
    NotExecuted,
    Ok,
    Unknown,
)
from node.system.grants import Grant

_ENCODER: Final = msgspec.json.Encoder()
_KEY_DOMAIN: Final = "bondstone/kv-idempotency-key/v1"
_BEFORE_KEY: Final = KV_KEY_PATH.removesuffix("{key}").encode()
_OPERATIONS: Final = {
    (operation.path, operation.method): operation
    for operation in BY_NAME.values()
    if operation.path in {KV_KEY_PATH, BY_NAME["kv_range"].path}
}
_OCTETS: Final = (b"content-type", b"application/octet-stream")
_NO_STORE: Final = (b"cache-control", b"no-store")
_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ETAG: Final = re.compile(rb'"([0-9]{1,19})"')
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
# Of the machine's commands and queries: numbers that are etcd's own.
_VERSION, _MOD = 0, 2
_EQUAL, _GREATER = 0, 1
_KEYS_ONLY, _COUNT_ONLY = 1, 2
_CONSISTENCY: Final = {
    None: Consistency.STRONG,
    b"strong": Consistency.STRONG,
    b"weak": Consistency.WEAK,
}
_ONE_KEY: Final = b""
_TO_THE_END: Final = b"\0"
_FIRST_KEY: Final = b"\0"


class KvEndpoint:
    """The endpoint of both paths (``node.api.hot.HotEndpoint``)."""

    def __init__(self, service: Service, gate: AccessGate, limits: ApiLimits, hand_over: HandOver) -> None:
        self._service = service
        self._gate = gate
        self._limits = limits
        self._hand_over = hand_over

    async def __call__(self, scope: Scope, receive: Receive) -> HotAnswer:
        has_key = scope["path"] != BY_NAME["kv_range"].path
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = _OPERATIONS[KV_KEY_PATH if has_key else BY_NAME["kv_range"].path, method]
        grant = await self._gate.admit(scope, operation.roles, operation.standing)
        given = _parameters(scope["query_string"], {one.name for one in operation.parameters})
        match operation.name:
            case "kv_get":
                return await self._get(_key_of(scope), given, grant)
            case "kv_range":
                return await self._page(given, grant)
            case "kv_put":
                return await self._put(_key_of(scope), given, scope, receive, grant)
            case "kv_delete":
                return await self._delete(_key_of(scope), scope, grant)
            case _:
                return await self._delete_range(given, scope, grant)

    # ---- reading ----------------------------------------------------------------
    async def _get(self, key: bytes, given: Mapping[str, bytes], grant: Grant) -> HotAnswer:
        revision = _integer(given, "revision", 0, 0, INTEGER_MAX)
        query = _range(key, _ONE_KEY, limit=1, revision=revision)
        (now, rows, _, _), _ = await self._query(query, given, grant)
        if not rows:
            raise ProblemError("key-not-found", "there is no such key", extensions={"revision": now})
        _, value, created, modified, version, lease = rows[0]
        numbers = (
            (b"bondstone-revision", now),
            (b"bondstone-create-revision", created),
            (b"bondstone-version", version),
            (b"bondstone-lease", lease),
        )
        fields = [_OCTETS, content_length(value), _NO_STORE, (b"etag", b'"%d"' % modified)]
        return HotAnswer(200, [*fields, *((name, b"%d" % number) for name, number in numbers)], value)

    async def _page(self, given: Mapping[str, bytes], grant: Grant) -> HotAnswer:
        start, end = _bounds(given, whole=True)
        keys_only, count_only = _boolean(given, "keys_only"), _boolean(given, "count_only")
        query = _range(
            start,
            end,
            limit=_integer(given, "limit", KV_PAGE_DEFAULT, 1, KV_PAGE_MAX),
            revision=_integer(given, "revision", 0, 0, INTEGER_MAX),
            flags=_KEYS_ONLY * keys_only | _COUNT_ONLY * count_only,
        )
        (now, rows, more, count), at = await self._query(query, given, grant)
        items = [
            KvItem(
                key_b64=base64.b64encode(key).decode("ascii"),
                value_b64=None if keys_only else base64.b64encode(value).decode("ascii"),
                create_revision=created,
                mod_revision=modified,
                version=version,
                lease=lease,
            )
            for key, value, created, modified, version, lease in rows
        ]
        page = KvPage(
            revision=now,
            count=count,
            more=more,
            items=items,
            at=schemas.At(term=at.term, index=at.index),
        )
        return _json(200, page)

    async def _query(self, query: list[Any], given: Mapping[str, bytes], grant: Grant) -> tuple[Any, Cursor]:
        consistency = _CONSISTENCY.get(given.get("consistency"))
        if consistency is None:
            raise ProblemError("request-invalid", "the query parameter `consistency` is strong or weak")
        outcome = await self._service.query(
            query,
            credential=grant.credential,
            consistency=consistency,
            min_at=None,
            max_age_ms=None,
            timeout_s=self._limits.query_timeout_s,
        )
        match outcome:
            case Answer(Failed() as failed, at):
                raise state_machine_refused("query-failed", (failed,), at)
            case Answer(value, at):
                return value, at
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise ProblemError("query-timeout", "no answer in time; try again")
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a query")

    # ---- writing ----------------------------------------------------------------
    async def _put(
        self, key: bytes, given: Mapping[str, bytes], scope: Scope, receive: Receive, grant: Grant
    ) -> HotAnswer:
        compares = _conditions(scope, key, may_be_absent=True)
        lease = _integer(given, "lease", 0, 0, INTEGER_MAX)
        value = await read_octets(scope, receive, self._limits)
        return await self._write(["put", key, value, lease, 0], compares, scope, grant)

    async def _delete(self, key: bytes, scope: Scope, grant: Grant) -> HotAnswer:
        compares = _conditions(scope, key, may_be_absent=False)
        return await self._write(["delete", key, _ONE_KEY, 0], compares, scope, grant)

    async def _delete_range(self, given: Mapping[str, bytes], scope: Scope, grant: Grant) -> HotAnswer:
        return await self._write(["delete", *_bounds(given, whole=False), 0], [], scope, grant)

    async def _write(
        self, operation: list[Any], compares: list[Any], scope: Scope, grant: Grant
    ) -> HotAnswer:
        """Execute one operation under its conditions. If they fail, the answer has the key's revision."""
        command = operation
        if compares:
            shown = _range(operation[1], _ONE_KEY, limit=1, flags=_KEYS_ONLY)
            command = ["txn", compares, [operation], [shown]]
        outcome = await self._execute(command, scope, grant)
        if isinstance(outcome, AlreadyExecuted):
            term, index = outcome.at
            already = schemas.AlreadyExecuted(
                term=term, index=index, digest=outcome.digest.hex(), size=outcome.size
            )
            return _json(208, already)
        result, at = outcome
        if not compares:
            return _written(operation, result, at)
        revision, succeeded, (response,) = result
        if not succeeded:
            raise _precondition_failed(response, revision, at)
        return _written(operation, [revision, *response[1:]], at)

    async def _execute(
        self, command: list[Any], scope: Scope, grant: Grant
    ) -> AlreadyExecuted | tuple[Any, Cursor]:
        key = idempotency_key(scope, grant, _KEY_DOMAIN)
        timeout_s = self._hand_over.timeout_s(scope, keyed=key is not None)
        try:
            outcome = await self._service.execute(
                (command,), credential=grant.credential, key=key, feed=False, timeout_s=timeout_s
            )
        except GroupClosedError as exc:  # the command may be on its way through the peers
            raise outcome_unknown(Unknown("group-closed")) from exc
        match outcome:
            case Ok((Applied(result),), at):
                return result, at
            case Ok(results, at):
                raise state_machine_refused("command-failed", results, at)
            case AlreadyExecuted():
                return outcome
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a command")


def _written(operation: list[Any], result: list[Any], at: Cursor) -> HotAnswer:
    """Return the answer to a write: for a key that was put its new revision is the ETag."""
    revision, more = result[0], result[1]
    if operation[0] == "delete":
        deleted = KvDeleted(term=at.term, index=at.index, revision=revision, deleted=more)
        return _json(200, deleted)
    written = KvWritten(term=at.term, index=at.index, revision=revision)
    return _json(200, written, (b"etag", b'"%d"' % revision))


def _precondition_failed(response: list[Any], revision: int, at: Cursor) -> ProblemError:
    rows = response[1]
    now = rows[0][3] if rows else None
    return ProblemError(
        "precondition-failed",
        "there is no such key" if now is None else f"the key's revision is {now}",
        headers={} if now is None else {"etag": f'"{now}"'},
        extensions={"mod_revision": now, "revision": revision, "term": at.term, "index": at.index},
    )


def _range(key: bytes, end: bytes, *, limit: int, revision: int = 0, flags: int = 0) -> list[Any]:
    return ["range", key, end, limit, revision, 0, 0, flags, 0, 0, 0, 0]


def _json(status: int, value: msgspec.Struct, *fields: tuple[bytes, bytes]) -> HotAnswer:
    content = _ENCODER.encode(value)
    return HotAnswer(status, [CONTENT_TYPE, content_length(content), *fields], content)


# ---- what a request has ---------------------------------------------------------
def _key_of(scope: Scope) -> bytes:
    """Return the key in the path. The server's own decoding takes it for UTF-8, which a key need not be."""
    raw = scope["raw_path"]
    if not raw.startswith(_BEFORE_KEY):
        raise ProblemError("request-invalid", "write /v1/kv/ as it is: only the key is percent-encoded")
    key = _decoded(raw[len(_BEFORE_KEY) :], "the key")
    if not key:
        raise ProblemError("request-invalid", "the key has at least one byte")
    return key


def _decoded(text: bytes, what: str) -> bytes:
    if _PERCENT.search(text):
        raise ProblemError("request-invalid", f"{what} has a `%` that no two hex digits follow")
    return unquote_to_bytes(text)


def _parameters(query: bytes, known: set[str]) -> dict[str, bytes]:
    """Return the query parameters, percent-decoded: of ``known``, each once."""
    given: dict[str, bytes] = {}
    for part in query.split(b"&", len(known) + 1) if query else ():
        encoded, has_value, value = part.partition(b"=")
        name = _decoded(encoded, "a query parameter").decode("utf-8", "replace")
        if name not in known or name in given or not has_value:
            raise ProblemError("request-invalid", f"unknown, repeated or empty query parameter `{name[:64]}`")
        given[name] = _decoded(value, f"the query parameter `{name}`")
    return given


def _bounds(given: Mapping[str, bytes], *, whole: bool) -> tuple[bytes, bytes]:
    """Return the first key of a range and its end, as the machine reads them; ``whole``: all, by default."""
    prefix, start, end = given.get("prefix"), given.get("from"), given.get("to")
    if prefix is not None and (start is not None or end is not None):
        raise ProblemError("request-invalid", "give `prefix`, or `from` and `to`, not both")
    if prefix is None and start is None and end is None and not whole:
        raise ProblemError("request-invalid", "which keys? give `prefix`, or `from` or `to`; `prefix=`: all")
    if end is not None and end <= _FIRST_KEY:
        raise ProblemError("request-invalid", "there is no key before `to`")
    if prefix:
        return prefix, _end_of_prefix(prefix)
    return start or _FIRST_KEY, end or _TO_THE_END


def _end_of_prefix(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with ``prefix``."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else _TO_THE_END


def _integer(given: Mapping[str, bytes], name: str, default: int, low: int, high: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise ProblemError("request-invalid", f"the query parameter `{name}` is from {low} to {high}")
    return int(text)


def _boolean(given: Mapping[str, bytes], name: str) -> bool:
    value = {None: False, b"false": False, b"true": True}.get(given.get(name))
    if value is None:
        raise ProblemError("request-invalid", f"the query parameter `{name}` is true or false")
    return value


def _conditions(scope: Scope, key: bytes, *, may_be_absent: bool) -> list[Any]:
    """Return the compares that the header fields ask for; none without such fields.

    Raises:
        ProblemError: 422, not one of the forms above. A condition is never ignored.
    """
    given = [(name, value) for name, value in scope["headers"] if name in {b"if-match", b"if-none-match"}]
    if not given:
        return []
    if len(given) > 1:
        raise ProblemError("request-invalid", "give one of If-Match and If-None-Match, once")
    ((name, value),) = given
    if name == b"if-none-match":
        if value != b"*" or not may_be_absent:
            raise ProblemError("request-invalid", "If-None-Match is `*`, for PUT alone")
        return [[_VERSION, _EQUAL, key, _ONE_KEY, 0]]
    if value == b"*":
        return [[_VERSION, _GREATER, key, _ONE_KEY, 0]]
    found = _ETAG.fullmatch(value)
    if found is None or int(found[1]) > INTEGER_MAX:
        raise ProblemError("request-invalid", 'If-Match is `*`, or one ETag: a revision in quotes, as "7"')
    return [[_MOD, _EQUAL, key, _ONE_KEY, int(found[1])]]
