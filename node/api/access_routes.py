"""``/v1/access``: see and change who may call. Every change is an entry of the log, judged there again."""

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import Response

from attestation.encoding.canonical import digest
from node.api import schemas
from node.api.body import decode_untrusted, read_json_body
from node.api.commands import HandOver, idempotency_key
from node.api.limits import ApiLimits
from node.api.outcomes import not_executed, outcome_unknown, state_machine_refused
from node.api.passwords import PasswordJudge
from node.api.problems import ProblemError
from node.api.server import can_be_anchor
from node.api.service import Service
from node.group.errors import GroupClosedError
from node.machines.base import CommandError
from node.raft.types import Answer, Applied, Consistency, Failed, NotExecuted, Ok, Unknown
from node.system.forms import decode_grant_untrusted, encode_grant, roles_of
from node.system.grants import CredentialKind, Grant
from node.system.passwords import PASSWORD_BYTES_MAX, SALT_BYTES
from node.tokens import certificate_of_pem, spki_digest

_ENCODER: Final = msgspec.json.Encoder()
_KEY_DOMAIN: Final = "bondstone/access-idempotency-key/v1"
_BOOLEANS: Final = {None: False, "false": False, "true": True}
GrantedHandler = Callable[[Request, Grant], Awaitable[Response]]


class AccessRoutes:
    """The endpoints over one node. The gate has let every caller of these endpoints through."""

    def __init__(
        self, service: Service, limits: ApiLimits, hand_over: HandOver, passwords: PasswordJudge
    ) -> None:
        self._service = service
        self._limits = limits
        self._hand_over = hand_over
        self._passwords = passwords

    def handlers(self) -> dict[str, GrantedHandler]:
        """Return them by the names of their operations."""
        return {"access_list": self._list, "access_new": self._new, "access_revoke": self._revoke}

    # ---- list -----------------------------------------------------------------
    async def _list(self, request: Request, caller: Grant) -> Response:
        _parameters(request, set())
        outcome = await self._service.query(
            ["access-list"],
            credential=caller.credential,
            consistency=Consistency.STRONG,
            min_at=None,
            max_age_ms=None,
            timeout_s=self._limits.query_timeout_s,
            system=True,
        )
        match outcome:
            case Answer(Failed() as failed, at):
                raise state_machine_refused("query-failed", (failed,), at)
            case Answer(dict(value), at):
                now_ms = self._service.now_ms()
                listing = schemas.AccessListing(
                    access=[_shown(form, now_ms) for form in value["grants"]],
                    at=schemas.At(term=at.term, index=at.index),
                )
                return Response(_ENCODER.encode(listing), media_type="application/json")
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise ProblemError("query-timeout", "no answer in time; try again")
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of this query")

    # ---- changes --------------------------------------------------------------
    async def _new(self, request: Request, caller: Grant) -> Response:
        key = idempotency_key(request.scope, caller, _KEY_DOMAIN)
        body = await read_json_body(request.scope, request.receive, self._limits)
        grant = await self._grant_of(decode_untrusted(body, schemas.AccessRequest), key)
        return await self._change(request, caller, key, ["access-new", encode_grant(grant)])

    async def _revoke(self, request: Request, caller: Grant) -> Response:
        key = idempotency_key(request.scope, caller, _KEY_DOMAIN)
        given = _parameters(request, {"name", "credential", "force"})
        which: dict[str, Any] = {}
        match given.get("name"), given.get("credential"):
            case str(name), None:
                which["name"] = name
            case None, str(text) if len(text) == 64 and text.isalnum() and text.isascii():
                which["credential"] = _hex(text)
            case _:
                raise ProblemError(
                    "request-invalid", "give exactly one of the query parameters `name` and `credential`"
                )
        force = given.get("force")
        if force not in _BOOLEANS:
            raise ProblemError("request-invalid", "the query parameter `force` is true or false")
        which["force"] = _BOOLEANS[force]
        return await self._change(request, caller, key, ["access-revoke", which])

    async def _change(
        self, request: Request, caller: Grant, key: bytes | None, command: list[Any]
    ) -> Response:
        timeout_s = self._hand_over.timeout_s(request.scope, keyed=key is not None)
        try:
            outcome = await self._service.execute(
                (command,),
                credential=caller.credential,
                key=key,
                feed=False,
                timeout_s=timeout_s,
                system=True,
            )
        except GroupClosedError as exc:  # the command may be on its way through the peers
            raise outcome_unknown(Unknown("group-closed")) from exc
        match outcome:
            case Ok((Applied(dict(value)),), at):
                self._service.access_changed(
                    by=caller,
                    change=command[0],
                    credential=value["credential"],
                    name=value["name"],
                    at=at,
                )
                changed = schemas.AccessChanged(
                    term=at.term,
                    index=at.index,
                    name=value["name"],
                    credential=value["credential"].hex(),
                    admins=value["admins"],
                )
                return Response(_ENCODER.encode(changed), media_type="application/json")
            case Ok(results, at):
                raise state_machine_refused("access-refused", results, at)
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a change")

    async def _grant_of(self, asked: schemas.AccessRequest, key: bytes | None) -> Grant:
        """Return the requested grant as the log holds it. Of a password it holds the hash alone."""
        given = [name for name in ("token_sha256", "certificate_pem", "password") if _is_given(asked, name)]
        if len(given) != 1:
            raise ProblemError(
                "request-invalid", "give exactly one of `token_sha256`, `certificate_pem` and `password`"
            )
        shown: dict[str, Any]
        if not isinstance(asked.token_sha256, msgspec.UnsetType):
            shown = {"kind": CredentialKind.TOKEN, "credential": bytes.fromhex(asked.token_sha256)}
        elif not isinstance(asked.certificate_pem, msgspec.UnsetType):
            shown = _certificate(asked.certificate_pem)
        else:
            assert not isinstance(asked.password, msgspec.UnsetType)
            shown = await self._password(asked.name, asked.password, key)
        try:
            grant = Grant(
                name=asked.name,
                roles=roles_of(list(asked.roles)),
                prefixes=_prefixes(asked.prefixes),
                expires_ms=_milliseconds(asked.expires_at),
                **shown,
            )
            return decode_grant_untrusted(encode_grant(grant))  # refuses here what the log would refuse
        except CommandError as exc:
            raise ProblemError("request-invalid", exc.message) from exc

    async def _password(self, name: str, password: str, key: bytes | None) -> dict[str, Any]:
        if len(password.encode()) > PASSWORD_BYTES_MAX:
            raise ProblemError(
                "request-invalid", f"`password` has at most {PASSWORD_BYTES_MAX} bytes in UTF-8"
            )
        # A repeated request is the same command on whichever node, so it has the same salt.
        salt = secrets.token_bytes(SALT_BYTES)
        if key is not None:
            salt = digest("bondstone/access-salt/v1", key, name)[:SALT_BYTES]
        kept = await self._passwords.hashed(password.encode(), salt)
        return {"kind": CredentialKind.USER, "credential": kept.credential_of(name), "password": kept}


