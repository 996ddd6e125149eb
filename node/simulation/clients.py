"""Clients that send requests, wait, time out, and repeat them through other nodes, as real clients do."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Any, Final

from node.raft.events import Cancel, Execute, Query
from node.raft.types import (
    AlreadyExecuted,
    Answer,
    Applied,
    Consistency,
    Cursor,
    Failed,
    NotExecuted,
    Ok,
    Outcome,
)
from node.simulation.callers import NAMES, draw_system_command, draw_system_query
from node.simulation.linearizability import ClientCall
from node.simulation.process import Process
from node.simulation.scheduler import MS_US, SECOND_US, Scheduler
from node.simulation.trace import Trace, describe
from node.simulation.workload import Workload
from node.system.grants import NOT_PERMITTED


class Ask(Enum):
    WRITE = "write"
    FEED = "feed"
    STRONG = "strong"
    WEAK = "weak"
    SESSION = "session"  # weak, but not older than what this client has seen


class Fate(Enum):
    OPEN = "open"
    DONE = "done"
    NOT_EXECUTED = "not executed"
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class SimulatedCall:
    """One operation of one client with all its attempts.

    Attributes:
        number: unique in the run; the commands travel as ``[number, position, command]``.
        system: the call is for the system state, not for the machine.
        credential: the caller's; None: the member itself makes the call.
        outstanding: attempts that wait for an answer.
        floors: by cluster, the highest log index that any client had seen acknowledged when this call began.
        cluster: of the member that answered.
        doubt: some attempt ended without an answer, so the call can no longer end in NOT_EXECUTED.
    """

    number: int
    client: int
    ask: Ask
    commands: tuple[object, ...] = ()
    query: Any = None
    min_at: Cursor | None = None
    system: bool = False
    credential: bytes | None = None
    invoked: int = 0
    returned: int | None = None
    floors: dict[bytes, int] = field(default_factory=dict)
    cluster: bytes = b""
    attempts: int = 0
    outstanding: int = 0
    doubt: bool = False
    fate: Fate = Fate.OPEN
    outcome: Ok | Answer | None = None
    refusal: NotExecuted | None = None

    @property
    def name(self) -> str:
        return f"c{self.client}/{self.number}"

    def envelope(self) -> tuple[object, ...]:
        """Return the commands as they go into the log, with names by which the oracles recognize them."""
        return tuple([self.number, n, command] for n, command in enumerate(self.commands))

    def operations(self, key: Callable[[Any], str]) -> list[ClientCall]:
        """Return the operations of this answered call for the linearizability checker.

        Answers and refusals of the system state are compared with the agreed sequence only.
        """
        if self.system or self._was_refused():
            return []
        if self.ask is Ask.STRONG and isinstance(self.outcome, Answer):
            return [self._operation(key, self.query, ("ok", self.outcome.value))]
        if self.outcome is None:
            return []
        if self.ask is Ask.WRITE and isinstance(self.outcome, Ok):
            answers = [
                ("ok", result.value) if isinstance(result, Applied) else ("failed", result.code)
                for result in self.outcome.results
            ]
            return [
                self._operation(key, command, answer)
                for command, answer in zip(self.commands, answers, strict=True)
            ]
        return self.executed(key) if self.ask is Ask.FEED else []

    def _was_refused(self) -> bool:
        match self.outcome:
            case Answer(Failed(code=code)):
                return code == NOT_PERMITTED
            case Ok(results):
                return any(type(r) is Failed and r.code == NOT_PERMITTED for r in results)
            case _:
                return False

    def executed(self, key: Callable[[Any], str]) -> list[ClientCall]:
        """Return the operations for the checker if this call was executed without an answer to its client."""
        return [self._operation(key, command, None, known=False) for command in self.commands]

    def _operation(
        self, key: Callable[[Any], str], asked: Any, output: object, *, known: bool = True
    ) -> ClientCall:
        return ClientCall(
            key=key(asked),
            invoked=self.invoked,
            returned=self.returned if known else None,
            input=asked,
            output=output,
            label=self.name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How the clients of one run behave; times in microseconds.

    ``callers``: the share of the clients that have a credential or call the system state.
    """

    clients: int = 2
    think_us: int = 200 * MS_US
    patience_us: int = 3_000 * MS_US
    attempts_max: int = 4
    storm: float = 0.0
    reads: float = 0.4
    feeds: float = 0.05
    callers: float = 0.0


