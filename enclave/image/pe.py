"""Portable executables: the digest by which UEFI measures them, and their sections.

Source: Microsoft PE/COFF and Authenticode specifications, as edk2's ``MeasurePeImageAndExtend``
reads them. All integers are little-endian. The kernel, a UKI and the ``.linux`` section of a UKI
are such files.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from enclave.image.errors import MalformedImageError

EXECUTABLE_BYTES_MAX: Final = 1024 * 1024 * 1024
PADDING_BYTES_MAX: Final = 64 * 1024
SECTIONS_MAX: Final = 96  # the PE specification's own limit for loaders

_PE32_MAGIC: Final = 0x10B
_PE32_PLUS_MAGIC: Final = 0x20B
_CERTIFICATE_DIRECTORY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PeSection:
    """A section header. Sizes and offsets in bytes; ``address`` relative to the image's base."""

    name: str
    address: int
    memory_bytes: int
    """VirtualSize: the bytes that count, without the padding in the file."""
    file_offset: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """A PE file with headers that were checked against its size."""

    data: bytes
    sections: tuple[PeSection, ...]
    checksum_offset: int
    certificate_entry_offset: int
    headers_bytes: int
    certificate_bytes: int

    def contents(self, name: str) -> bytes | None:
        """Return the ``memory_bytes`` of the section called ``name``, or None if it is missing.

        Raises:
            MalformedImageError: two sections have this name.
        """
        found = [section for section in self.sections if section.name == name]
        if not found:
            return None
        if len(found) > 1:
            raise MalformedImageError("pe-section-duplicate", f"two sections are called {name}")
        section = found[0]
        if section.memory_bytes > section.file_bytes + PADDING_BYTES_MAX:
            raise MalformedImageError("pe-section-size", f"section {name} is mostly not in the file")
        stored = self.data[section.file_offset : section.file_offset + section.file_bytes]
        return stored[: section.memory_bytes].ljust(section.memory_bytes, b"\0")


def parse_executable_untrusted(data: bytes) -> Executable:
    """Parse the headers of a PE32 or PE32+ file.

    Raises:
        MalformedImageError: it is not a PE file, or its headers point outside it.
    """
    if not 0x40 <= len(data) <= EXECUTABLE_BYTES_MAX or data[:2] != b"MZ":
        raise MalformedImageError("pe-signature", "not a PE file: it does not start with MZ")
    header = _u32(data, 0x3C)
    if header + 24 > len(data) or data[header : header + 4] != b"PE\0\0":
        raise MalformedImageError("pe-signature", "not a PE file: no PE signature")
    section_count, optional_bytes = _u16(data, header + 6), _u16(data, header + 20)
    optional = header + 24
    table = optional + optional_bytes
    if section_count > SECTIONS_MAX or table + section_count * 40 > len(data):
        raise MalformedImageError("pe-sections", f"{section_count} PE sections do not fit")
    directories = optional + _directories_offset(data, optional, optional_bytes)
    certificate_entry = directories + _CERTIFICATE_DIRECTORY * 8
    has_certificate_entry = certificate_entry + 8 <= table and (
        _u32(data, directories - 4) > _CERTIFICATE_DIRECTORY
    )
    if not has_certificate_entry:
        raise MalformedImageError("pe-directories", "a PE file without a certificate directory")
    sections = tuple(_section(data, table + index * 40) for index in range(section_count))
    executable = Executable(
        data=data,
        sections=sections,
        checksum_offset=optional + 64,
        certificate_entry_offset=certificate_entry,
        headers_bytes=_u32(data, optional + 60),
        certificate_bytes=_u32(data, certificate_entry + 4),
    )
    if not table + section_count * 40 <= executable.headers_bytes <= len(data):
        raise MalformedImageError(
            "pe-headers", f"SizeOfHeaders is {executable.headers_bytes}, which is impossible"
        )
    return executable


def authenticode_sha384(executable: Executable) -> bytes:
    """Return the digest by which firmware measures this executable into RTMR[1].

    The checksum, the certificate directory's entry and the certificates are left out, so signing
    does not change it. No padding to 8 bytes is added: edk2 adds none.

    Raises:
        MalformedImageError: the sections and certificates do not fit into the file.
    """
    data = executable.data
    digest = hashlib.sha384(data[: executable.checksum_offset])
    digest.update(data[executable.checksum_offset + 4 : executable.certificate_entry_offset])
    digest.update(data[executable.certificate_entry_offset + 8 : executable.headers_bytes])
    hashed = executable.headers_bytes
    for section in sorted(executable.sections, key=lambda section: section.file_offset):
        if section.file_bytes:
            digest.update(data[section.file_offset : section.file_offset + section.file_bytes])
            hashed += section.file_bytes
    trailing_end = len(data) - executable.certificate_bytes
    if trailing_end < hashed:
        raise MalformedImageError("pe-overlap", "the PE sections and certificates are larger than the file")
    digest.update(data[hashed:trailing_end])
    return digest.digest()


def _directories_offset(data: bytes, optional: int, optional_bytes: int) -> int:
    """Return where the data directories start inside the optional header."""
    if optional_bytes < 96:
        raise MalformedImageError("pe-optional-header", "the optional PE header is too short")
    match _u16(data, optional):
        case magic if magic == _PE32_MAGIC:
            return 96
        case magic if magic == _PE32_PLUS_MAGIC:
            return 112
        case magic:
            raise MalformedImageError("pe-magic", f"an optional PE header of type {magic:#x}")


def _section(data: bytes, offset: int) -> PeSection:
    name = data[offset : offset + 8].rstrip(b"\0")
    section = PeSection(
        name=name.decode("latin-1"),
        memory_bytes=_u32(data, offset + 8),
        address=_u32(data, offset + 12),
        file_bytes=_u32(data, offset + 16),
        file_offset=_u32(data, offset + 20),
    )
    if section.file_offset + section.file_bytes > len(data):
        raise MalformedImageError("pe-truncated", f"section {section.name} runs past the file's end")
    return section


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
