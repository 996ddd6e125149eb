import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from enclave.image.folder import load_image
from enclave.image.tdvf import PageOrder, mrtd, parse_firmware_untrusted
from tests.enclave.image.test_tdvf import GOLDEN
from tests.images import harness

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

FILES = ("vmlinuz", "initrd", "uki.efi", "disk.raw", "OVMF.fd", "image.json", "measurements.json")


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def names_in(initrd):
    """The paths in a newc archive."""
    data = initrd.read_bytes()
    offset, names = 0, []
    while True:
        size, length = int(data[offset + 54 : offset + 62], 16), int(data[offset + 94 : offset + 102], 16)
        name = data[offset + 110 : offset + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return names
        names.append(name)
        offset = (offset + 110 + length + 3) & ~3
        offset = (offset + size + 3) & ~3


@pytest.fixture
def elsewhere():
    # Not below pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="bondstone-elsewhere-with-a-much-longer-name-") as folder:
        yield Path(folder)


def test_two_builds_elsewhere_by_somebody_else_are_identical(locked_inputs, elsewhere, tmp_path):
    # A path of another length, another user if we may choose one, another Python, zone, mask and hash seed.
    copy = elsewhere / "checkout"
    for name in ("attestation", "enclave", "node", "tdx-images"):
        shutil.copytree(
            harness.PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "out", "*.pyc")
        )
    shutil.copy(harness.PROJECT / "requirements.lock", copy)
    if "BONDSTONE_IMAGE_LOCK" in os.environ:
        shutil.copy(os.environ["BONDSTONE_IMAGE_LOCK"], copy / "tdx-images" / "lock.json")
    # The same sources in another place: a checkout that is being worked on does not hold still for two builds.
    ours = tmp_path / "checkout"
    shutil.copytree(copy, ours)
    harness.script("build.py", "build", "--profile", "prod", "--out", tmp_path / "out", project=ours)
    out = elsewhere / "out"
    out.mkdir()
    options = {
        "cwd": "/",
        "umask": 0o077,
        "env": {"TZ": "Pacific/Auckland", "PYTHONHASHSEED": "77", "PATH": os.environ["PATH"]},
    }
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    if os.geteuid() == 0:
        options |= {"user": 65534, "group": 65534, "extra_groups": []}
        subprocess.run(["chown", "-R", "65534:65534", str(elsewhere)], check=True)
    harness.script(
        "build.py", "build", "--profile", "prod", "--out", out, python=python, project=copy, **options
    )

    assert digests(out) == digests(tmp_path / "out")


def test_a_changed_source_file_changes_the_image_and_its_measurement(prod_image, debug_image):
    prod, debug = (
        json.loads((folder / "measurements.json").read_text()) for folder in (prod_image, debug_image)
    )

    assert prod["boots"]["direct"]["rtmr2"] != debug["boots"]["direct"]["rtmr2"]
    assert debug["debug"]
    assert not prod["debug"]
    assert "DEBUG" in debug["name"]


def test_the_production_image_holds_no_shell_and_no_package_manager_and_is_small(prod_image):
    names = names_in(prod_image / "initrd")

    programs = [name for name in names if name.startswith(("usr/bin/", "usr/sbin/"))]
    assert programs == ["usr/bin/python3.13"]
    assert not [
        name
        for name in names
        if name.rsplit("/", 1)[-1] in {"sh", "bash", "busybox", "apt", "dpkg", "pip", "sshd"}
    ]
    assert (prod_image / "initrd").stat().st_size <= 100_000_000


def test_the_locked_firmware_has_the_published_mrtd(prod_image):
    data = (prod_image / "OVMF.fd").read_bytes()
    golden = GOLDEN.get(hashlib.sha256(data).hexdigest())
    if golden is None:
        pytest.skip("another version of the firmware is locked than the one with published values")

    firmware = parse_firmware_untrusted(data)
    assert (mrtd(firmware, PageOrder.INTERLEAVED).hex(), mrtd(firmware, PageOrder.TWO_PASS).hex()) == golden


def test_published_measurements_are_those_of_the_files(prod_image):
    built = load_image(prod_image)

    assert built.measure().to_value() == built.published()
