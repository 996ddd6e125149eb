"""The thread in which a trust_disk member's records become durable.

This is a thread of its own, not an executor. The records that collected during one write go out at once with
the next, and the event loop receives only what has become durable. With a future and a task for each write,
the handover cost as much time as the disk.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeVar

from node.raft.events import Record, Recovered

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Work = tuple[list[Record], int]
_END: Final = None


class DurableLog(Protocol):
    """Makes records durable (trust_disk)."""

    @property
    def recovered(self) -> Recovered | None:
        """What an earlier process of this same incarnation left; None if the incarnation is new."""
        ...

    def forget_recovered(self) -> None:
        """The member has taken what was recovered: it need not be held any more."""
        ...

    def persist(self, records: list[Record]) -> None:
        """Return when ``records`` are durable. Blocking: called in a thread, one call at a time.

        Raises:
            Exception: of any kind; the member then stops.
        """
        ...


class DiskThread:
    """Writes records in order, each time all that have collected.

    Args:
        durable: makes the records durable.
        written: called on the event loop with the serial up to which everything is durable.
        failed: called on the event loop if a write failed; nothing is written after that.
    """

    def __init__(
        self,
        durable: DurableLog,
        *,
        written: Callable[[int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._durable = durable
        self._written = written
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        # A daemon thread: a program that ends without closing its group loses nothing that was reported
        # durable.
        self._thread = Thread(target=self._run, name="group-disk", daemon=True)
        self._thread.start()

    def write(self, records: list[Record], serial: int) -> None:
        """Make ``records`` durable after all earlier ones, then report ``serial``."""
        self._queue.put((records, serial))

    def end(self) -> None:
        """Begin no more writes."""
        self._queue.put(_END)

    async def wait_ended(self) -> None:
        """After ``end``, or a failure: return once no write is under way."""
        await self._loop.run_in_executor(None, self._thread.join)

    # ---- in the thread ------------------------------------------------------
    def _run(self) -> None:
        while (work := self._collect()) is not _END:
            records, serial = work
            try:
                self._durable.persist(records)
            except BaseException as exc:
                # Nothing written after this could be relied upon to be durable. This holds for every
                # exception: if the thread merely ended, the member would wait without end.
                logger.exception("the log cannot be made durable")
                self._report(self._failed, exc)
                return
            self._report(self._written, serial)

    def _collect(self) -> _Work | None:
        """Wait for records to write, and take all that are there."""
        collected: list[Record] = []
        item = self._queue.get()
        while item is not _END:
            records, serial = item
            collected += records
            try:
                item = self._queue.get_nowait()
            except Empty:
                return collected, serial
        return _END

    def _report(self, listener: Callable[[_T], None], news: _T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no listener waits
            self._loop.call_soon_threadsafe(listener, news)
