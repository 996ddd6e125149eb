"""A machine around the machine: it unwraps the clients' envelopes and reports all commands to the oracles."""

from collections.abc import Callable
from typing import Any

from node.machines.base import ApplyContext, FrozenState, StateMachine, Thawing
from node.machines.keys import Touched
from node.sync.state_sync import StateSync

Applied = Callable[[int, int, Any, ApplyContext], None]


class Recorder(StateMachine):
    """Applies ``[call, position, command]`` to ``inner`` and reports it to ``applied`` first."""

    def __init__(self, inner: StateMachine, applied: Applied) -> None:
        self.inner = inner
        self._applied = applied

    @property
    def signature(self) -> str:
        return self.inner.signature

    @property
    def family(self) -> str:
        return self.inner.family

    @property
    def versions(self) -> range:
        return self.inner.versions

    def apply(self, command: Any, context: ApplyContext) -> Any:
        call, position, unwrapped = command
        self._applied(call, position, unwrapped, context)
        return self.inner.apply(unwrapped, context)

    @property
    def memory_bytes(self) -> int:
        return self.inner.memory_bytes

    def frees(self, command: Any) -> bool:
        return self.inner.frees(command[-1])

    def query(self, query: Any) -> Any:
        return self.inner.query(query)

    # The judge of callers has opened the envelope already.
    def keys_of(self, command: Any) -> Touched | None:
        return self.inner.keys_of(command)

    def keys_of_query(self, query: Any) -> Touched | None:
        return self.inner.keys_of_query(query)

    def savepoint(self) -> Any:
        return self.inner.savepoint()

    def rollback(self, savepoint: Any) -> None:
        self.inner.rollback(savepoint)

    def snapshot(self) -> Any:
        return self.inner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self.inner.restore(snapshot)

    def state_sync(self) -> StateSync:
        return self.inner.state_sync()

    def freeze(self) -> FrozenState | None:
        return self.inner.freeze()

    def thaw(self) -> Thawing:
        return self.inner.thaw()
