"""TDVF metadata of an OVMF image, and the resulting MRTD.

Source: Intel TDX Virtual Firmware Design Guide (344991), section 11 (metadata, little-endian), and the Intel
TDX Module Base Architecture Specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND (what goes into MRTD).
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final
from uuid import UUID

from enclave.image.errors import MalformedImageError, UnsupportedFirmwareError

FIRMWARE_BYTES_MAX: Final = 64 * 1024 * 1024
SECTIONS_MAX: Final = 64
SECTION_MEMORY_BYTES_MAX: Final = 64 * 1024 * 1024

PAGE_BYTES: Final = 4096
CHUNK_BYTES: Final = 256

_TABLE_FOOTER_GUID: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TDX_METADATA_GUID: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_FOOTER_FROM_END: Final = 0x30  # the footer's GUID starts this far before the end of the file
_ENTRY_TRAILER_BYTES: Final = 18  # u16 length and GUID, behind an entry's data
_DESCRIPTOR_BYTES: Final = 16
_SECTION_BYTES: Final = 32

_MR_EXTEND: Final = 1 << 0
_PAGE_AUG: Final = 1 << 1


class SectionType(IntEnum):
    """The type of a TDVF section's contents (TDVF Design Guide, table 11-3)."""

    BFV = 0
    """Boot firmware volume: the code."""
    CFV = 1
    """Configuration firmware volume: the variable store."""
    TD_HOB = 2
    TEMP_MEM = 3


class PageOrder(StrEnum):
    """The order in which the host adds and measures pages. It depends on the host, not on the firmware."""

    INTERLEAVED = "interleaved"
    """Each page is added, then measured: upstream KVM (Linux 6.16 and newer, QEMU 10.1 and newer)."""
    TWO_PASS = "two-pass"  # noqa: S105 (an order of measuring, no password)
    """All pages of a section are added, then all are measured: the stacks before upstream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TdvfSection:
    """One section of the metadata. Offsets and sizes in bytes, ``address`` guest-physical."""

    type: SectionType
    file_offset: int
    file_bytes: int
    address: int
    memory_bytes: int
    measured: bool
    """MR_EXTEND: its contents go into MRTD."""
    augmented: bool
    """PAGE_AUG: its pages are not added at build time, so they do not touch MRTD at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A firmware file with TDVF metadata that was checked against its size."""

    data: bytes
    sections: tuple[TdvfSection, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).digest()

    def contents(self, section: TdvfSection) -> bytes:
        """Return the file's bytes from which ``section`` is loaded."""
        return self.data[section.file_offset : section.file_offset + section.file_bytes]

    def section(self, section_type: SectionType) -> TdvfSection:
        """Return the one section of this type.

        Raises:
            UnsupportedFirmwareError: there is no such section, or more than one.
        """
        found = [section for section in self.sections if section.type is section_type]
        if len(found) != 1:
            raise UnsupportedFirmwareError(
                "tdvf-section-count",
                f"the firmware has {len(found)} sections of type {section_type.name}, 1 is needed",
            )
        return found[0]


def parse_firmware_untrusted(data: bytes) -> Firmware:
    """Parse the TDVF metadata of a firmware file that is passed to QEMU by ``-bios``.

    Raises:
        UnsupportedFirmwareError: it has no TDVF metadata, so it cannot start a TD.
        MalformedImageError: its metadata contradicts itself or the file.
    """
    if not _FOOTER_FROM_END + 16 <= len(data) <= FIRMWARE_BYTES_MAX:
        raise MalformedImageError(
            "firmware-size",
            f"a firmware of {len(data)} bytes; expected up to {FIRMWARE_BYTES_MAX}",
        )
    descriptor = len(data) - _descriptor_distance(data)
    if not 0 <= descriptor <= len(data) - _DESCRIPTOR_BYTES:
        raise MalformedImageError("tdvf-offset", "the TDVF descriptor would lie outside of the firmware")
    signature, length, version, count = (
        data[descriptor : descriptor + 4],
        _u32(data, descriptor + 4),
        _u32(data, descriptor + 8),
        _u32(data, descriptor + 12),
    )
    if signature != b"TDVF":
        raise MalformedImageError("tdvf-signature", "the TDVF descriptor does not start with TDVF")
    if version != 1:
        raise UnsupportedFirmwareError("tdvf-version", f"TDVF metadata version {version}; 1 is known")
    if not 1 <= count <= SECTIONS_MAX or length < _DESCRIPTOR_BYTES + count * _SECTION_BYTES:
        raise MalformedImageError(
            "tdvf-section-count", f"{count} TDVF sections in a descriptor of {length} bytes"
        )
    table = descriptor + _DESCRIPTOR_BYTES
    if table + count * _SECTION_BYTES > len(data):
        raise MalformedImageError("tdvf-truncated", "the TDVF sections run past the firmware's end")
    sections = tuple(_section(data, table + index * _SECTION_BYTES) for index in range(count))
    return Firmware(data=data, sections=sections)


