"""Messages over one transport: TLS, frames and lanes."""

import asyncio
from collections.abc import Sequence
from typing import Final

from OpenSSL import SSL

from node.bonds.core.send_queue import Lane, SendQueue
from node.bonds.tls import TLSSession
from node.bonds.wire.frames import HELLO_BYTES_MAX, FrameReader, frame_of
from node.bonds.wire.messages import Message, decode_untrusted

# Above this the queue keeps frames back, so that urgent ones can still overtake.
WRITE_BUFFER_BYTES: Final = 256 * 1024


class Channel:
    """One connection's bytes.

    Attributes:
        tls: the session, whether established yet or not.
    """

    def __init__(self, context: SSL.Context, *, server: bool, send_buffer_bytes_max: int) -> None:
        self.tls = TLSSession(context, server=server)
        self._reader = FrameReader(HELLO_BYTES_MAX)
        self._send_queue = SendQueue(send_buffer_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._paused = False

    @property
    def attached(self) -> bool:
        """There is a socket."""
        return self._transport is not None

    def attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def detach(self) -> None:
        self._transport = None

    def waiting_bytes(self) -> int:
        """Return how much waits to be sent, for the peer and in the socket's own buffer."""
        written = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._send_queue.size + written

    def start(self) -> None:
        """Send the client's first flight."""
        self.tls.start()
        self.flush()

    def receive_data_untrusted(self, data: bytes) -> None:
        """Take bytes from the socket.

        Raises:
            RemoteProtocolError: as ``TLSSession``.
        """
        plaintext = self.tls.receive_data_untrusted(data)
        self.flush()
        if plaintext:
            self._reader.receive_data(plaintext)

    def next_message_untrusted(self, *, bytes_max: int, items_max: int) -> Message | None:
        """Return the next message, within these limits of bytes and CBOR items; None if it is not here yet.

        Raises:
            RemoteProtocolError: ``frame-too-large``, ``malformed-message``.
        """
        self._reader.bytes_max = bytes_max
        body = self._reader.next_frame_untrusted()
        return None if body is None else decode_untrusted(body, items_max=items_max)

    def send(self, message: Message) -> None:
        """Send ``message`` now, before all that waits."""
        self._write(frame_of(message))

    def queue(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """Send ``frames`` in their turn.

        Raises:
            RemoteProtocolError: ``send-buffer-full``.
        """
        self._send_queue.put(lane, frames)
        self._pump()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._pump()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def finish(self) -> None:
        """Send nothing more; the frames that wait are dropped. Reading from the peer goes on, or resumes."""
        self.resume_reading()
        self._send_queue.clear()
        self.tls.send_close()
        self.flush()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        data = self.tls.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def _write(self, frame: bytes) -> None:
        self.tls.send_data(frame)
        self.flush()

    def _pump(self) -> None:
        """Give the transport only as much as keeps the rest under the control of the lanes."""
        while not self._paused:
            frame = self._send_queue.next_frame()
            if frame is None:
                return
            self._write(frame)
