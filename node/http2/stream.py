"""One request and its answer, as the connection keeps it."""

from node.http2.errors import ErrorCode
from node.http2.frames import END_HEADERS, END_STREAM, PAYLOAD_BYTES_MAX, Kind, frame_of


class Stream:
    """A request whose handler has not ended, or whose answer is not sent.

    Attributes:
        may_send: bytes of a body that the client takes now; below 0 if it took window back.
        may_receive: bytes of a body that the client may send now.
        owed: bytes of a body that were read, and for which the client has no window yet.
        head_unread: its header block is not decoded.
        declared: what Content-Length declares, or None.
        discarded: bytes of the body that nobody wants.
        received: bytes of the body.
        frames: DATA frames, of the last message if the driver counts messages.
        request_ended: the client has sent all of it.
        refused: what else arrives of it is thrown away; the code ends the stream once the answer is sent.
        reset: by either side. Nothing further is sent.
        answered: the answer was given by the driver, or its head; ``sent``: all of it went out.
        open: further pieces of the answer may come.
        handled: the handler has ended.
        queued: it is in the queue of those that have something to send.
    """

    __slots__ = (
        "_at",
        "_block",
        "_body",
        "_more",
        "_more_bytes",
        "_trailers",
        "answered",
        "declared",
        "discarded",
        "frames",
        "handled",
        "head_unread",
        "id",
        "may_receive",
        "may_send",
        "open",
        "owed",
        "queued",
        "received",
        "refused",
        "request_ended",
        "reset",
        "sent",
    )

    def __init__(self, stream_id: int, *, may_send: int, may_receive: int) -> None:
        self.id = stream_id
        self.may_send = may_send
        self.may_receive = may_receive
        self.owed = self.received = self.frames = self.discarded = 0
        self.declared: int | None = None
        self.request_ended = self.reset = self.answered = self.sent = self.handled = self.queued = False
        self.open = False
        self.head_unread = True
        self.refused: ErrorCode | None = None
        self._block: bytes | None = None
        self._body = b""
        self._at = 0
        self._more: list[bytes] = []
        self._more_bytes = 0
        self._trailers: bytes | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done for it."""
        return self.handled and (self.reset or (self.sent and self.request_ended))

    @property
    def unwanted(self) -> bool:
        """Whether what still arrives of the body is thrown away."""
        return self.refused is not None or self.sent

    @property
    def unsent_bytes(self) -> int:
        """What was given of the body and is not sent."""
        return len(self._body) - self._at + self._more_bytes

    @property
    def waits(self) -> bool:
        """Whether the answer, or a part of it, waits to be sent."""
        if not self.answered or self.sent or self.reset:
            return False
        return not self.open or self._block is not None or self.unsent_bytes > 0

    def answer(self, block: bytes, body: bytes, trailers: bytes | None) -> None:
        """Take the whole answer."""
        self._block, self._body, self._trailers, self.answered = block, body, trailers, True

    def begin(self, block: bytes) -> None:
        """Take the head of an answer that comes in pieces."""
        self._block, self.answered, self.open = block, True, True

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self._more.append(data)
        self._more_bytes += len(data)

    def finish(self, trailers: bytes | None) -> None:
        """Take the end of an answer that came in pieces."""
        self._trailers, self.open = trailers, False

    def drop(self) -> None:
        """Forget what is not sent: the stream was reset."""
        self.reset, self._block, self._body, self._trailers, self.open = True, None, b"", None, False
        self._more, self._more_bytes = [], 0

    def can_send(self, connection_window: int) -> bool:
        """Return whether ``next_frames`` has something now."""
        if self._block is not None:
            return True
        if self.unsent_bytes:
            return min(self.may_send, connection_window) > 0
        return not self.open

    def next_frames(self, connection_window: int) -> tuple[bytes, int]:
        """Return the head if it is due, one DATA frame, and the end if it is due.

        The second value is how much of the window they took.
        """
        out = b""
        if self._block is not None:
            self.sent = not (self.open or self.unsent_bytes or self._trailers is not None)
            flags = END_HEADERS | (END_STREAM if self.sent else 0)
            out, self._block = frame_of(Kind.HEADERS, flags, self.id, self._block), None
            if self.sent:
                return out, 0
        if self._at == len(self._body) and self._more:
            self._body, self._at = b"".join(self._more), 0
            self._more, self._more_bytes = [], 0
        left = len(self._body) - self._at
        size = min(left, self.may_send, connection_window, PAYLOAD_BYTES_MAX)
        if left and size <= 0:
            return out, 0
        ends = size == left and not self.open and not self._more
        self.sent = ends
        if left or (ends and self._trailers is None):
            data = self._body[self._at : self._at + size]
            self._at += size
            self.may_send -= size
            flags = END_STREAM if ends and self._trailers is None else 0
            out += frame_of(Kind.DATA, flags, self.id, data)
        if ends:
            self._body, self._at = b"", 0
            if self._trailers is not None:
                out += frame_of(Kind.HEADERS, END_HEADERS | END_STREAM, self.id, self._trailers)
        return out, size
