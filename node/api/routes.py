"""All endpoints but the hot ones (``node.api.hot``), on Starlette."""

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api import schemas, views
from node.api.access import AccessGate
from node.api.access_routes import AccessRoutes
from node.api.body import decode_untrusted, read_json_body
from node.api.evidence import NONCE_BYTES_MAX, NONCE_BYTES_MIN
from node.api.limits import AUDIT_EVENTS_MAX, INTEGER_MAX, ApiLimits
from node.api.membership import (
    member_named,
    node_schema,
    removable,
    removal_refused,
    stop_response,
    successor,
)
from node.api.metrics import ApiMetrics
from node.api.openapi import openapi_document
from node.api.operations import BY_NAME, PUBLIC, Operation
from node.api.outcomes import not_executed, outcome_unknown
from node.api.problems import ProblemError
from node.api.recovery import recovery_asked, recovery_refused, survivor_response
from node.api.service import ConfirmationRefusedError, ProvisionRefusedError, Service
from node.api.turns import Asking, CrowdedOutError, Turns
from node.errors import CorruptStorageError
from node.places import Usage
from node.raft.types import Applied, Failed, NotExecuted, Ok, Unknown
from node.system.grants import Grant

_ENCODER: Final = msgspec.json.Encoder()
AUDIT_EVENTS_DEFAULT: Final = 100
PROVISION_BYTES_MAX: Final = 4096
CONFIRM_BYTES_MAX: Final = 16 * 1024
Handler = Callable[[Request], Awaitable[Response]]
GrantedHandler = Callable[[Request, Grant], Awaitable[Response]]