def draw_habits(rng: Random) -> Habits:
    """Draw how the clients of one run behave."""
    return Habits(
        clients=rng.choice((1, 2, 3, 4)),
        think_us=rng.choice((20, 150, 500)) * MS_US,
        patience_us=rng.choice((300, 2_000, 8_000)) * MS_US,
        attempts_max=rng.choice((1, 3, 6)),
        storm=rng.random() if rng.random() < 0.2 else 0.0,
        reads=rng.choice((0.2, 0.5, 0.8)),
        feeds=rng.choice((0.0, 0.05)),
    )


_TOKENS_PER_CALL: Final = 64
_PATIENT_US: Final = 20 * SECOND_US


class SimulatedClients:
    """All clients of one run, and the history of their requests and answers."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        rng: Random,
        callers: Random,
        workload: Workload,
        habits: Habits,
        alive: Callable[[], list[Process]],
        judge: Callable[[SimulatedCall, Process], None],
        floors: Callable[[], dict[bytes, int]],
        trace: Trace,
    ) -> None:
        self.calls: list[SimulatedCall] = []
        self.active = True
        self._scheduler = scheduler
        self._rng = rng
        self._callers = callers
        self._workload = workload
        self._habits = habits
        self._alive = alive
        self._judge = judge
        self._floors = floors
        self._trace = trace
        self._moment = 0
        self._seen: dict[int, Cursor] = {}

    def start(self) -> None:
        """Start every client. Each waits a while before its first request."""
        for client in range(self._habits.clients):
            self._scheduler.after(self._think_us(), self._begin, client)

    def calm_down(self) -> None:
        """Make no new calls. Open calls, and later calls by hand, are sent once and waited for."""
        self.active = False
        self._habits = replace(self._habits, patience_us=_PATIENT_US, attempts_max=1, storm=0.0)

    def open_calls(self) -> list[SimulatedCall]:
        """Return the calls whose clients still wait."""
        return [call for call in self.calls if call.fate is Fate.OPEN]

    def _think_us(self) -> int:
        return int(self._habits.think_us * self._rng.expovariate(1.0)) + 1

    def _begin(self, client: int) -> None:
        if self.active:
            self.submit(self._with_caller(self._draw(client)), then=self._begin)

    def _with_caller(self, call: SimulatedCall) -> SimulatedCall:
        """Draw the caller from a stream of its own, so that a run without callers does not change."""
        rng, habits = self._callers, self._habits
        if habits.callers and rng.random() < habits.callers:
            call.credential = rng.choice(NAMES)
        if habits.callers and call.ask is not Ask.FEED and rng.random() < habits.callers / 2:
            call.system = True
            call.credential = call.credential or rng.choice(NAMES)  # the member itself may not
            if call.ask is Ask.WRITE:
                call.commands = draw_system_command(rng)
            else:
                call.query = draw_system_query(rng)
        return call

    def _draw(self, client: int) -> SimulatedCall:
        rng, habits, number = self._rng, self._habits, len(self.calls) + 1
        if rng.random() >= habits.reads:
            ask = Ask.FEED if rng.random() < habits.feeds else Ask.WRITE
            commands = self._workload.command(rng, number)
            return SimulatedCall(number=number, client=client, ask=ask, commands=commands)
        ask = rng.choice((Ask.STRONG, Ask.STRONG, Ask.STRONG, Ask.WEAK, Ask.SESSION))
        min_at = self._seen.get(client) if ask is Ask.SESSION else None
        query = self._workload.query(rng)
        return SimulatedCall(number=number, client=client, ask=ask, query=query, min_at=min_at)

    def submit(
        self, call: SimulatedCall, *, at: Process | None = None, then: Callable[[int], None] | None = None
    ) -> None:
        """Send a call. ``then`` is called with the client's number some time after the call has ended."""
        self._moment += 1
        call.invoked = self._moment
        call.floors = self._floors()
        self.calls.append(call)
        self._attempt(call, at, then)

    def retry(self, call: SimulatedCall, at: Process) -> None:
        """Repeat the call at ``at``, whatever the outcome of earlier attempts was. The call is open again."""
        call.fate = Fate.OPEN
        self._ask(call, at, None)

    def _attempt(self, call: SimulatedCall, at: Process | None, then: Callable[[int], None] | None) -> None:
        if call.fate is not Fate.OPEN or call.outstanding:
            return
        processes = self._alive()
        if not processes:
            self._again(call, then)
            return
        targets = [at] if at is not None else [self._rng.choice(processes)]
        if at is None and call.ask is Ask.WRITE and self._rng.random() < self._habits.storm:
            targets = processes
        for process in targets:
            if call.fate is Fate.OPEN and process.alive:
                self._ask(call, process, then)

    def _ask(self, call: SimulatedCall, process: Process, then: Callable[[int], None] | None) -> None:
        call.attempts += 1
        call.outstanding += 1
        token = call.number * _TOKENS_PER_CALL + call.attempts % _TOKENS_PER_CALL
        event: Execute | Query
        if call.ask in (Ask.WRITE, Ask.FEED):
            key = None if call.ask is Ask.FEED else call.number.to_bytes(8)
            event = Execute(
                token,
                call.envelope(),
                key=key,
                feed=call.ask is Ask.FEED,
                credential=call.credential,
                system=call.system,
            )
        else:
            strong = call.ask is Ask.STRONG
            level = Consistency.STRONG if strong else Consistency.WEAK
            event = Query(
                token,
                call.query,
                level,
                min_at=call.min_at,
                credential=call.credential,
                system=call.system,
            )
        if self._trace.on:
            self._trace.note(f"c{call.client}", f"asks {process.label}: {describe(event)}")
        answered = False

        def completed(outcome: Outcome | None) -> None:
            nonlocal answered
            answered = True
            call.outstanding -= 1
            self._answered(call, process, outcome, then)

        def impatient() -> None:
            if answered:
                return
            call.outstanding -= 1
            process.forget(token)
            process.feed(Cancel(token))
            if call.fate is not Fate.OPEN:
                return  # another attempt brought the answer
            call.doubt = True
            self._again(call, then)

        self._scheduler.after(self._habits.patience_us, impatient)
        process.ask(token, event, completed)

    def _answered(
        self,
        call: SimulatedCall,
        process: Process,
        outcome: Outcome | None,
        then: Callable[[int], None] | None,
    ) -> None:
        if call.fate is not Fate.OPEN:
            return
        match outcome:
            case Ok() | Answer():
                self._moment += 1
                call.returned, call.outcome, call.fate = self._moment, outcome, Fate.DONE
                self._seen[call.client] = max(outcome.at, self._seen.get(call.client, Cursor(0, 0)))
                self._judge(call, process)
                self._rest(call, then)
            case AlreadyExecuted():
                # The call was executed, and the group no longer keeps its results.
                call.doubt, call.fate = True, Fate.UNKNOWN
                self._rest(call, then)
            case NotExecuted():
                call.refusal = outcome
                self._again(call, then)
            case _:
                call.doubt = True
                self._again(call, then)

    def _again(self, call: SimulatedCall, then: Callable[[int], None] | None) -> None:
        if call.outstanding:
            return  # another attempt may still bring the answer
        may = call.ask is not Ask.FEED or not call.doubt  # a feed has no key that identifies a copy
        if self.active and may and call.attempts < self._habits.attempts_max:
            self._scheduler.after(self._think_us(), self._attempt, call, None, then)
            return
        self._moment += 1
        call.returned = self._moment
        call.fate = Fate.UNKNOWN if call.doubt else Fate.NOT_EXECUTED
        self._rest(call, then)

    def _rest(self, call: SimulatedCall, then: Callable[[int], None] | None) -> None:
        if self._trace.on:
            self._trace.note(f"c{call.client}", f"{call.name} {call.fate.value}")
        if then is not None:
            self._scheduler.after(self._think_us(), then, call.client)
