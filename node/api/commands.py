"""``POST /v1/commands``, on the hot path (``node.api.hot``)."""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope

from attestation.encoding.canonical import encode
from node.api import schemas
from node.api.access import AccessGate
from node.api.body import decode_untrusted, read_json_body, require_plain
from node.api.freshness import time_left_s
from node.api.header_fields import FIELDS, IDEMPOTENCY_KEY, HeaderFields
from node.api.hot import CONTENT_TYPE, HotAnswer, content_length
from node.api.limits import IDEMPOTENCY_KEY_CHARACTERS_MAX, ApiLimits
from node.api.operations import BY_NAME
from node.api.outcomes import not_executed, outcome_unknown, state_machine_refused
from node.api.problems import ProblemError
from node.api.service import Service
from node.api.stalls import StallWatch
from node.group.errors import GroupClosedError
from node.raft.types import AlreadyExecuted, Applied, Cursor, Failed, NotExecuted, Ok, Unknown
from node.system.grants import Grant

_ENCODER: Final = msgspec.json.Encoder()
_ROLES: Final = BY_NAME["commands"].roles
_STANDING: Final = BY_NAME["commands"].standing
# In CBOR, in front of a byte string: by its length.
_HEADS: Final = tuple(
    encode(bytes(length))[: -length or None] for length in range(IDEMPOTENCY_KEY_CHARACTERS_MAX + 1)
)
_KEY: Final = re.compile(rb"[!-~]{1,%d}" % IDEMPOTENCY_KEY_CHARACTERS_MAX)
Answers = schemas.CommandResult | schemas.CommandResults | schemas.Accepted | schemas.AlreadyExecuted
_STATUS: Final[dict[type[Answers], int]] = {
    schemas.CommandResult: 200,
    schemas.CommandResults: 200,
    schemas.Accepted: 202,
    schemas.AlreadyExecuted: 208,
}


class HandOver:
    """Decides whether a request may still go to the group, and until when it may wait there.

    Args:
        limits: of the API.
        age_clock: see ``node.api.freshness``.
    """

    def __init__(self, limits: ApiLimits, age_clock: Callable[[], float]) -> None:
        self._limits = limits
        self._age_clock = age_clock
        self._stalls = StallWatch()

    def timeout_s(self, scope: Scope, *, keyed: bool) -> float:
        """Return for how long the group may take; ``keyed``: the request has an Idempotency-Key.

        Raises:
            ProblemError: 503, a request read now may be of any age, or it is too old for its key.
        """
        if self._stalls.doubtful():
            raise not_executed(NotExecuted("stalled"))
        if not keyed:
            return self._limits.command_timeout_s
        # The request may wait in the node for the group until it is too old. Then the node drops it.
        left_s = time_left_s(scope, self._limits, self._age_clock())
        return min(self._limits.command_timeout_s, left_s)


class CommandsEndpoint:
    """The endpoint of one path (``node.api.hot.HotEndpoint``)."""

    def __init__(self, service: Service, gate: AccessGate, limits: ApiLimits, hand_over: HandOver) -> None:
        self._service = service
        self._gate = gate
        self._limits = limits
        self._hand_over = hand_over

    async def __call__(self, scope: Scope, receive: Receive) -> HotAnswer:
        grant = await self._gate.admit(scope, _ROLES, _STANDING)
        key = idempotency_key(scope, grant)
        body = await read_json_body(scope, receive, self._limits)
        request = decode_untrusted(body, schemas.CommandRequest)
        commands, single = _commands_of(request)
        feed = request.wait == "accepted"
        timeout_s = self._hand_over.timeout_s(scope, keyed=key is not None)
        try:
            outcome = await self._service.execute(
                commands, credential=grant.credential, key=key, feed=feed, timeout_s=timeout_s
            )
        except GroupClosedError as exc:  # the command may be on its way through the peers
            raise outcome_unknown(Unknown("group-closed")) from exc
        answer: Answers
        match outcome:
            case Ok():
                # A feed has a place and no results. One with results was refused before it got a place.
                placed = feed and not outcome.results
                answer = _accepted(outcome.at) if placed else _committed(outcome, single=single)
            case AlreadyExecuted():
                answer = _accepted(outcome.at) if feed else _already(outcome)
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a command")
        content = _ENCODER.encode(answer)
        return HotAnswer(_STATUS[type(answer)], [CONTENT_TYPE, content_length(content)], content)


def idempotency_key(scope: Scope, grant: Grant, domain: str = "bondstone/idempotency-key/v1") -> bytes | None:
    """Return the key for the log: 32 bytes derived from the caller's own key and its credential.

    Two callers that choose the same key never see each other's results. Requests of different kinds have
    different values of ``domain``, so one caller can use the same key for each kind.

    Raises:
        ProblemError: 422, not 1 to 128 visible ASCII characters, or given twice.
    """
    fields: HeaderFields = scope[FIELDS]
    given = fields.idempotency_key
    if given is None:
        return None
    if IDEMPOTENCY_KEY in fields.repeated or not _KEY.fullmatch(given):
        raise ProblemError(
            "request-invalid",
            "Idempotency-Key: one value of 1 to 128 visible ASCII characters",
        )
    hashed = _before_key(domain, grant.credential).copy()
    hashed.update(_HEADS[len(given)] + given)
    return hashed.digest()


@lru_cache(maxsize=256)
def _before_key(domain: str, credential: bytes) -> "hashlib._Hash":
    """Return the digest of ``[domain, credential, key]``, begun: of everything in front of the key.

    ``attestation.encoding.canonical.digest`` is the same in one piece, for three times the time.
    """
    return hashlib.sha256(encode([domain, credential, b""]).removesuffix(encode(b"")))


def _commands_of(request: schemas.CommandRequest) -> tuple[tuple[Any, ...], bool]:
    """Return the commands, and whether they came as a single ``command``."""
    if (request.command is msgspec.UNSET) == (request.commands is msgspec.UNSET):
        raise ProblemError("request-invalid", "give exactly one of `command` and `commands`")
    if isinstance(request.commands, msgspec.UnsetType):
        require_plain(request.command)
        return (request.command,), True
    require_plain(request.commands)
    return tuple(request.commands), False


def _accepted(at: Cursor) -> schemas.Accepted:
    return schemas.Accepted(term=at.term, index=at.index)


def _already(outcome: AlreadyExecuted) -> schemas.AlreadyExecuted:
    term, index = outcome.at
    return schemas.AlreadyExecuted(term=term, index=index, digest=outcome.digest.hex(), size=outcome.size)


def _committed(outcome: Ok, *, single: bool) -> schemas.CommandResult | schemas.CommandResults:
    values: list[object] = []
    for result in outcome.results:
        match result:
            case Applied(value):
                values.append(value)
            case Failed():
                raise state_machine_refused("command-failed", outcome.results, outcome.at)
    term, index = outcome.at
    if single:
        return schemas.CommandResult(term=term, index=index, result=values[0])
    return schemas.CommandResults(term=term, index=index, results=values)
