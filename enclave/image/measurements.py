"""``measurements.json``: all measurements of an image that are known before it runs.

The values are *predictions*. The file also lists everything that they depend on, and
``bondstone image verify`` compares the log of a first boot on real hardware with them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from enclave.image.config import Profile
from enclave.image.linux import Edk2
from enclave.image.predict import (
    BootPrediction,
    HostShape,
    predict_direct,
    predict_uki_direct,
    predict_uki_disk,
)
from enclave.image.rtmr import Boot, MeasuredEvent, replay
from enclave.image.rtmr0 import AcpiBlobs, rtmr0_events
from enclave.image.tdvf import Firmware, PageOrder, mrtd, parse_firmware_untrusted

VERSION: Final = 1

_ASSUMPTIONS: Final = (
    "the firmware is passed to QEMU by -bios, and is of the edk2 generation named here",
    "a TD's host runs QEMU 10.1 and Linux 6.16, or newer (MRTD); older stacks give mrtd_twopass",
    "the kernel is handed over unchanged, as QEMU does for every TD",
    "a UKI is started without -append and -initrd, and Secure Boot is off",
    "RTMR[3] stays zero: nothing in this image extends it",
    "RTMR[0] depends on devices, memory and QEMU version: predicted only for given ACPI tables",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files of one built image, with the declarations of their build."""

    name: str
    profile: Profile
    command_line: str
    edk2: Edk2
    firmware: bytes
    kernel: bytes
    initrd: bytes
    uki: bytes | None = None
    disk: bytes | None = None
    """At least the first 34 sectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The predicted measurements of an image."""

    name: str
    profile: Profile
    edk2: Edk2
    mrtd: Mapping[PageOrder, bytes]
    boots: Mapping[Boot, BootPrediction]
    rtmr0: tuple[MeasuredEvent, ...] | None
    sha256: Mapping[str, bytes]

    def to_json(self) -> bytes:
        """Return ``measurements.json``: sorted, indented, with a newline at its end."""
        return (json.dumps(self.to_value(), indent=2, sort_keys=True) + "\n").encode()

    def to_value(self) -> dict[str, Any]:
        """Return the JSON value. Registers and digests are lower-case hex."""
        value: dict[str, Any] = {
            "version": VERSION,
            "name": self.name,
            "profile": self.profile.value,
            "debug": self.profile is Profile.DEBUG,
            "status": "predicted",
            "edk2": self.edk2.tag,
            "mrtd": self.mrtd[PageOrder.INTERLEAVED].hex(),
            "mrtd_twopass": self.mrtd[PageOrder.TWO_PASS].hex(),
            "boots": {boot.value: _boot_value(self.boots[boot]) for boot in self.boots},
            "sha256": {name: digest.hex() for name, digest in self.sha256.items()},
            "assumptions": list(_ASSUMPTIONS),
        }
        if self.rtmr0 is not None:
            value["rtmr0"] = replay(self.rtmr0).hex()
            value["rtmr0_events"] = [_event_value(item) for item in self.rtmr0]
        return value


def measure(
    files: ImageFiles,
    *,
    host: HostShape | None = None,
    acpi: AcpiBlobs | None = None,
) -> Measurements:
    """Predict everything about an image.

    Args:
        files: the image.
        host: how the host starts it; by default, as a TD.
        acpi: the ACPI blobs of one shape, to predict RTMR[0] for it.

    Raises:
        UnsupportedFirmwareError: this firmware, or its generation, cannot be predicted.
        MalformedImageError: a file has the wrong content.
    """
    shape = host or HostShape()
    firmware = parse_firmware_untrusted(files.firmware)
    boots = {
        Boot.DIRECT: predict_direct(
            kernel=files.kernel,
            initrd=files.initrd,
            command_line=files.command_line,
            edk2=files.edk2,
            host=shape,
        )
    }
    digests = {
        "firmware": firmware.digest,
        "kernel": _sha256(files.kernel),
        "initrd": _sha256(files.initrd),
    }
    if files.uki is not None:
        boots[Boot.UKI_DIRECT] = predict_uki_direct(uki=files.uki)
        digests["uki"] = _sha256(files.uki)
        if files.disk is not None:
            boots[Boot.UKI_DISK] = predict_uki_disk(uki=files.uki, disk=files.disk)
            digests["disk"] = _sha256(files.disk)
    return Measurements(
        name=files.name,
        profile=files.profile,
        edk2=files.edk2,
        mrtd={order: mrtd(firmware, order) for order in PageOrder},
        boots=boots,
        rtmr0=_rtmr0(firmware, files.edk2, shape, acpi),
        sha256=digests,
    )


def _rtmr0(
    firmware: Firmware, edk2: Edk2, shape: HostShape, acpi: AcpiBlobs | None
) -> tuple[MeasuredEvent, ...] | None:
    if acpi is None:
        return None
    return rtmr0_events(firmware, edk2=edk2, memory_bytes=shape.memory_bytes, acpi=acpi)


def _boot_value(prediction: BootPrediction) -> dict[str, Any]:
    return {
        "rtmr1": prediction.rtmr1.hex(),
        "rtmr2": prediction.rtmr2.hex(),
        "command_line": prediction.command_line,
        "events": [_event_value(item) for item in prediction.events],
    }


def _event_value(item: MeasuredEvent) -> dict[str, Any]:
    return {"register": item.register, "label": item.label, "digest": item.digest.hex()}


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
