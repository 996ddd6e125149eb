"""Importer of dstack's JSON event log. The caller must choose it: no other code detects this form.

A list of ``{"imr", "event_type", "digest", "event", "event_payload"}``. Its ``imr`` 0 to 3 is RTMR0 to RTMR3,
one less than CCEL's MrIndex, where 0 is MRTD; a log read with the other count replays to nothing. Firmware
events have their data in ``event_payload`` and no ``event``; RTMR3 events have a name and type 0x08000001.
Some producers leave ``digest`` empty for those, and then it is recomputed by the V1 rule.
"""

import binascii
from typing import Any, Final

from attestation.encoding.fields import FieldError, StrictMap, array, integer, text
from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError
from attestation.eventlog.digests import DSTACK_EVENT_TYPE, dstack_digest_v1
from attestation.eventlog.events import DIGEST_BYTES, REGISTER_COUNT, Event, Origin

LOG_BYTES_MAX: Final = 2 * 1024 * 1024
EVENTS_MAX: Final = 4096
_DEPTH_MAX: Final = 4
_VALUES_MAX: Final = 8 * EVENTS_MAX  # a map of five members each
_EVENTS: Final = array(EVENTS_MAX)
_REGISTER: Final = integer(0, REGISTER_COUNT - 1)
_TYPE: Final = integer(0, 2**32 - 1)
_TEXT: Final = text(LOG_BYTES_MAX)
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
        value = parse_strict_untrusted(data, depth_max=_DEPTH_MAX, values_max=_VALUES_MAX)
    except MalformedError as exc:
        raise MalformedError("dstack-log-invalid", f"the event log is not JSON: {exc.message}") from exc
    try:
        items = _EVENTS(value)
    except FieldError as exc:
        raise _invalid("", f"must be {exc.wanted}") from exc
    return tuple(_event_untrusted(number, item) for number, item in enumerate(items))


def _event_untrusted(number: int, item: Any) -> Event:
    members = StrictMap(item, error=_invalid, path=f"event {number}", names=_FIELDS)
    event_type, name = members.take("event_type", _TYPE), members.take("event", _name)
    payload, digest = members.take("event_payload", _hex), members.take("digest", _hex)
    if not digest and event_type == DSTACK_EVENT_TYPE:
        digest = dstack_digest_v1(name, payload)
    if len(digest) != DIGEST_BYTES:
        raise MalformedError("dstack-log-invalid", f"event {number} has no SHA-384 digest")
    return Event(
        origin=Origin.DSTACK,
        register=members.take("imr", _REGISTER),
        type=event_type,
        name=name,
        digest=digest,
        data=payload,
    )


def _invalid(path: str, text: str) -> MalformedError:
    return MalformedError("dstack-log-invalid", f"{path or 'the event log'} {text}")


def _name(value: Any) -> str:
    if not _TEXT(value).isprintable():
        raise FieldError("printable text")
    return _TEXT(value)


def _hex(value: Any) -> bytes:
    try:
        return binascii.unhexlify(_TEXT(value))
    except ValueError as exc:
        raise FieldError("text of hex digits") from exc
