"""ELF64, little-endian: which libraries a file needs, and which parts a loader reads (System V gABI)."""

import struct

_PT_LOAD, _PT_DYNAMIC = 1, 2
_MAGIC = b"\x7fELF\x02\x01"
_DT_NEEDED, _DT_STRTAB = 1, 5


def stripped(data: bytes) -> bytes:
    """Return an ELF64 file without its section table and the bytes (debug symbols) after the last segment.

    Loaders read segments only, so the file behaves the same; other files are returned as they are.
    """
    if data[:6] != _MAGIC:
        return data
    end = max(header[2] + header[5] for header in _program_headers(data))
    head = bytearray(data[:64])
    head[40:48] = bytes(8)  # e_shoff
    head[58:64] = struct.pack("<HHH", 64, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(head) + data[64:end]


def needed(data: bytes) -> list[str]:
    """Return the DT_NEEDED names, in order; an empty result if it is not a dynamic ELF64 file."""
    if data[:6] != _MAGIC:
        return []
    headers = _program_headers(data)
    dynamic = next((h for h in headers if h[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return []
    names, table = [], None
    for at in range(dynamic[2], dynamic[2] + dynamic[5], 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == _DT_NEEDED:
            names.append(value)
        elif tag == _DT_STRTAB:
            table = value
        elif tag == 0:
            break
    if table is None:
        return []
    start = next(h[2] + table - h[3] for h in headers if h[0] == _PT_LOAD and h[3] <= table < h[3] + h[5])
    return [data[start + n : data.index(b"\0", start + n)].decode() for n in names]


def _program_headers(data: bytes) -> list[tuple[int, ...]]:
    """Return each segment's type, flags, offset, two addresses, bytes in file and memory, and alignment."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return [struct.unpack_from("<IIQQQQQQ", data, offset + size * n) for n in range(count)]
