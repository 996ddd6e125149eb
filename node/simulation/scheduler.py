"""Simulated time: a heap of (time, sequence, action). Actions of equal time run in the order of requests."""

import heapq
from collections.abc import Callable
from typing import Any, Final

SECOND_US: Final = 1_000_000
MS_US: Final = 1_000


class Scheduler:
    """The only clock of a simulation, in microseconds since its start.

    Attributes:
        events: how many events the members have processed. The code that gives a member an event counts it.
    """

    __slots__ = ("_heap", "_sequence", "events", "now_us")

    def __init__(self) -> None:
        self.events = 0
        self.now_us = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, when_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` at ``when_us``, or now if that is past."""
        self._sequence += 1
        if when_us < self.now_us:
            when_us = self.now_us
        heapq.heappush(self._heap, (when_us, self._sequence, action, arguments))

    def after(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` after ``delay_us``."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._sequence, action, arguments))

    def step(self, deadline_us: int) -> bool:
        """Move to the next action and run it. False if no action is due until ``deadline_us``."""
        heap = self._heap
        if not heap or heap[0][0] > deadline_us:
            return False
        self.now_us, _, action, arguments = heapq.heappop(heap)
        action(*arguments)
        return True
