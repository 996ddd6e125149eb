"""Acceptance checklist 7 to 16: executing, asking and catching up."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from node.group.errors import NotExecutedError
from node.group.group import Group
from node.raft.log import MemoryLog
from node.raft.types import Answer, Consistency, Cursor, Entry
from tests.support.groups import (
    FAST,
    GET,
    INIT,
    JOIN,
    Site,
    add,
    counter,
    until_voters,
    within,
)

ENTRY_BYTES = 150  # about what one `add` takes in a chunk


async def weak(group: Group, at: Cursor) -> Any:
    """The value that ``group`` itself holds once it includes ``at``."""
    answer = await within(group.query(GET, Consistency.WEAK, min_at=at))
    return answer.value["value"]


async def strong(group: Group) -> Any:
    return (await within(group.query(GET))).value["value"]


def test_07_execute_without_catch_up_and_weak_queries() -> None:
    async def scenario() -> None:
        async with Site() as site:
            groups = await site.counters(3)
            a, b, c = groups

            first = await within(a.execute(add(3)))
            second = await within(a.execute(add(4)))
            assert (first.result, second.result) == ({"value": 3}, {"value": 7})
            assert second.at.index > first.at.index
            assert await strong(a) == 7
            assert [await weak(group, second.at) for group in (b, c)] == [7, 7]

            third = await within(b.execute(add(-2)))
            assert third.result == {"value": 5}
            assert third.at > second.at
            # The member that executed it has applied it: no waiting there, and no min_at.
            assert (await b.query(GET, Consistency.WEAK)).value == {"value": 5}
            assert [await weak(group, third.at) for group in groups] == [5, 5, 5]

            changes = [group.when().leader_changed() for group in (b, c)]
            await site.networks[0].close()
            assert await within(changes[0]) == await within(changes[1])
            of_b = await within(b.execute_many([add(1), add(2), add(3)]))
            of_c = await within(c.execute_many([add(5), add(6), add(9)]))
            assert [one.result["value"] for one in of_b] == [6, 8, 11]
            assert [one.result["value"] for one in of_c] == [16, 22, 31]
            assert len({one.at for one in of_b}) == 1
            assert [await weak(group, of_c[-1].at) for group in (b, c)] == [31, 31]

    uvloop.run(scenario())


def test_08_queries_name_the_state_that_they_answer_from_and_strong_ones_need_a_quorum() -> None:
    async def scenario() -> None:
        async with Site() as site:
            # With min_voters=3 no leader can shrink the quorum when two are gone.
            a, b, _ = await site.counters(3, settings=replace(FAST, min_voters=3))
            done = await within(a.execute(add(2)))

            answers: list[Answer] = [
                await within(a.query(GET)),
                await within(b.query(GET, Consistency.WEAK, min_at=done.at)),
                await within(b.query(GET)),
            ]
            # Not equal: meanwhile another member may have opened its session.
            assert all(answer.at >= done.at for answer in answers)
            assert [answer.value for answer in answers] == [{"value": 2}] * 3

            for network in site.networks[1:]:
                await network.close()
            with pytest.raises(NotExecutedError):
                await a.query(GET, timeout_s=0.5)
            assert (await a.query(GET, Consistency.WEAK)).value == {"value": 2}

    uvloop.run(scenario())


async def _all(calls: Sequence[Any]) -> list[Any]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(call) for call in calls]
    return [task.result() for task in running]


def test_09_executes_can_run_concurrently_from_leader_and_follower() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a, b = await site.counters(2)

            done = await within(_all([group.execute(add(by)) for by in (7, 8, 10) for group in (a, b, a)]))

            assert len({one.at for one in done}) == 9
            assert await strong(a) == await strong(b) == 75
            assert max(one.result["value"] for one in done) == 75

    uvloop.run(scenario())


def test_10_execute_many_can_run_concurrently_from_leader_and_follower() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a, b = await site.counters(2)

            batches = [group.execute_many([add(1), add(4)]) for _ in range(5) for group in (a, b)]
            done = await within(_all(batches))

            # No batch was torn: its two results are neighbours.
            assert all(two.result["value"] == one.result["value"] + 4 for one, two in done)
            assert await strong(a) == await strong(b) == 50

    uvloop.run(scenario())


def test_11_queries_can_run_concurrently_from_leader_and_follower() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a, b = await site.counters(2)
            done = await within(a.execute(add(30)))

            queries = [group.query(GET) for _ in range(10) for group in (a, b)]
            queries += [group.query(GET, Consistency.WEAK, min_at=done.at) for group in (a, b)]
            answers = await within(_all(queries))

            assert {answer.value["value"] for answer in answers} == {30}
            assert len(answers) == 22

    uvloop.run(scenario())


def test_12_a_late_joiner_catches_up_and_then_replicates_normally() -> None:
    async def scenario() -> None:
        async with Site() as site:
            first = await site.network("a")
            a = counter(first, INIT).join()
            await within(a.when().is_leader())
            for by in (1, 2, 3):
                done = await within(a.execute(add(by)))

            b = counter(await site.network("b", first), JOIN).join()
            reached = [b.when().log().reaches(done.at), b.when().committed().reaches(done.at)]
            assert await within(b.when().leader_elected()) == a.me
            for cursor in reached:
                assert (await within(cursor)).index >= done.at.index
            assert await weak(b, done.at) == 6

            await within(b.when().online())
            after = await within(a.execute(add(2)))
            assert await weak(b, after.at) == 8

    uvloop.run(scenario())


class ServingLog(MemoryLog):
    """Counts the chunks that were served out of it."""

    def __init__(self, chunk_bytes: int) -> None:
        super().__init__()
        self._chunk_bytes = chunk_bytes
        self.chunks: list[int] = []

    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        taken = super().slice(first, last, bytes_max)
        if bytes_max == self._chunk_bytes:
            self.chunks.append(len(taken))
        return taken


@pytest.mark.parametrize(
    "entries_per_chunk",
    [
        pytest.param(7, id="13-chunks-of-7"),
        pytest.param(20, id="14-chunks-of-20"),
        pytest.param(100, id="15-chunks-of-100"),
        pytest.param(1000, id="16-chunks-of-1000"),
    ],
)
def test_13_to_16_late_joiners_catch_up_in_chunks_from_two_peers(entries_per_chunk: int) -> None:
    async def scenario() -> None:
        async with Site() as site:
            settings = replace(FAST, chunk_bytes_max=entries_per_chunk * ENTRY_BYTES)
            logs = [ServingLog(settings.chunk_bytes_max) for _ in range(3)]
            first = await site.network("a")
            a = counter(first, INIT, settings=settings, log=logs[0]).join()
            await within(a.when().is_leader())
            await within(_all([a.execute(add(by)) for by in range(200)]))

            second = await site.network("b", first)
            b = counter(second, JOIN, settings=settings, log=logs[1]).join()
            await until_voters([a, b], 2)
            served = sum(logs[0].chunks)
            assert served >= 200
            assert max(logs[0].chunks) <= entries_per_chunk * 2
            done = await within(_all([b.execute(add(by)) for by in range(200)]))
            last = max(one.at for one in done)

            # It meets the follower first, and learns of the leader from it.
            third = await site.network("c", second)
            c = counter(third, JOIN, settings=settings, log=logs[2]).join()
            await within(c.when().committed().reaches(last))
            await until_voters([a, b, c], 3)

            assert [await weak(group, last) for group in (a, b, c)] == [39800] * 3
            assert sum(logs[0].chunks) - served + sum(logs[1].chunks) >= 400
            if entries_per_chunk == 7:
                # The follower spares the leader. With few chunks all may be here before c has met b.
                assert sum(logs[1].chunks) > 0

    uvloop.run(scenario())
