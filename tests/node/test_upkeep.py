"""Leases and compaction on real members: a follower renews, the leader's clock ends, a policy compacts."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from node.group.group import Group
from node.group_document.tables import Compaction, NoCompaction, RevisionCompaction
from node.machines.kv import KeyValue
from node.raft.types import Failed, Ok
from node.upkeep import RenewalFailedError, Upkeep
from tests.support.groups import INIT, JOIN, Site, counter, until, until_voters, within


def run(scenario: Callable[[list[Group], list[Upkeep]], Awaitable[None]], policy: Compaction) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), Site() as site:
            first = await site.network("a")
            networks = [first, await site.network("b", first)]
            groups = [
                counter(network, founding, machine=KeyValue()).join()
                for network, founding in zip(networks, (INIT, JOIN), strict=True)
            ]
            await until_voters(groups, 2)
            upkeeps = [Upkeep(group, policy) for group in groups]
            tasks = [asyncio.create_task(one.run()) for one in upkeeps]
            try:
                await scenario(groups, upkeeps)
            finally:
                for task in tasks:
                    task.cancel()

    uvloop.run(bounded())


def test_lse_06_every_member_renews_and_a_lease_that_nobody_renews_is_gone_with_its_keys() -> None:
    async def scenario(groups: list[Group], upkeeps: list[Upkeep]) -> None:
        await within(groups[1].execute(["lease-grant", 7, 2]))
        await within(groups[1].execute(["put", b"k", b"v", 7, 0]))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 3
        while loop.time() < until_s:
            assert [await within(one.keep_alive(7)) for one in upkeeps] == [2, 2]
        assert await within(upkeeps[1].keep_alive(8)) == 0
        await until(lambda: not any(group.machine.query(["leases"])[1] for group in groups))
        assert [group.machine.query(["store"])[2] for group in groups] == [0, 0]
        assert await within(upkeeps[0].keep_alive(7)) == 0

    run(scenario, NoCompaction())


def test_a_policy_compacts_on_every_member() -> None:
    async def scenario(groups: list[Group], _: list[Upkeep]) -> None:
        for number in range(0, 1200, 100):
            await within(
                groups[0].execute_many(
                    [["put", b"%d" % one, b"", 0, 0] for one in range(number, number + 100)]
                )
            )
        await until(lambda: all(100 < group.machine.compact_revision <= 201 for group in groups))

    run(scenario, RevisionCompaction(keep_revisions=1000))


@pytest.mark.parametrize("command", [["lease-tick", 1, 10**9, 10**9, []], ["lease-renew", [7]]])
def test_lse_10_a_caller_can_neither_move_the_clock_nor_renew_by_a_command(command: list[object]) -> None:
    async def scenario(groups: list[Group], _: list[Upkeep]) -> None:
        await within(groups[0].execute(["lease-grant", 7, 60]))
        outcome = await within(groups[0].execute_outcome((command,), credential=b"caller"))
        (result,) = outcome.results if isinstance(outcome, Ok) else ()
        assert isinstance(result, Failed)
        assert result.code in ("member-only", "access-denied", "not-allowed")
        assert groups[0].machine.query(["leases"])[1] == [7]

    run(scenario, NoCompaction())


def test_a_renewal_ends_with_the_group() -> None:
    async def scenario(groups: list[Group], upkeeps: list[Upkeep]) -> None:
        await groups[1].close()
        with pytest.raises(RenewalFailedError):
            await within(upkeeps[1].keep_alive(7))

    run(scenario, NoCompaction())
