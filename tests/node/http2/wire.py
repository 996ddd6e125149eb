"""A client of a connection, by hand: any frame, in any order."""

import struct

import hpack

from node.http2.connection import ServerConnection
from node.http2.events import ConnectionEnded
from node.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PAYLOAD_BYTES_MAX,
    PREFACE,
    Flag,
    FrameCutter,
    Kind,
    frame_of,
    settings_frame,
)
from node.http2.limits import Http2Limits

LIMITS = Http2Limits(head_bytes_max=32 * 1024, fields_max=100, body_frames_max=4096, discard_bytes_max=2**20)
GET = [(":method", "GET"), (":scheme", "https"), (":path", "/healthz"), (":authority", "localhost:8440")]
POST = [(":method", "POST"), *GET[1:2], (":path", "/v1/commands"), *GET[3:]]
START = PREFACE + settings_frame({})


def word(number):
    return struct.pack(">I", number)


class Client:
    """Sends to a connection, and reads what it sends.

    ``events`` are those of the last ``send``, ``frames`` all frames that came back.
    """

    def __init__(self, limits=LIMITS, *, start=START):
        self.core = ServerConnection(limits, 0.0)
        self.encoder = hpack.Encoder()
        self.events = []
        self._reader = FrameCutter()
        self.frames = []
        self.now = 0.0
        self.send(start)

    def send(self, *frames):
        self.core.receive_data(b"".join(frames))
        self.events = []
        more = True
        while more:
            self.events += self.core.next_events_untrusted(self.now)
            more = self.core.work_left
        self.read()
        return self.events

    def read(self):
        self._reader.receive_data(self.core.data_to_send(2**30))
        read = []
        while (frame := self._reader.next_frame_untrusted()) is not None:
            read.append(frame)
        self.frames += read
        return read

    def block(self, fields):
        return self.encoder.encode(fields)

    def head(self, stream_id, fields, *, ends=True):
        return block_frames(stream_id, self.block(fields), ends=ends)

    def get(self, stream_id, *more):
        return self.send(self.head(stream_id, [*GET, *more]))

    def post(self, stream_id, *more, body=None):
        frames = [self.head(stream_id, [*POST, *more], ends=False)]
        if body is not None:
            frames.append(data(stream_id, body))
        return self.send(*frames)

    def answered(self, stream_id, body=b"", status=200, fields=()):
        """The handler answers and ends."""
        self.core.answer(stream_id, status, list(fields), body)
        read = self.read()
        self.core.handler_ended(stream_id)
        return read

    @property
    def streams(self):
        """How many requests count."""
        return len(self.core._streams)

    @property
    def reason(self):
        """Why the connection ended; None: it has not."""
        ended = [event for event in self.events if isinstance(event, ConnectionEnded)]
        return ended[0].reason if ended else None

    def sent(self, kind):
        return [frame for frame in self.frames if frame.kind == kind]


def block_frames(stream_id, block, *, ends=True, size=PAYLOAD_BYTES_MAX):
    """A header block in as many frames as it takes."""
    parts = [block[start : start + size] for start in range(0, len(block), size)] or [b""]
    kinds = [Kind.HEADERS] + [Kind.CONTINUATION] * (len(parts) - 1)
    flags = [END_STREAM if ends else 0] + [0] * (len(parts) - 1)
    flags[-1] |= END_HEADERS
    return b"".join(
        frame_of(kind, flag, stream_id, part) for kind, flag, part in zip(kinds, flags, parts, strict=True)
    )


def data(stream_id, body, *, ends=True):
    return frame_of(Kind.DATA, END_STREAM if ends else 0, stream_id, body)


def ping(number=7, flags=0):
    return frame_of(Kind.PING, flags, 0, number.to_bytes(8, "big"))


def rst(stream_id, code=8):
    return frame_of(Kind.RST_STREAM, 0, stream_id, word(code))


def window(stream_id, size):
    return frame_of(Kind.WINDOW_UPDATE, 0, stream_id, word(size))


def priority(stream_id, on=0):
    return frame_of(Kind.PRIORITY, 0, stream_id, word(on) + b"\x10")


def goaway(last=0):
    return frame_of(Kind.GOAWAY, 0, 0, word(last) + word(0))


def raw(kind, flags=0, stream_id=0, payload=b""):
    """Any frame, also one whose type has no name."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


ACK = int(Flag.ACK)
