"""How guests are started, as far as it needs no guest: commands, domains, archives, and what is refused first."""

import base64
import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from enclave.image.config import CONFIG_BYTES_MAX, encode_guest_config
from enclave.mock.authority import MockAuthority
from node.cli.image import app
from tests.enclave.image.test_folder_and_cli import write_image
from tests.images import harness
from tests.support import documents

GROUP = documents.MINIMAL
NODE = documents.NODE.partition("[attestation]")[0] + '[attestation]\nmode = "tdx"\n'
MRCONFIGID = documents.document(GROUP).mrconfigid
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMAND = [sys.executable, "-m", "node.cli.main", "image"]


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "image")


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "node-0.config"
    file.write_bytes(encode_guest_config({"node.toml": NODE, "group.toml": GROUP}))
    return file


def bondstone(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=60, cwd=harness.PROJECT,
        env={**os.environ, **environment},
    )  # fmt: skip


def option(command, name):
    return command[command.index(name) + 1]


def test_the_command_of_a_td_is_printed_without_hardware_and_names_the_images_files(image, config):
    done = bondstone("run", image, "--td", "--config", config, "--print", PATH="/nonexistent")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)

    td = json.loads(option(command, "-object"))
    assert td["qom-type"] == "tdx-guest"
    assert td["sept-ve-disable"] is True
    assert base64.b64decode(td["mrconfigid"]) == MRCONFIGID
    assert td["quote-generation-socket"]["type"] == "unix"
    assert f"confidential-guest-support={td['id']}" in option(command, "-machine")
    assert option(command, "-accel") == "kvm"
    # By -bios: a TD's firmware is not flash. The command line as it was measured, to the byte.
    assert option(command, "-bios") == str(image / "OVMF.fd")
    assert option(command, "-kernel") == str(image / "vmlinuz")
    assert option(command, "-initrd") == str(image / "initrd")
    assert option(command, "-append") == json.loads((image / "image.json").read_text())["command_line"]
    assert f"file={config}" in option(command, "-fw_cfg")


def test_a_td_on_a_bridge_can_reach_its_peers_and_without_one_nothing(image, config):
    def command_of(*more):
        done = bondstone("run", image, "--td", "--config", config, *more, "--print")
        assert done.returncode == 0, done.stderr
        return shlex.split(done.stdout)

    alone, bridged = command_of(), command_of("--bridge", "br-bond0")

    assert option(alone, "-netdev").startswith("user,id=n0,restrict=on,")
    assert option(bridged, "-netdev") == "bridge,id=n0,br=br-bond0"
    mac = option(bridged, "-device").removeprefix("virtio-net-pci,netdev=n0,romfile=,mac=")
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", mac)
    # All else is the same TD.
    for name in ("-netdev", "-device"):
        for command in (alone, bridged):
            at = command.index(name)
            del command[at : at + 2]
    assert alone == bridged
    # The next host's TD has another configuration, and so another address on the same network.
    config.write_bytes(packed(node="# the node of the next host\n" + NODE))
    assert not option(command_of("--bridge", "br-bond0"), "-device").endswith(mac)


def test_the_libvirt_domain_is_on_the_same_bridge_with_the_same_address(image, config):
    on_bridge = ["run", image, "--td", "--config", config, "--bridge", "br-bond0"]
    domain = ET.fromstring(bondstone(*on_bridge, "--libvirt").stdout)
    command = shlex.split(bondstone(*on_bridge, "--print").stdout)

    assert domain.find("devices/interface/source").get("bridge") == "br-bond0"
    assert option(command, "-device").endswith(f"mac={domain.find('devices/interface/mac').get('address')}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--td", "--config", "CONFIG", "--bridge", "br0,helper=/bin/sh"], "no name of a bridge"),
        (["--td", "--config", "CONFIG", "--bridge", "a-name-of-17-char"], "no name of a bridge"),
        (["--bridge", "br0"], "--bridge goes with --td"),
    ],
)
def test_what_is_no_bridge_of_a_td_is_refused(image, config, tmp_path, arguments, says):
    given = [str(config) if each == "CONFIG" else each for each in arguments]
    done = bondstone("run", image, *given, "--dir", tmp_path / "run", "--print")

    assert (done.returncode, says in done.stderr) == (1, True)
    assert done.stdout == ""


