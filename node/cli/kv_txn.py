r"""The text of a transaction, as etcdctl reads it: compares, what to do if all hold, and otherwise.

    mod("key") = "7"            mod, create, version, value, lease; = != < >
    value("other") > "b"
                                an empty line ends each of the three parts
    put key "some value" --lease 694d7f2a1b3c4d5e
    get key range_end --limit 5
                                what is missing at the end is empty
    del key --prefix

Words are in quotes where they hold blanks. In quotes a backslash begins what it begins in Go: ``\x00``,
``\n``, ``\"``.
"""

import argparse
import codecs
import os
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from node.cli import kv_forms as forms
from node.errors import ConfigError

TEXT_BYTES_MAX: Final = 8 * 1024 * 1024
PARTS: Final = 3
_TARGETS: Final = {
    **dict.fromkeys(("version", "ver"), 0),
    **dict.fromkeys(("create", "c"), 1),
    **dict.fromkeys(("mod", "m"), 2),
    **dict.fromkeys(("value", "val"), 3),
    "lease": 4,
}
_RESULTS: Final = {"=": 0, ">": 1, "<": 2, "!=": 3}
_VALUE, _LEASE = 3, 4
_QUOTED: Final = rb'"(?:[^"\\]|\\.)*"'
_COMPARE: Final = re.compile(
    rb"\s*([a-z]+)\s*\(\s*(%b|[^\s\"()]+)\s*\)\s*(=|!=|<|>)\s*(%b|\S+)\s*" % (_QUOTED, _QUOTED)
)
_WORD: Final = re.compile(rb"\s*(%b|[^\s\"]+)(?=\s|$)" % _QUOTED)
_ESCAPED: Final = re.compile(rb"\\(?:x[0-9A-Fa-f]{2}|[0-7]{3}|[abfnrtv\\\"'])")
Given = Callable[[bytes], bytes]


def transaction(text: bytes, given: Given) -> list[Any]:
    """Return the command.

    Args:
        text: of the whole transaction.
        given: makes the bytes of a key or value of what is written there (text, hex or base64).

    Raises:
        ConfigError: a line is not of these forms; the message has its number.
    """
    parts: list[list[Any]] = [[] for _ in range(PARTS)]
    place = 0
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            place += 1
            continue
        if place >= PARTS:
            raise ConfigError(f"line {number}: a transaction has {PARTS} parts, each ended by an empty line")
        try:
            parts[place].append(_compare(line, given) if place == 0 else _request(line, given))
        except ConfigError as exc:
            raise ConfigError(f"line {number}: {exc}") from exc
    return ["txn", *parts]


def _compare(line: bytes, given: Given) -> list[Any]:
    found = _COMPARE.fullmatch(line)
    if found is None or (target := _TARGETS.get(found[1].decode("ascii"))) is None:
        raise ConfigError('a compare is as `mod("key") = "7"`: mod, create, version, value, lease; = != < >')
    operand = _word(found[4])
    key, result = forms.b64(given(_word(found[2]))), _RESULTS[found[3].decode("ascii")]
    if target == _VALUE:
        return [target, result, key, "", forms.b64(given(operand))]
    text = os.fsdecode(operand)
    if target == _LEASE:
        return [target, result, key, "", forms.lease_id(text)]
    if not text.isascii() or not text.isdigit() or int(text) > forms.LEASE_ID_MAX:
        raise ConfigError(f"{text[:64]!r} is not a revision or a number of versions")
    return [target, result, key, "", int(text)]


def _request(line: bytes, given: Given) -> list[Any]:
    """Return one operation: put, get or del, with the flags that the commands of these names have."""
    verb, *more = [os.fsdecode(word) for word in _words(line)]
    reader = _READERS.get(verb)
    if reader is None:
        raise ConfigError(f"{verb[:64]!r} is not put, get or del")
    asked = reader.parse_args(more)
    key = given(os.fsencode(asked.key))
    if verb == "put":
        flags = (
            forms.PREV_KV * asked.prev_kv
            | forms.IGNORE_VALUE * asked.ignore_value
            | forms.IGNORE_LEASE * asked.ignore_lease
        )
        value = b"" if asked.value is None else given(os.fsencode(asked.value))
        return forms.put(key, value, lease=forms.lease_id(asked.lease), flags=flags)
    end = None if asked.range_end is None else given(os.fsencode(asked.range_end))
    span = forms.bounds(key, end, prefix=asked.prefix, from_key=asked.from_key)
    if verb == "del":
        return forms.delete(span, prev_kv=asked.prev_kv)
    return forms.range_(
        span,
        limit=asked.limit,
        revision=asked.rev,
        sort_by=None if asked.sort_by is None else forms.SortBy(asked.sort_by),
        order=None if asked.order is None else forms.Order(asked.order),
        keys_only=asked.keys_only,
        count_only=asked.count_only,
    )


def _words(line: bytes) -> list[bytes]:
    words, place = [], 0
    while line[place:].strip():
        found = _WORD.match(line, place)
        if found is None:
            raise ConfigError("a quotation mark is missing, or one is in the middle of a word")
        words.append(_word(found[1]))
        place = found.end()
    return words


def _word(text: bytes) -> bytes:
    """Return what a word stands for."""
    if not text.startswith(b'"'):
        return text
    inner = text[1:-1]
    if b"\\" in _ESCAPED.sub(b"", inner):
        raise ConfigError("in quotes a backslash begins \\xNN, or what it begins in Go")
    return _ESCAPED.sub(lambda found: codecs.escape_decode(found[0])[0], inner)


class _Reader(argparse.ArgumentParser):
    """Reads the words behind put, get or del. A mistake is an error of the line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _reader(verb: str) -> _Reader:
    reader = _Reader(prog=verb, add_help=False, allow_abbrev=False)
    reader.add_argument("key")
    if verb == "put":
        reader.add_argument("value", nargs="?")
        reader.add_argument("--lease", default="0")
    else:
        reader.add_argument("range_end", nargs="?")
    for flag in _FLAGS[verb]:
        reader.add_argument(flag, action="store_true")
    if verb == "get":
        reader.add_argument("--limit", type=int, default=0)
        reader.add_argument("--rev", type=int, default=0)
        reader.add_argument("--sort-by", choices=[each.value for each in forms.SortBy])
        reader.add_argument("--order", choices=[each.value for each in forms.Order])
    return reader


_FLAGS: Final = {
    "put": ("--prev-kv", "--ignore-value", "--ignore-lease"),
    "get": ("--prefix", "--from-key", "--keys-only", "--count-only"),
    "del": ("--prefix", "--from-key", "--prev-kv"),
}
_READERS: Final = {verb: _reader(verb) for verb in _FLAGS}
