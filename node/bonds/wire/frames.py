"""Frames: a 32-bit big-endian length and that many bytes. A body is buffered only within the limit."""

from typing import Final

from node.bonds.wire.messages import Fragment, Message, Payload, encode
from node.errors import RemoteProtocolError

HEADER_BYTES: Final = 4

# The limits follow the peer's progress. Tickets carry a quote and stapled collateral (about 60 kB with real
# certificate revocation lists, more with an event log), and only a peer that proved the group key sends them.
HELLO_BYTES_MAX: Final = 8 * 1024
TICKETS_BYTES_MAX: Final = 1024 * 1024
FRAME_BYTES_MAX: Final = 1024 * 1024

# A heartbeat waits for at most one fragment: about half a millisecond at 1 Gbit/s.
FRAGMENT_BYTES: Final = 64 * 1024


def frame_of(message: Message) -> bytes:
    """Return ``message`` as one frame."""
    body = encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def frames_of_payload(data: bytes, *, stream: int) -> list[bytes]:
    """Return ``data`` as one frame, or as fragments if it is large."""
    if len(data) <= FRAGMENT_BYTES:
        # A small bulk payload still uses its stream: otherwise it would overtake an earlier large one.
        message = Payload(data) if stream == 0 else Fragment(stream, last=True, data=data)
        return [frame_of(message)]
    end = len(data)
    return [
        frame_of(
            Fragment(
                stream,
                last=start + FRAGMENT_BYTES >= end,
                data=data[start : start + FRAGMENT_BYTES],
            )
        )
        for start in range(0, end, FRAGMENT_BYTES)
    ]


class FrameReader:
    """Cuts a byte stream into frame bodies.

    Attributes:
        bytes_max: largest body accepted from now on.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_frame_untrusted(self) -> bytes | None:
        """Return the next body, or None if it has not fully arrived yet.

        Raises:
            RemoteProtocolError: ``frame-too-large``, as soon as the length is known.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(buffer[:HEADER_BYTES], "big")
        if size > self.bytes_max:
            raise RemoteProtocolError(
                "frame-too-large", f"a frame of {size} bytes, at most {self.bytes_max} here"
            )
        end = HEADER_BYTES + size
        if len(buffer) < end:
            return None
        body = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return body


class Reassembler:
    """Puts the fragments of one stream together, within ``bytes_max``."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        return bool(self._parts)

    def add_untrusted(self, fragment: Fragment) -> bytes | None:
        """Return the payload that ``fragment`` completes, or None.

        Raises:
            RemoteProtocolError: ``payload-too-large``, ``malformed-message``.
        """
        # Each part but the last must be full: many tiny ones would cost far more memory than their sum.
        if not fragment.last and len(fragment.data) != FRAGMENT_BYTES:
            raise RemoteProtocolError("malformed-message", "an inner fragment that is not full")
        self._size += len(fragment.data)
        if self._size > self._bytes_max:
            raise RemoteProtocolError("payload-too-large", f"a payload of over {self._bytes_max} bytes")
        self._parts.append(fragment.data)
        if not fragment.last:
            return None
        payload = b"".join(self._parts)
        self._parts, self._size = [], 0
        return payload
