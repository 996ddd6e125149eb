"""HTTPS with the node's identity: uvicorn's server, driven inside a loop that is not its own."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.types import ASGIApp

from attestation.background import Background
from node.api.by_alpn import OFFERED, ByAlpn
from node.api.http2_protocol import Http2Protocol
from node.api.http2_stream import Door
from node.api.limits import ApiLimits
from node.api.listener import TlsListener
from node.api.protocol import ApiProtocol
from node.api.seat import Seat
from node.errors import ConfigError
from node.places import Places, Room, Usage
from node.system.access_list import CERTIFICATES_MAX

_BACKLOG: Final = 1024


def server_tls_context(
    *, chain_der: Sequence[bytes], private_key_pem: bytes, client_certificates_der: Iterable[bytes]
) -> ssl.SSLContext:
    """Return a TLS 1.3 server context for a key that is never on a disk; the leaf is first in the chain.

    A client may authenticate with one of the given self-signed certificates. Without a certificate it needs a
    bearer token. With any other certificate the handshake fails.

    Raises:
        ConfigError: a client certificate cannot be a trust anchor.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: every connection proves that the peer holds its key now
    context.set_alpn_protocols(OFFERED)
    chain = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain_der)
    _load_chain_from_memory(context, b"".join(chain) + private_key_pem)
    anchors = list(client_certificates_der)
    if anchors:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        for anchor in anchors:
            try:
                context.load_verify_locations(cadata=anchor)
            except ssl.SSLError as exc:
                raise ConfigError(f"[access] a client certificate is unusable: {exc.reason}") from exc
    return context


class ServerTls:
    """The server's TLS, whose trust anchors for clients follow the access list.

    An anchor grants nothing by itself: the grant of a certificate is looked up for every request.

    Args:
        chain: of the node as it is now, DER, the leaf first; all its leaves have the same key.
        private_key_pem: of the node.
        anchors: the certificates of the list as it is now, DER.
    """

    def __init__(
        self,
        *,
        chain: Callable[[], tuple[bytes, ...]],
        private_key_pem: bytes,
        anchors: Callable[[], tuple[bytes, ...]],
    ) -> None:
        self._chain = chain
        self._private_key_pem = private_key_pem
        self._anchors = anchors
        self._made_for: tuple[tuple[bytes, ...], tuple[bytes, ...]] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for the next handshake."""
        chain, anchors = self._chain(), self._anchors()
        if self._context is None or (chain, anchors) != self._made_for:
            self._context = server_tls_context(
                chain_der=chain,
                private_key_pem=self._private_key_pem,
                client_certificates_der=filter(can_be_anchor, anchors),
            )
            self._made_for = chain, anchors
        return self._context


@lru_cache(maxsize=2 * CERTIFICATES_MAX)
def can_be_anchor(certificate_der: bytes) -> bool:
    """Return whether TLS can trust this certificate. Otherwise its holder could not connect with it."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=certificate_der)
    except ssl.SSLError:
        return False
    return True


def _load_chain_from_memory(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a chain that is never on a disk. ``load_cert_chain`` takes file names only: use a memory file."""
    descriptor = os.memfd_create("bondstone-api-key", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - there is no path
        file.write(pem)
        file.flush()
        context.load_cert_chain(Path(f"/proc/self/fd/{descriptor}"))


def bind(host: str, port: int, *, key: str) -> socket.socket:
    """Return a socket that is ready to listen.

    Raises:
        ConfigError: the address cannot be bound. Names ``key``, the place in the configuration to change.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ConfigError(f"{key}: cannot resolve {host}: {exc.strerror}") from exc
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{key}: port {port} on {host} is in use; choose another, or stop its user"
            ) from exc
        raise ConfigError(f"{key}: cannot listen on {host}:{port}: {exc.strerror}") from exc
    return bound


class ApiServer:
    """Serves an ASGI application over HTTPS until it is closed.

    ``start`` binds and serves. A failure that stops the server ends the process: such a node is of no use.
    ``door`` takes the requests over HTTP/2 that do not go to the application.
    ``close`` stops accepting, lets requests in progress end (for ``shutdown_timeout_s`` at most) and returns.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listen: tuple[str, int],
        tls: Callable[[], ssl.SSLContext],
        limits: ApiLimits,
        background: Background | None = None,
        door: Door | None = None,
    ) -> None:
        self._listen = listen
        self._background = background or Background()
        self._server = _Server(app, tls, limits, self._background, door)
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and port in use (port 0 in ``listen`` asks for any free port)."""
        assert self._socket is not None, "not started"
        host, port = self._socket.getsockname()[:2]
        return host, port

    def usages(self) -> tuple[Usage, ...]:
        """Return how much of this object's pools is in use."""
        return self._server.usages()

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ConfigError: the address is in use or cannot be bound.
        """
        self._socket = bind(*self._listen, key="api.listen")
        try:
            await self._server.startup([self._socket])
        except OSError as exc:
            self._socket.close()
            host, port = self._listen
            raise ConfigError(f"api.listen: cannot listen on {host}:{port}: {exc.strerror}") from exc
        self._task = self._background.once("api-server", self._server.run_until_closed(), fatal=True)

    async def close(self) -> None:
        """Stop. Does nothing if it never started."""
        if self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._task = None


class _Server(uvicorn.Server):
    """uvicorn's server without what belongs to a program of its own: signals, logging set-up, exits."""

    def __init__(
        self,
        app: ASGIApp,
        tls: Callable[[], ssl.SSLContext],
        limits: ApiLimits,
        background: Background,
        door: Door | None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=ApiProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=limits.shutdown_timeout_s,
            )
        )
        self._tls = tls
        self._limits = limits
        self._background = background
        self._door = door
        self._connections: Places[Seat] = Places(
            "api-connections", limits.connections_max, may_go=Seat.may_go
        )
        self._handshakes: Places[asyncio.Task[None]] = Places(
            "api-handshakes", limits.handshakes_max, reserved=0
        )
        self._bodies = Room("api-bodies", limits.bodies_bytes_max, one_min=limits.body_bytes_max)

    def usages(self) -> tuple[Usage, ...]:
        return (self._connections.usage, self._handshakes.usage, self._bodies.usage)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening on the sockets, with our protocol and a bounded handshake."""
        assert sockets, "the caller binds"
        if not self.config.loaded:
            self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        loop = asyncio.get_running_loop()

        shared: dict[str, Any] = {
            "limits": self._limits,
            "places": self._connections,
            "room": self._bodies,
            "loop": loop,
        }

        def http1(made_at: float) -> asyncio.Protocol:
            return ApiProtocol(self.config, self.server_state, {}, made_at=made_at, **shared)

        def http2(made_at: float) -> asyncio.Protocol:
            more = {"background": self._background, "made_at": made_at, "door": self._door, **shared}
            return Http2Protocol(self.config, self.server_state, **more)

        listeners = [
            TlsListener(
                one,
                lambda: ByAlpn(http1, http2),
                lambda: len(self.server_state.connections),
                tls=self._tls,
                limits=self._limits,
                places=self._handshakes,
                background=self._background,
            )
            for one in sockets
        ]
        for listener in listeners:
            listener.start(_BACKLOG)
        self.servers = listeners  # type: ignore[assignment]
        self.started = True

    async def run_until_closed(self) -> None:
        """Serve until ``should_exit``, then shut down."""
        await self.main_loop()
        await self.shutdown()
