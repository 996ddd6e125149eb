"""The ASGI application: the hot path first, then Starlette; every error a problem document."""

import logging
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from node.api.access import VOUCHED, AccessGate
from node.api.access_routes import AccessRoutes
from node.api.answer import WholeSend
from node.api.body import ClientGoneError
from node.api.cluster_field import ClusterField
from node.api.commands import CommandsEndpoint, HandOver
from node.api.currency import Currency
from node.api.freshness import boot_time_s
from node.api.header_fields import CLUSTER, FIELDS, read_header_fields
from node.api.hot import HotAnswer, HotEndpoint
from node.api.kv import KvEndpoint
from node.api.limits import ApiLimits
from node.api.metrics import ApiMetrics
from node.api.operations import BY_NAME, KV_KEY_PATH, METHODS, path_of
from node.api.passwords import PasswordJudge
from node.api.problems import ProblemError
from node.api.queries import QueriesEndpoint
from node.api.routes import Routes
from node.api.service import Service, UnavailableError
from node.api.turns import CALLER
from node.api.views import is_ill, quorum_schema
from node.group.errors import GroupClosedError
from node.places import Room, Usage
from node.raft.outlook import describe

logger = logging.getLogger(__name__)

# These problems may have one common cause: there is no quorum.
_FOR_WANT_OF_A_QUORUM: Final = frozenset(
    {"access-not-current", "not-executed", "not-ready", "outcome-unknown", "query-timeout"}
)
# Every answer carries the id. The node's log names it when a request fails.
REQUEST_FIELD: Final = b"bondstone-request"
_COMMANDS: Final = BY_NAME["commands"].path
_HEALTH: Final = BY_NAME["health"].path
_ATTESTATION: Final = "/v1/attestation/"