class Routes:
    """The endpoints over one node."""

    def __init__(
        self,
        service: Service,
        gate: AccessGate,
        limits: ApiLimits,
        metrics: ApiMetrics,
        access: AccessRoutes,
    ) -> None:
        self._service = service
        self._gate = gate
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._openapi = _ENCODER.encode(openapi_document())
        self._evidence_turns = Turns(
            "api-evidence",
            limits.concurrent_evidence_max,
            waiting_max=limits.evidence_waiting_max,
            wait_s_max=limits.evidence_wait_s_max,
        )

    def usages(self) -> tuple[Usage, ...]:
        """Return how much of this object's pools is in use."""
        return (self._evidence_turns.usage,)

    def routes(self) -> list[Route]:
        """Return one route for each path, except for the hot ones."""
        handlers: dict[str, Handler] = {
            "health": self._health,
            "ready": self._ready,
            "metrics": self._metrics_text,
            "openapi": self._openapi_json,
            "group": self._group,
            "members": self._members,
            "safe_to_stop": self._safe_to_stop,
            "survivor": self._survivor,
            "bonds": self._bonds,
            "evidence": self._evidence,
            "peers": self._peers,
            "audit_events": self._audit_events,
            "audit_head": self._audit_head,
            "birth_certificate": self._birth_certificate,
            "confirm": self._confirm,
            "provision": self._provision,
        }
        by_path: dict[str, dict[str, Handler]] = {}
        for name, handler in handlers.items():
            operation = BY_NAME[name]
            by_path.setdefault(operation.path, {})[operation.method] = self._open(operation, handler)
        for name, granted_handler in self._access.handlers().items():
            operation = BY_NAME[name]
            guarded = self._guarded(operation, granted_handler)
            by_path.setdefault(operation.path, {})[operation.method] = guarded
        for name, handler_of_admin in (
            ("transfer", self._transfer),
            ("remove", self._remove),
            ("recover", self._recover),
        ):
            operation = BY_NAME[name]
            guarded = self._guarded(operation, handler_of_admin)
            by_path.setdefault(operation.path, {})[operation.method] = guarded
        # One route for each path, so that a 405 names every method of the path.
        return [Route(path, _by_method(methods), methods=list(methods)) for path, methods in by_path.items()]

    def _open(self, operation: Operation, handler: Handler) -> Handler:
        if operation.access == PUBLIC:
            return handler

        async def ignoring_grant(request: Request, _grant: Grant) -> Response:
            return await handler(request)

        return self._guarded(operation, ignoring_grant)

    def _guarded(self, operation: Operation, handler: GrantedHandler) -> Handler:
        async def guarded(request: Request) -> Response:
            grant = await self._gate.admit(request.scope, operation.roles, operation.standing)
            return await handler(request, grant)

        return guarded

    # ---- health ---------------------------------------------------------------
    async def _health(self, request: Request) -> Response:  # noqa: ARG002
        return _json(schemas.Health())

    async def _ready(self, request: Request) -> Response:  # noqa: ARG002
        readiness = self._service.readiness()
        if not readiness.ready:
            raise ProblemError("not-ready", readiness.message, extensions={"reason": readiness.reason})
        return _json(schemas.Ready(cluster=views.cluster_schema(self._service.cluster)))

    async def _metrics_text(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi_json(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._openapi, media_type="application/json")

    # ---- group ----------------------------------------------------------------
    async def _group(self, request: Request) -> Response:  # noqa: ARG002
        return _json(views.group_response(self._service.group(), mock=self._service.mock))

    async def _members(self, request: Request) -> Response:  # noqa: ARG002
        return _json(views.members_response(self._service.group(), self._service.bonds()))

    async def _safe_to_stop(self, request: Request) -> Response:
        _refuse_unknown_parameters(request, {"member"})
        view = self._service.group()
        text = request.query_params.get("member")
        member = view.status.me if text is None else member_named(view, text)
        return _json(stop_response(view, member))

    async def _transfer(self, request: Request, caller: Grant) -> Response:
        body = await read_json_body(request.scope, request.receive, self._limits)
        asked = decode_untrusted(body, schemas.TransferRequest)
        view = self._service.group()
        target = successor(view, asked)
        if target == view.status.me:
            return _json(schemas.Transferred(leader=node_schema(target)))
        outcome = await self._service.transfer_leadership(target, by=caller)
        match outcome:
            case Ok():
                return _json(schemas.Transferred(leader=node_schema(target)))
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a transfer")

    async def _remove(self, request: Request, caller: Grant) -> Response:
        _refuse_unknown_parameters(request, {"member"})
        view = self._service.group()
        member = removable(view, request.query_params.get("member", ""))
        outcome = await self._service.remove_member(
            member, by=caller, timeout_s=self._limits.command_timeout_s
        )
        match outcome:
            case Ok():
                return _json(schemas.Removed(member=node_schema(member)))
            case NotExecuted():
                raise removal_refused(outcome, view, member)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a removal")

    async def _survivor(self, request: Request) -> Response:  # noqa: ARG002
        return _json(survivor_response(self._service.group(), self._service.survivor()))

    async def _recover(self, request: Request, caller: Grant) -> Response:
        body = await read_json_body(request.scope, request.receive, self._limits)
        asked = decode_untrusted(body, schemas.RecoveryRequest)
        position, approval = recovery_asked(asked)
        outcome = await self._service.recover(
            position, approval, by=caller, timeout_s=self._limits.command_timeout_s
        )
        match outcome:
            case Ok():
                cluster = views.cluster_schema(self._service.cluster)
                return _json(schemas.Recovered(cluster=cluster, index=outcome.at.index))
            case NotExecuted():
                raise recovery_refused(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of a recovery")

    async def _bonds(self, request: Request) -> Response:  # noqa: ARG002
        return _json(views.bonds_response(self._service.bonds(), mock=self._service.mock))

    # ---- attestation ------------------------------------------------------------
    async def _evidence(self, request: Request) -> Response:
        nonce = _nonce_of(request)
        who = Asking.of(request.scope)
        try:
            async with self._evidence_turns.turn(who.share, known=who.known):
                evidence = await self._service.evidence(nonce)
        except CrowdedOutError as exc:
            raise ProblemError("evidence-busy", f"the node could not make a quote: {exc}; try again") from exc
        return _json(
            schemas.OwnEvidence(
                mock=self._service.mock,
                nonce=nonce.hex(),
                peer_id=evidence.peer_id.hex(),
                network_id=evidence.network_id.hex(),
                group_id=None if evidence.group_id is None else evidence.group_id.hex(),
                cluster=views.cluster_schema(evidence.cluster),
                binding=evidence.binding.hex(),
                tickets=views.tickets_in_base64(evidence.tickets),
                birth_certificate=views.base64_of(evidence.birth_certificate),
                group_ca=views.base64_of(evidence.group_ca),
            )
        )

    async def _peers(self, request: Request) -> Response:  # noqa: ARG002
        return _json(views.peers_response(self._service.bonds(), mock=self._service.mock))

    # ---- audit ----------------------------------------------------------------
    async def _audit_events(self, request: Request) -> Response:
        _refuse_unknown_parameters(request, {"after", "limit"})
        after = _integer_of(request, "after", default=0, low=0, high=INTEGER_MAX)
        limit = _integer_of(request, "limit", default=AUDIT_EVENTS_DEFAULT, low=1, high=AUDIT_EVENTS_MAX)
        try:
            events = self._service.audit_events(after=after, limit=limit)
        except CorruptStorageError as exc:
            raise ProblemError("audit-chain-broken", str(exc)) from exc
        return _json(schemas.AuditEvents(events=events))

    async def _audit_head(self, request: Request) -> Response:  # noqa: ARG002
        return _json(self._service.audit_head())

    # ---- the birth certificate ----------------------------------------------------
    async def _birth_certificate(self, request: Request) -> Response:  # noqa: ARG002
        return _json(_certificate_answer(self._service.birth_certificate()))

    async def _confirm(self, request: Request) -> Response:
        # Any client may call this operation: a certificate needs no more room than this.
        limits = replace(self._limits, body_bytes_max=CONFIRM_BYTES_MAX)
        body = await read_json_body(request.scope, request.receive, limits)
        offered = decode_untrusted(body, schemas.ConfirmRequest)
        try:
            certificate = base64.b64decode(offered.birth_certificate, validate=True)
        except ValueError as exc:
            raise ProblemError("request-invalid", "`birth_certificate` is not base64") from exc
        try:
            outcome = await self._service.confirm(certificate, timeout_s=self._limits.command_timeout_s)
        except ConfirmationRefusedError as exc:
            extensions = {"reason": exc.reason}
            raise ProblemError("birth-certificate-refused", exc.message, extensions=extensions) from exc
        match outcome:
            case None | Ok((Applied(),)):
                return _json(_certificate_answer(certificate))
            case Ok((Failed(code, message),)):  # another one was written first
                raise ProblemError("birth-certificate-refused", message, extensions={"reason": code})
            case NotExecuted():
                raise not_executed(outcome)
            case Unknown():
                raise outcome_unknown(outcome)
            case _:
                raise AssertionError(f"{outcome!r} is not an outcome of one command")

    # ---- provisioning -------------------------------------------------------------
    async def _provision(self, request: Request) -> Response:
        # Any client may call this operation: a key needs no more room than this.
        limits = replace(self._limits, body_bytes_max=PROVISION_BYTES_MAX)
        body = await read_json_body(request.scope, request.receive, limits)
        offered = decode_untrusted(body, schemas.ProvisionRequest)
        try:
            group_id = await self._service.provision(bytes.fromhex(offered.group_key))
        except ProvisionRefusedError as exc:
            raise ProblemError("provision-refused", exc.message, extensions={"reason": exc.reason}) from exc
        return _json(schemas.Provisioned(group_id=group_id.hex()))


def _certificate_answer(certificate: bytes | None) -> schemas.BirthCertificate:
    return schemas.BirthCertificate(birth_certificate=views.base64_of(certificate))


def _by_method(handlers: Mapping[str, Handler]) -> Handler:
    async def dispatched(request: Request) -> Response:
        # Starlette lets a HEAD through where there is a GET.
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return dispatched


def _json(value: Any) -> Response:
    return Response(_ENCODER.encode(value), media_type="application/json")


def _nonce_of(request: Request) -> bytes:
    _refuse_unknown_parameters(request, {"nonce"})
    text = request.query_params.get("nonce", "")
    try:
        nonce = bytes.fromhex(text) if text.isalnum() else b""
    except ValueError:
        nonce = b""
    if not NONCE_BYTES_MIN <= len(nonce) <= NONCE_BYTES_MAX:
        raise ProblemError(
            "request-invalid",
            f"the query parameter `nonce` has {NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} random bytes, hex",
        )
    return nonce


def _integer_of(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise ProblemError("request-invalid", f"the query parameter `{name}` is from {low} to {high}")
    return int(text)


def _refuse_unknown_parameters(request: Request, known: set[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise ProblemError("request-invalid", f"unknown or repeated query parameter `{name[:64]}`")
