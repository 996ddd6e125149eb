"""Puts a collateral client together with a real clock, real chance and a real connection pool."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from attestation.client.client import CollateralClient
from attestation.client.collateral_set import Collateral
from attestation.client.disk import DiskCache
from attestation.client.fetcher import Fetcher
from attestation.client.requests import Source, TcbUpdate
from attestation.freshness import FreshnessState
from attestation.trust import TrustRoot


def system_clock() -> datetime:
    """Return the host's clock, aware UTC. A node holds it to its clock floor before it is used."""
    return datetime.now(UTC)


def ignore_change(_collateral: Collateral) -> None:
    """Do nothing: for whoever holds no standing verdict that new collateral could change."""


@asynccontextmanager
async def open_collateral_client(
    *,
    sources: Sequence[Source],
    root: TrustRoot,
    update: TcbUpdate,
    cache_directory: Path | None,
    tls_ca: Path | None,
    seen: FreshnessState,
    clock: Callable[[], datetime] = system_clock,
    on_change: Callable[[Collateral], None] = ignore_change,
) -> AsyncIterator[CollateralClient]:
    """Yield a client; its connections close with the context.

    Args:
        sources: in order of preference.
        root: what every set must verify under.
        update: which of Intel's TCB infos to ask for.
        cache_directory: where sets survive a restart; None keeps them in memory only.
        tls_ca: PEM of further certificate authorities for the sources' TLS, such as a PCCS' self-signed one.
        seen: what must not be gone back behind.
        clock: aware UTC now.
        on_change: called with each set that differs from the one before.

    Raises:
        OSError: ``tls_ca`` cannot be read, or is not PEM (``ssl.SSLError``).
    """
    context = httpx.create_ssl_context()
    if tls_ca is not None:
        context.load_verify_locations(cafile=tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    chance = random.SystemRandom()
    async with httpx.AsyncClient(verify=context, headers={"User-Agent": "bondstone"}) as http:
        yield CollateralClient(
            sources=sources,
            root=root,
            update=update,
            fetcher=Fetcher(http, clock=clock, sleep=asyncio.sleep, jitter=chance.random),
            disk=None if cache_directory is None else DiskCache(cache_directory),
            clock=clock,
            sleep=asyncio.sleep,
            jitter=chance.random,
            seen=seen,
            on_change=on_change,
        )
