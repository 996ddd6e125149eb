"""The driver between a sans-IO member, its bonds and asyncio.

Everything runs on one event loop. Events collect in an inbox, and one flush per turn of the loop hands them
to the member together, so that many commands become one broadcast. Each message is serialised once for all
its addressees. Under ``trust_disk`` a thread writes the records to the disk, all that have collected at a
time. The member itself holds back each message that must not leave before its records are durable, until it
receives ``Persisted``. A snapshot goes to the disk between these writes, a slice at a time.

The driver ends when the member raises or halts, and when the disk fails: a member whose state is in doubt
must send nothing more.

The inbox holds only a limited amount from each peer (``backlog``), so that a peer that sends fast takes
neither the memory nor the turn of the others.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from node.errors import RemoteProtocolError
from node.features import Build
from node.group.backlog import Backlog, PausableReading
from node.group.cluster_claims import ClusterClaims
from node.group.collector import LoadingPause, is_loading
from node.group.disk import DiskThread, DurableLog
from node.group.errors import GroupClosedError
from node.group.precheck import refused_beforehand
from node.peers import BondLoss, Incarnation, Preference
from node.raft.events import (
    BondDown,
    BondUp,
    Cancel,
    ChangeVersion,
    Effects,
    Event,
    Execute,
    Halted,
    Notice,
    Persisted,
    Query,
    Received,
    Recover,
    RemoveMember,
    Send,
    Tick,
    TransferLeadership,
)
from node.raft.member import Member
from node.raft.messages import Append, Chunk, Fetch, Ignorable, SyncAnswer, SyncAsk
from node.raft.types import NotExecuted, Ok, Outcome, Unknown
from node.raft.wire import decode_untrusted, encode

EVENTS_PER_STEP_MAX: Final = 512
# A follower's readers may see a commit this much later than the leader's. No caller waits for it.
LAZY_S: Final = 0.003

logger = logging.getLogger(__name__)

# The events that complete: each has a token, and an outcome.
Request = Execute | Query | TransferLeadership | RemoveMember | Recover | ChangeVersion


class Transport(PausableReading, Protocol):
    """The bonds, as the driver needs them."""

    def send(self, to: Iterable[Incarnation], data: bytes, *, bulk: bool) -> None: ...
    def waiting_bytes(self) -> int:
        """Return how much waits to be sent."""
        ...


class Listener(Protocol):
    """An object that is informed of what became of the member. Called on the event loop."""

    def noticed(self, notice: Notice) -> None: ...
    def violated(self, peer: Incarnation, reason: str) -> None: ...
    def stepped(self) -> None:
        """The member's status may have changed."""
        ...

    def halted(self, reason: str) -> None:
        """The driver has ended by itself."""
        ...


