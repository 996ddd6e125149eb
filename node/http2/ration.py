"""What a connection may cost beyond its requests: each frame that asks for nothing takes a part.

Floods of SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, PRIORITY, empty or unknown frames differ in their frames
only (CVE-2019-9511 to 9518, CVE-2023-44487). Honest clients send such frames too, beside the requests and
answers that they belong to. So a ration comes back with time, with each answer and with the bytes sent.
"""

from typing import Final

from node.http2.errors import ConnectionFaultError, ErrorCode

SMALL_BYTES: Final = 1024  # a frame of an unwanted body costs a part if it has fewer
FRAME: Final = 1  # without effect, or with one that costs little
SETTINGS: Final = 5  # changes the window of every stream
RESET: Final = 5  # a request that was begun for nothing
ANSWER: Final = 8  # comes back with each answer that was sent whole
BYTES_PER_PART: Final = 4096  # of answers sent; clients grant windows for each frame that they receive


class FrameRation:
    """Parts left.

    Args:
        parts_max: at the beginning, and never more.
        per_s: how many come back in a second.
        now_s: the time now, in seconds of any monotonic clock.
    """

    def __init__(self, parts_max: int, per_s: int, now_s: float) -> None:
        self._max = parts_max
        self._per_s = per_s
        self._left = float(parts_max)
        self._at_s = now_s

    def spend(self, parts: int) -> None:
        """Take parts.

        Raises:
            ConnectionFaultError: there are none left.
        """
        self._left -= parts
        if self._left < 0:
            raise ConnectionFaultError(
                ErrorCode.ENHANCE_YOUR_CALM, "frame-flood", "too many frames that are no part of a request"
            )

    def earn(self, parts: float) -> None:
        """Give parts back."""
        self._left = min(self._max, self._left + parts)

    def advance(self, now_s: float) -> None:
        """Give back what time gives back."""
        if now_s > self._at_s:
            self.earn((now_s - self._at_s) * self._per_s)
            self._at_s = now_s
