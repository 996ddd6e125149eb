"""The one way to run work in the background: background work never ends unnoticed.

``keep`` is for work that must run for as long as its owner lives: when it raises, or returns, that is logged
and counted, and it is started again after a pause that doubles. ``once`` is for work that is finished when it
returns: a failure is logged and counted. Work that the process needs to go on is *fatal*: its failure is
raised from ``until``, in which the starter of the process waits.

Names are constants of the program, never anything from outside: they label metrics.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

PAUSE_S_FIRST: Final = 0.1
PAUSE_S_MAX: Final = 60.0
# Work that ran for at least this many seconds before it failed has recovered: the next pause is short again.
HEALTHY_S: Final = 120.0

_log = logging.getLogger(__name__)


class WorkEndedError(Exception):
    """Work that must run until it is cancelled has returned."""


class FatalWorkError(Exception):
    """Work that the process cannot go on without has failed; ``__cause__`` is its error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReport:
    """How work of one name is doing.

    Attributes:
        running: how many of that name run now. Work that pauses before its next start is not counted.
        failures: how often work of that name has failed so far.
    """

    name: str
    running: int
    failures: int


@dataclass(slots=True)
class _Meter:
    running: int = 0
    failures: int = 0


class Background:
    """Runs background work until it is closed. Used on the event loop alone.

    Args:
        sleep: waits for the given number of seconds.
    """

    def __init__(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._meters: dict[str, _Meter] = {}
        self._fatal: FatalWorkError | None = None
        self._told: set[asyncio.Event] = set()

    def keep(
        self, name: str, work: Callable[[], Awaitable[object]], *, fatal: bool = False
    ) -> "asyncio.Task[None]":
        """Run ``work`` until the returned task is cancelled, again and again if it ends.

        Args:
            name: a constant.
            work: returns a new awaitable for each start.
            fatal: do not start it again: end the process.
        """
        return self._start(name, self._kept(name, work, fatal=fatal))

    def once(
        self, name: str, work: Coroutine[Any, Any, object], *, fatal: bool = False
    ) -> "asyncio.Task[None]":
        """Run ``work`` to its end. The returned task never raises, unless it is cancelled."""
        return self._start(name, self._run_once(name, work, fatal=fatal), unstarted=work)

    def reports(self) -> list[WorkReport]:
        """Return how each name is doing, in the order of the names."""
        return [
            WorkReport(name=name, running=meter.running, failures=meter.failures)
            for name, meter in sorted(self._meters.items())
        ]

    async def until(self, stop: asyncio.Event) -> None:
        """Wait until ``stop`` is set. The starter of the process calls it.

        Raises:
            FatalWorkError: work that the process cannot go on without has failed, now or earlier.
        """
        self._told.add(stop)
        try:
            if self._fatal is None:
                await stop.wait()
        finally:
            self._told.discard(stop)
        if self._fatal is not None:
            raise self._fatal

    async def close(self) -> None:
        """Cancel everything, and return when all of it has ended."""
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # ---- running ----------------------------------------------------------------
    def _start(
        self,
        name: str,
        runner: Coroutine[Any, Any, None],
        unstarted: Coroutine[Any, Any, object] | None = None,
    ) -> "asyncio.Task[None]":
        self._meters.setdefault(name, _Meter())
        task = asyncio.get_running_loop().create_task(runner, name=name)
        self._tasks.add(task)

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if unstarted is not None:
                unstarted.close()  # cancelled before its first step: without this, Python warns of it

        task.add_done_callback(ended)
        return task

    async def _kept(self, name: str, work: Callable[[], Awaitable[object]], *, fatal: bool) -> None:
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S_FIRST
        while True:
            began = loop.time()
            failure = await self._failure_of(name, _endless(work))
            assert failure is not None
            if fatal:
                self._end_process(name, failure)
                return
            if loop.time() - began >= HEALTHY_S:
                pause_s = PAUSE_S_FIRST
            _log.error("%s failed, and is started again in %.1f s", name, pause_s, exc_info=failure)
            await self._sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _run_once(self, name: str, work: Coroutine[Any, Any, object], *, fatal: bool) -> None:
        failure = await self._failure_of(name, work)
        if failure is None:
            return
        if fatal:
            self._end_process(name, failure)
        else:
            _log.error("%s failed", name, exc_info=failure)

    async def _failure_of(self, name: str, work: Coroutine[Any, Any, object]) -> BaseException | None:
        """Run work and return how it failed, if it did. Raise only if cancelled, or the process ends."""
        meter = self._meters[name]
        meter.running += 1
        try:
            await work
        except asyncio.CancelledError as exc:
            this = asyncio.current_task()
            if this is None or this.cancelling():
                raise
            meter.failures += 1
            return exc  # the work awaited another task that was cancelled: the work has failed
        except Exception as exc:  # noqa: BLE001 - any error is reported
            meter.failures += 1
            return exc
        finally:
            meter.running -= 1
        return None

    def _end_process(self, name: str, failure: BaseException) -> None:
        _log.critical("%s failed, and the process cannot go on without it", name, exc_info=failure)
        if self._fatal is None:
            self._fatal = FatalWorkError(f"{name} failed: {type(failure).__name__}: {failure}")
            self._fatal.__cause__ = failure
            for stop in self._told:
                stop.set()


async def _endless(work: Callable[[], Awaitable[object]]) -> None:
    await work()
    raise WorkEndedError("it returned, but it should run as long as the process does")
