"""CPU microseconds of one request in each layer of a node, without network, disk or other processes.

    python -m bench.layers [--only api-put --only core-keyed …] [--rounds 7]

Each layer is driven alone, over a stand-in for the layer below it. The least of the rounds counts.
The file also runs in an older tree, whose interfaces had fewer parts: ``python -P /path/to/layers.py`` with
that tree as the working directory and on ``PYTHONPATH``.
"""

import argparse
import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from node.api import protocol as protocol_module
from node.api.app import create_app
from node.api.freshness import SENT_AFTER, boot_time_s
from node.api.limits import ApiLimits
from node.api.protocol import ApiProtocol
from node.machines.kv import KeyValue
from node.raft.events import Execute
from node.raft.types import Answer, Applied, Cursor, Ok
from node.simulation.simulation import draw_schedule, run

# The tests' stand-ins, which have no types.
fakes: Any = import_module("tests.node.api.fakes")
members: Any = import_module("tests.node.raft.cluster")

REQUESTS = 4000
SCHEDULES = 12
PUT = json.dumps({"command": {"op": "put", "key": "bench/1", "value": "v" * 64}}).encode()
GET = json.dumps({"query": {"op": "get", "key": "bench/1"}}).encode()
PUT_RESULT = Applied({"revision": 1000, "create_revision": 7, "version": 900})
GET_RESULT = {"item": {"key": "bench/1", "value": "v" * 64, "revision": 1000, "version": 900}}
TOKEN = next(text for role, text in fakes.TOKENS.items() if role.value == "admin")


# ---- the API over a node that answers at once ---------------------------------
class Node(fakes.FakeService):  # type: ignore[misc]
    """A node whose group costs nothing."""

    def grants(self) -> Any:
        return self.state.grants

    async def execute(self, *_args: Any, **_more: Any) -> Ok:
        return Ok((PUT_RESULT,), Cursor(3, 1000))

    async def query(self, *_args: Any, **_more: Any) -> Answer:
        return Answer(GET_RESULT, Cursor(3, 1000), age_ms=0)


def application(limits: ApiLimits) -> Any:
    lists = {"access": fakes.ACCESS} if "access" in inspect.signature(create_app).parameters else {}
    return create_app(Node(), limits=limits, **lists)


def fields(body: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the header fields that an ordinary client sends."""
    return [
        (b"host", b"127.0.0.1:8440"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"user-agent", b"python-httpx/0.28.1"),
        (b"authorization", b"Bearer " + TOKEN.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *more,
    ]


async def api(path: str, body: bytes, *, keyed: bool = False) -> float:
    ask = asking(application(ApiLimits()), path, body, keyed=keyed)
    await ask()
    return await timed(ask)


def asking(app: Any, path: str, body: bytes, *, keyed: bool = False) -> Callable[[], Awaitable[None]]:
    """Return what sends ``app`` this request, as one connection does again and again."""
    extensions: dict[str, Any] = {}  # of one connection
    more = ((b"idempotency-key", b"0123456789abcdef0123456789abcdef"),) if keyed else ()
    headers = fields(body, *more)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    def vouched(credential: bytes) -> None:
        extensions["bondstone.caller"] = credential

    async def ask() -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8440),
            "client": ("127.0.0.1", 50000),
            "scheme": "https",
            "root_path": "",
            "headers": headers,
            "state": {SENT_AFTER: boot_time_s(), "bondstone.vouched": [vouched]},
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "extensions": extensions,
        }
        await app(scope, receive, send)

    return ask


async def timed(one: Callable[[], Awaitable[None]]) -> float:
    start = time.process_time()
    for _ in range(REQUESTS):
        await one()
    return (time.process_time() - start) / REQUESTS


# ---- HTTP/1.1 on a connection that is none --------------------------------------
class Wire(asyncio.Transport):
    """A transport whose peer reads at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = asyncio.Event()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written = bytes(data)
        self.answered.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8440)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def configured(app: Any) -> Config:
    config = Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    return config


async def http(*, whole: bool, keyed: bool = False) -> float:
    """One connection's requests.

    ``whole``: with the API behind it, otherwise with nothing. ``keyed``: with another idempotency key in each
    head, as a client sends that must have each of its commands executed once.
    """
    limits = ApiLimits()

    async def nothing(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    config = configured(application(limits) if whole else nothing)
    room: dict[str, Any]
    if hasattr(protocol_module, "BodyRoom"):
        room = {"room": protocol_module.BodyRoom(limits.bodies_bytes_max)}
    else:
        from node.places import Places, Room

        room = {"room": Room("bodies", limits.bodies_bytes_max), "places": Places("connections", 2048)}
        if "made_at" in inspect.signature(ApiProtocol.__init__).parameters:
            room["made_at"] = boot_time_s()
    loop = asyncio.get_running_loop()
    connection = ApiProtocol(config, ServerState(), {}, limits=limits, loop=loop, **room)
    wire = Wire()
    connection.connection_made(wire)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields(PUT))
    head = b"POST /v1/commands HTTP/1.1\r\n" + lines
    request = head + b"\r\n" + PUT
    asked = 0

    async def ask() -> None:
        nonlocal asked
        wire.answered.clear()
        if keyed:
            asked += 1
            connection.data_received(b"%bidempotency-key: %032x\r\n\r\n%b" % (head, asked, PUT))
        else:
            connection.data_received(request)
        await wire.answered.wait()
        assert wire.written.startswith(b"HTTP/1.1 200"), wire.written

    await ask()
    took = await timed(ask)
    connection.connection_lost(None)
    return took


