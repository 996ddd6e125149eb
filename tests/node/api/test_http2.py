"""HTTP/2 on the API's port: the same answers, and the same limits, as over HTTP/1.1."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading

import h2.events
import httpx
import pytest

from node.api import app
from node.api.by_alpn import OFFERED
from node.api.limits import ApiLimits
from node.api.operations import OPERATIONS
from node.client.channel import client_tls_context
from node.http2.errors import ErrorCode
from node.http2.frames import END_STREAM, PAYLOAD_BYTES_MAX, Kind, frame_of
from node.places import Room
from node.raft.types import Applied, Cursor, Ok
from node.tokens import AccessRole
from tests.node.api.calls import CALLS
from tests.node.api.fakes import TOKENS, FakeService, served, write_ca
from tests.node.api.raw import AUTHORIZATION, PEM, PUT, connection, problem_in, read_all
from tests.node.api.raw_http2 import COMMAND, head, http2
from tests.node.api.test_server import CLIENT, context_of, hold, pinning, until

BODY = json.dumps(PUT).encode()
SHORT = {"shutdown_timeout_s": 1}


# ---- which version ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)],
)
def test_a_client_that_can_gets_http_2_and_one_without_alpn_http_1_1(offered, chosen, loop):
    context = client_tls_context(PEM)
    if offered:
        context.set_alpn_protocols(offered)
    with served(FakeService()) as port, connection(port, context) as tls:
        assert tls.selected_alpn_protocol() == chosen
        if chosen != "h2":
            tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert read_all(tls).startswith(b"HTTP/1.1 200 ")
    assert OFFERED == ("h2", "http/1.1")


def test_http_1_1_where_http_2_was_agreed_on_is_refused():
    with served(FakeService()) as port, http2(port) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3)

        assert wire.end() == "frame-too-large"


# ---- the same answers ------------------------------------------------------------------------------
def answer_of(version, operation, *, credentials, monkeypatch, **more):
    """One answer of a fresh node: status, fields in order, body."""
    monkeypatch.setattr(app.secrets, "token_hex", lambda _: "0a0b0c0d")
    made = CALLS[operation.name]
    awaiting = operation.name == "provision"
    service = FakeService(group_key=None if awaiting else b"k" * 32)
    service.hold(made.holds)
    headers = {**(AUTHORIZATION if credentials else {}), **more.pop("headers", {})}
    method = more.pop("method", operation.method)
    content = None if made.body is None else json.dumps(made.body).encode()
    if content is not None:
        headers.setdefault("content-type", "application/json")
    with (
        served(service) as port,
        httpx.Client(
            http1=version == 1,
            http2=version == 2,
            verify=client_tls_context(PEM),
            trust_env=False,
            timeout=20,
        ) as http,
    ):
        reply = http.request(
            method, f"https://localhost:{port}{operation.path}{made.query}", content=content, headers=headers
        )
    assert reply.http_version == {1: "HTTP/1.1", 2: "HTTP/2"}[version]
    fields = [(name, value) for name, value in reply.headers.raw if name.lower() != b"date"]
    return reply.status_code, fields, reply.content


def both(operation, monkeypatch, **more):
    one = answer_of(1, operation, monkeypatch=monkeypatch, **more)
    two = answer_of(2, operation, monkeypatch=monkeypatch, **more)
    return one, two


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_answers_alike_byte_for_byte_over_both_versions(operation, monkeypatch):
    one, two = both(operation, monkeypatch, credentials=True)

    assert one[0] in {200, 201, 204}
    if operation.name == "metrics":  # the process's own seconds and bytes differ
        names = [[line.partition(b" ")[0] for line in each[2].splitlines()] for each in (one, two)]
        assert names[0] == names[1]
    else:
        assert one == two


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_refuses_alike_over_both_versions(operation, monkeypatch):
    cluster = {"bondstone-cluster": "ab" * 32 + "/0"}
    for more in (
        {"credentials": False},
        {"credentials": True, "headers": cluster},
        {"credentials": True, "method": "PATCH"},
    ):
        one, two = both(operation, monkeypatch, **more)
        if operation.name != "metrics" or one[0] != 200:
            assert one == two


@pytest.mark.parametrize("path", ["/v1/nothing", "/%2e%2e/x?y=%20", "/v1/group?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_other_paths_and_methods_answer_alike(path, method, monkeypatch):
    monkeypatch.setattr(app.secrets, "token_hex", lambda _: "0a0b0c0d")
    replies = []
    for two in (False, True):
        with (
            served(FakeService()) as port,
            httpx.Client(http1=not two, http2=two, verify=client_tls_context(PEM)) as http,
        ):
            reply = http.request(method, f"https://localhost:{port}{path}", headers=AUTHORIZATION)
            fields = [field for field in reply.headers.raw if field[0].lower() != b"date"]
            replies.append((reply.status_code, fields, reply.content))

    assert replies[0] == replies[1]


def test_what_closes_the_connection_over_http_1_1_takes_no_further_request_over_http_2():
    with served(FakeService()) as port, http2(port) as wire:
        fields = head("POST", "/v1/commands", ("content-type", "text/plain"), role=AccessRole.WRITE)
        stream = wire.ask(fields, b"{}")

        assert wire.problem(stream) == (415, "media-type-unsupported")
        (reply,) = wire.of(h2.events.ResponseReceived)
        assert b"connection" not in dict(reply.headers)
        assert wire.end() == "closing"


def test_a_head_request_has_the_length_and_no_body():
    with served(FakeService()) as port, http2(port) as wire:
        stream = wire.ask(head("HEAD", "/healthz"))

        assert wire.answer(stream) == (200, b"")
        (reply,) = wire.of(h2.events.ResponseReceived)
        assert dict(reply.headers)[b"content-length"] == b"15"


def test_curl_takes_http_2_by_itself_and_sends_a_body_of_megabytes(tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = json.dumps({"command": {"op": "put", "key": "a", "value": "x" * 1_500_000}})
    (tmp_path / "body").write_text(body)
    token = f"Authorization: Bearer {TOKENS[AccessRole.ADMIN]}"
    with served(FakeService()) as port:
        url = f"https://localhost:{port}/v1/"
        common = [
            curl,
            "-s",
            "--cacert",
            str(write_ca(tmp_path)),
            "-H",
            token,
            "-w",
            " %{http_version} %{http_code}",
        ]
        put = subprocess.run(
            [*common, "-H", "content-type: application/json", "--data-binary", f"@{tmp_path / 'body'}", url + "commands"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        query = json.dumps({"query": {"op": "get", "key": "a"}})
        got = subprocess.run(
            [*common, "-H", "content-type: application/json", "-d", query, url + "queries"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert put.endswith(" 2 200")
    assert got.endswith(" 2 200")
    assert "x" * 1_500_000 in got


def test_hundreds_of_commands_at_once_share_one_connection():
    service = FakeService()

    async def main(port):
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            http1=False, http2=True, verify=client_tls_context(PEM), limits=limits, timeout=30
        ) as http:
            url = f"https://localhost:{port}/v1/commands"
            return await asyncio.gather(
                *(http.post(url, json=PUT, headers=AUTHORIZATION) for _ in range(300))
            )

    with served(service) as port:
        replies = asyncio.run(main(port))
    assert {(reply.status_code, reply.http_version) for reply in replies} == {(200, "HTTP/2")}
    assert len(service.executed) == 300
    assert sorted(reply.json()["index"] for reply in replies) == list(range(1, 301))


def test_a_pinned_certificate_is_as_good_over_http_2(tmp_path):
    context = context_of(CLIENT, tmp_path)
    context.set_alpn_protocols(["h2"])
    with served(pinning()) as port, http2(port, context=context) as wire:
        assert wire.answer(wire.ask(head("GET", "/v1/group")))[0] == 200
        assert wire.problem(wire.ask(head("GET", "/v1/audit/head"))) == (403, "role-missing")


# ---- what is no request ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (head("GET", "/healthz", ("connection", "close")), (400, "http-invalid")),
        (head("GET", "/healthz", ("Upper", "x")), (400, "http-invalid")),
        (head("GET", "/healthz", ("x", "a\r\nb")), (400, "http-invalid")),
        (head("GET", "/healthz", ("host", "elsewhere")), (400, "http-invalid")),
        (head("CONNECT", "/healthz"), (400, "http-invalid")),
        (head("GET", "/healthz", *[("x", "y")] * 101), (431, "head-too-large")),
        (head("GET", "/healthz", *[("x", "y" * 4000)] * 9), (431, "head-too-large")),
    ],
)
def test_what_is_no_request_gets_the_problem_that_http_1_1_gives(fields, answer):
    with served(FakeService()) as port, http2(port) as wire:
        wire.h2.config.normalize_outbound_headers = False
        assert wire.problem(wire.ask(fields)) == answer


def test_a_body_of_another_length_than_declared_is_never_executed():
    service = FakeService()
    with served(service) as port, http2(port) as wire:
        stream = wire.ask([*COMMAND, ("content-length", str(len(BODY) + 1))], ends=False)
        wire.send(frame_of(Kind.DATA, END_STREAM, stream, BODY))

        assert wire.problem(stream) == (400, "http-invalid")
    assert service.executed == []


# ---- bodies -------------------------------------------------------------------------------------------
def send_much(wire, stream, size):
    """Send a body as far as the server gives window, and read what it sends meanwhile."""
    ends = (h2.events.StreamEnded, h2.events.StreamReset)
    left = size
    while left and not wire.closed and not wire.of(ends, stream):
        room = min(wire.h2.local_flow_control_window(stream), PAYLOAD_BYTES_MAX, left)
        if room == 0:
            wire.read()
            continue
        wire.h2.send_data(stream, b"x" * room, end_stream=room == left)
        wire.flush()
        left -= room


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_ten_megabytes_gets_413_and_the_node_stays_well(declared):
    with served(FakeService()) as port, http2(port) as wire:
        length = [("content-length", str(10 * 2**20))] if declared else []
        stream = wire.ask([*COMMAND, *length], ends=False)
        send_much(wire, stream, 10 * 2**20)

        assert wire.problem(stream) == (413, "body-too-large")
        with http2(port) as another:
            assert another.answer(another.ask(COMMAND, BODY))[0] == 200


def overfill():
    """Two connections with bodies that are larger together than the room for all; return the second's answer."""
    limits = ApiLimits(body_bytes_max=2**18, bodies_bytes_max=2**18, body_timeout_s=1, **SHORT)
    service = FakeService(gate=asyncio.Event())
    large = json.dumps({"command": {"op": "put", "key": "a", "value": "x" * 60_000}}).encode()
    with served(service, limits=limits) as port, http2(port) as one, http2(port) as other:
        held = one.ask(COMMAND, large)
        until(lambda: service.waiting == 1)
        stream = other.ask(COMMAND, b"y" * 60_000, ends=False)
        send_much(other, stream, 170_000)
        answer = other.problem(stream)
        service.open_gate()
        assert one.answer(held)[0] == 200
    return answer


