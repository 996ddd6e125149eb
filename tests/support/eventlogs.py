"""Events with digests of their data, or of something else."""

import hashlib

from attestation.eventlog.events import (
    Event,
    Origin,
)
from attestation.eventlog.runtime import (
    runtime_event,
)

TYPES = {
    "separator": 4,
    "no-action": 3,
    "tag": 6,
    "config-flags": 0xA,
    "ipl": 0xD,
    "variable": 0x80000001,
    "boot-variable": 0x80000002,
    "application": 0x80000003,
    "gpt": 0x80000006,
    "action": 0x80000007,
    "authority": 0x800000E0,
}


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def ccel(kind: str, data: bytes, *, measured: bytes | None = None, register: int = 0) -> Event:
    return Event(
        origin=Origin.CCEL,
        register=register,
        type=TYPES[kind],
        name="",
        digest=sha384(data if measured is None else measured),
        data=data,
    )


BOOT = (
    ccel("action", b"Calling EFI Application from Boot Option", register=1),
    ccel("separator", bytes(4)),
    ccel("application", b"device path", measured=b"the image", register=1),
    ccel("ipl", b"kernel_cmdline: ro quiet\0", measured=b"ro quiet", register=2),
)
RUNTIME = (runtime_event("image", b"v1"), runtime_event("config", b"\x00\x01"))


def variable(name: str, data: bytes) -> bytes:
    head = bytes(16) + len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return head + name.encode("utf-16-le") + data
