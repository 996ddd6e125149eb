"""Commands and queries of the collections machine as data, and its answers as values: no I/O."""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from node.collections.errors import AnswerError
from node.collections.outcomes import Version

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """One command for a declared collection, and how to read its result.

    Attributes:
        declaration: the command that declares the collection.
        command: for ``Group.execute`` or ``POST /v1/commands``.
        read: makes the outcome of the machine's result; raises AnswerError and StoredValueError.
    """

    declaration: Mapping[str, Any]
    command: Mapping[str, Any]
    read: Callable[["MachineResult"], R]


class MachineResult:
    """A result of the machine, read strictly.

    Raises:
        AnswerError: from every method, if the member is not there or of another type.
    """

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise AnswerError("the answer is no object: is the group's state machine `collections`?")
        self._value = value

    @property
    def version(self) -> Version:
        return Version(self.number("version"))

    def number(self, name: str) -> int:
        value = self._value.get(name)
        if type(value) is not int:
            raise _unlike(name)
        return value

    def flag(self, name: str) -> bool:
        value = self._value.get(name)
        if type(value) is not bool:
            raise _unlike(name)
        return value

    def flags(self, name: str) -> list[bool]:
        value = self._value.get(name)
        if not isinstance(value, list | tuple) or any(type(one) is not bool for one in value):
            raise _unlike(name)
        return list(value)

    def item(self, name: str = "item") -> "MachineResult | None":
        """Return the item under ``name``; None if it is null."""
        if name not in self._value:
            raise _unlike(name)
        return None if self._value[name] is None else MachineResult(self._value[name])

    def items(self) -> list["MachineResult"]:
        value = self._value.get("items")
        if not isinstance(value, list | tuple):
            raise _unlike("items")
        return [MachineResult(one) for one in value]

    def data(self, name: str) -> bytes:
        """Return the bytes under ``name`` (text) or ``name_b64``."""
        text, encoded = self._value.get(name), self._value.get(f"{name}_b64")
        try:
            if isinstance(text, str):
                return text.encode()
            return base64.b64decode(encoded, validate=True)  # type: ignore[arg-type]
        except (TypeError, ValueError, binascii.Error) as exc:
            raise _unlike(name) from exc

    def following(self) -> dict[str, Any] | None:
        """Return the member that asks for the next page; None if this page is the last."""
        for name, following in (("next", "after"), ("next_b64", "after_b64")):
            if self._value.get(name) is not None:
                return {following: self._value[name]}
        return None


def _unlike(name: str) -> AnswerError:
    return AnswerError(f"`{name}` of the answer is not what the machine `collections` answers")


def member(name: str, value: bytes | None) -> dict[str, Any]:
    """Return the member of a command for these bytes; null for None."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(value).decode("ascii")}


def members(name: str, values: Iterable[bytes]) -> dict[str, Any]:
    """Return the member of a command for a list of bytes."""
    several = list(values)
    try:
        return {name: [value.decode() for value in several]}
    except UnicodeDecodeError:
        return {f"{name}_b64": [base64.b64encode(value).decode("ascii") for value in several]}
