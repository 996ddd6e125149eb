"""Acceptance checklist 1 to 6: bonds, ids, feeding, electing, and clusters that began apart.

Where the checklist limits how long something may take, the test waits that long.
"""

import asyncio
from dataclasses import replace

import uvloop

from node.group.group import Group
from node.group.identity import GroupKey
from node.machines.kv import KeyValue
from node.machines.noop import NoOp
from node.raft.log import MemoryLog
from node.raft.types import Consistency
from tests.support.groups import (
    ALONE,
    FAST,
    GET,
    INIT,
    JOIN,
    Gate,
    Site,
    add,
    counter,
    events,
    one_leader,
    until,
    until_voters,
    within,
)

SEEN_S = 5
UNHURRIED = replace(FAST, election_timeout_ms=1000, election_jitter_ms=500)
ELECTED_S = (
    2 * (ALONE.bootstrap_delay_ms + UNHURRIED.election_timeout_ms + UNHURRIED.election_jitter_ms) / 1000
)
MERGED_S = 10


def test_01_members_can_see_each_other() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a = await site.network("a")
            b = await site.network("b", a)
            c = await site.network("c", a, b)
            d = await site.network("d", a, b, c)
            members = {b"1": (a, b, c), b"2": (b, c, d), b"3": (a, d)}
            joined: list[tuple[Group, set[bytes]]] = []
            for letter, networks in members.items():
                for network in networks:
                    group = network.groups.with_key(GroupKey(letter * 32)).with_consensus(FAST, JOIN).join()
                    others = {other.me.id for other in networks if other is not network}
                    joined.append((group, others))

            def bonds(group: Group) -> set[bytes]:
                return {bond.peer.id for bond in group.bonds}

            await until(lambda: all(bonds(group) == others for group, others in joined), SEEN_S)
            # No node is bonded in a group that it did not join, so these are exactly the bonds there are.
            assert len({group.id for group, _ in joined}) == 3
            for network in (a, b, c, d):
                of_groups = {event["group_id"] for event in events(network, "bond-admitted")}
                mine = {group.id.hex() for group, _ in joined if group.me == network.me}
                assert of_groups == mine

    uvloop.run(scenario())


def test_02_group_id_is_derived_from_the_configuration() -> None:
    async def scenario() -> None:
        async with Site() as site:
            start = counter(await site.network("a"), INIT)
            elsewhere = counter(await site.network("b"), JOIN)

            assert start.id() == elsewhere.id()
            assert start.id() == start.with_log_storage(MemoryLog()).id()
            assert start.id() != replace(start, key=GroupKey(b"o" * 32)).id()
            assert start.id() != start.with_state_machine(KeyValue()).id()
            assert start.id() != start.with_state_machine(NoOp()).id()
            assert start.id() != start.with_consensus(replace(FAST, heartbeat_ms=41), INIT).id()

    uvloop.run(scenario())


def test_03_feed_smoke() -> None:
    async def scenario() -> None:
        async with Site() as site:
            first = await site.network("a")
            a = counter(first, ALONE).join()
            await within(a.when().is_leader())
            await within(a.when().online())
            b = counter(await site.network("b", first), ALONE).join()
            assert await within(b.when().leader_elected()) == a.me
            await within(b.when().online())

            one = await within(b.feed(add(1)))
            two = await within(b.feed(add(2)))
            batch = await within(b.feed_many([add(3), add(4), add(5)]))

            assert one < two < batch
            for group in (a, b):
                await within(group.when().committed().reaches(batch))
                answer = await within(group.query(GET, Consistency.WEAK, min_at=batch))
                assert answer.value == {"value": 15}

    uvloop.run(scenario())


def test_04_a_leader_is_elected_followed_and_replaced() -> None:
    async def scenario() -> None:
        async with Site() as site:
            first = await site.network("a")
            a = counter(first, ALONE, settings=UNHURRIED).join()
            assert a.leader is None
            assert await within(a.when().leader_elected(), ELECTED_S) == a.me
            term = a.status.term

            b = counter(await site.network("b", first), ALONE, settings=UNHURRIED).join()
            c = counter(await site.network("c", first), ALONE, settings=UNHURRIED).join()
            for group in (b, c):
                assert await within(group.when().leader_elected()) == a.me
            await until_voters([a, b, c], 3)
            # They follow without an election.
            assert [group.status.term for group in (a, b, c)] == [term] * 3

            changes = [group.when().leader_changed() for group in (b, c)]
            async with asyncio.timeout(ELECTED_S):
                await first.close()
                new = [await change for change in changes]
            assert new[0] == new[1]
            assert new[0] in (b.me, c.me)

            d = counter(await site.network("d", site.networks[1]), ALONE, settings=UNHURRIED).join()
            assert await within(d.when().leader_elected()) == new[0]
            await until_voters([b, c, d], 3)

    uvloop.run(scenario())


async def _apart(site: Site, **settings: object) -> tuple[list[Group], list[Gate]]:
    """Three nodes that each found a cluster of their own, and the gates between them."""
    a = await site.network("a")
    to_a, a_address = await site.gate(a)
    b = await site.network("b", a_address)
    to_b, b_address = await site.gate(b)
    c = await site.network("c", a_address, b_address)
    rules = replace(FAST, **settings)  # type: ignore[arg-type]
    groups = [counter(network, ALONE, settings=rules).join() for network in (a, b, c)]
    for group in groups:
        await within(group.when().is_leader())
        await within(group.when().online())
    assert len({group.status.cluster_id for group in groups}) == 3
    return groups, [to_a, to_b]


def test_05_rivals_with_the_same_log_position_agree_on_one_leader() -> None:
    async def scenario() -> None:
        async with Site() as site:
            groups, gates = await _apart(site)

            for gate in gates:
                gate.open = True
            async with asyncio.timeout(MERGED_S):
                await one_leader(groups)
                await until(lambda: len({group.status.cluster_id for group in groups}) == 1)
            await until_voters(groups, 3)

            await within(groups[2].execute(add(5)))
            for group in groups:
                assert (await within(group.query(GET))).value == {"value": 5}

    uvloop.run(scenario())


def test_06_rivals_with_shorter_logs_discard_them_if_the_group_permits_it() -> None:
    async def scenario() -> None:
        async with Site() as site:
            groups, gates = await _apart(site, on_rival="discard-shorter")
            a, b, _ = groups
            for by in (1, 2, 3):
                await within(a.execute(add(by)))
            await within(b.execute(add(100)))

            for gate in gates:
                gate.open = True
            await until(lambda: all(group.leader == a.me for group in groups), MERGED_S)
            await until_voters(groups, 3)

            for group in groups:
                assert (await within(group.query(GET))).value == {"value": 6}
            assert events(site.networks[1], "data-discarded")
            assert not events(site.networks[0], "data-discarded")

    uvloop.run(scenario())


def test_06_without_that_flag_nothing_is_discarded_and_nothing_merged() -> None:
    async def scenario() -> None:
        async with Site() as site:
            (a, b, _), (gate, _) = await _apart(site)
            await within(a.execute(add(1)))
            await within(b.execute(add(100)))

            gate.open = True
            await until(lambda: any(events(network, "rival-cluster") for network in site.networks[:2]))

            assert (await within(a.query(GET))).value == {"value": 1}
            assert (await within(b.query(GET))).value == {"value": 100}
            assert a.status.cluster_id != b.status.cluster_id

    uvloop.run(scenario())
