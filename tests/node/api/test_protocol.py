"""HTTP below the application, on loopback: limits on heads, on bodies, and on what is sent ahead."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest

from node.api import server
from node.api.limits import PIPELINED_MAX, ApiLimits
from node.places import Room
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served
from tests.node.api.raw import AUTHORIZATION, PUT, begin_a_post, client, connection, problem_in, read_all


# ---- bodies ----------------------------------------------------------------------------------
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_of_ten_megabytes_gets_413_and_the_node_stays_well(chunked):
    piece = b"x" * 65536
    content = (piece for _ in range(160)) if chunked else piece * 160
    with served(FakeService()) as port, client() as http:
        url = f"https://localhost:{port}/v1/commands"
        headers = {**AUTHORIZATION, "content-type": "application/json"}
        reply = http.post(url, content=content, headers=headers)

        assert (reply.status_code, reply.json()["code"]) == (413, "body-too-large")
        assert http.post(url, json=PUT, headers=AUTHORIZATION).status_code == 200


def test_a_client_that_waits_for_leave_is_refused_before_it_sends():
    with served(FakeService()) as port, connection(port) as tls:
        tls.sendall(
            b"POST /v1/commands HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer " + TOKENS[AccessRole.WRITE].encode() + b"\r\n"
            b"content-length: 10000000\r\nexpect: 100-continue\r\n\r\n"
        )

        assert problem_in(read_all(tls)) == (413, "body-too-large")


def test_a_body_that_does_not_come_ends_in_408():
    limits = ApiLimits(body_timeout_s=0.2, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        tls.sendall(
            b"POST /v1/commands HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer " + TOKENS[AccessRole.WRITE].encode() + b"\r\ncontent-length: 10\r\n\r\n{"
        )

        assert problem_in(read_all(tls)) == (408, "request-timeout")


def test_an_unread_body_does_not_keep_the_connection_open():
    limits = ApiLimits(body_timeout_s=0.2, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        tls.sendall(b"POST /v1/commands HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")

        assert problem_in(read_all(tls)) == (401, "credentials-missing")


# ---- heads ------------------------------------------------------------------------------------
def test_half_a_head_ends_in_408_also_when_it_drips():
    limits = ApiLimits(head_timeout_s=1.0, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nx-a: ")
        stop = threading.Event()

        def drip():
            while not stop.wait(0.05):
                try:
                    tls.sendall(b"a")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        start = time.monotonic()
        answer = read_all(tls)
        stop.set()
        dripping.join()

    assert problem_in(answer) == (408, "request-timeout")
    assert time.monotonic() - start < 5


def test_a_connection_that_sends_nothing_is_closed():
    limits = ApiLimits(head_timeout_s=0.2, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        assert read_all(tls) == b""


def ask_for_health(tls):
    tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert tls.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_that_asks_nothing_more_is_closed_that_long_after_its_last_answer():
    limits = ApiLimits(keep_alive_s=1, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        ask_for_health(tls)
        tls.settimeout(0.6)
        with pytest.raises(TimeoutError):
            tls.recv(1)
        tls.settimeout(10)
        ask_for_health(tls)
        last = time.monotonic()
        assert read_all(tls) == b""
        assert time.monotonic() - last > 0.9


def test_a_request_in_progress_is_not_idle():
    limits = ApiLimits(keep_alive_s=1, shutdown_timeout_s=1)
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service, limits=limits) as port, connection(port) as tls:
        ask_for_health(tls)
        begin_a_post(tls, len(body), body)
        tls.settimeout(1.5)
        with pytest.raises(TimeoutError):
            tls.recv(1)


def test_a_second_request_gets_a_head_timer_too():
    limits = ApiLimits(head_timeout_s=1.0, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /heal")
        answer = read_all(tls)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize(
    "behind", [b"GET /heal", b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 9000]
)
def test_an_error_is_never_sent_in_place_of_an_earlier_requests_answer(behind):
    limits = ApiLimits(head_timeout_s=1.0, head_bytes_max=4096, shutdown_timeout_s=1)
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service, limits=limits) as port, connection(port) as tls:
        tls.sendall(
            b"POST /v1/commands HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
            % (TOKENS[AccessRole.WRITE].encode(), len(body), body)
        )
        tls.sendall(behind)

        assert read_all(tls) == b""


def test_an_endless_head_ends_in_431_before_it_is_kept():
    limits = ApiLimits(head_bytes_max=4096, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nx-a: " + b"a" * 5000)

        assert problem_in(read_all(tls)) == (431, "head-too-large")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_problem_document_and_the_door(garbage):
    with served(FakeService()) as port, connection(port) as tls:
        tls.sendall(garbage)

        assert problem_in(read_all(tls)) == (400, "http-invalid")


def test_plain_http_to_the_tls_port_harms_no_other_client():
    with served(FakeService()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            plain.recv(65536)
        with client() as http:
            assert http.get(f"https://localhost:{port}/healthz").status_code == 200


# ---- all bodies together ---------------------------------------------------------------------
ROOM = ApiLimits(body_bytes_max=60_000, bodies_bytes_max=100_000, shutdown_timeout_s=1)


def until_taken(room, size):
    give_up = time.monotonic() + 10
    while room.taken != size:
        assert time.monotonic() < give_up, room.taken
        time.sleep(0.005)


@pytest.fixture
def rooms(monkeypatch):
    made = []

    class Watched(Room):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(server, "Room", Watched)
    return made


def test_bodies_that_are_too_much_together_are_refused_and_may_be_sent_again(rooms):
    with served(FakeService(), limits=ROOM) as port:
        with connection(port) as first, connection(port) as second:
            begin_a_post(first, 60_000, b" " * 50_000)
            until_taken(rooms[0], 50_000)
            begin_a_post(second, 60_000, b" " * 50_001)
            answer = read_all(second)

            assert problem_in(answer) == (503, "overloaded")
            assert b"\r\nretry-after: 1\r\n" in answer
        until_taken(rooms[0], 0)  # the first gave up
        with client() as http:
            reply = http.post(f"https://localhost:{port}/v1/commands", json=PUT, headers=AUTHORIZATION)
            assert reply.status_code == 200
        until_taken(rooms[0], 0)


def test_a_body_keeps_its_room_until_it_is_answered(rooms):
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service, limits=ROOM) as port, connection(port) as tls:
        begin_a_post(tls, len(body), body)
        begin_a_post(tls, len(body) + 5, body)  # pipelined
        until_taken(rooms[0], 2 * len(body))
    until_taken(rooms[0], 0)


def test_a_body_that_is_thrown_away_takes_the_room_of_one(rooms):
    with served(FakeService(), limits=ROOM) as port, client() as http:
        content = b"x" * 5_000_000
        headers = {**AUTHORIZATION, "content-type": "application/json"}
        reply = http.post(f"https://localhost:{port}/v1/commands", content=content, headers=headers)

        assert (reply.status_code, reply.json()["code"]) == (413, "body-too-large")
        until_taken(rooms[0], 0)


def test_requests_without_end_on_one_connection_are_cut_off():
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service) as port, connection(port) as tls:
        begin_a_post(tls, len(body), body)
        with contextlib.suppress(OSError):
            for _ in range(PIPELINED_MAX + 2):
                tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")

        assert read_all(tls) == b""


def test_pipelined_requests_are_answered_in_order():
    with served(FakeService()) as port, connection(port) as tls:
        tls.sendall(
            b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
            b"GET /nope HTTP/1.1\r\nhost: a\r\n\r\n"
            b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        answer = read_all(tls)

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]
