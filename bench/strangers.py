"""The longest stall of a node's event loop that a megabyte from outside can cause, by its shape.

    python -m bench.strangers [--runs 5] [--only NAME]

One node runs in a process of its own and watches its loop. This process sends each input on a fresh
connection and then requests the node's result. The least stall of an input's runs counts, because other work
on the machine only adds to it. ``cpu_ms`` is the longest CPU time of the loop's thread between two turns; it
does not include time in which other processes had the core. The aims are for ``cpu_ms``: 20 ms for strangers
and for peers that have the group key, 50 ms for writers.
"""

import argparse
import asyncio
import contextlib
import json
import math
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import hpack
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from enclave.identity import Identity
from node.bonds.core.handshake import ConnectionRole, proof_of
from node.bonds.tls import ALPN, CIPHERSUITES, TLSSession, bond_context
from node.bonds.wire.frames import FrameReader, frame_of
from node.bonds.wire.messages import VERSIONS, Hello, PeerEntry, Prove
from node.config import load_node
from node.daemon import running
from node.dev import DevCluster
from node.features import Build, Span
from node.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PAYLOAD_BYTES_MAX,
    PREFACE,
    FrameCutter,
    Kind,
    Setting,
    settings_frame,
)
from node.http2.frames import (
    frame_of as http2_frame,
)
from node.peers import Incarnation, Preference

MIB = 2**20
TICK_S = 0.001
AIM_MS = {"stranger": 20, "key holder": 20, "writer": 50}


