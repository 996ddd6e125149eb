"""What a connection may cost beyond its requests: each frame that asks for nothing takes a part.

Floods of SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, PRIORITY, empty or unknown frames differ in their frames
only (CVE-2019-9511 to 9518, CVE-2023-44487). Honest clients send such frames too, beside the requests and
answers that they belong to. So a ration comes back with time, with each answer and with the bytes sent.
"""

import math
from typing import Final

from node.http2.errors import ConnectionFaultError, ErrorCode

SMALL_BYTES: Final = 1024  # a frame of an unwanted body costs a part if it has fewer
FRAME: Final = 1  # without effect, or with one that costs little
SETTINGS: Final = 5  # changes the window of every stream
RESET: Final = 5  # a request that was begun for nothing
ANSWER: Final = 8  # comes back with each answer that was sent whole
BYTES_PER_PART: Final = 4096  # of answers sent; clients grant windows for each frame that they receive

# gRPC's keep-alive, as etcd has it: the least time between pings without traffic, and how many may be sooner.
PING_INTERVAL_S: Final = 5.0
STRIKES_MAX: Final = 2


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


class PingStrikes:
    """How often a client of gRPC has sent a ping too soon behind another one, with no answer between them.

    Attributes:
        limited: the client is one of gRPC.
    """

    def __init__(self) -> None:
        self.limited = False
        self._at_s = -math.inf
        self._sent_bytes = 0
        self._strikes = 0

    def count(self, now_s: float, sent_bytes: int) -> None:
        """Count a ping; ``sent_bytes``: of answers, so far.

        Raises:
            ConnectionFaultError: there were too many. Clients know this reason, and ping less often.
        """
        if sent_bytes != self._sent_bytes:
            self._strikes = 0
        elif now_s - self._at_s < PING_INTERVAL_S:
            self._strikes += 1
        self._at_s, self._sent_bytes = now_s, sent_bytes
        if self.limited and self._strikes > STRIKES_MAX:
            raise ConnectionFaultError(
                ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings", "pings come too often without other traffic"
            )
