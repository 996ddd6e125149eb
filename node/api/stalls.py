"""Has this process stood still just now? Then what waits in its sockets may be of any age.

A host may stop a TD for as long as it likes. What a client had sent before, it has long sent again to another
node and has had its answer; the group may have forgotten the idempotency key. So nothing that was read right
after a stop is executed: whoever still waits for it is told that it did not happen.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

BEAT_S: Final = 0.25
# Far below the TTL of an idempotency key, far above what an event loop is ever busy for.
STALL_S: Final = 2.0
# After a stop, the sockets' queues are read within this time.
DRAIN_S: Final = 2.0


class StallWatch:
    """Beats on the event loop: on the running one, or from the first question on.

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
        self._look()
        return self._clock() < self._doubtful_until

    def _look(self) -> None:
        """Whichever is first after a stop, a request or a beat: it finds it."""
        now = self._clock()
        if now - self._last_beat >= STALL_S:
            self._doubtful_until = now + DRAIN_S
        self._last_beat = now

    def _beat_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats = True
        self._look()
        loop.call_later(BEAT_S, self._beat_on, loop)
