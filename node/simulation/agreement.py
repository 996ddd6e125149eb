"""What one cluster agreed on, as its members apply it, and whether clients received the same answers."""

from collections import defaultdict
from typing import Any

from node.machines.base import ApplyContext
from node.raft.types import Answer, Ok
from node.simulation.clients import Ask, SimulatedCall
from node.simulation.errors import InvariantError


class Agreement:
    """The commands of one cluster, in the order in which all members apply them.

    Attributes:
        sequence: by (index, position in the entry): call, position in the call, command, context.
        where: by (call, position in the call): index.
        again: as ``where``, of commands executed once more because their idempotency key was forgotten.
        systems: the indices of entries for the system state.
        refused: (call, index) of commands that their caller was not permitted.
        floor: the highest log index that any client has seen acknowledged.
        dissolved: the cluster dissolved itself.
        inherited: up to here it is the predecessor's history, for a survivor's generation; otherwise 0.
    """

    def __init__(self, session_ttl_ms: int) -> None:
        self._ttl_ms = session_ttl_ms
        self.sequence: dict[tuple[int, int], tuple[int, int, Any, ApplyContext]] = {}
        self.where: dict[tuple[int, int], int] = {}
        self.again: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.systems: set[int] = set()
        self.refused: set[tuple[int, int]] = set()
        self.floor = 0
        self.dissolved = False
        self.inherited = 0

    def succeeded(self, terms: list[int]) -> "Agreement":
        """Return the agreement of a cluster that goes on behind a log. ``terms``: of its entries, by index.

        What else this cluster agreed on was lost with it, or goes on in it alone.
        """
        successor = Agreement(self._ttl_ms)
        for place in sorted(self.sequence):
            call, position, _, context = self.sequence[place]
            index = context.index
            if index < len(terms) and terms[index] == context.term:
                successor.sequence[place] = self.sequence[place]
                if successor.where.setdefault((call, position), index) != index:
                    successor.again[call, position].append(index)
        kept = {index for index, _ in successor.sequence}
        successor.systems = self.systems & kept
        successor.refused = {(call, index) for call, index in self.refused if index in kept}
        successor.inherited = len(terms) - 1
        successor.floor = min(self.floor, successor.inherited)
        return successor

    def applied(self, who: str, call: int, position: int, command: Any, context: ApplyContext) -> None:
        """Note that ``who`` applies a command.

        Raises:
            InvariantError: another member applied another command at this place, or this command elsewhere.
        """
        place = (context.index, context.sub)
        agreed = self.sequence.setdefault(place, (call, position, command, context))
        if agreed[:2] != (call, position) or agreed[3] != context:
            raise InvariantError("state-machine-safety", f"{who} applies another command at {place}")
        index = self.where.setdefault((call, position), context.index)
        if index != context.index and context.index not in self.again[call, position]:
            self._executed_again(call, position, context)

    def _executed_again(self, call: int, position: int, context: ApplyContext) -> None:
        """Require that the key may be forgotten: it is kept for the sessions' TTL, by the entries' time."""
        places = [self.where[call, position], *self.again[call, position]]
        for index in places:
            times = [self.sequence[place][3].time_ms for place in self.sequence if place[0] == index]
            if context.time_ms - times[0] <= self._ttl_ms:
                raise InvariantError("exactly-once", f"call {call} is applied at {index} and {context.index}")
        self.again[call, position].append(context.index)

    def judge(self, call: SimulatedCall, who: str, floor: int) -> None:
        """Judge an answer when its client receives it. ``floor``: its value when the client sent the request.

        Raises:
            InvariantError: the answer names a place in the log that it cannot come from.
        """
        match call.outcome:
            case Answer():
                self._judge_answer(call, call.outcome, who, floor)
            case Ok() if call.ask is Ask.WRITE:
                self._judge_write(call, call.outcome, who, floor)
            case _:
                pass
        if call.outcome is not None and call.ask in (Ask.WRITE, Ask.STRONG):
            self.floor = max(self.floor, call.outcome.at.index)

    @staticmethod
    def _judge_answer(call: SimulatedCall, answer: Answer, who: str, floor: int) -> None:
        index = answer.at.index
        if call.ask is Ask.STRONG and index < floor:
            raise InvariantError(
                "linearizable-read", f"{who} answers {call.name} at {index}, {floor} was seen before"
            )
        if call.min_at is not None and index < call.min_at.index:
            raise InvariantError("read-your-writes", f"{who} answers {call.name} too early")

    def _judge_write(self, call: SimulatedCall, done: Ok, who: str, floor: int) -> None:
        where = self.where.get((call.number, 0))
        if done.at.index != where and done.at.index not in self.again.get((call.number, 0), ()):
            raise InvariantError("applied-where-told", f"{who} reports {call.name} at {done.at}")
        if done.at.index <= floor:
            raise InvariantError("real-time-order", f"{call.name} at {done.at.index}, {floor} came first")
