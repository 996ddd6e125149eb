"""Reading a request body: limits first, then strict JSON into a type."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from starlette.types import Message, Receive

from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError
from node.api.header_fields import FIELDS, HeaderFields
from node.api.limits import (
    BODY_DEPTH_MAX,
    BODY_VALUES_MAX,
    DISCARD_BYTES_MAX,
    INTEGER_MAX,
    INTEGER_MIN,
    VALUE_DEPTH_MAX,
    ApiLimits,
)
from node.api.problems import ProblemError

_JSON: Final = b"application/json"
_CLOSE: Final = {"connection": "close"}
T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete, so no answer can reach it."""


async def read_json_body(scope: Mapping[str, Any], receive: Receive, limits: ApiLimits) -> bytes:
    """Return the body of a request that must be JSON; ``node.api.protocol`` bounds the time that it may take.

    Raises:
        ProblemError: 413, 415. Bytes over the limit are never kept.
        ClientGoneError: the connection closed.
    """
    fields: HeaderFields = scope[FIELDS]
    media_type = fields.content_type or b""
    if media_type != _JSON and media_type.partition(b";")[0].strip().lower() != _JSON:
        raise ProblemError(
            "media-type-unsupported",
            "send the header field `Content-Type: application/json`",
            headers={"accept": "application/json", **_CLOSE},
        )
    return await read_octets(scope, receive, limits)


async def read_octets(scope: Mapping[str, Any], receive: Receive, limits: ApiLimits) -> bytes:
    """Return the body of a request that may be any bytes, of whatever media type.

    Raises:
        ProblemError: 413. Bytes over the limit are never kept.
        ClientGoneError: the connection closed.
    """
    fields: HeaderFields = scope[FIELDS]
    declared = fields.content_length
    if declared > limits.body_bytes_max:
        drain = not fields.expects_continue and declared <= DISCARD_BYTES_MAX
        await _refuse_too_large(receive, limits, drain=drain)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) <= limits.body_bytes_max:
            return body
    return await _collect(message, receive, limits)


async def _collect(message: Message, receive: Receive, limits: ApiLimits) -> bytes:
    """Return the body whose first piece is in ``message``."""
    chunks: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        more_body = message.get("more_body", False)
        if size > limits.body_bytes_max:
            await _refuse_too_large(receive, limits, drain=more_body)
        chunks.append(chunk)
        if not more_body:
            return b"".join(chunks)
        message = await receive()
    raise ClientGoneError


async def _refuse_too_large(receive: Receive, limits: ApiLimits, *, drain: bool) -> None:
    """Raise; before that, if ``drain``, read the rest of the body and throw it away."""
    discarded = 0
    while drain and discarded < DISCARD_BYTES_MAX:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        discarded += len(message.get("body", b""))
        drain = message.get("more_body", False)
    raise too_large(limits)


def too_large(limits: ApiLimits) -> ProblemError:
    """Return the refusal of a body over the limit."""
    detail = f"a body has at most {limits.body_bytes_max} bytes"
    return ProblemError("body-too-large", detail, headers=_CLOSE)


def decode_untrusted(body: bytes, kind: type[T]) -> T:
    """Return the typed request in a JSON body.

    Raises:
        ProblemError: 400 if it is not strict JSON, 422 if it has another shape; the detail names the member.
    """
    try:
        return msgspec.convert(
            parse_strict_untrusted(body, depth_max=BODY_DEPTH_MAX, values_max=BODY_VALUES_MAX), kind
        )
    except MalformedError as exc:
        if exc.reason == "json-too-deep":
            raise _too_deep() from exc
        if exc.reason == "json-too-many-values":
            raise ProblemError("request-invalid", f"more than {BODY_VALUES_MAX} values") from exc
        raise ProblemError("json-invalid", exc.message, extensions={"reason": exc.reason}) from exc
    except msgspec.ValidationError as exc:
        raise ProblemError("request-invalid", _named(str(exc))) from exc


def _too_deep() -> ProblemError:
    return ProblemError("request-invalid", f"nested deeper than {VALUE_DEPTH_MAX} levels")


def _named(message: str) -> str:
    return message.replace("Object contains unknown field", "unknown member").replace(
        "Object missing required field", "missing member"
    )


def require_plain(value: Any, depth: int = 0) -> None:
    """Refuse values that have no exact form in the log: fractions, integers beyond 64 bits, deep nesting.

    Raises:
        ProblemError: 422.
    """
    # Exact types: the values come from the JSON reader, which makes no others.
    kind = type(value)
    if depth > VALUE_DEPTH_MAX:
        raise _too_deep()
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise ProblemError("request-invalid", "an integer does not fit into 64 bits, signed")
    elif kind is dict:
        for item in value.values():
            if type(item) is not str or depth == VALUE_DEPTH_MAX:  # nearly all of them are texts
                require_plain(item, depth + 1)
    elif kind is list:
        for item in value:
            if type(item) is not str or depth == VALUE_DEPTH_MAX:
                require_plain(item, depth + 1)
    else:
        raise ProblemError("request-invalid", "numbers are integers; send a fraction as text")
