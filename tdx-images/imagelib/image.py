"""A built image as it lies in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclave.image.config import Profile
from enclave.image.linux import Edk2
from enclave.image.measurements import ImageFiles, Measurements, measure
from enclave.image.predict import HostShape
from enclave.image.rtmr0 import AcpiBlobs
from imagelib.errors import BuildError

DISK_HEAD_BYTES = 34 * 512


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def profile(self) -> Profile:
        return Profile(self.manifest["profile"])

    @property
    def command_line(self) -> str:
        return str(self.manifest["command_line"])

    def measure(self, *, host: HostShape | None = None, acpi: AcpiBlobs | None = None) -> Measurements:
        """Measure the files as they are now, not as they were when they were built."""

        def read(name: str) -> bytes:
            return (self.folder / name).read_bytes()

        files = ImageFiles(
            name=self.name,
            profile=self.profile,
            command_line=self.command_line,
            edk2=Edk2(tag=self.manifest["edk2"]),
            firmware=read("OVMF.fd"),
            kernel=read("vmlinuz"),
            initrd=read("initrd"),
            uki=read("uki.efi"),
            disk=read("disk.raw"),
        )
        return measure(files, host=host, acpi=acpi)

    def published(self) -> dict[str, Any]:
        """Return the measurements that were written when the image was built."""
        value: dict[str, Any] = json.loads((self.folder / "measurements.json").read_bytes())
        return value


def load_image(folder: Path) -> BuiltImage:
    try:
        manifest = json.loads((folder / "image.json").read_bytes())
        image = BuiltImage(folder=folder, manifest=manifest)
        _ = image.name, image.profile, image.command_line
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BuildError(
            f"{folder} holds no image: {exc}", hint=f"bondstone image build --out {folder}"
        ) from exc
    return image
