"""Strict reading of foreign values: the one set of checks for fields of CBOR and JSON.

A *check* takes a value that a decoder built, and returns it with its type known, or raises ``FieldError``.
Checks are made once, from their limits, and used for every value. What reads a whole message or document
turns a ``FieldError`` into an error of its own, with its own reason code; ``StrictMap`` does so for maps, and
names the member.

    DIGEST = bytes_of(32)
    members = StrictMap(value, error=_malformed, names={"digest", "count"})
    digest, count = members.take("digest", DIGEST), members.take("count", integer(0, 100))
"""

import re
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, Final, NoReturn, Self, TypeVar

ROW_ITEMS_MAX: Final = 64
"""Of an array of fixed form, so that a later release may add some."""

UINT64_MAX: Final = 2**64 - 1

_T = TypeVar("_T")
_Key = TypeVar("_Key")
_Kind = TypeVar("_Kind", bound=Enum)

Check = Callable[[Any], _T]


class FieldError(ValueError):
    """A value is not what its place requires.

    Attributes:
        wanted: what is required, as the end of a sentence: "an integer from 0 to 5".
    """

    def __init__(self, wanted: str) -> None:
        super().__init__(f"expected {wanted}")
        self.wanted = wanted


def anything(value: Any) -> Any:
    """Check for nothing: for a member whose own reader checks it."""
    return value


def integer(low: int, high: int, *, form: str = "an integer") -> Check[int]:
    """Check for an integer in ``low..high``; ``form`` is what it means, for the error."""
    wanted = f"{form} from {low} to {high}"

    def check(value: Any) -> int:
        # By exact type: bool is an int in Python and 3.0 == 3, but CBOR and JSON have other types for them.
        if type(value) is not int or not low <= value <= high:
            raise FieldError(wanted)
        return value

    return check


def flag(value: Any) -> bool:
    """Check for true or false."""
    if type(value) is not bool:
        raise FieldError("true or false")
    return value


def octets(value: Any) -> bytes:
    """Check for a byte string of any size: for a part of a message whose own limit bounds it."""
    if type(value) is not bytes:
        raise FieldError("bytes")
    return value


def bytes_of(size: int) -> Check[bytes]:
    """Check for a byte string of exactly ``size`` bytes."""
    wanted = f"{size} bytes"

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise FieldError(wanted)
        return value

    return check


def bytes_up_to(bytes_max: int) -> Check[bytes]:
    """Check for a byte string of at most ``bytes_max`` bytes."""
    wanted = f"at most {bytes_max} bytes"

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > bytes_max:
            raise FieldError(wanted)
        return value

    return check


def text(chars_max: int, pattern: re.Pattern[str] | None = None, *, form: str = "text") -> Check[str]:
    """Check for text of at most ``chars_max`` characters that the whole of ``pattern`` matches.

    Args:
        chars_max: compared before the pattern.
        pattern: None: any text.
        form: what the pattern describes, for the error: "a host name".
    """
    wanted = f"{form} of at most {chars_max} characters"

    def check(value: Any) -> str:
        if (
            type(value) is not str
            or len(value) > chars_max
            or (pattern is not None and pattern.fullmatch(value) is None)
        ):
            raise FieldError(wanted)
        return value

    return check


def one_of(kind: type[_Kind]) -> Check[_Kind]:
    """Check for the value of a member of an enumeration; the check returns the member."""
    values = {item.value: item for item in kind}
    types = {type(value) for value in values}
    wanted = "one of " + ", ".join(str(value) for value in values)

    def check(value: Any) -> _Kind:
        found = values.get(value) if type(value) in types else None
        if found is None:
            raise FieldError(wanted)
        return found

    return check


def optional(check: Check[_T]) -> Check[_T | None]:
    """Check for null, or for what ``check`` checks for."""
    return lambda value: None if value is None else check(value)


def array(items_max: int) -> Check[list[Any]]:
    """Check for an array of at most ``items_max`` items, which are not looked at."""
    wanted = f"an array of at most {items_max} items"

    def check(value: Any) -> list[Any]:
        if type(value) is not list or len(value) > items_max:
            raise FieldError(wanted)
        return value

    return check


def array_of(item: Check[_T], items_max: int) -> Check[tuple[_T, ...]]:
    """Check for an array of at most ``items_max`` items, each of which passes ``item``."""
    outer = array(items_max)
    return lambda value: tuple(map(item, outer(value)))


def row(count: int) -> Check[list[Any]]:
    """Check for an array of a fixed form; the check returns the first ``count`` items.

    A later release may add items at the end, ``ROW_ITEMS_MAX`` in all. They are ignored.
    """
    wanted = f"an array of {count} fields"

    def check(value: Any) -> list[Any]:
        if type(value) is not list or not count <= len(value) <= ROW_ITEMS_MAX:
            raise FieldError(wanted)
        return value if len(value) == count else value[:count]

    return check


def map_of(key: Check[_Key], item: Check[_T], items_max: int) -> Check[dict[_Key, _T]]:
    """Check for a map of at most ``items_max`` members with such keys and values."""
    wanted = f"a map of at most {items_max} members"

    def check(value: Any) -> dict[_Key, _T]:
        if type(value) is not dict or len(value) > items_max:
            raise FieldError(wanted)
        return {key(name): item(found) for name, found in value.items()}

    return check


class StrictMap:
    """The members of a map, each taken by its name through a check.

    Args:
        value: from a decoder.
        error: makes the caller's own error from a member's path (empty: the map itself) and what is wrong
            with it, as the end of a sentence: "must be 32 bytes". Every method raises it.
        path: of the map in the document, such as ``tcbLevels[3].tcb``.
        names: the map's only members; None: unknown ones are ignored.
        optional: which of ``names`` may be absent.
    """

    __slots__ = ("_error", "_members", "_path")

    def __init__(
        self,
        value: Any,
        *,
        error: Callable[[str, str], Exception],
        path: str = "",
        names: Collection[str] | None = None,
        optional: Collection[str] = (),
    ) -> None:
        self._error = error
        self._path = path
        if type(value) is not dict:
            self.refuse("", "must be a map")
        self._members: dict[Any, Any] = value
        if names is not None:
            for name in value:
                if name not in names:
                    self.refuse(str(name)[:64], "is not known")
            for name in names:
                if name not in value and name not in optional:
                    self.refuse(name, "is missing")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def take(self, name: str, check: Check[_T]) -> _T:
        """Return what ``check`` returns for this member."""
        try:
            return check(self._members[name])
        except KeyError:
            self.refuse(name, "is missing")
        except FieldError as exc:
            raise self._error(self._join(name), f"must be {exc.wanted}") from exc

    def below(self, name: str) -> Self:
        """Return the members of the map that is this member."""
        if name not in self._members:
            self.refuse(name, "is missing")
        return self._below(self._members[name], self._join(name))

    def each_below(self, name: str, check: Check[list[Any]]) -> list[Self]:
        """Return the members of each map in the array that is this member; ``check``: an ``array``."""
        path = self._join(name)
        items = self.take(name, check)
        return [self._below(item, f"{path}[{index}]") for index, item in enumerate(items)]

    def _below(self, value: Any, path: str) -> Self:
        return type(self)(value, error=self._error, path=path)

    def _join(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name else self._path or name

    def refuse(self, name: str, text: str) -> NoReturn:
        """Refuse this member for a reason of the document's own."""
        raise self._error(self._join(name), text)
