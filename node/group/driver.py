"""The driver between a sans-IO member, its bonds and asyncio.

Everything runs on one event loop. Events collect in an inbox and one flush a loop turn hands them to the
member together, so that many commands become one broadcast; each message is serialised once for all its
addressees. Under ``trust_disk`` nothing leaves before what it promises is durable.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from node.errors import RemoteProtocolError
from node.group.errors import GroupClosedError
from node.raft.events import (
    BondDown,
    BondLoss,
    BondUp,
    Cancel,
    Effects,
    Event,
    Halted,
    Notice,
    Persisted,
    Received,
    Record,
    Tick,
)
from node.raft.member import Member
from node.raft.messages import Chunk
from node.raft.types import Incarnation, Outcome, Preference
from node.raft.wire import decode_untrusted, encode

EVENTS_PER_STEP_MAX: Final = 512


class Outbox(Protocol):
    """The bonds, as the driver needs them."""

    def send(self, to: Iterable[Incarnation], data: bytes, *, bulk: bool) -> None: ...


class DurableLog(Protocol):
    """Makes records durable. Blocking: the driver calls it in a thread."""

    def persist(self, records: list[Record]) -> None: ...


class MemberDriver:
    """Owns one member: feeds it events, carries out its effects."""

    def __init__(
        self,
        member: Member,
        *,
        outbox: Outbox,
        on_notice: Callable[[Notice], None],
        on_violation: Callable[[Incarnation, str], None],
        durable: DurableLog | None,
    ) -> None:
        self.member = member
        self._outbox = outbox
        self._on_notice = on_notice
        self._on_violation = on_violation
        self._durable = durable
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Event] = deque()
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._futures: dict[int, asyncio.Future[Outcome]] = {}
        self._next_token = 0
        self._held: deque[Effects] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._closed: Exception | None = None
        self.submit(Tick())

    # ---- what goes in -------------------------------------------------------
    def submit(self, event: Event) -> None:
        """Queue an event for the next flush."""
        if self._closed is not None:
            return
        self._inbox.append(event)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def request(self, make_event: Callable[[int], Event]) -> asyncio.Future[Outcome]:
        """Queue an event that completes, and return the future of its outcome."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._closed is not None:
            future.set_exception(self._closed)
            return future
        self._next_token += 1
        token = self._next_token
        self._futures[token] = future
        self.submit(make_event(token))
        return future

    def forget(self, token: int) -> None:
        """Nobody waits for this outcome any more."""
        if self._futures.pop(token, None) is not None:
            self.submit(Cancel(token))

    def bond_up(self, peer: Incarnation, preference: Preference) -> None:
        self.submit(BondUp(peer, preference))

    def bond_down(self, peer: Incarnation, loss: BondLoss) -> None:
        self.submit(BondDown(peer, loss))

    def payload(self, peer: Incarnation, data: bytes) -> None:
        """Take a message from a bond; bytes that are no message end the bond."""
        try:
            message = decode_untrusted(data)
        except RemoteProtocolError as exc:
            self._on_violation(peer, exc.reason)
            return
        self.submit(Received(peer, message))

    # ---- what comes out -----------------------------------------------------
    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed is not None:
            return
        inbox = self._inbox
        events = [inbox.popleft() for _ in range(min(len(inbox), EVENTS_PER_STEP_MAX))]
        if inbox:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        now_ms = int(self._loop.time() * 1000)
        effects = self.member.step_many(now_ms, events, wall_ms=time.time_ns() // 1_000_000)
        if self._durable is not None and (effects.persist or self._held):
            self._held.append(effects)
            if self._writing is None:
                self._writing = self._loop.create_task(self._write_held())
        else:
            self._release(effects)
        self._set_timer(now_ms, effects.next_tick_ms)

    def _release(self, effects: Effects) -> None:
        for send in effects.sends:
            # What a lagging peer pulls must not hold up what keeps the others in step.
            self._outbox.send(send.to, encode(send.message), bulk=isinstance(send.message, Chunk))
        for token, outcome in effects.completions:
            future = self._futures.pop(token, None)
            if future is not None and not future.done():
                future.set_result(outcome)
        for notice in effects.notices:
            self._on_notice(notice)
            if isinstance(notice, Halted):
                self.close(GroupClosedError(f"the member halted: {notice.reason}"))

    async def _write_held(self) -> None:
        """Make what is held durable, a batch at a time, and release it in order."""
        assert self._durable is not None
        try:
            while self._held:
                batch = list(self._held)
                records = [record for effects in batch for record in effects.persist]
                if records:
                    await self._loop.run_in_executor(None, self._durable.persist, records)
                for effects in batch:
                    self._held.popleft()
                    self._release(effects)
                self.submit(Persisted(batch[-1].serial))
        except OSError as exc:
            self._on_notice(Halted(f"storage failed: {exc}"))
            self.close(GroupClosedError(f"storage failed: {exc}"))
        finally:
            self._writing = None

    def _set_timer(self, now_ms: int, tick_ms: int) -> None:
        """Let a tick come at ``tick_ms``, or earlier: an early tick costs less than moving the timer."""
        when = self._loop.time() + max(tick_ms - now_ms, 1) / 1000
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.submit(Tick())

    def close(self, error: Exception) -> None:
        """End it: every open future raises ``error``; nothing hangs."""
        if self._closed is not None:
            return
        self._closed = error
        if self._timer is not None:
            self._timer.cancel()
        self._inbox.clear()
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved here: a caller that went away is not a warning
        self._futures.clear()
