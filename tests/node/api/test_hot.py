"""Commands and queries, which go past the router, are answered as the router would have them answered."""

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from node.api.app import create_app
from node.api.limits import ApiLimits
from node.api.operations import METHODS
from node.raft.types import AlreadyExecuted, Cursor, NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import FakeService, call

READ, WRITE, ADMIN = AccessRole.READ, AccessRole.WRITE, AccessRole.ADMIN
COMMANDS, QUERIES = "/v1/commands", "/v1/queries"
PUT = {"command": {"op": "put", "key": "k", "value": "v"}}
GET = {"query": {"op": "get", "key": "k"}}


def routed(endpoint):
    async def handler(request: Request) -> Response:
        answer = await endpoint(request.scope, request.receive)
        response = Response(answer.content, answer.status)
        response.raw_headers = answer.fields
        return response

    return handler


def apps(service):
    """Return an application, and one that serves the same endpoints through the router."""
    hot, slow = (create_app(service(), ApiLimits()) for _ in range(2))
    routes = [Route(path, routed(slow._hot[path]), methods=list(METHODS[path])) for path in slow._hot]
    slow._router = Router(routes=[*slow._router.routes, *routes], redirect_slashes=False)
    slow._hot = {}
    return hot, slow


REQUESTS = {
    "a command": ("POST", COMMANDS, ADMIN, {"json_body": PUT}),
    "two commands": ("POST", COMMANDS, WRITE, {"json_body": {"commands": [PUT["command"]] * 2}}),
    "a query": ("POST", QUERIES, READ, {"json_body": GET}),
    "a weak query": ("POST", QUERIES, READ, {"json_body": {**GET, "consistency": "weak", "max_age_ms": 9}}),
    "a refused query": ("POST", QUERIES, READ, {"json_body": {"query": {"op": "no"}}}),
    "a cursor": ("POST", QUERIES, READ, {"json_body": {**GET, "min_at": {"term": 1, "index": 2}}}),
    "no body": ("POST", QUERIES, READ, {}),
    "no JSON": ("POST", QUERIES, READ, {"body": b"{"}),
    "a body too large": ("POST", COMMANDS, WRITE, {"body": b"x" * (2 * 1024 * 1024)}),
    "another member": ("POST", QUERIES, READ, {"json_body": {**GET, "more": 1}}),
    "no credentials": ("POST", QUERIES, None, {"json_body": GET}),
    "the wrong role": ("POST", QUERIES, WRITE, {"json_body": GET}),
    "another role": ("POST", COMMANDS, READ, {"json_body": PUT}),
    "another cluster": (
        "POST",
        QUERIES,
        READ,
        {"json_body": GET, "headers": [("bondstone-cluster", "00" * 32 + "/0")]},
    ),
    "another method": ("GET", QUERIES, READ, {}),
    "a HEAD": ("HEAD", COMMANDS, READ, {}),
    "a longer path": ("POST", QUERIES + "/", READ, {"json_body": GET}),
    "a query string": ("POST", QUERIES + "?a=b", READ, {"json_body": GET}),
}
ENDINGS = {
    "done": lambda: FakeService(),
    "not executed": lambda: FakeService(end_with=NotExecuted("overloaded")),
    "unknown": lambda: FakeService(end_with=Unknown("deadline")),
    "executed before": lambda: FakeService(end_with=AlreadyExecuted(Cursor(1, 2), b"d" * 32, 9)),
    "not current": lambda: FakeService(current=False),
    "without a group": lambda: FakeService(group_key=None),
    "broken": lambda: FakeService(end_with=ZeroDivisionError("bug")),
}


@pytest.mark.parametrize("service", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_what_goes_past_the_router_is_answered_as_through_it(request_, service):
    method, path, role, more = request_
    answers = []
    for app in apps(service):
        reply = call(None, method, path, role=role, app=app, **more)
        assert reply.headers.pop("bondstone-request")
        answers.append((reply.status, list(reply.headers.items()), reply.body))

    assert answers[0] == answers[1]
