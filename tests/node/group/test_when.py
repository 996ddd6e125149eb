"""Waiting for conditions of a caller's own."""

import pytest
import uvloop

from node.raft.types import MemberStatus
from tests.support.groups import GET, INIT, Site, add, counter, within


def test_a_condition_of_the_applied_state_holds_as_soon_as_the_member_has_applied_it() -> None:
    async def scenario() -> None:
        async with Site() as site:
            group = counter(await site.network("a"), INIT).join()

            def value(_status: MemberStatus) -> int | None:
                held = group.machine.query(GET)["value"]
                return held if held >= 3 else None

            waiting = group.when().holds(value)
            for _ in range(3):
                assert not waiting.done()
                await within(group.execute(add(1)))
            assert await within(waiting) == 3
            assert await within(group.when().holds(value)) == 3  # at once

    uvloop.run(scenario())


def test_a_condition_that_raises_ends_its_own_wait_and_not_the_member() -> None:
    async def scenario() -> None:
        async with Site() as site:
            group = counter(await site.network("a"), INIT).join()
            await within(group.when().is_leader())
            raising = False

            def condition(_status: MemberStatus) -> int | None:
                if raising:
                    raise ZeroDivisionError
                return None

            waiting, other = group.when().holds(condition), group.when().committed().advanced()
            raising = True
            assert (await within(group.execute(add(1)))).result == {"value": 1}
            with pytest.raises(ZeroDivisionError):
                await within(waiting)
            await within(other)
            with pytest.raises(ZeroDivisionError):
                await within(group.when().holds(condition))
            assert (await within(group.execute(add(1)))).result == {"value": 2}
            assert group.closed is None

    uvloop.run(scenario())
