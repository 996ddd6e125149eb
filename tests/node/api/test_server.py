"""The real server on loopback: TLS, how many connections there may be, and closing."""

import asyncio
import contextlib
import errno
import gc
import json
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
from node.ca.certificates import MEMBER_VALIDITY, ApiCertificates, CertificateAuthority, pem_of
from node.ca.names import PermittedNames
from node.client.channel import client_tls_context
from node.errors import ConfigError
from node.places import Places
from node.system.access import AccessState
from node.system.grants import AccessRole, CredentialKind, Grant
from node.tokens import spki_digest
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served
from tests.node.api.raw import AUTHORIZATION, PEM, PUT, begin_a_post, client, connection, problem_in, read_all


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
        chain_der=[IDENTITY.certificate_der],
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
        kind=CredentialKind.CERTIFICATE,
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
            chain_der=[IDENTITY.certificate_der],
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


def test_a_certificate_that_tls_cannot_trust_keeps_no_other_credential_from_working(tmp_path):
    unusable = structs.replace(pinned(STRANGER), name="unusable", certificate=b"\x30\x00")
    service = FakeService(state=AccessState([unusable, pinned(CLIENT)]))
    with served(service) as port, client(context_of(CLIENT, tmp_path)) as http:
        assert http.get(f"https://localhost:{port}/v1/group").status_code == 200


def test_a_renewed_certificate_is_presented_on_the_running_listener_with_the_same_key(tmp_path):
    now, names = datetime.now(UTC), PermittedNames.of(["localhost"])
    authority = CertificateAuthority.generate(b"g" * 32, names, now)
    own = ApiCertificates.of_key(
        IDENTITY.private_key, IDENTITY.peer_id, wanted=["localhost"], permitted=names, now=now
    )
    expired = authority.certify(own.anchor, now - 2 * MEMBER_VALIDITY)
    chain = [own.leaf]
    standard = ssl.create_default_context(cadata=pem_of(authority.certificate_der).decode())
    pin = ssl.create_default_context(cadata=pem_of(own.anchor).decode())
    with served(FakeService(), chain=lambda: tuple(chain)) as port, connection(port, pin) as before:
        for certified, problem in (
            (None, "unable to get"),
            (expired, "expired"),
            (authority.certify(own.anchor, now), None),
        ):
            if certified is not None:
                chain[1:] = [certified, authority.certificate_der]
            if problem is None:
                with connection(port, standard) as tls:
                    assert tls.getpeercert(binary_form=True) == own.leaf
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match=problem), connection(port, standard):
                    pass
            with connection(port, pin) as tls:
                assert tls.getpeercert(binary_form=True) == own.leaf
        assert asked(before, HEALTH).startswith(b"HTTP/1.1 200 OK\r\n")  # as if nothing had happened


# ---- connections -----------------------------------------------------------------------------
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
GROUP = b"GET /v1/group HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %s\r\n\r\n"


def asked(tls, request):
    tls.sendall(request)
    return tls.recv(65536)


def hold(stack, port, address, count):
    """Open connections from a loopback address, each with an answered /healthz."""
    held = []
    for _ in range(count):
        plain = stack.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0))
        )
        tls = stack.enter_context(client_tls_context(PEM).wrap_socket(plain, server_hostname="localhost"))
        assert asked(tls, HEALTH).startswith(b"HTTP/1.1 200 ")
        held.append(tls)
    return held


