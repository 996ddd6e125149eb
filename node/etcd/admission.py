"""Who calls, and whether they may: once per call, for gRPC and the JSON gateway alike."""

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Protocol

from msgspec import structs

from node.api.access import Standing
from node.api.commands import idempotency_key
from node.api.header_fields import AUTHORIZATION, FIELDS, HeaderFields, read_header_fields
from node.api.problems import ProblemError
from node.api.service import UnavailableError
from node.etcd.errors import NO_LEADER, PERMISSION_DENIED, TOO_MANY_REQUESTS, Code, EtcdError
from node.etcd.services.call import Call
from node.etcd.table import Method
from node.group.errors import GroupClosedError
from node.system.grants import AccessRole, Grant

_TOKEN: Final = b"token"
_SCHEMES: Final = frozenset({b"bearer", b"basic"})
_KEY_DOMAIN: Final = "bondstone/etcd/idempotency-key/v1"
_BY_CODE: Final[dict[str, tuple[Code, str]]] = {
    "credentials-missing": (Code.INVALID_ARGUMENT, "etcdserver: user name is empty"),
    "credentials-unknown": (Code.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    "role-missing": PERMISSION_DENIED,
    "not-permitted": PERMISSION_DENIED,
    "overloaded": TOO_MANY_REQUESTS,
    "access-not-current": NO_LEADER,
    "not-executed": NO_LEADER,
    "not-ready": NO_LEADER,
}


class CallGate(Protocol):
    """``node.api.access.AccessGate``."""

    async def admit(
        self, scope: Mapping[str, Any], roles: tuple[AccessRole, ...], standing: Standing
    ) -> Grant: ...


class Allowance(Protocol):
    """``node.api.commands.HandOver``."""

    def timeout_s(self, scope: MutableMapping[str, Any], *, keyed: bool) -> float: ...


def fields_of_call(headers: list[tuple[bytes, bytes]]) -> HeaderFields:
    """Return what the fields of a call state: its token, bare or behind a scheme, in either of two fields."""
    fields = read_header_fields(headers)
    shown = fields.authorization or dict(headers).get(_TOKEN)
    if not shown:
        return fields
    scheme, space, _ = shown.partition(b" ")
    if not (space and scheme.lower() in _SCHEMES):
        shown = b"Bearer " + shown
    repeated = fields.repeated | {AUTHORIZATION} if _TOKEN in fields.repeated else fields.repeated
    return structs.replace(fields, authorization=shown, repeated=repeated)


def in_words_of_etcd(exc: Exception) -> EtcdError | None:
    """Return the refusal that a client of etcd understands; None: this is no refusal."""
    match exc:
        case EtcdError():
            return exc
        case ProblemError():
            known = _BY_CODE.get(exc.code)
            return (
                EtcdError(*known) if known else EtcdError(Code.INVALID_ARGUMENT, f"bondstone: {exc.detail}")
            )
        case UnavailableError():
            return EtcdError(Code.UNAVAILABLE, f"bondstone: {exc.message}")
        case GroupClosedError():
            return EtcdError(Code.UNAVAILABLE, "etcdserver: server stopped")
        case _:
            return None


class CallAdmission:
    """Makes a ``Call`` of what a client states.

    Args:
        gate: of the API.
        allowance: bounds how long a request with an idempotency key may take.
    """

    def __init__(self, gate: CallGate, allowance: Allowance) -> None:
        self._gate = gate
        self._allowance = allowance

    async def call(
        self,
        method: Method,
        scope: MutableMapping[str, Any],
        metadata: Mapping[str, str],
        deadline: float | None,
    ) -> Call:
        """Return the call of an authenticated client that may use this method.

        Args:
            method: one that asks for credentials.
            scope: with ``FIELDS``, ``extensions``, ``state`` and ``client``, as of an ASGI application.
            metadata: of the request.
            deadline: in the event loop's time.

        Raises:
            EtcdError: it may not.
            ProblemError, UnavailableError: it may not (``in_words_of_etcd``).
        """
        assert method.access is not None
        grant = await self._gate.admit(scope, method.access, method.standing)
        key = None
        if method.keyed and scope[FIELDS].idempotency_key is not None:
            key = idempotency_key(scope, grant, _KEY_DOMAIN)
            left_s = self._allowance.timeout_s(scope, keyed=True)
            until = asyncio.get_running_loop().time() + left_s
            deadline = until if deadline is None else min(deadline, until)
        return Call(grant=grant, deadline=deadline, metadata=metadata, idempotency_key=key)