def test_bodies_take_from_the_room_that_all_connections_share():
    assert overfill() == (503, "overloaded")


def test_without_that_room_each_connection_could_hold_as_much_as_all(monkeypatch):
    monkeypatch.setattr(Room, "take", lambda self, amount, caller: True)
    monkeypatch.setattr(Room, "give_back", lambda self, amount, caller: None)

    assert overfill() == (400, "json-invalid")


def test_a_body_that_does_not_come_ends_in_408():
    limits = ApiLimits(body_timeout_s=0.2, **SHORT)
    with served(FakeService(), limits=limits) as port, http2(port) as wire:
        stream = wire.ask(COMMAND, b"{", ends=False)

        assert wire.problem(stream) == (408, "request-timeout")
        assert wire.answer(wire.ask(head("GET", "/healthz")))[0] == 200


def test_a_client_that_waits_for_leave_gets_it_when_its_body_is_wanted():
    with served(FakeService()) as port, http2(port) as wire:
        stream = wire.ask([*COMMAND, ("expect", "100-continue")], ends=False)
        wire.until(lambda: wire.of(h2.events.InformationalResponseReceived))
        wire.h2.send_data(stream, BODY, end_stream=True)
        wire.flush()
        assert wire.answer(stream)[0] == 200
        refused = wire.ask([*COMMAND, ("expect", "100-continue"), ("content-length", "10000000")], ends=False)
        assert wire.problem(refused) == (413, "body-too-large")

    assert len(wire.of(h2.events.InformationalResponseReceived)) == 1


