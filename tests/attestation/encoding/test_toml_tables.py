"""TOML as typed tables: what is wrong is named as it stands in the file."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest

from attestation.encoding.toml_tables import (
    StrictTable,
    TableError,
    parse_toml_untrusted,
    read_table_untrusted,
)


class Inner(StrictTable, frozen=True):
    name: str
    size: Annotated[int, msgspec.Meta(ge=1, le=9)] = 5
    texts: str | tuple[str, ...] = ()
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    on: bool = False


class Outer(StrictTable, frozen=True):
    inner: Inner
    listed: tuple[Inner, ...] = ()


def _read(text: str, path: str = "") -> Outer:
    return read_table_untrusted(parse_toml_untrusted(text.encode(), bytes_max=1000), Outer, path=path)


def test_an_absent_key_has_its_default() -> None:
    assert _read('[inner]\nname = "x"') == Outer(inner=Inner(name="x", size=5))


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", "inner", "missing key `inner`"),
        ("inner = 1", "inner", "[inner] must be a table, not an integer"),
        ("[inner]", "inner.name", "[inner] missing key `name`"),
        ("[inner]\nname = 'x'\ncolour = 1", "inner.colour", "[inner] unknown key `colour`"),
        ("[colour]\n[inner]\nname = 'x'", "colour", "unknown key `colour`"),
        ("[inner]\nname = 1", "inner.name", "[inner.name] must be text, not an integer"),
        ("[inner]\nname = 'x'\nsize = 0", "inner.size", "[inner.size] must be an integer >= 1"),
        ("[inner]\nname = 'x'\nsize = 10", "inner.size", "[inner.size] must be an integer <= 9"),
        ("[inner]\nname = 'x'\nsize = 1.0", "inner.size", "[inner.size] must be an integer, not a float"),
        ("[inner]\nname = 'x'\nsize = true", "inner.size", "must be an integer, not true or false"),
        ("[inner]\nname = 'x'\ntexts = ['a', 1]", "inner.texts[1]", "[inner.texts[1]] must be text"),
        ("[inner]\nname = 'x'\ntexts = 1", "inner.texts", "must be text or a list of texts"),
        ("[inner]\nname = 'x'\nat = 2026-01-01", "inner.at", "must be a date and time, not a date"),
        (
            "[inner]\nname = 'x'\nat = 2026-01-01T00:00:00",
            "inner.at",
            "a date and time with its offset, such as",
        ),
        ("[inner]\nname = 'x'\non = 1", "inner.on", "must be true or false, not an integer"),
        ("[inner]\nname = 'x'\n[[listed]]", "listed[0].name", "[listed[0]] missing key `name`"),
    ],
)
def test_a_wrong_key_is_named_as_in_the_file(text: str, key: str, message: str) -> None:
    with pytest.raises(TableError) as refused:
        _read(text)

    assert refused.value.key == key
    assert message in str(refused.value)


def test_a_key_of_a_table_within_another_document_is_named_below_it() -> None:
    with pytest.raises(TableError) as refused:
        read_table_untrusted({"inner": {"name": "x", "colour": 1}}, Outer, path="policy")

    assert str(refused.value) == "[policy.inner] unknown key `colour`"
    assert refused.value.key == "policy.inner.colour"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[inner", "not TOML"),
        (b"\xff", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"a = " + b"[" * 900, "not TOML"),
        (b" " * 1001, "larger than 1000 bytes"),
    ],
)
def test_bytes_that_are_no_toml_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        parse_toml_untrusted(data, bytes_max=1000)


def test_a_document_as_large_as_the_limit_is_read() -> None:
    value: dict[str, Any] = parse_toml_untrusted(b"a = 1".ljust(1000), bytes_max=1000)

    assert value == {"a": 1}
