"""Detects that the process stood still: then the requests that wait in its sockets may be of any age.

A host may stop a TD for as long as it likes. Meanwhile the client may have sent its request again to another
node and received the answer, and the group may have forgotten the idempotency key. So the node executes no
request that it read right after a stop. A client that still waits for it receives the answer that it was not
executed.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

BEAT_S: Final = 0.25
# Far below the TTL of an idempotency key, and far above the longest time that an event loop is busy.
STALL_S: Final = 2.0
# Within this time after a stop, the queues of the sockets are read.
DRAIN_S: Final = 2.0


class StallWatch:
    """Beats on the event loop: at once if one is running, otherwise from the first question on.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_beat = self._doubtful_until = clock()
        self._beats = False
        with contextlib.suppress(RuntimeError):
            self._beat_on(asyncio.get_running_loop())

    def doubtful(self) -> bool:
        """Return whether a request that was read now may have waited through a stop."""
        if not self._beats:
            self._last_beat = self._clock()
            self._beat_on(asyncio.get_running_loop())
        return self._look() < self._doubtful_until

    def _look(self) -> float:
        """Detect a stop, and return the time. The first request or beat after a stop detects it."""
        now = self._clock()
        if now - self._last_beat >= STALL_S:
            self._doubtful_until = now + DRAIN_S
        self._last_beat = now
        return now

    def _beat_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats = True
        self._look()
        loop.call_later(BEAT_S, self._beat_on, loop)