def test_after_its_body_a_handler_receives_nothing_but_the_end():
    """As ASGI has it: a handler that asks again waits for the client to go away."""

    async def asks_again(scope, receive, send):
        first = await receive()
        second = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert not second.done()
        content = first["body"]
        fields = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        second.cancel()
        await send({"type": "http.response.body", "body": content})

    with served(FakeService()) as port, pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.Api, "__call__", lambda self, *arguments: asks_again(*arguments))
        with http2(port) as wire:
            assert wire.answer(wire.ask(COMMAND, BODY)) == (200, BODY)


@pytest.mark.parametrize(
    ("size", "more", "answer"),
    [
        (3_000_000, [], " 2 401"),
        (9_000_000, [f"authorization: Bearer {TOKENS[AccessRole.ADMIN]}"], " 2 413"),
    ],
)
def test_curl_gets_the_refusal_of_a_body_that_it_has_not_sent_yet(size, more, answer, tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = tmp_path / "body"
    body.write_bytes(b"x" * size)
    fields = [part for line in ("content-type: application/json", *more) for part in ("-H", line)]
    with served(FakeService()) as port:
        out = subprocess.run(
            [curl, "-s", "--cacert", str(write_ca(tmp_path)), *fields, "--data-binary", f"@{body}",
             "-w", " %{http_version} %{http_code}", f"https://localhost:{port}/v1/commands"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert out.endswith(answer)


# ---- resets, places, requests -----------------------------------------------------------------------------
def test_rapid_reset_keeps_no_more_handlers_busy_than_one_connection_may_have():
    service = FakeService(gate=asyncio.Event())
    with served(service) as port, http2(port) as wire:
        streams = [wire.ask(COMMAND, BODY) for _ in range(100)]
        until(lambda: service.waiting == 100)
        for stream in streams:
            wire.h2.reset_stream(stream)
        wire.flush()
        for _ in range(20):
            assert wire.answer(wire.ask(COMMAND, BODY)) is None
        assert service.waiting == 100
        service.open_gate()
        with http2(port) as another:
            assert another.answer(another.ask(COMMAND, BODY))[0] == 200
    codes = {event.error_code for event in wire.of(h2.events.StreamReset)}
    assert codes == {ErrorCode.REFUSED_STREAM}
    assert len(service.executed) == 101  # what was given to the group goes on, as over HTTP/1.1


def test_a_request_that_is_taken_back_before_its_body_is_whole_is_not_executed():
    service = FakeService()
    with served(service) as port, http2(port) as wire:
        stream = wire.ask(COMMAND, BODY[:-1], ends=False)
        wire.h2.reset_stream(stream)
        wire.flush()

        assert wire.answer(wire.ask(COMMAND, BODY))[0] == 200
    assert len(service.executed) == 1


def test_connections_of_both_versions_share_their_places():
    """As over HTTP/1.1: a crowd from one address crowds out itself."""
    limits = ApiLimits(connections_max=16, **SHORT)
    with served(FakeService(), limits=limits) as port, contextlib.ExitStack() as stack:
        admin = stack.enter_context(http2(port, address="127.0.0.4"))
        group = head("GET", "/v1/group", role=AccessRole.ADMIN)
        assert admin.answer(admin.ask(group))[0] == 200
        (first,) = hold(stack, port, "127.0.0.3", 1)
        crowd = [stack.enter_context(http2(port, address="127.0.0.2")) for _ in range(40)]
        newest = crowd[-1]

        assert newest.answer(newest.ask(head("GET", "/healthz")))[0] == 200
        assert crowd[0].end() is None
        assert admin.answer(admin.ask(group))[0] == 200
        first.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert first.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_with_a_request_in_progress_is_not_closed_for_another():
    limits = ApiLimits(connections_max=2, **SHORT)
    service = FakeService(gate=asyncio.Event())
    with served(service, limits=limits) as port, http2(port) as one, http2(port) as two:
        streams = one.ask(COMMAND, BODY), two.ask(COMMAND, BODY)
        until(lambda: service.waiting == 2)
        with http2(port) as third:
            assert third.end() == "overloaded"
        with connection(port) as fourth:
            assert problem_in(read_all(fourth)) == (503, "overloaded")
        service.open_gate()
        assert one.answer(streams[0])[0] == two.answer(streams[1])[0] == 200


def test_requests_at_once_are_counted_alike():
    limits = ApiLimits(concurrent_requests_max=8, **SHORT)
    service = FakeService(gate=asyncio.Event())
    with served(service, limits=limits) as port, http2(port) as wire:
        held = [wire.ask(COMMAND, BODY) for _ in range(7)]
        until(lambda: service.waiting == 7)
        assert wire.problem(wire.ask(COMMAND, BODY)) == (503, "overloaded")
        service.open_gate()
        assert {wire.answer(stream)[0] for stream in held} == {200}


# ---- time ---------------------------------------------------------------------------------------------------
def test_a_connection_that_sends_nothing_is_closed(loop):
    limits = ApiLimits(head_timeout_s=0.2, **SHORT)
    context = client_tls_context(PEM)
    context.set_alpn_protocols(["h2"])
    with served(FakeService(), limits=limits) as port, connection(port, context) as tls:
        assert read_all(tls).endswith(b"idle")


def test_a_connection_that_asks_nothing_more_is_closed_that_long_after_its_last_answer():
    limits = ApiLimits(keep_alive_s=0.5, **SHORT)
    with served(FakeService(), limits=limits) as port, http2(port) as wire:
        assert wire.answer(wire.ask(head("GET", "/healthz")))[0] == 200
        assert wire.end() == "idle"


@pytest.mark.parametrize(
    "part", [b"\x00\x00", frame_of(Kind.HEADERS, END_STREAM, 5, b"\x82"), b"\x00\x00\x08\x06\x00"]
)
def test_a_part_of_a_frame_or_head_that_does_not_go_on_ends_the_connection(part):
    limits = ApiLimits(head_timeout_s=0.2, **SHORT)
    service = FakeService(gate=asyncio.Event())
    with served(service, limits=limits) as port, http2(port) as wire:
        wire.ask(COMMAND, BODY)
        until(lambda: service.waiting == 1)
        wire.read()
        wire.flush = lambda: None  # no acknowledgement between the parts
        wire.send(part)

        assert wire.end() == "request-timeout"
        service.open_gate()


def test_an_answer_that_nobody_fetches_ends_the_connection():
    limits = ApiLimits(body_timeout_s=0.3, **SHORT)
    service = FakeService(end_with=Ok((Applied("x" * 200_000),), Cursor(3, 1)))
    with served(service, limits=limits) as port, http2(port) as wire:
        wire.ask(COMMAND, BODY)
        wire.h2.acknowledge_received_data = lambda *_: None  # grants no window

        assert wire.end() is None
        assert 0 < sum(len(event.data) for event in wire.of(h2.events.DataReceived)) <= 65535


# ---- stopping -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["h2", "httpx"])
def test_closing_lets_requests_in_progress_end_and_begins_no_other(by):
    service = FakeService(gate=asyncio.Event())
    answers = []

    def ask_with_h2(port):
        with http2(port) as wire:
            stream = wire.ask(COMMAND, BODY)
            asked.wait(10)
            refused = wire.answer(wire.ask(COMMAND, BODY))
            service.open_gate()
            answers.append((refused, wire.answer(stream)[0], wire.end()))

    def ask_with_httpx(port):
        with httpx.Client(http1=False, http2=True, verify=client_tls_context(PEM), timeout=20) as http:
            url = f"https://localhost:{port}/v1/commands"
            answers.append((None, http.post(url, json=PUT, headers=AUTHORIZATION).status_code, "stopping"))

    asked = threading.Event()
    ask = ask_with_h2 if by == "h2" else ask_with_httpx
    with served(service, limits=ApiLimits(shutdown_timeout_s=10)) as port:
        asking = threading.Thread(target=ask, args=(port,))
        asking.start()
        until(lambda: service.waiting == 1)
        # Goes on only after the server has begun to close, which leaving the block does.
        then = asked.set if by == "h2" else service.gate.set
        service.loop.call_soon_threadsafe(service.loop.call_later, 0.3, then)
    asking.join()

    assert answers == [(None, 200, "stopping")]


def test_a_connection_that_is_torn_down_leaves_nothing_behind(caplog):
    service = FakeService(gate=asyncio.Event())
    with served(service) as port:
        with http2(port) as wire:
            wire.ask(COMMAND, BODY)
            wire.ask(COMMAND, BODY[:-1], ends=False)
            until(lambda: service.waiting == 1)
            wire.tls.shutdown(socket.SHUT_RDWR)
        service.open_gate()
        with http2(port) as another:
            assert another.answer(another.ask(COMMAND, BODY))[0] == 200
    assert len(service.executed) == 2
    assert "failed" not in caplog.text