# ---- HTTP/2 on a connection that is none ----------------------------------------
async def http2(*, keyed: bool = False) -> float:
    """One connection's requests with the API behind it, one after the other; ``keyed`` as for HTTP/1.1."""
    import hpack

    from attestation.background import Background
    from node.api.http2_protocol import Http2Protocol
    from node.http2.frames import (
        END_HEADERS,
        END_STREAM,
        PREFACE,
        Kind,
        frame_of,
        settings_frame,
        window_frame,
    )
    from node.places import Places, Room

    limits = ApiLimits()
    connection = Http2Protocol(
        configured(application(limits)),
        ServerState(),
        limits=limits,
        places=Places("connections", 2048),
        room=Room("bodies", limits.bodies_bytes_max),
        background=Background(),
        loop=asyncio.get_running_loop(),
        made_at=boot_time_s(),
    )
    wire = Wire()
    connection.connection_made(wire)
    connection.data_received(PREFACE + settings_frame({}) + window_frame(0, 2**30))
    encoder = hpack.Encoder()
    head = [(":method", "POST"), (":scheme", "https"), (":path", "/v1/commands"), (":authority", "node:8440")]
    of_http1 = {b"host", b"connection"}
    head += [(name.decode(), value.decode()) for name, value in fields(PUT) if name not in of_http1]

    def request(number: int) -> bytes:
        key = [("idempotency-key", f"{number:032x}")] if keyed else []
        block, stream_id = encoder.encode([*head, *key]), 2 * number + 1
        return frame_of(Kind.HEADERS, END_HEADERS, stream_id, block) + frame_of(
            Kind.DATA, END_STREAM, stream_id, PUT
        )

    ready = iter([request(number) for number in range(REQUESTS + 1)])  # the client's work is not counted

    async def ask() -> None:
        wire.answered.clear()
        connection.data_received(next(ready))
        while not wire.answered.is_set() or wire.written[3] != Kind.HEADERS:
            await asyncio.sleep(0)
        assert b"\x88" in wire.written[9:11], "status 200, by its number in the static table"

    await ask()
    took = await timed(ask)
    connection.connection_lost(None)
    return took


# ---- three members without bonds --------------------------------------------------
def core(*, keyed: bool) -> float:
    """Puts at the leader of three members, 20 at a time; messages are passed on as they are."""
    members.Register = KeyValue
    group = members.three()
    leader, number = group.leader(), 0
    best = float("inf")
    for _ in range(6):  # a run becomes faster, until every key and session is there
        start = time.process_time()
        for _ in range(REQUESTS // 80):
            events = []
            for _ in range(20):
                number += 1
                group.tokens += 1
                command = {"op": "put", "key": f"bench/{number % 500}", "value": "v" * 64}
                key = number.to_bytes(32) if keyed else None
                events.append(Execute(group.tokens, (command,), key))
            group.now += 1
            group.step(leader, *events)
            group.deliver()
        best = min(best, (time.process_time() - start) / (REQUESTS // 80 * 20))
    return best


def simulator() -> float:
    """One event of a simulated schedule, with every oracle."""
    start, events = time.process_time(), 0
    for seed in range(SCHEDULES):
        events += run(draw_schedule(seed)).events
    return (time.process_time() - start) / events


def _looped(work: Callable[[], Awaitable[float]]) -> Callable[[], float]:
    async def looped() -> float:
        return await work()

    return lambda: uvloop.run(looped())


LAYERS: dict[str, Callable[[], float]] = {
    "api-put": _looped(lambda: api("/v1/commands", PUT)),
    "api-put-keyed": _looped(lambda: api("/v1/commands", PUT, keyed=True)),
    "api-strong-read": _looped(lambda: api("/v1/queries", GET)),
    "http": _looped(lambda: http(whole=False)),
    "http-and-api-put": _looped(lambda: http(whole=True)),
    "http-other-heads": _looped(lambda: http(whole=False, keyed=True)),
    "http-and-api-put-other-heads": _looped(lambda: http(whole=True, keyed=True)),
    "core": lambda: core(keyed=False),
    "core-keyed": lambda: core(keyed=True),
    "simulator-event": simulator,
}


if find_spec("node.api.http2_protocol"):
    LAYERS["http2-and-api-put"] = _looped(http2)
    LAYERS["http2-and-api-put-other-heads"] = _looped(lambda: http2(keyed=True))


def measure(names: Iterator[str] | list[str], rounds: int) -> dict[str, float]:
    least = dict.fromkeys(names, float("inf"))
    for _ in range(rounds):
        for name in least:
            least[name] = min(least[name], LAYERS[name]())
    return {name: round(seconds * 1_000_000, 2) for name, seconds in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(LAYERS), help="one layer; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    source = inspect.getsourcefile(create_app)
    print(json.dumps({"source": source, "cpu_us": measure(args.only or list(LAYERS), args.rounds)}, indent=2))


if __name__ == "__main__":
    main()