def is_closed(tls):
    try:
        return tls.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def until(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_all_connections_held_by_one_address_leave_the_admin_a_place():
    """2,048 of them with /healthz gave the admin 503, fifteen times of fifteen."""
    limits = ApiLimits(connections_max=16, shutdown_timeout_s=1)
    admin = GROUP % TOKENS[AccessRole.ADMIN].encode()
    with served(FakeService(), limits=limits) as port, contextlib.ExitStack() as stack:
        crowd = hold(stack, port, "127.0.0.2", 14)
        (first,) = hold(stack, port, "127.0.0.3", 1)  # an address with one connection is not touched
        assert is_closed(crowd[0])
        (known,) = hold(stack, port, "127.0.0.4", 1)
        assert asked(known, admin).startswith(b"HTTP/1.1 200 ")
        hold(stack, port, "127.0.0.2", 40)

        assert asked(known, admin).startswith(b"HTTP/1.1 200 ")
        assert asked(first, HEALTH).startswith(b"HTTP/1.1 200 ")
        with client() as http:
            assert http.get(f"https://localhost:{port}/v1/group", headers=AUTHORIZATION).status_code == 200


def test_they_would_not_if_the_newest_lost(monkeypatch):
    enter = Places.enter

    def newest_loses(places, item, share, *, known):
        return item if item not in places and len(places) >= 14 else enter(places, item, share, known=known)

    limits = ApiLimits(connections_max=16, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, contextlib.ExitStack() as stack:
        hold(stack, port, "127.0.0.2", 14)
        monkeypatch.setattr(Places, "enter", newest_loses)
        with client() as http:
            reply = http.get(f"https://localhost:{port}/v1/group", headers=AUTHORIZATION)
            assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")


def test_a_caller_that_holds_all_connections_loses_its_own():
    limits = ApiLimits(connections_max=16, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port, contextlib.ExitStack() as stack:
        greedy = hold(stack, port, "127.0.0.2", 14)
        for tls in greedy:
            assert asked(tls, GROUP % TOKENS[AccessRole.READ].encode()).startswith(b"HTTP/1.1 200 ")
        (other,) = hold(stack, port, "127.0.0.3", 1)
        assert asked(other, GROUP % TOKENS[AccessRole.ADMIN].encode()).startswith(b"HTTP/1.1 200 ")

        assert is_closed(greedy[0])
        assert asked(greedy[1], HEALTH).startswith(b"HTTP/1.1 200 ")


def test_a_connection_with_a_request_in_progress_is_not_closed_for_another():
    limits = ApiLimits(connections_max=2, shutdown_timeout_s=1)
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service, limits=limits) as port, contextlib.ExitStack() as stack:
        busy = hold(stack, port, "127.0.0.2", 2)
        for tls in busy:
            begin_a_post(tls, len(body), body)
        until(lambda: service.waiting == 2)
        with connection(port) as third:
            assert problem_in(read_all(third)) == (503, "overloaded")
        service.open_gate()
        for tls in busy:
            assert tls.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_far_over_the_limit_a_connection_is_closed_without_an_answer():
    limits = ApiLimits(connections_max=1, handshakes_max=1, tls_shutdown_timeout_s=30, shutdown_timeout_s=1)
    service = FakeService(gate=asyncio.Event())
    body = json.dumps(PUT).encode()
    with served(service, limits=limits) as port, contextlib.ExitStack() as stack:
        (busy,) = hold(stack, port, "127.0.0.2", 1)
        begin_a_post(busy, len(body), body)
        until(lambda: service.waiting == 1)
        told = stack.enter_context(connection(port))
        assert problem_in(told.recv(65536)) == (503, "overloaded")  # and it stays: it does not close
        with pytest.raises((ssl.SSLError, ConnectionError)), connection(port):
            pass
        service.open_gate()


def idle_strangers(stack, port, count):
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)
    ]


def test_connections_without_a_handshake_keep_no_client_out(loop):
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


def test_after_closing_no_socket_listens():
    with served(FakeService()) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


# ---- work in the background ------------------------------------------------------------------
def test_a_server_that_fails_ends_the_process_instead_of_leaving_an_unreachable_node(monkeypatch):
    async def fails(_):
        raise RuntimeError("no more")

    monkeypatch.setattr("node.api.server._Server.main_loop", fails)

    async def main():
        background = Background()
        server = ApiServer(
            create_app(FakeService(), ApiLimits()),
            listen=("127.0.0.1", 0),
            tls=ServerTls(
                chain=lambda: (IDENTITY.certificate_der,),
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
