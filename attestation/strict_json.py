"""Strict JSON (RFC 8259, and I-JSON, RFC 7493 2): the one reader of JSON that others wrote.

What two readers could understand differently is refused: a member name that occurs twice in an object,
surrogates without their other half, numbers that are none (``NaN``, ``Infinity``), bytes after the value.
"""

import json
from typing import Any, Final, NoReturn

from attestation.errors import MalformedError

_NAME_SHOWN_MAX: Final = 64


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


def parse_strict_untrusted(data: bytes, *, depth_max: int) -> Any:
    """Return the one JSON value that fills ``data``. How large ``data`` may be is the caller's to judge.

    Args:
        data: UTF-8 without a byte order mark.
        depth_max: how deep containers may nest; 1 is a container of scalars.

    Raises:
        MalformedError: ``json-invalid``, ``json-member-repeated``, ``json-too-deep``.
    """
    try:
        value = DECODER.decode(data.decode("utf-8"))
        if b"\\u" in data:
            # Escapes can write what UTF-8 has no bytes for; only a full turn finds it wherever it is.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _RepeatedMemberError as exc:
        raise MalformedError("json-member-repeated", str(exc)) from exc
    except RecursionError as exc:
        raise MalformedError("json-too-deep", f"nested deeper than {depth_max} levels") from exc
    except ValueError as exc:
        raise MalformedError("json-invalid", f"not strict JSON: {exc}") from exc
    if _deeper_than(value, depth_max):
        raise MalformedError("json-too-deep", f"nested deeper than {depth_max} levels")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    """Return whether containers nest deeper than this. Level by level, so that depth costs no stack."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(depth):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
    return bool(level)
