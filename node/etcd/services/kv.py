"""``etcdserverpb.KV``: messages to commands and queries of the key-value machine, and results to messages."""

from typing import Any, Final

from node.etcd import messages as m
from node.etcd.errors import REQUEST_TOO_LARGE, SORT_INVALID, EtcdError
from node.etcd.services.backend import Backend
from node.etcd.services.call import Call

# Of an encoded request, as in etcd. The messages of a codec with another form are counted by what they carry.
REQUEST_BYTES_MAX: Final = 1_572_864
_PREV_KV: Final = 1
_IGNORE_VALUE: Final = 2
_IGNORE_LEASE: Final = 4
_KEYS_ONLY: Final = 1
_COUNT_ONLY: Final = 2
_OVERHEAD_BYTES: Final = 8  # of a field and its length, about


class KvService:
    """See ``node.etcd.services``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def range(self, request: m.RangeRequest, call: Call) -> m.RangeResponse:
        header, (rows, more, count) = await self._backend.query(
            range_of(request), call, serializable=request.serializable
        )
        return m.RangeResponse(header=header, kvs=[key_value(row) for row in rows], more=more, count=count)

    async def put(self, request: m.PutRequest, call: Call) -> m.PutResponse:
        require_size(request)
        header, (before,) = await self._backend.execute(_put_of(request), call)
        return m.PutResponse(header=header, prev_kv=None if before is None else key_value(before))

    async def delete_range(self, request: m.DeleteRangeRequest, call: Call) -> m.DeleteRangeResponse:
        require_size(request)
        header, (deleted, rows) = await self._backend.execute(_delete_of(request), call)
        return m.DeleteRangeResponse(
            header=header, deleted=deleted, prev_kvs=[key_value(row) for row in rows]
        )

    async def txn(self, request: m.TxnRequest, call: Call) -> m.TxnResponse:
        require_size(request)
        header, (succeeded, responses) = await self._backend.execute(_txn_of(request), call)
        return _txn_response(header, succeeded, responses)

    async def compact(self, request: m.CompactionRequest, call: Call) -> m.CompactionResponse:
        header, _ = await self._backend.execute(["compact", request.revision], call)
        return m.CompactionResponse(header=header)


def require_size(request: m.Message) -> None:
    """Return if a request is not too large (PUT-06).

    Raises:
        EtcdError: INVALID_ARGUMENT.
    """
    if size_of(request) > REQUEST_BYTES_MAX:
        raise EtcdError(*REQUEST_TOO_LARGE)


def size_of(value: Any) -> int:
    """Return about how many bytes a message takes: what it carries, and a little for each field."""
    match value:
        case bytes():
            return len(value)
        case list():
            return sum(size_of(one) + _OVERHEAD_BYTES for one in value)
        case m.Message():
            fields = (getattr(value, name) for name in value.__struct_fields__)
            return sum(size_of(field) for field in fields if field)
        case _:
            return _OVERHEAD_BYTES


# ---- to the machine -------------------------------------------------------------
def range_of(request: m.RangeRequest) -> list[Any]:
    """Return the machine's query.

    Raises:
        EtcdError: INVALID_ARGUMENT, there is no such order.
    """
    if (
        not 0 <= request.sort_order <= m.SortOrder.DESCEND
        or not 0 <= request.sort_target <= m.SortTarget.VALUE
    ):
        raise EtcdError(*SORT_INVALID)
    flags = (_KEYS_ONLY if request.keys_only else 0) | (_COUNT_ONLY if request.count_only else 0)
    return [
        "range",
        request.key,
        request.range_end,
        request.limit,
        request.revision,
        int(request.sort_order),
        int(request.sort_target),
        flags,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]


def _put_of(request: m.PutRequest) -> list[Any]:
    flags = (
        (_PREV_KV if request.prev_kv else 0)
        | (_IGNORE_VALUE if request.ignore_value else 0)
        | (_IGNORE_LEASE if request.ignore_lease else 0)
    )
    return ["put", request.key, request.value, request.lease, flags]


def _delete_of(request: m.DeleteRangeRequest) -> list[Any]:
    return ["delete", request.key, request.range_end, _PREV_KV if request.prev_kv else 0]


def _txn_of(request: m.TxnRequest) -> list[Any]:
    return [
        "txn",
        [_compare_of(one) for one in request.compare],
        [_operation_of(one) for one in request.success],
        [_operation_of(one) for one in request.failure],
    ]


def _compare_of(compare: m.Compare) -> list[Any]:
    operand: bytes | int | None
    match compare.target:
        case m.CompareTarget.VERSION:
            operand = compare.version or 0
        case m.CompareTarget.CREATE:
            operand = compare.create_revision or 0
        case m.CompareTarget.MOD:
            operand = compare.mod_revision or 0
        case m.CompareTarget.VALUE:
            operand = compare.value or b""
        case _:
            operand = compare.lease or 0
    return [int(compare.target), int(compare.result), compare.key, compare.range_end, operand]


def _operation_of(operation: m.RequestOp) -> list[Any]:
    if operation.request_range is not None:
        return range_of(operation.request_range)
    if operation.request_put is not None:
        return _put_of(operation.request_put)
    if operation.request_delete_range is not None:
        return _delete_of(operation.request_delete_range)
    if operation.request_txn is not None:
        return _txn_of(operation.request_txn)
    return []


# ---- from the machine -------------------------------------------------------------
def key_value(row: list[Any]) -> m.KeyValue:
    """Return the message of a row of the machine; its key and value are not copied."""
    key, value, create_revision, mod_revision, version, lease = row
    return m.KeyValue(
        key=key,
        value=value,
        create_revision=create_revision,
        mod_revision=mod_revision,
        version=version,
        lease=lease,
    )


def _txn_response(header: m.ResponseHeader, succeeded: bool, responses: list[Any]) -> m.TxnResponse:
    inner = m.ResponseHeader(revision=header.revision)
    return m.TxnResponse(
        header=header, succeeded=succeeded, responses=[_response_of(one, inner) for one in responses]
    )


def _response_of(response: list[Any], header: m.ResponseHeader) -> m.ResponseOp:
    match response:
        case ["put", before]:
            prev_kv = None if before is None else key_value(before)
            return m.ResponseOp(response_put=m.PutResponse(header=header, prev_kv=prev_kv))
        case ["delete", deleted, rows]:
            return m.ResponseOp(
                response_delete_range=m.DeleteRangeResponse(
                    header=header, deleted=deleted, prev_kvs=[key_value(row) for row in rows]
                )
            )
        case ["range", rows, more, count]:
            return m.ResponseOp(
                response_range=m.RangeResponse(
                    header=header, kvs=[key_value(row) for row in rows], more=more, count=count
                )
            )
        case ["txn", succeeded, responses]:
            return m.ResponseOp(response_txn=_txn_response(header, succeeded, responses))
        case _:
            raise AssertionError(f"{response!r} is not a response of the machine")
