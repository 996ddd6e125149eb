"""``bondstone image doctor``: whether this host is ready to run TDs, and what to do about each answer.

The judgement is in :func:`examine`, over one :class:`Probe`. No hardware has confirmed it yet.
"""

import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from attestation import files
from attestation.files import FileError
from node.cli.exits import NO, UNDECIDED, YES
from node.errors import ConfigError

CPU_INFO: Final = Path("/proc/cpuinfo")
KERNEL_RELEASE: Final = Path("/proc/sys/kernel/osrelease")
KVM: Final = Path("/dev/kvm")
KVM_TDX: Final = Path("/sys/module/kvm_intel/parameters/tdx")
QGS_SOCKET: Final = Path("/var/run/tdx-qgs/qgs.socket")
NETWORKS: Final = Path("/sys/class/net")
BRIDGE_RULES: Final = Path("/etc/qemu/bridge.conf")
QEMU: Final = "qemu-system-x86_64"
KERNEL_MIN: Final = (6, 16)
QEMU_MIN: Final = (10, 1)
CPU_FLAG: Final = "tdx_host_platform"
# Linux refuses a read of /proc/sys that asks for more than it may allocate at once, 4 MiB.
PROBE_BYTES_MAX: Final = 2 * 1024 * 1024
PROBE_SECONDS: Final = 5.0


class HostAnswer(Enum):
    """The answer to one question about the host."""

    OK = "ok"
    NOT_OK = "not ok"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row. ``todo``: what to do, one sentence; empty if the state is ok."""

    name: str
    state: HostAnswer
    found: str
    todo: str = ""


class Probe(Protocol):
    """Everything that is asked of the host."""

    def text(self, path: Path) -> str | None:
        """Return a file's text; None if there is no such file, or it cannot be read."""

    def exists(self, path: Path) -> bool: ...

    def may_open(self, path: Path) -> bool:
        """Return whether this user may read and write a file or device."""

    def output(self, command: Sequence[str]) -> str | None:
        """Return what a command prints; None if it is missing, fails or takes too long."""

    def answers(self, path: Path) -> bool:
        """Return whether a server accepts connections on a socket in the file system."""

    def reaches(self, host: str, port: int) -> bool:
        """Return whether a server accepts TCP connections."""


class HostProbe:
    """The host that this process runs on."""

    def text(self, path: Path) -> str | None:
        try:
            return files.read_text(path, bytes_max=PROBE_BYTES_MAX)
        except FileError:
            return None

    def exists(self, path: Path) -> bool:
        return path.exists()

    def may_open(self, path: Path) -> bool:
        return os.access(path, os.R_OK | os.W_OK)

    def output(self, command: Sequence[str]) -> str | None:
        try:
            done = subprocess.run(
                [*command], capture_output=True, text=True, check=False, timeout=PROBE_SECONDS
            )
        except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def answers(self, path: Path) -> bool:
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                return False
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(PROBE_SECONDS)
                client.connect(str(path))
        except OSError:
            return False
        return True

    def reaches(self, host: str, port: int) -> bool:
        try:
            with socket.create_connection((host, port), timeout=PROBE_SECONDS):
                return True
        except OSError:
            return False


def examine(probe: Probe, *, bridge: str | None, collateral: str | None) -> tuple[Check, ...]:
    """Judge a host.

    Args:
        probe: the host.
        bridge: the bridge that the TDs shall be on; None: none is asked for.
        collateral: https URL of the PCCS or PCS that the nodes use; None: none is asked for.

    Raises:
        ConfigError: ``collateral`` is no https URL.
    """
    checks: list[Callable[[Probe], Check]] = [_cpu, _kernel, _kvm, _kvm_tdx, _qemu, _qemu_tdx, _qgs]
    rows = [check(probe) for check in checks]
    if bridge is not None:
        rows += [_bridge(probe, bridge), _bridge_rule(probe, bridge)]
    if collateral is not None:
        rows.append(_collateral(probe, collateral))
    return tuple(rows)


def exit_code(rows: Sequence[Check]) -> int:
    """Return 0 if every row is ok, 1 if one is not, and 3 if the rest is only unknown."""
    states = {row.state for row in rows}
    if HostAnswer.NOT_OK in states:
        return NO
    return UNDECIDED if HostAnswer.UNKNOWN in states else YES


def _cpu(probe: Probe) -> Check:
    text = probe.text(CPU_INFO)
    if text is None:
        return _unknown("cpu", f"{CPU_INFO} cannot be read", "run it on the host itself, on Linux for x86-64")
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if (flags is not None and CPU_FLAG in flags[1].split()) or _kvm_offers_tdx(probe):
        return _ok("cpu", "offers TDX to the host")
    return _not_ok(
        "cpu",
        f"no flag {CPU_FLAG}",
        "enable TDX, TME-MT and the SEAM loader in the firmware; it needs a 5th generation Xeon or newer",
    )


def _kernel(probe: Probe) -> Check:
    text = probe.text(KERNEL_RELEASE)
    version = _version(text or "", r"(\d+)\.(\d+)")
    if version is None:
        return _unknown("kernel", f"{KERNEL_RELEASE} cannot be read", "see that Linux is 6.16 or newer")
    return _at_least("kernel", "Linux", version, KERNEL_MIN)


