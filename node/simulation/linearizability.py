"""Decides whether one order of the operations explains every answer and respects real time.

The algorithm is Wing and Gong's search with Lowe's memory of (set of linearized operations, state), as in
porcupine. Registers of different keys are independent, and linearizability is local (Herlihy and Wing 1990,
theorem 1), so each key is checked alone. That keeps the exponential search small.

An operation of unknown outcome may have happened at any time after its invocation, or never.

Two rules limit the search to changes. An answered operation that cannot have changed anything is taken as
soon as it fits, without an alternative: every order that takes it later also holds with it here. An operation
of unknown outcome that would change nothing now is not taken now: every order with it also holds without it.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

STATES_MAX: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCall:
    """One call of one client.

    Attributes:
        key: the object it is about; operations of different keys do not influence each other.
        invoked: when the caller asked; any increasing number.
        returned: when the caller had its answer; None if it never learned the outcome.
        input: the request, as the model receives it.
        output: the answer; it has no meaning if ``returned`` is None.
        label: for people.
    """

    key: str
    invoked: int
    returned: int | None
    input: Any
    output: Any = None
    label: str = ""

    def __str__(self) -> str:
        until = "?" if self.returned is None else str(self.returned)
        shown = "unknown" if self.returned is None else repr(self.output)
        return f"[{self.invoked}, {until}] {self.label} {self.key}: {self.input!r} -> {shown}"


class Model(Protocol):
    """The behaviour of one object under sequential operations."""

    def initial(self, key: str) -> Hashable:
        """Return the state before the first operation."""
        ...

    def step(self, state: Hashable, operation: object) -> tuple[Hashable, object]:
        """Return the next state and the answer to ``operation`` (an ``ClientCall.input``)."""
        ...


class NotLinearizableError(Exception):
    """No order explains the answers. ``operations``: those that could not be placed after the best prefix."""

    def __init__(self, key: str, prefix: tuple[ClientCall, ...], stuck: tuple[ClientCall, ...]) -> None:
        lines = [f"no order of the operations on {key!r} explains the answers"]
        lines += ["longest order found:", *(f"  {operation}" for operation in prefix)]
        lines += ["none of these can come next:", *(f"  {operation}" for operation in stuck)]
        super().__init__("\n".join(lines))
        self.key = key
        self.operations = stuck


class UndecidedHistoryError(Exception):
    """The search exceeded its limit and has no result."""


def _none_is(_operation: ClientCall) -> bool:
    return False


def check_linearizable(
    operations: Iterable[ClientCall],
    model: Model,
    *,
    states_max: int = STATES_MAX,
    is_read: Callable[[ClientCall], bool] = _none_is,
) -> int:
    """Return how many operations were checked.

    Args:
        operations: of any number of keys, in any order.
        model: of one key.
        states_max: for one key.
        is_read: whether an answered operation, with this answer, changes no state at all. By default False
            for every operation. To return True where that holds makes the search much smaller.

    Raises:
        NotLinearizableError: the history of some key has no explanation.
        UndecidedError: more than ``states_max`` states were searched for one key.
    """
    by_key: defaultdict[str, list[ClientCall]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    for key in sorted(by_key):
        history = sorted(by_key[key], key=lambda operation: operation.invoked)
        _check_key(key, _History(history, model, is_read), states_max)
    return sum(len(history) for history in by_key.values())


def _candidates(history: list[ClientCall], done: int) -> list[int]:
    """Return which operations may come next: those invoked before every other open one has returned."""
    found: list[int] = []
    first_return: int | None = None
    for number, operation in enumerate(history):
        if done >> number & 1:
            continue
        if first_return is not None and operation.invoked > first_return:
            break
        found.append(number)
        if operation.returned is not None and (first_return is None or operation.returned < first_return):
            first_return = operation.returned
    return found


@dataclass(frozen=True, slots=True)
class _History:
    """One key's operations, by invocation, with derived facts about them."""

    operations: list[ClientCall]
    model: Model
    is_read: Callable[[ClientCall], bool]

    def moves(self, done: int, state: Hashable) -> Iterator[tuple[int, Hashable]]:
        """Yield each operation that may come next, and the state after it."""
        moves: list[tuple[int, Hashable]] = []
        for number in _candidates(self.operations, done):
            operation = self.operations[number]
            after, output = self.model.step(state, operation.input)
            if operation.returned is None:
                if after != state:
                    moves.append((number, after))
            elif output == operation.output:
                if self.is_read(operation):
                    return iter([(number, after)])
                moves.append((number, after))
        return iter(moves)


def _check_key(key: str, known: _History, states_max: int) -> None:
    history = known.operations
    required = 0
    for number, operation in enumerate(history):
        if operation.returned is not None:
            required |= 1 << number
    initial = known.model.initial(key)
    seen: set[tuple[int, Hashable]] = {(0, initial)}
    # A frame is (linearized set, moves still to try).
    stack = [(0, known.moves(0, initial))]
    order: list[int] = []
    best: list[int] = []
    while stack:
        done, remaining = stack[-1]
        if done & required == required:
            return
        move = next(remaining, None)
        if move is None:
            stack.pop()
            if order:
                order.pop()
            continue
        choice, after = move
        reached = (done | 1 << choice, after)
        if reached in seen:
            continue
        if len(seen) >= states_max:
            raise UndecidedHistoryError(
                f"{key!r}: more than {states_max} states for {len(history)} operations"
            )
        seen.add(reached)
        order.append(choice)
        if len(order) > len(best):
            best = list(order)
        stack.append((reached[0], known.moves(*reached)))
    placed = sum(1 << number for number in best)
    raise NotLinearizableError(
        key,
        tuple(history[number] for number in best),
        tuple(history[number] for number in _candidates(history, placed)),
    )
