"""The answers of one connection, as the driver gives them: whole, or in pieces."""

from collections import deque

from node.http2.errors import ErrorCode
from node.http2.fields import Fields, encode_answer, encode_trailers
from node.http2.stream import Stream


class Answers:
    """The streams, and those of them that have something to send."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()

    def answer(
        self, stream_id: int, status: int, fields: Fields, body: bytes, trailers: Fields | None = None
    ) -> None:
        """Answer a request, whole. A stream that was reset takes the answer and throws it away."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.reset:
            return
        assert not stream.answered, "one answer for one request"
        end = None if trailers is None else encode_trailers(trailers)
        stream.answer(encode_answer(status, fields), body, end)
        self._queue(stream)

    def begin_answer(self, stream_id: int, status: int, fields: Fields) -> None:
        """Send the head of an answer in pieces: ``send_piece``, and ``finish_answer`` at the end."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.reset:
            return
        assert not stream.answered, "one answer for one request"
        stream.begin(encode_answer(status, fields))
        self._queue(stream)

    def send_piece(self, stream_id: int, data: bytes) -> None:
        """Send the next piece of an answer. The driver looks at ``unsent_bytes`` before it gives more."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.open:
            stream.add(data)
            self._queue(stream)

    def finish_answer(self, stream_id: int, trailers: Fields | None = None) -> None:
        """End an answer that came in pieces."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.open:
            stream.finish(None if trailers is None else encode_trailers(trailers))
            self._queue(stream)

    def unsent_bytes(self, stream_id: int) -> int:
        """Return how much of an answer's body waits for the client to read."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.unsent_bytes

    def message_read(self, stream_id: int) -> None:
        """The body goes on for ever, and a message in it was whole: the limit in frames is that of one."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.frames = 0

    def refuse(self, stream_id: int) -> None:
        """Throw away what else arrives of a request: the driver answers it now."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.refused is None:
            stream.refused = ErrorCode.NO_ERROR

    def is_answered(self, stream_id: int) -> bool:
        """Return whether an answer was given, or nobody waits for one any more."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.answered or stream.reset

    def is_sent(self, stream_id: int) -> bool:
        """Return whether nothing of this answer waits any more."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.sent or stream.reset

    def _queue(self, stream: Stream) -> None:
        if stream.waits and not stream.queued:
            stream.queued = True
            self._ready.append(stream)
