"""RTMR[0]: the firmware's measurements of the virtual machine's shape, for edk2 up to 202505.

Sources: PI specification volume 3 (hand-off blocks), edk2 ``OvmfPkg/IntelTdx/TdxHelperLib`` (the
list that the VMM passes and that is measured), UEFI specification 8.2 (EV_EFI_VARIABLE data), QEMU
``hw/i386/tdvf-hob.c``. All integers are little-endian. The ACPI blobs depend on the whole device
list, so they are an input: take them from a guest of the same shape.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from enclave.image.errors import UnsupportedFirmwareError
from enclave.image.linux import Edk2
from enclave.image.rtmr import SEPARATOR, MeasuredEvent, event
from enclave.image.tdvf import Firmware, SectionType

EDK2_LAST: Final = 202505
MEMORY_BYTES_MAX: Final = 1 << 46

_GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_IMAGE_SECURITY_DATABASE: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
# Secure Boot is off in every firmware that starts a kernel directly: the variables have no value.
_SECURE_BOOT_VARIABLES: Final = (
    (_GLOBAL_VARIABLE, "SecureBoot", b""),
    (_GLOBAL_VARIABLE, "PK", b""),
    (_GLOBAL_VARIABLE, "KEK", b""),
    (_IMAGE_SECURITY_DATABASE, "db", b""),
    (_IMAGE_SECURITY_DATABASE, "dbx", b""),
)

_GIB: Final = 1 << 30
_LOW_MEMORY_SPLIT: Final = 0xB0000000
_LOW_MEMORY_LARGE: Final = 0x80000000

_HOB_HANDOFF: Final = 1
_HOB_RESOURCE: Final = 3
_HOB_END_BYTES: Final = 8
_HANDOFF_BYTES: Final = 56
_RESOURCE_BYTES: Final = 48
_RESOURCE_SYSTEM_MEMORY: Final = 0
_RESOURCE_UNACCEPTED: Final = 7
_RESOURCE_ATTRIBUTES: Final = 7  # present, initialized, tested


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiBlobs:
    """QEMU's ACPI files in fw_cfg: ``etc/table-loader``, ``etc/acpi/rsdp``, ``etc/acpi/tables``."""

    loader: bytes
    rsdp: bytes
    tables: bytes


def rtmr0_events(
    firmware: Firmware, *, edk2: Edk2, memory_bytes: int, acpi: AcpiBlobs
) -> tuple[MeasuredEvent, ...]:
    """Return the events of RTMR[0] for a direct boot on QEMU's q35.

    Raises:
        UnsupportedFirmwareError: this generation of edk2 measures more (SMBIOS, further boot options).
    """
    if edk2.tag > EDK2_LAST:
        raise UnsupportedFirmwareError(
            "rtmr0-unpredictable",
            f"RTMR[0] can be predicted up to edk2 {EDK2_LAST}, not for {edk2.tag}: "
            "capture it from a trusted boot",
        )
    return (
        event(0, "TD hand-off blocks", td_hob(firmware, memory_bytes=memory_bytes)),
        event(0, "variable store (CFV)", firmware.contents(firmware.section(SectionType.CFV))),
        *(
            event(0, f"variable {name}", variable_data(guid, name, value))
            for guid, name, value in _SECURE_BOOT_VARIABLES
        ),
        event(0, "separator", SEPARATOR),
        event(0, "ACPI table loader", acpi.loader),
        event(0, "ACPI RSDP", acpi.rsdp),
        event(0, "ACPI tables", acpi.tables),
        event(0, "BootOrder", bytes(2)),
        event(0, "Boot0000 (UiApp)", _boot_option_ui_app()),
    )


def td_hob(firmware: Firmware, *, memory_bytes: int) -> bytes:
    """Return the list of hand-off blocks that QEMU passes to a TD, without its end record."""
    if not 0 < memory_bytes <= MEMORY_BYTES_MAX or memory_bytes % 4096:
        raise UnsupportedFirmwareError("memory-size", f"{memory_bytes} bytes of memory")
    base = firmware.section(SectionType.TD_HOB).address
    resources = b"".join(
        _resource(kind, start, length) for kind, start, length in _resources(firmware, memory_bytes)
    )
    end = base + _HANDOFF_BYTES + len(resources) + _HOB_END_BYTES
    handoff = (
        _HOB_HANDOFF.to_bytes(2, "little")
        + _HANDOFF_BYTES.to_bytes(2, "little")
        + bytes(4)
        + (9).to_bytes(4, "little")  # version of the hand-off block
        + bytes(4)  # boot mode
        + bytes(4 * 8)  # memory top, bottom, free top, free bottom: unused by TDVF
        + end.to_bytes(8, "little")
    )
    return handoff + resources


def variable_data(guid: UUID, name: str, value: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA: GUID, u64 characters, u64 bytes, the name in UTF-16LE, the value."""
    return (
        guid.bytes_le
        + len(name).to_bytes(8, "little")
        + len(value).to_bytes(8, "little")
        + name.encode("utf-16-le")
        + value
    )


def _resources(firmware: Firmware, memory_bytes: int) -> list[tuple[int, int, int]]:
    """Return (type, start, length) of all memory: the pages that are added, and the rest, unaccepted."""
    low = min(
        memory_bytes,
        _LOW_MEMORY_LARGE if memory_bytes >= _LOW_MEMORY_SPLIT else _LOW_MEMORY_SPLIT,
    )
    accepted = sorted(
        (section.address, section.memory_bytes)
        for section in firmware.sections
        if section.type in {SectionType.TD_HOB, SectionType.TEMP_MEM}
    )
    found: list[tuple[int, int, int]] = []
    cursor = 0
    for start, length in accepted:
        if start > cursor:
            found.append((_RESOURCE_UNACCEPTED, cursor, start - cursor))
        found.append((_RESOURCE_SYSTEM_MEMORY, start, length))
        cursor = start + length
    if cursor < low:
        found.append((_RESOURCE_UNACCEPTED, cursor, low - cursor))
    if memory_bytes > low:
        found.append((_RESOURCE_UNACCEPTED, 4 * _GIB, memory_bytes - low))
    return found


def _resource(kind: int, start: int, length: int) -> bytes:
    return (
        _HOB_RESOURCE.to_bytes(2, "little")
        + _RESOURCE_BYTES.to_bytes(2, "little")
        + bytes(4)
        + bytes(16)  # owner
        + kind.to_bytes(4, "little")
        + _RESOURCE_ATTRIBUTES.to_bytes(4, "little")
        + start.to_bytes(8, "little")
        + length.to_bytes(8, "little")
    )


def _boot_option_ui_app() -> bytes:
    """Return the EFI_LOAD_OPTION of the boot manager's menu, the only option of a direct boot."""
    volume = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1").bytes_le
    application = UUID("462caa21-7614-4503-836e-8ab6f4662331").bytes_le
    path = b"\4\7\x14\0" + volume + b"\4\6\x14\0" + application + b"\x7f\xff\4\0"
    description = "UiApp\0".encode("utf-16-le")
    attributes = 0x109  # active, hidden, category application
    return attributes.to_bytes(4, "little") + len(path).to_bytes(2, "little") + description + path
