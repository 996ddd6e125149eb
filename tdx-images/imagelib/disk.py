"""A bootable GPT disk: one FAT16 system partition with ``\\EFI\\BOOT\\BOOTX64.EFI``, and nothing else.

Source: Microsoft FAT specification 1.03; UEFI 2.11, 5.3 (GPT) and 13.3 (FAT16 is allowed for system
partitions). Every identifier is fixed, every time is zero, so the same UKI gives the same disk.
"""

import struct
from uuid import UUID

from enclave.image.gpt import SECTOR_BYTES, TABLE_SECTORS, Partition, encode_gpt
from imagelib.errors import BuildError

_ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_DISK_ID = UUID("b04d5704-e000-4000-8000-000000000001")
_PARTITION_ID = UUID("b04d5704-e000-4000-8000-000000000002")
_SERIAL = 0xB04D5704

_ALIGN_SECTORS = 2048  # 1 MiB, as clouds want it
_CLUSTER_SECTORS = 16
_CLUSTER_BYTES = _CLUSTER_SECTORS * SECTOR_BYTES
_ROOT_ENTRIES = 512
_FAT16_CLUSTERS_MIN, _FAT16_CLUSTERS_MAX = 4085, 65524
_END_OF_CHAIN = 0xFFFF


def build_disk(uki: bytes) -> bytes:
    """Return the whole disk."""
    file_system = _file_system(uki)
    sectors = len(file_system) // SECTOR_BYTES
    total = _ALIGN_SECTORS + sectors + TABLE_SECTORS + 1
    total = -(-total // _ALIGN_SECTORS) * _ALIGN_SECTORS
    partition = Partition(
        type=_ESP_TYPE, id=_PARTITION_ID, first=_ALIGN_SECTORS, last=_ALIGN_SECTORS + sectors - 1, name="ESP"
    )
    head, tail = encode_gpt((partition,), disk_id=_DISK_ID, sectors=total)
    disk = bytearray(total * SECTOR_BYTES)
    disk[: len(head)] = head
    start = _ALIGN_SECTORS * SECTOR_BYTES
    disk[start : start + len(file_system)] = file_system
    disk[-len(tail) :] = tail
    return bytes(disk)


def _file_system(uki: bytes) -> bytes:
    file_clusters = -(-len(uki) // _CLUSTER_BYTES)
    clusters = max(file_clusters + 2, _FAT16_CLUSTERS_MIN + 16)
    if clusters > _FAT16_CLUSTERS_MAX:
        raise BuildError(
            f"a UKI of {len(uki)} bytes is too large for the disk", hint="make the image smaller"
        )
    table_sectors = -(-(clusters + 2) * 2 // SECTOR_BYTES)
    root_sectors = _ROOT_ENTRIES * 32 // SECTOR_BYTES
    total = 1 + 2 * table_sectors + root_sectors + clusters * _CLUSTER_SECTORS

    # Cluster 2 is \EFI, 3 is \EFI\BOOT, the file follows.
    chain = [0xFFF8, 0xFFFF, _END_OF_CHAIN, _END_OF_CHAIN]
    chain += [4 + index + 1 for index in range(file_clusters)]
    chain[-1] = _END_OF_CHAIN
    table = struct.pack(f"<{len(chain)}H", *chain).ljust(table_sectors * SECTOR_BYTES, b"\0")
    root = _entry("EFI", folder=True, cluster=2)
    efi = _entry(".", folder=True, cluster=2) + _entry("..", folder=True, cluster=0)
    efi += _entry("BOOT", folder=True, cluster=3)
    boot = _entry(".", folder=True, cluster=3) + _entry("..", folder=True, cluster=2)
    boot += _entry("BOOTX64 EFI", folder=False, cluster=4, size=len(uki))
    return b"".join(
        (
            _boot_sector(total, table_sectors),
            table * 2,
            root.ljust(root_sectors * SECTOR_BYTES, b"\0"),
            efi.ljust(_CLUSTER_BYTES, b"\0"),
            boot.ljust(_CLUSTER_BYTES, b"\0"),
            uki.ljust((clusters - 2) * _CLUSTER_BYTES, b"\0"),
        )
    )


def _boot_sector(total: int, table_sectors: int) -> bytes:
    head = struct.pack(
        "<3s8sHBHBHHBHHHIIBBBI11s8s",
        b"\xeb\x3c\x90", b"BONDSTON", SECTOR_BYTES, _CLUSTER_SECTORS, 1, 2, _ROOT_ENTRIES,
        total if total < 0x10000 else 0, 0xF8, table_sectors, 63, 255, _ALIGN_SECTORS,
        0 if total < 0x10000 else total, 0x80, 0, 0x29, _SERIAL, b"BONDSTONE  ", b"FAT16   ",
    )  # fmt: skip
    return head.ljust(510, b"\0") + b"\x55\xaa"


def _entry(name: str, *, folder: bool, cluster: int, size: int = 0) -> bytes:
    date = 1 << 5 | 1  # 1 January 1980: zero is not a date
    attributes = 0x10 if folder else 0x20
    return struct.pack(
        "<11sBBBHHHHHHHI", name.encode().ljust(11), attributes, 0, 0, 0, date, date, 0, 0, date, cluster, size
    )
