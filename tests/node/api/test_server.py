"""The real server on loopback: TLS, limits below HTTP, and closing."""

import asyncio
import contextlib
import errno
import gc
import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from enclave.identity import Identity
from node.api import server
from node.api.limits import PIPELINED_MAX, ApiLimits
from node.api.protocol import BodyRoom
from node.api.server import bind, server_tls_context
from node.client.channel import client_tls_context
from node.errors import ConfigError
from node.tokens import AccessRole, parse_access
from tests.node.api import fakes
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served

PEM = IDENTITY.certificate_pem()
AUTHORIZATION = {"authorization": f"Bearer {TOKENS[AccessRole.ADMIN]}"}
PUT = {"command": {"op": "put", "key": "a", "value": "b"}}


@contextmanager
def connection(port, context=None):
    """A raw TLS connection."""
    context = context or client_tls_context(PEM)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        yield tls


def read_all(tls):
    data = b""
    try:
        while chunk := tls.recv(65536):
            data += chunk
    except ssl.SSLError:  # closed without a TLS goodbye
        pass
    return data


def problem_in(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["code"]


def client(context=None):
    return httpx.Client(verify=context or client_tls_context(PEM), trust_env=False, timeout=10)


# ---- TLS -----------------------------------------------------------------------------------
def test_the_channel_is_tls_1_3_with_the_nodes_own_key_and_no_resumption():
    with served(FakeService()) as port, connection(port) as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")

        assert tls.version() == "TLSv1.3"
        assert tls.getpeercert(binary_form=True) == IDENTITY.certificate_der
        assert read_all(tls).startswith(b"HTTP/1.1 200 OK\r\n")
        assert not tls.session.has_ticket


def test_tls_1_2_is_refused():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with served(FakeService()) as port, pytest.raises(ssl.SSLError), connection(port, context):
        pass


def open_files():
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def test_the_private_key_never_has_a_file_name(monkeypatch):
    seen = []
    real = ssl.SSLContext.load_cert_chain

    def spy(self, certfile, *rest):
        seen.append((str(certfile), str(Path(certfile).readlink())))
        return real(self, certfile, *rest)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    before = open_files()
    server_tls_context(
        certificate_der=IDENTITY.certificate_der,
        private_key_pem=IDENTITY.private_key_pem(),
        client_certificates_der=(),
    )
    gc.collect()

    ((name, target),) = seen
    assert name.startswith("/proc/self/fd/")
    assert target.startswith("/memfd:")
    assert open_files() == before


CLIENT = Identity.generate("ops-laptop", datetime.now(UTC))
STRANGER = Identity.generate("ops-laptop", datetime.now(UTC))
PINNED = parse_access(
    f"""[[certificate]]
name = "ops-laptop"
roles = ["read"]
pem = '''{CLIENT.certificate_pem().decode()}'''
""".encode(),
    where="test",
)


def context_of(identity, tmp_path):
    file = tmp_path / "client.pem"
    file.write_bytes(identity.certificate_pem() + identity.private_key_pem())
    context = client_tls_context(PEM)
    context.load_cert_chain(file)
    return context


def test_a_pinned_client_certificate_is_enough(tmp_path):
    with served(FakeService(), access=PINNED) as port, client(context_of(CLIENT, tmp_path)) as http:
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 200
        assert http.get(f"https://localhost:{port}/v1/audit/head").status_code == 403


def test_a_strangers_certificate_does_not_get_through_the_handshake(tmp_path):
    with (
        served(FakeService(), access=PINNED) as port,
        client(context_of(STRANGER, tmp_path)) as http,
        pytest.raises(httpx.TransportError),
    ):
        http.get(f"https://localhost:{port}/v1/group")


def test_without_a_client_certificate_the_token_still_decides():
    with served(FakeService(), access=PINNED) as port, client() as http:
        assert http.get(f"https://localhost:{port}/healthz").status_code == 200
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 401


def test_what_cannot_be_a_trust_anchor_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"api\.tokens_file"):
        server_tls_context(
            certificate_der=IDENTITY.certificate_der,
            private_key_pem=IDENTITY.private_key_pem(),
            client_certificates_der=[b"\x30\x00"],
        )


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


def test_a_body_that_nobody_waits_for_does_not_keep_the_connection():
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


def test_a_connection_that_says_nothing_is_closed():
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


