"""Event logs: records of what was extended into the RTMRs, replayed and compared with a quote.

A log is an unproven claim of the host until its replay yields the quote's own registers. Even then only the
*digests* and their order are proven: not the event types, not the names, and of the event data only the bytes
that the digest was computed over (``attestation.eventlog.digests``). So ``verify_event_log`` is the only way
to a ``VerifiedEventLog``, which contains nothing else.

Registers are RTMR0 to RTMR3 everywhere here. CCEL counts from 1 (0 is MRTD); only its parser uses that count.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attestation.errors import AppraisalError

DIGEST_BYTES: Final = 48
REGISTER_COUNT: Final = 4
REGISTER_ZERO: Final = bytes(DIGEST_BYTES)

# TCG PC Client Platform Firmware Profile 1.06, section 10.4.1: never extended.
EV_NO_ACTION: Final = 0x0000_0003

TYPE_NAMES: Final = {
    0x0000_0000: "EV_PREBOOT_CERT",
    0x0000_0001: "EV_POST_CODE",
    EV_NO_ACTION: "EV_NO_ACTION",
    0x0000_0004: "EV_SEPARATOR",
    0x0000_0005: "EV_ACTION",
    0x0000_0006: "EV_EVENT_TAG",
    0x0000_0007: "EV_S_CRTM_CONTENTS",
    0x0000_0008: "EV_S_CRTM_VERSION",
    0x0000_0009: "EV_CPU_MICROCODE",
    0x0000_000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000_000B: "EV_TABLE_OF_DEVICES",
    0x0000_000C: "EV_COMPACT_HASH",
    0x0000_000D: "EV_IPL",
    0x0000_000E: "EV_IPL_PARTITION_DATA",
    0x0000_000F: "EV_NONHOST_CODE",
    0x0000_0010: "EV_NONHOST_CONFIG",
    0x0000_0011: "EV_NONHOST_INFO",
    0x0000_0012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x0000_0013: "EV_POST_CODE2",
    0x8000_0001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x8000_0002: "EV_EFI_VARIABLE_BOOT",
    0x8000_0003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x8000_0004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x8000_0005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x8000_0006: "EV_EFI_GPT_EVENT",
    0x8000_0007: "EV_EFI_ACTION",
    0x8000_0008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x8000_0009: "EV_EFI_HANDOFF_TABLES",
    0x8000_000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000_000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000_000C: "EV_EFI_VARIABLE_BOOT2",
    0x8000_000D: "EV_EFI_GPT_EVENT2",
    0x8000_0010: "EV_EFI_HCRTM_EVENT",
    0x8000_00E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x8000_00E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x8000_00E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}


class Origin(StrEnum):
    """The kind of log that the record is from; it decides how the digest was made."""

    CCEL = "ccel"  # firmware and boot loader, TCG2 crypto-agile
    RUNTIME = "runtime"  # this project's own log of RTMR3 (attestation.eventlog.runtime)
    DSTACK = "dstack"  # dstack's RTMR3 events, imported (attestation.eventlog.dstack)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record of a log. A verified replay proves its ``digest`` and nothing else in it.

    Attributes:
        origin: the kind of log that the record is from.
        register: 0 to 3 for RTMR0 to RTMR3; None for MRTD, which no software extends.
        type: TCG event type; 0 for runtime events.
        name: label of a runtime event; empty for CCEL.
        digest: SHA-384, 48 bytes: what was extended.
        data: the event's data, as logged.
    """

    origin: Origin
    register: int | None
    type: int
    name: str
    digest: bytes
    data: bytes

    @property
    def extends(self) -> bool:
        """True if this record changed its register."""
        return self.register is not None and self.type != EV_NO_ACTION

    @property
    def type_name(self) -> str:
        """The TCG name, or the origin's, or the number in hexadecimal."""
        if self.origin is Origin.RUNTIME:
            return "runtime"
        if self.origin is Origin.DSTACK and self.type not in TYPE_NAMES:
            return "dstack"
        return TYPE_NAMES.get(self.type, f"0x{self.type:08x}")


def extend(register: bytes, digest: bytes) -> bytes:
    """Return the register after TDG.MR.RTMR.EXTEND: SHA-384 over old value and digest, 48 bytes each."""
    return hashlib.sha384(register + digest).digest()


def replay(events: Collection[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what RTMR0 to RTMR3 hold after these events, starting from zero."""
    registers = [REGISTER_ZERO] * REGISTER_COUNT
    for event in events:
        if event.extends:
            assert event.register is not None
            registers[event.register] = extend(registers[event.register], event.digest)
    return registers[0], registers[1], registers[2], registers[3]


class RegisterState(StrEnum):
    """How a log compares with one register of the quote."""

    REPLAYED = "replayed"  # the events yield the quote's value
    EMPTY = "empty"  # no events, and the quote's value is zero
    UNEXPLAINED = "unexplained"  # no events, yet the quote's value is not zero
    CONTRADICTED = "contradicted"  # the events yield another value


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterComparison:
    """One register: its value in the quote, and its value from the log.

    Attributes:
        register: 0 to 3.
        state: how the two compare.
        quoted: 48 bytes from the quote.
        replayed: 48 bytes from the log.
        event_count: events that extended it, by the log.
    """

    register: int
    state: RegisterState
    quoted: bytes
    replayed: bytes
    event_count: int

    @property
    def explained(self) -> bool:
        """True if everything in this register is accounted for."""
        return self.state in (RegisterState.REPLAYED, RegisterState.EMPTY)


def compare(
    events: Collection[Event], rtmrs: tuple[bytes, bytes, bytes, bytes]
) -> tuple[RegisterComparison, ...]:
    """Return how the log compares with each of the quote's RTMR0 to RTMR3. Decides nothing."""
    counts = [0] * REGISTER_COUNT
    for event in events:
        if event.extends:
            assert event.register is not None
            counts[event.register] += 1
    result = []
    for register, (quoted, replayed) in enumerate(zip(rtmrs, replay(events), strict=True)):
        if counts[register]:
            same = quoted == replayed
            state = RegisterState.REPLAYED if same else RegisterState.CONTRADICTED
        else:
            empty = quoted == REGISTER_ZERO
            state = RegisterState.EMPTY if empty else RegisterState.UNEXPLAINED
        result.append(
            RegisterComparison(
                register=register,
                state=state,
                quoted=quoted,
                replayed=replayed,
                event_count=counts[register],
            )
        )
    return tuple(result)


def require_explained(comparisons: Collection[RegisterComparison], relied_on: Collection[int]) -> None:
    """Return only if each register in ``relied_on`` is accounted for by the log.

    Raises:
        AppraisalError: ``event-log-contradicts-quote`` or ``event-log-register-unexplained``.
        ValueError: a register outside 0 to 3: our own bug.
    """
    unknown = set(relied_on) - set(range(REGISTER_COUNT))
    if unknown:
        raise ValueError(f"no such RTMR: {sorted(unknown)}")
    for comparison in comparisons:
        if comparison.register not in relied_on or comparison.explained:
            continue
        values = {
            "register": f"rtmr{comparison.register}",
            "expected": comparison.quoted.hex(),
            "found": comparison.replayed.hex(),
            "events": comparison.event_count,
        }
        if comparison.state is RegisterState.CONTRADICTED:
            raise AppraisalError(
                "event-log-contradicts-quote",
                f"the event log does not replay to the quote's RTMR{comparison.register}",
                values=values,
            )
        raise AppraisalError(
            "event-log-register-unexplained",
            f"RTMR{comparison.register} is not zero, but the event log has no event for it",
            values=values,
        )
