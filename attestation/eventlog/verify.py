"""The event log as a peer sends it with evidence, and the part of it that the quote confirms.

There are two input forms. Their first bytes distinguish them, without a guess:

    CCEL bytes        as firmware leaves them: u32 MrIndex, u32 EV_NO_ACTION, ...
    CBOR map          {"ccel": bytes or null, "runtime": [runtime event, ...]}

An attester attaches the second form if it has extended RTMR3 itself. dstack's JSON is not one of our evidence
formats; ``attestation.eventlog.dstack`` imports it for a caller that wants it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.encoding.fields import StrictMap, bytes_up_to, optional
from attestation.errors import AppraisalError, MalformedError
from attestation.eventlog.ccel import LOG_BYTES_MAX as CCEL_BYTES_MAX
from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.digests import SEPARATOR_ERROR, Coverage, Vouched, vouch
from attestation.eventlog.events import (
    EV_NO_ACTION,
    Event,
    Origin,
    RegisterComparison,
    compare,
    require_explained,
)
from attestation.eventlog.runtime import EVENTS_MAX as RUNTIME_EVENTS_MAX
from attestation.eventlog.runtime import (
    runtime_log_from_value_untrusted,
    runtime_log_to_value,
)

EVENT_LOG_BYTES_MAX: Final = 2 * 1024 * 1024
_EVENT_LOG_ITEMS_MAX: Final = 8 * RUNTIME_EVENTS_MAX  # a map of three members each, and the items around it
# A log as an attester attaches it, or the events of a log that was imported from another form.
EventLogEvidence = bytes | tuple[Event, ...]
_CCEL_TYPE: Final = EV_NO_ACTION.to_bytes(4, "little")


def encode_event_log(ccel: bytes | None, runtime: Sequence[Event]) -> bytes:
    """Return the CBOR form of a CCEL log, if there is one, and our own events after it."""
    return encode({"ccel": ccel, "runtime": runtime_log_to_value(runtime)})


def parse_event_log_untrusted(data: bytes) -> tuple[Event, ...]:
    """Return the events of either form, firmware's first: that is the order of extension.

    Raises:
        MalformedError: too large, neither form, or malformed within.
    """
    if len(data) > EVENT_LOG_BYTES_MAX:
        raise MalformedError(
            "event-log-too-large", f"{len(data)} bytes of event log, at most {EVENT_LOG_BYTES_MAX}"
        )
    if data[4:8] == _CCEL_TYPE:
        return parse_ccel_untrusted(data)
    value = decode_untrusted(data, bytes_max=EVENT_LOG_BYTES_MAX, items_max=_EVENT_LOG_ITEMS_MAX)
    members = StrictMap(value, error=_invalid, names=("ccel", "runtime"))
    runtime = members.take("runtime", runtime_log_from_value_untrusted)
    ccel = members.take("ccel", _CCEL)
    return runtime if ccel is None else (*parse_ccel_untrusted(ccel), *runtime)


_CCEL: Final = optional(bytes_up_to(CCEL_BYTES_MAX))


def _invalid(path: str, text: str) -> MalformedError:
    shown = path or "an event log that is not CCEL"
    return MalformedError("event-log-invalid", f"{shown} {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvent:
    """An event of a register that the quote has confirmed.

    Attributes:
        event: the record; type and name of a CCEL event remain unproven claims of the host.
        vouched: which of its bytes are proven.
    """

    event: Event
    vouched: Vouched


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEventLog:
    """The part of an event log that a quote confirms. Only ``verify_event_log`` makes it.

    Attributes:
        comparisons: RTMR0 to RTMR3, explained or not.
        events: in order, and only of registers that are explained.
    """

    comparisons: tuple[RegisterComparison, ...]
    events: tuple[VerifiedEvent, ...]

    def runtime_payloads(self, name: str) -> tuple[bytes, ...]:
        """Return the payloads of our own events with this name, in order. Name and payload are proven."""
        return tuple(
            item.event.data
            for item in self.events
            if item.event.origin is Origin.RUNTIME and item.event.name == name
        )

    def covered(self, register: int) -> tuple[bytes, ...]:
        """Return the proven bytes of one register's events, in order, without events that have none."""
        return tuple(
            item.vouched.covered
            for item in self.events
            if item.event.register == register and item.vouched.covered is not None
        )