class Api:
    """One node's HTTP API as an ASGI application.

    Attributes:
        gate, hand_over: for what is served beside this application.
    """

    def __init__(
        self,
        service: Service,
        limits: ApiLimits,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float],
        age_clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._limits = limits
        self._clock = clock
        self._metrics = ApiMetrics(service, registry)
        passwords = PasswordJudge()
        gate = self.gate = AccessGate(service, Currency(service, limits.access_lag_s, age_clock), passwords)
        hand_over = self.hand_over = HandOver(limits, age_clock)
        self._hot: dict[str, HotEndpoint] = {
            _COMMANDS: CommandsEndpoint(service, gate, limits, hand_over),
            BY_NAME["queries"].path: QueriesEndpoint(service, gate, limits),
        }
        kv = KvEndpoint(service, gate, limits, hand_over)
        self._hot |= {BY_NAME["kv_range"].path: kv, KV_KEY_PATH: kv}
        access = AccessRoutes(service, limits, hand_over, passwords)
        routes = Routes(service, gate, limits, self._metrics, access)
        # The router alone: Starlette's own error middleware would answer before ``__call__`` can.
        self._router = Router(routes=routes.routes(), redirect_slashes=False)
        self._requests = Room("api-requests", limits.concurrent_requests_max)
        self._routes, self._passwords = routes, passwords
        self._cluster = ClusterField(service)
        self._life = secrets.token_hex(4).encode()
        self._asked = 0

    def usages(self) -> tuple[Usage, ...]:
        """Return how much of this object's pools is in use."""
        return (self._requests.usage, *self._routes.usages(), self._passwords.usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        scope["app"] = self  # asks the router to raise its 404 and 405 instead of answering in plain text
        self._asked += 1
        # The id finds one request in the log: an id of this life of the node, and a number.
        answer = _Answer(send, self._cluster, b"%b-%d" % (self._life, self._asked))
        try:
            await self._dispatch(scope, receive, answer)
        except ClientGoneError:
            return
        except ProblemError as exc:
            await self._problem(scope, answer, exc)
        except UnavailableError as exc:
            problem = ProblemError("not-ready", exc.message, extensions={"reason": exc.reason})
            await self._problem(scope, answer, problem)
        except GroupClosedError as exc:
            problem = ProblemError("not-ready", str(exc), extensions={"reason": "group-closed"})
            await self._problem(scope, answer, problem)
        except HTTPException as exc:
            await self._problem(scope, answer, _of_router(scope, exc))
        except Exception:
            logger.exception("%s %s failed, request %s", scope["method"], scope["path"], answer.id.decode())
            await self._problem(scope, answer, ProblemError("internal-error", "this is a bug of the node"))
        self._metrics.request_answered(scope["path"], answer.status)

    async def _dispatch(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        path = scope["path"]
        if path == _HEALTH:  # answered even when the node is busy
            await self._router(scope, receive, answer)
            return
        _require_method(scope)
        fields = scope.get(FIELDS)  # from the last request on this connection, if it had the same head
        if fields is None:
            fields = scope[FIELDS] = read_header_fields(scope["headers"])
        if fields.cluster is not None:
            self._cluster.require(fields.cluster, repeated=CLUSTER in fields.repeated)
        requests, caller = self._requests, scope["extensions"].get(CALLER)
        if not requests.take(1, caller):
            raise _too_many(requests.taken)

        def vouched(credential: bytes) -> None:
            nonlocal caller
            if not requests.move(1, caller, credential):
                raise _too_many(requests.taken)
            caller = credential

        scope["state"].setdefault(VOUCHED, []).append(vouched)
        try:
            hot = self._hot.get(path_of(path))
            if hot is None:
                await self._router(scope, receive, answer)
                return
            start = self._clock()
            await answer.whole(await hot(scope, receive))
            if path == _COMMANDS:
                self._metrics.command_took(self._clock() - start)
        finally:
            requests.give_back(1, caller)

    async def _problem(self, scope: Scope, answer: "_Answer", problem: ProblemError) -> None:
        if answer.status:  # too late for another answer; the server closes the connection
            raise problem
        if scope["path"].startswith(_ATTESTATION):
            problem.extensions["mock"] = self._service.mock
        if problem.code in _FOR_WANT_OF_A_QUORUM:
            self._name_the_missing(problem)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.info("answered %s: request %s, %s", problem.code, answer.id.decode(), problem.detail)
        content = problem.body()
        headers = [*problem.raw_headers(), (b"content-length", b"%d" % len(content))]
        await answer({"type": "http.response.start", "status": problem.status, "headers": headers})
        await answer({"type": "http.response.body", "body": content})

    def _name_the_missing(self, problem: ProblemError) -> None:
        """Add which members are missing and whether waiting can help, if a lost quorum ended this request."""
        try:
            outlook = self._service.group().outlook
        except UnavailableError:
            return
        if is_ill(outlook):
            problem.extensions["quorum"] = msgspec.to_builtins(quorum_schema(outlook))
            if problem.detail != (text := describe(outlook)):
                problem.detail += f"; {text}"


class _Answer:
    """ASGI's ``send``: adds the cluster and the request's id, keeps the status that was sent (0: none)."""

    __slots__ = ("_cluster", "_send", "id", "status")

    def __init__(self, send: Send, cluster: ClusterField, request_id: bytes) -> None:
        self._send = send
        self._cluster = cluster
        self.id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._cluster.fields(), (REQUEST_FIELD, self.id)]
        await self._send(message)

    async def whole(self, answer: HotAnswer) -> None:
        """Send an answer."""
        self.status = answer.status
        fields = [*answer.fields, *self._cluster.fields(), (REQUEST_FIELD, self.id)]
        if isinstance(self._send, WholeSend):
            await self._send.whole(answer.status, fields, answer.content)
            return
        await self._send({"type": "http.response.start", "status": answer.status, "headers": fields})
        await self._send({"type": "http.response.body", "body": answer.content})


def _require_method(scope: Scope) -> None:
    """Refuse a method that the path does not have, before all other checks. A path with GET has HEAD."""
    methods = METHODS.get(path_of(scope["path"]))
    if methods is None or scope["method"] in methods:
        return
    if scope["method"] != "HEAD" or "GET" not in methods:
        raise _no_method(scope)


def _no_method(scope: Scope) -> ProblemError:
    allowed = ", ".join(sorted(METHODS[path_of(scope["path"])]))
    return ProblemError(
        "method-not-allowed",
        f"{scope['method']} is not supported at {scope['path']}",
        headers={"allow": allowed},
    )


def _too_many(count: int) -> ProblemError:
    detail = f"{count} requests are being served, and there is no place for another"
    return ProblemError("overloaded", detail, headers={"connection": "close"})


def _of_router(scope: Scope, exc: HTTPException) -> ProblemError:
    if exc.status_code == 405:
        return _no_method(scope)
    return ProblemError("not-found", "/openapi.json lists all paths")


def create_app(
    service: Service,
    limits: ApiLimits,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.perf_counter,
    age_clock: Callable[[], float] = boot_time_s,
) -> Api:
    """Return the ASGI application over ``service``.

    Args:
        service: the node.
        limits: bounds on all that arrives from outside.
        registry: where further metrics of the process are registered, if any.
        clock: seconds, for latencies only.
        age_clock: the clock by which the server bounds a request's age (``node.api.freshness``).
    """
    return Api(service, limits, registry or CollectorRegistry(), clock=clock, age_clock=age_clock)
