"""The driver: one broadcast for many commands, nothing sent too early, and no future that hangs."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from node.group.disk import DurableLog
from node.group.driver import MemberDriver
from node.group.errors import GroupClosedError
from node.group.precheck import refused_beforehand
from node.machines.base import ApplyContext, StateMachine
from node.machines.counter import Counter
from node.peers import Incarnation, Preference
from node.raft.events import Cancel, Effects, Execute, Notice, Query, Record, Recovered, Tick
from node.raft.log import MemoryLog
from node.raft.member import Member
from node.raft.messages import Append, Chunk, Fetch, VoteReply, VoteRequest
from node.raft.types import (
    LOG_START,
    Applied,
    Bootstrap,
    Consistency,
    Failed,
    Founding,
    NotExecuted,
    Ok,
    Role,
    Settings,
    Unknown,
)
from node.raft.wire import decode_untrusted, encode
from node.sync.keeper import Snapshot
from tests.support.groups import FAST, add, until

ME, PEER = Incarnation("me", b"\x01" * 32), Incarnation("peer", b"\x02" * 32)


class Key:
    """Signs and believes everything: genesis signatures have their own tests."""

    def sign(self, data: bytes) -> bytes:
        return data[:1]

    def verify(self, incarnation: Incarnation, data: bytes, signature: bytes) -> bool:
        return True


@dataclass
class Bonds:
    """A transport and a listener that keep what they get."""

    sent: list[tuple[tuple[Incarnation, ...], Any]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    violations: list[tuple[Incarnation, str]] = field(default_factory=list)
    halts: list[str] = field(default_factory=list)
    steps: int = 0
    paused: set[Incarnation] = field(default_factory=set)
    pauses: int = 0

    def send(self, to: Iterable[Incarnation], data: bytes, *, bulk: bool) -> None:
        self.sent.append((tuple(to), decode_untrusted(data)))

    def waiting_bytes(self) -> int:
        return 0

    def pause_reading(self, peer: Incarnation) -> None:
        self.paused.add(peer)
        self.pauses += 1

    def resume_reading(self, peer: Incarnation) -> None:
        self.paused.remove(peer)

    def noticed(self, notice: Notice) -> None:
        self.notices.append(notice)

    def violated(self, peer: Incarnation, reason: str) -> None:
        self.violations.append((peer, reason))

    def halted(self, reason: str) -> None:
        self.halts.append(reason)

    def stepped(self) -> None:
        self.steps += 1

    def of(self, kind: type) -> list[Any]:
        return [message for _, message in self.sent if isinstance(message, kind)]


class Disk:
    """A disk that is as slow as a test wants: a write ends when ``gate`` is open."""

    recovered: Recovered | None = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.writing: list[list[Record]] = []
        self.error: Exception | None = None

    def forget_recovered(self) -> None:
        self.recovered = None

    def persist(self, records: list[Record]) -> None:
        self.writing.append(records)
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error

    def store(self, snapshot: Snapshot) -> Generator[None, None, None]:
        raise NotImplementedError  # no test of this file takes one


def start(
    bonds: Bonds,
    *,
    bootstrap: Bootstrap = Bootstrap.INIT,
    settings: Settings = FAST,
    durable: DurableLog | None = None,
    machine: Counter | None = None,
) -> MemberDriver:
    member = Member(
        me=ME,
        group_id=bytes(32),
        settings=settings,
        founding=Founding(bootstrap=bootstrap),
        preference=Preference.NORMAL,
        machine=machine or Counter(),
        log=MemoryLog(),
        credentials=Key(),
        randrange=lambda _: 0,
        now_ms=int(asyncio.get_running_loop().time() * 1000),
    )
    return MemberDriver(member, transport=bonds, listener=bonds, durable=durable)


async def lead(driver: MemberDriver) -> None:
    await until(lambda: driver.member.status().role is Role.LEADER and driver.member.status().online)


def execute(driver: MemberDriver, by: int, *, timeout_s: float | None = None) -> Coroutine[Any, Any, Any]:
    return driver.request(Execute(driver.new_token(), (add(by),)), timeout_s=timeout_s)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    uvloop.run(bounded())


# ---- group commit -----------------------------------------------------------
def test_commands_of_one_loop_turn_become_one_broadcast() -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        driver.bond_up(PEER, Preference.OBSERVER, driver.member.build)
        await execute(driver, 1)
        before = len(bonds.of(Append))
        last = driver.member.status().last.index

        outcomes = await asyncio.gather(*(execute(driver, 1) for _ in range(100)))

        broadcasts = [message for message in bonds.of(Append)[before:] if message.entries]
        assert [len(message.entries) for message in broadcasts] == [100]
        assert [outcome.at.index for outcome in outcomes] == list(range(last + 1, last + 101))
        driver.close("done")

    run(scenario)


@pytest.mark.parametrize("feed", [False, True])
def test_what_no_state_takes_is_refused_before_the_log(feed: bool) -> None:
    """1 MiB of refused junk was an entry of every member's log for ever."""

    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        before = driver.member.status().last
        good, junk = {"op": "add", "by": 1}, {"op": "nonsense", "junk": [[]] * 1000}
        request = Execute(driver.new_token(), (good, junk), None, feed)
        outcome = await driver.request(request, timeout_s=None)
        driver.close("done")

        assert isinstance(outcome, Ok)
        aborted, refused = outcome.results
        assert isinstance(aborted, Failed)
        assert isinstance(refused, Failed)
        assert (aborted.code, refused.code) == ("batch-aborted", "op-unknown")
        assert driver.member.status().last == before

    run(scenario)