def _is_given(asked: schemas.AccessRequest, name: str) -> bool:
    return getattr(asked, name) is not msgspec.UNSET


def _certificate(pem: str) -> dict[str, Any]:
    try:
        certificate = certificate_of_pem(pem)
        credential, der = spki_digest(certificate), certificate.public_bytes(Encoding.DER)
    except ValueError as exc:
        raise ProblemError("request-invalid", "`certificate_pem` is not a PEM certificate") from exc
    if not can_be_anchor(der):
        raise ProblemError("request-invalid", "TLS cannot trust the certificate in `certificate_pem`")
    return {"kind": CredentialKind.CERTIFICATE, "credential": credential, "certificate": der}


def _prefixes(given: list[str] | msgspec.UnsetType) -> tuple[bytes, ...]:
    return () if isinstance(given, msgspec.UnsetType) else tuple(prefix.encode() for prefix in given)


def _milliseconds(moment: datetime | msgspec.UnsetType) -> int | None:
    return None if isinstance(moment, msgspec.UnsetType) else int(moment.timestamp() * 1000)


def _shown(form: dict[str, Any], now_ms: int) -> schemas.AccessGrant:
    prefixes, expires_ms = form.get("prefixes"), form.get("expires_ms")
    return schemas.AccessGrant(
        name=form["name"],
        kind=form["kind"],
        credential=form["credential"].hex(),
        roles=form["roles"],
        prefixes=None
        if prefixes is None
        else [prefix.decode(errors="backslashreplace") for prefix in prefixes],
        expires_at=None if expires_ms is None else datetime.fromtimestamp(expires_ms / 1000, UTC),
        expired=expires_ms is not None and now_ms >= expires_ms,
    )


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        raise ProblemError("request-invalid", "the query parameter `credential` is 64 hex digits") from exc


def _parameters(request: Request, known: set[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in given:
            raise ProblemError("request-invalid", f"unknown or repeated query parameter `{name[:64]}`")
        given[name] = value
    return given
