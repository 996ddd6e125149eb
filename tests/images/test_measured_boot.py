"""The same firmware under emulation with a software TPM logs what it would extend into RTMR[1] and RTMR[2]."""

import subprocess

import pytest

from enclave.image.console import boot_log_untrusted
from enclave.image.folder import load_image
from enclave.image.predict import HostShape, KernelLoading
from enclave.image.rtmr import Boot
from enclave.image.tpm_log import parse_tpm_log_untrusted
from enclave.image.verify import first_difference
from tests.images import harness

TOOLS = ("qemu-system-x86_64", "swtpm", "swtpm_setup", "tar", "gpgv")
pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]


def qemu_major():
    text = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return int(text.split("version ")[1].split(".")[0])


def host_shape():
    patched = qemu_major() < 10
    return HostShape(
        kernel_loading=KernelLoading.QEMU_PATCHED if patched else KernelLoading.AS_IS,
        memory_bytes=harness.FIRMWARE_MEMORY_MIB << 20,
    )


def measured_log(image, folder, arguments):
    """The log of a boot: the guest prints it, then finds that nobody gave it a configuration, and powers off."""
    with harness.software_tpm(folder) as tpm:
        console = harness.boot(
            image,
            folder,
            "-bios", image / "OVMF.fd", *tpm, *arguments,
            memory=harness.FIRMWARE_MEMORY_MIB,
            seconds=harness.BOOT_SECONDS * 2,
        )  # fmt: skip
    return parse_tpm_log_untrusted(boot_log_untrusted(console, "tpm"))


def arguments_of(boot, image, folder):
    if boot is Boot.DIRECT:
        return harness.direct(image)
    if boot is Boot.UKI_DIRECT:
        return ["-kernel", image / "uki.efi"]
    # As a cloud boots it: out of the archive that it imports, where zeros follow the disk.
    harness.script("build.py", "gcp", "--image", image, "--out", folder / "archive.tar.gz")
    subprocess.run(["tar", "-C", str(folder), "-xzf", str(folder / "archive.tar.gz")], check=True)
    disk = f"if=none,id=d0,format=raw,readonly=on,file={folder / 'disk.raw'}"
    return ["-drive", disk, "-device", "virtio-blk-pci,drive=d0,bootindex=1"]


@pytest.fixture(scope="module")
def predictions(prod_image):
    return load_image(prod_image).measure(host=host_shape()).boots


@pytest.mark.parametrize("boot", list(Boot))
def test_a_real_boot_measures_exactly_what_was_predicted_event_by_event(
    boot, prod_image, predictions, tmp_path
):
    log = measured_log(prod_image, tmp_path, arguments_of(boot, prod_image, tmp_path))

    assert first_difference(predictions[boot].events, log, registers=(1, 2)) is None
    # And the comparison can fail: the prediction of any other boot differs from this very log.
    for other in Boot:
        if other is not boot:
            assert first_difference(predictions[other].events, log, registers=(1, 2)) is not None
