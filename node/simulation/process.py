"""One life of one simulated node: a member, its clock, and a driver that carries out the effects."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from node.peers import Incarnation, Preference
from node.raft.events import Effects, Event, Tick, Unfit
from node.raft.member import Member
from node.raft.types import Outcome
from node.simulation.disk import Disk
from node.simulation.recorder import Recorder
from node.simulation.scheduler import MS_US, Scheduler
from node.simulation.trace import Trace, describe
from node.simulation.views import ObservedLog, View

WALL_START_MS: Final = 1_700_000_000_000
Completion = Callable[[Outcome | None], None]  # None: the process died, so the outcome stays unknown


class Postman(ABC):
    """Carries the messages that a process sends."""

    @abstractmethod
    def send(self, sender: "Process", to: tuple[Incarnation, ...], message: Any) -> None: ...

    @abstractmethod
    def part(self, process: "Process", peer: Incarnation) -> None:
        """``process`` closes its bond with ``peer``."""


class Watcher(ABC):
    """Sees every step of every process, before its effects leave it."""

    @abstractmethod
    def observe(self, process: "Process", effects: Effects) -> None: ...


class Clock:
    """A node's two clocks: one monotonic with its own rate, one for the wall that may jump."""

    __slots__ = ("_base_ms", "_born_us", "_rate_ppm", "_scheduler", "wall_skew_ms")

    def __init__(self, scheduler: Scheduler, *, base_ms: int, drift_ppm: int) -> None:
        self._scheduler = scheduler
        self._born_us = scheduler.now_us
        self._base_ms = base_ms
        self._rate_ppm = 1_000_000 + drift_ppm
        self.wall_skew_ms = 0

    def now_ms(self) -> int:
        """Return monotonic milliseconds from an arbitrary start."""
        elapsed_us = self._scheduler.now_us - self._born_us
        return self._base_ms + elapsed_us * self._rate_ppm // 1_000_000_000

    def wall_ms(self) -> int:
        """Return Unix milliseconds as this node believes them."""
        return WALL_START_MS + self._scheduler.now_us // MS_US + self.wall_skew_ms

    def hasten(self, ms: int) -> None:
        """Let the monotonic clock leap ahead."""
        self._base_ms += ms

    def due_us(self, at_ms: int) -> int:
        """Return the simulated time at which ``now_ms`` reaches ``at_ms``."""
        elapsed = (at_ms - self._base_ms) * 1_000_000_000
        return self._born_us + -(-elapsed // self._rate_ppm)


class Process:
    """Drives one member: steps it, then carries out its effects, in the order that the contract states.

    Attributes:
        view: the oracles' knowledge of it.
        serial: number of this life in the whole simulation.
        place: where it runs, usually the node's name; cuts are between places.
        label: ``place#life``, for people.
        has_ticket: False while its attestation does not pass: no peer bonds with it.
        gather_us: the member processes events that arrive within this time together; 0: each by itself.
        tear_after: die in the middle of the next effects that send, after this many single sends.
        was_frozen: it stood still after it read the clock for its present step and before the step.
    """

    __slots__ = (
        "_frozen", "_inbox", "_on_death", "_pending", "_postman", "_scheduler", "_tick_due_us",
        "_trace", "_wake_us", "_watcher", "alive", "clock", "disk", "gather_us", "has_ticket", "inc",
        "label", "late_us", "log", "machine", "member", "place", "preference", "serial", "stalled",
        "tear_after", "view", "was_frozen",
    )  # fmt: skip

    def __init__(
        self,
        *,
        serial: int,
        place: str,
        inc: Incarnation,
        preference: Preference,
        clock: Clock,
        scheduler: Scheduler,
        postman: Postman,
        watcher: Watcher,
        trace: Trace,
        on_death: Callable[["Process"], None],
    ) -> None:
        self.serial = serial
        self.place = place
        self.inc = inc
        self.label = f"{place}#{serial}"
        self.preference = preference
        self.clock = clock
        self.alive = True
        self.stalled = False
        self.has_ticket = True
        self.tear_after: int | None = None
        self.late_us = 0
        self.gather_us = 0
        self.was_frozen = False
        self.view = View()
        self.log = ObservedLog(self.view)
        # The cluster sets these.
        self.member: Member
        self.machine: Recorder
        self.disk: Disk | None = None
        self._scheduler = scheduler
        self._postman = postman
        self._watcher = watcher
        self._trace = trace
        self._on_death = on_death
        self._inbox: list[Event] = []
        self._frozen = (0, 0)  # when stalled: the clock as it was read, and how many events had been gathered
        self._pending: dict[int, Completion] = {}
        self._wake_us: int | None = None
        self._tick_due_us = 0

    def __str__(self) -> str:
        return self.label

    # ---- what comes in --------------------------------------------------------
    def ask(self, token: int, event: Event, completion: Completion) -> None:
        """Give the member a request of a client. ``completion`` is called exactly once."""
        self._pending[token] = completion
        self.feed(event)

    def forget(self, token: int) -> None:
        """The client gave up: do not call its completion any more."""
        self._pending.pop(token, None)

    def feed(self, event: Event) -> None:
        """Give the member an event, now or when its vCPUs run again."""
        if not self.alive:
            return
        if not self.stalled and not self.gather_us:
            self._step((event,), self.clock.now_ms())
            return
        if not self.stalled and not self._inbox:
            self._scheduler.after(self.gather_us, self._take_inbox)
        self._inbox.append(event)

    def _take_inbox(self) -> None:
        if self._inbox and self.alive and not self.stalled:
            inbox, self._inbox = self._inbox, []
            self._step(inbox, self.clock.now_ms())

    def stall(self) -> None:
        """Stop the vCPUs; if events are being gathered, just after the clock was read for their step."""
        self.stalled = True
        self._frozen = (self.clock.now_ms(), len(self._inbox))

    def resume(self) -> None:
        """Run again: all events that waited arrive at once."""
        if not self.stalled or not self.alive:
            return
        self.stalled = False
        now_ms, gathered = self._frozen
        inbox, self._inbox = self._inbox, []
        if gathered:
            self.was_frozen = True
            self._step(inbox[:gathered], now_ms)
            self.was_frozen = False
        for event in inbox[gathered:]:
            self.feed(event)

    # ---- the driver's loop ----------------------------------------------------
    def _step(self, events: Sequence[Event], now_ms: int) -> None:
        if self._trace.on:
            for event in events:
                self._trace.note(self.label, f"<- {describe(event)}")
        self._scheduler.events += len(events)
        effects = self.member.step_many(now_ms, events, wall_ms=self.clock.wall_ms())
        self._watcher.observe(self, effects)
        if self._trace.on:
            self._show(effects)
        if self.disk is not None:
            self._save(self.disk, effects)
        if self.member.halted is not None:
            self._on_death(self)  # the driver closes it, and the process ends
            return
        for notice in effects.notices:
            if type(notice) is Unfit:
                self._postman.part(self, notice.peer)
        if self.tear_after is not None and effects.sends:
            self._tear(effects)
            return
        send = self._postman.send
        for message in effects.sends:
            send(self, message.to, message.message)
        for token, outcome in effects.completions:
            completion = self._pending.pop(token, None)
            if completion is not None:
                completion(outcome)
        self._arm(effects.next_tick_ms)

    def _save(self, disk: Disk, effects: Effects) -> None:
        if effects.persist:
            disk.write(self, effects.persist, effects.serial)
        for snapshot in effects.store:
            disk.store(self, snapshot)

    def _tear(self, effects: Effects) -> None:
        """Die between the effects of one step: some messages are sent, no completion is called."""
        left = self.tear_after or 0
        for message in effects.sends:
            self._postman.send(self, message.to[:left], message.message)
            left = max(0, left - len(message.to))
        self.tear_after = None
        self._on_death(self)

    def _arm(self, next_tick_ms: int) -> None:
        # If a core requests a tick in the past, it gets the tick soon, not at once: time must pass.
        due_us, soon_us = self.clock.due_us(next_tick_ms), self._scheduler.now_us + 100
        due_us = (max(soon_us, due_us)) + self.late_us
        self._tick_due_us = due_us
        if self._wake_us is None or due_us < self._wake_us:
            self._wake_us = due_us
            self._scheduler.at(due_us, self._wake, due_us)

    def _wake(self, due_us: int) -> None:
        if self._wake_us != due_us or not self.alive:
            return  # an earlier wake-up replaced it
        self._wake_us = None
        if self._tick_due_us > self._scheduler.now_us:
            self._wake_us = self._tick_due_us
            self._scheduler.at(self._tick_due_us, self._wake, self._tick_due_us)
        else:
            self.feed(Tick())

    def start(self) -> None:
        """Give the member its first tick. The member then requests its next one."""
        self.feed(Tick())

    def die(self) -> None:
        """Stop finally. Each caller that waits for an answer learns that it will receive none."""
        self.alive = False
        self._inbox.clear()
        pending, self._pending = self._pending, {}
        for completion in pending.values():
            completion(None)

    def _show(self, effects: Effects) -> None:
        note = self._trace.note
        for message in effects.sends:
            to = ",".join(peer.name for peer in message.to)
            note(self.label, f"-> {to}: {describe(message.message)}")
        for token, outcome in effects.completions:
            note(self.label, f"== {token}: {describe(outcome)}")
        for notice in effects.notices:
            note(self.label, f"!! {describe(notice)}")
