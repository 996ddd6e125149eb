"""``POST /v1/queries``, on the hot path (``node.api.hot``)."""

from typing import Final

import msgspec
from starlette.types import Receive, Scope

from node.api import schemas
from node.api.access import AccessGate
from node.api.body import decode_untrusted, read_json_body, require_plain
from node.api.hot import CONTENT_TYPE, HotAnswer, content_length
from node.api.limits import ApiLimits
from node.api.operations import BY_NAME
from node.api.outcomes import not_executed, state_machine_refused
from node.api.problems import ProblemError
from node.api.service import Service
from node.raft.types import Answer, Consistency, Cursor, Failed, NotExecuted, Unknown

_ENCODER: Final = msgspec.json.Encoder()
_ROLES: Final = BY_NAME["queries"].roles
_STANDING: Final = BY_NAME["queries"].standing


class QueriesEndpoint:
    """The endpoint of one path (``node.api.hot.HotEndpoint``)."""

    def __init__(self, service: Service, gate: AccessGate, limits: ApiLimits) -> None:
        self._service = service
        self._gate = gate
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive) -> HotAnswer:
        grant = await self._gate.admit(scope, _ROLES, _STANDING)
        body = await read_json_body(scope, receive, self._limits)
        asked = decode_untrusted(body, schemas.QueryRequest)
        require_plain(asked.query)
        consistency = Consistency(asked.consistency)
        if asked.max_age_ms is not None and consistency is not Consistency.WEAK:
            raise ProblemError("request-invalid", "`max_age_ms` is for weak queries only")
        if consistency is Consistency.WEAK:
            await self._gate.require_current()
        outcome = await self._service.query(
            asked.query,
            credential=grant.credential,
            consistency=consistency,
            min_at=None if asked.min_at is None else Cursor(asked.min_at.term, asked.min_at.index),
            max_age_ms=asked.max_age_ms,
            timeout_s=self._limits.query_timeout_s,
        )
        if consistency is Consistency.WEAK:
            self._gate.require_still_current()
        match outcome:
            case Answer(Failed() as failed, at):
                raise state_machine_refused("query-failed", (failed,), at)
            case Answer():
                state = schemas.At(term=outcome.at.term, index=outcome.at.index)
                result = schemas.QueryResult(result=outcome.value, at=state, age_ms=outcome.age_ms)
                content = _ENCODER.encode(result)
                return HotAnswer(200, [content_length(content), CONTENT_TYPE], content)
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise ProblemError("query-timeout", "no answer in time; try again")
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a query")