def _kvm(probe: Probe) -> Check:
    if not probe.exists(KVM):
        return _not_ok("kvm", f"{KVM} is missing", "enable VT-x in the firmware, and `modprobe kvm_intel`")
    if not probe.may_open(KVM):
        return _not_ok("kvm", f"{KVM} is closed to this user", "add the user to the group kvm")
    return _ok("kvm", str(KVM))


def _kvm_tdx(probe: Probe) -> Check:
    value = probe.text(KVM_TDX)
    if value is None:
        return _not_ok(
            "kvm-tdx",
            f"{KVM_TDX} is missing",
            "load kvm_intel of a kernel that was built with CONFIG_INTEL_TDX_HOST",
        )
    if not _kvm_offers_tdx(probe):
        return _not_ok(
            "kvm-tdx",
            f"kvm_intel.tdx is {value.strip()}",
            "boot with kvm_intel.tdx=1; if it stays N, `dmesg | grep -i tdx` names the reason, such as a TDX "
            "module that the firmware did not load",
        )
    return _ok("kvm-tdx", "KVM has initialized the TDX module")


def _qemu(probe: Probe) -> Check:
    text = probe.output([QEMU, "--version"])
    version = _version(text or "", r"version (\d+)\.(\d+)")
    if version is None:
        return _not_ok("qemu", f"{QEMU} does not answer", "apt-get install qemu-system-x86, 10.1 or newer")
    return _at_least("qemu", "QEMU", version, QEMU_MIN)


def _qemu_tdx(probe: Probe) -> Check:
    text = probe.output([QEMU, "-object", "help"])
    if text is None:
        return _unknown("qemu-tdx", f"{QEMU} lists no objects", "install QEMU 10.1 or newer")
    if "tdx-guest" not in text.split():
        return _not_ok(
            "qemu-tdx", "no object tdx-guest", "install a QEMU 10.1 or newer that was built with TDX"
        )
    return _ok("qemu-tdx", "has the object tdx-guest")


def _qgs(probe: Probe) -> Check:
    if not probe.exists(QGS_SOCKET):
        return _not_ok(
            "qgs",
            f"{QGS_SOCKET} is missing",
            "install Intel's tdx-qgs, leave `port` out of /etc/qgs.conf so that it takes its socket, and "
            "`systemctl enable --now qgsd`",
        )
    if not probe.answers(QGS_SOCKET):
        return _not_ok(
            "qgs",
            f"{QGS_SOCKET} takes no connection",
            "`systemctl restart qgsd`, and let the user that runs QEMU open the socket",
        )
    return _ok("qgs", str(QGS_SOCKET))


def _bridge(probe: Probe, name: str) -> Check:
    if not probe.exists(NETWORKS / name / "bridge"):
        return _not_ok(
            "bridge",
            f"{name} is no bridge of this host",
            f"`ip link add {name} type bridge`, with the network card of the nodes' network in it",
        )
    if (probe.text(NETWORKS / name / "operstate") or "").strip() == "down":
        return _not_ok("bridge", f"{name} is down", f"`ip link set {name} up`, and see that a card is in it")
    return _ok("bridge", name)


def _bridge_rule(probe: Probe, name: str) -> Check:
    text = probe.text(BRIDGE_RULES)
    rules = [line.split() for line in (text or "").splitlines()]
    if ["deny", name] not in rules and (["allow", name] in rules or ["allow", "all"] in rules):
        return _ok("bridge-rule", f"{BRIDGE_RULES} allows {name}")
    return _not_ok(
        "bridge-rule",
        f"{BRIDGE_RULES} does not allow {name}",
        f"add the line `allow {name}` to it; libvirt does not need it",
    )


def _collateral(probe: Probe, url: str) -> Check:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as exc:
        raise ConfigError(f"{url!r} is no URL: {exc}") from exc
    if parts.scheme != "https" or host is None:
        raise ConfigError(f"{url!r} is no https URL")
    if probe.reaches(host, port):
        return _ok("collateral", f"{host}:{port}")
    return _not_ok(
        "collateral",
        f"{host}:{port} takes no connection",
        "start the PCCS, or let this host reach Intel's PCS",
    )


def _kvm_offers_tdx(probe: Probe) -> bool:
    return (probe.text(KVM_TDX) or "").strip() in {"1", "Y"}


def _version(text: str, pattern: str) -> tuple[int, int] | None:
    found = re.search(pattern, text)
    return None if found is None else (int(found[1]), int(found[2]))


def _at_least(name: str, what: str, version: tuple[int, int], least: tuple[int, int]) -> Check:
    found = f"{what} {version[0]}.{version[1]}"
    if version < least:
        return _not_ok(name, found, f"install {what} {least[0]}.{least[1]} or newer")
    return _ok(name, found)


def _ok(name: str, found: str) -> Check:
    return Check(name=name, state=HostAnswer.OK, found=found)


def _not_ok(name: str, found: str, todo: str) -> Check:
    return Check(name=name, state=HostAnswer.NOT_OK, found=found, todo=todo)


def _unknown(name: str, found: str, todo: str) -> Check:
    return Check(name=name, state=HostAnswer.UNKNOWN, found=found, todo=todo)
