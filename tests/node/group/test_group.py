"""The group's Python API: joining, asking, waiting and ending."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node.errors import ConfigError
from node.features import HIGHEST, Features, Levels
from node.group.errors import CommandFailedError, GroupClosedError, NotExecutedError, SupersededError
from node.group.group import Group
from node.group.when import Conditions, CursorWatcher
from node.machines.base import ApplyContext, CommandError
from node.machines.counter import VALUE_MAX, Counter
from node.machines.system import EmptySystem
from node.peers import Preference
from node.raft.types import Consistency, Cursor
from node.storage.file import FileStorage
from tests.support.groups import (
    FAST,
    GET,
    INIT,
    JOIN,
    KEY,
    Site,
    add,
    counter,
    events,
    until,
    until_voters,
    within,
)


def run(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), Site() as site:
            await scenario(site)

    uvloop.run(bounded())


async def alone(site: Site, **more: Any) -> Group:
    group = counter(await site.network("a"), INIT, **more).join()
    await within(group.when().online())
    return group


# ---- joining ----------------------------------------------------------------
def test_joining_twice_is_one_join() -> None:
    async def scenario(site: Site) -> None:
        network = await site.network("a")
        first = counter(network, INIT).join()

        assert counter(network, JOIN).join() is first
        assert counter(network, JOIN, key=replace(KEY, secret=b"o" * 32)).join() is not first

    run(scenario)


def test_a_node_that_left_cannot_join_again_as_the_same_incarnation() -> None:
    async def scenario(site: Site) -> None:
        group = await alone(site)
        await group.close()

        with pytest.raises(GroupClosedError, match="new identity"):
            counter(site.networks[0], JOIN).join()

    run(scenario)


def test_trust_disk_and_its_storage_come_together_or_not_at_all(tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        network = await site.network("a")
        storage = FileStorage(tmp_path / "log", network.me)
        trusting = replace(FAST, trust_disk=True)

        with pytest.raises(ConfigError, match="trust_disk"):
            counter(network, INIT, settings=trusting).join()
        with pytest.raises(ConfigError, match="trust_disk"):
            counter(network, INIT).with_log_storage(durable=storage).join()
        storage.close()

    run(scenario)


def test_a_trust_disk_member_comes_back_with_its_log(tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        network = await site.network("a")
        settings = replace(FAST, trust_disk=True)
        storage = FileStorage(tmp_path / "log", network.me)
        group = counter(network, INIT, settings=settings).with_log_storage(durable=storage).join()
        await within(group.execute(add(5)))
        await network.close()
        storage.close()

        again = await site.network("a", identity=network.identity)
        storage = FileStorage(tmp_path / "log", again.me)
        group = counter(again, INIT, settings=settings).with_log_storage(durable=storage).join()
        assert (await within(group.query(GET))).value == {"value": 5}
        await again.close()
        storage.close()

    run(scenario)


def test_an_older_image_on_a_kept_log_stops_with_a_named_error_before_it_sends_anything(
    tmp_path: Path,
) -> None:
    async def scenario(site: Site) -> None:
        network = await site.network("a")
        settings = replace(FAST, trust_disk=True)
        storage = FileStorage(tmp_path / "log", network.me)
        newer = counter(network, INIT, settings=settings, features=Features(1, 2))
        group = newer.with_log_storage(durable=storage).join()
        await within(group.execute(add(5)))
        assert group.status.levels == Levels(2, "bondstone/counter", 1)
        await network.close()
        storage.close()

        again = await site.network("a", identity=network.identity)
        storage = FileStorage(tmp_path / "log", again.me)
        older = counter(again, INIT, settings=settings, features=Features(1, 1)).with_log_storage(
            durable=storage
        )
        group = older.join()
        with pytest.raises(GroupClosedError, match="feature-level-too-low"):
            await within(group.query(GET))
        assert events(again, "member-halted", reason="feature-level-too-low")
        await again.close()
        storage.close()

    run(scenario)


class Shy(Counter):
    @property
    def leadership_preference(self) -> Preference:
        return Preference.OBSERVER


def test_status_reports_which_members_may_vote_and_lead() -> None:
    async def scenario(site: Site) -> None:
        a = await alone(site)
        b = counter(await site.network("b", site.networks[0]), JOIN).join()
        c = counter(await site.network("c", site.networks[0]), JOIN, preference=Preference.OBSERVER).join()

        await until(lambda: len(a.bonds) == 2)
        assert a.status.electable == (a.me, b.me)
        await until(lambda: a.me in c.status.electable)
        assert c.me not in c.status.electable
        await b.close()
        await until(lambda: a.status.electable == (a.me,))

    run(scenario)


@pytest.mark.parametrize(
    ("chosen", "shown"), [(None, Preference.OBSERVER), (Preference.RELUCTANT, Preference.RELUCTANT)]
)
def test_the_machine_sets_the_leader_priority_unless_the_builder_does(
    chosen: Preference | None, shown: Preference
) -> None:
    async def scenario(site: Site) -> None:
        a = await alone(site)
        other = counter(await site.network("b", site.networks[0]), JOIN, machine=Shy(), preference=chosen)
        other.join()

        await until(lambda: [bond.preference for bond in a.bonds] == [shown])

    run(scenario)


# ---- what is refused --------------------------------------------------------
def test_a_refused_command_or_query_raises_with_the_machines_code() -> None:
    async def scenario(site: Site) -> None:
        group = await alone(site)
        with pytest.raises(CommandFailedError) as failed:
            await within(group.execute({"op": "fly"}))
        assert failed.value.code == "op-unknown"
        for consistency in Consistency:
            with pytest.raises(CommandFailedError) as failed:
                await within(group.query({"op": "fly"}, consistency))
            assert failed.value.code == "op-unknown"

    run(scenario)


def test_a_batch_raises_what_was_refused_in_it_and_changes_nothing() -> None:
    async def scenario(site: Site) -> None:
        group = await alone(site)

        with pytest.raises(CommandFailedError) as failed:
            await within(group.execute_many([add(1), add(VALUE_MAX), add(2)]))

        assert failed.value.code == "overflow"
        assert (await within(group.query(GET))).value == {"value": 0}

    run(scenario)


def test_without_a_leader_a_deadline_reports_that_a_retry_is_safe() -> None:
    async def scenario(site: Site) -> None:
        group = counter(await site.network("a"), JOIN).join()
        for call in (
            group.execute(add(1), timeout_s=0.05),
            group.feed(add(1), timeout_s=0.05),
            group.query(GET, timeout_s=0.05),
        ):
            with pytest.raises(NotExecutedError, match="deadline"):
                await call

    run(scenario)


def test_the_same_key_never_executes_twice() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        first = await within(a.execute(add(1), key=b"order-7"))
        second = await within(b.execute(add(1), key=b"order-7"))

        assert second.result == first.result == {"value": 1}

    run(scenario)


class Closed(EmptySystem):
    """Lets in the callers that it was given."""

    def __init__(self) -> None:
        self.known: list[bytes] = []

    def judge(self, credential: bytes | None, *_: Any, **__: Any) -> None:
        if credential not in (None, *self.known):
            raise CommandError("not-permitted", "this caller was not let in")

    def apply(self, command: Any, context: ApplyContext) -> Any:
        self.known.append(command[1])
        return [context.index, len(self.known)]

    def query(self, query: Any) -> Any:
        return list(self.known)

    def savepoint(self) -> Any:
        return list(self.known)

    def rollback(self, savepoint: Any) -> None:
        self.known = savepoint

    def snapshot(self) -> Any:
        return list(self.known)


def test_the_system_state_is_written_and_read_on_every_node_and_judges_callers_on_all() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2, system=Closed)
        for group in (a, b):
            with pytest.raises(CommandFailedError, match="was not let in"):
                await within(group.execute(add(1), credential=b"alice"))
            with pytest.raises(CommandFailedError, match="was not let in"):
                await within(group.query(GET, credential=b"alice"))
        (done,) = await within(b.execute_system([["let-in", b"alice"]]))

        assert done.result == [done.at.index, 1]
        for group in (a, b):
            assert (await within(group.query_system(["known"], credential=b"alice"))).value == [b"alice"]
            assert (await within(group.execute(add(1), credential=b"alice"))).result["value"]
        assert a.system.digest() == b.system.digest()

    run(scenario)


def test_a_machine_of_one_version_refuses_another_by_name() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        assert a.status.levels == b.status.levels == Levels(HIGHEST, "bondstone/counter", 1)
        with pytest.raises(NotExecutedError, match="machine-version-change-unsupported"):
            await within(a.change_machine_version(2))
        with pytest.raises(NotExecutedError, match="not-leader"):
            await within(b.change_machine_version(2))
        assert (await within(a.change_machine_version(1))).index > 0

    run(scenario)


def test_a_group_rises_when_its_last_old_member_has_gone_and_lets_no_old_one_in_again() -> None:
    async def scenario(site: Site) -> None:
        old, new = Features(1, 1), Features(1, 2, after_ms=50)
        a = counter(await site.network("a"), INIT, features=old).join()
        await within(a.when().is_leader())
        b = counter(await site.network("b", *site.networks), JOIN, features=new).join()
        c = counter(await site.network("c", *site.networks), JOIN, features=new).join()
        await until_voters([a, b, c], 3)
        await within(a.execute(add(1)))
        assert {group.status.levels for group in (a, b, c)} == {Levels(1, "bondstone/counter", 1)}
        await a.close()
        risen = {Levels(2, "bondstone/counter", 1)}
        await until(lambda: {group.status.levels for group in (b, c)} == risen)

        again = await site.network("late", site.networks[1])
        late = counter(again, JOIN, features=old).join()
        await until(lambda: bool(events(site.networks[1], "bond-refused", reason="feature-level-too-low")))
        assert late.status.cluster_id is None
        (event,) = events(site.networks[1], "group-levels", level=2)
        assert event["index"] <= b.committed.index

    run(scenario)


@pytest.mark.parametrize("wrong", [{"versions": range(0)}, {"family": ""}, {"signature": "a\nb"}])
def test_a_machine_whose_signature_cannot_be_sent_to_peers_joins_no_group(wrong: dict[str, Any]) -> None:
    async def scenario(site: Site) -> None:
        machine = type("Nameless", (Counter,), wrong)()
        network = await site.network("a")
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            counter(network, INIT, machine=machine).join()

    run(scenario)


class Twofold(Counter):
    """Version 2 counts double, but there is no way from 1 to 2."""

    versions = range(1, 3)

    def apply(self, command: Any, context: ApplyContext) -> Any:
        return super().apply(command | {"by": command["by"] * context.version}, context)


def test_a_group_runs_its_founders_highest_common_version_and_refuses_members_without_it() -> None:
    async def scenario(site: Site) -> None:
        (group,) = await site.counters(1, machine=Twofold())
        assert (await within(group.execute(add(1)))).result == {"value": 2}
        late = counter(await site.network("late", *site.networks), JOIN).join()

        await until(lambda: bool(events(site.networks[0], "bond-refused", reason="machine-version-too-low")))
        assert late.status.cluster_id is None
        with pytest.raises(CommandFailedError, match="cannot turn its state"):
            await within(group.change_machine_version(1))

    run(scenario)


# ---- waiting ----------------------------------------------------------------
def test_conditions_report_leaders_roles_and_being_online() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        assert await within(b.when().leader_elected()) == a.me
        assert await within(b.when().leader_is(a.me)) == a.me
        assert await within(a.when().is_leader())
        assert await within(b.when().is_follower())
        assert a.is_leader
        assert not b.is_leader
        changed, leading = b.when().leader_changed(), b.when().is_leader()
        following = a.when().is_follower()

        await within(a.transfer_leadership(b.me))

        assert await within(changed) == b.me
        assert await within(leading)
        assert await within(following)

    run(scenario)


def test_a_condition_reports_that_a_node_is_cut_off() -> None:
    async def scenario(site: Site) -> None:
        a, _, _ = await site.counters(3, settings=replace(FAST, min_voters=3))
        offline = a.when().offline()
        assert not offline.done()
        for network in site.networks[1:]:
            await network.close()

        assert await within(offline)

    run(scenario)


def test_the_log_and_the_committed_cursor_can_be_watched() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        watched = [
            w()
            for g in (a, b)
            for c in (g.when().log(), g.when().committed())
            for w in (c.changed, c.advanced)
        ]
        done = await within(b.execute(add(1)))
        for future in watched:
            assert (await within(future)).index <= done.at.index
        assert await within(a.when().committed().reaches(done.at)) >= done.at
        assert await within(a.when().log().reaches(done.at.index)) >= done.at
        assert a.committed <= a.log_position

        wrong = Cursor(done.at.term + 1, done.at.index)
        with pytest.raises(SupersededError):
            await within(b.when().committed().reaches(wrong))

    run(scenario)


def test_a_waiter_for_a_cursor_that_is_superseded_later_raises() -> None:
    async def scenario(site: Site) -> None:
        group = await alone(site)
        later = Cursor(group.status.term + 1, group.committed.index + 1)
        waiting = group.when().committed().reaches(later)
        await within(group.execute(add(1)))

        with pytest.raises(SupersededError):
            await within(waiting)

    run(scenario)


# ---- the end ----------------------------------------------------------------
@pytest.mark.parametrize("ender", ["group", "network"])
def test_whatever_waits_raises_when_the_group_ends(ender: str) -> None:
    async def scenario(site: Site) -> None:
        group = counter(await site.network("a"), JOIN).join()
        when = group.when()
        waiting = [
            when.leader_elected(),
            when.leader_changed(),
            when.leader_is(group.me),
            when.is_leader(),
            when.is_follower(),
            when.online(),
            when.log().changed(),
            when.log().reaches(1),
            when.committed().advanced(),
        ]
        calls = [group.execute(add(1)), group.feed(add(1)), group.query(GET)]
        waiting += [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)

        await (group.close() if ender == "group" else site.networks[0].close())
        await group.close()  # again: nothing happens

        for future in [*waiting, group.execute(add(1)), group.when().online()]:
            with pytest.raises(GroupClosedError):
                await within(future)
        assert group.closed == group.status.halted == "closed"

    run(scenario)


class Broken(Counter):
    def apply(self, command: Any, context: Any) -> dict[str, int]:
        if command == add(13):
            raise MemoryError
        return super().apply(command, context)


def test_a_member_that_halts_is_in_the_audit_log_and_leaves_its_peers() -> None:
    async def scenario(site: Site) -> None:
        first = await site.network("a")
        a = counter(first, INIT).join()
        await within(a.when().online())
        b = counter(await site.network("b", first), JOIN, machine=Broken()).join()
        await until_voters([a, b], 2)

        at = await within(a.feed(add(13)))

        await until(lambda: b.closed is not None)
        assert b.status.halted == b.closed
        assert events(site.networks[1], "member-halted", reason="out-of-memory-in-apply")
        await until(lambda: a.bonds == [])
        answer = await within(a.query(GET, Consistency.WEAK, min_at=at))
        assert answer.value == {"value": 13}

    run(scenario)


def test_a_member_whose_step_is_cancelled_is_in_the_audit_log_and_nothing_waits_for_it() -> None:
    async def scenario(site: Site) -> None:
        a, b = await site.counters(2)
        waiting = [b.when().is_leader(), b.when().committed().reaches(Cursor(9, 99))]

        def cancelled(*_: object, **__: object) -> Any:
            raise asyncio.CancelledError

        b._driver.member.step_many = cancelled  # type: ignore[method-assign]
        for call in [b.execute(add(1)), *waiting]:
            with pytest.raises(GroupClosedError, match="internal-error: CancelledError"):
                await within(call)

        assert b.closed == b.status.halted == "internal-error: CancelledError"
        assert not b.status.online
        assert events(site.networks[1], "member-halted", reason="internal-error: CancelledError")
        await until(lambda: a.bonds == [])

    run(scenario)


def test_waiters_that_went_away_are_forgotten() -> None:
    async def scenario(site: Site) -> None:
        group = counter(await site.network("a"), JOIN).join()
        conditions = Conditions(lambda: group.status)
        waiting = CursorWatcher(conditions, lambda status: status.commit, lambda: group.status).advanced()
        waiting.cancel()
        conditions.changed()

        assert conditions._waiting == []

    run(scenario)
