"""A network of namespaces whose wires run through this process: every fault a network can have, per direction.

Each place has its own network namespace with one TUN device, ``10.77.0.<n>/24``. What its kernel sends comes
out of the device's file in this process, which drops, delays, repeats or delivers it into the device of the
addressee. So no firewall, bridge or ``sch_netem`` is needed of the kernel, and a cut of one direction only
is as easy as a cut of both. ``clients`` is this process's own place: it, too, lives in a namespace of its
own, so that nothing here can meet the machine's networks.

Needs root, ``/dev/net/tun`` and iproute2.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SUBNET: Final = "10.77.0"
CLIENTS: Final = 254  # the last byte of the address of this process
TUN_FILE: Final = Path("/dev/net/tun")
PACKET_BYTES_MAX: Final = 65_535
DEVICE_MTU: Final = 8_960  # jumbo frames: fewer turns through this process
_CLONE_NEWNET: Final = 0x4000_0000
_TUNSETIFF: Final = 0x4004_54CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000
_PREFIX: Final = "bondstone-chaos"


def unavailable() -> str | None:
    """Return why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2 (apt-get install iproute2)"
    try:
        os.close(os.open(TUN_FILE, os.O_RDWR))
    except OSError as exc:
        return f"{TUN_FILE}: {exc.strerror}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What happens to packets of one direction between two places.

    Attributes:
        cut: nothing arrives.
        loss: the share that is lost, 0 to 1.
        duplicate: the share that arrives twice.
        delay_s, jitter_s: each packet takes ``delay_s`` and up to ``jitter_s`` more, so packets overtake.
    """

    cut: bool = False
    loss: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


PERFECT: Final = Link()


def address_of(place: int) -> str:
    return f"{SUBNET}.{place}"


@dataclass(slots=True)
class Traffic:
    """What the wires have done so far, in packets."""

    delivered: int = 0
    dropped: int = 0
    delayed: int = 0


@dataclass(slots=True)
class NamespaceNetwork:
    """Places 1 to n and ``CLIENTS``, wired. Made by ``namespace_network``."""

    rng: random.Random
    devices: dict[int, int] = field(default_factory=dict)
    links: dict[tuple[int, int], Link] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    _late: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _serial: int = 0

    def command(self, place: int, command: Iterable[str]) -> list[str]:
        """Return ``command`` as it is run at a place."""
        return ["ip", "netns", "exec", _name(place), *command]

    def set_link(self, source: int, target: int, link: Link) -> None:
        """Change one direction."""
        self.links[source, target] = link

    def cut(self, one: Iterable[int], other: Iterable[int], *, both: bool = True) -> None:
        """Let nothing pass from any of ``one`` to any of ``other``, nor back unless ``both`` is false."""
        for a in one:
            for b in other:
                self.links[a, b] = Link(cut=True)
                if both:
                    self.links[b, a] = Link(cut=True)

    def heal(self) -> None:
        """Make every wire perfect again."""
        self.links.clear()

    # ---- the wires ----------------------------------------------------------
    def carry(self, stop: threading.Event) -> None:
        """Carry packets until ``stop``; the body of the network's own thread."""
        with selectors.DefaultSelector() as ready:
            for place, device in self.devices.items():
                ready.register(device, selectors.EVENT_READ, place)
            while not stop.is_set():
                due = self._late[0][0] - time.monotonic() if self._late else 0.2
                for key, _ in ready.select(min(max(due, 0.0), 0.2)):
                    self._take_all(key.data, key.fd)
                self._deliver_late()

    def _take_all(self, source: int, device: int) -> None:
        for _ in range(64):  # then let the others have their turn
            try:
                packet = os.read(device, PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4 and socket.inet_ntoa(packet[16:20]).startswith(SUBNET):
                self._send(source, packet[19], packet)

    def _send(self, source: int, target: int, packet: bytes) -> None:
        link = self.links.get((source, target), PERFECT)
        if link is PERFECT:
            self._deliver(target, packet)
            return
        if link.cut or self.rng.random() < link.loss:
            self.traffic.dropped += 1
            return
        for _ in range(2 if self.rng.random() < link.duplicate else 1):
            self._serial += 1
            due = time.monotonic() + link.delay_s + self.rng.random() * link.jitter_s
            heapq.heappush(self._late, (due, self._serial, target, packet))
            self.traffic.delayed += 1

    def _deliver_late(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._late)
            self._deliver(target, packet)

    def _deliver(self, target: int, packet: bytes) -> None:
        device = self.devices.get(target)
        if device is None:
            return
        # A full queue loses packets, as in any network.
        with contextlib.suppress(BlockingIOError):
            os.write(device, packet)
            self.traffic.delivered += 1


@contextmanager
def namespace_network(places: int, rng: random.Random) -> Iterator[NamespaceNetwork]:
    """Move the calling thread, and every thread and process it starts, into a network of ``places`` places.

    Call it before other threads start, in a process made for it: there is no way back.
    """
    _remove_abandoned()
    _leave_this_network()
    _ip("link", "set", "lo", "up")
    network = NamespaceNetwork(rng)
    stop = threading.Event()
    carrier = threading.Thread(target=network.carry, args=(stop,), name="wires", daemon=True)
    try:
        for place in range(1, places + 1):
            _ip("netns", "add", _name(place))
            network.devices[place] = _new_device(place)
            _ip("link", "set", _device_name(place), "netns", _name(place))
            _configure(place, ("-n", _name(place)))
        network.devices[CLIENTS] = _new_device(CLIENTS)
        _configure(CLIENTS, ())
        carrier.start()
        yield network
    finally:
        stop.set()
        if carrier.is_alive():
            carrier.join()
        for device in network.devices.values():
            os.close(device)
        for place in range(1, places + 1):
            subprocess.run(["ip", "netns", "del", _name(place)], capture_output=True, check=False)


def _leave_this_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def _new_device(place: int) -> int:
    device = os.open(TUN_FILE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _device_name(place).encode(), _IFF_TUN_NO_PI))
    return device


def _configure(place: int, where: tuple[str, ...]) -> None:
    name = _device_name(place)
    _ip(*where, "address", "add", f"{address_of(place)}/24", "dev", name)
    _ip(*where, "link", "set", name, "mtu", str(DEVICE_MTU), "up")
    _ip(*where, "link", "set", "lo", "up")


def _device_name(place: int) -> str:
    return f"wire{place}"


def _name(place: int) -> str:
    return f"{_PREFIX}-{os.getpid()}-{place}"


def _remove_abandoned() -> None:
    """Remove namespaces that a run that was killed has left behind."""
    for entry in Path("/run/netns").glob(f"{_PREFIX}-*"):
        owner = entry.name.split("-")[2]
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "del", entry.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
