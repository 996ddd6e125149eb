"""The watches of a node that is in a real group."""

import asyncio
from typing import Any

import uvloop

from node.machines.kv import KeyValue
from node.watch.driver import Watching
from node.watch.values import WatchOrder
from tests.support.groups import INIT, JOIN, Site, counter, until_voters, within

EVERYTHING = WatchOrder(start=b"", end=None)


def test_watches_of_a_leader_and_a_follower_are_woken_by_what_is_committed() -> None:
    async def scenario(site: Site) -> None:
        groups = []
        for name, start in (("a", INIT), ("b", JOIN)):
            network = await site.network(name, *site.networks)
            groups.append(counter(network, start).with_state_machine(KeyValue()).join())
            if len(groups) == 1:
                await within(groups[0].when().is_leader())
        await until_voters(groups, 2)
        streams = []
        for group in groups:
            assert isinstance(group.machine, KeyValue)
            watching = Watching(group.machine, lambda group=group: group.cluster)  # type: ignore[misc]
            group.follow(watching.stepped)
            stream, waker = watching.attach(b"owner", lambda start, end: True)
            stream.create(EVERYTHING, 0.0)
            streams.append((stream, waker))
        for number in range(3):
            await groups[0].execute(["put", b"k", b"%d" % number, 0, 0])

        for stream, waker in streams:
            seen: list[Any] = []
            while len(seen) < 3:
                while stream.ready:
                    answer = stream.take(0.0)
                    seen += [] if answer is None else answer.changes
                waker.clear()
                if len(seen) < 3:
                    await within(waker.wait())
            assert [(one.revision, one.version.value) for one in seen] == [(2, b"0"), (3, b"1"), (4, b"2")]

    async def bounded() -> None:
        async with asyncio.timeout(30), Site() as site:
            await scenario(site)

    uvloop.run(bounded())
