"""CCEL: the event log of firmware and boot loader, TCG2 crypto-agile records.

Layout, all integers little-endian (TCG PC Client Platform Firmware Profile (PFP) 1.06, section 10.2, and
UEFI 2.11, section 38):

    first record   u32 MrIndex, u32 type = EV_NO_ACTION, 20 bytes digest, u32 size, "Spec ID Event03" NUL,
                   u32 platform class, u8 minor, u8 major, u8 errata, u8 uintn size,
                   u32 n, n x {u16 algorithm, u16 digest size}, u8 vendor size, vendor
    then records   u32 MrIndex, u32 type, u32 n, n x {u16 algorithm, digest}, u32 size, event
    end            MrIndex 0xFFFFFFFF, or an all-zero record head, or the end of the buffer

MrIndex 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
"""

import struct
from collections.abc import Iterable
from typing import Final

from attestation.errors import MalformedError
from attestation.eventlog.events import DIGEST_BYTES, EV_NO_ACTION, Event, Origin

# The areas that firmware reserves are 64 KiB to 1 MiB.
LOG_BYTES_MAX: Final = 1024 * 1024
EVENTS_MAX: Final = 4096
ALGORITHMS_MAX: Final = 8
ALGORITHM_SHA384: Final = 0x000C
_DIGEST_BYTES_OF: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}

_SPEC_ID: Final = b"Spec ID Event03\0"
_INDEX_END: Final = 0xFFFF_FFFF
_INDEX_RTMR3: Final = 4


class _Reader:
    """Bounded reads over one buffer; the only place that indexes untrusted bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self._data):
            raise MalformedError(
                "ccel-truncated",
                f"a field of {size} bytes at {self.offset} runs past the end of the event log",
            )
        taken = self._data[self.offset : end]
        self.offset = end
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def at_end(self) -> bool:
        """True at a terminator, at the end, or where nothing but padding too short for a head follows."""
        head = self._data[self.offset : self.offset + 12]
        if head[:4] == b"\xff\xff\xff\xff":
            return True
        return not head.strip(b"\0") or (len(head) < 4 and not head.strip(b"\xff"))


def parse_ccel_untrusted(data: bytes) -> tuple[Event, ...]:
    """Return the records after the first, in order, with their SHA-384 digests.

    The bytes after the terminator are padding and are not read: firmware leaves arbitrary bytes there.

    Raises:
        MalformedError: too large, truncated, not crypto-agile, without SHA-384, or with an unknown register.
    """
    if len(data) > LOG_BYTES_MAX:
        raise MalformedError("ccel-too-large", f"an event log of {len(data)} bytes, at most {LOG_BYTES_MAX}")
    reader = _Reader(data)
    sizes = _parse_spec_id_untrusted(reader)
    events: list[Event] = []
    while not reader.at_end():
        if len(events) == EVENTS_MAX:
            raise MalformedError("ccel-too-many-events", f"the event log has more than {EVENTS_MAX} events")
        events.append(_parse_event_untrusted(reader, sizes))
    return tuple(events)


def _parse_spec_id_untrusted(reader: _Reader) -> dict[int, int]:
    reader.u32()  # MrIndex: 0 by the profile, 1 in logs of real firmware; not used
    if reader.u32() != EV_NO_ACTION:
        raise MalformedError("ccel-no-spec-id", "the event log does not start with EV_NO_ACTION")
    reader.take(20)
    body = _Reader(reader.take(reader.u32()))
    if body.take(len(_SPEC_ID)) != _SPEC_ID:
        raise MalformedError("ccel-no-spec-id", "the event log is not 'Spec ID Event03'")
    body.take(8)  # platform class, minor, major, errata, uintn size
    count = body.u32()
    if not 1 <= count <= ALGORITHMS_MAX:
        raise MalformedError("ccel-algorithms", f"the event log declares {count} digest algorithms")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = body.u16(), body.u16()
        if algorithm in sizes or _DIGEST_BYTES_OF.get(algorithm) != size:
            raise MalformedError(
                "ccel-algorithms",
                f"the event log declares algorithm 0x{algorithm:04x} with {size} bytes, or twice",
            )
        sizes[algorithm] = size
    body.take(body.u8())  # vendor information
    if ALGORITHM_SHA384 not in sizes:
        raise MalformedError(
            "ccel-no-sha384", "the event log has no SHA-384 digests, so it is not of a TDX guest"
        )
    return sizes


def _parse_event_untrusted(reader: _Reader, sizes: dict[int, int]) -> Event:
    start = reader.offset
    index, event_type, count = reader.u32(), reader.u32(), reader.u32()
    if index > _INDEX_RTMR3:
        raise MalformedError("ccel-register", f"the event at {start} has MrIndex {index}; TDX has 0 to 4")
    if count > len(sizes):
        raise MalformedError("ccel-digests", f"the event at {start} has {count} digests")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16()
        if algorithm not in sizes or algorithm in digests:
            raise MalformedError(
                "ccel-digests",
                f"the event at {start} uses algorithm 0x{algorithm:04x}, undeclared or for the second time",
            )
        digests[algorithm] = reader.take(sizes[algorithm])
    if ALGORITHM_SHA384 not in digests:
        raise MalformedError("ccel-no-sha384", f"the event at {start} has no SHA-384 digest")
    return Event(
        origin=Origin.CCEL,
        register=None if index == 0 else index - 1,
        type=event_type,
        name="",
        digest=digests[ALGORITHM_SHA384],
        data=reader.take(reader.u32()),
    )


def encode_ccel(events: Iterable[Event]) -> bytes:
    """Return the log of these CCEL events, with the terminator, as a mock TD's firmware leaves it."""
    spec_id = _SPEC_ID + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, ALGORITHM_SHA384, DIGEST_BYTES, 0)
    parts = [struct.pack("<II20xI", 0, EV_NO_ACTION, len(spec_id)), spec_id]
    for event in events:
        assert event.origin is Origin.CCEL
        index = 0 if event.register is None else event.register + 1
        parts.append(struct.pack("<IIIH", index, event.type, 1, ALGORITHM_SHA384))
        parts.append(event.digest)
        parts.append(struct.pack("<I", len(event.data)))
        parts.append(event.data)
    parts.append(struct.pack("<I", _INDEX_END))
    return b"".join(parts)
