"""Events, and the registers that they are extended into.

Source: Intel TDX Module Base Architecture Specification, TDG.MR.RTMR.EXTEND: ``MR := SHA-384(MR || digest)``.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

REGISTER_BYTES: Final = 48

CALLING_APPLICATION: Final = b"Calling EFI Application from Boot Option"
SEPARATOR: Final = bytes(4)
EXIT_BOOT_SERVICES: Final = b"Exit Boot Services Invocation"
EXIT_BOOT_SERVICES_DONE: Final = b"Exit Boot Services Returned with Success"


class Boot(StrEnum):
    """The three ways to boot the same kernel and initrd."""

    DIRECT = "direct"
    """``-kernel vmlinuz -initrd initrd -append CMDLINE``."""
    UKI_DIRECT = "uki_direct"
    """``-kernel uki.efi``."""
    UKI_DISK = "uki_disk"
    """A GPT disk with the UKI as ``\\EFI\\BOOT\\BOOTX64.EFI``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEvent:
    """One digest that a boot extends into RTMR[``register``]."""

    register: int
    label: str
    digest: bytes
    """48 bytes, SHA-384."""


def event(register: int, label: str, *parts: bytes) -> MeasuredEvent:
    """Return the event whose digest is SHA-384 over ``parts``."""
    digest = hashlib.sha384()
    for part in parts:
        digest.update(part)
    return MeasuredEvent(register=register, label=label, digest=digest.digest())


def extend(register: bytes, digest: bytes) -> bytes:
    """Return a register's 48 bytes after ``digest`` has been extended into it."""
    return hashlib.sha384(register + digest).digest()


def replay(events: Iterable[MeasuredEvent]) -> bytes:
    """Return the value of a register that starts as zeros and takes ``events`` in order."""
    value = bytes(REGISTER_BYTES)
    for item in events:
        value = extend(value, item.digest)
    return value
