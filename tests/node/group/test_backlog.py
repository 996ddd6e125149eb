"""A peer that sends faster than the member works takes neither its memory nor the others' turn."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from node.bonds.mesh import BondMesh
from node.group.backlog import BYTES_MAX, MESSAGES_MAX, TURNS_MAX, Backlog
from node.group.driver import MemberDriver
from node.group.group import Group
from node.peers import Incarnation, Preference
from node.raft.entries import SESSION_ID_BYTES, encode_command_body, encode_commands, make_entries
from node.raft.events import Received
from node.raft.messages import Append, Avail, Chunk, Fetch, Message
from node.raft.ranges import RANGES_PER_SOURCE
from node.raft.types import LOG_START, EntryKind
from node.raft.wire import encode
from tests.node.group.test_driver import ME, PEER, Bonds, execute, lead, start
from tests.node.group.test_driver import run as run_driver
from tests.support.groups import GET, JOIN, Site, add, counter, until, until_voters, within

OTHER = Incarnation("other", b"\x03" * 32)
SMALL = Avail(bytes(32), 1)
FETCH = Fetch(bytes(32), 1, 0, None, 1)
CHUNK = Chunk(bytes(32), 1, LOG_START, True, (), 0)
COMMANDS = encode_commands(bytes(SESSION_ID_BYTES), 1, 1, None, encode_command_body((bytes(1024 * 1024),)))
LARGE = Append(bytes(32), 1, LOG_START, make_entries(LOG_START, [(1, EntryKind.COMMAND, 0, COMMANDS)]), 0, 1)


def waiting(driver: MemberDriver, peer: Incarnation) -> list[int]:
    """Return the sizes of what waits in the inbox from ``peer``."""
    return [size for event, size in driver._inbox if isinstance(event, Received) and event.sender == peer]


@pytest.mark.parametrize(
    ("message", "most"),
    [(SMALL, MESSAGES_MAX), (FETCH, TURNS_MAX), (CHUNK, TURNS_MAX), (LARGE, BYTES_MAX // 2**20)],
    ids=["messages", "fetches", "chunks", "bytes"],
)
def test_a_flood_is_taken_as_fast_as_it_is_worked_off_and_all_of_it(message: Message, most: int) -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        driver.bond_up(PEER, Preference.NORMAL, driver.member.build)
        data = encode(message)
        left, peaks = 5 * most, set[int]()
        while left or waiting(driver, PEER):
            while left and PEER not in bonds.paused:
                driver.payload(PEER, data)
                left -= 1
            peaks.add(len(waiting(driver, PEER)))
            assert sum(waiting(driver, PEER)) < BYTES_MAX + len(data)
            await asyncio.sleep(0)

        assert max(peaks) == most
        assert bonds.paused == set()
        assert bonds.pauses < 12  # each time for half of the share, not for every message
        assert driver._backlog._shares == {}
        assert driver.closed is None
        driver.close("done")

    run_driver(scenario)


def test_a_flood_keeps_the_others_waiting_for_no_longer_than_its_share() -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        for peer in (PEER, OTHER):
            driver.bond_up(peer, Preference.NORMAL, driver.member.build)
        await execute(driver, 1)
        while PEER not in bonds.paused:
            driver.payload(PEER, encode(FETCH))
        driver.payload(OTHER, encode(SMALL))
        assert bonds.paused == {PEER}
        for _ in range(TURNS_MAX + 1):
            await asyncio.sleep(0)
            if PEER not in bonds.paused:
                driver.payload(PEER, encode(FETCH))

        assert waiting(driver, OTHER) == []
        driver.close("done")

    run_driver(scenario)


def test_a_new_bond_of_a_peer_with_a_full_backlog_is_paused_too() -> None:
    paused: list[str] = []

    class Source:
        def pause_reading(self, peer: Incarnation) -> None:
            paused.append(peer.name)

        def resume_reading(self, peer: Incarnation) -> None:
            paused.clear()

    backlog = Backlog(Source())
    for _ in range(TURNS_MAX + 1):
        backlog.add(PEER, 1, turn=True)

    assert paused == ["peer", "peer"]
    backlog.add(ME, 1, turn=True)
    assert paused == ["peer", "peer"]


# ---- over real bonds ----------------------------------------------------------
@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]:
    def bounded(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), Site() as site:
                await scenario(site)

        request.param(main())

    return bounded


def watch(group: Group, peer: Incarnation) -> list[int]:
    """Note how much of ``peer`` waits whenever ``group``'s member is stepped."""
    noted: list[int] = []
    member = group._driver.member
    step_many = member.step_many

    def note(now_ms: int, events: list[Any], *, wall_ms: int) -> Any:
        taken = sum(isinstance(event, Received) and event.sender == peer for event in events)
        noted.append(len(waiting(group._driver, peer)) + taken)
        return step_many(now_ms, events, wall_ms=wall_ms)

    member.step_many = note  # type: ignore[method-assign]
    return noted


def test_an_admitted_peer_that_floods_is_answered_in_full_and_disturbs_no_other_peer(run: Any) -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        await within(a.execute(add(1)))
        async with site.intruder(a) as intruder:
            status = a.status
            noted = watch(a, intruder.me)
            assert status.cluster_id is not None
            fetch = encode(Fetch(status.cluster_id, status.term, 0, None, 1))
            number = 100 * TURNS_MAX
            for _ in range(number):
                intruder.group().send([a.me], fetch)
            for _ in range(10):
                await within(b.execute(add(1)))
            chunks = [data for sender, data in intruder.handler.payloads if sender == a.me]
            await until(lambda: sum(noted) > 0)
            await intruder.handler.until(
                lambda: sum(data[1] == 9 for _, data in intruder.handler.payloads) == number
            )

            assert len(chunks) < number  # the commands did not wait until all of the flood was worked off
            assert max(noted) == TURNS_MAX
            assert intruder.handler.downs == []
            assert (a.status.term, a.leader, b.leader) == (status.term, a.me, a.me)

    run(scenario)


def test_honest_members_that_catch_up_never_meet_a_limit(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[Incarnation] = []
    chunks: list[Incarnation] = []

    def pause_reading(_: BondMesh, peer: Incarnation) -> None:
        pauses.append(peer)

    payload = MemberDriver.payload

    def note(driver: MemberDriver, peer: Incarnation, data: bytes) -> None:
        if data[1] == 9:
            chunks.append(peer)
        payload(driver, peer, data)

    async def scenario(site: Site) -> None:
        groups = await site.counters(3)
        for _ in range(40):
            await within(asyncio.gather(*(group.execute(add(1)) for group in groups for _ in range(100))))
        monkeypatch.setattr(BondMesh, "pause_reading", pause_reading)
        monkeypatch.setattr(MemberDriver, "payload", note)
        for name in "fg":
            groups.append(counter(await site.network(name, *site.networks), JOIN).join())
        await until_voters(groups, 5)

        assert (await within(groups[-1].query(GET))).value == {"value": 12_000}
        assert len(chunks) > 2 * RANGES_PER_SOURCE
        assert pauses == []

    run(scenario)
