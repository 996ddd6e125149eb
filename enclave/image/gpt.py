"""GUID partition tables: reading one as firmware measures it, and writing one.

Source: UEFI specification, section 5.3. All integers are little-endian; sectors are 512 bytes.
"""

import zlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from enclave.image.errors import MalformedImageError

SECTOR_BYTES: Final = 512
ENTRIES: Final = 128
ENTRY_BYTES: Final = 128
HEADER_BYTES: Final = 92
TABLE_SECTORS: Final = ENTRIES * ENTRY_BYTES // SECTOR_BYTES
FIRST_USABLE_SECTOR: Final = 2 + TABLE_SECTORS

_ENTRIES_MAX: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition; ``first`` and ``last`` are sectors, both included."""

    type: UUID
    id: UUID
    first: int
    last: int
    name: str


def gpt_event_untrusted(disk: bytes) -> bytes:
    """Return the EV_EFI_GPT_EVENT data for a disk: header, count, and the entries in use.

    Args:
        disk: at least the first 34 sectors.

    Raises:
        MalformedImageError: there is no valid GPT.
    """
    header = disk[SECTOR_BYTES : SECTOR_BYTES + HEADER_BYTES]
    if len(header) < HEADER_BYTES or header[:8] != b"EFI PART":
        raise MalformedImageError("gpt-signature", "the disk has no GUID partition table")
    unsigned = header[:16] + bytes(4) + header[20:]
    if zlib.crc32(unsigned) != int.from_bytes(header[16:20], "little"):
        raise MalformedImageError("gpt-checksum", "the partition table's header is damaged")
    start = int.from_bytes(header[72:80], "little") * SECTOR_BYTES
    count, entry_bytes = (
        int.from_bytes(header[80:84], "little"),
        int.from_bytes(header[84:88], "little"),
    )
    if entry_bytes != ENTRY_BYTES or count > _ENTRIES_MAX:
        raise MalformedImageError("gpt-entries", f"{count} partition entries of {entry_bytes} bytes")
    table = disk[start : start + count * entry_bytes]
    if len(table) != count * entry_bytes:
        raise MalformedImageError("gpt-truncated", "the partition entries run past the disk's end")
    if zlib.crc32(table) != int.from_bytes(header[88:92], "little"):
        raise MalformedImageError("gpt-checksum", "the partition entries are damaged")
    entries = [table[at : at + entry_bytes] for at in range(0, len(table), entry_bytes)]
    used = [entry for entry in entries if any(entry[:16])]
    return header + len(used).to_bytes(8, "little") + b"".join(used)


def encode_gpt(partitions: tuple[Partition, ...], *, disk_id: UUID, sectors: int) -> tuple[bytes, bytes]:
    """Return the first 34 sectors (protective MBR, header, entries) and the last 33 (their backup)."""
    if len(partitions) > ENTRIES:
        raise MalformedImageError("gpt-entries", f"{len(partitions)} partitions, at most {ENTRIES}")
    table = b"".join(map(_entry, partitions)).ljust(ENTRIES * ENTRY_BYTES, b"\0")
    primary = _header(table, disk_id=disk_id, sectors=sectors, own=1, other=sectors - 1, entries=2)
    backup = _header(
        table,
        disk_id=disk_id,
        sectors=sectors,
        own=sectors - 1,
        other=1,
        entries=sectors - 1 - TABLE_SECTORS,
    )
    head = _protective_mbr(sectors) + primary.ljust(SECTOR_BYTES, b"\0") + table
    return head, table + backup.ljust(SECTOR_BYTES, b"\0")


def _entry(partition: Partition) -> bytes:
    name = partition.name.encode("utf-16-le")
    if len(name) > 72:
        raise MalformedImageError("gpt-name", f"the partition name {partition.name!r} is too long")
    return (
        partition.type.bytes_le
        + partition.id.bytes_le
        + partition.first.to_bytes(8, "little")
        + partition.last.to_bytes(8, "little")
        + bytes(8)
        + name.ljust(72, b"\0")
    )


def _header(table: bytes, *, disk_id: UUID, sectors: int, own: int, other: int, entries: int) -> bytes:
    def fields(checksum: int) -> bytes:
        return (
            b"EFI PART\0\0\1\0"
            + HEADER_BYTES.to_bytes(4, "little")
            + checksum.to_bytes(4, "little")
            + bytes(4)
            + own.to_bytes(8, "little")
            + other.to_bytes(8, "little")
            + FIRST_USABLE_SECTOR.to_bytes(8, "little")
            + (sectors - 2 - TABLE_SECTORS).to_bytes(8, "little")
            + disk_id.bytes_le
            + entries.to_bytes(8, "little")
            + ENTRIES.to_bytes(4, "little")
            + ENTRY_BYTES.to_bytes(4, "little")
            + zlib.crc32(table).to_bytes(4, "little")
        )

    return fields(zlib.crc32(fields(0)))


def _protective_mbr(sectors: int) -> bytes:
    size = min(sectors - 1, 0xFFFFFFFF)
    entry = b"\0\0\2\0\xee\xff\xff\xff" + (1).to_bytes(4, "little") + size.to_bytes(4, "little")
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
