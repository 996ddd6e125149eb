"""The thread in which a trust_disk member's records and snapshots become durable.

This is a thread of its own, not an executor. The records that collected during one write go out at once with
the next, and the event loop receives only what has become durable. With a future and a task for each write,
the handover cost as much time as the disk.

A snapshot is written in slices, one after each write of records, so that the records wait for one slice at
most. If the disk does not take it, the records are not concerned.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeVar

from node.raft.events import Record, Recovered, SnapshotStored
from node.sync.keeper import Snapshot

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Work = tuple[list[Record], int] | Snapshot
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

    def store(self, snapshot: Snapshot) -> Generator[None, None, None]:
        """Write ``snapshot`` beside the log: a slice for each value that is yielded; then it is durable.

        Blocking: in the same thread. Closing it early leaves nothing behind.

        Raises:
            Exception: of any kind; the member goes on without that snapshot on its disk.
        """
        ...


class DiskThread:
    """Writes records in order, each time all that have collected.

    Args:
        durable: makes the records durable.
        written: called on the event loop with the serial up to which everything is durable.
        stored: called on the event loop with what became of a snapshot.
        failed: called on the event loop if a write failed; nothing is written after that.
    """

    def __init__(
        self,
        durable: DurableLog,
        *,
        written: Callable[[int], None],
        stored: Callable[[SnapshotStored], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._durable = durable
        self._written = written
        self._stored = stored
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        # Of the thread alone:
        self._records: list[Record] = []
        self._serial = 0
        self._snapshots: deque[Snapshot] = deque()  # the first one may be begun
        self._storing: Generator[None, None, None] | None = None
        # A daemon thread: a program that ends without closing its group loses nothing that was reported
        # durable.
        self._thread = Thread(target=self._run, name="group-disk", daemon=True)
        self._thread.start()

    def write(self, records: list[Record], serial: int) -> None:
        """Make ``records`` durable after all earlier ones, then report ``serial``."""
        self._queue.put((records, serial))

    def store(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` durable beside what else is written, then report it."""
        self._queue.put(snapshot)

    def end(self) -> None:
        """Begin no more writes."""
        self._queue.put(_END)

    async def wait_ended(self) -> None:
        """After ``end``, or a failure: return once no write is under way."""
        await self._loop.run_in_executor(None, self._thread.join)

    # ---- in the thread ------------------------------------------------------
    def _run(self) -> None:
        while self._collect() and self._write():
            if self._snapshots:
                self._store_some(self._snapshots[0])
        if self._storing is not None:
            self._storing.close()

    def _collect(self) -> bool:
        """Take all that is there, and wait for it if there is nothing to do; return False at the end."""
        try:
            item = self._queue.get(block=not self._snapshots)
            while item is not _END:
                if isinstance(item, Snapshot):
                    self._snapshots.append(item)
                else:
                    records, self._serial = item
                    self._records += records
                item = self._queue.get_nowait()
        except Empty:
            return True
        return False

    def _write(self) -> bool:
        """Write the records that have collected; return False if nothing can be written after them."""
        if not self._records:
            return True
        records, self._records = self._records, []
        try:
            self._durable.persist(records)
        except BaseException as exc:
            # Nothing written after this could be relied upon to be durable. This holds for every
            # exception: if the thread merely ended, the member would wait without end.
            logger.exception("the log cannot be made durable")
            self._report(self._failed, exc)
            return False
        self._report(self._written, self._serial)
        return True

    def _store_some(self, snapshot: Snapshot) -> None:
        """Write the next slice of ``snapshot``."""
        failure = ""
        try:
            if self._storing is None:
                self._storing = self._durable.store(snapshot)
            for _ in self._storing:
                return
        except BaseException as exc:  # every exception: the member waits for the report
            logger.warning("a snapshot cannot be made durable", exc_info=not isinstance(exc, OSError))
            failure = str(exc) or type(exc).__name__
        self._storing = None
        self._snapshots.popleft()
        self._report(self._stored, SnapshotStored(snapshot.evidence.anchor, failure))

    def _report(self, listener: Callable[[_T], None], news: _T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no listener waits
            self._loop.call_soon_threadsafe(listener, news)
