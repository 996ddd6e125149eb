"""A member whose messages do not arrive, or that receives none: what its callers get, then and afterwards."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from node.group.errors import NotExecutedError, OutcomeUnknownError
from node.group.group import Executed, Group
from node.raft.messages import Forward
from node.raft.types import Answer
from node.raft.wire import decode_untrusted
from tests.support.groups import FAST, GET, PATIENCE_S, Lost, Site, add, unheard, until, within

KEY = b"order-7"


def run(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), Site() as site:
            await scenario(site)

    uvloop.run(bounded())


async def strong(group: Group) -> Any:
    return (await within(group.query(GET))).value["value"]


# ---- a leader that does not answer --------------------------------------------
async def _ask_in_vain(group: Group) -> None:
    with pytest.raises(OutcomeUnknownError) as unknown:
        await within(group.execute(add(2), key=KEY, timeout_s=0.3))
    assert unknown.value.reason == "deadline"


def _forwards(lost: list[Lost]) -> list[Lost]:
    return [message for message in lost if isinstance(decode_untrusted(message.data), Forward)]


async def _executes_once_in_all(groups: list[Group]) -> None:
    """Whichever member is asked to execute it again, and how often: all answer with what its one execution gave."""
    for group in (groups[2], groups[1], groups[0], groups[2]):
        assert (await within(group.execute(add(2), key=KEY))).result == {"value": 42}
    assert [await strong(group) for group in groups] == [42] * 3


def test_a_command_whose_answer_is_lost_is_of_unknown_outcome_and_its_retry_gets_that_answer() -> None:
    async def scenario(site: Site) -> None:
        a, b, c = groups = await site.counters(3)
        await within(c.execute(add(40)))  # so that the next one has a session, and leaves at once

        with unheard(a, b, by=[c]):
            await _ask_in_vain(c)
            async with asyncio.timeout(PATIENCE_S):
                while await strong(a) != 42:  # it does happen
                    pass

        await _executes_once_in_all(groups)

    run(scenario)


@pytest.mark.parametrize("late", ["lost-for-ever", "comes-before-the-retry", "comes-after-the-retry"])
def test_a_command_lost_on_its_way_is_of_unknown_outcome_and_its_retry_executes_it_once(late: str) -> None:
    async def scenario(site: Site) -> None:
        a, b, c = groups = await site.counters(3)
        await within(c.execute(add(40)))

        with unheard(c, by=[a, b]) as lost:
            await _ask_in_vain(c)
            assert await strong(a) == 40  # it did not happen: so far
        forwards = _forwards(lost)
        assert {message.to for message in forwards} == {(a.me,)}

        async def come_after_all() -> None:
            for message in forwards:
                message.arrive()
            # Behind them on the same bond: when it has its answer, they are decided, too.
            assert (await within(c.execute(add(0)))).result == {"value": 42}

        if late == "comes-before-the-retry":
            await come_after_all()
        await _executes_once_in_all(groups)
        if late == "comes-after-the-retry":
            await come_after_all()
            assert [await strong(group) for group in groups] == [42] * 3

    run(scenario)


# ---- no leader to hand things to -------------------------------------------------
BOUND, ASKED = 8, 20


async def a_few_turns() -> None:
    """Let the loop come round, but no time pass that anything could wait for."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("place", [0, 2], ids=["leader", "follower"])
def test_a_member_without_a_quorum_keeps_a_bounded_queue_refuses_the_rest_and_answers_the_queue_later(
    place: int,
) -> None:
    async def scenario(site: Site) -> None:
        groups = await site.counters(3, settings=replace(FAST, pending_max=BOUND), gated=True)
        member = groups[place]
        await within(member.execute(add(0)))
        await site.cut()
        await until(lambda: all(group.bonds == [] for group in groups))

        commands: list[asyncio.Task[Executed]] = []
        queries: list[asyncio.Task[Answer]] = []
        for number in range(ASKED):
            # Their sum shows which of them were executed, and how often.
            commands.append(asyncio.create_task(member.execute(add(1 << number))))
            queries.append(asyncio.create_task(member.query(GET)))
            if number == BOUND // 2:
                await a_few_turns()  # what is on its way counts like what waits
        await a_few_turns()
        refused = [*commands[BOUND:], *queries[BOUND:]]
        assert all(call.done() for call in refused)
        for call in refused:
            with pytest.raises(NotExecutedError) as error:
                await call
            assert error.value.reason == "overloaded"
        await within(member.when().offline())  # the old leader has given up by now
        assert not any(call.done() for call in [*commands[:BOUND], *queries[:BOUND]])

        site.heal()
        executed = await within(asyncio.gather(*commands[:BOUND]))
        sums = [(2 << number) - 1 for number in range(BOUND)]
        assert [one.result["value"] for one in executed] == sums
        for answer in await within(asyncio.gather(*queries[:BOUND])):
            assert answer.value["value"] in {0, *sums}

        # And there is room again for as many.
        again = await within(asyncio.gather(*(member.execute(add(1000)) for _ in range(BOUND))))
        assert again[-1].result == {"value": sums[-1] + 1000 * BOUND}
        await within(asyncio.gather(*(member.query(GET) for _ in range(BOUND))))
        assert [await strong(group) for group in groups] == [sums[-1] + 1000 * BOUND] * 3

    run(scenario)