class MemberDriver:
    """Owns one member: feeds events to it and carries out its effects."""

    def __init__(
        self, member: Member, *, transport: Transport, listener: Listener, durable: DurableLog | None
    ) -> None:
        self.member = member
        member.on_raised = _log_raised
        member.buffered = self._buffered
        self._transport = transport
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Event, int]] = deque()  # with the size of what a peer sent
        self._backlog = Backlog(transport)
        self._claims = ClusterClaims(ordered=durable is None)
        self._taken = 0  # number of events that have left the inbox
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._lazy: Send | None = None
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._futures: dict[int, asyncio.Future[Outcome]] = {}
        self._expired: set[int] = set()
        self._next_token = 0
        self._disk = None
        if durable is not None:
            self._disk = DiskThread(
                durable, written=self._written, stored=self.submit, failed=self._write_failed
            )
        self._closed: str | None = None
        self._pause = LoadingPause()
        self.submit(Tick())

    @property
    def closed(self) -> str | None:
        """Why the driver has ended; None while it runs."""
        return self._closed

    def covered_age_ms(self) -> int | None:
        """Return the member's ``covered_age_ms`` now."""
        return self.member.covered_age_ms(int(self._loop.time() * 1000))

    def _buffered(self) -> int:
        return self._backlog.size + self._transport.waiting_bytes()

    # ---- what goes in -------------------------------------------------------
    def submit(self, event: Event, size: int = 0) -> None:
        """Queue an event for the next flush. ``size``: in bytes, if a peer sent the event."""
        if self._closed is not None:
            return
        self._inbox.append((event, size))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def new_token(self) -> int:
        """Return a token for one request; no other request of this member has it."""
        self._next_token += 1
        return self._next_token

    async def request(self, event: Request, *, timeout_s: float | None) -> Outcome:
        """Hand in an event that completes, with a token from ``new_token``, and return its outcome.

        After ``timeout_s`` the outcome is ``NotExecuted("deadline")`` if no part of the request left this
        member; otherwise it is ``Unknown("deadline")``. The driver forgets a cancelled call.

        Raises:
            GroupClosedError: the driver ended before there was an outcome.
        """
        if self._closed is not None:
            raise GroupClosedError(self._closed)
        token = event.token
        refused = refused_beforehand(self.member.replica.machine, event)
        if refused is not None:
            return Ok(refused, self.member.status().commit)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._futures[token] = future
        self.submit(event)
        deadline = None if timeout_s is None else self._loop.call_later(timeout_s, self._expire, token)
        try:
            return await future
        finally:
            if deadline is not None:
                deadline.cancel()
            self._expired.discard(token)
            if self._futures.pop(token, None) is not None:
                self.submit(Cancel(token))

    def bond_up(self, peer: Incarnation, preference: Preference, build: Build) -> None:
        self.submit(BondUp(peer, preference, build))

    def bond_down(self, peer: Incarnation, loss: BondLoss) -> None:
        self._claims.forget(peer)
        self.submit(BondDown(peer, loss))

    def payload(self, peer: Incarnation, data: bytes) -> None:
        """Take a peer's message. One that no member sends ends the bond; too many pause the reading."""
        if self._closed is not None:
            return
        try:
            message = decode_untrusted(data)
        except RemoteProtocolError as exc:
            self._listener.violated(peer, exc.reason)
            return
        if isinstance(message, Ignorable):
            return
        if not self._claims.allows(peer, message):
            self._listener.violated(peer, "wrong-cluster")
            return
        self.submit(Received(peer, message), len(data))
        self._backlog.add(peer, len(data), turn=_takes_a_turn(message))

    # ---- what comes out -----------------------------------------------------
    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed is not None:
            return
        now_ms = int(self._loop.time() * 1000)
        try:
            events = self._next_events()
            if self._inbox:
                self._flush_scheduled = True
                self._loop.call_soon(self._flush)
            effects = self.member.step_many(now_ms, events, wall_ms=time.time_ns() // 1_000_000)
            self._carry_out(effects)
            if (
                events
                and isinstance(events[-1], Received)
                and isinstance(events[-1].message, Chunk | SyncAnswer)
            ):
                # Catching up can wait: another process that is ready to run on this core, perhaps a voter,
                # goes first. Without this the kernel could make it wait for a slice of some milliseconds.
                os.sched_yield()
            if self._closed is None:
                self._set_timer(now_ms, effects.next_tick_ms)
        except BaseException as exc:
            # The member's state and what it has sent may no longer agree, and nothing can show by how much.
            # This holds for every exception: the loop would log a CancelledError, and the member would go on.
            logger.exception("the member failed")
            self._halt(f"internal-error: {type(exc).__name__}")
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise  # the process shall end, and nothing waits for this member any more

    def _next_events(self) -> list[Event]:
        """Take from the inbox what the next step is to handle.

        A chunk, or a request for one, is the last event of its step. Each costs milliseconds, and between two
        of them the loop has to serve the other peers' messages and the writers.
        """
        inbox = self._inbox
        events: list[Event] = []
        while inbox and len(events) < EVENTS_PER_STEP_MAX:
            event, size = inbox.popleft()
            self._taken += 1
            events.append(event)
            if isinstance(event, Received):
                turn = _takes_a_turn(event.message)
                self._backlog.remove(event.sender, size, turn=turn)
                if turn:
                    break
        return events

    def _carry_out(self, effects: Effects) -> None:
        halted = next((notice for notice in effects.notices if isinstance(notice, Halted)), None)
        if halted is not None:
            self._halt(halted.reason)
            return
        if effects.persist:
            assert self._disk is not None
            self._disk.write(effects.persist, effects.serial)
        for snapshot in effects.store:
            assert self._disk is not None
            self._disk.store(snapshot)
        for send in effects.sends:
            self._send(send)
        for token, outcome in effects.completions:
            self._complete(token, outcome)
        for notice in effects.notices:
            self._listener.noticed(notice)
        self._listener.stepped()
        self._pause.note(is_loading=is_loading(self.member))

    def _send(self, send: Send) -> None:
        """Hand a message to the bonds; a lazy one waits a short time, in case a better one follows.

        Under load the next Append follows within that time and carries the same commit index. That halves
        what the followers have to read and answer.
        """
        if send.lazy:
            self._lazy = send
            if self._lazy_timer is None:
                self._lazy_timer = self._loop.call_later(LAZY_S, self.send_lazy)
            return
        if isinstance(send.message, Append):
            self._lazy = None
        # A transfer to a peer that lags behind must not delay the messages that keep the others in step.
        self._transport.send(send.to, encode(send.message), bulk=isinstance(send.message, Chunk | SyncAnswer))

    def send_lazy(self) -> None:
        """Send the kept message, if any. It comes before a goodbye, because no message may follow that."""
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
        self._lazy_timer = None
        send, self._lazy = self._lazy, None
        if send is not None and self._closed is None:
            self._transport.send(send.to, encode(send.message), bulk=False)

    def _complete(self, token: int, outcome: Outcome) -> None:
        future = self._futures.pop(token, None)
        if future is None or future.done():
            return
        if token in self._expired and isinstance(outcome, NotExecuted) and outcome.reason == "cancelled":
            outcome = NotExecuted("deadline", outcome.leader)
        elif token in self._expired and isinstance(outcome, Unknown):
            outcome = Unknown("deadline")
        future.set_result(outcome)

    def _expire(self, token: int) -> None:
        """The deadline has passed: the member answers at once whether the request can still succeed."""
        self._expired.add(token)
        self.submit(Cancel(token))
        self._loop.call_soon(self._give_up, token, self._taken + len(self._inbox))

    def _give_up(self, token: int, asked: int) -> None:
        """Answer with ``Unknown`` if the member has handled event ``asked`` and gave no outcome."""
        if self._taken < asked and self._closed is None:
            self._loop.call_soon(self._give_up, token, asked)
        else:
            self._complete(token, Unknown("deadline"))

    # ---- the disk -----------------------------------------------------------
    def _written(self, serial: int) -> None:
        self.submit(Persisted(serial))

    def _write_failed(self, error: BaseException) -> None:
        self._halt(f"storage-failed: {error}")

    # ---- time ---------------------------------------------------------------
    def _set_timer(self, now_ms: int, tick_ms: int) -> None:
        """Set the timer for ``tick_ms`` or earlier: an early tick costs less than moving the timer."""
        when = self._loop.time() + max(tick_ms - now_ms, 1) / 1000
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        # Kept here: uvloop's handle of a timer that is due within half a millisecond has no ``when``.
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.submit(Tick())

    # ---- the end ------------------------------------------------------------
    def _halt(self, reason: str) -> None:
        if self._closed is None:
            self.close(reason)
            self._listener.halted(reason)

    def close(self, reason: str) -> None:
        """End the driver: every open request raises ``GroupClosedError``, and nothing more is sent."""
        if self._closed is not None:
            return
        self._closed = reason
        self._pause.note(is_loading=False)
        if self._timer is not None:
            self._timer.cancel()
        if self._disk is not None:
            self._disk.end()
        self._inbox.clear()
        for future in self._futures.values():
            if not future.done():
                future.set_exception(GroupClosedError(reason))
                future.exception()  # retrieved here: a caller that went away causes no warning
        self._futures.clear()

    async def wait_written(self) -> None:
        """After ``close``: wait for a write that is under way, so that the storage can be closed."""
        if self._disk is not None:
            await self._disk.wait_ended()


def _log_raised(what: str, raised: BaseException) -> None:
    """Log the traceback for the machine's author. The bug makes each node refuse the same command."""
    logger.error("the state machine's %s raised", what, exc_info=raised)


def _takes_a_turn(message: object) -> bool:
    return isinstance(message, Chunk | Fetch | SyncAsk | SyncAnswer)
