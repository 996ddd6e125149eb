"""Errors as problem documents (RFC 9457), each with a stable ``code``."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

MEDIA_TYPE: Final = b"application/problem+json"
TYPE_PREFIX: Final = "urn:bondstone:problem:"
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One code of the catalogue. ``retry``: nothing was executed, and the same request may work later."""

    status: HTTPStatus
    title: str
    retry: bool = False


# Codes are never renamed; a code's status never changes.
CATALOGUE: Final[dict[str, ProblemKind]] = {
    "http-invalid": ProblemKind(HTTPStatus.BAD_REQUEST, "This is not a valid HTTP request"),
    "json-invalid": ProblemKind(HTTPStatus.BAD_REQUEST, "The body is not JSON"),
    "credentials-missing": ProblemKind(HTTPStatus.UNAUTHORIZED, "Credentials are needed"),
    "credentials-unknown": ProblemKind(HTTPStatus.UNAUTHORIZED, "The credentials are not known here"),
    "role-missing": ProblemKind(HTTPStatus.FORBIDDEN, "The credentials lack the role that this needs"),
    "not-permitted": ProblemKind(HTTPStatus.FORBIDDEN, "The group does not permit this to the credentials"),
    "not-found": ProblemKind(HTTPStatus.NOT_FOUND, "There is nothing at this path"),
    "key-not-found": ProblemKind(HTTPStatus.NOT_FOUND, "There is no such key"),
    "method-not-allowed": ProblemKind(
        HTTPStatus.METHOD_NOT_ALLOWED, "This path does not support this method"
    ),
    "request-timeout": ProblemKind(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive"),
    "provision-refused": ProblemKind(HTTPStatus.CONFLICT, "The node refused this group key"),
    "birth-certificate-refused": ProblemKind(
        HTTPStatus.CONFLICT, "The certificate does not confirm this cluster of this group"
    ),
    "transfer-refused": ProblemKind(HTTPStatus.CONFLICT, "The leader cannot hand over to this member now"),
    "recovery-refused": ProblemKind(HTTPStatus.CONFLICT, "This node may not found a new generation now"),
    "removal-refused": ProblemKind(HTTPStatus.CONFLICT, "The group cannot spare this member now"),
    "superseded": ProblemKind(
        HTTPStatus.CONFLICT, "Another term's entry was committed at the position in min_at"
    ),
    "cluster-changed": ProblemKind(
        HTTPStatus.PRECONDITION_FAILED, "The node is in another cluster than the request names"
    ),
    "precondition-failed": ProblemKind(
        HTTPStatus.PRECONDITION_FAILED, "The key is not as the request requires; nothing was written"
    ),
    "body-too-large": ProblemKind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    "media-type-unsupported": ProblemKind(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json"
    ),
    "request-invalid": ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "The request is invalid"),
    "idempotency-key-reused": ProblemKind(
        HTTPStatus.UNPROCESSABLE_ENTITY, "This Idempotency-Key was used with other commands before"
    ),
    "access-refused": ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "The access list refused this change"),
    "command-failed": ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "The state machine refused the command"),
    "query-failed": ProblemKind(HTTPStatus.UNPROCESSABLE_ENTITY, "The state machine refused the query"),
    "evidence-busy": ProblemKind(
        HTTPStatus.TOO_MANY_REQUESTS, "Too many evidence requests at once", retry=True
    ),
    "credentials-busy": ProblemKind(
        HTTPStatus.TOO_MANY_REQUESTS, "Too many passwords are being judged at once", retry=True
    ),
    "head-too-large": ProblemKind(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request line and header fields are too large"
    ),
    "audit-chain-broken": ProblemKind(
        HTTPStatus.INTERNAL_SERVER_ERROR, "The audit log on the disk was changed after it was written"
    ),
    "internal-error": ProblemKind(HTTPStatus.INTERNAL_SERVER_ERROR, "The node failed; its log has the cause"),
    "access-not-current": ProblemKind(
        HTTPStatus.SERVICE_UNAVAILABLE, "The node cannot judge credentials now", retry=True
    ),
    "not-executed": ProblemKind(
        HTTPStatus.SERVICE_UNAVAILABLE, "It was not executed and never will be", retry=True
    ),
    "not-ready": ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "The node cannot serve", retry=True),
    "overloaded": ProblemKind(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests at once", retry=True),
    "outcome-unknown": ProblemKind(HTTPStatus.GATEWAY_TIMEOUT, "It may or may not have been executed"),
    "query-timeout": ProblemKind(HTTPStatus.GATEWAY_TIMEOUT, "No answer in time"),
}


class ProblemError(Exception):
    """Ends a request with a problem document.

    Args:
        code: a key of ``CATALOGUE``.
        detail: one sentence for people, about this occurrence.
        headers: additional header fields.
        extensions: additional members, JSON-able.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    @property
    def status(self) -> int:
        return CATALOGUE[self.code].status.value

    def body(self) -> bytes:
        """Return the document."""
        kind = CATALOGUE[self.code]
        return _ENCODER.encode(
            {
                "type": TYPE_PREFIX + self.code,
                "title": kind.title,
                "status": kind.status.value,
                "code": self.code,
                "detail": self.detail,
                **self.extensions,
            }
        )

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return all header fields of the response but ``content-length``."""
        fields = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store")]
        if CATALOGUE[self.code].retry and "retry-after" not in self.headers:
            fields.append((b"retry-after", b"1"))
        fields += [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in self.headers.items()
        ]
        return fields
