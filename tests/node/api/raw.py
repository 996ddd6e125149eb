"""HTTP by hand, over TLS, to a server on loopback."""

import json
import socket
import ssl
from contextlib import contextmanager

import httpx

from node.client.channel import client_tls_context
from node.tokens import AccessRole
from tests.node.api.fakes import IDENTITY, TOKENS

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


def begin_a_post(tls, declared, part, path="/v1/commands"):
    """Send the head of a request, and only a part of its body."""
    tls.sendall(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
        % (path.encode(), TOKENS[AccessRole.WRITE].encode(), declared, part)
    )
