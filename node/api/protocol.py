"""uvicorn's HTTP/1.1 protocol with limits on heads, silence and connections, and the client's certificate.

uvicorn arms its idle timer only between requests and bounds nothing before a request's head is complete; a
client that sends half a head, for ever or without end, would keep a connection and its memory.
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from node.api.access import CLIENT_CERTIFICATE
from node.api.limits import ApiLimits
from node.api.problems import CATALOGUE, ProblemError


class ApiProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ApiLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._limits = limits
        self._between_requests = True
        self._head_begun = False
        self._head_bytes = 0
        self._heads_begun_here = 0  # in the chunk being parsed
        self._head_timer: asyncio.TimerHandle | None = None
        self._extensions: dict[str, Any] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self._refuse(ProblemError("overloaded", "too many connections"))
            return
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        if certificate is not None:
            self._extensions[CLIENT_CERTIFICATE] = certificate
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        between, begun = self._between_requests, self._head_begun
        self._heads_begun_here = 0
        super().data_received(data)
        if not self._head_begun or self.transport.is_closing():
            return
        # A chunk can hold the end of one request and the beginning of another: what cannot be told apart
        # is not counted, and is at most one chunk.
        if begun or (between and self._heads_begun_here == 1):
            self._head_bytes += len(data)
        if self._head_bytes > self._limits.head_bytes_max:
            detail = f"request line and header fields have at most {self._limits.head_bytes_max} bytes"
            self._refuse(ProblemError("head-too-large", detail))
        else:
            self._arm_head_timer()

    def on_message_begin(self) -> None:
        self._between_requests = False
        self._head_begun = True
        self._head_bytes = 0
        self._heads_begun_here += 1
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        self._head_begun = False
        self._disarm_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._between_requests = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP/1.1 with a problem document, as every other error."""
        self._refuse(ProblemError("http-invalid", msg))

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_too_slow)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if not self._head_begun:  # nothing was asked, so nothing is answered
            self.transport.close()
            return
        detail = f"a request's head must arrive within {self._limits.head_timeout_s:g} s"
        self._refuse(ProblemError("request-timeout", detail))

    def _refuse(self, problem: ProblemError) -> None:
        """Answer outside of any request, and close."""
        content = problem.body()
        fields = [
            *problem.raw_headers(),
            (b"content-length", b"%d" % len(content)),
            (b"connection", b"close"),
        ]
        status = CATALOGUE[problem.code].status
        head = b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self.transport.write(head + lines + b"\r\n" + content)
        self.transport.close()
