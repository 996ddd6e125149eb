"""The machine that does nothing: for groups that only want a leader, and for measuring consensus."""

from typing import Any

from node.machines.base import ApplyContext, StateMachine


class NoOp(StateMachine):
    """Answers every command and every query with null."""

    @property
    def signature(self) -> str:
        return "bondstone/noop/v1"

    def apply(self, command: Any, context: ApplyContext) -> None:  # noqa: ARG002
        return None

    def query(self, query: Any) -> None:  # noqa: ARG002
        return None

    def savepoint(self) -> None:
        return None

    def rollback(self, savepoint: Any) -> None:
        """Do nothing: there is nothing to undo."""

    def snapshot(self) -> None:
        return None

    def restore(self, snapshot: Any) -> None:
        if snapshot is not None:
            raise ValueError("a NoOp snapshot is null")
