"""Interfaces: addresses and routes by ioctl (netdevice(7)), and the DHCP client's packet socket."""

import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from guest import dhcp

Log = Callable[..., None]

_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
_IFF_UP, _RTF_UP, _RTF_GATEWAY = 1, 1, 2
_ANSWER_SECONDS = 4
_RESOLV_CONF = Path("/run/resolv.conf")


def interfaces() -> list[str]:
    return sorted(name for name in os.listdir("/sys/class/net") if name.startswith("eth"))


def bring_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), _IFF_UP))


def set_address(name: str, interface: IPv4Interface) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((_SIOCSIFADDR, interface.ip), (_SIOCSIFNETMASK, interface.netmask)):
            fcntl.ioctl(control, request, struct.pack("16s", name.encode()) + _sockaddr(address) + bytes(8))


def add_default_route(router: IPv4Address) -> None:
    anywhere = _sockaddr(IPv4Address(0))
    entry = struct.pack("Q", 0) + anywhere + _sockaddr(router) + anywhere
    entry += struct.pack("HhQHh4xQLLLH", _RTF_UP | _RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCADDRT, entry.ljust(128, b"\0"))


def _sockaddr(address: IPv4Address) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, address.packed)


class DhcpClient:
    """Keeps one interface's lease. The caller waits for the first lease; a thread renews it."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._hardware = bytes.fromhex(
            Path(f"/sys/class/net/{name}/address").read_text().strip().replace(":", "")
        )

    def acquire(self, *, tries: int) -> dhcp.Lease | None:
        """Get a lease, set it on the interface and return it; None if no server answers."""
        for number in range(tries):
            transaction = int.from_bytes(os.urandom(4), "big")
            discover = dhcp.message(dhcp.DISCOVER, transaction=transaction, hardware=self._hardware)
            _, offer = self._ask(discover, transaction)
            if offer is None:
                self._log("dhcp-no-offer", interface=self._name, attempt=number + 1)
                continue
            request = dhcp.message(
                dhcp.REQUEST, transaction=transaction, hardware=self._hardware, offered=offer
            )
            kind, lease = self._ask(request, transaction)
            if kind == dhcp.ACK and lease is not None:
                self._set(lease)
                return lease
        return None

    def keep(self, lease: dhcp.Lease) -> None:
        """Renew without end, in a thread of its own."""
        threading.Thread(target=self._renew, args=(lease,), name=f"dhcp-{self._name}", daemon=True).start()

    def _renew(self, lease: dhcp.Lease) -> None:
        tenancy = dhcp.Tenancy(lease, now=time.monotonic())
        while True:
            time.sleep(max(tenancy.ask_at - time.monotonic(), 0))
            try:
                self.renew(tenancy)
            except OSError as exc:
                # A link that is down now may be up at the next attempt.
                self._log("dhcp-error", interface=self._name, error=str(exc))
                tenancy.unanswered(now=time.monotonic())

    def renew(self, tenancy: dhcp.Tenancy) -> None:
        """Renew the lease; request a new one if the server refuses, or if the lease has expired."""
        transaction = int.from_bytes(os.urandom(4), "big")
        bound = tenancy.lease.address
        renewing = dhcp.message(dhcp.REQUEST, transaction=transaction, hardware=self._hardware, bound=bound)
        kind, answered = self._ask(renewing, transaction)
        lease = answered if kind == dhcp.ACK else None
        if kind == dhcp.NAK or (lease is None and tenancy.expired(now=time.monotonic())):
            lease = self.acquire(tries=1)
        elif lease is not None and lease.address != bound:
            self._set(lease)
        if lease is None:
            self._log("dhcp-not-renewed", interface=self._name, address=str(bound))
            tenancy.unanswered(now=time.monotonic())
            return
        self._log("dhcp-renewed", interface=self._name, address=str(lease.address))
        tenancy.renewed(lease, now=time.monotonic())

    def _set(self, lease: dhcp.Lease) -> None:
        set_address(self._name, IPv4Interface((lease.address, lease.prefix)))
        if lease.routers:
            try:
                add_default_route(lease.routers[0])
            except OSError as exc:
                self._log("route-refused", router=str(lease.routers[0]), error=str(exc))
        _RESOLV_CONF.write_text("".join(f"nameserver {server}\n" for server in lease.name_servers))
        self._log("dhcp-lease", interface=self._name, address=str(lease.address), seconds=lease.seconds)

    def _ask(self, message: bytes, transaction: int) -> tuple[int | None, dhcp.Lease | None]:
        """Broadcast a message; return the kind of the first good answer and its lease, or twice None."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as link:
            link.bind((self._name, 0x0800))
            link.sendto(_datagram(message), (self._name, 0x0800, 0, 0, b"\xff" * 6))
            deadline = time.monotonic() + _ANSWER_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                if not select.select([link], [], [], left)[0]:
                    break
                body = _payload_untrusted(link.recv(2048))
                if body is None:
                    continue
                try:
                    return dhcp.parse_answer_untrusted(body, transaction=transaction, hardware=self._hardware)
                except dhcp.DhcpError:
                    continue
        return None, None


def _datagram(body: bytes) -> bytes:
    """Return IPv4 and UDP around a message from 0.0.0.0:68 to 255.255.255.255:67."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + udp


def _payload_untrusted(packet: bytes) -> bytes | None:
    """Return the payload of an IPv4 UDP packet to port 68; None for any other packet."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != 17:
        return None
    start = (packet[0] & 15) * 4
    if len(packet) < start + 8 or packet[start + 2 : start + 4] != b"\0\x44":
        return None
    length = int.from_bytes(packet[start + 4 : start + 6], "big")
    return packet[start + 8 : start + length]
