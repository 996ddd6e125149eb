"""Strict JSON for documents whose exact bytes are signed (A5.3).

Input that ``strict_json`` refuses, deep nesting and wrong types are refused. Unknown members are ignored,
because Intel adds fields.
"""

import binascii
import re
from datetime import datetime
from typing import Any, Final, NoReturn

from attestation.encoding.strict_json import DECODER, parse_strict_untrusted
from attestation.errors import MalformedError

DOCUMENT_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 16
VALUES_MAX: Final = 65_536  # about ten times the number in Intel's largest TCB info
ARRAY_ITEMS_MAX: Final = 1024

_TIMESTAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)
_ADVISORY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
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
    outer = Members(parse_json_untrusted(body, code=code), code=code)
    outer.object(member)
    signature = outer.hex("signature", 64)
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


class Members:
    """Typed access to a JSON object's members. Every method refuses a missing or wrong one.

    Raises:
        MalformedError: ``<code>-malformed``, from every method.
    """

    __slots__ = ("_code", "_members", "_path")

    def __init__(self, value: Any, *, code: str, path: str = "") -> None:
        self._code = code
        self._path = path
        if not isinstance(value, dict):
            raise self._malformed("", "is not an object")
        self._members: dict[str, Any] = value

    def _malformed(self, name: str, text: str) -> MalformedError:
        path = f"{self._path}.{name}" if self._path and name else self._path or name
        return MalformedError(
            f"{self._code}-malformed",
            f"the {self._code}'s member {path or '(top)'} {text}",
            values={"member": path},
        )

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def _get(self, name: str) -> Any:
        try:
            return self._members[name]
        except KeyError:
            raise self._malformed(name, "is missing") from None

    def text(self, name: str, *, length_max: int = 256) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > length_max:
            raise self._malformed(name, f"is not text of at most {length_max} characters")
        return value

    def integer(self, name: str, *, maximum: int) -> int:
        value = self._get(name)
        # bool is an int in Python, and 3.0 == 3: both are other JSON types.
        if type(value) is not int or not 0 <= value <= maximum:
            raise self._malformed(name, f"is not an integer in 0..{maximum}")
        return value

    def hex(self, name: str, size: int) -> bytes:
        value = self._get(name)
        if not isinstance(value, str) or len(value) != 2 * size:
            raise self._malformed(name, f"is not {2 * size} hex digits")
        try:
            return binascii.unhexlify(value)
        except ValueError as exc:
            raise self._malformed(name, f"is not {2 * size} hex digits") from exc

    def time(self, name: str) -> datetime:
        value = self._get(name)
        if not isinstance(value, str) or _TIMESTAMP.fullmatch(value) is None:
            raise self._malformed(name, "is not a time of the form YYYY-MM-DDTHH:MM:SSZ")
        try:
            return datetime.fromisoformat(value)  # the Z makes it UTC
        except ValueError as exc:
            raise self._malformed(name, "is not a time that exists") from exc

    def array(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > ARRAY_ITEMS_MAX:
            raise self._malformed(name, f"is not an array of at most {ARRAY_ITEMS_MAX} items")
        return value

    def object(self, name: str) -> "Members":
        return Members(self._get(name), code=self._code, path=self._join(name))

    def objects(self, name: str) -> "list[Members]":
        path = self._join(name)
        return [
            Members(item, code=self._code, path=f"{path}[{index}]")
            for index, item in enumerate(self.array(name))
        ]

    def advisory_ids(self, name: str) -> tuple[str, ...]:
        """Return an optional array of advisory ids; absent means none."""
        if name not in self._members:
            return ()
        ids = self.array(name)
        if not all(isinstance(item, str) and _ADVISORY.fullmatch(item) for item in ids):
            raise self._malformed(name, "is not an array of advisory ids")
        return tuple(ids)

    def _join(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def refuse(self, name: str, text: str) -> NoReturn:
        """Refuse this member for a reason of the document's own."""
        raise self._malformed(name, text)