def test_it_would_be_an_entry_if_the_machine_did_not_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "check", StateMachine.check)

    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        before = driver.member.status().last
        request = Execute(driver.new_token(), ({"op": "nonsense"},), None)
        outcome = await driver.request(request, timeout_s=None)
        driver.close("done")

        assert isinstance(outcome, Ok)
        assert [type(result) for result in outcome.results] == [Failed]
        assert outcome.at.index > before.index

    run(scenario)


def test_a_check_that_raises_refuses_and_the_member_lives(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Counter):
        def check(self, command: Any) -> None:
            raise ZeroDivisionError

    results = refused_beforehand(Raises(), Execute(0, ({"op": "add"},), None))

    assert results == (
        Failed("check-raised", "the machine raised ZeroDivisionError instead of judging the command"),
    )
    assert "check failed" in caplog.text


def test_a_timer_ticks_the_member_when_nothing_else_happens() -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        driver.bond_up(PEER, Preference.OBSERVER, driver.member.build)
        seen = len(bonds.of(Append))

        await until(lambda: len(bonds.of(Append)) >= seen + 3)  # heartbeats

        driver.close("done")
        steps = bonds.steps
        await asyncio.sleep(3 * FAST.heartbeat_ms / 1000)
        assert bonds.steps == steps

    run(scenario)


# ---- what others send -------------------------------------------------------
@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", b"\x81\x18\x3f"])
def test_bytes_that_are_not_a_message_are_a_violation_and_have_no_other_effect(data: bytes) -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        driver.bond_up(PEER, Preference.NORMAL, driver.member.build)
        await execute(driver, 1)
        status = driver.member.status()

        driver.payload(PEER, data)

        assert [peer for peer, _ in bonds.violations] == [PEER]
        assert driver.member.status() == status
        assert driver.closed is None
        driver.close("done")

    run(scenario)


# ---- giving up --------------------------------------------------------------
def test_a_deadline_before_anything_was_sent_reports_that_nothing_happened() -> None:
    async def scenario() -> None:
        driver = start(Bonds(), bootstrap=Bootstrap.JOIN)

        assert await execute(driver, 1, timeout_s=0.02) == NotExecuted("deadline")
        query = Query(driver.new_token(), {"op": "get"}, Consistency.STRONG)
        assert await driver.request(query, timeout_s=0.02) == NotExecuted("deadline")
        assert driver.member.session.tokens == {}
        driver.close("done")

    run(scenario)


