"""One connection of a server: bytes and the time in, events and bytes out (RFC 9113).

What a client sends is counted before it is acted on. What is not a request, or not a good one, either costs
a part of the connection's ration, or ends the connection: no frame makes this server reset a stream and go on
for free (CVE-2025-8671), except for the refusal of a request, which costs too.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from node.http2 import ration
from node.http2.answers import Answers
from node.http2.errors import BadFieldsError, ConnectionFaultError, ErrorCode, HeadTooLargeError
from node.http2.events import (
    BodyReceived,
    ConnectionEnded,
    Event,
    PingAnswered,
    RequestBegun,
    RequestRefused,
    StreamReset,
)
from node.http2.fields import Fields, HeaderDecoder, Http2Request, encode_answer, read_request_untrusted
from node.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    PRIORITY,
    WINDOW_MAX,
    Frame,
    FrameCutter,
    Kind,
    Setting,
    frame_of,
    goaway_frame,
    invalid,
    read_settings_untrusted,
    reset_frame,
    settings_frame,
    unpadded,
    window_frame,
    word_of,
)
from node.http2.limits import Http2Limits
from node.http2.ration import FrameRation, PingStrikes
from node.http2.stream import Stream

DEFAULT_WINDOW: Final = 65535  # of both sides before any SETTINGS (RFC 9113 6.9.2)
# What one call of ``next_events_untrusted`` does: this many frames, or fewer with header blocks. A block is
# worth its bytes, and what the driver does for the request that it begins.
WORK_PER_TURN: Final = 256
WORK_OF_REQUEST: Final = 8
BLOCK_BYTES_PER_WORK: Final = 64
# Streams that this server ended before the client did: what is on its way on them is thrown away.
_ENDED_HERE_MAX: Final = 256
_PRIORITY_BYTES: Final = 5
_PING_BYTES: Final = 8


class _Block(Struct):
    """A header block that goes on in CONTINUATION frames."""

    stream_id: int
    ends_stream: bool
    number: int  # of its first frame on the connection
    parts: list[bytes]
    size: int


class ServerConnection(Answers):
    """The server's side.

    Args:
        limits: on all of it.
        now_s: the time now, in seconds of any monotonic clock.
    """

    def __init__(self, limits: Http2Limits, now_s: float) -> None:
        super().__init__()
        self._limits = limits
        self._reader = FrameCutter()
        self._decoder = HeaderDecoder(limits.head_bytes_max)
        self._ration = FrameRation(limits.ration, limits.ration_per_s, now_s)
        self._ended_here: dict[int, None] = {}
        self._last_id = 0  # the highest that the client has used
        self._block: _Block | None = None
        self._readers: dict[int, Callable[[Frame, list[Event]], None]] = {
            Kind.DATA: self._data,
            Kind.HEADERS: self._headers,
            Kind.CONTINUATION: self._continuation,
            Kind.WINDOW_UPDATE: self._window_update,
            Kind.RST_STREAM: self._rst_stream,
            Kind.SETTINGS: self._settings,
            Kind.PING: self._ping,
            Kind.GOAWAY: self._goaway,
            Kind.PRIORITY: self._priority,
            Kind.PUSH_PROMISE: self._push_promise,
        }
        self._now_s = now_s
        self._strikes = PingStrikes()
        self._last_fields: Fields = []
        self._last_head: Http2Request | None = None
        self._prefaced = self._had_settings = False
        self._going = False  # one side goes away: no further request begins
        self._farewell_reason: str | None = None
        self._number = 0  # of frames read
        self._may_receive = limits.connection_window
        self._owed = 0
        self._may_send = self._window_of_streams = DEFAULT_WINDOW
        self._farewell = b""  # behind all answers
        self._pings: set[int] = set()
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._control_frame(
            settings_frame(
                {
                    Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
                    Setting.MAX_HEADER_LIST_SIZE: limits.head_bytes_max,
                }
            )
        )
        self._control_frame(window_frame(0, limits.connection_window - DEFAULT_WINDOW))
        self.ended = self.work_left = False
        self.answer_bytes_sent = 0

    # ---- what the driver sees ------------------------------------------------------
    @property
    def finished(self) -> bool:
        """Whether one side goes away and nothing is left to be answered."""
        return self._going and all(one.handled and one.sent for one in self._streams.values())

    @property
    def unsent(self) -> bool:
        """Whether something waits for the client to read or to grant a window."""
        return bool(self._control) or any(one.waits for one in self._streams.values())

    @property
    def unfinished(self) -> int | None:
        """A number of the frame or header block of which a part is missing; None: of none, or of a body."""
        if self._block is not None:
            return self._block.number
        begun = self._reader.begun
        return None if begun is None or begun == Kind.DATA else self._number + 1

    # ---- what the client sends -----------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the connection."""
        if not self.ended:
            self._reader.receive_data(data)

    def next_events_untrusted(self, now_s: float) -> list[Event]:
        """Return what the bytes are, up to a turn's work; ``work_left``: call again before more bytes."""
        events: list[Event] = []
        self.work_left = False
        if self.ended:
            return events
        self._ration.advance(now_s)
        self._now_s = now_s
        try:
            self._read_turn(events)
        except HeadTooLargeError:
            detail = f"header fields have at most {self._limits.head_bytes_max} bytes"
            stream = self._streams.get(self._last_id)
            if stream is not None and stream.head_unread:
                events.append(RequestRefused(stream.id, "head-too-large", detail))
            events.append(self.end(ErrorCode.ENHANCE_YOUR_CALM, "head-too-large", detail))
        except ConnectionFaultError as fault:
            events.append(self.end(fault.code, fault.reason, fault.detail))
        return events

    def _read_turn(self, events: list[Event]) -> None:
        if not self._prefaced and not self._reader.take(PREFACE):
            return
        self._prefaced = True
        self._work = WORK_PER_TURN
        while self._work > 0:
            frame = self._reader.next_frame_untrusted()
            if frame is None:
                return
            self._work -= 1
            self._number += 1
            self._read_frame(frame, events)
            if self._control_bytes > self._limits.control_bytes_max:
                raise ConnectionFaultError(
                    ErrorCode.ENHANCE_YOUR_CALM,
                    "send-queue-full",
                    "the client does not read what it asks for",
                )
        self.work_left = self._reader.has_frame

    def _read_frame(self, frame: Frame, events: list[Event]) -> None:
        kind = frame.kind
        if self._block is not None and (
            kind != Kind.CONTINUATION or frame.stream_id != self._block.stream_id
        ):
            raise invalid("a header block is not interrupted")
        if not self._had_settings:
            if kind != Kind.SETTINGS or frame.flags & ACK:
                raise ConnectionFaultError(
                    ErrorCode.PROTOCOL_ERROR, "preface-invalid", "SETTINGS is the first frame"
                )
            self._had_settings = True
        reader = self._readers.get(kind)
        if reader is None:
            self._ration.spend(ration.FRAME)
        else:
            reader(frame, events)

    # ---- requests --------------------------------------------------------------------
    def _headers(self, frame: Frame, events: list[Event]) -> None:
        if frame.stream_id % 2 == 0:
            raise invalid("a client's stream has an odd number")
        fragment = unpadded(frame)
        if frame.flags & PRIORITY:
            if len(fragment) < _PRIORITY_BYTES:
                raise invalid("a HEADERS frame is too short for its priority", ErrorCode.FRAME_SIZE_ERROR)
            fragment = fragment[_PRIORITY_BYTES:]
        ends = bool(frame.flags & END_STREAM)
        if frame.flags & END_HEADERS:
            self._block_read(frame.stream_id, fragment, events, ends=ends)
            return
        self._block = _Block(frame.stream_id, ends, self._number, [fragment], len(fragment))

    def _continuation(self, frame: Frame, events: list[Event]) -> None:
        block = self._block
        if block is None:
            raise invalid("there is no header block to continue")
        self._ration.spend(ration.FRAME)
        block.parts.append(frame.payload)
        block.size += len(frame.payload)
        if block.size > self._limits.head_bytes_max or len(block.parts) > self._limits.continuations_max + 1:
            if block.stream_id > self._last_id:
                self._open(block.stream_id, ends=block.ends_stream)
            raise HeadTooLargeError
        if frame.flags & END_HEADERS:
            self._block = None
            self._block_read(block.stream_id, b"".join(block.parts), events, ends=block.ends_stream)

    def _block_read(self, stream_id: int, block: bytes, events: list[Event], *, ends: bool) -> None:
        self._work -= WORK_OF_REQUEST + len(block) // BLOCK_BYTES_PER_WORK
        if stream_id <= self._last_id:
            self._read_again(stream_id, block, events, ends=ends)
            return
        stream = self._open(stream_id, ends=ends)
        fields = self._decoder.decode_untrusted(block)
        if stream is None:
            return
        stream.head_unread = False
        try:
            head = self._last_head
            if head is None or fields != self._last_fields:  # most clients repeat a head: it is read once
                head = self._last_head = read_request_untrusted(fields, self._limits.fields_max)
                self._last_fields = fields
            if ends and head.body_bytes:
                raise BadFieldsError("Content-Length declares a body, and there is none")
        except BadFieldsError as exc:
            self._refuse(stream, exc, events)
            return
        stream.declared = head.body_bytes
        events.append(RequestBegun(stream_id, head, ends))

    def _open(self, stream_id: int, *, ends: bool) -> Stream | None:
        """Return the stream of a new request; None: it is refused, and the client may ask elsewhere."""
        self._last_id = stream_id
        if self._going or len(self._streams) >= self._limits.streams_max:
            self._ration.spend(ration.RESET)
            self._end_here(stream_id, ErrorCode.REFUSED_STREAM)
            return None
        stream = self._streams[stream_id] = Stream(
            stream_id, may_send=self._window_of_streams, may_receive=self._limits.stream_window
        )
        stream.request_ended = ends
        return stream

    def _read_again(self, stream_id: int, block: bytes, events: list[Event], *, ends: bool) -> None:
        """Read a header block on a stream that is not new: the trailer fields of a request."""
        stream = self._streams.get(stream_id)
        if stream_id in self._ended_here:
            self._ration.spend(ration.FRAME)
        elif stream is None or stream.request_ended or stream.reset:
            raise invalid("this stream has ended", ErrorCode.STREAM_CLOSED)
        self._decoder.decode_untrusted(block)  # the state of the compression goes on
        if stream is None or stream.reset:
            return
        stream.request_ended = ends
        self._forget_if_over(stream)
        if not stream.unwanted:
            self._refuse(stream, BadFieldsError("a request's body ends without trailer fields"), events)

    def _refuse(self, stream: Stream, exc: BadFieldsError, events: list[Event]) -> None:
        self._ration.spend(ration.RESET)
        no_request = exc.code == "http-invalid"
        stream.refused = ErrorCode.PROTOCOL_ERROR if no_request else ErrorCode.NO_ERROR
        events.append(RequestRefused(stream.id, exc.code, exc.detail))

    def _data(self, frame: Frame, events: list[Event]) -> None:
        size = len(frame.payload)
        stream = self._streams.get(frame.stream_id)
        self._may_receive -= size
        if self._may_receive < 0:
            raise _window_exceeded()
        data = unpadded(frame)
        self._give_window(size)
        ends = bool(frame.flags & END_STREAM)
        if frame.stream_id in self._ended_here:
            self._ration.spend(ration.FRAME)
            return
        if stream is None or stream.request_ended or stream.reset:
            if frame.stream_id == 0 or frame.stream_id > self._last_id:
                raise invalid("DATA is for a stream that was opened")
            raise invalid("this stream has ended", ErrorCode.STREAM_CLOSED)
        stream.may_receive -= size
        if stream.may_receive < 0:
            raise _window_exceeded()
        stream.request_ended = ends
        if stream.unwanted:
            self._discard(stream, size)
            return
        if not data and not ends:
            self._ration.spend(ration.FRAME)
            self.body_read(stream.id, size)
            return
        stream.frames += 1
        stream.received += len(data)
        self.body_read(stream.id, size - len(data))
        self._body_part(stream, data, events)

    def _discard(self, stream: Stream, size: int) -> None:
        """Throw a part of a body away, and let the client go on: some read answers only behind it."""
        if size < ration.SMALL_BYTES:
            self._ration.spend(ration.FRAME)
        stream.discarded += size
        if stream.discarded > self._limits.discard_bytes_max:
            stream.drop()
            self._end_here(stream.id, ErrorCode.NO_ERROR)
        else:
            self.body_read(stream.id, size)
        self._forget_if_over(stream)

    def _body_part(self, stream: Stream, data: bytes, events: list[Event]) -> None:
        declared, ends = stream.declared, stream.request_ended
        if stream.frames > self._limits.body_frames_max:
            detail = f"a body comes in at most {self._limits.body_frames_max} DATA frames"
            self._refuse(stream, BadFieldsError(detail, "body-too-large"), events)
        elif declared is not None and (stream.received > declared or (ends and stream.received < declared)):
            self._refuse(stream, BadFieldsError("the body is as long as Content-Length declares"), events)
        else:
            events.append(BodyReceived(stream.id, data, ends))

    # ---- other frames ------------------------------------------------------------------
    def _rst_stream(self, frame: Frame, events: list[Event]) -> None:
        word_of(frame)
        self._require_used(frame)
        stream = self._streams.get(frame.stream_id)
        if stream is None or stream.reset:
            self._ration.spend(ration.FRAME)
            return
        self._ration.spend(ration.FRAME if stream.sent else ration.RESET)
        stream.drop()
        self._forget_if_over(stream)
        if not stream.sent:
            events.append(StreamReset(stream.id))

    def _window_update(self, frame: Frame, events: list[Event]) -> None:  # noqa: ARG002
        self._ration.spend(ration.FRAME)
        size = word_of(frame) & WINDOW_MAX
        if size == 0:
            raise invalid("a window does not grow by nothing")
        if frame.stream_id == 0:
            self._may_send += size
            if self._may_send > WINDOW_MAX:
                raise _window_too_large()
            return
        self._require_used(frame)
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return
        stream.may_send += size
        if stream.may_send > WINDOW_MAX:
            raise _window_too_large()
        self._queue(stream)

    def _settings(self, frame: Frame, events: list[Event]) -> None:  # noqa: ARG002
        if frame.stream_id:
            raise invalid("SETTINGS is for the connection")
        if frame.flags & ACK:
            self._ration.spend(ration.FRAME)
            if frame.payload:
                raise invalid("an acknowledgement is empty", ErrorCode.FRAME_SIZE_ERROR)
            return
        self._ration.spend(ration.SETTINGS)
        settings = read_settings_untrusted(frame.payload, self._limits.settings_max)
        window = settings.get(Setting.INITIAL_WINDOW_SIZE)
        if window is not None:
            change, self._window_of_streams = window - self._window_of_streams, window
            for stream in self._streams.values():
                stream.may_send += change
                if stream.may_send > WINDOW_MAX:
                    raise _window_too_large()
                self._queue(stream)
        self._control_frame(frame_of(Kind.SETTINGS, ACK, 0))

    def _ping(self, frame: Frame, events: list[Event]) -> None:
        if frame.stream_id:
            raise invalid("PING is for the connection")
        if len(frame.payload) != _PING_BYTES:
            raise invalid("a PING frame has eight bytes", ErrorCode.FRAME_SIZE_ERROR)
        number = int.from_bytes(frame.payload, "big")
        if not frame.flags & ACK:
            self._ration.spend(ration.FRAME)
            self._strikes.count(self._now_s, self.answer_bytes_sent)
            self._control_frame(frame_of(Kind.PING, ACK, 0, frame.payload))
        elif number in self._pings:
            self._pings = {one for one in self._pings if one > number}
            events.append(PingAnswered(number))
        else:
            self._ration.spend(ration.FRAME)

    def _goaway(self, frame: Frame, events: list[Event]) -> None:  # noqa: ARG002
        self._ration.spend(ration.FRAME)
        if frame.stream_id:
            raise invalid("GOAWAY is for the connection")
        if len(frame.payload) < 8:
            raise invalid("a GOAWAY frame has eight bytes at least", ErrorCode.FRAME_SIZE_ERROR)
        self._going = True

    def _priority(self, frame: Frame, events: list[Event]) -> None:  # noqa: ARG002
        self._ration.spend(ration.FRAME)
        if frame.stream_id == 0:
            raise invalid("PRIORITY is for a stream")
        if len(frame.payload) != _PRIORITY_BYTES:
            raise invalid("a PRIORITY frame has five bytes", ErrorCode.FRAME_SIZE_ERROR)

    def _push_promise(self, frame: Frame, events: list[Event]) -> None:  # noqa: ARG002
        raise invalid("a client promises nothing")

    def _require_used(self, frame: Frame) -> None:
        if frame.stream_id == 0 or frame.stream_id % 2 == 0 or frame.stream_id > self._last_id:
            raise invalid("this frame is for a stream that was opened")

    # ---- what the driver does ------------------------------------------------------------
    def limit_pings(self) -> None:
        """From now on the client's pings are those of gRPC, which have a limit in time of their own."""
        self._strikes.limited = True

    def go_on(self, stream_id: int) -> None:
        """Send ``100 Continue``, unless the request was answered."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.reset and not stream.answered:
            self._control_frame(frame_of(Kind.HEADERS, END_HEADERS, stream_id, encode_answer(100, [])))

    def body_read(self, stream_id: int, size: int) -> None:
        """The handler has read this much of a body: the client may send as much again."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.request_ended or stream.reset:
            return
        stream.owed += size
        if stream.owed * 2 >= self._limits.stream_window:
            stream.may_receive += stream.owed
            self._control_frame(window_frame(stream_id, stream.owed))
            stream.owed = 0

    def handler_ended(self, stream_id: int) -> None:
        """The handler of a request has ended. If it gave no answer, there is none."""
        stream = self._streams[stream_id]
        stream.handled = True
        if not stream.reset and (not stream.answered or stream.open):
            stream.drop()
            self._end_here(stream_id, ErrorCode.INTERNAL_ERROR)
        self._forget_if_over(stream)

    def ping(self, number: int) -> None:
        """Ask the client for a sign that it has received this. Numbers grow."""
        self._pings.add(number)
        self._control_frame(frame_of(Kind.PING, 0, 0, number.to_bytes(_PING_BYTES, "big")))

    def go_away(self, reason: str) -> None:
        """Begin no further request; those that have begun are answered.

        GOAWAY is the last frame, behind the answers: clients on python-hyper's h2 fail whatever is open once
        they have received it. Until then each further request is refused, as one that was not begun.
        """
        self._going, self._farewell_reason = True, reason

    def end(self, code: ErrorCode, reason: str, detail: str) -> ConnectionEnded:
        """Read nothing further. What waits is sent as far as windows allow."""
        if not self.ended:
            self.ended, self.work_left = True, False
            self._farewell = goaway_frame(self._last_id, code, reason)
        return ConnectionEnded(reason, detail)

    def data_to_send(self, bytes_min: int) -> bytes:
        """Return what can be sent now: all of it, or a little more than ``bytes_min``."""
        if not (self._control or self._ready or self._farewell or self._farewell_reason):
            return b""
        out, size = self._control, self._control_bytes
        self._control, self._control_bytes = [], 0
        waiting = len(self._ready)
        while waiting and size < bytes_min:
            stream = self._ready.popleft()
            waiting -= 1
            stream.queued = False
            if stream.reset or not stream.can_send(self._may_send):
                # Its own window brings it back. For the connection's it stays in the queue.
                if stream.may_send > 0:
                    self._queue(stream)
                continue
            frames, taken = stream.next_frames(self._may_send)
            self._may_send -= taken
            self.answer_bytes_sent += len(frames)
            out.append(frames)
            size += len(frames)
            self._ration.earn(taken / ration.BYTES_PER_PART)
            if stream.sent:
                self._answer_sent(stream, out)
            elif stream.waits:
                waiting += 1
                self._queue(stream)
        if self._farewell_reason is not None and self.finished and not self.ended:
            self._farewell = goaway_frame(self._last_id, ErrorCode.NO_ERROR, self._farewell_reason)
            self._farewell_reason = None
        out.append(self._farewell)
        self._farewell = b""
        return b"".join(out)

    # ---- in here ---------------------------------------------------------------------------
    def _answer_sent(self, stream: Stream, out: list[bytes]) -> None:
        self._ration.earn(ration.ANSWER if stream.refused is None else 0)
        if not stream.request_ended and stream.refused is ErrorCode.PROTOCOL_ERROR:
            stream.reset = True
            self._note_ended(stream.id)
            out.append(reset_frame(stream.id, stream.refused))
        self._forget_if_over(stream)

    def _end_here(self, stream_id: int, code: ErrorCode) -> None:
        self._note_ended(stream_id)
        self._control_frame(reset_frame(stream_id, code))

    def _note_ended(self, stream_id: int) -> None:
        self._ended_here[stream_id] = None
        if len(self._ended_here) > _ENDED_HERE_MAX:
            del self._ended_here[next(iter(self._ended_here))]

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.over:
            self._streams.pop(stream.id, None)

    def _control_frame(self, frame: bytes) -> None:
        self._control.append(frame)
        self._control_bytes += len(frame)

    def _give_window(self, size: int) -> None:
        """Let the client send this much again on the connection: the windows of the streams bound it."""
        self._owed += size
        if self._owed * 2 >= self._limits.connection_window:
            self._may_receive += self._owed
            self._control_frame(window_frame(0, self._owed))
            self._owed = 0


def _window_exceeded() -> ConnectionFaultError:
    return ConnectionFaultError(
        ErrorCode.FLOW_CONTROL_ERROR, "window-exceeded", "the client sends more than its window allows"
    )


def _window_too_large() -> ConnectionFaultError:
    return ConnectionFaultError(
        ErrorCode.FLOW_CONTROL_ERROR, "window-too-large", f"a window has at most {WINDOW_MAX} bytes"
    )
