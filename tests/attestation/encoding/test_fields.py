"""The kit of strict checks: what is not exactly of the form is refused, by the caller's own error."""

import re
from enum import Enum, IntEnum
from typing import Any

import pytest

from attestation.encoding.fields import (
    ROW_ITEMS_MAX,
    FieldError,
    StrictMap,
    array,
    array_of,
    bytes_of,
    bytes_up_to,
    flag,
    integer,
    map_of,
    octets,
    one_of,
    optional,
    row,
    text,
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


NAME = text(3, re.compile("[a-z]+"), form="a name")
PAIRS = map_of(NAME, integer(0, 9), 2)


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (integer(0, 5), 0, 0),
        (integer(0, 5), 5, 5),
        (integer(-2, 2), -2, -2),
        (flag, False, False),
        (octets, b"", b""),
        (bytes_of(2), b"ab", b"ab"),
        (bytes_up_to(2), b"", b""),
        (bytes_up_to(2), b"ab", b"ab"),
        (text(3), "", ""),
        (NAME, "abc", "abc"),
        (one_of(Colour), "blue", Colour.BLUE),
        (one_of(Level), 1, Level.LOW),
        (optional(NAME), None, None),
        (optional(NAME), "a", "a"),
        (array(2), [1, None], [1, None]),
        (array_of(NAME, 2), ["a", "b"], ("a", "b")),
        (row(2), [1, 2], [1, 2]),
        (row(2), [1, 2, *range(62)], [1, 2]),
        (PAIRS, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    ],
)
def test_a_value_of_the_right_form_is_returned(check: Any, value: Any, result: Any) -> None:
    assert check(value) == result


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (integer(0, 5), -1),
        (integer(0, 5), 6),
        (integer(0, 5), True),
        (integer(0, 5), 1.0),
        (integer(0, 5), "1"),
        (flag, 1),
        (flag, None),
        (octets, "a"),
        (octets, None),
        (bytes_of(2), b"abc"),
        (bytes_of(2), "ab"),
        (bytes_up_to(2), b"abc"),
        (bytes_up_to(2), bytearray(b"a")),
        (text(3), "abcd"),
        (text(3), b"abc"),
        (NAME, ""),
        (NAME, "abc\n"),
        (NAME, "aBc"),
        (one_of(Colour), "RED"),
        (one_of(Colour), ["red"]),
        (one_of(Level), True),
        (one_of(Level), 2),
        (optional(NAME), ""),
        (array(2), [1, 2, 3]),
        (array(2), (1, 2)),
        (array_of(NAME, 2), ["a", 1]),
        (array_of(NAME, 2), ["a", "b", "c"]),
        (row(2), [1]),
        (row(2), [0] * (ROW_ITEMS_MAX + 1)),
        (row(2), None),
        (PAIRS, {"a": 1, "b": 2, "c": 3}),
        (PAIRS, {"a": 10}),
        (PAIRS, {"A": 1}),
        (PAIRS, {1: 1}),
        (PAIRS, []),
    ],
)
def test_a_value_of_another_form_is_refused_and_the_error_states_the_right_form(
    check: Any, value: Any
) -> None:
    with pytest.raises(FieldError, match=r"^expected "):
        check(value)


class OwnError(Exception):
    pass


def _read(value: Any, **options: Any) -> StrictMap:
    return StrictMap(value, error=lambda path, text: OwnError(f"{path}: {text}"), **options)


def test_a_member_is_refused_by_the_callers_error_with_its_path() -> None:
    value = {"a": {"b": [{"c": 1}, {"c": -1}]}}
    first, second = _read(value).below("a").each_below("b", array(2))

    assert first.take("c", integer(0, 5)) == 1
    with pytest.raises(OwnError, match=re.escape("a.b[1].c: must be an integer from 0 to 5")) as refused:
        second.take("c", integer(0, 5))
    assert isinstance(refused.value.__cause__, FieldError)
    with pytest.raises(OwnError, match=re.escape("a.b[1].d: is missing")):
        second.take("d", integer(0, 5))
    with pytest.raises(OwnError, match=re.escape("a.b: must be an array of at most 1 items")):
        _read(value).below("a").each_below("b", array(1))
    with pytest.raises(OwnError, match=re.escape("a.b: must be a map")):
        _read(value).below("a").below("b")


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"a": 1, "b": 2, "c": 3}, "at.c: is not known"),
        ({"a": 1, "b": 2, 5: 3}, "at.5: is not known"),
        ({"a": 1}, "at.b: is missing"),
        ([], "at: must be a map"),
        (None, "at: must be a map"),
    ],
)
def test_a_map_with_other_members_than_the_named_ones_is_refused(value: Any, refusal: str) -> None:
    with pytest.raises(OwnError, match=re.escape(refusal)):
        _read(value, path="at", names=("a", "b", "o"), optional=("o",))


def test_members_that_are_optional_or_unknown_may_be_absent_or_there() -> None:
    assert "o" not in _read({"a": 1}, names=("a", "o"), optional=("o",))
    assert "other" in _read({"a": 1, "other": 2})
