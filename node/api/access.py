"""From a request's head to a grant of the group's access list that opens the operation, or a refusal.

The list is replicated state, and this node's copy may be old. So the node refuses a caller only by a list
that is known to be current. An operation that the log does not judge again needs a list that was current at
most ``access_lag_s`` ago.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from cryptography import x509

from node.api.currency import Currency
from node.api.header_fields import AUTHORIZATION, FIELDS, HeaderFields
from node.api.passwords import PasswordJudge, basic_credentials
from node.api.problems import ProblemError
from node.api.service import Service
from node.api.turns import Asking
from node.system.access_list import AccessList
from node.system.grants import AccessRole, Grant
from node.tokens import TOKEN_CHARACTERS_MAX, spki_digest

# Where ``node.api.protocol`` leaves the certificate with which TLS authenticated the client, DER.
CLIENT_CERTIFICATE: Final = "bondstone.client_certificate"
# In a request's state: a list of functions, each called with the caller's credential (``node.places``).
VOUCHED: Final = "bondstone.vouched"
# The Authorization header field that was accepted last on this connection, and with which credential.
_SHOWN: Final = "bondstone.shown"
_CHALLENGE: Final = 'Bearer realm="bondstone"'


class Standing(Enum):
    """How current the access list must be for an operation.

    JUDGED: any list that this life of the node has had. The log judges the caller again, at the entry.
    CURRENT: a list that was the group's at most ``access_lag_s`` ago.
    LAST_KNOWN: as CURRENT. While no leader is known, nothing can make the list current: then the last list.
    """

    JUDGED = "judged"
    CURRENT = "current"
    LAST_KNOWN = "last known"


_JUDGED: Final = Standing.JUDGED
_CURRENT: Final = Standing.CURRENT


@dataclass(frozen=True, slots=True)
class _Token:
    text: bytes

    async def holder(self, grants: AccessList) -> Grant | None:
        return grants.of_token(self.text) if len(self.text) <= TOKEN_CHARACTERS_MAX else None


@dataclass(frozen=True, slots=True)
class _Password:
    name: str
    password: bytes
    judge: PasswordJudge
    who: Asking

    async def holder(self, grants: AccessList) -> Grant | None:
        return await self.judge.holder(grants, self.name, self.password, self.who)


@dataclass(frozen=True, slots=True)
class _Key:
    spki_digest: bytes

    async def holder(self, grants: AccessList) -> Grant | None:
        return grants.of_key(self.spki_digest)


_Shown = _Token | _Password | _Key


class AccessGate:
    """Decides which callers may use which operation. One gate serves the whole API."""

    def __init__(self, service: Service, currency: Currency, passwords: PasswordJudge) -> None:
        self._service = service
        self._currency = currency
        self._passwords = passwords

    async def admit(
        self, scope: Mapping[str, Any], roles: tuple[AccessRole, ...], standing: Standing
    ) -> Grant:
        """Return the caller's grant, which now carries one of ``roles``, or any role if ``roles`` is empty.

        Raises:
            ProblemError: 401, 403, 429, 503.
            UnavailableError: there is no group.
        """
        fields: HeaderFields = scope[FIELDS]
        if AUTHORIZATION in fields.repeated:
            raise _refused("credentials-missing", "two Authorization header fields; send one")
        authorization = fields.authorization
        grants = self._service.grants()
        grant = _known_here(scope["extensions"], authorization, grants)
        if grant is not None and standing is _JUDGED and self._currency.ever:
            return self._require(grant, roles)
        if grant is None:
            grant = await self._identify(scope, authorization, grants)
        for told in scope["state"].get(VOUCHED, ()):
            told(grant.credential)
        if standing is not _CURRENT or not self._currency.is_within_lag():
            await self._stand(standing)
        latest = self._service.grants().of_credential(grant.credential)
        if latest is None:
            raise _refused(
                "credentials-unknown", "this credential was revoked", reason=f"{grant.kind.value}-unknown"
            )
        return self._require(latest, roles)

    async def require_current(self) -> None:
        """Return if the list is current enough for operations that the log does not judge again.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        await self._currency.within_lag()

    def require_still_current(self) -> None:
        """As ``require_current``, after the operation was answered: it may have waited for a long time.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        self._currency.still_within_lag()

    async def _stand(self, standing: Standing) -> None:
        currency = self._currency
        match standing:
            case Standing.JUDGED:
                await currency.once()
            case Standing.LAST_KNOWN if currency.ever and self._service.leaderless():
                pass
            case _:
                await currency.within_lag()

    async def _identify(
        self, scope: Mapping[str, Any], authorization: bytes | None, grants: AccessList
    ) -> Grant:
        shown = self._shown(scope, authorization)
        grant = await shown.holder(grants)
        if grant is None:
            # The grant may be newer than this list: the node refuses nobody by a list that may be old.
            await self._currency.now()
            latest = self._service.grants()
            grant = None if latest is grants else await shown.holder(latest)
        if grant is None:
            raise _unknown(shown)
        if authorization is not None:
            scope["extensions"][_SHOWN] = (authorization, grant.credential)
        return grant

    def _require(self, grant: Grant, roles: tuple[AccessRole, ...]) -> Grant:
        """Return the grant, as the list has it now, if it has not expired and carries one of the roles."""
        if grant.expires_ms is not None and grant.expired(self._service.now_ms()):
            raise _refused("credentials-unknown", f"{grant.name} has expired", reason="credential-expired")
        for role in roles:
            if grant.carries(role):
                return grant
        if not roles:
            return grant
        wanted = " or ".join(f"`{role.value}`" for role in roles)
        raise ProblemError(
            "role-missing",
            f"{grant.name} does not carry the role {wanted}",
            headers={
                "www-authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{roles[0].value}"'
            },
        )

    def _shown(self, scope: Mapping[str, Any], authorization: bytes | None) -> _Shown:
        if authorization is not None:
            scheme, _, parameter = authorization.partition(b" ")
            parameter = parameter.strip()
            if scheme.lower() == b"bearer" and parameter:
                return _Token(parameter)
            basic = basic_credentials(parameter) if scheme.lower() == b"basic" else None
            if basic is None:
                raise _refused(
                    "credentials-missing",
                    "the Authorization header field must be `Bearer TOKEN`, or `Basic` credentials",
                )
            return _Password(*basic, self._passwords, Asking.of(scope))
        certificate = scope["extensions"].get(CLIENT_CERTIFICATE)
        if certificate is None:
            raise _refused(
                "credentials-missing", "send `Authorization: Bearer TOKEN`, or use a client certificate"
            )
        try:
            return _Key(spki_digest(x509.load_der_x509_certificate(certificate)))
        except ValueError as exc:
            raise _refused(
                "credentials-unknown",
                "the client certificate cannot be read",
                reason="certificate-unknown",
            ) from exc


def _known_here(
    extensions: Mapping[str, Any], authorization: bytes | None, grants: AccessList
) -> Grant | None:
    """Return the grant of the connection's last credential, if this request shows it again.

    The grant must still be good. The credential is the same if the token is the same, or both the name and
    the password: then it is not verified a second time.
    """
    shown = extensions.get(_SHOWN)
    if shown is None or authorization is None or not hmac.compare_digest(shown[0], authorization):
        return None
    return grants.of_credential(shown[1])


def _unknown(shown: _Shown) -> ProblemError:
    match shown:
        case _Token():
            return _refused(
                "credentials-unknown", "this bearer token is not known here", reason="token-unknown"
            )
        case _Password():
            return _refused(
                "credentials-unknown", "there is no such name with this password", reason="user-unknown"
            )
        case _Key():
            return _refused(
                "credentials-unknown",
                "this client certificate is not known here",
                reason="certificate-unknown",
            )


def _refused(code: str, detail: str, *, reason: str | None = None) -> ProblemError:
    challenge = _CHALLENGE if reason is None else f'{_CHALLENGE}, error="invalid_token"'
    return ProblemError(
        code,
        detail,
        headers={"www-authenticate": challenge},
        extensions={} if reason is None else {"reason": reason},
    )
