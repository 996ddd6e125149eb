"""A thread for long work whose jobs come in turns, so that no share waits for the jobs of a crowd.

A peer that has the group key may request a quote before it is admitted, and a derived key is known to anyone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from node.places import Places, Share, Usage

JOBS_MAX: Final = 2048  # for every bond that there can be, and every handshake

_Job = tuple[asyncio.Future[Any], Callable[[], Any]]


class TurnThread:
    """Runs one job at a time. Among the waiting jobs the shares take turns (``node.places``).

    Args:
        name: of the waiting jobs, for metrics, and of the thread.
    """

    def __init__(self, name: str) -> None:
        # One thread: issuers and validators need not be thread-safe.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting: Places[_Job] = Places(name, JOBS_MAX)
        self._running = False
        self._closed = False

    @property
    def usage(self) -> Usage:
        """How much of the pool of waiting jobs is in use."""
        return self._waiting.usage

    def run(self, work: Callable[[], Any], share: Share, *, known: bool) -> "asyncio.Future[Any]":
        """Return what ``work`` returns or raises, after its turn came. Cancelled before, it never runs."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        evicted = self._waiting.enter((future, work), share, known=known)
        if evicted is not None:
            evicted[0].cancel()
        self._next()
        return future

    def shutdown(self) -> None:
        """Wait for the running job; no other begins."""
        self._closed = True
        self._thread.shutdown()

    def _next(self) -> None:
        job = None if self._running or self._closed else self._waiting.take_next()
        while job is not None and job[0].done():  # no caller waits for it any longer
            job = self._waiting.take_next()
        if job is None:
            return
        future, work = job
        self._running = True
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)

        def ended(done: "asyncio.Future[Any]") -> None:
            self._running = False
            _hand_on(done, future)
            self._next()

        running.add_done_callback(ended)


def _hand_on(done: "asyncio.Future[Any]", future: "asyncio.Future[Any]") -> None:
    if done.cancelled():
        future.cancel()
        return
    failure = done.exception()
    if future.done():
        return
    if failure is None:
        future.set_result(done.result())
    else:
        future.set_exception(failure)
