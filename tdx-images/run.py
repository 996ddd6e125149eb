#!/usr/bin/env python3
"""Run guests of an image: emulated, as a group of mock TDs on loopback, or as one TD on a host with TDX.

Prints one JSON event per line on stdout and runs until it receives SIGTERM or SIGINT, or until all guests
have ended.
"""

import argparse
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.dont_write_bytecode = True

from imagelib import libvirt, qemu  # noqa: E402
from imagelib.errors import BuildError  # noqa: E402
from imagelib.group import EmulatedGroup  # noqa: E402
from msgspec import UNSET  # noqa: E402

from attestation import files  # noqa: E402
from enclave.image.config import CONFIG_BYTES_MAX, Profile, parse_guest_config_untrusted  # noqa: E402
from enclave.image.errors import ImageError  # noqa: E402
from enclave.image.folder import BuiltImage, load_image  # noqa: E402
from node.errors import NodeError  # noqa: E402
from node.group_document import GroupDocument  # noqa: E402
from node.guest import files_of_guest  # noqa: E402
from node.machines.loader import Machines  # noqa: E402
from node.process_events import (  # noqa: E402
    ConsoleLine,
    GuestEnded,
    GuestsPrepared,
    GuestStarted,
    ProcessEvent,
)

GUESTS_MAX = 7
STOP_SECONDS = 10
POLL_SECONDS = 0.2
KVM_TDX = Path("/sys/module/kvm_intel/parameters/tdx")


def report(event: ProcessEvent) -> None:
    print(json.dumps(event.fields()), flush=True)


class Guests:
    """The processes of the guests, and the output on their consoles."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[subprocess.Popen[bytes], Path, int]] = {}
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def start(self, guest: qemu.Guest, command: list[str], *, emulated: bool) -> None:
        guest.console.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._running[guest.number] = (process, guest.console, 0)
        report(
            GuestStarted(
                number=guest.number,
                pid=process.pid,
                console=str(guest.console),
                api=f"https://127.0.0.1:{guest.api_port}" if guest.bridge is None else UNSET,
                bridge=UNSET if guest.bridge is None else guest.bridge,
                bond=f"127.0.0.1:{guest.bond_port}" if emulated else UNSET,
                image=str(guest.image) if emulated else UNSET,
            )
        )

    def follow(self) -> int:
        """Relay console lines until all guests have ended; return 0 if this process stopped them."""
        while self._running:
            for number in list(self._running):
                process, console, offset = self._running[number]
                ended = process.poll()
                offset = self._relay(number, console, offset)
                self._running[number] = (process, console, offset)
                if ended is not None:
                    del self._running[number]
                    report(GuestEnded(number, ended))
            time.sleep(POLL_SECONDS)
        return 0 if self._stopping else 1

    def _relay(self, number: int, console: Path, offset: int) -> int:
        if not console.exists():
            return offset
        with console.open("rb") as file:
            file.seek(offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            start = line.find(b"{")
            try:
                value = json.loads(line[start:]) if start >= 0 else None
            except ValueError:
                value = None
            if isinstance(value, dict):
                report(ConsoleLine(number, value))
        return offset + end

    def _stop(self, *_: object) -> None:
        self._stopping = True
        for process, _console, _offset in self._running.values():
            process.terminate()


def emulate(arguments: argparse.Namespace, images: list[BuiltImage]) -> int:
    """Start one emulated guest per image, with one authority and the first image's policy."""
    group = EmulatedGroup(
        arguments.dir,
        images,
        allow_debug=arguments.allow_debug,
        await_key=arguments.await_key,
        founders=arguments.founders,
    )
    segment = free_port(socket.SOCK_DGRAM)
    report(
        GuestsPrepared(
            mock=True,
            group_document=str(group.document_file),
            policy=str(group.policy_file),
            trust_root=str(group.trust_root_file),
            token_file=str(group.token_file),
            urls=tuple(f"https://127.0.0.1:{arguments.api_port + n}" for n in range(len(images))),
        )
    )
    prepared = []
    for number, image in enumerate(images):
        config = group.config_of(number)
        guest = qemu.Guest(
            image=image.folder,
            command_line=image.command_line,
            config=config,
            console=arguments.dir / f"node-{number}.console",
            memory_mib=arguments.memory,
            cpus=arguments.cpus,
            api_port=arguments.api_port + number,
            bond_port=free_port(socket.SOCK_STREAM),
            number=number,
            segment_port=segment,
        )
        prepared.append((guest, qemu.emulated(guest, mr_config_id=group.document.mrconfigid)))
    guests = Guests()
    for guest, command in prepared:
        guests.start(guest, command, emulated=True)
    return guests.follow()