def test_many_deadlines_that_pass_in_one_turn_each_report_that_nothing_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than one step takes: the last are seen by the member some turns later."""
    monkeypatch.setattr("node.group.driver.EVENTS_PER_STEP_MAX", 4)

    async def scenario() -> None:
        driver = start(Bonds(), bootstrap=Bootstrap.JOIN)
        waiting = [asyncio.ensure_future(execute(driver, n, timeout_s=0.02)) for n in range(40)]
        await asyncio.sleep(0)
        time.sleep(0.05)

        assert set(await asyncio.gather(*waiting)) == {NotExecuted("deadline")}
        driver.close("done")

    run(scenario)


def test_a_deadline_after_a_command_was_written_reports_unknown_and_the_token_is_forgotten() -> None:
    async def scenario() -> None:
        disk = Disk()
        disk.gate.set()
        driver = start(Bonds(), settings=_trusting(), durable=disk)
        await lead(driver)
        await execute(driver, 1)
        disk.gate.clear()

        assert await execute(driver, 1, timeout_s=0.02) == Unknown("deadline")
        assert driver.member.session.tokens == {}

        disk.gate.set()
        outcome = await execute(driver, 1)
        assert outcome == Ok((Applied({"value": 3}),), outcome.at)  # it did happen
        driver.close("done")
        await driver.wait_written()

    run(scenario)


def test_a_cancelled_call_is_forgotten() -> None:
    async def scenario() -> None:
        driver = start(Bonds(), bootstrap=Bootstrap.JOIN)
        call = asyncio.create_task(execute(driver, 1))
        await until(lambda: len(driver.member.session.tokens) == 1)

        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        await until(lambda: driver.member.session.tokens == {})
        driver.close("done")

    run(scenario)


# ---- the disk ---------------------------------------------------------------
def _trusting() -> Settings:
    return Settings(
        heartbeat_ms=FAST.heartbeat_ms,
        election_timeout_ms=FAST.election_timeout_ms,
        election_jitter_ms=FAST.election_jitter_ms,
        trust_disk=True,
    )


def test_nothing_is_answered_before_it_is_durable_and_one_write_serves_all_that_waited() -> None:
    async def scenario() -> None:
        disk = Disk()
        disk.gate.set()
        driver = start(Bonds(), settings=_trusting(), durable=disk)
        await lead(driver)
        await execute(driver, 1)
        written = len(disk.writing)
        disk.gate.clear()

        calls = [asyncio.create_task(execute(driver, 1))]
        await until(lambda: len(disk.writing) == written + 1)
        calls += [asyncio.create_task(execute(driver, 1)) for _ in range(50)]
        await until(lambda: len(driver.member.session.tokens) == 51)
        # Many turns of the loop and of the member later:
        steps = driver.member.log.last().index
        for _ in range(100):
            await asyncio.sleep(0)
        assert steps == driver.member.log.last().index
        assert not any(call.done() for call in calls)

        disk.gate.set()
        outcomes = await asyncio.gather(*calls)
        assert outcomes[-1].results == (Applied({"value": 52}),)
        assert len(disk.writing) <= written + 3
        driver.close("done")
        await driver.wait_written()

    run(scenario)


def test_no_vote_leaves_before_it_is_durable() -> None:
    async def scenario() -> None:
        disk, bonds = Disk(), Bonds()
        disk.gate.set()
        driver = start(bonds, settings=_trusting(), durable=disk)
        await lead(driver)
        driver.bond_up(PEER, Preference.NORMAL, driver.member.build)
        cluster = driver.member.cluster
        assert cluster is not None
        disk.gate.clear()

        # Another candidate stands in a later term, with a log that is ahead, chosen by a leader to follow it.
        term = driver.member.term + 1
        request = VoteRequest(
            cluster=cluster, term=term, pre=False, last=driver.member.log.last(), roll=(ME,), transfer=True
        )
        driver.payload(PEER, encode(request))
        await until(lambda: driver.member.term == term and bool(disk.writing))
        for _ in range(50):
            await asyncio.sleep(0)
        assert bonds.of(VoteReply) == []

        disk.gate.set()
        await until(lambda: [reply.term for reply in bonds.of(VoteReply)] == [term])
        driver.close("done")
        await driver.wait_written()

    run(scenario)


def test_a_disk_that_fails_ends_everything(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        disk, bonds = Disk(), Bonds()
        disk.gate.set()
        driver = start(bonds, settings=_trusting(), durable=disk)
        await lead(driver)
        disk.error = OSError("no space left")

        with pytest.raises(GroupClosedError, match="no space left"):
            await execute(driver, 1)

        assert bonds.halts == ["storage-failed: no space left"]
        await driver.wait_written()

    run(scenario)
    assert "made durable" in caplog.text


# ---- the end ----------------------------------------------------------------
def test_closing_ends_every_future_and_every_later_call() -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds, bootstrap=Bootstrap.JOIN)
        calls = [asyncio.create_task(execute(driver, 1)) for _ in range(3)]
        await until(lambda: len(driver.member.session.tokens) == 3)

        driver.close("closed")

        for call in [*calls, execute(driver, 1)]:
            with pytest.raises(GroupClosedError, match="closed"):
                await call
        driver.payload(PEER, b"\xff")
        assert bonds.violations == []
        assert bonds.halts == []

    run(scenario)


class Broken(Counter):
    """Runs out of memory: no answer of it can be equal on all nodes."""

    def apply(self, command: Any, context: ApplyContext) -> dict[str, int]:
        if command == add(13):
            raise MemoryError
        return super().apply(command, context)


def test_a_member_that_halts_sends_nothing_more_and_ends_every_future() -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds, machine=Broken())
        await lead(driver)
        driver.bond_up(PEER, Preference.OBSERVER, driver.member.build)
        await execute(driver, 1)
        sent = len(bonds.sent)

        outcomes = await asyncio.gather(*(execute(driver, by) for by in (1, 13, 1)), return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [GroupClosedError] * 3
        assert bonds.halts == ["out-of-memory-in-apply"]
        assert len(bonds.sent) == sent

    run(scenario)


def test_a_bug_in_the_member_ends_every_future(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)

        def fail(*_: object, **__: object) -> Effects:
            raise ZeroDivisionError

        monkeypatch.setattr(driver.member, "step_many", fail)
        with pytest.raises(GroupClosedError, match="internal-error: ZeroDivisionError"):
            await execute(driver, 1)

        assert bonds.halts == ["internal-error: ZeroDivisionError"]

    run(scenario)
    assert "the member failed" in caplog.text


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt])
def test_an_exception_of_a_step_halts_the_member_and_only_a_request_to_exit_propagates(
    error: type[BaseException],
    loop: Callable[[Coroutine[Any, Any, None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bonds = Bonds()
    drivers: list[MemberDriver] = []
    waiting: list[asyncio.Future[Any]] = []
    calls: list[asyncio.Task[Any]] = []

    async def scenario() -> None:
        driver = start(bonds)
        drivers.append(driver)
        await lead(driver)
        calls.extend(asyncio.create_task(execute(driver, 1)) for _ in range(3))

        def fail(*_: object, **__: object) -> Effects:
            waiting.extend(driver._futures.values())
            raise error

        driver.member.step_many = fail  # type: ignore[method-assign]
        await asyncio.wait(calls, timeout=20)

    if error in (SystemExit, KeyboardInterrupt):
        with pytest.raises(error):
            loop(scenario())
    else:
        loop(scenario())
    assert bonds.halts == [drivers[0].closed] == [f"internal-error: {error.__name__}"]
    assert [type(future.exception()) for future in waiting] == [GroupClosedError] * 3
    # An exception that nobody looked at is reported when its task is collected, during some later test.
    assert {type(call.exception()) for call in calls if not call.cancelled()} <= {GroupClosedError}
    assert "the member failed" in caplog.text


def test_a_member_that_wants_its_next_tick_at_once_gets_it_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvloop's handle of a call that is due at once does not show when it is due."""

    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        step_many = driver.member.step_many
        # The step itself takes so long that what it wants "now" is long past when it ends.
        clock = [0.0]
        monkeypatch.setattr(driver, "_loop", LateLoop(driver._loop, clock))

        def at_once(now_ms: int, events: list[Any], *, wall_ms: int) -> Effects:
            effects = step_many(int(asyncio.get_running_loop().time() * 1000), events, wall_ms=wall_ms)
            effects.next_tick_ms = now_ms
            return effects

        monkeypatch.setattr(driver.member, "step_many", at_once)
        driver.submit(Tick())
        driver.submit(Tick())
        steps = bonds.steps
        await until(lambda: bonds.steps > steps + 10)

        assert bonds.halts == []

    run(scenario)


