"""HTTP/2 on the API's port: drives ``node.http2``, with the limits, places and application of HTTP/1.1.

A request whose client takes it back is as one whose connection closes over HTTP/1.1: its handler receives no
more of it, what it has given to the group goes on, and it counts until its handler has ended.
"""

import asyncio
import logging
from typing import Any, Final
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from attestation.background import Background
from node.api.body import too_large
from node.api.freshness import boot_time_s
from node.api.header_fields import FIELDS, read_header_fields
from node.api.http2_stream import Door, Fields, Http2Stream, OneCall, OneRequest, StreamAnswer, without_close
from node.api.limits import CHUNKS_MAX, DISCARD_BYTES_MAX, FIELDS_MAX, ApiLimits
from node.api.problems import ProblemError
from node.api.seat import Seat
from node.http2.connection import ServerConnection
from node.http2.errors import ErrorCode
from node.http2.events import (
    BodyReceived,
    ConnectionEnded,
    Event,
    PingAnswered,
    RequestBegun,
    RequestRefused,
    StreamReset,
)
from node.http2.fields import Http2Request
from node.http2.limits import Http2Limits
from node.places import Places, Room

logger = logging.getLogger(__name__)

# What one write hands to TLS: more waits in the queues of the streams until the socket takes it.
_WRITE_BYTES: Final = 64 * 1024
# A connection asks for a sign of life this often within the age that a keyed request may have.
_PINGS_PER_AGE: Final = 4
# Signs of life that are not answered yet. A client that reads only while it waits for answers collects some.
_PINGS_MAX: Final = 4


def http2_limits_of(limits: ApiLimits) -> Http2Limits:
    """Return the limits of a connection: those of HTTP/1.1 where it has them."""
    return Http2Limits(
        head_bytes_max=limits.head_bytes_max,
        fields_max=FIELDS_MAX,
        body_frames_max=CHUNKS_MAX,
        discard_bytes_max=DISCARD_BYTES_MAX,
    )


