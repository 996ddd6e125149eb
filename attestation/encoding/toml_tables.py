"""TOML documents as typed tables: every key that is unknown, missing or wrong is refused by its name."""

import tomllib
from typing import Any, Final, TypeVar

import msgspec

_Kind = TypeVar("_Kind", bound="StrictTable")


class StrictTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table. A default is what an absent key means."""


class TableError(ValueError):
    """A document is not what its reader takes. The text begins with the key in brackets, if there is one.

    Attributes:
        key: such as ``tcb.accepted_statuses``; empty: the document as a whole.
    """

    def __init__(self, key: str, text: str, *, table: str | None = None) -> None:
        shown = key if table is None else table
        super().__init__(f"[{shown}] {text}" if shown else text)
        self.key = key


def parse_toml_untrusted(data: bytes, *, bytes_max: int) -> dict[str, Any]:
    """Return the tables of a TOML document.

    Raises:
        TableError: it is too large, or not TOML.
    """
    if len(data) > bytes_max:
        raise TableError("", f"larger than {bytes_max} bytes")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise TableError("", f"not TOML: {exc}") from exc


def read_table_untrusted(value: Any, kind: type[_Kind], *, path: str = "") -> _Kind:
    """Return a table of this kind.

    Args:
        value: from ``parse_toml_untrusted``, or a part of that.
        kind: the class of the table.
        path: where in its document it is, such as ``policy.tcb``.

    Raises:
        TableError: it names the key and what is wrong with it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise _named(str(exc), path) from exc


# What msgspec's errors contain, and what they are in this project's errors.
_WORDS: Final = {
    " | null`": "`",
    "Expected ": "must be ",
    "`object`": "a table",
    "`array`": "a list",
    "`str | array`": "text or a list of texts",
    "`str`": "text",
    "`bool`": "true or false",
    "`int`": "an integer",
    "`float`": "a float",
    "`datetime`": "a date and time",
    "`date`": "a date",
    "with a timezone component": "with its offset, such as 2026-01-01T00:00:00Z",
    ", got ": ", not ",
    "Object contains unknown field ": "unknown key ",
    "Object missing required field ": "missing key ",
}


def _named(message: str, path: str) -> TableError:
    """Turn ``Expected `int`, got `str` - at `$.api.listen``` into an error with the key as in the file."""
    text, _, place = message.partition(" - at `$")
    table = (path + place.removesuffix("`")).lstrip(".")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    if text.startswith(("unknown key `", "missing key `")):
        name = text.split("`")[1]
        return TableError(f"{table}.{name}" if table else name, text, table=table)
    return TableError(table, text)
