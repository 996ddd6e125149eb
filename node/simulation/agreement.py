"""What one cluster agreed on, told by what its members apply, and whether clients were told the same."""

from typing import Any

from node.machines.base import ApplyContext
from node.raft.types import Answer, Ok
from node.simulation.clients import Ask, Call
from node.simulation.errors import InvariantError


class Agreement:
    """The commands of one cluster, in the order in which everybody applies them.

    Attributes:
        sequence: by (index, position in the entry): call, position in the call, command, context.
        where: by (call, position in the call): index.
        floor: the highest log index that any client has seen acknowledged.
    """

    def __init__(self) -> None:
        self.sequence: dict[tuple[int, int], tuple[int, int, Any, ApplyContext]] = {}
        self.where: dict[tuple[int, int], int] = {}
        self.floor = 0

    def applied(self, who: str, call: int, position: int, command: Any, context: ApplyContext) -> None:
        """Note that ``who`` applies a command.

        Raises:
            InvariantError: another member applied another command there, or this one elsewhere.
        """
        place = (context.index, context.sub)
        agreed = self.sequence.setdefault(place, (call, position, command, context))
        if agreed[:2] != (call, position) or agreed[3] != context:
            raise InvariantError("state-machine-safety", f"{who} applies another command at {place}")
        index = self.where.setdefault((call, position), context.index)
        if index != context.index:
            raise InvariantError("exactly-once", f"call {call} is applied at {index} and {context.index}")

    def judge(self, call: Call, who: str, floor: int) -> None:
        """Judge an answer at the moment its client gets it. ``floor``: as it was when the client asked.

        Raises:
            InvariantError: the answer comes from a place in the log where it cannot come from.
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
    def _judge_answer(call: Call, answer: Answer, who: str, floor: int) -> None:
        index = answer.at.index
        if call.ask is Ask.STRONG and index < floor:
            raise InvariantError(
                "linearizable-read", f"{who} answers {call.name} at {index}, {floor} was seen before"
            )
        if call.min_at is not None and index < call.min_at.index:
            raise InvariantError("read-your-writes", f"{who} answers {call.name} too early")

    def _judge_write(self, call: Call, done: Ok, who: str, floor: int) -> None:
        if self.where.get((call.number, 0)) != done.at.index:
            raise InvariantError("applied-where-told", f"{who} says {call.name} is at {done.at}")
        if done.at.index <= floor:
            raise InvariantError("real-time-order", f"{call.name} at {done.at.index}, {floor} came first")
