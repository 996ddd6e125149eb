"""The disk thread: in order, one write at a time, all that waited with the next, nothing after a failure."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from node.group.disk import DiskThread
from node.raft.events import Record, Recovered, SaveTruncation, SnapshotStored
from node.sync.evidence import Anchor
from node.sync.image import Cutter
from node.sync.keeper import Snapshot
from tests.support.groups import until


class Disk:
    """Each write, and each slice of a snapshot, waits for ``gate``; the write that contains ``bad`` fails."""

    recovered: Recovered | None = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.writes: list[list[Record]] = []
        self.bad: Record | None = None
        self.error: BaseException = OSError("broken")
        self.full: BaseException | None = None
        self.slices = 0
        self.closed = False

    def forget_recovered(self) -> None:
        self.recovered = None

    def persist(self, records: list[Record]) -> None:
        self.writes.append(records)
        assert self.gate.wait(20)
        if self.bad in records:
            raise self.error

    def store(self, snapshot: Snapshot) -> Generator[None, None, None]:
        try:
            for _ in range(3):
                assert self.gate.wait(20)
                if self.full is not None:
                    raise self.full
                self.slices += 1
                yield
        finally:
            self.closed = True


def snapshot(index: int) -> Snapshot:
    cutter = Cutter(100)
    cutter.add(b"state")
    cutter.end()
    return Snapshot.of(Anchor(1, index, bytes(32)), cutter)


def record(number: int) -> Record:
    return SaveTruncation(number)


class Desk:
    """A thread with its disk, and what it reported."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.durable: list[int] = []
        self.stored: list[SnapshotStored] = []
        self.failures: list[BaseException] = []
        self.told_in: set[int] = set()
        self.thread = DiskThread(
            self.disk, written=self._written, stored=self.stored.append, failed=self.failures.append
        )

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


def test_records_wait_for_one_slice_of_a_snapshot_at_most() -> None:
    async def scenario(desk: Desk) -> None:
        desk.thread.store(snapshot(7))
        for number in range(1, 4):
            desk.thread.write([record(number)], number)
        desk.disk.gate.set()
        await until(lambda: desk.stored == [SnapshotStored(snapshot(7).evidence.anchor)])
        assert desk.durable[-1] == 3
        assert desk.disk.slices == 3
        await until(lambda: desk.durable[-1] == 3)
        desk.thread.write([record(4)], 4)
        await until(lambda: desk.durable[-1] == 4)
        desk.thread.end()
        await desk.thread.wait_ended()

    run(scenario)


def test_snapshots_are_stored_one_after_the_other() -> None:
    async def scenario(desk: Desk) -> None:
        desk.disk.gate.set()
        desk.thread.store(snapshot(7))
        desk.thread.store(snapshot(9))
        await until(lambda: len(desk.stored) == 2)
        assert [stored.anchor.index for stored in desk.stored] == [7, 9]
        desk.thread.end()
        await desk.thread.wait_ended()

    run(scenario)


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("a bug"), SystemExit(1)], ids=repr)
def test_a_snapshot_that_is_not_taken_is_reported_and_the_records_go_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(desk: Desk) -> None:
        desk.disk.full = error
        desk.disk.gate.set()
        desk.thread.store(snapshot(7))
        await until(lambda: len(desk.stored) == 1)
        assert desk.stored == [SnapshotStored(snapshot(7).evidence.anchor, str(error))]
        desk.thread.write([record(1)], 1)
        await until(lambda: desk.durable == [1])
        assert not desk.failures
        desk.thread.end()
        await desk.thread.wait_ended()

    run(scenario)
    assert "a snapshot cannot be made durable" in caplog.text


@pytest.mark.parametrize("why", ["end", "failure"])
def test_a_snapshot_under_way_is_given_up_at_the_end(why: str) -> None:
    async def scenario(desk: Desk) -> None:
        desk.disk.bad = record(1)
        desk.thread.store(snapshot(7))
        desk.thread.end() if why == "end" else desk.thread.write([record(1)], 1)
        desk.disk.gate.set()
        await desk.thread.wait_ended()
        assert desk.stored == []
        assert desk.disk.closed or desk.disk.slices == 0

    run(scenario)


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
