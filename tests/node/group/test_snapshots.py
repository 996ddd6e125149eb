"""Real groups on loopback cut their logs, and a new member takes the state from the others."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import uvloop

from node.group.group import Group
from node.machines.kv import KeyValue
from node.raft.types import Consistency
from tests.support.groups import FAST, INIT, JOIN, Site, counter, events, until, within

SETTINGS = replace(FAST, snapshot_bytes=256 * 1024, log_keep_bytes=16 * 1024)


def run(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), Site() as site:
            await scenario(site)

    uvloop.run(bounded())


async def fill(group: Group, first: int, count: int) -> None:
    for start in range(first, first + count, 50):
        puts = [
            group.execute({"op": "put", "key": f"k{number:05}", "value": "v" * 1000})
            for number in range(start, start + 50)
        ]
        await within(asyncio.gather(*puts))


def test_a_member_that_joins_a_group_whose_log_was_cut_takes_its_state_while_writes_go_on() -> None:
    async def scenario(site: Site) -> None:
        a = counter(await site.network("a"), INIT, settings=SETTINGS, machine=KeyValue()).join()
        await within(a.when().online())
        b = counter(
            await site.network("b", site.networks[0]), JOIN, settings=SETTINGS, machine=KeyValue()
        ).join()
        await until(lambda: len(a.status.voters) == 2)
        await fill(a, 0, 1500)
        await until(lambda: a.status.base > 100 and b.status.base > 100)
        snapshot = a.status.snapshot
        assert snapshot is not None
        assert snapshot.size > 1_000_000

        c = counter(
            await site.network("c", site.networks[0]), JOIN, settings=SETTINGS, machine=KeyValue()
        ).join()
        await fill(a, 1500, 500)
        await until(lambda: len(a.status.voters) == 3)
        cursor = a.status.commit
        got = await within(
            c.query({"op": "list", "prefix": "k", "limit": 5000}, Consistency.STRONG, min_at=cursor)
        )
        assert [item["key"] for item in got.value["items"]] == [f"k{number:05}" for number in range(2000)]
        assert c.status.base > 100
        assert c.status.install is None
        assert c.machine.snapshot() == a.machine.snapshot()
        assert not events(site.networks[0], "state-diverged")

    run(scenario)
