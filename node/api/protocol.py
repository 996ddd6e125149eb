"""uvicorn's HTTP/1.1 protocol, with limits on what arrives, and with the client's certificate.

``node.api.requests`` reads every head first and decides where its request ends. The parser receives one
request at a time. If the parser finds another end, the connection is closed before the node acts on it.

uvicorn arms its idle timer only between requests and sets no limit within one. A client that sends half a
head, half a body, or an endless head would otherwise hold a connection and its memory without end.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from node.api.access import VOUCHED
from node.api.answer import WholeAnswer
from node.api.freshness import SENT_AFTER, boot_time_s
from node.api.header_fields import FIELDS
from node.api.limits import PIPELINED_MAX, ApiLimits
from node.api.problems import CATALOGUE, ProblemError
from node.api.requests import BadRequestError, Piece, RequestReader
from node.api.seat import Seat
from node.places import Places, Room, Stay

# What a request's scope has from its head and its connection.
_OF_HEAD: Final = (
    "type",
    "asgi",
    "http_version",
    "server",
    "client",
    "scheme",
    "root_path",
    "headers",
    "method",
    "path",
    "raw_path",
    "query_string",
)


class TooManyPipelinedError(Exception):
    """Ends the parsing of a connection whose client has sent too many requests ahead of the answers."""


class SecondReadingError(Exception):
    """The parser found the beginning of a request where ``node.api.requests`` found none."""


class ApiProtocol(HttpToolsProtocol):
    """One connection.

    A request's body keeps its share of the room until the answer is complete: until then the body, or the
    values decoded from it, are in memory.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ApiLimits,
        places: Places[Seat],
        room: Room,
        loop: asyncio.AbstractEventLoop,
        made_at: float,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._limits = limits
        self._room = room
        self._seat = Seat(places, is_free=self._is_free, crowd_out=self._abort)
        self._held: deque[Stay] = deque()  # bytes of the room, by request, oldest first
        self._had_request = False
        self._between_requests = True
        self._head_begun = False
        self._reader = RequestReader(limits.head_bytes_max)
        self._may_begin = False  # a request begins in the piece that the parser is given
        self._last_request = False
        self._body: list[bytes] = []  # of the piece that the parser is given
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0  # the loop's time, seconds
        self._clock = clock
        # The client sent the next request after this time: at first the time before the TLS handshake,
        # whose last message the network may hold back together with the first request.
        self._in_touch_at = made_at
        self._of_head: dict[str, Any] | None = None  # what a scope has from the last head, once it came again

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        ip = self.client[0] if self.client else "unknown"
        try:
            self._seat.take(transport, ip)
        except ProblemError as problem:
            self._refuse(problem)
            return
        self._arm(self._limits.head_timeout_s, self._head_too_slow)

    def _is_free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _abort(self) -> None:
        self.transport.abort()

    def _vouched(self, credential: bytes) -> None:
        """The caller of the request that is being answered has shown this credential."""
        self._seat.vouched(credential, self._held[0] if self._held else None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._seat.leave()
        for stay in self._held:
            stay.end()
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.receive_data(data)
        try:
            while not self.transport.is_closing():
                piece = reader.next_piece_untrusted()
                if piece is None:
                    break
                self._parse(piece)
        except BadRequestError as exc:
            self._begin_head()
            self._refuse(ProblemError(exc.code, exc.detail))
        if self.transport.is_closing():
            return
        if reader.in_head:
            self._begin_head()
            self._arm(self._limits.head_timeout_s, self._head_too_slow)
        elif not self._between_requests:
            self._arm(self._limits.body_timeout_s, self._body_too_slow)

    def _begin_head(self) -> None:
        if self._between_requests:
            self._head_begun, self._between_requests = True, False

    def _parse(self, piece: Piece) -> None:
        """Give the parser the bytes of one request, and no others."""
        if piece.repeated and not self.expect_100_continue and not self.pipeline:
            self._begin_again(piece)
            return
        if piece.head is not None:
            self._may_begin, self._last_request = True, piece.head.last
        super().data_received(piece.data)
        if self._body:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
            self._take_body(body)
        if self.transport.is_closing():
            return
        if self._may_begin or self._head_begun or self._between_requests is not piece.ends:
            self.send_400_response("parsers could read this request in two ways")

    def _begin_again(self, piece: Piece) -> None:
        """Begin a whole request whose head is the last one that the parser took, but for a few values.

        Most clients repeat a head, and its parser would find the same in it. Its body is as long as it says.
        """
        last: dict[str, Any] = self.scope  # type: ignore[assignment]
        of_head = self._of_head
        if of_head is None:
            of_head = self._of_head = {name: last[name] for name in _OF_HEAD}
        fields = last.get(FIELDS)
        if piece.changed:
            headers = of_head["headers"] = of_head["headers"].copy()
            for number, value in piece.changed.items():
                headers[number] = (headers[number][0], value)
            if fields is not None:
                of_head[FIELDS] = fields.changed_to(headers, piece.changed)
        elif fields is not None:
            of_head[FIELDS] = fields
        self.scope = of_head.copy()  # type: ignore[assignment]
        self._complete_scope()
        before = self.cycle
        assert piece.head is not None
        cycle = self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=not piece.head.last,
            on_response=self.on_response_complete,
        )
        self._held.append(Stay(self._room, self._seat.caller))
        if before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        self._between_requests = False
        if piece.head.body_bytes:
            self._body.append(piece.data[piece.repeated :])
        self.on_message_complete()

    def on_message_begin(self) -> None:
        if not self._may_begin:
            raise SecondReadingError
        self._may_begin = False
        if len(self.pipeline) >= PIPELINED_MAX:
            raise TooManyPipelinedError
        self._between_requests = False
        self._head_begun = True
        self._of_head = None
        super().on_message_begin()
        self._complete_scope()

    def _complete_scope(self) -> None:
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = self._seat.extensions  # of the connection
        scope["state"] = {SENT_AFTER: self._in_touch_at, VOUCHED: [self._vouched]}

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # raises if the target is malformed: the head stays open
        if self._last_request:
            self.cycle.keep_alive = False
        self._had_request = True
        self._head_begun = False
        self._held.append(Stay(self._room, self._seat.caller))
        self._disarm()

    def on_body(self, body: bytes) -> None:
        # Many small chunks are passed on as one: for each chunk uvicorn would copy all earlier ones.
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._body:
            body = b"".join(self._body)
            self._body.clear()
            self._take_body(body)
        self._between_requests = True
        self._disarm()
        super().on_message_complete()

    def _take_body(self, body: bytes) -> None:
        if self.cycle.response_complete or self.transport.is_closing():
            return
        # Bytes over the limit of one body are thrown away (``node.api.body``) and take no room.
        held = self._held[-1]
        size = min(len(body), self._limits.body_bytes_max - held.amount)
        if not held.take(size):
            self._refuse(
                ProblemError("overloaded", "the bodies of other requests leave no room for this one")
            )
            return
        super().on_body(body)

    def on_response_complete(self) -> None:
        if self._held:  # nothing is held any more if the connection was lost meanwhile
            self._held.popleft().end()
        self.server_state.total_requests += 1
        self._in_touch_at = self._clock()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self._limits.idle_s_max, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        """Close a connection whose client sends no more requests.

        uvicorn sets a timer for each answer and cancels it for each request. This timer looks now and then.
        """
        self._idle_timer = None
        idle = self._between_requests and self.cycle.response_complete
        if self.transport.is_closing() or not idle:
            return  # the next answer sets it again
        left_s = self._idle_since + self._limits.idle_s_max - self.loop.time()
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._look_whether_idle)
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        def answered_whole(scope: Any, receive: Any, _send: Any) -> Awaitable[None]:
            return app(scope, receive, WholeAnswer(cycle, self.server_state.default_headers))

        super()._start_asgi_task(cycle, answered_whole)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP/1.1 with a problem document, as for every other error."""
        self._refuse(ProblemError("http-invalid", msg))

    def _unsupported_upgrade_warning(self) -> None:
        """End the connection: the parser stopped because it found the beginning of another protocol."""
        self.send_400_response("parsers could read this request in two ways")

    def _arm(self, limit_s: float, callback: Callable[[], None]) -> None:
        """Start the timer of this head or body, unless it runs already."""
        if self._timer is None:
            self._timer = self.loop.call_later(limit_s, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._head_begun:  # there is no request to answer
            self.transport.close()
            return
        detail = f"a request's head must arrive within {self._limits.head_timeout_s:g} s"
        self._refuse(ProblemError("request-timeout", detail))

    def _body_too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        detail = f"a request's body must arrive within {self._limits.body_timeout_s:g} s"
        self._refuse(ProblemError("request-timeout", detail))

    def _refuse(self, problem: ProblemError) -> None:
        """Answer the message that is being read with a refusal, not through the application, and close."""
        if not self._may_answer():
            self.transport.close()
            return
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

    def _may_answer(self) -> bool:
        """Return whether the client would read an answer sent now as the one to the request being read."""
        if not self._had_request:
            return True
        if self._head_begun or self._between_requests:
            return self.cycle.response_complete
        return not self.pipeline and not self.cycle.response_started
