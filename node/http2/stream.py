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
        received, frames: bytes of the body, and DATA frames.
        request_ended: the client has sent all of it.
        refused: what else arrives of it is thrown away; the code ends the stream once the answer is sent.
        reset: by either side. Nothing further is sent.
        answered: the answer was given by the driver; ``sent``: all of it went out.
        handled: the handler has ended.
        queued: it is in the queue of those that have something to send.
    """

    __slots__ = (
        "_at",
        "_block",
        "_body",
        "answered",
        "declared",
        "discarded",
        "frames",
        "handled",
        "head_unread",
        "id",
        "may_receive",
        "may_send",
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
        self.head_unread = True
        self.refused: ErrorCode | None = None
        self._block: bytes | None = None
        self._body = b""
        self._at = 0

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done for it."""
        return self.handled and (self.reset or (self.sent and self.request_ended))

    @property
    def unwanted(self) -> bool:
        """Whether what still arrives of the body is thrown away."""
        return self.refused is not None or self.sent

    @property
    def waits(self) -> bool:
        """Whether the answer, or a part of it, waits to be sent."""
        return self.answered and not self.sent and not self.reset

    def answer(self, block: bytes, body: bytes) -> None:
        """Take the whole answer."""
        self._block, self._body, self.answered = block, body, True

    def drop(self) -> None:
        """Forget what is not sent: the stream was reset."""
        self.reset, self._block, self._body = True, None, b""

    def can_send(self, connection_window: int) -> bool:
        """Return whether ``next_frames`` has something now."""
        if self._block is not None:
            return True
        return self._at < len(self._body) and min(self.may_send, connection_window) > 0

    def next_frames(self, connection_window: int) -> tuple[bytes, int]:
        """Return the head if it is due, and one DATA frame; and how much of the window they took."""
        head = b""
        if self._block is not None:
            self.sent = not self._body
            flags = END_HEADERS | (END_STREAM if self.sent else 0)
            head, self._block = frame_of(Kind.HEADERS, flags, self.id, self._block), None
        left = len(self._body) - self._at
        size = min(left, self.may_send, connection_window, PAYLOAD_BYTES_MAX)
        if size <= 0:
            return head, 0
        data = self._body[self._at : self._at + size]
        self._at += size
        self.may_send -= size
        self.sent = size == left
        if self.sent:
            self._body = b""
        return head + frame_of(Kind.DATA, END_STREAM if self.sent else 0, self.id, data), size
