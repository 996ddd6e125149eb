"""CPU of a call: httpx alone, and our clients over it.

python -m bench.client [--calls 2000] [--rounds 5]

Nothing is sent: the transport answers at once, so what is measured is the client's own work. The rounds take
turns, and the best of each counts.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from enclave.identity import Identity
from node.client import AsyncClient, Client
from node.client.async_client import Connections

URL: Final = "https://localhost:1"
AT_ONCE: Final = 64
ANSWER: Final = b'{"term":1,"index":1,"result":{"revision":2}}'
BODY: Final = b'{"command":{"op":"put","key":"a","value":"b"}}'
FIELDS: Final = {
    "authorization": "Bearer t",
    "content-type": "application/json",
    "idempotency-key": "0123456789abcdef01234567",
}


def answer(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=ANSWER)


def timed(calls: int, call: Callable[[], object]) -> float:
    """Return the CPU time of one call, microseconds."""
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls * 1e6


async def timed_at_once(calls: int, call: Callable[[], Awaitable[object]]) -> float:
    """The same with 64 in flight."""
    each = max(calls // AT_ONCE, 1)

    async def some() -> None:
        for _ in range(each):
            await call()

    began = time.process_time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return (time.process_time() - began) / (each * AT_ONCE) * 1e6


def blocking(calls: int, ca: Path) -> tuple[float, float]:
    raw = httpx.Client(transport=httpx.MockTransport(answer))
    client = Client([URL], token="t", ca=ca)
    client._http, client._pem = httpx.Client(transport=httpx.MockTransport(answer)), ca.read_bytes()

    def bare() -> None:
        with raw.stream("POST", f"{URL}/v1/commands", headers=FIELDS, content=BODY) as response:
            response.read()

    return timed(calls, bare), timed(calls, lambda: client.put("a", "b"))


async def asynchronous(calls: int, ca: Path) -> tuple[float, float]:
    raw = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncClient([URL], token="t", ca=ca)
    answering = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client._channel = Connections(answering, ca.read_bytes())

    async def bare() -> None:
        async with raw.stream("POST", f"{URL}/v1/commands", headers=FIELDS, content=BODY) as response:
            await response.aread()

    return await timed_at_once(calls, bare), await timed_at_once(calls, lambda: client.put("a", "b"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        ca = Path(directory) / "ca.pem"
        ca.write_bytes(Identity.generate("node", datetime.now(UTC)).certificate_pem())
        one = [blocking(args.calls, ca) for _ in range(args.rounds)]
        many = [asyncio.run(asynchronous(args.calls, ca)) for _ in range(args.rounds)]
    print(json.dumps({"Client": best(one), "AsyncClient, 64 at once": best(many)}, indent=2))


def best(rounds: list[tuple[float, float]]) -> dict[str, float]:
    bare, ours = (min(round_[i] for round_ in rounds) for i in (0, 1))
    return {"httpx_us": round(bare, 1), "ours_us": round(ours, 1), "more_us": round(ours - bare, 1)}


if __name__ == "__main__":
    main()
