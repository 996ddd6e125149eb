"""QEMU command lines: emulated guests, and TDs."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from imagelib.errors import BuildError

QEMU = "qemu-system-x86_64"
QGS_SOCKET = "/var/run/tdx-qgs/qgs.socket"
API_PORT = 8443
BOND_PORT = 7443
CONFIG_ENTRY = "opt/bondstone/config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One virtual machine. Ports are on 127.0.0.1 of the host."""

    image: Path
    command_line: str
    config: Path
    console: Path
    memory_mib: int
    cpus: int
    api_port: int
    bond_port: int
    number: int
    segment_port: int
    bridge: str | None = None
    """Bridge of the host that a TD's network card is on; None: only the two ports reach it."""
    """UDP port of the link that the guests share, over multicast that never leaves the loopback interface."""


def require_qemu() -> str:
    found = shutil.which(QEMU)
    if found is None:
        raise BuildError(f"{QEMU} is missing", hint="apt-get install qemu-system-x86")
    return found


def emulated(guest: Guest, *, mr_config_id: bytes | None = None) -> list[str]:
    """Return the command for software emulation: there is no TDX, so quotes can only be the mock's."""
    command = [
        require_qemu(), "-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max",
        *_common(guest),
        "-netdev", f"socket,id=n1,mcast=230.77.0.1:{guest.segment_port},localaddr=127.0.0.1",
        "-device", f"virtio-net-pci,netdev=n1,romfile=,mac=52:54:00:77:00:{guest.number + 1:02x}",
        *_direct(guest),
    ]  # fmt: skip
    if mr_config_id is not None:
        file = guest.config.with_suffix(".mrconfigid")
        file.write_bytes(mr_config_id)
        command += ["-fw_cfg", f"name=opt/bondstone/mrconfigid,file={file}"]
    return command


def trust_domain(guest: Guest, *, mr_config_id: bytes, qgs_socket: str = QGS_SOCKET) -> list[str]:
    """Return the command for a TD on a host with TDX: QEMU 10.1 or newer, Linux 6.16 or newer.

    A machine without them can also make the command, to print it or to copy it to such a host.
    """
    td = {
        "qom-type": "tdx-guest",
        "id": "tdx0",
        "sept-ve-disable": True,
        "mrconfigid": base64.b64encode(mr_config_id).decode(),
        "quote-generation-socket": {"type": "unix", "path": qgs_socket},
    }
    return [
        QEMU, "-accel", "kvm", "-cpu", "host", "-object", json.dumps(td),
        "-machine", "q35,kernel_irqchip=split,confidential-guest-support=tdx0,hpet=off,smm=off,pic=off",
        "-bios", str(guest.image / "OVMF.fd"),
        *_common(guest),
        *_direct(guest),
    ]  # fmt: skip


def require_bridge_name(name: str) -> str:
    """Return a name that Linux and QEMU's option syntax take for one network interface."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}", name) is None:
        raise BuildError(
            f"{name!r} is no name of a bridge: letters, digits, _ and -, at most 15",
            hint="`ip link show type bridge` lists this host's",
        )
    return name


def mac_of(config: bytes) -> str:
    """Return the address of a TD's network card: it stays the same for a node, and differs between nodes.

    QEMU's default would be one address for the TDs of all hosts on a bridge. The rest is the first three
    bytes of the configuration's SHA-256.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x52\x54\x00" + hashlib.sha256(config).digest()[:3])


def _network(guest: Guest) -> list[str]:
    if guest.bridge is not None:
        mac = mac_of(guest.config.read_bytes())
        return [
            "-netdev", f"bridge,id=n0,br={guest.bridge}",
            "-device", f"virtio-net-pci,netdev=n0,romfile=,mac={mac}",
        ]  # fmt: skip
    forwards = (
        f"hostfwd=tcp:127.0.0.1:{guest.api_port}-:{API_PORT}",
        f"hostfwd=tcp:127.0.0.1:{guest.bond_port}-:{BOND_PORT}",
    )
    return [
        # restrict=on: the guest cannot reach anything outside this machine.
        "-netdev", f"user,id=n0,restrict=on,{','.join(forwards)}",
        "-device", "virtio-net-pci,netdev=n0,romfile=",
    ]  # fmt: skip


def _common(guest: Guest) -> list[str]:
    return [
        "-smp", str(guest.cpus), "-m", f"{guest.memory_mib}M",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", f"file:{guest.console}",
        *_network(guest),
        "-fw_cfg", f"name={CONFIG_ENTRY},file={guest.config}",
    ]  # fmt: skip


def _direct(guest: Guest) -> list[str]:
    return [
        "-kernel", str(guest.image / "vmlinuz"), "-initrd", str(guest.image / "initrd"),
        "-append", guest.command_line,
    ]  # fmt: skip
