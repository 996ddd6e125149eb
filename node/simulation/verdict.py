"""The checks made once, at the end of a run: answers against the agreed sequence, the history, the states."""

from collections import defaultdict
from typing import Any

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import RequestKind
from node.raft.types import BATCH_ABORTED, Applied, Failed, Ok, Result
from node.simulation.agreement import Agreement
from node.simulation.callers import callers
from node.simulation.clients import Ask, Fate, SimulatedCall
from node.simulation.errors import InvariantError
from node.simulation.linearizability import NotLinearizableError, UndecidedHistoryError, check_linearizable
from node.simulation.oracles import Oracles
from node.simulation.workload import Workload


def judge_run(oracles: Oracles, calls: list[SimulatedCall], workload: Workload) -> None:
    """Judge all answers that clients received in one run.

    Raises:
        InvariantError: an answer was wrong.
    """
    agreements = oracles.agreements
    for cluster in sorted(agreements):
        agreement = agreements[cluster]
        if not agreement.dissolved:  # a refusal holds for the group as it still exists
            _judge_refusals(agreement, calls)
        told = [call for call in calls if call.cluster == cluster]
        _judge_feeds(agreement, told)
        _judge_answers(agreement, told, workload)
        oracles.counts["undecided"] += not _is_decided(agreement, told, calls, workload)


def _is_decided(
    agreement: Agreement, told: list[SimulatedCall], calls: list[SimulatedCall], workload: Workload
) -> bool:
    """Check linearizability, if the workload has a model for it; False if the search gave up."""
    if workload.model is None or workload.key is None:
        return True
    history = [operation for call in told for operation in call.operations(workload.key)]
    # A command that no member applied changed no answer. Without it the search stays small.
    answered = {call.number for call in told if call.outcome is not None}
    for call in calls:
        if call.system:
            continue
        place = (call.number, 0)
        untold = place in agreement.where and call.number not in answered
        executed = [agreement.where[place]] if untold else []
        for index in (*executed, *agreement.again.get(place, ())):
            if (call.number, index) not in agreement.refused:
                history += call.executed(workload.key)
    try:
        check_linearizable(history, workload.model)
    except UndecidedHistoryError:
        return False
    except NotLinearizableError as exc:
        raise InvariantError("linearizability", str(exc)) from exc
    return True


def _judge_refusals(agreement: Agreement, calls: list[SimulatedCall]) -> None:
    """Require that a call that ended in NotExecuted was never executed, neither before nor after."""
    for call in calls:
        index = agreement.where.get((call.number, 0))
        # A survivor keeps what its log held, also what the cluster before it refused since.
        if call.fate is Fate.NOT_EXECUTED and index is not None and index > agreement.inherited:
            raise InvariantError("not-executed", f"{call.name} was refused and is at {index}")


def _judge_feeds(agreement: Agreement, calls: list[SimulatedCall]) -> None:
    """A cursor names the entry: if the entry committed there has the same term, it must be this call's."""
    for call in calls:
        if call.ask is not Ask.FEED or not isinstance(call.outcome, Ok):
            continue
        at = call.outcome.at
        agreed = agreement.sequence.get((at.index, 0))
        if agreed is not None and agreed[3].term == at.term and agreed[0] != call.number:
            raise InvariantError("feed-cursor", f"{call.name} was answered {at}, where {agreed[0]} is")


class _Replay:
    """A fresh machine and a fresh system state, to which the agreed sequence is applied entry by entry."""

    def __init__(self, agreement: Agreement, machine: StateMachine) -> None:
        self.machine = machine
        self.system = callers()
        self._systems = agreement.systems
        self._entries: defaultdict[int, list[tuple[Any, ApplyContext]]] = defaultdict(list)
        for place in sorted(agreement.sequence):
            _, _, command, context = agreement.sequence[place]
            self._entries[place[0]].append((command, context))
        self.results: dict[int, tuple[Result, ...]] = {}
        self._waiting = sorted(self._entries, reverse=True)

    def advance(self, index: int) -> None:
        """Apply everything up to ``index`` that is not yet applied; remember each entry's results."""
        while self._waiting and self._waiting[-1] <= index:
            now = self._waiting.pop()
            self.results[now] = self._apply(self._entries[now], system=now in self._systems)

    def _apply(self, entry: list[tuple[Any, ApplyContext]], *, system: bool) -> tuple[Result, ...]:
        """Apply all commands, or none: the first refusal undoes the others."""
        request = RequestKind.SYSTEM_COMMAND if system else RequestKind.COMMAND
        for command, context in entry:
            refusal = self._judge(context.credential, request, command)
            if refusal is not None:
                return (refusal,)
        target = self.system if system else self.machine
        savepoint = target.savepoint()
        results: list[Result] = []
        for sub, (command, context) in enumerate(entry):
            try:
                results.append(Applied(target.apply(command, context)))
            except CommandError as exc:
                failed = Failed(exc.code, exc.message)
            except Exception as exc:  # noqa: BLE001 - any exception of a user's machine is its answer
                failed = Failed("apply-raised", type(exc).__name__)
            else:
                continue
            target.rollback(savepoint)
            return (*results[:sub], failed)
        return tuple(results)

    def _judge(self, credential: bytes | None, request: RequestKind, value: object) -> Failed | None:
        try:
            self.system.judge(credential, request, value, now_ms=0, machine=self.machine)
        except CommandError as exc:
            return Failed(exc.code, exc.message)
        return None

    def query(self, call: SimulatedCall) -> object:
        request = RequestKind.SYSTEM_QUERY if call.system else RequestKind.QUERY
        refusal = self._judge(call.credential, request, call.query)
        if refusal is not None:
            return refusal
        try:
            return (self.system if call.system else self.machine).query(call.query)
        except CommandError as exc:
            return Failed(exc.code, exc.message)


def _judge_answers(agreement: Agreement, calls: list[SimulatedCall], workload: Workload) -> None:
    """Require that every answer equals the agreed sequence's at the place that the answer names."""
    answers = [(call, call.outcome) for call in calls if call.outcome and call.ask is not Ask.FEED]
    answers.sort(key=lambda pair: (pair[1].at.index, pair[0].number))
    replay = _Replay(agreement, workload.machine())
    for call, outcome in answers:
        replay.advance(outcome.at.index)
        if isinstance(outcome, Ok):
            told, agreed = _comparable(outcome.results), replay.results[outcome.at.index]
            if told != _comparable(agreed):
                raise InvariantError("agreed-answer", f"{call.name} was answered {told}, agreed is {agreed}")
        elif (value := replay.query(call)) != outcome.value:
            raise InvariantError(
                "agreed-answer",
                f"{call.name} read {outcome.value!r} at {outcome.at}, which is {value!r}",
            )


def _comparable(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """Return the results to compare. Of a refused batch this is the refusal alone."""
    failures = [r for r in results if isinstance(r, Failed) and r.code != BATCH_ABORTED]
    return tuple(failures) if failures else results
