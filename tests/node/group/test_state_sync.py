"""The state sync of a machine is part of the group's identity, on real bonds and in group documents."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from node.errors import ConfigError
from node.group.identity import GroupKey
from node.group.network import HALTS, GroupBuilder
from node.machines.base import StateMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.loader import IMPORTABLE, load_machine
from node.raft.types import Bootstrap, Founding
from node.simulation.difference import DifferenceSession, DifferenceSync
from node.sync import LogReplaySync, SnapshotSync, StateSync, Target, Turn
from tests.node import test_group_document as documents
from tests.node.group.test_document import TEXT, as_documented
from tests.node.group.test_snapshots import SETTINGS, fill
from tests.support.groups import INIT, JOIN, Site, counter, events, until, within


class HotFirst(SnapshotSync):
    signature = "example.org/hot-first/v1"


class Own(Counter):
    """The same machine, and another way of catching up."""

    def state_sync(self) -> StateSync:
        return HotFirst()


class Replaying(Counter):
    def state_sync(self) -> StateSync:
        return LogReplaySync()


class Bare(Counter):
    """Its state cannot be taken back."""

    snapshot = StateMachine.snapshot
    restore = StateMachine.restore


class Hopeless(Bare):
    def state_sync(self) -> StateSync:
        return SnapshotSync()


class Unsigned(Counter):
    def state_sync(self) -> StateSync:
        class Nameless(SnapshotSync):
            signature = ""

        return Nameless()


class Raising(Counter):
    def state_sync(self) -> StateSync:
        raise ZeroDivisionError


def run(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), Site() as site:
            await scenario(site)

    uvloop.run(bounded())


def test_a_machine_chooses_its_state_sync_and_the_default_follows_from_what_it_offers() -> None:
    assert KeyValue().state_sync().signature == Counter().state_sync().signature == "bondstone/snapshot/v1"
    assert Bare().state_sync().signature == "bondstone/log-replay/v1"
    assert not Bare().state_sync().takes_snapshots
    assert Own().state_sync().signature == "example.org/hot-first/v1"


def test_members_whose_state_syncs_differ_have_other_group_ids_and_never_bond() -> None:
    async def scenario(site: Site) -> None:
        first = counter(await site.network("a"), INIT)
        seed = site.networks[0]
        own = counter(await site.network("b", seed), JOIN, machine=Own())
        replaying = counter(await site.network("c", seed), JOIN, machine=Replaying())
        same = counter(await site.network("d", seed), JOIN)
        assert len({first.id(), own.id(), replaying.id()}) == 3
        assert first.id() == same.id()

        a, b, c, d = first.join(), own.join(), replaying.join(), same.join()
        await within(a.when().online())
        await until(lambda: len(a.status.voters) == 2)
        assert len(a.bonds) == len(d.bonds) == 1
        assert len(b.bonds) == len(c.bonds) == 0

    run(scenario)


def with_sync(builder: GroupBuilder, machine: StateMachine, sync: str) -> GroupBuilder:
    text = TEXT.replace("bootstrap =", f"state_sync = {sync!r}\nbootstrap =", 1)
    assert text != TEXT
    document = documents.document(text)
    builder = replace(builder, key=GroupKey.of_document(document)).with_document(document)
    builder = builder.with_state_machine(machine)
    return builder.with_consensus(document.settings, Founding(bootstrap=Bootstrap.JOIN))


class OwnStore(KeyValue):
    def state_sync(self) -> StateSync:
        return HotFirst()


def test_a_document_names_a_state_sync_that_is_not_built_in_and_each_has_an_id_of_its_own() -> None:
    async def scenario(site: Site) -> None:
        builder = as_documented(await site.network("a"))
        own = with_sync(builder, OwnStore(), "example.org/hot-first/v1")
        pinned = with_sync(builder, KeyValue(), "bondstone/snapshot/v1")
        default = with_sync(builder, KeyValue(), "built-in")
        assert len({own.id(), pinned.id(), builder.id()}) == 3
        assert default.id() == builder.id()
        for machine, sync in (
            (OwnStore(), "built-in"),
            (OwnStore(), "bondstone/snapshot/v1"),
            (KeyValue(), "example.org/hot-first/v1"),
            (KeyValue(), "bondstone/log-replay/v1"),
        ):
            message = r"a group's \[group\] state_sync must be as in its document"
            with pytest.raises(ConfigError, match=message):
                with_sync(builder, machine, sync).join()

    run(scenario)


@pytest.mark.parametrize("sync", ["", "with a blank", "é", "s" * 201])
def test_a_state_sync_that_is_no_name_is_refused(sync: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("group.state_sync")):
        documents.document(TEXT.replace("bootstrap =", f'state_sync = "{sync}"\nbootstrap =', 1))


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Hopeless, "state sync of .* takes snapshots, and the machine offers none"),
        (Unsigned, "state sync of .* must be text of 1 to 200 characters"),
        (Raising, "cannot be made without arguments"),
    ],
)
def test_a_machine_whose_state_sync_cannot_work_is_not_loaded(machine: type, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_machine(f"{__name__}:{machine.__name__}", IMPORTABLE)


class Differing(KeyValue):
    """The store, in a group whose members send each other only what differs."""

    def state_sync(self) -> StateSync:
        return DifferenceSync()


class Broken(DifferenceSync):
    """Its session raises at its first turn."""

    def session(self, target: Target) -> DifferenceSession:
        class Raising(DifferenceSession):
            def tick(self, now_ms: int) -> Turn:
                raise ZeroDivisionError

        return Raising(target)


class BrokenStore(KeyValue):
    def state_sync(self) -> StateSync:
        return Broken()


def test_a_real_group_catches_up_by_the_state_sync_of_its_machine() -> None:
    async def scenario(site: Site) -> None:
        a = counter(await site.network("a"), INIT, settings=SETTINGS, machine=Differing()).join()
        await within(a.when().online())
        seed = site.networks[0]
        b = counter(await site.network("b", seed), JOIN, settings=SETTINGS, machine=Differing()).join()
        await until(lambda: len(a.status.voters) == 2)
        await fill(a, 0, 1000)
        await until(lambda: a.status.base > 100 and b.status.base > 100)
        c = counter(await site.network("c", seed), JOIN, settings=SETTINGS, machine=Differing()).join()
        await until(lambda: len(a.status.voters) == 3)
        await until(lambda: c.status.commit == a.status.commit)
        assert c.status.base > 100
        assert c.machine.snapshot() == a.machine.snapshot()
        assert not any(events(network, "state-sync-failed") for network in site.networks)

    run(scenario)


def test_a_member_whose_state_sync_raises_is_named_with_its_traceback_and_stays_out_of_the_group(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(site: Site) -> None:
        a = counter(await site.network("a"), INIT, settings=SETTINGS, machine=Differing()).join()
        await within(a.when().online())
        seed = site.networks[0]
        await fill(a, 0, 500)
        await until(lambda: a.status.base > 100)
        d = counter(await site.network("d", seed), JOIN, settings=SETTINGS, machine=BrokenStore()).join()
        await until(lambda: bool(events(site.networks[-1], "state-sync-failed")))

        (event,) = events(site.networks[-1], "state-sync-failed")[:1]
        assert (event["part"], event["reason"]) == ("session", "ZeroDivisionError")
        assert "state sync (session) raised" in caplog.text
        assert "Traceback" in caplog.text
        assert d.closed is None
        assert d.status.commit.index == 0
        assert a.status.voters == (site.networks[0].me,)
        await fill(a, 500, 50)

    run(scenario)


def test_a_member_that_cannot_take_the_groups_state_stops_with_a_sentence_that_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Other(KeyValue):
        """Another version of the machine, which reports that when it sees the state."""

        def become(self, fresh: object) -> None:
            raise ValueError("a state of another version")

    async def scenario(site: Site) -> None:
        a = counter(await site.network("a"), INIT, settings=SETTINGS, machine=KeyValue()).join()
        await within(a.when().online())
        await fill(a, 0, 500)
        await until(lambda: a.status.base > 100)
        b = counter(
            await site.network("b", site.networks[0]), JOIN, settings=SETTINGS, machine=Other()
        ).join()
        await until(lambda: b.closed is not None)
        assert b.closed == "snapshot-not-restorable"
        assert f"{HALTS['snapshot-not-restorable']} (snapshot-not-restorable)" in caplog.text
        await fill(a, 500, 50)

    run(scenario)
