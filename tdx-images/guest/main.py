"""PID 1: mounts, modules, network, configuration, then the node, which is the only workload. Never returns.

It prints one JSON object per line on the serial console, which the host reads, so it never prints a secret.
"""

import base64
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enclave.image.config import GuestConfig, Profile, parse_guest_config_untrusted
from enclave.image.errors import GuestConfigError
from guest import intake, network

RUN = Path("/run/bondstone")
CONFIG = RUN / "config"
DATA = RUN / "data"
MODULES = Path("/usr/lib/bondstone/modules")
# Isolated (-I): no folder or variable outside the measured image adds to the imports, and the host's files
# are outside. No site (-S) and its .pth files, no writing of bytecode (-B), no buffers (-u).
NODE_COMMAND = ("/usr/bin/python3.13", "-I", "-S", "-B", "-u", "/opt/bondstone/guest/start_node.py")
WORKING_DIRECTORY = "/"
# Nothing of the kernel's command line reaches the environment (init(5) passes unknown parameters on).
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}

DHCP_TRIES = 8
LINE_BYTES_MAX = 16 * 1024
BOOT_LOG_BYTES_MAX = 512 * 1024
BOOT_LOG_PIECE_BYTES = 6000
CCEL_PADDING_KEPT = 64
STOP_SECONDS = 15

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_HARDENED = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MOUNTS = (
    ("proc", "/proc", "proc", _HARDENED, ""),
    ("sysfs", "/sys", "sysfs", _HARDENED, ""),
    ("devtmpfs", "/dev", "devtmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755"),
    ("tmpfs", "/run", "tmpfs", _HARDENED, "mode=0755,size=25%"),
    ("tmpfs", "/tmp", "tmpfs", _HARDENED, "mode=1777,size=16m"),
    ("securityfs", "/sys/kernel/security", "securityfs", _HARDENED, ""),
)
_CAP_NET_BIND_SERVICE, _CAP_LAST, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 10, 40, 24, 38
_SYS_FINIT_MODULE = 313  # x86-64
_REBOOT_POWER_OFF, _REBOOT_CAD_OFF = 0x4321FEDC, 0x00000000
_BOOT_LOGS = (
    ("ccel", Path("/sys/firmware/acpi/tables/data/CCEL")),
    ("tpm", Path("/sys/kernel/security/tpm0/binary_bios_measurements")),
)
_libc = ctypes.CDLL(None, use_errno=True)
_writing = threading.Lock()


def log(event: str, **fields: Any) -> None:
    """Write one line to the console."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "source": "init",
        "event": event,
        **fields,
    }
    _write(json.dumps(line).encode())


def main() -> None:
    """Run the guest until its node ends, then power off. PID 1 must never exit: that is a kernel panic."""
    try:
        _run()
    except GuestConfigError as exc:
        log("configuration-refused", reason=exc.reason, message=exc.message)
    except BaseException as exc:
        log("init-failed", error=f"{type(exc).__name__}: {exc}")
    finally:
        _power_off()


def _run() -> None:
    _mount_all()
    image = json.loads(Path("/etc/bondstone/image.json").read_bytes())
    profile = Profile(image["profile"])
    _banner(image, profile)
    _load_modules(profile)
    _mount("configfs", "/sys/kernel/config", "configfs", _HARDENED, "")
    _floor_clock(image["built"])
    log("trust-domain", tdx=intake.is_trust_domain())
    # This comes before any refusal, so that the report of what was booted is always printed.
    _print_boot_logs()
    if profile is Profile.DEBUG:
        from guest import debug

        debug.before_node(log, _print_blob)
    _start_network(_take_configuration(profile))
    _supervise(node_environment(image))


def _banner(image: dict[str, Any], profile: Profile) -> None:
    log("start", image=image["name"], profile=profile.value, kernel=image["kernel"], uptime=time.monotonic())
    if profile is Profile.DEBUG:
        log("DEBUG-IMAGE", message="THIS IS A DEBUG IMAGE: it takes secrets from its host. Never trust it.")


def _mount_all() -> None:
    for source, target, kind, flags, options in _MOUNTS:
        _mount(source, target, kind, flags, options)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    _mount("rootfs", "/", "", _MS_REMOUNT | _MS_RDONLY, "")
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    if done:
        raise OSError(ctypes.get_errno(), f"cannot mount {kind or 'read-only'} on {target}")


def _load_modules(profile: Profile) -> None:
    for name in json.loads(Path("/etc/bondstone/modules.json").read_bytes()):
        error = load_module(MODULES / f"{name}.ko")
        if error:
            # Hardware that is not there (ENODEV) is normal: one list serves every cloud.
            log("module-not-loaded", module=name, error=error)
    if profile is Profile.DEBUG:
        for extra in sorted(Path("/usr/lib/bondstone/extra").glob("*.ko")):
            log("extra-module", module=extra.name, error=load_module(extra))


def load_module(path: Path) -> str | None:
    """Load a kernel module and return None, or the name of the error."""
    with path.open("rb") as file:
        if _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), b"", 0):
            return os.strerror(ctypes.get_errno())
    return None


def _floor_clock(built: int) -> None:
    """Raise a clock that is before the image's build: the host sets it, and may only shorten trust."""
    if time.time() < built:
        log("clock-behind", clock=time.time(), built=built)
        time.clock_settime(time.CLOCK_REALTIME, built)


