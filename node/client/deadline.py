"""A deadline for a whole call, whatever the server does.

A timeout of ``httpx`` bounds one read of the socket. A server that sends a byte now and then, or ``100
Continue`` without end, holds such a client for as long as it likes. Here each wait for the network is bounded
by the time that is left of the call.
"""

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore
import httpx

# The bound of a wait when no time is left: the wait ends at once, and 0 would be an error of its own.
_OVER_S: Final = 0.001
OVER: Final = "no time is left"


class Deadline:
    """The time at which the present call must have ended.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: float | None = None

    def set(self, at: float) -> None:
        """Make the waits of the next call, or of the next attempt at it, end by ``at``."""
        self._at = at

    def left(self, timeout_s: float | None) -> float | None:
        """Return how long a wait may take: at most ``timeout_s``, and at most the time that is left."""
        if self._at is None:
            return timeout_s
        left_s = max(self._at - self._clock(), _OVER_S)
        return left_s if timeout_s is None else min(timeout_s, left_s)

    @property
    def over(self) -> bool:
        return self._at is not None and self._clock() >= self._at


class BoundedTransport(httpx.HTTPTransport):
    """HTTPS of which no wait goes beyond the deadline. It uses no proxy."""

    def __init__(self, context: ssl.SSLContext, deadline: Deadline) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=8,
            max_keepalive_connections=8,
            keepalive_expiry=5.0,  # well before the node closes an idle connection (10 s)
            network_backend=_Backend(deadline),
        )


def bounded_client(context: ssl.SSLContext, deadline: Deadline, timeout: httpx.Timeout) -> httpx.Client:
    """Return a client of which no wait goes beyond the deadline."""
    return httpx.Client(transport=BoundedTransport(context, deadline), timeout=timeout, trust_env=False)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Try each address of the host, all of them within what is left."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(f"cannot resolve {host}: {exc}") from exc
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for *_, address in found:
            if self._deadline.over:
                raise httpcore.ConnectTimeout(OVER)
            try:
                stream = self._inner.connect_tcp(
                    str(address[0]), port, self._deadline.left(timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
                continue
            return _Stream(stream, self._deadline)
        raise failure

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._deadline.over:
            raise httpcore.ReadTimeout(OVER)
        return self._inner.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._deadline.over:
            raise httpcore.WriteTimeout(OVER)
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        if self._deadline.over:
            raise httpcore.ConnectTimeout(OVER)
        stream = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
