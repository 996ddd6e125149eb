"""Counts what arrives over wires that are cut, lossy or repeat. Run as a process; prints JSON."""

import json
import os
import random
import socket
import subprocess
import sys
import time

from tests.support.netns import CLIENTS, Link, NamespaceNetwork, address_of, namespace_network

PLACE = 1
PORT = 7000
DATAGRAMS = 20
SILENCE_S = 0.5
# Answers every datagram with what it has counted until now.
ECHO = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("{address_of(PLACE)}", {PORT}))
print("bound", flush=True)
n = 0
while True:
    data, sender = s.recvfrom(100)
    n += data == b"count"
    s.sendto(str(n).encode(), sender)
"""


def exchange(sock: socket.socket, data: bytes, count: int) -> list[int]:
    """Send ``count`` datagrams; return every answer until there is silence."""
    for _ in range(count):
        sock.sendto(data, (address_of(PLACE), PORT))
    answers = []
    try:
        while True:
            answers.append(int(sock.recv(100)))
    except TimeoutError:
        return answers


def measure(network: NamespaceNetwork, sock: socket.socket, there: Link, back: Link) -> dict[str, float]:
    """Return how many datagrams arrived there, how many answers here, and how long the first took."""
    before = exchange(sock, b"ask", 1)[-1]
    network.set_link(CLIENTS, PLACE, there)
    network.set_link(PLACE, CLIENTS, back)
    start = time.monotonic()
    answers = exchange(sock, b"count", DATAGRAMS)
    took = time.monotonic() - start - SILENCE_S
    network.heal()
    return {
        "arrived": exchange(sock, b"ask", 1)[-1] - before,
        "answered": len(answers),
        "seconds": took,
    }


def main() -> None:
    with namespace_network(1, random.Random(1)) as network:
        echo = subprocess.Popen(network.command(PLACE, [sys.executable, "-c", ECHO]), stdout=subprocess.PIPE)
        assert echo.stdout is not None
        echo.stdout.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SILENCE_S)
            results = {
                "perfect": measure(network, sock, Link(), Link()),
                "cut there": measure(network, sock, Link(cut=True), Link()),
                "cut back": measure(network, sock, Link(), Link(cut=True)),
                "half lost": measure(network, sock, Link(loss=0.5), Link()),
                "repeated": measure(network, sock, Link(duplicate=1.0), Link()),
                "late": measure(network, sock, Link(delay_s=0.3), Link()),
            }
        echo.kill()
        echo.wait()
        echo.stdout.close()
    print(json.dumps({"process": os.getpid(), "wires": results}))


if __name__ == "__main__":
    main()
