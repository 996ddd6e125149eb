"""Quotes and verdicts come in turns: a crowd waits for itself."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from node.bonds.tickets import turns
from node.bonds.tickets.turns import TurnThread


def ran_in_order(jobs: list[tuple[str, str, bool]], *, cancel: frozenset[str] = frozenset()) -> list[str]:
    """Let these jobs (name, share, known) wait behind one that takes long, and return which ran when."""
    order: list[str] = []
    gate = threading.Event()

    def job(name: str) -> Callable[[], str]:
        def work() -> str:
            order.append(name)
            return name

        return work

    async def scenario() -> None:
        thread = TurnThread("test")
        first = thread.run(gate.wait, "first", known=False)
        futures = {name: thread.run(job(name), share, known=known) for name, share, known in jobs}
        assert thread.usage.strangers + thread.usage.known == len(jobs)
        for name in cancel:
            futures[name].cancel()
        gate.set()
        await first
        for name, future in futures.items():
            if name not in cancel:
                assert await future == name
        thread.shutdown()

    asyncio.run(scenario())
    return order


CROWD = [(f"crowd-{number}", "192.0.2.1", False) for number in range(5)]


def test_a_member_does_not_wait_for_the_quotes_of_a_crowd() -> None:
    """With a derived key any client may ask for a quote; each takes up to a second, and they came in a row."""
    assert ran_in_order([*CROWD, ("member", "198.51.100.7", False)]).index("member") == 1


def test_a_known_address_comes_before_strangers() -> None:
    assert ran_in_order([*CROWD, ("member", "198.51.100.7", True)])[0] == "member"


def test_work_whose_requester_is_gone_is_not_done() -> None:
    order = ran_in_order(CROWD, cancel=frozenset({"crowd-0", "crowd-3"}))

    assert order == ["crowd-1", "crowd-2", "crowd-4"]


def test_a_job_that_fails_fails_alone() -> None:
    async def scenario() -> None:
        thread = TurnThread("test")

        def fail() -> None:
            raise OSError("the quoting service is down")

        failing = thread.run(fail, "a", known=False)
        good = thread.run(lambda: 7, "a", known=False)
        with pytest.raises(OSError, match="quoting service"):
            await failing
        assert await good == 7
        thread.shutdown()

    asyncio.run(scenario())


def test_after_its_end_no_job_begins() -> None:
    async def scenario() -> None:
        thread = TurnThread("test")
        gate = threading.Event()
        running = thread.run(gate.wait, "a", known=False)
        waiting = thread.run(lambda: 7, "a", known=False)
        loop = asyncio.get_running_loop()
        ending = loop.run_in_executor(None, thread.shutdown)
        while not thread._closed:
            await asyncio.sleep(0)
        gate.set()
        await ending
        await running
        await asyncio.sleep(0)

        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scenario())


def test_the_job_that_has_waited_longest_makes_room_in_a_full_pool_and_its_requester_learns_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "JOBS_MAX", 2)

    async def scenario() -> None:
        thread = TurnThread("test")
        gate = threading.Event()
        running = thread.run(gate.wait, "first", known=False)
        oldest, newer, newest = (thread.run(lambda: 7, "crowd", known=False) for _ in range(3))
        first = (oldest.cancelled(), newer.cancelled())
        gate.set()
        await running
        assert await newer == await newest == 7
        thread.shutdown()
        assert first == (True, False)

    asyncio.run(scenario())
