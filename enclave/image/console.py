"""The boot logs that a guest prints on its serial console, put together again."""

import base64
import binascii
import json
from typing import Final

from enclave.image.errors import MalformedImageError

CONSOLE_BYTES_MAX: Final = 64 * 1024 * 1024
BOOT_LOG_BYTES_MAX: Final = 1024 * 1024


def boot_log_untrusted(console: bytes, kind: str) -> bytes:
    """Return the log of this kind (``ccel`` or ``tpm``) out of a console's output.

    Raises:
        MalformedImageError: there is none, or a piece of it is missing.
    """
    if len(console) > CONSOLE_BYTES_MAX:
        raise MalformedImageError("console-too-large", f"{len(console)} bytes of console output")
    log = b""
    size: object = None
    for line in console.splitlines():
        start = line.find(b"{")
        if start < 0 or b'"boot-log"' not in line:
            continue
        try:
            record = json.loads(line[start:])
            if record["event"] != "boot-log" or record["kind"] != kind:
                continue
            piece = base64.b64decode(record["data"], validate=True)
            offset, size = record["offset"], record["size"]
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as exc:
            raise MalformedImageError("console-line", "a damaged line of the boot log") from exc
        if offset == 0:
            log = b""  # the guest was started again
        if offset != len(log) or len(log) + len(piece) > BOOT_LOG_BYTES_MAX:
            raise MalformedImageError("console-gap", "a piece of the boot log is missing")
        log += piece
    if not log or len(log) != size:
        raise MalformedImageError(
            "console-no-log",
            f"the console shows no whole {kind} log; a guest prints one if its firmware measured",
        )
    return log
