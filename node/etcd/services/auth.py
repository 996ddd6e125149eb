"""``etcdserverpb.Auth``: users, their passwords and rights are in the group's access list."""

import base64
from typing import NoReturn

from node.api.passwords import PasswordJudge
from node.api.problems import ProblemError
from node.api.service import UnavailableError
from node.api.turns import Asking
from node.etcd import auth_messages as m
from node.etcd.errors import AUTH_FAILED, AUTH_NOT_ENABLED, TOO_MANY_REQUESTS, Code, EtcdError
from node.etcd.messages import Message
from node.etcd.services.backend import Backend, require
from node.etcd.services.call import Call
from node.system.grants import AccessRole, CredentialKind


class AuthService:
    """See ``node.etcd.services``.

    Args:
        backend: of all services.
        passwords: judges passwords off the event loop, a few at a time.
    """

    def __init__(self, backend: Backend, passwords: PasswordJudge) -> None:
        self._backend = backend
        self._passwords = passwords

    async def authenticate(self, request: m.AuthenticateRequest, who: Asking) -> m.AuthenticateResponse:
        """Return the token of a user: ``Basic`` credentials (RFC 7617), which every member takes.

        It is as secret as the password, and good for as long as the password is.

        Args:
            request: of a client without other credentials.
            who: has asked.

        Raises:
            EtcdError: no user has this name and password, or there are no users, or too many ask.
        """
        try:
            grants = self._backend.service.grants()
        except UnavailableError as exc:
            raise EtcdError(Code.UNAVAILABLE, f"bondstone: {exc.message}") from exc
        if not any(grant.kind is CredentialKind.USER for grant in grants):
            raise EtcdError(*AUTH_NOT_ENABLED)
        try:
            grant = await self._passwords.holder(grants, request.name, request.password.encode(), who)
        except ProblemError as exc:
            raise EtcdError(*TOO_MANY_REQUESTS) from exc
        if grant is None:
            raise EtcdError(*AUTH_FAILED)
        shown = base64.b64encode(f"{request.name}:{request.password}".encode()).decode()
        return m.AuthenticateResponse(header=self._backend.head(), token=f"Basic {shown}")

    async def auth_status(self, request: m.AuthStatusRequest, call: Call) -> m.AuthStatusResponse:  # noqa: ARG002
        return m.AuthStatusResponse(header=self._backend.head(), enabled=True, authRevision=1)

    async def refuse(self, request: Message, call: Call) -> NoReturn:  # noqa: ARG002
        """Answer all other methods: users and roles are changed in the access list."""
        require(call, AccessRole.ADMIN)
        raise EtcdError(Code.UNIMPLEMENTED, "bondstone: users are configured in the access state")
