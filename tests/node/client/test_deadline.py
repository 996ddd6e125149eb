"""A deadline is the whole call's, whatever the servers do and however many there are."""

import socket
import ssl
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from node.api.server import server_tls_context
from node.client import BondstoneClient, UnreachableError, fetch_evidence_unauthenticated
from node.client.deadline import Deadline, bounded_client
from node.tokens import AccessRole
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served
from tests.node.client.scripted import Clock, problem

ADMIN = TOKENS[AccessRole.ADMIN]


def drip(connection):
    """A byte of the answer's head now and then, without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def drip_body(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def continue_for_ever(connection):
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def silent(connection):
    while connection.recv(65536):
        pass


@contextmanager
def listening(behaviour, *, tls=True):
    """A server that handshakes and then behaves badly; yields its port."""
    context = server_tls_context(
        chain_der=[IDENTITY.certificate_der],
        private_key_pem=IDENTITY.private_key_pem(),
        client_certificates_der=[],
    )
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve(connection):
        try:
            with connection:
                if tls:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        behaviour(secured)
                else:
                    silent(connection)
        except (OSError, ssl.SSLError):
            pass

    def accept():
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    threads = []
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield server.getsockname()[1]
    finally:
        stopped.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join()
        for thread in threads:
            thread.join()


BEHAVIOURS = (drip, drip_body, continue_for_ever, silent)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda given: given.__name__)
def test_verify_ends_although_the_server_drips_or_sends_100_continue_without_end(behaviour):
    with listening(behaviour) as port, pytest.raises(UnreachableError):
        fetch_evidence_unauthenticated(f"https://127.0.0.1:{port}", bytes(32), timeout_s=0.5)


def test_verify_ends_although_the_tls_handshake_does_not():
    with listening(silent, tls=False) as port, pytest.raises(UnreachableError):
        fetch_evidence_unauthenticated(f"https://127.0.0.1:{port}", bytes(32), timeout_s=0.5)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda given: given.__name__)
def test_a_call_to_three_nodes_that_hang_ends_at_its_deadline(ca, behaviour, monkeypatch):
    """No wait is begun after the deadline, and none is given more than what is left of it."""
    waits = []
    real = Deadline.left

    def left(self, timeout_s):
        allowed = real(self, timeout_s)
        waits.append((time.monotonic(), allowed))
        return allowed

    monkeypatch.setattr(Deadline, "left", left)
    with listening(behaviour) as one, listening(behaviour) as two, listening(behaviour) as three:
        urls = [f"https://127.0.0.1:{port}" for port in (one, two, three)]
        with BondstoneClient(urls, token=ADMIN, ca=ca, deadline_s=1.0, clock=time.monotonic) as client:
            begun = time.monotonic()
            with pytest.raises(UnreachableError):
                client.get("k")
            give_up = begun + 1.0
    # Deadlines are set a little after ``begun``: the slack is for that alone.
    assert max(at + allowed for at, allowed in waits) <= give_up + 0.25


def test_a_node_that_hangs_leaves_time_to_ask_the_others(ca):
    service = FakeService()
    with listening(silent) as hanging, served(service) as port:
        urls = [f"https://127.0.0.1:{hanging}", f"https://localhost:{port}"]
        with BondstoneClient(urls, token=ADMIN, ca=ca, deadline_s=3) as client:
            assert client.put("a", "1") == 2


def test_no_attempt_is_begun_after_the_deadline(scripted):
    client, script, clock = scripted(problem("not-ready", reason="no-cluster"), nodes=3, deadline_s=5)

    def slow(request):
        clock.now += 4
        return httpx.Response(503, content=problem("not-ready").body())

    script.endings = [slow]
    with pytest.raises(Exception, match="not-ready"):
        client.get("k")
    assert len(script.asked) == 2, "the third of three nodes was asked when the time was over"


def test_a_connection_that_was_not_made_in_time_has_sent_nothing(scripted):
    client, script, _ = scripted(httpx.ConnectTimeout("x"), nodes=2, deadline_s=1)
    with pytest.raises(UnreachableError):
        client.put("k", "v")
    assert script.asked


def test_the_transport_is_the_bounded_one(ca):
    """``httpx`` has no public way to bound a whole call; if it changes inside, this is where it shows."""
    deadline = Deadline(Clock())
    with bounded_client(ssl.create_default_context(), deadline, httpx.Timeout(1)) as http:
        assert type(http._transport._pool._network_backend).__module__ == "node.client.deadline"
        assert http._mounts == {}