# ---- the node ---------------------------------------------------------------------------------
class Watch:
    """The longest time between two turns of the loop, and the longest CPU time of its thread between them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.stall_s = self.cpu_s = 0.0
        self._at, self._cpu = time.perf_counter(), time.thread_time()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            at, cpu = time.perf_counter(), time.thread_time()
            self.stall_s = max(self.stall_s, at - self._at - TICK_S)
            self.cpu_s = max(self.cpu_s, cpu - self._cpu)
            self._at, self._cpu = at, cpu


async def serve(directory: Path, port: int) -> None:
    """Run the node; answer each line on standard input with the results since the line before."""
    cluster = DevCluster(directory, nodes=1, api_port=port, report=lambda _event: None)
    cluster.prepare()
    (node,) = cluster.nodes
    files = load_node(node.config_file)
    watch = Watch()
    loop = asyncio.get_running_loop()
    async with running(files.document, files.config, lambda _event: None) as service:
        while not service.readiness().ready:
            await asyncio.sleep(0.02)
        watching = loop.create_task(watch.run())
        assert service.joined is not None
        spec = service.joined._bonds._spec
        print(
            json.dumps(
                {
                    "api": node.api,
                    "bond": node.bond,
                    "token": cluster.token_file.read_text().strip(),
                    "certificate": str(node.certificate_file),
                    "secret": spec.secret.hex(),
                    "group_id": spec.group_id.hex(),
                    "network_id": service._network.endpoint.context.network_id.hex(),
                }
            ),
            flush=True,
        )
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps({"stall_s": watch.stall_s, "cpu_s": watch.cpu_s}), flush=True)
            watch.reset()
        watching.cancel()


class Target:
    """The running node, as this process sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.at = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the node ended; its errors are above")
        return line

    def seen(self) -> dict[str, float]:
        """Return the results since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seen: dict[str, float] = json.loads(self._line())
        return seen

    def connect(self, which: str) -> socket.socket:
        host, _, port = self.at[which].rpartition(":")
        return socket.create_connection((host, int(port)), timeout=20)


# ---- over HTTPS ---------------------------------------------------------------------------------
def ask(target: Target, request: bytes) -> None:
    """Send bytes over TLS, and read until the node answers or closes."""
    context = ssl.create_default_context(cafile=target.at["certificate"])
    context.check_hostname = False
    with target.connect("api") as plain, context.wrap_socket(plain) as tls, contextlib.suppress(OSError):
        tls.sendall(request)
        tls.recv(65536)


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: bench", *fields, "", ""]).encode()


def post(body: bytes, target: Target | None = None, path: str = "/v1/commands") -> bytes:
    fields = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if target is not None:
        fields.append(f"Authorization: Bearer {target.at['token']}")
    return head(f"POST {path}", *fields) + body


def write(target: Target, body: bytes) -> None:
    ask(target, post(body, target))


# ---- over HTTP/2 ---------------------------------------------------------------------------------
GOAWAY = http2_frame(Kind.GOAWAY, 0, 0, bytes(8))
PSEUDO = [(":method", "POST"), (":scheme", "https"), (":path", "/v1/commands"), (":authority", "bench")]
JSON_BODY = ("content-type", "application/json")


def ask_http2(target: Target, frames: bytes) -> None:
    """Send frames over HTTP/2 and a GOAWAY, and read until the node closes."""
    context = ssl.create_default_context(cafile=target.at["certificate"])
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with target.connect("api") as plain, context.wrap_socket(plain) as tls, contextlib.suppress(OSError):
        assert tls.selected_alpn_protocol() == "h2"
        tls.sendall(PREFACE + settings_frame({}) + frames + GOAWAY)
        while tls.recv(65536):
            pass


def heads(*fields: tuple[str, str], count: int, flags: int = END_HEADERS | END_STREAM) -> bytes:
    """Return this many requests, compressed as clients do it."""
    encoder = hpack.Encoder()
    return b"".join(
        http2_frame(Kind.HEADERS, flags, 2 * number + 1, encoder.encode([*PSEUDO, *fields]))
        for number in range(count)
    )


def head_of(block: bytes, stream_id: int, *, pieces: int = PAYLOAD_BYTES_MAX) -> bytes:
    """Return a header block as it stands, in frames of this size."""
    parts = [block[at : at + pieces] for at in range(0, len(block), pieces)]
    frames = [http2_frame(Kind.HEADERS, END_STREAM, stream_id, parts[0])]
    frames += [http2_frame(Kind.CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    return b"".join([*frames, http2_frame(Kind.CONTINUATION, END_HEADERS, stream_id, parts[-1])])


def large_heads(shape: bytes) -> bytes:
    """Return a mebibyte of heads, each nearly as large as the node takes, filled with a shape."""
    start = hpack.Encoder().encode(PSEUDO)
    size = 32 * 1024 - 64
    return b"".join(head_of(filled(shape, start, b"", size), 2 * number + 1) for number in range(MIB // size))


def body_frames(payload: bytes, flags: int = 0) -> bytes:
    """Return a request whose body comes in a mebibyte of such DATA frames."""
    frame = http2_frame(Kind.DATA, flags, 1, payload)
    return heads(JSON_BODY, count=1, flags=END_HEADERS) + frame * (MIB // len(frame))


def http2_shapes() -> dict[str, bytes]:
    """Return what strangers send over HTTP/2, a mebibyte of each."""
    floods = {
        "pings": http2_frame(Kind.PING, 0, 0, bytes(8)),
        "settings": settings_frame({Setting.INITIAL_WINDOW_SIZE: 1}),
        "window updates": http2_frame(Kind.WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x01"),
        "priorities": http2_frame(Kind.PRIORITY, 0, 1, bytes(5)),
        "unknown frames": b"\x00\x00\x00\x99\x00\x00\x00\x00\x00",
    }
    return {
        **{name: frame * (MIB // len(frame)) for name, frame in floods.items()},
        "small requests": heads(count=MIB // 14),
        "requests taken back": b"".join(
            head + http2_frame(Kind.RST_STREAM, 0, 2 * number + 1, bytes(4))
            for number, head in enumerate(split(heads(count=MIB // 27)))
        ),
        "empty fields": large_heads(b"\x00\x01a\x00"),
        "indexed fields": large_heads(b"\x82"),
        "Huffman codes": large_heads(b"\x00\x01a\xff\x81\x01" + bytes(256)),
        "updates of the table": large_heads(b"\x20"),
        "continuations": head_of(bytes(MIB // 10), 1, pieces=1),
        "DATA of one byte": body_frames(b"x"),
        "empty DATA": body_frames(b""),
        "padding": body_frames(b"\xff" + bytes(255), PADDED),
        "a body": body_frames(bytes(PAYLOAD_BYTES_MAX)),
    }


def split(frames: bytes) -> list[bytes]:
    cutter, cut = FrameCutter(), []
    cutter.receive_data(frames)
    while (frame := cutter.next_frame_untrusted()) is not None:
        cut.append(http2_frame(Kind(frame.kind), frame.flags, frame.stream_id, frame.payload))
    return cut


def filled(shape: bytes, start: bytes, end: bytes, size: int = MIB) -> bytes:
    return start + shape * ((size - len(start) - len(end)) // len(shape)) + end


JSON_SHAPES = {
    "empty lists": b"[],",
    "empty objects": b"{},",
    "numbers": b"1,",
    "empty texts": b'"",',
    "nested lists": b"[[[[[[]]]]]],",
    "members": b'{"":0},',
}


def json_of(shape: bytes, wrap: bytes = b'{"command":[') -> bytes:
    return filled(shape, wrap, b"0]}")


def few_values(count: int = 8000) -> bytes:
    """As many values as the node accepts, in a command that no machine accepts."""
    return b'{"command":[' + b"[]," * (count // 2) + b"0]}"


# ---- over the bond port ---------------------------------------------------------------------------
def huge_key(bits: int = 3072) -> rsa.RSAPrivateKey:
    """Return an RSA key with an exponent that makes its verification as expensive as signing."""
    known = rsa.generate_private_key(65537, bits).private_numbers()
    p, q = known.p, known.q
    order, e = (p - 1) * (q - 1), (1 << (bits - 8)) + 1
    while math.gcd(e, order) != 1:
        e += 2
    d = pow(e, -1, order)
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def chain_context(length: int = 60) -> SSL.Context:
    """Return a TLS client with a P-256 leaf below this many RSA certificates."""
    key, leaf_key, now = huge_key(), ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)

    def named(number: int) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"c{number}")])

    def certificate(number: int, public: Any) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(named(number))
            .issuer_name(named(min(number + 1, length)))
            .public_key(public)
            .serial_number(number + 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=number > 0, path_length=None), critical=True)
            .sign(key, SHA256())
        )

    context = SSL.Context(SSL.TLS_METHOD)
    context.set_tls13_ciphersuites(CIPHERSUITES)
    context.set_alpn_protos([ALPN])
    context.use_certificate(certificate(0, leaf_key.public_key()))
    context.use_privatekey(leaf_key)
    for number in range(1, length + 1):
        context.add_extra_chain_cert(certificate(number, key.public_key()))
    return context


class Peer:
    """A client of the bond port that can send any message."""

    def __init__(self, target: Target, context: SSL.Context | None = None) -> None:
        self.identity = Identity.generate("stranger", datetime.now(UTC))
        self._target = target
        self._socket = target.connect("bond")
        self._frames = FrameReader(MIB)
        self.tls = TLSSession(
            context or bond_context(self.identity.private_key, self.identity.certificate_der), server=False
        )
        self.tls.start()
        while not self.tls.established:
            self._socket.sendall(self.tls.data_to_send())
            self.tls.receive_data_untrusted(self._socket.recv(65536))
        self._socket.sendall(self.tls.data_to_send())

    def send(self, data: bytes) -> None:
        self.tls.send_data(data)
        with contextlib.suppress(OSError):
            self._socket.sendall(self.tls.data_to_send())

    def receive(self) -> None:
        """Wait for one message, or for the end."""
        with contextlib.suppress(Exception):
            while self._frames.next_frame_untrusted() is None:
                data = self._socket.recv(65536)
                if not data:
                    return
                self._frames.receive_data(self.tls.receive_data_untrusted(data))

    def prove(self) -> None:
        """Send a Hello, and prove the group key."""
        at, me = self._target.at, self.identity.peer_id
        group_id = bytes.fromhex(at["group_id"])
        self.send(
            frame_of(
                Hello(
                    versions=VERSIONS,
                    network_id=bytes.fromhex(at["network_id"]),
                    group_id=group_id,
                    nonce=b"n" * 32,
                    name="stranger",
                    build=Build("stranger", Span(1, 1), "bondstone/kv", Span(1, 1)),
                )
            )
        )
        self.receive()
        proof = proof_of(
            bytes.fromhex(at["secret"]),
            exporter=self.tls.export(group_id),
            role=ConnectionRole.INITIATOR,
            peer_id=me,
        )
        entry = PeerEntry(
            peer=Incarnation("stranger", me), preference=Preference.NORMAL, addresses=(), api_url=None
        )
        self.send(frame_of(Prove(proof=proof, entry=entry)))
        self.receive()

    def close(self) -> None:
        self._socket.close()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def cbor_of(item: bytes, size: int) -> bytes:
    count = (size - 7) // len(item)
    return framed(b"\x82\x03\x9a" + count.to_bytes(4, "big") + item * count)


CBOR_SHAPES = {
    "empty lists": b"\x80",
    "empty maps": b"\xa0",
    "numbers": b"\x00",
    "nested lists": b"\x81\x81\x81\x80",
}


def bond(target: Target, data: bytes, *, prove: bool = False, context: SSL.Context | None = None) -> None:
    peer = Peer(target, context)
    if prove:
        peer.prove()
    peer.send(data)
    peer.receive()
    peer.close()


def raw(target: Target, which: str, data: bytes) -> None:
    with target.connect(which) as plain, contextlib.suppress(OSError):
        plain.sendall(data)
        plain.recv(65536)


# ---- the inputs -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Input:
    who: str
    name: str
    send: Callable[[Target], None]


def inputs() -> Iterator[Input]:
    chain = chain_context()
    yield Input(
        "stranger", "bond: 1 MiB that is no TLS", lambda t: raw(t, "bond", b"\x16\x03\x01" + bytes(MIB))
    )
    yield Input("stranger", "bond: 60 certificates", lambda t: bond(t, framed(b"\x80"), context=chain))
    yield Input("stranger", "bond: 8 KiB of empty lists", lambda t: bond(t, cbor_of(b"\x80", 8192)))
    for name, item in CBOR_SHAPES.items():
        frame = cbor_of(item, MIB)
        yield Input("key holder", f"bond: 1 MiB of {name}", partial(bond, data=frame, prove=True))
    yield Input(
        "stranger", "api: 1 MiB that is no TLS", lambda t: raw(t, "api", b"\x16\x03\x01" + bytes(MIB))
    )
    yield Input("stranger", "api: a head of 1 MiB", lambda t: ask(t, head("GET /healthz", "x: " + "a" * MIB)))
    yield Input(
        "stranger", "api: 1 MiB of fields", lambda t: ask(t, head("GET /healthz", *["a:"] * (MIB // 4)))
    )
    yield Input("stranger", "api: 1 MiB of requests", lambda t: ask(t, head("GET /healthz") * (MIB // 40)))
    chunks = head("POST /v1/commands", "Content-Type: application/json", "Transfer-Encoding: chunked")
    yield Input(
        "stranger", "api: 1 MiB in chunks of one byte", lambda t: ask(t, chunks + b"1\r\n[\r\n" * (MIB // 6))
    )
    yield Input("stranger", "api: 1 MiB without credentials", lambda t: ask(t, post(json_of(b"[],"))))
    for name, frames in http2_shapes().items():
        yield Input("stranger", f"api: HTTP/2, 1 MiB of {name}", partial(ask_http2, frames=frames))
    for name, shape in JSON_SHAPES.items():
        body = json_of(shape)
        yield Input("writer", f"api: a command of {name}", partial(write, body=body))
    query = json_of(b"[],", b'{"query":[')
    yield Input("writer", "api: a query of empty lists", lambda t: ask(t, post(query, t, "/v1/queries")))
    yield Input("writer", "api: as many values as are taken", lambda t: ask(t, post(few_values(), t)))
    text = json.dumps({"command": {"op": "put", "key": "a", "value": '",[' * (MIB // 5)}}).encode()
    yield Input("writer", "api: 1 MiB of text", lambda t: ask(t, post(text, t)))
    many = json.dumps({"commands": [{"op": "put", "key": f"k{n}", "value": "v" * 900} for n in range(1000)]})
    yield Input("writer", "api: 1,000 puts", lambda t: ask(t, post(many.encode(), t)))


def measure(target: Target, one: Input, runs: int) -> dict[str, Any]:
    seen = []
    for _ in range(runs):
        target.seen()
        one.send(target)
        time.sleep(0.05)  # includes the work that it left in the loop
        seen.append(target.seen())
    stall_ms = min(run["stall_s"] for run in seen) * 1000
    cpu_ms = min(run["cpu_s"] for run in seen) * 1000
    return {
        "by": one.who,
        "input": one.name,
        "stall_ms": round(stall_ms, 1),
        "cpu_ms": round(cpu_ms, 1),
        "aim_ms": AIM_MS[one.who],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", help="inputs whose name has this in it")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=9470)
    args = parser.parse_args()
    if args.serve is not None:
        uvloop.run(serve(args.serve, args.port))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "bench.strangers", "--serve", directory, "--port", str(args.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            target = Target(process)
            results = [
                measure(target, one, args.runs)
                for one in inputs()
                if args.only is None or args.only in one.name
            ]
            assert process.stdin is not None
            process.stdin.close()
    # Compared by CPU time: on a busy machine, the wall clock would include the time of other work.
    over = [result["input"] for result in results if result["cpu_ms"] > result["aim_ms"]]
    print(json.dumps({"inputs": results, "over_the_aim": over}, indent=2))


if __name__ == "__main__":
    main()
