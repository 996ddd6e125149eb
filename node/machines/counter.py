"""A replicated number: the tutorial's machine.

Commands: ``{"op": "add", "by": n}`` (``by`` is 1 if absent) and ``{"op": "reset"}``; the result is
``{"value": v}``, the value afterwards. Query: ``{"op": "get"}``, answered in the same form.
"""

from typing import Any, Final

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.fields import Fields

VALUE_MAX: Final = 2**63 - 1
VALUE_MIN: Final = -(2**63)


class Counter(StateMachine):
    """One signed 64-bit number, 0 at first. A command that would leave the range is refused."""

    def __init__(self) -> None:
        self._value = 0

    @property
    def signature(self) -> str:
        return "bondstone/counter/v1"

    def apply(self, command: Any, context: ApplyContext) -> dict[str, int]:  # noqa: ARG002
        fields = Fields(command)
        match fields.op():
            case "add":
                by = fields.integer("by", default=1, low=VALUE_MIN, high=VALUE_MAX)
                fields.done()
                value = self._value + by
                if not VALUE_MIN <= value <= VALUE_MAX:
                    raise CommandError("overflow", "the counter would leave the signed 64-bit range")
                self._value = value
            case "reset":
                fields.done()
                self._value = 0
            case _:
                raise _unknown_command()
        return {"value": self._value}

    def check(self, command: Any) -> None:
        fields = Fields(command)
        match fields.op():
            case "add":
                fields.integer("by", default=1, low=VALUE_MIN, high=VALUE_MAX)
            case "reset":
                pass
            case _:
                raise _unknown_command()
        fields.done()

    def query(self, query: Any) -> dict[str, int]:
        fields = Fields(query)
        if fields.op() != "get":
            raise CommandError("op-unknown", "the counter's query is `get`")
        fields.done()
        return {"value": self._value}

    def savepoint(self) -> int:
        return self._value

    def rollback(self, savepoint: int) -> None:
        self._value = savepoint

    def snapshot(self) -> int:
        return self._value

    def restore(self, snapshot: Any) -> None:
        if not isinstance(snapshot, int) or isinstance(snapshot, bool):
            raise ValueError("a Counter snapshot is one integer")  # noqa: TRY004 - foreign data
        self._value = snapshot


def _unknown_command() -> CommandError:
    return CommandError("op-unknown", "the counter's commands are `add` and `reset`")