def mrtd(firmware: Firmware, order: PageOrder) -> bytes:
    """Return the initial MRTD, 48 bytes, of a TD that is built from ``firmware`` alone."""
    running = hashlib.sha384()
    for section in firmware.sections:
        contents = firmware.contents(section).ljust(section.memory_bytes, b"\0")
        for adding, measuring in _passes(order):
            for offset in range(0, section.memory_bytes, PAGE_BYTES):
                if adding and not section.augmented:
                    running.update(_record(b"MEM.PAGE.ADD", section.address + offset))
                if measuring and section.measured:
                    for chunk in range(offset, offset + PAGE_BYTES, CHUNK_BYTES):
                        running.update(_record(b"MR.EXTEND", section.address + chunk))
                        running.update(contents[chunk : chunk + CHUNK_BYTES])
    return running.digest()


def _passes(order: PageOrder) -> tuple[tuple[bool, bool], ...]:
    """Return (adding, measuring) for each walk over a section's pages."""
    if order is PageOrder.INTERLEAVED:
        return ((True, True),)
    return ((True, False), (False, True))


def _record(name: bytes, address: int) -> bytes:
    """Return the 128 bytes that the TDX module measures for an operation."""
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(128, b"\0")


def _descriptor_distance(data: bytes) -> int:
    """Return the distance of the TDVF descriptor from the end of the file.

    OVMF's table of GUIDs is laid out backwards from its footer; each entry is ``data | u16 length |
    GUID`` and the length counts all three. The footer's own length counts the whole table.
    """
    end = len(data) - _FOOTER_FROM_END
    if data[end : end + 16] != _TABLE_FOOTER_GUID:
        raise UnsupportedFirmwareError(
            "tdvf-metadata-absent",
            "the firmware has no table of GUIDs, so no TDVF metadata: it cannot start a TD. "
            "Use the combined OVMF.fd of edk2 202411 or newer",
        )
    start = end + 16 - _u16(data, end - 2)
    cursor = end - 2
    if start < 0:
        raise MalformedImageError("tdvf-table", "the table of GUIDs is longer than the firmware")
    while cursor - _ENTRY_TRAILER_BYTES >= start:
        length = _u16(data, cursor - _ENTRY_TRAILER_BYTES)
        if not _ENTRY_TRAILER_BYTES <= length <= cursor - start:
            raise MalformedImageError(
                "tdvf-table", f"an entry of {length} bytes does not fit into the table of GUIDs"
            )
        if data[cursor - 16 : cursor] == _TDX_METADATA_GUID:
            if length != _ENTRY_TRAILER_BYTES + 4:
                raise MalformedImageError("tdvf-table", f"the TDX metadata entry has {length} bytes, not 22")
            return _u32(data, cursor - length)
        cursor -= length
    raise UnsupportedFirmwareError(
        "tdvf-metadata-absent",
        "the firmware's table of GUIDs has no TDX metadata: it cannot start a TD",
    )


def _section(data: bytes, offset: int) -> TdvfSection:
    raw_type, attributes = _u32(data, offset + 24), _u32(data, offset + 28)
    if raw_type not in tuple(SectionType):
        raise UnsupportedFirmwareError("tdvf-section-type", f"a TDVF section of the unknown type {raw_type}")
    if attributes & ~(_MR_EXTEND | _PAGE_AUG):
        raise UnsupportedFirmwareError(
            "tdvf-section-attributes", f"a TDVF section has the unknown attributes {attributes:#x}"
        )
    section = TdvfSection(
        type=SectionType(raw_type),
        file_offset=_u32(data, offset),
        file_bytes=_u32(data, offset + 4),
        address=int.from_bytes(data[offset + 8 : offset + 16], "little"),
        memory_bytes=int.from_bytes(data[offset + 16 : offset + 24], "little"),
        measured=bool(attributes & _MR_EXTEND),
        augmented=bool(attributes & _PAGE_AUG),
    )
    if section.address % PAGE_BYTES or section.memory_bytes % PAGE_BYTES:
        raise MalformedImageError("tdvf-alignment", "a TDVF section is not aligned to 4 KiB")
    if not section.file_bytes <= section.memory_bytes <= SECTION_MEMORY_BYTES_MAX:
        raise MalformedImageError(
            "tdvf-section-size",
            f"a TDVF section of {section.file_bytes} bytes in {section.memory_bytes} of memory",
        )
    if section.file_offset + section.file_bytes > len(data):
        raise MalformedImageError("tdvf-truncated", "a TDVF section runs past the firmware's end")
    return section


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
