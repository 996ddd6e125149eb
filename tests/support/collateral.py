"""A client of the project's own PCCS in front of a mock authority, asked from synchronous tests."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
import pytest

from attestation.collateral.client.fetcher import Fetcher
from attestation.collateral.client.requests import (
    Platform,
)
from attestation.collateral.freshness import Observation
from attestation.errors import (
    AttestationError,
)
from enclave.mock.authority import MockAuthority
from enclave.mock.statement import Statement
from tests.support.pccs import ClientRig, ManualClock, make_rig, platform_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
ROOT = AUTHORITY.trust_root
SET = AUTHORITY.endorsements(NOW)
NEXT_SET = AUTHORITY.endorsements(NOW + timedelta(days=2))
PLATFORM = platform_of(SET)
ITEMS = ("root-crl", "pck-crl", "tcb-info", "qe-identity")


def rig(**options: Any) -> ClientRig:
    options.setdefault("root", ROOT)
    options.setdefault("now", NOW)
    return make_rig(options.pop("endorsements", SET), **options)


T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 20))


def get(r: ClientRig, platform: Platform = PLATFORM) -> Any:
    return run(r.client.endorsements(platform))


def refused(r: ClientRig, kind: type[AttestationError], platform: Platform = PLATFORM) -> str:
    with pytest.raises(kind) as caught:
        get(r, platform)
    return caught.value.reason


def observation_of(r: ClientRig, update: str = "standard") -> Observation:
    return Observation.of(get(r).verified, update)


class Recording(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, hosts: list[str]) -> None:
        self._inner, self._hosts = inner, hosts

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._hosts.append(request.url.host)
        return await self._inner.handle_async_request(request)


def fetcher(transport: httpx.AsyncBaseTransport, clock: ManualClock | None = None) -> Fetcher:
    clock = clock or ManualClock(NOW)
    http = httpx.AsyncClient(transport=transport)
    return Fetcher(http, clock=clock, sleep=clock.sleep, jitter=lambda: 0.0)


class DownFor(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "down.example":
            raise httpx.ConnectError("down")
        return await self._inner.handle_async_request(request)


class Held(httpx.AsyncBaseTransport):
    """Lets no request through before the gate opens."""

    def __init__(self, inner: httpx.AsyncBaseTransport, gate: asyncio.Event) -> None:
        self._inner, self._gate = inner, gate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._gate.wait()
        return await self._inner.handle_async_request(request)


def sets_with_numbers(old: int, new: int) -> tuple[Any, Any]:
    return (
        AUTHORITY.endorsements(NOW, replace(Statement(), tcb_evaluation_data_number=old)),
        AUTHORITY.endorsements(NOW, replace(Statement(), tcb_evaluation_data_number=new)),
    )
