"""A network of namespaces whose wires run through a process: every fault a network can have, per direction.

Each place has its own network namespace with one TUN device, ``10.77.0.<n>/24``. What its kernel sends comes
out of the device's file in the wires' process, which drops, delays, repeats or delivers it into the device of the
addressee. So no firewall, bridge or ``sch_netem`` is needed of the kernel, and a cut of one direction only
is as easy as a cut of both. ``clients`` is this process's own place: it, too, lives in a namespace of its
own, so that nothing here can meet the machine's networks.

Needs root, ``/dev/net/tun`` and iproute2.
"""

import contextlib
import ctypes
import fcntl
import heapq
import multiprocessing
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from multiprocessing.connection import Connection
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


def address_of(place: int) -> str:
    return f"{SUBNET}.{place}"


@dataclass(slots=True)
class Traffic:
    """What the wires have done until now, in packets."""

    delivered: int = 0
    dropped: int = 0
    delayed: int = 0


@dataclass(slots=True)
class NamespaceNetwork:
    """Places 1 to n and ``CLIENTS``, wired. Made by ``namespace_network``."""

    _wires: Connection
    _links: dict[tuple[int, int], Link] = field(default_factory=dict)

    def command(self, place: int, command: Iterable[str]) -> list[str]:
        """Return ``command`` as it is run at a place."""
        return ["ip", "netns", "exec", _name(os.getpid(), place), *command]

    def set_link(self, source: int, target: int, link: Link) -> None:
        """Change one direction."""
        self._links[source, target] = link
        self._tell()

    def cut(self, one: Iterable[int], other: Iterable[int], *, both: bool = True) -> None:
        """Let nothing pass from any of ``one`` to any of ``other``, nor back unless ``both`` is false."""
        for a, b in product(one, other):
            self._links[a, b] = Link(cut=True)
            if both:
                self._links[b, a] = Link(cut=True)
        self._tell()

    def heal(self) -> None:
        """Make every wire perfect again."""
        self._links.clear()
        self._tell()

    def _tell(self) -> None:
        """Return when the wires know of the links: no packet after this is treated as before."""
        self._wires.send(self._links)
        self._wires.recv()

    def traffic(self) -> Traffic:
        self._wires.send(self._links)
        traffic = self._wires.recv()
        assert isinstance(traffic, Traffic)
        return traffic


@dataclass(slots=True)
class Wires:
    """Carries packets; a process of its own, so that nothing delays them but what shall."""

    rng: random.Random
    devices: dict[int, int]
    links: dict[tuple[int, int], Link] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    _late: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _serial: int = 0

    def carry(self, orders: Connection) -> None:
        """Carry packets until ``orders``, which brings new links, is closed."""
        with selectors.DefaultSelector() as ready:
            for place, device in self.devices.items():
                ready.register(device, selectors.EVENT_READ, place)
            ready.register(orders, selectors.EVENT_READ)
            while True:
                due = max(self._late[0][0] - time.monotonic(), 0.0) if self._late else None
                for key, _ in ready.select(due):
                    if key.fileobj is not orders:
                        self._take_all(key.data, key.fd)
                        continue
                    try:
                        self.links = orders.recv()
                    except EOFError:
                        return
                    orders.send(self.traffic)
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
        link = self.links.get((source, target))
        if link is None:
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
    devices: dict[int, int] = {}
    try:
        for place in range(1, places + 1):
            name = _name(os.getpid(), place)
            _ip("netns", "add", name)
            devices[place] = _new_device(place)
            _ip("link", "set", _device_name(place), "netns", name)
            _configure(place, ("-n", name))
        devices[CLIENTS] = _new_device(CLIENTS)
        _configure(CLIENTS, ())
        with _running_wires(Wires(rng, devices)) as ours:
            yield NamespaceNetwork(ours)
    finally:
        for device in devices.values():
            os.close(device)
        for place in range(1, places + 1):
            name = _name(os.getpid(), place)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def _running_wires(wires: Wires) -> Iterator[Connection]:
    fork = multiprocessing.get_context("fork")  # the devices' files are passed on by it
    ours, theirs = fork.Pipe()

    def carry() -> None:
        ours.close()  # so that the end of this process, however it ends, ends the wires
        wires.carry(theirs)

    process = fork.Process(target=carry, name="wires", daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


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


def _name(owner: int, place: int) -> str:
    return f"{_PREFIX}-{owner}-{place}"


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
