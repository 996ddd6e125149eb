"""Reassembles the boot logs that a guest prints on its serial console."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, Final

from enclave.image.errors import MalformedImageError

CONSOLE_BYTES_MAX: Final = 64 * 1024 * 1024
BOOT_LOG_BYTES_MAX: Final = 1024 * 1024
_MEMBERS: Final = {"kind": str, "offset": int, "size": int, "data": str}


def boot_log_kinds_untrusted(console: bytes) -> frozenset[str]:
    """Return the kinds of logs with at least one piece on a console.

    Raises:
        MalformedImageError: a damaged piece.
    """
    return frozenset(record["kind"] for record in _records(console))


def boot_log_untrusted(console: bytes, kind: str) -> bytes:
    """Return the log of this kind (``ccel`` or ``tpm``) out of a console's output.

    Raises:
        MalformedImageError: the log, or a piece of it, is missing.
    """
    log = b""
    size: object = None
    for record in _records(console):
        if record["kind"] != kind:
            continue
        try:
            piece = base64.b64decode(record["data"], validate=True)
        except (ValueError, binascii.Error) as exc:
            raise MalformedImageError("console-line", "a damaged line of the boot log") from exc
        offset, size = record["offset"], record["size"]
        if offset == 0:
            log = b""  # the guest restarted
        if offset != len(log) or len(log) + len(piece) > BOOT_LOG_BYTES_MAX:
            raise MalformedImageError("console-gap", "a piece of the boot log is missing")
        log += piece
    if not log or len(log) != size:
        raise MalformedImageError(
            "console-no-log",
            f"the console shows no whole {kind} log; a guest prints one if its firmware measured",
        )
    return log


def _records(console: bytes) -> Iterator[dict[str, Any]]:
    """Yield PID 1's lines with pieces of logs, with the types of their members checked."""
    if len(console) > CONSOLE_BYTES_MAX:
        raise MalformedImageError("console-too-large", f"{len(console)} bytes of console output")
    for line in console.splitlines():
        start = line.find(b"{")
        if start < 0 or b'"boot-log"' not in line:
            continue
        try:
            record = json.loads(line[start:])
        except (ValueError, RecursionError) as exc:
            raise MalformedImageError("console-line", "a damaged line of the boot log") from exc
        if not isinstance(record, dict) or record.get("event") != "boot-log":
            continue
        if any(not isinstance(record.get(name), kind) for name, kind in _MEMBERS.items()):
            raise MalformedImageError("console-line", "a damaged line of the boot log")
        yield record
