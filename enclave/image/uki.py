"""Unified kernel images: building one, and the measurements that systemd-stub makes of it.

Sources: the UAPI Group's UKI specification; systemd 257 ``src/boot/stub.c``, ``measure.c`` and
``cpio.c``. The order of the sections and the archive that the stub makes are that version's
behaviour, so the stub is pinned in the image's lock.
"""

from typing import Final

from enclave.image.errors import MalformedImageError
from enclave.image.linux import initrd_event, load_options_event, require_command_line
from enclave.image.pe import Executable, parse_executable_untrusted
from enclave.image.rtmr import MeasuredEvent, event

# systemd 257's enum of sections: all measured sections, in the order of measuring.
MEASURED_SECTIONS: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
)  # fmt: skip

# The stub's own constant: a literal, with an upper-case B where its other numbers are lower-case.
_TRAILER: Final = (
    b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!"
).ljust(124, b"\0")

_NEVER_HANDLED: Final = frozenset({".profile", ".dtbauto", ".hwids", ".pcrsig", ".efifw"})
_READ_ONLY_DATA: Final = 0x40000040  # IMAGE_SCN_MEM_READ | IMAGE_SCN_CNT_INITIALIZED_DATA


def linux_section(uki: Executable) -> bytes:
    """Return the kernel inside a UKI.

    Raises:
        MalformedImageError: the file has no kernel.
    """
    return _required(uki, ".linux")


def uki_events(uki: Executable) -> tuple[MeasuredEvent, ...]:
    """Return the events that the stub, then the kernel, extend into RTMR[2].

    Raises:
        MalformedImageError: a section is missing, or this module does not know how the stub measures it.
    """
    unknown = sorted({section.name for section in uki.sections} & _NEVER_HANDLED)
    if unknown:
        raise MalformedImageError(
            "uki-section-unsupported", f"the UKI has {', '.join(unknown)}, whose measuring is not known"
        )
    events: list[MeasuredEvent] = []
    for name in MEASURED_SECTIONS:
        contents = uki.contents(name)
        if contents is not None:
            events.append(event(2, f"name of section {name}", name.encode() + b"\0"))
            events.append(event(2, f"section {name}", contents))
    command_line = _required(uki, ".cmdline").rstrip(b"\0 \n").decode("ascii", "strict")
    events.append(load_options_event(require_command_line(command_line)))
    initrd = _required(uki, ".initrd")
    padded = initrd.ljust((len(initrd) + 3) & ~3, b"\0")
    events.append(initrd_event(padded + _stub_archive(_required(uki, ".osrel"))))
    return tuple(events)


def build_uki(stub: bytes, sections: tuple[tuple[str, bytes], ...]) -> bytes:
    """Return ``stub`` with ``sections`` appended, a signed stub's certificates dropped.

    Raises:
        MalformedImageError: the stub is not a PE file, or its header has no room for more sections.
    """
    parsed = parse_executable_untrusted(stub)
    if parsed.certificate_bytes:
        raise MalformedImageError("uki-stub-signed", "the stub is signed; take the unsigned one")
    image = bytearray(stub)
    header = _u32(image, 0x3C)
    optional = header + 24
    alignment_memory, alignment_file = _u32(image, optional + 32), _u32(image, optional + 36)
    table = optional + int.from_bytes(image[header + 20 : header + 22], "little")
    count = len(parsed.sections)
    if table + (count + len(sections)) * 40 > parsed.headers_bytes:
        raise MalformedImageError("uki-header-full", "the stub's header has no room for sections")
    address = max(section.address + section.memory_bytes for section in parsed.sections)
    initialized = 0
    for name, contents in sections:
        address = _align(address, alignment_memory)
        image.extend(bytes(_align(len(image), alignment_file) - len(image)))
        stored = _align(len(contents), alignment_file)
        entry = name.encode("ascii").ljust(8, b"\0")
        for value in (len(contents), address, stored, len(image), 0, 0, 0, _READ_ONLY_DATA):
            entry += value.to_bytes(4, "little")
        image[table + count * 40 : table + count * 40 + 40] = entry
        image.extend(contents.ljust(stored, b"\0"))
        address += len(contents)
        initialized += stored
        count += 1
    image[header + 6 : header + 8] = count.to_bytes(2, "little")
    _put_u32(image, optional + 8, _u32(image, optional + 8) + initialized)  # SizeOfInitializedData
    _put_u32(image, optional + 56, _align(address, alignment_memory))  # SizeOfImage
    _put_u32(image, optional + 64, 0)  # CheckSum: unused by UEFI
    return bytes(image)


def _required(uki: Executable, name: str) -> bytes:
    contents = uki.contents(name)
    if contents is None:
        raise MalformedImageError("uki-section-missing", f"the UKI has no section {name}")
    return contents


def _stub_archive(os_release: bytes) -> bytes:
    """Return the cpio archive that the stub makes from ``.osrel`` and appends to the initrd."""
    return (
        _newc(b".extra", inode=1, mode=0o040555)
        + _newc(b".extra/os-release", inode=2, mode=0o100444, contents=os_release)
        + _TRAILER
    )


def _newc(name: bytes, *, inode: int, mode: int, contents: bytes = b"") -> bytes:
    """Return one entry in the format of ``cpio -H newc``, as systemd-stub writes it."""
    fields = (inode, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head.ljust(_align(len(head), 4), b"\0") + contents.ljust(_align(len(contents), 4), b"\0")


def _align(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def _u32(data: bytes | bytearray, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _put_u32(data: bytearray, offset: int, value: int) -> None:
    data[offset : offset + 4] = value.to_bytes(4, "little")
