"""Background work: nothing of it ends unnoticed."""

import asyncio
import logging
from typing import Never

import pytest

from attestation.background import PAUSE_S_MAX, Background, FatalWorkError


class Pauses:
    """A sleep that takes no time, and remembers how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_work_that_raises_is_logged_counted_and_started_again(caplog):
    async def main() -> None:
        pauses, starts = Pauses(), 0
        background = Background(sleep=pauses)
        goes_on = asyncio.Event()

        async def work() -> Never:
            nonlocal starts
            starts += 1
            if starts < 4:
                raise OSError(28, "No space left on device")
            goes_on.set()
            await asyncio.Event().wait()
            raise AssertionError

        background.keep("keep-freshness", work)
        await goes_on.wait()
        assert pauses.seconds == [0.1, 0.2, 0.4]
        (report,) = background.reports()
        assert (report.name, report.running, report.failures) == ("keep-freshness", 1, 3)
        await background.close()
        assert background.reports()[0].running == 0

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "No space left on device" in caplog.text
    assert caplog.text.count("Traceback") == 3


def test_the_pause_before_a_start_has_an_upper_bound():
    async def main() -> None:
        pauses = Pauses()
        background = Background(sleep=pauses)

        async def work() -> Never:
            raise ValueError

        background.keep("loop", work)
        await until(lambda: len(pauses.seconds) > 12)
        await background.close()
        assert max(pauses.seconds) == PAUSE_S_MAX

    asyncio.run(main())


def test_work_that_returns_although_it_should_run_on_has_failed():
    async def main() -> None:
        pauses = Pauses()
        background = Background(sleep=pauses)

        async def work() -> None:
            return

        background.keep("loop", work)
        await until(lambda: background.reports()[0].failures > 1)
        await background.close()

    asyncio.run(main())


def test_a_cancellation_that_the_work_only_waited_for_does_not_end_it():
    async def main() -> None:
        background, starts = Background(sleep=Pauses()), 0

        async def work() -> Never:
            nonlocal starts
            starts += 1
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
            raise AssertionError

        background.keep("loop", work)
        await until(lambda: starts > 1)
        await background.close()

    asyncio.run(main())


def test_fatal_work_is_not_started_again_and_ends_the_process():
    async def main() -> None:
        background, starts = Background(sleep=Pauses()), 0

        async def work() -> Never:
            nonlocal starts
            starts += 1
            raise RuntimeError("no more sockets")

        background.keep("api", work, fatal=True)
        with pytest.raises(FatalWorkError) as caught:
            await background.until(asyncio.Event())
        failure = caught.value
        assert str(failure) == "api failed: RuntimeError: no more sockets"
        assert isinstance(failure.__cause__, RuntimeError)
        assert starts == 1
        with pytest.raises(FatalWorkError):  # a later waiter gets the error too
            await background.until(asyncio.Event())
        await background.close()

    asyncio.run(main())


def test_work_that_is_done_once_is_not_a_failure_when_it_returns(caplog):
    async def main() -> None:
        background = Background()

        async def good() -> None:
            pass

        async def bad() -> None:
            raise KeyError("platform")

        await background.once("dial", good())
        await background.once("dial", bad())
        assert background.reports()[0].failures == 1
        assert background.reports()[0].running == 0

    asyncio.run(main())
    assert caplog.text.count("KeyError") >= 1


def test_closing_cancels_what_runs_what_pauses_and_what_has_not_begun():
    async def main() -> None:
        background = Background()

        async def forever() -> Never:
            await asyncio.Event().wait()
            raise AssertionError

        async def fails() -> Never:
            raise ValueError

        running, pausing = background.keep("a", forever), background.keep("b", fails)
        await until(lambda: background.reports()[1].failures == 1)
        new = background.once("c", forever())
        await background.close()
        assert running.cancelled()
        assert pausing.cancelled()
        assert new.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("way", ["keep", "once"])
def test_a_cancelled_task_is_cancelled_and_not_counted_as_failed(way):
    async def main() -> None:
        background, begun = Background(), asyncio.Event()

        async def forever() -> Never:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        task = background.keep("a", forever) if way == "keep" else background.once("a", forever())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert background.reports()[0].failures == 0

    asyncio.run(main())
