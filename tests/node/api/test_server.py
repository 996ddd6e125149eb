"""The real server on loopback: TLS, how many connections there may be, and closing."""

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from msgspec import structs
from prometheus_client import CollectorRegistry, generate_latest

from attestation.background import Background, FatalWorkError
from enclave.identity import Identity
from node.api.app import create_app
from node.api.limits import ApiLimits
from node.api.metrics import BackgroundCollector
from node.api.server import ApiServer, ServerTls, bind, server_tls_context
from node.client.channel import client_tls_context
from node.errors import ConfigError
from node.system.access import AccessState
from node.system.grants import AccessRole, Grant, Kind
from node.tokens import spki_digest
from tests.node.api.fakes import IDENTITY, FakeService, served
from tests.node.api.raw import AUTHORIZATION, PEM, PUT, client, connection, problem_in, read_all


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


def pinned(identity):
    return Grant(
        name="ops-laptop",
        kind=Kind.CERTIFICATE,
        credential=spki_digest(x509.load_der_x509_certificate(identity.certificate_der)),
        roles=(AccessRole.READ,),
        certificate=identity.certificate_der,
    )


def pinning():
    return FakeService(state=AccessState([pinned(CLIENT)]))


def context_of(identity, tmp_path):
    file = tmp_path / "client.pem"
    file.write_bytes(identity.certificate_pem() + identity.private_key_pem())
    context = client_tls_context(PEM)
    context.load_cert_chain(file)
    return context


def test_a_pinned_client_certificate_is_enough(tmp_path):
    with served(pinning()) as port, client(context_of(CLIENT, tmp_path)) as http:
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 200
        assert http.get(f"https://localhost:{port}/v1/audit/head").status_code == 403


def test_a_strangers_certificate_does_not_get_through_the_handshake(tmp_path):
    with (
        served(pinning()) as port,
        client(context_of(STRANGER, tmp_path)) as http,
        pytest.raises(httpx.TransportError),
    ):
        http.get(f"https://localhost:{port}/v1/group")


def test_without_a_client_certificate_the_token_still_decides():
    with served(pinning()) as port, client() as http:
        assert http.get(f"https://localhost:{port}/healthz").status_code == 200
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 401


def test_what_cannot_be_a_trust_anchor_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"\[access\] a client certificate is unusable"):
        server_tls_context(
            certificate_der=IDENTITY.certificate_der,
            private_key_pem=IDENTITY.private_key_pem(),
            client_certificates_der=[b"\x30\x00"],
        )


def test_trust_anchors_follow_the_access_list(tmp_path):
    service = FakeService(state=AccessState())
    with served(service) as port:
        url = f"https://localhost:{port}/v1/group"
        with client(context_of(CLIENT, tmp_path)) as http:
            assert http.get(url).status_code == 401
        service.state = AccessState([pinned(CLIENT)])
        with client(context_of(CLIENT, tmp_path)) as http:
            assert http.get(url).status_code == 200
            service.state = AccessState([pinned(STRANGER)])
            assert http.get(url).status_code == 401  # on the connection that there is
        with client(context_of(CLIENT, tmp_path)) as http, pytest.raises(httpx.TransportError):
            http.get(url)


def test_a_certificate_that_tls_cannot_trust_takes_nobody_elses_way_in(tmp_path):
    unusable = structs.replace(pinned(STRANGER), name="unusable", certificate=b"\x30\x00")
    service = FakeService(state=AccessState([unusable, pinned(CLIENT)]))
    with served(service) as port, client(context_of(CLIENT, tmp_path)) as http:
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 200


# ---- connections -----------------------------------------------------------------------------
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


# ---- work in the background ------------------------------------------------------------------
def test_a_server_that_fails_ends_the_process_instead_of_leaving_a_node_that_nobody_can_ask(monkeypatch):
    async def fails(_):
        raise RuntimeError("no more")

    monkeypatch.setattr("node.api.server._Server.main_loop", fails)

    async def main():
        background = Background()
        server = ApiServer(
            create_app(FakeService(), ApiLimits()),
            listen=("127.0.0.1", 0),
            tls=ServerTls(
                certificate_der=IDENTITY.certificate_der,
                private_key_pem=IDENTITY.private_key_pem(),
                anchors=tuple,
            ).context,
            limits=ApiLimits(),
            background=background,
        )
        await server.start()
        with pytest.raises(FatalWorkError, match="api-server failed: RuntimeError: no more"):
            await background.until(asyncio.Event())
        await server.close()
        for listener in server._server.servers:
            listener.close()
            await listener.wait_closed()

    asyncio.run(main())


def test_how_background_work_is_doing_is_in_the_metrics():
    async def main():
        background = Background()

        async def bad():
            raise OSError(28, "No space left on device")

        await background.once("freshness-save", bad())
        registry = CollectorRegistry()
        registry.register(BackgroundCollector(background))
        return generate_latest(registry).decode()

    text = asyncio.run(main())
    assert 'bondstone_background_failures_total{work="freshness-save"} 1.0' in text
    assert 'bondstone_background_running{work="freshness-save"} 0.0' in text
