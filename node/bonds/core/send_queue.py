"""The frames that wait to be sent to one peer, in three lanes.

A lane is served only when those above it are empty, frame by frame; a frame is at most one fragment, so a
heartbeat never waits for a transfer. Within a lane, order is kept.
"""

from collections import deque
from collections.abc import Sequence
from enum import IntEnum

from node.errors import RemoteProtocolError


class Lane(IntEnum):
    CONTROL = 0
    CONSENSUS = 1
    BULK = 2


class SendQueue:
    """Frames by lane, together at most ``bytes_max``."""

    def __init__(self, bytes_max: int) -> None:
        self._lanes: tuple[deque[bytes], ...] = tuple(deque() for _ in Lane)
        self._bytes_max = bytes_max
        self.size = 0

    def put(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """Queue ``frames``.

        Raises:
            RemoteProtocolError: ``send-buffer-full``: the peer reads too slowly. Nothing was queued.
        """
        size = sum(map(len, frames))
        if self.size + size > self._bytes_max:
            raise RemoteProtocolError(
                "send-buffer-full", f"over {self._bytes_max} bytes wait for the peer to read"
            )
        self._lanes[lane].extend(frames)
        self.size += size

    def next_frame(self) -> bytes | None:
        """Return the frame to send next, or None."""
        for lane in self._lanes:
            if lane:
                frame = lane.popleft()
                self.size -= len(frame)
                return frame
        return None

    def clear(self) -> None:
        for lane in self._lanes:
            lane.clear()
        self.size = 0
