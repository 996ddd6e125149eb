"""The commands and queries of the simulated clients, and a machine that executes them.

A workload has three parts: a machine, the commands and queries that a client may draw, and (for registers) a
model for the linearizability checker. A user's own machine needs the first two only: every answer is then
compared with the one that the agreed sequence of commands gives (see ``oracles``).
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from node.machines.base import ApplyContext, CommandError, FrozenState, StateMachine, Thawing
from node.simulation.difference import DifferenceSync
from node.simulation.linearizability import Model
from node.sync import StateSync


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Attributes:
    machine: makes a fresh state machine.
    command: draws the commands of one ``execute``; ``unique`` never comes twice in a run.
    query: draws a query.
    key: returns which register a command or query is about, for the linearizability checker.
    model: how one register behaves; None if only the agreed sequence is to be compared.
    """

    machine: Callable[[], StateMachine]
    command: Callable[[Random, int], tuple[object, ...]]
    query: Callable[[Random], object]
    key: Callable[[Any], str] | None = None
    model: Model | None = None


class Registers(StateMachine):
    """Some registers with compare-and-swap. A ``put`` returns the value that it replaced."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    @property
    def signature(self) -> str:
        return "bondstone/simulation/registers/v1"

    def apply(self, command: Any, context: ApplyContext) -> Any:  # noqa: ARG002 - the interface's
        key, before = command["key"], self._values.get(command["key"])
        if "expect" in command and before != command["expect"]:
            raise CommandError("mismatch", f"{key} is {before!r}")
        self._values[key] = command["value"]
        return before

    def query(self, query: Any) -> Any:
        return self._values.get(query["key"])

    def savepoint(self) -> Any:
        return dict(self._values)

    def rollback(self, savepoint: Any) -> None:
        self._values = savepoint

    def snapshot(self) -> Any:
        return dict(sorted(self._values.items()))

    def restore(self, snapshot: Any) -> None:
        self._values = dict(snapshot)


class FrozenRegisters:
    """The registers as they were."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def items(self) -> Iterator[Any]:
        yield from (list(item) for item in sorted(self._values.items()))

    def release(self) -> None:
        """Do nothing: the values are a copy."""


class ThawingRegisters:
    """Registers on their way back."""

    def __init__(self, machine: Registers) -> None:
        self._machine = machine
        self._values: dict[str, Any] = {}

    def take(self, item: Any) -> None:
        key, value = item
        self._values[key] = value

    def finish(self) -> None:
        self._machine.restore(self._values)


class SyncedRegisters(Registers):
    """Registers that freeze one by one, in a group whose members send each other only what differs."""

    def freeze(self) -> FrozenState:
        return FrozenRegisters(self.snapshot())

    def thaw(self) -> Thawing:
        return ThawingRegisters(self)

    def state_sync(self) -> StateSync:
        return DifferenceSync()


class RegisterModel:
    """One register, for the checker. Answers are ``("ok", value)`` or ``("failed", code)``."""

    def initial(self, key: str) -> Hashable:  # noqa: ARG002 - every register starts empty
        return None

    def step(self, state: Hashable, operation: Any) -> tuple[Hashable, object]:
        if "value" not in operation:
            return state, ("ok", state)
        if "expect" in operation and state != operation["expect"]:
            return state, ("failed", "mismatch")
        return operation["value"], ("ok", state)


_KEYS = ("x", "y", "z")


def _draw_command(rng: Random, unique: int) -> tuple[object, ...]:
    key = rng.choice(_KEYS)
    if rng.random() < 0.25:
        return ({"key": key, "expect": rng.randint(1, max(1, unique)), "value": unique},)
    if rng.random() < 0.1:
        return tuple({"key": name, "value": unique} for name in _KEYS)
    return ({"key": key, "value": unique},)


def _draw_query(rng: Random) -> object:
    return {"key": rng.choice(_KEYS)}


REGISTERS = Workload(
    machine=Registers,
    command=_draw_command,
    query=_draw_query,
    key=lambda asked: str(asked["key"]),
    model=RegisterModel(),
)

# The same with a state sync of a user (docs/groups.md).
SYNCED_REGISTERS = replace(REGISTERS, machine=SyncedRegisters)