def run_td(arguments: argparse.Namespace, image: BuiltImage) -> int:
    """Start one TD with a configuration that the operator wrote, or print how to start it."""
    if image.profile is Profile.EMULATION:
        raise BuildError(
            f"{image.folder} is for emulation: a TD runs a production image",
            hint="bondstone image build --profile prod",
        )
    digest = checked_config(arguments.config, image).mrconfigid
    guest = qemu.Guest(
        image=image.folder,
        command_line=image.command_line,
        config=arguments.config.resolve(),
        console=arguments.dir / "td.console",
        memory_mib=max(arguments.memory, 2048),
        cpus=arguments.cpus,
        api_port=arguments.api_port,
        bond_port=arguments.bond_port,
        number=0,
        segment_port=0,
        bridge=None if arguments.bridge is None else qemu.require_bridge_name(arguments.bridge),
    )
    if arguments.libvirt:
        print(libvirt.domain(guest, name=image.name, mr_config_id=digest), end="")
        return 0
    command = qemu.trust_domain(guest, mr_config_id=digest)
    if arguments.print:
        print(shlex.join(command))
        return 0
    command[0] = qemu.require_qemu()
    if not KVM_TDX.exists() or KVM_TDX.read_text().strip() not in {"1", "Y"}:
        raise BuildError(
            "this host's KVM does not offer TDX (kvm_intel.tdx)",
            hint="enable TDX in the firmware and boot Linux 6.16 or newer with kvm_intel.tdx=1",
        )
    arguments.dir.mkdir(parents=True, exist_ok=True)
    guests = Guests()
    guests.start(guest, command, emulated=False)
    return guests.follow()


def checked_config(path: Path, image: BuiltImage) -> GroupDocument:
    """Return the group document of a configuration; refuse a configuration that the guest would refuse."""
    data = files.read_bytes(path, bytes_max=CONFIG_BYTES_MAX)
    config = parse_guest_config_untrusted(data, profile=image.profile)
    machines = Machines(named=frozenset(image.machines))
    return files_of_guest(config, profile=image.profile, machines=machines).document


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--image", type=Path, action="append", required=True, help="one per guest, or one for all"
    )
    parser.add_argument("--count", type=int, default=1, help="how many guests, if one image is given")
    parser.add_argument("--founders", type=int, help="how many guests found the group; all, by default")
    parser.add_argument("--dir", type=Path, required=True, help="authority, policy, configurations, consoles")
    parser.add_argument("--api-port", type=int, default=8440, help="guest i answers on this port + i")
    parser.add_argument("--bond-port", type=int, default=7443, help="of a TD")
    parser.add_argument("--memory", type=int, default=512, help="MiB per guest; a TD gets at least 2048")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--allow-debug", action="store_true")
    parser.add_argument("--await-key", action="store_true", help="wait for `bondstone provision`")
    parser.add_argument("--td", action="store_true", help="a real TD, with --config")
    parser.add_argument("--bridge", help="of this host, for a TD; otherwise it reaches nothing outside")
    parser.add_argument("--config", type=Path, help="configuration document of a TD")
    parser.add_argument("--print", action="store_true", help="print the TD's command instead of running it")
    parser.add_argument("--libvirt", action="store_true", help="print a libvirt domain of the TD instead")
    arguments = parser.parse_args()
    arguments.dir = arguments.dir.resolve()
    try:
        images = [load_image(folder.resolve()) for folder in arguments.image]
        if arguments.td:
            if arguments.config is None or len(images) != 1:
                raise BuildError(
                    "--td needs one image and --config", hint="docs/deploy.md shows a configuration"
                )
            return run_td(arguments, images[0])
        if arguments.bridge is not None:
            raise BuildError("--bridge goes with --td", hint="emulated guests share a link of their own")
        images = images * arguments.count if len(images) == 1 else images
        if not 1 <= len(images) <= GUESTS_MAX:
            raise BuildError(f"{len(images)} guests; 1 to {GUESTS_MAX} can run here", hint="--count")
        return emulate(arguments, images)
    except (BuildError, ImageError, NodeError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
