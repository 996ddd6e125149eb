"""Strict JSON (RFC 8259, and I-JSON, RFC 7493 2): the one reader of JSON from outside.

Input that two readers could understand differently is refused: a member name that occurs twice in an object,
surrogates without their other half, ``NaN`` and ``Infinity``, and bytes after the value.
"""

import json
import re
from itertools import accumulate
from typing import Any, Final, NoReturn

from attestation.errors import MalformedError

_NAME_SHOWN_MAX: Final = 64
# An escape that alone, or with another, stands for half of a surrogate pair.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE: Final = " \t\n\r"
_STEPS: Final = {ord("["): 1, ord("]"): -1}
_BRACKETS_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_NO_OPENING: Final = bytes(set(range(256)) - set(b"[{"))
_NO_PARTS: Final = bytes(set(range(256)) - set(b",[{"))


class _RepeatedMemberError(ValueError):
    """Reports a repeated name out of ``object_pairs_hook``: the decoder lets this exception through."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _RepeatedMemberError(f"the member name {twice[:_NAME_SHOWN_MAX]!r} occurs twice in one object")
    return out


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# For a caller that must find the place of a value in a text that ``parse_strict_untrusted`` has accepted.
DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def parse_strict_untrusted(data: bytes, *, depth_max: int, values_max: int) -> Any:
    """Return the one JSON value that fills ``data``. The caller limits the size of ``data``.

    Args:
        data: UTF-8 without a byte order mark.
        depth_max: how deep containers may nest; 1 is a container of scalars.
        values_max: commas and opening brackets outside of text, so about the number of values. Counted before
            any value is built: an empty list has two bytes, and costs as much as a hundred bytes.

    Raises:
        MalformedError: ``json-invalid``, ``json-member-repeated``, ``json-too-deep``,
            ``json-too-many-values``.
    """
    if len(data) > values_max:  # few bytes hold few values
        _require_few_values(data, values_max)
    # Few brackets cannot nest deep.
    if len(data.translate(None, _NO_OPENING)) > depth_max and _is_deeper_than(depth_max, data):
        raise MalformedError("json-too-deep", f"nested deeper than {depth_max} levels")
    try:
        text = data.decode("utf-8").strip(_SPACE)
        # ``decode`` does the same, but its search for white space makes it take half as long again.
        value, end = DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("something follows the value")
        if _SURROGATE.search(data):
            # An escape can produce a lone surrogate, for which UTF-8 has no bytes. Encoding the whole value
            # finds it at any place.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _RepeatedMemberError as exc:
        raise MalformedError("json-member-repeated", str(exc)) from exc
    except ValueError as exc:
        raise MalformedError("json-invalid", f"not strict JSON: {exc}") from exc
    return value


def _require_few_values(data: bytes, values_max: int) -> None:
    """Raise ``MalformedError`` if there are more values in ``data``."""
    # Few separators cannot separate many.
    if data.count(b",") + data.count(b"[") + data.count(b"{") <= values_max:
        return
    plain = _without_escapes(data)
    # Each value is at most one text, with a name before it. With more quotes than that, there are more values
    # or the data is not JSON. Below that limit, the data cannot be split into many pieces.
    many = plain.count(b'"') > 4 * (values_max + 1)
    if many or len(_outside_text(plain).translate(None, _NO_PARTS)) > values_max:
        raise MalformedError("json-too-many-values", f"more than {values_max} values")


def _without_escapes(data: bytes) -> bytes:
    """Return ``data`` without escapes of quotes, so that every quote begins or ends a text."""
    # Escaped backslashes are removed first, from the left, as a reader reads escapes. After that, a backslash
    # before a quote always escapes it.
    return data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data


def _outside_text(plain: bytes) -> bytes:
    return b"".join(plain.split(b'"')[::2])


def _is_deeper_than(depth_max: int, data: bytes) -> bool:
    """Return whether containers nest deeper, by the brackets alone: each level takes of the decoder's stack.

    After the first place where ``data`` is not JSON, this may be wrong. The decoder stops at that place, and
    was no deeper than was counted.
    """
    brackets = _outside_text(_without_escapes(data)).translate(_BRACKETS_ALIKE, _NO_BRACKETS)
    # Each pass removes the innermost level everywhere. If nothing is left, there were no more levels.
    rest = brackets
    for _ in range(depth_max):
        rest = rest.replace(b"[]", b"")
        if not rest:
            return False
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth_max
