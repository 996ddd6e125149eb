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
from enclave.image.rtmr import Boot
from enclave.image.tdvf import PageOrder, mrtd, parse_firmware_untrusted
from tests.enclave.image.test_tdvf import GOLDEN
from tests.images import harness

TOOLS = ("gpgv",)
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


def test_two_builds_by_different_users_in_different_places_are_identical(locked_inputs, elsewhere, tmp_path):
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


LEDGER = """\
from node.machines.counter import Counter


class Ledger(Counter):
    signature = "ledger/1"
"""


def checkout_with_machines(folder, sources, names):
    """A copy of this checkout whose recipe names machines."""
    for name in ("attestation", "enclave", "node", "tdx-images"):
        ignored = shutil.ignore_patterns("__pycache__", "out", "cache", "*.pyc")
        shutil.copytree(harness.PROJECT / name, folder / name, ignore=ignored)
    (folder / "tdx-images" / "cache").symlink_to(harness.SCRIPTS / "cache")
    for name, text in sources.items():
        file = folder / "tdx-images" / "machines" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    recipe = folder / "tdx-images" / "recipe.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "machines": names}))
    return folder


def test_a_machine_that_the_recipe_names_is_in_the_image_and_changes_its_measurement(
    locked_inputs, prod_image, tmp_path
):
    checkout = checkout_with_machines(tmp_path / "checkout", {"ledger.py": LEDGER}, ["ledger:Ledger"])
    out = tmp_path / "out"
    harness.script("build.py", "build", "--profile", "prod", "--out", out, project=checkout)

    assert set(names_in(out / "initrd")) - set(names_in(prod_image / "initrd")) == {
        "opt/bondstone/ledger.py",
        "opt/bondstone/__pycache__/ledger.cpython-313.pyc",
    }
    # What PID 1 and the node read of it, inside of the measured initrd.
    assert b'"machines": ["ledger:Ledger"]' in (out / "initrd").read_bytes()
    assert b'"machines": []' in (prod_image / "initrd").read_bytes()
    rtmr2 = [load_image(folder).measure().boots[Boot.DIRECT].rtmr2 for folder in (out, prod_image)]
    assert rtmr2[0] != rtmr2[1]


@pytest.mark.parametrize(
    ("sources", "names", "says"),
    [
        (
            {"node/machines/kv/__init__.py": LEDGER},
            ["node.machines.kv:Ledger"],
            "the image has opt/bondstone/node already",
        ),
        ({"httpx.py": LEDGER}, ["httpx:Ledger"], "the image has opt/bondstone/httpx"),
        ({"json.py": LEDGER}, ["json:Ledger"], "Python has a module json"),
        ({"ledger.py": LEDGER}, ["ledger:Bank"], "has no Bank"),
        ({}, ["ledger:Ledger"], "cannot import ledger"),
    ],
)
def test_a_machine_that_cannot_be_loaded_or_hides_a_module_of_the_image_is_not_built_in(
    locked_inputs, tmp_path, sources, names, says
):
    checkout = checkout_with_machines(tmp_path / "checkout", sources, names)
    done = subprocess.run(
        [sys.executable, str(checkout / "tdx-images" / "build.py"), "build", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=harness.BOOT_SECONDS,
    )  # fmt: skip

    assert done.returncode == 1
    assert says in done.stderr
    assert not (tmp_path / "out").exists()


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


# What a mock TD is made of: by path, and by the texts of its sources (the archive is not compressed).
MOCK_PATHS = {"opt/bondstone/enclave/mock", "opt/bondstone/node/mocked.py"}
MOCK_WORDS = (b"class MockAuthority:", b"enclave.mock.authority", b"TDSettings")


def test_the_production_image_holds_no_mock_td_and_the_one_for_emulation_does(prod_image, emulation_image):
    prod, emulation = ((folder / "initrd").read_bytes() for folder in (prod_image, emulation_image))

    ours = tuple(f"opt/bondstone/{package}/" for package in ("attestation", "enclave", "node", "guest"))
    assert not [name for name in names_in(prod_image / "initrd") if name.startswith(ours) and "mock" in name]
    assert [word for word in MOCK_WORDS if word in prod] == []
    # The same look finds it where it is.
    assert set(names_in(emulation_image / "initrd")) >= MOCK_PATHS
    assert [word for word in MOCK_WORDS if word in emulation] == list(MOCK_WORDS)


def test_the_image_for_emulation_is_productions_but_for_the_mock_td_and_has_its_own_measurement(
    prod_image, emulation_image
):
    prod, emulation = (
        json.loads((f / "measurements.json").read_text()) for f in (prod_image, emulation_image)
    )

    assert emulation["boots"]["direct"]["command_line"] == prod["boots"]["direct"]["command_line"]
    for boot in ("direct", "uki_direct", "uki_disk"):
        differing = [
            name for name in ("rtmr1", "rtmr2") if emulation["boots"][boot][name] != prod["boots"][boot][name]
        ]
        assert "rtmr2" in differing
    added = set(names_in(emulation_image / "initrd")) - set(names_in(prod_image / "initrd"))
    assert added
    assert {name for name in added if "mock" not in name} == set()


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
