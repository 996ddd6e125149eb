"""Keep-alive HTTPS clients that cost little, so that the measurement is of the server.

Each client sends its next request when it has received the answer to the last one (closed loop).
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from functools import partial


@dataclass
class Load:
    """The results of one run. Latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    first_failure: str = ""


class Client(asyncio.Protocol):
    def __init__(self, load: Load, request: bytes, deadline: float) -> None:
        self._load = load
        self._request = request
        self._deadline = deadline
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        if self._sent > self._deadline:
            self._transport.close()
            return
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head, separator, body = buffer.partition(b"\r\n\r\n")
        if not separator:
            self._buffer = buffer
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(body) < length:
            self._buffer = buffer
            return
        self._buffer = b""
        if head.startswith(b"HTTP/1.1 200"):
            self._load.latencies.append(time.perf_counter() - self._sent)
        else:
            self._load.failures += 1
            self._load.first_failure = self._load.first_failure or buffer[:300].decode(errors="replace")
        self._next()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def post(path: str, body: bytes, *, token: str | None, host: str = "127.0.0.1") -> bytes:
    """Return one HTTP/1.1 request's bytes."""
    authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def run_load(
    requests: list[bytes], *, port: int, tls: ssl.SSLContext, seconds: float
) -> tuple[Load, float]:
    """Run one client per request for this many seconds; return their results and the seconds it took."""
    load = Load()
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    clients = []
    for request in requests:
        _, client = await loop.create_connection(
            partial(Client, load, request, start + seconds),
            "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1",
        )  # fmt: skip
        clients.append(client)
    await asyncio.wait([client.done for client in clients])
    return load, time.perf_counter() - start
