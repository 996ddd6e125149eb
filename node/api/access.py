"""From a request's head to a principal with the role that it needs, or a refusal."""

import hmac
from collections.abc import Mapping
from typing import Any, Final, cast

from node.api.problems import ProblemError
from node.tokens import AccessError, AccessList, AccessRole, Principal

# Where ``node.api.protocol`` leaves the certificate with which TLS authenticated the client, DER.
CLIENT_CERTIFICATE: Final = "bondstone.client_certificate"
# The Authorization header field that was accepted last on this connection, and whose it is.
_SHOWN: Final = "bondstone.shown"
_CHALLENGE: Final = 'Bearer realm="bondstone"'


def authenticate(scope: Mapping[str, Any], access: AccessList) -> Principal:
    """Return who is asking: the bearer token counts if there is one, else the client certificate.

    What a connection has shown once is remembered there, and only compared: the access list never changes.

    Raises:
        ProblemError: 401.
    """
    authorization: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if authorization is not None:
                raise _refused("credentials-missing", "two Authorization header fields; send one")
            authorization = value
    extensions = scope["extensions"]
    shown = extensions.get(_SHOWN)
    if shown is not None and authorization is not None and hmac.compare_digest(shown[0], authorization):
        return cast("Principal", shown[1])
    try:
        if authorization is not None:
            principal = access.of_token(_bearer_token(authorization))
            extensions[_SHOWN] = (authorization, principal)
            return principal
        certificate = extensions.get(CLIENT_CERTIFICATE)
        if certificate is not None:
            return access.of_client_certificate(certificate)
    except AccessError as exc:
        raise _refused("credentials-unknown", exc.message, reason=exc.reason) from exc
    raise _refused("credentials-missing", "send `Authorization: Bearer TOKEN`, or use a client certificate")


def require_role(principal: Principal, role: AccessRole) -> Principal:
    """Return the principal if it carries the role.

    Raises:
        ProblemError: 403.
    """
    if role not in principal.roles:
        raise ProblemError(
            "role-missing",
            f"{principal.name} does not carry the role `{role.value}`",
            headers={"www-authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{role.value}"'},
        )
    return principal


def _bearer_token(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise _refused("credentials-missing", "the Authorization header field must be `Bearer TOKEN`")
    return token.strip()


def _refused(code: str, detail: str, *, reason: str | None = None) -> ProblemError:
    challenge = _CHALLENGE if reason is None else f'{_CHALLENGE}, error="invalid_token"'
    return ProblemError(
        code,
        detail,
        headers={"www-authenticate": challenge},
        extensions={} if reason is None else {"reason": reason},
    )