def _take_configuration(profile: Profile) -> GuestConfig:
    document, origin = intake.read_config()
    config = parse_guest_config_untrusted(document, profile=profile)
    for name, contents in config.files.items():
        target = CONFIG / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.touch(mode=0o600)
        target.write_text(contents)
    DATA.mkdir(mode=0o700)
    log("configuration", origin=origin, files=sorted(config.files))
    return config


def _start_network(config: GuestConfig) -> None:
    network.bring_up("lo")
    for name in network.interfaces():
        network.bring_up(name)
        if name in config.addresses:
            network.set_address(name, config.addresses[name])
            log("address", interface=name, address=str(config.addresses[name]))
            continue
        client = network.DhcpClient(name, log)
        lease = client.acquire(tries=DHCP_TRIES)
        if lease is None:
            log("dhcp-failed", interface=name)
        else:
            client.keep(lease)


def _print_boot_logs() -> None:
    """Print the boot's measurements, for ``bondstone image verify`` to compare with the prediction."""
    for kind, path in _BOOT_LOGS:
        if path.exists():
            with path.open("rb") as file:
                data = file.read(BOOT_LOG_BYTES_MAX)
            _print_blob(kind, without_padding(data) if kind == "ccel" else data)


def _print_blob(kind: str, data: bytes) -> None:
    for at in range(0, len(data), BOOT_LOG_PIECE_BYTES):
        piece = base64.b64encode(data[at : at + BOOT_LOG_PIECE_BYTES]).decode()
        log("boot-log", kind=kind, offset=at, size=len(data), data=piece)


def without_padding(area: bytes) -> bytes:
    """Return a CCEL area without most of its 0xFF padding. Some remains: the last event may end in 0xFF."""
    return area[: len(area.rstrip(b"\xff")) + CCEL_PADDING_KEPT]


def node_environment(image: dict[str, Any]) -> dict[str, str]:
    """Return the node's whole environment. Its clock never shows a time before the image's build."""
    return {
        **ENVIRONMENT,
        "BONDSTONE_BUILD_DATE": str(image["built"]),
    }


def _supervise(environment: dict[str, str]) -> None:
    """Run the node and wait for it, and reap every other process that ends."""
    node = subprocess.Popen(
        [*NODE_COMMAND, str(CONFIG / "node.toml")],
        env=environment, cwd=WORKING_DIRECTORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_confine,  # noqa: PLW1509 (only prctl: no lock, no allocation)
    )  # fmt: skip
    log("node-started", pid=node.pid, uptime=time.monotonic())
    # Ctrl-Alt-Del from the host ends the node in order.
    _libc.reboot(_REBOOT_CAD_OFF)
    signal.signal(signal.SIGINT, lambda *_: node.terminate())
    relay = threading.Thread(target=_relay, args=(node.stdout,), daemon=True)
    relay.start()
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == node.pid:
            relay.join(STOP_SECONDS)
            log("node-ended", exit_code=os.waitstatus_to_exitcode(status))
            return


def _confine() -> None:
    """Leave the node no capability except binding low ports, and no way to regain another one."""
    for capability in range(_CAP_LAST + 1):
        if capability != _CAP_NET_BIND_SERVICE:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def _relay(stream: Any) -> None:
    """Relay the node's lines; a line that is not a JSON object becomes the text of one."""
    while line := stream.readline(LINE_BYTES_MAX):
        text = line.rstrip(b"\n")
        try:
            structured = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            structured = False
        if structured:
            _write(text)
        else:
            log("node", text=text.decode(errors="backslashreplace"))


def _write(line: bytes) -> None:
    with _writing, open("/dev/console", "wb", buffering=0) as console:
        console.write(line + b"\r\n")


def _power_off() -> None:
    log("power-off", uptime=time.monotonic())
    os.sync()
    try:
        sys.stdout.flush()
    finally:
        _libc.reboot(_REBOOT_POWER_OFF)
        while True:
            signal.pause()
