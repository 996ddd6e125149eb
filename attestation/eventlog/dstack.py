"""Importer of dstack's JSON event log. The caller must choose it: no other code detects this form.

A list of ``{"imr", "event_type", "digest", "event", "event_payload"}``. Its ``imr`` 0 to 3 is RTMR0 to RTMR3,
one less than CCEL's MrIndex, where 0 is MRTD; a log read with the other count replays to nothing. Firmware
events have their data in ``event_payload`` and no ``event``; RTMR3 events have a name and type 0x08000001.
Some producers leave ``digest`` empty for those, and then it is recomputed by the V1 rule.
"""

import json
from typing import Any, Final

from attestation.errors import MalformedError
from attestation.eventlog.digests import DSTACK_EVENT_TYPE, dstack_digest_v1
from attestation.eventlog.events import DIGEST_BYTES, REGISTER_COUNT, Event, Origin

LOG_BYTES_MAX: Final = 2 * 1024 * 1024
EVENTS_MAX: Final = 4096
_FIELDS: Final = frozenset({"imr", "event_type", "digest", "event", "event_payload"})


def import_dstack_log_untrusted(data: bytes) -> tuple[Event, ...]:
    """Return the events of a dstack JSON log.

    Raises:
        MalformedError: not JSON, too large, another shape, or a value outside its bounds.
    """
    if len(data) > LOG_BYTES_MAX:
        raise MalformedError(
            "dstack-log-too-large", f"{len(data)} bytes of event log, at most {LOG_BYTES_MAX}"
        )
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise MalformedError("dstack-log-invalid", "the event log is not JSON") from exc
    if not isinstance(value, list) or len(value) > EVENTS_MAX:
        raise MalformedError(
            "dstack-log-invalid", f"the event log is not a list of at most {EVENTS_MAX} events"
        )
    return tuple(_event_untrusted(number, item) for number, item in enumerate(value))


def _event_untrusted(number: int, item: Any) -> Event:
    if not isinstance(item, dict) or set(item) != _FIELDS:
        raise MalformedError("dstack-log-invalid", f"event {number} does not have just {sorted(_FIELDS)}")
    register, event_type, name = item["imr"], item["event_type"], item["event"]
    # JSON's true is not a register, but bool is an int in Python.
    if type(register) is not int or not 0 <= register < REGISTER_COUNT:
        raise MalformedError("dstack-log-invalid", f"event {number} has no imr from 0 to 3")
    if type(event_type) is not int or not 0 <= event_type < 2**32:
        raise MalformedError("dstack-log-invalid", f"event {number} has no 32-bit event_type")
    if not isinstance(name, str) or not name.isprintable():
        raise MalformedError("dstack-log-invalid", f"event {number} has no printable name")
    payload = _hex_untrusted(number, item["event_payload"])
    digest = _hex_untrusted(number, item["digest"])
    if not digest and event_type == DSTACK_EVENT_TYPE:
        digest = dstack_digest_v1(name, payload)
    if len(digest) != DIGEST_BYTES:
        raise MalformedError("dstack-log-invalid", f"event {number} has no SHA-384 digest")
    return Event(
        origin=Origin.DSTACK,
        register=register,
        type=event_type,
        name=name,
        digest=digest,
        data=payload,
    )


def _hex_untrusted(number: int, text: Any) -> bytes:
    if not isinstance(text, str) or len(text) % 2 or not text.isascii():
        raise MalformedError("dstack-log-invalid", f"event {number} has a value that is not hex")
    try:
        value = bytes.fromhex(text)
    except ValueError as exc:
        raise MalformedError("dstack-log-invalid", f"event {number} has a value that is not hex") from exc
    if len(value) * 2 != len(text):
        raise MalformedError("dstack-log-invalid", f"event {number} has blanks in its hex")
    return value
