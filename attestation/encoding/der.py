"""A strict DER reader for the one structure that no library parses: Intel's SGX extension.

Not recursive, definite lengths only, minimal lengths only (X.690 section 10.1).
"""

from typing import Final

from attestation.errors import MalformedError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

Members = dict[bytes, tuple[int, bytes]]
"""By the content of each member's OID: tag and content of its value."""


def _malformed(text: str) -> MalformedError:
    return MalformedError("der-malformed", text)


def read_untrusted(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """Return tag, content and the end offset of the element at ``offset``.

    Raises:
        MalformedError: not DER, or it reaches beyond ``data``.
    """
    if offset + 2 > len(data):
        raise _malformed("a DER element is cut short")
    tag, length = data[offset], data[offset + 1]
    start = offset + 2
    if tag & 0x1F == 0x1F:
        raise _malformed("a DER tag has several bytes")
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3 or start + count > len(data):
            raise _malformed("a DER length is indefinite, too long or cut short")
        length = int.from_bytes(data[start : start + count], "big")
        if length < 0x80 or length >> 8 * (count - 1) == 0:
            raise _malformed("a DER length is not minimal")
        start += count
    end = start + length
    if end > len(data):
        raise _malformed("a DER element reaches beyond its container")
    return tag, data[start:end], end


def elements_untrusted(data: bytes, count_max: int | None = None) -> list[tuple[int, bytes]]:
    """Return tag and content of the elements that fill ``data`` exactly, or of its first ``count_max``.

    Raises:
        MalformedError: not DER, up to there.
    """
    found: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data) and len(found) != count_max:
        tag, content, offset = read_untrusted(data, offset)
        found.append((tag, content))
    return found


def members_untrusted(sequence: bytes) -> Members:
    """Return the members of a SEQUENCE OF SEQUENCE{OID, value}, from its content.

    Raises:
        MalformedError: not DER, another form, or an OID occurs twice.
    """
    out: Members = {}
    for tag, content in elements_untrusted(sequence):
        if tag != SEQUENCE:
            raise _malformed("a member is not a SEQUENCE")
        oid_tag, oid, end = read_untrusted(content, 0)
        value_tag, value, value_end = read_untrusted(content, end)
        if oid_tag != OBJECT_IDENTIFIER or value_end != len(content):
            raise _malformed("a member is not an id and one value")
        if oid in out:
            raise _malformed("a member occurs twice")
        out[oid] = (value_tag, value)
    return out


def only_untrusted(data: bytes, tag: int) -> bytes:
    """Return the content of the single element that fills ``data`` and has this tag.

    Raises:
        MalformedError: another tag, several elements, or not DER.
    """
    found, content, end = read_untrusted(data, 0)
    if found != tag or end != len(data):
        raise _malformed(f"expected exactly one DER element, of tag {tag:#04x}")
    return content


def octets_untrusted(content: bytes) -> bytes:
    """Return the octets of a BIT STRING that holds whole ones, from its content.

    Raises:
        MalformedError: it ends inside an octet, or lacks the count of its unused bits (X.690 8.6.2).
    """
    if content[:1] != b"\0":
        raise _malformed("a DER bit string of octets has unused bits")
    return content[1:]


def unsigned_untrusted(content: bytes, maximum: int) -> int:
    """Return a non-negative INTEGER or ENUMERATED from its content.

    Raises:
        MalformedError: empty, not minimal, negative, or above ``maximum``.
    """
    if not content or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise _malformed("a DER integer is empty or not minimal")
    # The length is compared before the conversion, so that a huge integer costs nothing.
    if len(content) > 9:
        raise _malformed("a DER integer is too large")
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value <= maximum:
        raise _malformed(f"a DER integer is outside 0..{maximum}")
    return value
