"""Small firmware, executables and disks, laid out byte by byte as in their specifications."""

import struct
from pathlib import Path
from uuid import UUID

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
OTHER = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le

BFV_BYTES = 8192
CFV_BYTES = 4096
FIRMWARE_BYTES = CFV_BYTES + BFV_BYTES

PROJECT = Path(__file__).parents[3]


def section(offset, size, address, memory, kind, attributes):
    return struct.pack("<IIQQII", offset, size, address, memory, kind, attributes)


SECTIONS = (
    section(CFV_BYTES, BFV_BYTES, 0xFFFFE000, BFV_BYTES, 0, 1),
    section(0, CFV_BYTES, 0xFFFFD000, CFV_BYTES, 1, 0),
    section(0, 0, 0x809000, 0x2000, 2, 0),
    section(0, 0, 0x800000, 0x6000, 3, 0),
)


def firmware(sections=SECTIONS, *, version=1, count=None, distance=None, metadata=METADATA):
    """A firmware file of two volumes with TDVF metadata in the code volume."""
    data = bytearray(range(256)) * (FIRMWARE_BYTES // 256)
    descriptor = struct.pack(
        "<4sIII",
        b"TDVF",
        16 + 32 * len(sections),
        version,
        len(sections) if count is None else count,
    ) + b"".join(sections)
    data[CFV_BYTES : CFV_BYTES + len(descriptor)] = descriptor
    entry = struct.pack("<IH", distance or len(data) - CFV_BYTES, 22) + metadata
    other = b"\0" * 4 + struct.pack("<H", 22) + OTHER
    table = entry + other
    table += struct.pack("<H", len(table) + 18) + FOOTER
    end = len(data) - 0x30 + 16
    data[end - len(table) : end] = table
    return bytes(data)


def executable(sections=((".text", b"code"),), *, certificate=b"", trailing=b"", magic=0x20B):
    """A PE32+ file with these sections; the certificate table comes last."""
    header_bytes = 0x400
    body = b""
    table = b""
    address = 0x1000
    for name, contents in sections:
        stored = -(-len(contents) // 512) * 512
        table += struct.pack(
            "<8sIIIIIIHHI",
            name.encode(), len(contents), address, stored, header_bytes + len(body), 0, 0, 0, 0, 0x40000040,
        )  # fmt: skip
        body += contents.ljust(stored, b"\0")
        address += -(-len(contents) // 4096) * 4096
    optional = bytearray(112 + 16 * 8)
    struct.pack_into("<H", optional, 0, magic)
    struct.pack_into("<II", optional, 32, 4096, 512)
    struct.pack_into("<III", optional, 56, address, header_bytes, 0xDEADBEEF)
    struct.pack_into("<I", optional, 108, 16)
    if certificate:
        where = header_bytes + len(body) + len(trailing)
        struct.pack_into("<II", optional, 112 + 32, where, len(certificate))
    pe = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22)
    start = 0x80
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start)
    head = (dos.ljust(start, b"\0") + pe + bytes(optional) + table).ljust(header_bytes, b"\0")
    return head + body + trailing + certificate
