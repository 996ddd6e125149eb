"""A built image in a folder. This is the only module here that reads files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attestation.files import FileError, read_bytes
from enclave.image.config import Profile
from enclave.image.errors import MalformedImageError
from enclave.image.linux import Edk2
from enclave.image.measurements import ImageFiles, Measurements, measure
from enclave.image.predict import HostShape
from enclave.image.rtmr0 import AcpiBlobs

FILE_BYTES_MAX: Final = 4 << 30  # a disk
JSON_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image's folder and its ``image.json``."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def profile(self) -> Profile:
        return Profile(self.manifest["profile"])

    @property
    def machines(self) -> tuple[str, ...]:
        """The state machines that the image holds besides the built-in ones, as ``module:Class``."""
        return tuple(str(name) for name in self.manifest.get("machines", ()))

    @property
    def command_line(self) -> str:
        return str(self.manifest["command_line"])

    def measure(self, *, host: HostShape | None = None, acpi: AcpiBlobs | None = None) -> Measurements:
        """Measure the files as they are now, not as they were when they were built.

        Raises:
            MalformedImageError: a file is missing, or has the wrong content.
        """

        def read(name: str) -> bytes:
            try:
                return read_bytes(self.folder / name, bytes_max=FILE_BYTES_MAX)
            except FileError as exc:
                raise MalformedImageError("image-file", str(exc)) from exc

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
        """Return the measurements that were written when the image was built.

        Raises:
            MalformedImageError: the image has no measurements.
        """
        try:
            value: dict[str, Any] = json.loads(
                read_bytes(self.folder / "measurements.json", bytes_max=JSON_BYTES_MAX)
            )
        except (OSError, ValueError) as exc:
            raise MalformedImageError(
                "image-measurements", f"{self.folder} has no measurements.json: bondstone image measure"
            ) from exc
        return value


def load_image(folder: Path) -> BuiltImage:
    """Return the image in ``folder``.

    Raises:
        MalformedImageError: the folder has no image, or its manifest is damaged.
    """
    try:
        manifest = json.loads(read_bytes(folder / "image.json", bytes_max=JSON_BYTES_MAX))
        image = BuiltImage(folder=folder, manifest=manifest)
        _ = image.name, image.profile, image.machines, image.command_line, int(manifest["edk2"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise MalformedImageError(
            "image-folder", f"{folder} holds no image ({exc}): bondstone image build --out {folder}"
        ) from exc
    return image