class LateLoop:
    """A loop on which every call is due at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: list[float]) -> None:
        self._loop = loop
        self._clock = clock

    def time(self) -> float:
        return self._clock[0]

    def call_at(self, _when: float, callback: Callable[[], None]) -> asyncio.Handle:
        return self._loop.call_soon(callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_after_taking_a_chunk_a_member_yields_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        yields: list[int] = []
        monkeypatch.setattr("node.group.driver.os.sched_yield", lambda: yields.append(bonds.steps))
        driver.payload(PEER, encode(Fetch(bytes(32), 1, 0, None, 1)))
        driver.submit(Tick())
        steps = bonds.steps
        await until(lambda: bonds.steps >= steps + 2)
        assert yields == []

        driver.payload(PEER, encode(Chunk(bytes(32), 1, LOG_START, True, (), 0)))
        await until(lambda: bool(yields))
        assert yields == [bonds.steps]

    run(scenario)


def test_a_chunk_ends_its_step_so_that_the_loop_comes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        steps: list[list[str]] = []
        step_many = driver.member.step_many

        def note(now_ms: int, events: list[Any], *, wall_ms: int) -> Effects:
            steps.append([type(getattr(event, "message", event)).__name__ for event in events])
            return step_many(now_ms, events, wall_ms=wall_ms)

        monkeypatch.setattr(driver.member, "step_many", note)
        chunk = Chunk(bytes(32), 1, LOG_START, True, (), 0)
        fetch = Fetch(bytes(32), 1, 0, None, 1)
        for message in (chunk, chunk, fetch, fetch):
            driver.payload(PEER, encode(message))
        driver.submit(Cancel(99))
        driver.submit(Cancel(99))
        await until(lambda: sum(map(len, steps)) >= 6)

        wanted = [["Chunk"], ["Chunk"], ["Fetch"], ["Fetch"], ["Cancel", "Cancel"]]
        assert [step for step in steps if step != ["Tick"]] == wanted

    run(scenario)
