"""Strict JSON for documents whose exact bytes are signed (A5.3).

Input that ``strict_json`` refuses, deep nesting and wrong types are refused. Unknown members are ignored,
because Intel adds fields.
"""

import binascii
import re
from datetime import datetime
from typing import Any, Final

from attestation.encoding.fields import Check, FieldError, StrictMap, array, array_of, integer, text
from attestation.encoding.strict_json import DECODER, parse_strict_untrusted
from attestation.errors import MalformedError

DOCUMENT_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 16
VALUES_MAX: Final = 65_536  # about ten times the number in Intel's largest TCB info
ARRAY_ITEMS_MAX: Final = 1024

_TIMESTAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def parse_json_untrusted(data: bytes, *, code: str, bytes_max: int = DOCUMENT_BYTES_MAX) -> Any:
    """Return the one JSON value that fills ``data``.

    Args:
        data: UTF-8 without a byte order mark.
        code: head of the reason code, such as ``tcb-info``.
        bytes_max: limit, checked first.

    Raises:
        MalformedError: ``<code>-malformed``.
    """
    if len(data) > bytes_max:
        raise MalformedError(f"{code}-malformed", f"the {code} has {len(data)} bytes, at most {bytes_max}")
    try:
        return parse_strict_untrusted(data, depth_max=DEPTH_MAX, values_max=VALUES_MAX)
    except MalformedError as exc:
        raise MalformedError(f"{code}-malformed", f"the {code} is not strict JSON: {exc.message}") from exc


def extract_signed_untrusted(body: bytes, *, member: str, code: str) -> tuple[bytes, bytes]:
    """Return the exact bytes of ``member``'s value and the 64 signature bytes of a PCS answer.

    The signature covers the value exactly as it is in the body, so a tokenizer that respects strings and
    escapes cuts it out; it is never serialised again.

    Args:
        body: ``{"<member>": {...}, "signature": "<128 hex>"}``, in any member order.
        member: ``tcbInfo``, ``enclaveIdentity`` or ``tcbEvaluationDataNumbers``.
        code: head of the reason code.

    Raises:
        MalformedError: ``<code>-malformed``.
    """
    outer = read_map(parse_json_untrusted(body, code=code), code=code)
    outer.below(member)
    signature = outer.take("signature", _SIGNATURE)
    text = body.decode("utf-8")
    # The whole body is valid JSON now, so this walk over its top level only has to find the spans.
    position = text.index("{") + 1
    while True:
        name, position = DECODER.raw_decode(text, _skip(text, position))
        start = _skip(text, _skip(text, position) + 1)
        _, position = DECODER.raw_decode(text, start)
        if name == member:
            return text[start:position].encode("utf-8"), signature
        position = _skip(text, position) + 1


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def read_map(value: Any, *, code: str, path: str = "") -> StrictMap:
    """Return the members of a JSON object; what is wrong with them is refused as ``<code>-malformed``.

    Unknown members are ignored.
    """

    def malformed(path: str, text: str) -> MalformedError:
        return MalformedError(
            f"{code}-malformed",
            f"the {code}'s member {path or '(top)'} {text}",
            values={"member": path},
        )

    return StrictMap(value, error=malformed, path=path)


def hex_of(size: int) -> Check[bytes]:
    """Check for text of ``2 * size`` hex digits; the check returns the bytes."""
    wanted = f"{2 * size} hex digits"

    def check(value: Any) -> bytes:
        if type(value) is not str or len(value) != 2 * size:
            raise FieldError(wanted)
        try:
            return binascii.unhexlify(value)
        except ValueError as exc:
            raise FieldError(wanted) from exc

    return check


def time(value: Any) -> datetime:
    """Check for a time of the form YYYY-MM-DDTHH:MM:SSZ; returns it as aware UTC."""
    if type(value) is not str or _TIMESTAMP.fullmatch(value) is None:
        raise FieldError("a time of the form YYYY-MM-DDTHH:MM:SSZ")
    try:
        return datetime.fromisoformat(value)  # the Z makes it UTC
    except ValueError as exc:
        raise FieldError("a time that exists") from exc


TEXT: Final = text(256)
ARRAY: Final = array(ARRAY_ITEMS_MAX)
UINT16: Final = integer(0, 0xFFFF)
UINT32: Final = integer(0, 0xFFFFFFFF)
_ADVISORY: Final = text(64, re.compile(r"[A-Za-z0-9._-]+", re.ASCII), form="an advisory's id")
_ADVISORIES: Final = array_of(_ADVISORY, ARRAY_ITEMS_MAX)
_SIGNATURE: Final = hex_of(64)


def advisory_ids(level: StrictMap) -> tuple[str, ...]:
    """Return a level's optional ``advisoryIDs``; absent means none."""
    return level.take("advisoryIDs", _ADVISORIES) if "advisoryIDs" in level else ()
