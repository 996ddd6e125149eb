"""Which version of HTTP a connection speaks: TLS has agreed on it with ALPN (RFC 7301)."""

import asyncio
from collections.abc import Callable
from typing import Final

from node.api.freshness import boot_time_s

HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
# In this order: clients that offer both get HTTP/2. Without ALPN a client gets HTTP/1.1.
OFFERED: Final = (HTTP2, HTTP1)
ProtocolOf = Callable[[float], asyncio.Protocol]


class ByAlpn(asyncio.Protocol):
    """Is there from before the TLS handshake until its end, and hands the connection on.

    Args:
        http1, http2: make the protocol of a connection, given the ``boot_time_s`` before its handshake.
    """

    def __init__(self, http1: ProtocolOf, http2: ProtocolOf) -> None:
        self._http1 = http1
        self._http2 = http2
        self._made_at = boot_time_s()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        tls = transport.get_extra_info("ssl_object")
        chosen = self._http2 if tls.selected_alpn_protocol() == HTTP2 else self._http1
        protocol = chosen(self._made_at)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
