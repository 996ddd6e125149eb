"""One request over HTTP/2, as ASGI sees it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from node.api.access import VOUCHED
from node.api.answer import WholeSend
from node.api.freshness import SENT_AFTER
from node.api.seat import Seat
from node.http2.events import RequestBegun
from node.http2.fields import Http2Request
from node.places import Room, Stay, Usage

_CLOSE: Final = (b"connection", b"close")
Fields = list[tuple[bytes, bytes]]


def without_close(fields: Fields) -> tuple[Fields, bool]:
    """Return the fields of an answer as HTTP/2 has them, and whether it is the last of its connection."""
    kept = [field for field in fields if field != _CLOSE]
    return kept, len(kept) < len(fields)


class OneRequest(Protocol):
    """What a connection needs of a request: ``Http2Stream``, or a call of gRPC (``Door``).

    Attributes:
        endless: its body may go on for as long as the client likes.
    """

    id: int
    ended: bool
    lost: bool
    answered: bool
    begun_at: float
    endless: bool
    stay: Stay

    def lose(self) -> None: ...
    def wake(self) -> None: ...
    def stop(self) -> None: ...


class OneCall(OneRequest, Protocol):
    """A request that does not go to the application."""

    def start(self) -> None: ...
    def receive_body(self, data: bytes, *, ended: bool) -> None: ...
    async def run(self) -> None: ...


class Door(Protocol):
    """Takes the requests that do not go to the application."""

    def opens(self, head: Http2Request) -> bool: ...
    def begin(
        self, begun: RequestBegun, connection: "OfCall", *, seat: Seat, room: Room, sent_after: float
    ) -> OneCall: ...
    def usages(self) -> tuple[Usage, ...]: ...


class OfCall(Protocol):
    """What a call needs of its connection."""

    client: tuple[str, int] | None

    def body_read(self, stream_id: int, size: int) -> None: ...
    def message_read(self, stream_id: int) -> None: ...
    def run(self, call: OneCall) -> "asyncio.Task[None]": ...
    def ended(self, call: OneCall) -> None: ...
    def answer_call(self, stream_id: int, fields: Fields, body: bytes, trailers: Fields | None) -> None: ...
    def begin_answer(self, stream_id: int, fields: Fields) -> None: ...
    def send_piece(self, stream_id: int, data: bytes) -> int: ...
    def finish_answer(self, stream_id: int, trailers: Fields) -> None: ...
    def unsent_bytes(self, stream_id: int) -> int: ...
    def is_sent(self, stream_id: int) -> bool: ...


class OfConnection(Protocol):
    """What a request needs of its connection."""

    def body_read(self, stream_id: int, size: int) -> None: ...
    def go_on(self, stream_id: int) -> None: ...
    def answer(self, stream_id: int, status: int, fields: Fields, body: bytes, *, last: bool) -> bool: ...


class Http2Stream:
    """A request and its body. The body holds its share of the room until the handler has ended.

    Attributes:
        begun_at: when its head was complete, in seconds of the loop's clock.
        ended: all of the body has been received.
        lost: the client, or the server, has given the request up.
        answered: an answer was given to the connection.
        stay: what the body holds of the room.
    """

    def __init__(
        self,
        begun: RequestBegun,
        scope: dict[str, Any],
        connection: OfConnection,
        *,
        seat: Seat,
        room: Room,
        sent_after: float,
        begun_at: float,
    ) -> None:
        self.id = begun.stream_id
        self.ended = begun.ended
        self.begun_at = begun_at
        self.lost = self.answered = self.endless = False
        self.stay = Stay(room, seat.caller)
        self.scope = scope
        self._seat = seat
        self._connection = connection
        self._expects_continue = begun.head.expects_continue
        self._body = bytearray()
        self._delivered = False  # all of the body was received and handed on
        self._waiting: asyncio.Future[None] | None = None
        scope["extensions"] = seat.extensions
        scope["state"] = {SENT_AFTER: sent_after, VOUCHED: [self._vouched]}

    def _vouched(self, credential: bytes) -> None:
        self._seat.vouched(credential, self.stay)

    def receive_body(self, data: bytes, *, ended: bool) -> None:
        """Take the next bytes of the body, for which ``stay`` has room."""
        self._body += data
        self.ended = ended
        self.wake()

    def lose(self) -> None:
        """The request is given up: its handler receives no more of it, and its answer goes nowhere."""
        self.lost = True
        self.wake()

    def stop(self) -> None:
        """The node stops: the request is answered all the same."""

    def wake(self) -> None:
        """Look again: something has been received, sent, or given up."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        while not (self.lost or self.answered or self._body or (self.ended and not self._delivered)):
            if self._expects_continue:
                self._expects_continue = False
                self._connection.go_on(self.id)
            await self._wait()
        if self.lost or self.answered:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._delivered = self.ended
        if not self.ended:
            self._connection.body_read(self.id, len(body))
        return {"type": "http.request", "body": body, "more_body": not self.ended}

    async def sent(self, is_sent: Callable[[int], bool]) -> None:
        """Return when all of the answer is on its way, or nobody wants it any more."""
        while not self.lost and not is_sent(self.id):
            await self._wait()

    async def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


class StreamAnswer(WholeSend):
    """The answer to one request.

    Until all of it is on its way, its handler has not ended. It counts as a request: what waits for clients
    that do not read is bounded as everything else that requests hold.

    Args:
        stream: the request.
        connection: of the request.
        is_sent: whether nothing of an answer waits any more.
        default_headers: of every answer.
    """

    __slots__ = ("_connection", "_default_headers", "_is_sent", "_stream")

    def __init__(
        self,
        stream: Http2Stream,
        connection: OfConnection,
        is_sent: Callable[[int], bool],
        default_headers: list[tuple[bytes, bytes]],
    ) -> None:
        super().__init__()
        self._stream = stream
        self._connection = connection
        self._is_sent = is_sent
        self._default_headers = default_headers

    async def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send head and body at once. What closes a connection of HTTP/1.1 takes no further request here."""
        stream = self._stream
        if stream.lost or stream.answered:
            return
        stream.answered = True
        fields, last = without_close([*self._default_headers, *headers])
        length = (b"content-length", b"%d" % len(body))
        assert length in fields, "an answer is complete and declares its length"
        if stream.scope["method"] == "HEAD":
            body = b""
        if not self._connection.answer(stream.id, status, fields, body, last=last):
            await stream.sent(self._is_sent)
