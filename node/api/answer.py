"""An answer that leaves as one piece: over HTTP/1.1 one write, one TLS record, one system call.

uvicorn looks at every header field of an answer, and writes head and body separately. Every answer of this
API is whole and states its length.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_CLOSE: Final = (b"connection", b"close")


class WholeSend(ABC):
    """ASGI's ``send`` for one request: keeps the head until the body is there."""

    __slots__ = ("_head",)

    def __init__(self) -> None:
        self._head: Any = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        assert self._head is not None, "an answer begins with its head"
        await self.whole(self._head["status"], self._head["headers"], message.get("body", b""))

    @abstractmethod
    async def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send head and body at once."""


class WholeAnswer(WholeSend):
    """The answer to one request of uvicorn's.

    Args:
        cycle: the request. This class writes the state of the answer there, where uvicorn looks for it.
        default_headers: of every answer.
    """

    __slots__ = ("_cycle", "_default_headers")

    def __init__(self, cycle: RequestResponseCycle, default_headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__()
        self._cycle = cycle
        self._default_headers = default_headers

    async def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send head and body at once."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        head = self._head_bytes(status, headers, len(body))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(head if cycle.scope["method"] == "HEAD" else head + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def _head_bytes(self, status: int, headers: Sequence[tuple[bytes, bytes]], length: int) -> bytes:
        cycle = self._cycle
        fields = [*self._default_headers, *headers]
        if _CLOSE in fields:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            fields.append(_CLOSE)
        lines = list(map(b": ".join, fields))
        assert (b"content-length", b"%d" % length) in fields, "an answer is complete and declares its length"
        text = STATUS_LINE[status] + b"\r\n".join(lines)
        # Text with a line break could add a field, or a whole answer, of an attacker's making.
        assert text.count(b"\n") == text.count(b"\r") == len(lines), "a header field has a line break"
        return text + b"\r\n\r\n"
