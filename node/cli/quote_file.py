"""Reads quotes from files: raw bytes, hex or base64. An error names what other file it may be."""

import base64
import binascii
import json
from pathlib import Path
from typing import Final

from attestation.quote.codec import QUOTE_BYTES_MAX
from node.client.inputs import read_file
from node.errors import ConfigError

VERSIONS: Final = frozenset({3, 4, 5})
_TEXT_BYTES_MAX: Final = 3 * QUOTE_BYTES_MAX
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
# TDREPORT_STRUCT (Intel TDX module ABI): REPORTTYPE.TYPE is 0x81 for a TD, and it has 1024 bytes.
_TD_REPORT_TYPE: Final = 0x81
_TD_REPORT_BYTES: Final = 1024
# Azure's attestation report of its paravisor (HCL): "HCLA".
_HCL_MAGIC: Final = b"HCLA"


def read_quote(path: Path) -> bytes:
    """Return a quote's bytes.

    Raises:
        ConfigError: the file cannot be read, or holds something else; the message names what it looks like.
    """
    data = read_file(path, what="quote", bytes_max=_TEXT_BYTES_MAX)
    if _is_quote(data):
        return data
    what = _named(data)
    if what is not None:
        raise ConfigError(f"{path} is {what}")
    text = b"".join(data.split())
    decoded = _of_hex(text) or _of_base64(text)
    if decoded is not None:
        if _is_quote(decoded):
            return decoded
        raise ConfigError(f"{path} is the text form of {_named(decoded) or 'no quote'}")
    return data  # the parser reports any error


def _is_quote(data: bytes) -> bool:
    return int.from_bytes(data[:2], "little") in VERSIONS and len(data) >= 48


def _of_hex(text: bytes) -> bytes | None:
    text = text.removeprefix(b"0x")
    if len(text) < 2 or len(text) % 2 or not _HEX.issuperset(text):
        return None
    return binascii.unhexlify(text)


def _of_base64(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(
            text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4), validate=True
        )
    except (binascii.Error, ValueError):
        return None


def _named(data: bytes) -> str | None:
    """Return the name of a kind of file that a user may confuse with a quote; None if it is unknown."""
    if data.startswith(_HCL_MAGIC):
        return (
            "an Azure HCL attestation report, which holds a TD report; to get a quote of it, ask "
            "the instance metadata service (IMDS)"
        )
    if len(data) == _TD_REPORT_BYTES and data[0] == _TD_REPORT_TYPE:
        return (
            "a TD report (TDREPORT), which only its own machine can check; that machine's "
            "quoting enclave makes a quote of it: `bondstone quote get`"
        )
    if data.lstrip()[:1] in {b"{", b"["}:
        return _json_named(data)
    if data.startswith(b"-----BEGIN"):
        return "PEM: a certificate or key, not a quote"
    return None


def _json_named(data: bytes) -> str | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    members = [
        str(name)
        for name, item in (value.items() if isinstance(value, dict) else ())
        if isinstance(item, str) and "quote" in str(name).lower()
    ]
    if members:
        return (
            f"JSON; its member {members[0]!r} may be the quote: save that alone (hex and base64 are accepted)"
        )
    return "JSON, but not a quote"
