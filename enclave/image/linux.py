"""The measurements of a Linux kernel and its loader: command line, initrd, and a kernel that QEMU patched.

Sources: Linux ``drivers/firmware/efi/libstub`` (from 6.9 on: load options and initrd go into PCR 9,
which is RTMR[2]), ``Documentation/arch/x86/boot.rst`` (the setup header), QEMU
``hw/i386/x86-common.c`` (what it writes into that header).
"""

from dataclasses import dataclass
from typing import Final

from enclave.image.errors import MalformedImageError, UnsupportedFirmwareError
from enclave.image.rtmr import MeasuredEvent, event

COMMAND_LINE_CHARACTERS_MAX: Final = 2047  # COMMAND_LINE_SIZE of x86, without the NUL
INITRD_BYTES_MAX: Final = 1024 * 1024 * 1024

# The first and the last stable tag of edk2 with rules that were confirmed by measuring.
EDK2_FIRST: Final = 202411
EDK2_LAST: Final = 202608

_INITRD_FIRST_SINCE: Final = 202508
_KERNEL_BLOB_SINCE: Final = 202502
_LOW_MEMORY_SPLIT: Final = 0xB0000000
_LOW_MEMORY_LARGE: Final = 0x80000000
_ACPI_DATA_BYTES: Final = 0x28000  # QEMU keeps this much free below the end of low memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Edk2:
    """A generation of edk2, by its stable tag (``202502``), with the rules that changed between them."""

    tag: int

    def __post_init__(self) -> None:
        year, month = divmod(self.tag, 100)
        if not EDK2_FIRST <= self.tag <= EDK2_LAST or month not in {2, 5, 8, 11} or year < 2000:
            raise UnsupportedFirmwareError(
                "edk2-generation-unknown",
                f"the measuring rules of edk2 {self.tag} are not known; known are the stable tags "
                f"from {EDK2_FIRST} to {EDK2_LAST}",
            )

    @property
    def initrd_option_first(self) -> bool:
        """Whether ``initrd=initrd`` comes before the command line rather than after it."""
        return self.tag >= _INITRD_FIRST_SINCE

    @property
    def reads_unpatched_kernel(self) -> bool:
        """Whether it reads the unchanged kernel file from QEMU (``etc/boot/kernel``)."""
        return self.tag >= _KERNEL_BLOB_SINCE


def require_command_line(command_line: str) -> str:
    """Return ``command_line`` if a kernel will receive it unchanged.

    Raises:
        MalformedImageError: too long, or not printable ASCII.
    """
    if len(command_line) > COMMAND_LINE_CHARACTERS_MAX:
        raise MalformedImageError(
            "command-line-too-long",
            f"{len(command_line)} characters, at most {COMMAND_LINE_CHARACTERS_MAX}",
        )
    if not command_line.isascii() or not command_line.isprintable():
        raise MalformedImageError("command-line-characters", "the command line is not plain ASCII")
    return command_line


def direct_load_options(command_line: str, *, edk2: Edk2, initrd: bool) -> str:
    """Return the firmware's command line for a kernel of ``-kernel``: also the guest's /proc/cmdline."""
    require_command_line(command_line)
    if not initrd:
        return command_line
    if edk2.initrd_option_first:
        return "initrd=initrd " + command_line
    return command_line + " initrd=initrd"


def load_options_event(load_options: str) -> MeasuredEvent:
    """Return the kernel's event for its load options: UTF-16LE with its NUL."""
    return event(2, "kernel load options", load_options.encode("utf-16-le") + bytes(2))


def initrd_event(initrd: bytes) -> MeasuredEvent:
    """Return the kernel's event for the initrd's bytes."""
    return event(2, "initrd", initrd)


def patch_kernel_as_qemu(kernel: bytes, *, memory_bytes: int, initrd_bytes: int) -> bytes:
    """Return the kernel with the header that QEMU before 10 fills in for an ordinary guest.

    Only then RTMR[1] depends on the guest's memory and the initrd's length.

    Raises:
        MalformedImageError: not a bzImage of boot protocol 2.03 or newer.
    """
    if len(kernel) < 0x260 or kernel[0x202:0x206] != b"HdrS":
        raise MalformedImageError("kernel-header", "not an x86 bzImage: no setup header")
    if int.from_bytes(kernel[0x206:0x208], "little") < 0x203:
        raise MalformedImageError("kernel-protocol", "a boot protocol older than 2.03")
    patched = bytearray(kernel)
    patched[0x228:0x22C] = (0x20000).to_bytes(4, "little")  # cmd_line_ptr
    patched[0x210] = 0xB0  # type_of_loader: QEMU
    patched[0x211] |= 0x80  # loadflags: CAN_USE_HEAP
    patched[0x224:0x226] = (0xFE00).to_bytes(2, "little")  # heap_end_ptr
    if initrd_bytes:
        above_4g_allowed = int.from_bytes(kernel[0x236:0x238], "little") & 2
        highest = 0xFFFFFFFF if above_4g_allowed else int.from_bytes(kernel[0x22C:0x230], "little")
        large = memory_bytes >= _LOW_MEMORY_SPLIT
        low_memory = min(memory_bytes, _LOW_MEMORY_LARGE if large else _LOW_MEMORY_SPLIT)
        highest = min(highest, low_memory - _ACPI_DATA_BYTES - 1)
        address = (highest - initrd_bytes) & ~4095
        if address < 0:
            raise MalformedImageError("initrd-too-large", "the initrd does not fit into memory")
        patched[0x218:0x21C] = address.to_bytes(4, "little")
        patched[0x21C:0x220] = initrd_bytes.to_bytes(4, "little")
    return bytes(patched)
