"""Strict JSON (RFC 8259, and I-JSON, RFC 7493 2): the one reader of JSON that others wrote.

What two readers could understand differently is refused: a member name that occurs twice in an object,
surrogates without their other half, numbers that are none (``NaN``, ``Infinity``), bytes after the value.
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
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_STEPS))
_NO_PARTS: Final = bytes(set(range(256)) - set(b",[{"))


class _RepeatedMemberError(ValueError):
    """``object_pairs_hook`` cannot say more than an exception that the decoder lets through."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _RepeatedMemberError(f"the member name {twice[:_NAME_SHOWN_MAX]!r} occurs twice in one object")
    return out


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# For whoever has to find the place of a value in a text that ``parse_strict_untrusted`` has taken.
DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def parse_strict_untrusted(data: bytes, *, depth_max: int, values_max: int) -> Any:
    """Return the one JSON value that fills ``data``. How large ``data`` may be is the caller's to judge.

    Args:
        data: UTF-8 without a byte order mark.
        depth_max: how deep containers may nest; 1 is a container of scalars.
        values_max: commas and opening brackets outside of text, so about how many values there are. Counted
            before any is built: an empty list is two bytes, and costs as much as a hundred.

    Raises:
        MalformedError: ``json-invalid``, ``json-member-repeated``, ``json-too-deep``,
            ``json-too-many-values``.
    """
    _require_few_values(data, values_max)
    # Few brackets cannot nest deep, whatever stands between them.
    if data.count(b"[") + data.count(b"{") > depth_max and _depth_of(data) > depth_max:
        raise MalformedError("json-too-deep", f"nested deeper than {depth_max} levels")
    try:
        text = data.decode("utf-8").strip(_SPACE)
        # ``decode`` does the same, and looks for space in a way that takes half as long again.
        value, end = DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("something follows the value")
        if _SURROGATE.search(data):
            # Escapes can write what UTF-8 has no bytes for; only a full turn finds it wherever it is.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _RepeatedMemberError as exc:
        raise MalformedError("json-member-repeated", str(exc)) from exc
    except ValueError as exc:
        raise MalformedError("json-invalid", f"not strict JSON: {exc}") from exc
    return value


def _require_few_values(data: bytes, values_max: int) -> None:
    """Raise ``MalformedError`` if there are more of them in ``data``."""
    # Few separators cannot part many values, whatever stands between them.
    if data.count(b",") + data.count(b"[") + data.count(b"{") <= values_max:
        return
    plain = _without_escapes(data)
    # Each value is at most one text, with a name before it: with more quotes there are more values, or it is
    # no JSON. What is left cannot be cut into many pieces.
    many = plain.count(b'"') > 4 * (values_max + 1)
    if many or len(_outside_text(plain).translate(None, _NO_PARTS)) > values_max:
        raise MalformedError("json-too-many-values", f"more than {values_max} values")


def _without_escapes(data: bytes) -> bytes:
    """Return ``data`` in which every quote begins or ends a text."""
    # Escaped backslashes first, from the left, as escapes are read: then one before a quote escapes it.
    return data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data


def _outside_text(plain: bytes) -> bytes:
    return b"".join(plain.split(b'"')[::2])


def _depth_of(data: bytes) -> int:
    """Return how deep containers nest, by the brackets alone: the decoder answers depth with its stack.

    Where ``data`` stops being JSON this may be wrong; the decoder stops there, no deeper than was counted.
    """
    brackets = _outside_text(_without_escapes(data)).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
