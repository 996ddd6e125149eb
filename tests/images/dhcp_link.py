"""The guest's DHCP client on a live link, with a server that follows a script. Prints what happened, as JSON.

Runs in network and mount namespaces of its own (``unshare --net --mount``): the link is a TAP device whose other
end is this process. The client's time is ours: its sleeps pass at once, and it waits for an answer until the server
has sent one or has decided to send none, however loaded the machine is.
"""

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import threading
from ipaddress import IPv4Address
from pathlib import Path

from tests.images import harness

sys.path.insert(0, str(harness.SCRIPTS))

from guest import dhcp, network

TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x0002 | 0x1000
SERVER = IPv4Address("10.0.2.2")
LEASE_SECONDS = 3600
WAIT_SECONDS = 240
LEASES = 3  # as many acknowledged discoveries as the script has


def answer(request, kind, address):
    """The reply to a message, in an Ethernet frame to everybody."""
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s192x",
        2, 1, 6, 0, int.from_bytes(request[4:8], "big"), 0, 0, bytes(4), address.packed, bytes(4), bytes(4), request[28:44],
    )  # fmt: skip
    values = {53: bytes([kind]), 54: SERVER.packed}
    if kind != dhcp.NAK:
        values |= {
            1: b"\xff\xff\xff\0",
            3: SERVER.packed,
            6: SERVER.packed,
            51: struct.pack("!I", LEASE_SECONDS),
        }
    body = head + b"\x63\x82\x53\x63"
    body += b"".join(bytes([code, len(value)]) + value for code, value in values.items()) + b"\xff"
    udp = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, SERVER.packed, b"\xff" * 4)
    return b"\xff" * 6 + bytes.fromhex("525400000001") + b"\x08\0" + packet + udp


def received(link):
    """The next message to a server."""
    while True:
        frame = os.read(link, 65535)
        if frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[36:38] == b"\0\x43":
            return frame[42:]


class Clock:
    """Stands in for ``time``: sleeping moves it on, and nothing else does but an answer that does not come."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Waiting:
    """Stands in for ``select``: the wait ends with an answer, or when the server has sent none."""

    def __init__(self, clock):
        self.silence = threading.Event()
        self._clock = clock

    def select(self, readers, writers, others, seconds):
        while not self.silence.is_set():
            ready = select.select(readers, writers, others, 0.05)
            if ready[0]:
                return ready
        self.silence.clear()
        self._clock.now += seconds
        return [], [], []


def serve(link, script, seen, silence):
    """Answer one message by each line of the script. While a DISCOVER is due, whoever renews gets no answer."""
    for wanted, kind, address in script:
        request = received(link)
        while wanted == dhcp.DISCOVER and request[242] == dhcp.REQUEST:
            seen.append({"kind": "unanswered", "bound": str(IPv4Address(request[12:16]))})
            silence.set()
            request = received(link)
        seen.append({"kind": request[242], "bound": str(IPv4Address(request[12:16])), "wanted": wanted})
        os.write(link, answer(request, kind, IPv4Address(address)))


def main():
    network.time = clock = Clock()
    network.select = waiting = Waiting(clock)
    network._RESOLV_CONF = Path(sys.argv[1])
    link = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(link, TUNSETIFF, struct.pack("16sH14x", b"eth0", IFF_TAP_NO_PI))
    network.bring_up("eth0")
    first, second = "10.0.2.15", "10.0.2.16"
    script = (
        (dhcp.DISCOVER, dhcp.OFFER, first),
        (dhcp.REQUEST, dhcp.ACK, first),
        (dhcp.REQUEST, dhcp.ACK, first),  # renewed
        (dhcp.REQUEST, dhcp.NAK, first),  # the address is somebody else's now
        (dhcp.DISCOVER, dhcp.OFFER, second),
        (dhcp.REQUEST, dhcp.ACK, second),
        (dhcp.REQUEST, dhcp.ACK, second),  # renewed; then the server is away until the lease is over
        (dhcp.DISCOVER, dhcp.OFFER, second),
        (dhcp.REQUEST, dhcp.ACK, second),
    )
    seen, said, done = [], [], threading.Event()
    threading.Thread(target=serve, args=(link, script, seen, waiting.silence), daemon=True).start()

    def log(event, **fields):
        said.append({"event": event, **fields})
        if [item["event"] for item in said].count("dhcp-lease") == LEASES:
            done.set()

    client = network.DhcpClient("eth0", log)
    client.keep(client.acquire(tries=1))
    finished = done.wait(WAIT_SECONDS)
    shown = json.loads(subprocess.check_output(["ip", "-j", "-4", "addr", "show", "eth0"]))
    routes = json.loads(subprocess.check_output(["ip", "-j", "route"]))
    print(json.dumps({"finished": finished, "seen": seen, "said": said, "link": shown, "routes": routes}))


if __name__ == "__main__":
    main()