def test_plain_http_to_the_tls_port_harms_nobody_else():
    with served(FakeService()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            plain.recv(65536)
        with client() as http:
            assert http.get(f"https://localhost:{port}/healthz").status_code == 200


def test_connections_over_the_limit_are_told_so():
    limits = ApiLimits(connections_max=1, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port) as first:
        with connection(port) as second:
            assert problem_in(read_all(second)) == (503, "overloaded")
        first.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert read_all(first).startswith(b"HTTP/1.1 200 OK")


def test_over_the_limit_by_more_than_can_be_told_is_closed_without_a_word():
    limits = ApiLimits(connections_max=1, handshakes_max=1, tls_shutdown_timeout_s=30, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, connection(port), connection(port) as told:
        assert problem_in(told.recv(65536)) == (
            503,
            "overloaded",
        )  # and it keeps its place: it does not close
        with pytest.raises((ssl.SSLError, ConnectionError)), connection(port):
            pass


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request, monkeypatch):
    if request.param == "asyncio":
        monkeypatch.setattr(fakes.uvloop, "run", asyncio.run)


def idle_strangers(stack, port, count):
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)
    ]


def test_strangers_that_never_shake_hands_keep_nobody_out(loop):
    """The longest-waiting one goes when there are too many."""
    limits = ApiLimits(handshakes_max=8, tls_handshake_timeout_s=300, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, contextlib.ExitStack() as stack:
        strangers = idle_strangers(stack, port, 20)
        with client() as http:
            assert http.get(f"https://localhost:{port}/healthz").status_code == 200
        for stranger in strangers[:12]:  # closed, or this would time out
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        still_open = strangers[-1]
        still_open.setblocking(False)
        with pytest.raises(BlockingIOError):
            still_open.recv(1)


def test_closing_does_not_wait_for_handshakes(loop):
    with contextlib.ExitStack() as stack:
        with served(FakeService(), limits=ApiLimits(shutdown_timeout_s=30)) as port:
            (stranger,) = idle_strangers(stack, port, 1)
            with client() as http:
                assert http.get(f"https://localhost:{port}/healthz").status_code == 200
            start = time.monotonic()
        assert time.monotonic() - start < 15
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_when_files_run_out_listening_goes_on_once_there_are_some(monkeypatch, caplog):
    real = socket.socket.accept
    failures = [OSError(errno.ECONNABORTED, "gone"), OSError(errno.EMFILE, "Too many open files")]

    def accept(self):
        if failures:
            raise failures.pop(0)
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    with served(FakeService()) as port, client() as http:
        assert http.get(f"https://localhost:{port}/healthz").status_code == 200
    assert failures == []
    assert "cannot accept connections now: Too many open files" in caplog.text


# ---- all bodies together ---------------------------------------------------------------------
def begin_a_post(tls, declared, part, path="/v1/commands"):
    """Send the head of a request, and only a part of its body."""
    tls.sendall(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
        % (path.encode(), TOKENS[AccessRole.WRITE].encode(), declared, part)
    )


ROOM = ApiLimits(body_bytes_max=60_000, bodies_bytes_max=100_000, shutdown_timeout_s=1)


def until_taken(room, size):
    give_up = time.monotonic() + 10
    while room.taken != size:
        assert time.monotonic() < give_up, room.taken
        time.sleep(0.005)


@pytest.fixture
def rooms(monkeypatch):
    made = []

    class Watched(BodyRoom):
        def __init__(self, bytes_max):
            super().__init__(bytes_max)
            made.append(self)

    monkeypatch.setattr(server, "BodyRoom", Watched)
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


# ---- listening and closing ----------------------------------------------------------------------
def test_a_port_in_use_is_a_configuration_error_that_names_key_and_port():
    with (
        served(FakeService()) as port,
        pytest.raises(ConfigError) as caught,
        served(FakeService(), port=port),
    ):
        pass

    assert str(caught.value).startswith(f"api.listen: port {port} on 127.0.0.1 is in use")


def test_an_address_that_is_not_ours_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"api\.listen: cannot listen on 203\.0\.113\.1:1"):
        bind("203.0.113.1", 1, key="api.listen")


def test_a_name_that_does_not_resolve_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"api\.listen: cannot resolve no-such-host\.invalid"):
        bind("no-such-host.invalid", 1, key="api.listen")


def test_closing_lets_a_request_in_progress_end():
    service = FakeService()
    replies = []
    with client() as http:
        with served(service, limits=ApiLimits(shutdown_timeout_s=10)) as port:
            held = threading.Event()
            release = None

            async def execute(commands, **more):
                nonlocal release
                release = (asyncio.get_running_loop(), asyncio.Event())
                held.set()
                await release[1].wait()
                return await FakeService.execute(service, commands, **more)

            service.execute = execute
            url = f"https://localhost:{port}/v1/commands"
            asking = threading.Thread(
                target=lambda: replies.append(http.post(url, json=PUT, headers=AUTHORIZATION))
            )
            asking.start()
            held.wait(10)
            # Let go only after the server has begun to close (which leaving the block does).
            release[0].call_soon_threadsafe(release[0].call_later, 0.3, release[1].set)
        asking.join()

    assert [reply.status_code for reply in replies] == [200]


def test_after_closing_nobody_listens():
    with served(FakeService()) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