class Http2Protocol(asyncio.Protocol):
    """One connection.

    Args:
        config, server_state: of uvicorn's server.
        limits: of the API.
        places: of all connections.
        room: for all bodies.
        background: runs the handlers.
        loop: the running one.
        made_at: the ``boot_time_s`` before the TLS handshake.
        door: takes the requests that do not go to the application.
        clock: as ``boot_time_s``.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        limits: ApiLimits,
        places: Places[Seat],
        room: Room,
        background: Background,
        loop: asyncio.AbstractEventLoop,
        made_at: float,
        door: Door | None = None,
        clock: Any = boot_time_s,
    ) -> None:
        self._app = config.loaded_app
        self._server_state = server_state
        self._limits = limits
        self._room = room
        self._background = background
        self._loop = loop
        self._clock = clock
        self._seat = Seat(places, is_free=self._is_free, crowd_out=self._abort)
        self._core = ServerConnection(http2_limits_of(limits), loop.time())
        self._door = door
        self._streams: dict[int, Http2Stream | OneCall] = {}
        self._flush_due = False
        self._transport: asyncio.Transport
        self._last_head: Http2Request | None = None
        self._of_last_head: dict[str, Any] = {}
        self._read_paused = self._write_paused = self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._had_request = False
        self._idle_since = loop.time()
        # Every request that is read now was sent after this time (``node.api.freshness``).
        self._in_touch_at = made_at
        self._pings: dict[int, float] = {}  # when each was sent
        self._pinged_at = made_at
        self._ping_number = 0
        self._unfinished = _Unchanged(self._idle_since)
        self._unsent = _Unchanged(self._idle_since)

    # ---- the transport ---------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # has what uvicorn's server calls
        client = self.client = get_remote_addr(transport)
        self._of_connection: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "server": get_local_addr(transport),
            "client": client,
            "scheme": "https",
            "root_path": "",
        }
        try:
            self._seat.take(transport, client[0] if client else "unknown")
        except ProblemError as problem:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, problem.code, problem.detail)
            return
        self._flush()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._closing = True
        self._server_state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._seat.leave()
        for stream in list(self._streams.values()):
            stream.lose()

    def data_received(self, data: bytes) -> None:
        self._core.receive_data(data)
        self._work()

    def eof_received(self) -> None:
        """Close: TLS has no half-closed connections."""

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._flush()

    def shutdown(self) -> None:
        """Begin no further request, end those without end, and close once the others are answered."""
        for stream in list(self._streams.values()):
            stream.stop()
        self._core.go_away("stopping")
        self._flush()

    def _is_free(self) -> bool:
        return not self._streams

    def _abort(self) -> None:
        self._transport.abort()

    # ---- what the client sends ---------------------------------------------------------
    def _work(self) -> None:
        """Do one turn's work. While more is left, nothing is read, and others have their turn first."""
        if self._closing:
            return
        for event in self._core.next_events_untrusted(self._loop.time()):
            self._handle(event)
        self._keep_in_touch()
        self._flush()
        if self._core.work_left:
            self._read_paused = True
            self._transport.pause_reading()
            self._loop.call_soon(self._work)
        elif self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestBegun():
                self._begin(event)
            case BodyReceived(stream_id, data, ended):
                stream = self._streams.get(stream_id)
                if stream is None:  # a call that was refused by its head
                    self._core.body_read(stream_id, len(data))
                elif isinstance(stream, Http2Stream):
                    if not stream.lost:
                        self._take_body(stream, data, ended=ended)
                else:
                    stream.receive_body(data, ended=ended)
            case RequestRefused(stream_id, code, detail):
                self._refuse(stream_id, ProblemError(code, detail))
            case StreamReset(stream_id):
                if stream_id in self._streams:  # otherwise it was refused
                    self._streams[stream_id].lose()
            case PingAnswered(number):
                self._in_touch_at = self._pings[number]
                self._pings = {one: at for one, at in self._pings.items() if one > number}
            case ConnectionEnded(reason, detail):
                logger.debug("a client's HTTP/2 ended: %s, %s", reason, detail)
                self._close()

    def _begin(self, begun: RequestBegun) -> None:
        self._had_request = True
        if self._door is not None and self._door.opens(begun.head):
            self._core.limit_pings()
            call = self._door.begin(
                begun, self, seat=self._seat, room=self._room, sent_after=self._in_touch_at
            )
            self._streams[call.id] = call
            call.start()
            return
        stream = self._streams[begun.stream_id] = Http2Stream(
            begun,
            {**self._of_connection, **self._of_head(begun.head)},
            self,
            seat=self._seat,
            room=self._room,
            sent_after=self._in_touch_at,
            begun_at=self._loop.time(),
        )
        task = self._background.once("api-http2-request", self._run(stream))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def _of_head(self, head: Http2Request) -> dict[str, Any]:
        """Return what a scope has from a head. It is the same object if the client repeats it."""
        if head is not self._last_head:
            self._last_head, self._of_last_head = head, _of_head(head)
        return self._of_last_head

    async def _run(self, stream: Http2Stream) -> None:
        send = StreamAnswer(stream, self, self._core.is_sent, self._server_state.default_headers)
        try:
            await self._app(stream.scope, stream.receive, send)
        finally:
            self._ended(stream)
            self._flush()

    def _ended(self, request: OneRequest) -> None:
        self._server_state.total_requests += 1
        request.stay.end()
        del self._streams[request.id]
        self._core.handler_ended(request.id)
        self._idle_since = self._loop.time()

    def _take_body(self, stream: Http2Stream, data: bytes, *, ended: bool) -> None:
        if stream.stay.amount + len(data) > self._limits.body_bytes_max:
            self._refuse(stream.id, too_large(self._limits))
        elif not stream.stay.take(len(data)):
            detail = "the bodies of other requests leave no room for this one"
            self._refuse(stream.id, ProblemError("overloaded", detail))
        else:
            stream.receive_body(data, ended=ended)

    def _refuse(self, stream_id: int, problem: ProblemError) -> None:
        """Answer a request with a refusal, not through the application, and throw away the rest of it."""
        self._core.refuse(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None and self._core.is_answered(stream_id):
            return
        if stream is None or not (stream.answered or stream.lost):
            content = problem.body()
            fields, _ = without_close([*problem.raw_headers(), (b"content-length", b"%d" % len(content))])
            self._core.answer(stream_id, problem.status, fields, content)
        if stream is None:
            self._core.handler_ended(stream_id)
        else:
            stream.lose()

    # ---- what the streams need (``OfConnection``) ----------------------------------------
    def body_read(self, stream_id: int, size: int) -> None:
        """The handler has read this much of a body."""
        self._core.body_read(stream_id, size)
        self._flush()

    def go_on(self, stream_id: int) -> None:
        """Send ``100 Continue``."""
        self._core.go_on(stream_id)
        self._flush()

    def answer(self, stream_id: int, status: int, fields: Fields, body: bytes, *, last: bool) -> bool:
        """Answer a request; return whether all of it is on its way. ``last``: begin no further request."""
        self._core.answer(stream_id, status, fields, body)
        if last:
            self._core.go_away("closing")
        self._flush()
        return self._core.is_sent(stream_id)

    # ---- what the calls need (``OfCall``) ----------------------------------------------
    def run(self, call: OneCall) -> "asyncio.Task[None]":
        """Run the handler of a call. Its task may be cancelled."""
        task = self._background.once("api-call", call.run())
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)
        return task

    def ended(self, call: OneCall) -> None:
        """A call has ended. What else arrives of it is thrown away."""
        if not call.ended:
            self._core.refuse(call.id)
        self._ended(call)
        self._flush_soon()

    def message_read(self, stream_id: int) -> None:
        """A whole message of a body without end was read."""
        self._core.message_read(stream_id)

    def answer_call(self, stream_id: int, fields: Fields, body: bytes, trailers: Fields | None) -> None:
        """Answer a call whole."""
        self._core.answer(stream_id, 200, fields, body, trailers)
        self._flush_soon()

    def begin_answer(self, stream_id: int, fields: Fields) -> None:
        """Begin an answer in pieces."""
        self._core.begin_answer(stream_id, 200, fields)
        self._flush_soon()

    def send_piece(self, stream_id: int, data: bytes) -> int:
        """Send the next piece, and return how many bytes of the answer wait."""
        self._core.send_piece(stream_id, data)
        self._flush_soon()
        return self._core.unsent_bytes(stream_id)

    def finish_answer(self, stream_id: int, trailers: Fields) -> None:
        """End an answer in pieces."""
        self._core.finish_answer(stream_id, trailers)
        self._flush_soon()

    def unsent_bytes(self, stream_id: int) -> int:
        """Return how many bytes of an answer wait."""
        return self._core.unsent_bytes(stream_id)

    def is_sent(self, stream_id: int) -> bool:
        """Return whether all of an answer is on its way, or nobody wants it."""
        return self._core.is_sent(stream_id)

    # ---- what is sent ------------------------------------------------------------------
    def _flush_soon(self) -> None:
        """Send behind what else is done in this turn of the loop: in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        while not self._write_paused and not self._closing:
            data = self._core.data_to_send(_WRITE_BYTES)
            if not data:
                break
            self._transport.write(data)
            for stream in self._streams.values():
                if stream.answered:
                    stream.wake()
        if self._core.finished:
            self._close()

    def _close(self) -> None:
        if not self._closing:
            self._transport.write(self._core.data_to_send(_WRITE_BYTES))
            self._closing = True
            self._transport.close()

    def _end(self, code: ErrorCode, reason: str, detail: str) -> None:
        self._handle(self._core.end(code, reason, detail))

    def _keep_in_touch(self) -> None:
        """Ask for a sign of life, now and then: requests behind its answer were sent after it was asked for.

        Over HTTP/1.1 an answer proves as much, because a client that repeats commands waits for it. Here
        requests do not wait for each other.
        """
        now = self._clock()
        if now - self._pinged_at >= self._touch_s and len(self._pings) < _PINGS_MAX:
            self._ping_number += 1
            self._pings[self._ping_number] = self._pinged_at = now
            self._core.ping(self._ping_number)

    @property
    def _touch_s(self) -> float:
        return self._limits.keyed_age_s_max / _PINGS_PER_AGE

    # ---- time ----------------------------------------------------------------------------
    def _look(self) -> None:
        """Look now and then whether a limit in time has passed. No frame sets a timer."""
        self._timer = None
        if self._closing:
            return
        now, limits = self._loop.time(), self._limits
        self._unfinished.look(self._core.unfinished, now)
        self._unsent.look(self._core.answer_bytes_sent if self._core.unsent else None, now)
        for stream in list(self._streams.values()):
            if not (stream.ended or stream.lost or stream.answered or stream.endless) and (
                now - stream.begun_at >= limits.body_timeout_s
            ):
                detail = f"a request's body must arrive within {limits.body_timeout_s:g} s"
                self._refuse(stream.id, ProblemError("request-timeout", detail))
        if self._unfinished.for_s(now) >= limits.head_timeout_s:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "request-timeout", "a part of a frame or head is missing")
        elif self._unsent.for_s(now) >= limits.body_timeout_s:
            self._transport.abort()
        elif not self._streams and now - self._idle_since >= self._idle_s_max:
            self._core.go_away("idle")
        self._keep_in_touch()
        self._flush()
        if not self._closing:
            self._timer = self._loop.call_later(self._look_again_s(now), self._look)

    def _look_again_s(self, now: float) -> float:
        limits = self._limits
        soon = min(self._touch_s, limits.head_timeout_s / 2, limits.body_timeout_s / 2)
        if self._streams:
            return min(soon, limits.idle_s_max)
        return min(soon, max(self._idle_since + self._idle_s_max - now, 0.001))

    @property
    def _idle_s_max(self) -> float:
        limits = self._limits
        return limits.idle_s_max if self._had_request else min(limits.idle_s_max, limits.head_timeout_s)


class _Unchanged:
    """For how long a value has been the same, as far as it was looked at."""

    def __init__(self, now: float) -> None:
        self._value: int | None = None
        self._since = now

    def look(self, value: int | None, now: float) -> None:
        if value is None or value != self._value:
            self._value, self._since = value, now

    def for_s(self, now: float) -> float:
        return now - self._since if self._value is not None else 0.0


def _of_head(head: Http2Request) -> dict[str, Any]:
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii")
    return {
        "headers": head.fields,
        FIELDS: read_header_fields(head.fields),
        "method": head.method.decode("ascii"),
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
    }
