"""This project's own log of RTMR3: the events that the running system extended after boot.

CCEL ends where the kernel starts, so the program that extends RTMR3 keeps the record. One event is
``{"name": text, "payload": bytes, "digest": 48 bytes}`` with

    digest = SHA-384 over deterministic CBOR (RFC 8949 4.2.1) of ["bondstone/runtime-event/v1", name, payload]

so the digest binds name and payload, and no bytes can move from one to the other. A record with another
digest is malformed. Here, unlike in CCEL, a verified replay always proves the whole event.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from attestation.encoding.canonical import encode
from attestation.encoding.fields import FieldError, StrictMap, array, bytes_of, bytes_up_to, text
from attestation.errors import MalformedError
from attestation.eventlog.events import DIGEST_BYTES, Event, Origin

DOMAIN: Final = "bondstone/runtime-event/v1"
RUNTIME_REGISTER: Final = 3
EVENTS_MAX: Final = 1024
NAME_BYTES_MAX: Final = 128
PAYLOAD_BYTES_MAX: Final = 16 * 1024
_EVENTS: Final = array(EVENTS_MAX)
_NAME: Final = text(NAME_BYTES_MAX)
_PAYLOAD: Final = bytes_up_to(PAYLOAD_BYTES_MAX)
_DIGEST: Final = bytes_of(DIGEST_BYTES)


def runtime_digest(name: str, payload: bytes) -> bytes:
    """Return the 48 bytes to extend into RTMR3 for this event."""
    return hashlib.sha384(encode([DOMAIN, name, payload])).digest()


def runtime_event(name: str, payload: bytes) -> Event:
    """Return the record of an event of our own.

    Raises:
        ValueError: the name or payload is outside the limits that every reader applies.
    """
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX or len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"a runtime event has a name of 1 to {NAME_BYTES_MAX} bytes and a payload of "
            f"at most {PAYLOAD_BYTES_MAX}"
        )
    if not name.isprintable():
        raise ValueError("a runtime event has a printable name, so that it can be shown anywhere")
    return Event(
        origin=Origin.RUNTIME,
        register=RUNTIME_REGISTER,
        type=0,
        name=name,
        digest=runtime_digest(name, payload),
        data=payload,
    )


def runtime_log_to_value(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the CBOR-able record list."""
    assert all(event.origin is Origin.RUNTIME for event in events)
    return [{"name": event.name, "payload": event.data, "digest": event.digest} for event in events]


def runtime_log_from_value_untrusted(value: Any) -> tuple[Event, ...]:
    """Return the events of a decoded record list.

    Raises:
        MalformedError: another structure, beyond a limit, or a digest that is not the event's.
    """
    try:
        items = _EVENTS(value)
    except FieldError as exc:
        raise _invalid("", f"must be {exc.wanted}") from exc
    return tuple(_event_untrusted(number, item) for number, item in enumerate(items))


def _invalid(path: str, text: str) -> MalformedError:
    return MalformedError("runtime-log-invalid", f"{path or 'a runtime log'} {text}")


def _event_untrusted(number: int, item: Any) -> Event:
    members = StrictMap(item, error=_invalid, path=f"event {number}", names=("name", "payload", "digest"))
    digest = members.take("digest", _DIGEST)
    try:
        event = runtime_event(members.take("name", _NAME), members.take("payload", _PAYLOAD))
    except ValueError as exc:
        raise MalformedError("runtime-log-invalid", f"event {number} is out of bounds") from exc
    if event.digest != digest:
        raise MalformedError(
            "runtime-log-digest",
            f"the digest of event {number} is not the digest of its name and payload",
            values={"expected": event.digest.hex(), "found": digest.hex()},
        )
    return event