def verify_event_log(
    events: Collection[Event],
    rtmrs: tuple[bytes, bytes, bytes, bytes],
    *,
    relied_on: Collection[int],
) -> VerifiedEventLog:
    """Return what the quote's RTMRs confirm of the log.

    A register outside ``relied_on`` may be unexplained; its events are then left out of the result.

    Args:
        events: from ``parse_event_log_untrusted`` or an importer.
        rtmrs: RTMR0 to RTMR3 of a *verified* quote.
        relied_on: the registers, 0 to 3, that the policy relies on.

    Raises:
        AppraisalError: a register relied on is not explained; or one of its events carries data that
            its digest does not match; or its firmware reports that boot went wrong.
    """
    comparisons = compare(events, rtmrs)
    require_explained(comparisons, relied_on)
    explained = {item.register for item in comparisons if item.explained}
    verified = []
    for number, event in enumerate(events):
        if not event.extends or event.register not in explained:
            continue
        vouched = vouch(event)
        if event.register in relied_on:
            _require_honest(number, event, vouched)
        verified.append(VerifiedEvent(event=event, vouched=vouched))
    return VerifiedEventLog(comparisons=comparisons, events=tuple(verified))


def _require_honest(number: int, event: Event, vouched: Vouched) -> None:
    values = {"event": number, "type": event.type_name, "register": f"rtmr{event.register}"}
    if vouched.coverage is Coverage.MISMATCH:
        raise AppraisalError(
            "event-log-data-altered",
            f"event {number} ({event.type_name}) shows data of another digest than its own",
            values=values,
        )
    # PFP 1.06, 10.4.1: firmware that could not measure what comes next extends the error separator.
    if event.type_name == "EV_SEPARATOR" and vouched.covered == SEPARATOR_ERROR:
        raise AppraisalError(
            "event-log-error-separator",
            f"event {number}: firmware reports that a measurement failed",
            values=values,
        )


def event_to_json_value(event: Event) -> dict[str, Any]:
    """Return one event for people and scripts: hex for bytes, ``text`` where the data is printable."""
    vouched = vouch(event)
    return {
        "register": "mrtd" if event.register is None else f"rtmr{event.register}",
        "origin": str(event.origin),
        "type": event.type_name,
        "name": event.name or None,
        "digest": event.digest.hex(),
        "coverage": str(vouched.coverage),
        "rule": vouched.rule,
        "text": printable_text(event.data),
        "data": event.data.hex(),
    }


def event_log_to_json_value(
    events: Collection[Event], comparisons: Collection[RegisterComparison]
) -> dict[str, Any]:
    """Return the whole log and how it compares with a quote, as ``quote show --event-log`` prints it."""
    return {
        "registers": [
            {
                "register": f"rtmr{item.register}",
                "state": str(item.state),
                "quoted": item.quoted.hex(),
                "replayed": item.replayed.hex(),
                "events": item.event_count,
            }
            for item in comparisons
        ],
        "events": [event_to_json_value(event) for event in events],
    }


def printable_text(data: bytes) -> str | None:
    """Return the data as text if it is printable ASCII or UTF-16 (NUL-terminated or not), otherwise None.

    Control characters are refused, so a host cannot drive a terminal through its event log.
    """
    for encoding, terminator in (("ascii", b"\0"), ("utf-16-le", b"\0\0")):
        body = data.removesuffix(terminator)
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError:
            continue
        visible = text.replace("\n", "").replace("\t", "")
        if text and visible.isascii() and visible.isprintable():
            return text
    return None
