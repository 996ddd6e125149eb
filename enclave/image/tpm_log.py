"""The log of a measured boot with a TPM, read as the registers that a TD would have extended.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (crypto-agile log, little-endian;
the same records as a CCEL, but with PCR numbers), and UEFI 2.11 section 38.4.1 (PCR 1 and 7 are
RTMR[0], 2 to 6 RTMR[1], 8 to 15 RTMR[2]).

Firmware closes each of PCR 0 to 7 with a separator of its own, but each RTMR with only one. So only the
first separator of each RTMR is kept.
"""

import struct
from typing import Final

from attestation.eventlog.events import EV_NO_ACTION, Event, Origin
from enclave.image.errors import MalformedImageError

LOG_BYTES_MAX: Final = 1024 * 1024
EVENTS_MAX: Final = 4096

_EV_SEPARATOR: Final = 0x4
_SHA384: Final = 0x000C
_DIGEST_BYTES: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
_ALGORITHMS_MAX: Final = 8
_SPEC_ID: Final = b"Spec ID Event03\0"


def parse_tpm_log_untrusted(data: bytes) -> tuple[Event, ...]:
    """Return the events of ``/sys/kernel/security/tpm0/binary_bios_measurements`` as events of RTMRs.

    Raises:
        MalformedImageError: too large, truncated, not crypto-agile, or without SHA-384 digests.
    """
    if len(data) > LOG_BYTES_MAX:
        raise MalformedImageError("tpm-log-too-large", f"{len(data)} bytes, at most {LOG_BYTES_MAX}")
    try:
        events = _events(data)
    except (struct.error, IndexError) as exc:
        raise MalformedImageError("tpm-log-truncated", "the TPM log ends inside of an event") from exc
    separated: set[int | None] = set()
    kept: list[Event] = []
    for event in events:
        if event.type == _EV_SEPARATOR:
            if event.register in separated:
                continue
            separated.add(event.register)
        kept.append(event)
    return tuple(kept)


def _events(data: bytes) -> list[Event]:
    _pcr, first_type, size = struct.unpack_from("<II20xI", data)
    if first_type != EV_NO_ACTION or data[32:48] != _SPEC_ID:
        raise MalformedImageError("tpm-log-kind", "not a crypto-agile TPM log")
    _require_sha384(_take(data, 32, size))
    events: list[Event] = []
    offset = 32 + size
    while offset < len(data):
        if len(events) == EVENTS_MAX:
            raise MalformedImageError("tpm-log-too-long", f"more than {EVENTS_MAX} events")
        pcr, kind, count = struct.unpack_from("<III", data, offset)
        if pcr == 0xFFFFFFFF or (pcr, kind, count) == (0, 0, 0):
            break
        offset += 12
        digest = None
        if count > _ALGORITHMS_MAX:
            raise MalformedImageError("tpm-log-digests", f"{count} digests in one event")
        for _ in range(count):
            (algorithm,) = struct.unpack_from("<H", data, offset)
            if algorithm not in _DIGEST_BYTES:
                raise MalformedImageError("tpm-log-digests", f"unknown algorithm {algorithm:#x}")
            value = _take(data, offset + 2, _DIGEST_BYTES[algorithm])
            offset += 2 + len(value)
            digest = value if algorithm == _SHA384 else digest
        (size,) = struct.unpack_from("<I", data, offset)
        body = _take(data, offset + 4, size)
        offset += 4 + size
        if digest is None:
            raise MalformedImageError("tpm-log-no-sha384", "an event without a SHA-384 digest")
        events.append(
            Event(
                origin=Origin.CCEL,
                register=_register(pcr),
                type=kind,
                name="",
                digest=digest,
                data=body,
            )
        )
    return events


def _register(pcr: int) -> int | None:
    """Return the RTMR that replaces a PCR, or None for PCR 0 (MRTD) and PCRs that no TD has."""
    if pcr in {1, 7}:
        return 0
    if 2 <= pcr <= 6:
        return 1
    if 8 <= pcr <= 15:
        return 2
    return None


def _require_sha384(spec: bytes) -> None:
    (count,) = struct.unpack_from("<I", spec, 24)
    if not 1 <= count <= _ALGORITHMS_MAX:
        raise MalformedImageError("tpm-log-algorithms", f"{count} digest algorithms")
    found = [struct.unpack_from("<H", spec, 28 + 4 * index)[0] for index in range(count)]
    if _SHA384 not in found:
        raise MalformedImageError(
            "tpm-log-no-sha384", "the TPM log has no SHA-384 bank, so it shows no RTMRs"
        )


def _take(data: bytes, offset: int, size: int) -> bytes:
    taken = data[offset : offset + size]
    if len(taken) != size:
        raise MalformedImageError("tpm-log-truncated", "the TPM log ends inside of an event")
    return taken
