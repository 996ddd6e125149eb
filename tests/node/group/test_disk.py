"""The disk thread: in order, one write at a time, all that waited with the next, nothing after a failure."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from node.group.disk import DiskThread
from node.raft.events import Record, Recovered, SaveTruncation
from tests.support.groups import until


class Disk:
    """Each write waits for ``gate``; the one that contains ``bad`` fails."""

    recovered: Recovered | None = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.writes: list[list[Record]] = []
        self.bad: Record | None = None
        self.error: BaseException = OSError("broken")

    def forget_recovered(self) -> None:
        self.recovered = None

    def persist(self, records: list[Record]) -> None:
        self.writes.append(records)
        assert self.gate.wait(20)
        if self.bad in records:
            raise self.error


def record(number: int) -> Record:
    return SaveTruncation(number)


class Desk:
    """A thread with its disk, and what it reported."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.durable: list[int] = []
        self.failures: list[BaseException] = []
        self.told_in: set[int] = set()
        self.thread = DiskThread(self.disk, written=self._written, failed=self.failures.append)

    def _written(self, serial: int) -> None:
        self.told_in.add(threading.get_ident())
        self.durable.append(serial)


def run(scenario: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario(Desk())

    asyncio.run(bounded())


def test_what_collects_during_a_write_goes_with_the_next_and_in_order() -> None:
    async def scenario(desk: Desk) -> None:
        desk.thread.write([record(1)], 1)
        await until(lambda: len(desk.disk.writes) == 1)
        for number in range(2, 6):
            desk.thread.write([record(number), record(10 * number)], number)
        assert desk.durable == []

        desk.disk.gate.set()
        await until(lambda: desk.durable == [1, 5])
        together = [record(n) for number in range(2, 6) for n in (number, 10 * number)]
        assert desk.disk.writes == [[record(1)], together]
        assert desk.told_in == {threading.get_ident()}
        desk.thread.end()
        await desk.thread.wait_ended()

    run(scenario)


def test_the_end_waits_for_the_write_under_way_and_begins_no_other() -> None:
    async def scenario(desk: Desk) -> None:
        desk.thread.write([record(1)], 1)
        await until(lambda: len(desk.disk.writes) == 1)
        desk.thread.write([record(2)], 2)
        desk.thread.end()
        ended = asyncio.create_task(desk.thread.wait_ended())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not ended.done()

        desk.disk.gate.set()
        await ended
        await until(lambda: desk.durable == [1])
        assert desk.disk.writes == [[record(1)]]

    run(scenario)


@pytest.mark.parametrize("error", [OSError("broken"), SystemExit(1), asyncio.CancelledError()], ids=repr)
def test_after_a_failure_nothing_is_written_or_reported_durable(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(desk: Desk) -> None:
        desk.disk.error = error
        desk.disk.bad = record(2)
        desk.disk.gate.set()
        desk.thread.write([record(1)], 1)
        await until(lambda: desk.durable == [1])
        desk.thread.write([record(2)], 2)
        await until(lambda: len(desk.failures) == 1)
        desk.thread.write([record(3)], 3)
        await desk.thread.wait_ended()

        assert desk.failures == [error]
        assert desk.durable == [1]
        assert desk.disk.writes == [[record(1)], [record(2)]]

    run(scenario)
    assert "made durable" in caplog.text


def test_a_result_for_a_closed_loop_is_dropped_without_an_error() -> None:
    left: list[Desk] = []

    async def leave(desk: Desk) -> None:
        desk.thread.write([record(1)], 1)
        await until(lambda: len(desk.disk.writes) == 1)
        left.append(desk)

    run(leave)
    (desk,) = left
    desk.disk.gate.set()
    desk.thread.end()
    desk.thread._thread.join(20)
    assert not desk.thread._thread.is_alive()
    assert desk.durable == []