def test_a_td_is_not_started_on_a_host_without_tdx(image, config):
    if harness.host_offers_tdx():
        pytest.skip("this host has TDX")
    done = bondstone("run", image, "--td", "--config", config)

    if shutil.which("qemu-system-x86_64") is None:
        assert (done.returncode, "qemu-system-x86_64 is missing" in done.stderr) == (2, True)
    else:
        assert (done.returncode, "TDX" in done.stderr) == (1, True)
    assert "hint:" in done.stderr


def packed(node=NODE, group=GROUP, **files):
    return encode_guest_config({"node.toml": node, "group.toml": group, **files})


OWN_MACHINE = GROUP.replace("[policy.tcb]", 'state_machine = "ledger:Ledger"\n[policy.tcb]')
MOCK_ROOT = f'[trust]\nroot = "{MockAuthority.create(NOW).root.certificate_der.hex()}"\n'


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (packed(node=NODE + "[group]\nkey_file = 'k'\n"), "node.toml is not TOML"),
        (packed(node=NODE.replace("document =", "key_file = 'k'\ndocument =")), "group's key"),
        (packed(node=documents.NODE), "asks for a mock TD"),
        (packed(node=NODE + "[api]\nlisten = 'x'\n"), "[api.listen]"),
        (packed(node=NODE.replace("group.toml", "other.toml")), "other.toml, which is not among"),
        (
            packed(node=NODE + "[attestation.collateral]\ntls_ca = 'ca.pem'\n"),
            "[attestation.collateral.tls_ca]",
        ),
        (
            packed(node=NODE + "[attestation.jwt]\ntoken_file = 'own.jwt'\n", **{"own.jwt": ""}),
            "has no [jwt]",
        ),
        (packed(node=NODE + "nonsense = 1\n"), "unknown key"),
        (packed(group=GROUP + "[consensus]\nmin_voters = 9\n"), "[consensus]"),
        (packed(group=GROUP + "[consensus]\nfast = true\n"), "unknown key"),
        (packed(group=GROUP.replace('"own"', f'"{"00" * 48}"')), "mrconfigid"),
        (packed(group=OWN_MACHINE), "'ledger:Ledger' may not be loaded"),
        (packed(group=GROUP + MOCK_ROOT), "[trust] root is a mock"),
        (b"{", "not JSON"),
        (b" " * (CONFIG_BYTES_MAX + 1), "is larger than"),
    ],
)
def test_a_configuration_that_the_guest_would_refuse_is_refused_before_it_starts(
    image, config, document, reason
):
    config.write_bytes(document)
    arguments = ["--image", image, "--td", "--config", config, "--dir", config.parent, "--print"]
    done = subprocess.run(
        [sys.executable, str(harness.SCRIPTS / "run.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stdout == ""


def test_the_libvirt_domain_starts_the_same_td(image, config):
    done = bondstone("run", image, "--td", "--config", config, "--libvirt")
    assert done.returncode == 0, done.stderr
    domain = ET.fromstring(done.stdout)

    assert domain.get("type") == "kvm"
    assert domain.find("os/loader").attrib == {"type": "rom", "readonly": "yes"}
    for tag, file in (("loader", "OVMF.fd"), ("kernel", "vmlinuz"), ("initrd", "initrd")):
        assert domain.findtext(f"os/{tag}") == str(image / file)
    command_line = json.loads((image / "image.json").read_text())["command_line"]
    assert domain.findtext("os/cmdline") == command_line
    security = domain.find("launchSecurity")
    assert security.get("type") == "tdx"
    # SEPT_VE_DISABLE and no DEBUG.
    assert int(security.findtext("policy"), 16) == 1 << 28
    assert base64.b64decode(security.findtext("mrConfigId")) == MRCONFIGID
    assert domain.find("sysinfo[@type='fwcfg']/entry").attrib == {
        "name": "opt/bondstone/config",
        "file": str(config),
    }


def test_the_archive_for_google_cloud_is_one_disk_of_whole_gibibytes_in_an_old_gnu_tar(image, tmp_path):
    archives = [tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"]
    for archive in archives:
        done = bondstone("gcp", image, "--out", archive)
        assert done.returncode == 0, done.stderr

    assert archives[0].read_bytes() == archives[1].read_bytes()
    with gzip.open(archives[0]) as file:
        # "ustar", two spaces, NUL: GNU's old format (tar.5).
        assert file.read(512)[257:265] == b"ustar  \0"
    disk = (image / "disk.raw").read_bytes()
    with tarfile.open(archives[0]) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.uid, member.mtime) == ("disk.raw", 0, 1795132800)
        assert member.issparse()
        assert member.size == 1 << 30
        contents = tar.extractfile(member)
        assert contents.read(len(disk)) == disk
        assert not any(contents.read(1 << 20))


def documented():
    """The commands of the documentation on images, without comments and redirections."""
    found = set()
    for document in ("README.md", "docs/deploy.md"):
        for line in (harness.PROJECT / document).read_text().splitlines():
            command = line.strip().split("#")[0].split(">")[0].strip()
            if command.startswith(".venv/bin/bondstone image "):
                found.add(command.removeprefix(".venv/bin/bondstone image "))
    return sorted(found)


@pytest.mark.parametrize("arguments", documented())
def test_the_documented_commands_are_understood(arguments):
    # An unknown command, option or value is an error before help is given.
    shown = CliRunner().invoke(app, [*shlex.split(arguments), "--help"])

    assert shown.exit_code == 0, shown.output
    assert "Usage:" in shown.output


def test_a_production_image_is_not_emulated_for_it_has_no_mock_td(image, tmp_path):
    fake_qemu(tmp_path / "bin")
    assert bondstone("measure", image).returncode == 0
    done = bondstone("run", image, "--dir", tmp_path / "run", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    assert done.returncode == 1
    assert "--profile emulation" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_td_does_not_run_an_image_that_was_built_for_emulation(config, tmp_path):
    image = write_image(tmp_path / "emulation", profile="emulation")
    done = bondstone("run", image, "--td", "--config", config, "--print")

    assert done.returncode == 1
    assert "--profile prod" in done.stderr
    assert done.stdout == ""


def test_a_production_image_takes_no_entropy_from_its_host():
    profile = json.loads((harness.SCRIPTS / "profiles" / "prod.json").read_text())

    # The processor's is trusted, and no boot loader's; there is no driver for the device that a host fills.
    assert {"random.trust_cpu=on", "random.trust_bootloader=off"} <= set(profile["command_line"].split())
    assert not [name for name in profile["modules"] if "rng" in name]
    assert "virtio-rng" in json.loads((harness.SCRIPTS / "profiles" / "debug.json").read_text())["modules"]


def test_a_guest_reads_nothing_from_its_serial_line():
    sources = {path.name: path.read_text() for path in (harness.SCRIPTS / "guest").glob("*.py")}

    consoles = [
        (name, line) for name, text in sources.items() for line in text.splitlines() if "/dev/console" in line
    ]
    assert [(name, "wb" in line) for name, line in consoles] == [("main.py", True)]
    assert "stdin=subprocess.DEVNULL" in sources["main.py"]
    assert not [name for name, text in sources.items() if "sys.stdin" in text or "input(" in text]


def test_a_missing_emulator_is_named_with_the_command_that_installs_it(image, tmp_path):
    done = bondstone("run", image, "--dir", tmp_path / "run", PATH="/nonexistent")

    assert done.returncode == 2
    assert "qemu-system-x86_64 is missing" in done.stderr
    assert "apt-get install qemu-system-x86" in done.stderr


class Gone(BaseHTTPRequestHandler):
    """A mirror that has nothing any more."""

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


class Forged(Gone):
    """A mirror whose files are nobody's."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Origin: Debian\nSHA256:\n")


@contextlib.contextmanager
def mirror(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def build_script(command, **environment):
    return subprocess.run(
        [sys.executable, str(harness.SCRIPTS / "build.py"), command],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.skipif(
    not KEYRING.exists() or shutil.which("gpgv") is None, reason="needs gpgv and Debian's keyring"
)
def test_a_release_that_debian_did_not_sign_is_not_locked(tmp_path):
    lock = tmp_path / "lock.json"
    with mirror(Forged) as address:
        done = build_script("lock", BONDSTONE_IMAGE_LOCK=str(lock), BONDSTONE_MIRROR_DEBIAN=address)

    assert done.returncode == 1
    assert "not signed by Debian" in done.stderr
    assert not lock.exists()


def test_a_missing_verifier_of_releases_is_named_with_the_command_that_installs_it(tmp_path):
    lock = str(tmp_path / "lock.json")
    with mirror(Forged) as address:
        done = build_script(
            "lock", BONDSTONE_IMAGE_LOCK=lock, BONDSTONE_MIRROR_DEBIAN=address, PATH="/nonexistent"
        )

    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert "apt-get install" in done.stderr
    assert "gpgv" in done.stderr


def test_a_locked_package_that_the_mirror_has_removed_is_named_with_the_way_to_lock_again(tmp_path):
    package = {"group": "root", "name": "libgone1", "version": "1.2-3", "archive": "debian"}
    package |= {"path": "pool/main/libg/libgone1_1.2-3_amd64.deb", "sha256": "00" * 32}
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"version": 1, "debs": [package], "wheels": []}))
    with mirror(Gone) as address:
        done = build_script("fetch", BONDSTONE_IMAGE_LOCK=str(lock), BONDSTONE_MIRROR_DEBIAN=address)

    assert done.returncode == 1
    assert harness.STALE in done.stderr
    assert "libgone1 1.2-3" in done.stderr
    assert "build.py lock" in done.stderr


def test_a_missing_tool_of_the_image_tests_is_named_with_its_package_before_anything_is_built():
    there = {"qemu-system-x86_64", "gpgv", "tar"}
    said = harness.missing_tools(
        ["qemu-system-x86_64", "swtpm", "swtpm_setup"], lambda name: name in there or None
    )

    assert "swtpm, swtpm_setup missing" in said
    assert said.endswith("apt-get install swtpm swtpm-tools")
    assert harness.missing_tools(there, lambda name: name) is None
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "image", "tests/images", "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False, timeout=100, cwd=harness.PROJECT,
        env={**os.environ, "PATH": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "apt-get install" in done.stderr
    assert "swtpm-tools" in done.stderr


class Builder:
    """Stands in for ``build.py``: answers a fetch with what is left of ``answers``."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, command, lock):
        self.asked.append((command, lock))
        return "" if command == "lock" else self.answers.pop(0)


def test_a_stale_lock_is_replaced_for_the_run_of_the_tests_with_a_warning(tmp_path):
    fresh, said = tmp_path / "lock.json", []
    builder = Builder(f"error: libc6 2 is {harness.STALE}: 404", "")

    assert harness.bring_inputs(builder, fresh, said.append) == fresh
    assert builder.asked == [("fetch", None), ("lock", fresh), ("fetch", fresh)]
    assert "libc6 2" in said[0]


def test_no_other_failure_replaces_the_lock(tmp_path):
    builder = Builder("error: gpgv is missing")

    with pytest.raises(AssertionError, match="gpgv is missing"):
        harness.bring_inputs(builder, tmp_path / "lock.json", print)
    assert builder.asked == [("fetch", None)]
    current = Builder("")
    assert harness.bring_inputs(current, tmp_path / "lock.json", print) is None


FAKE_QEMU = """\
#!{python}
# Holds the ports that a guest's QEMU would hold, until it is told to end.
import re, signal, socket, sys
held = [socket.create_server(("127.0.0.1", int(port))) for port in re.findall(r"tcp:127.0.0.1:(\\d+)-", " ".join(sys.argv))]
console = next(argument[5:] for argument in sys.argv if argument.startswith("file:"))
with open(console, "w") as file:
    file.write('{{"source": "node", "event": "listening", "ports": %d}}\\n' % len(held))
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pause()
"""


def fake_qemu(folder):
    fake = folder / "qemu-system-x86_64"
    fake.parent.mkdir()
    fake.write_text(FAKE_QEMU.format(python=sys.executable))
    fake.chmod(0o755)
    return fake


def connectable(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "one process"])
def test_ctrl_c_ends_the_guests_and_frees_their_ports(tmp_path, whole_group):
    image = write_image(tmp_path / "emulation", profile="emulation")
    fake = fake_qemu(tmp_path / "bin")
    assert bondstone("measure", image).returncode == 0
    port = harness.free_api_port() + 15
    # A terminal sends SIGINT to its whole foreground group; a supervisor to the one process that it started.
    with subprocess.Popen(
        [*COMMAND, "run", str(image), "--count", "2", "--dir", str(tmp_path / "run"), "--api-port", str(port)],
        cwd=harness.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
    ) as process:  # fmt: skip
        listening = 0
        while listening < 2:
            line = process.stdout.readline()
            assert line, "it ended"
            listening += "listening ports=2" in line
        assert connectable(port)
        assert connectable(port + 1)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        rest = process.stdout.read()

    assert process.returncode == 0, rest
    assert "guest 0 ended" in rest
    assert "guest 1 ended" in rest
    assert not connectable(port)
    assert not connectable(port + 1)
