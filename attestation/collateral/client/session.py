"""Puts a collateral client together with a real clock, real randomness and a real connection pool."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from attestation import files
from attestation.collateral.client.assembly import Collateral
from attestation.collateral.client.collateral_client import CollateralClient
from attestation.collateral.client.disk import DiskCache
from attestation.collateral.client.fetcher import Fetcher
from attestation.collateral.client.requests import Source, TcbUpdate
from attestation.collateral.freshness import FreshnessState
from attestation.files import FileError
from attestation.x509.trust import TrustRoot

CERTIFICATES_BYTES_MAX: Final = 4 * 1024 * 1024


def system_clock() -> datetime:
    """Return the host's clock, aware UTC. A node holds it to its clock floor before it is used."""
    return datetime.now(UTC)


def ignore_change(_collateral: Collateral) -> None:
    """Do nothing: for a caller that holds no standing verdict that new collateral could change."""


def tls_context(*, tls_ca: Path | None, tls_roots: Path | None) -> ssl.SSLContext:
    """Return the TLS authorities to trust: Mozilla's or those in ``tls_roots``, and those in ``tls_ca``.

    Raises:
        FileError: a file cannot be read, or holds no certificate.
    """
    if tls_roots is None:
        context = httpx.create_ssl_context(trust_env=False)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, tls_roots)
    if tls_ca is not None:
        _trust(context, tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _trust(context: ssl.SSLContext, path: Path) -> None:
    data = files.read_bytes(path, bytes_max=CERTIFICATES_BYTES_MAX)
    try:
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as exc:
        raise FileError(f"{path} holds no PEM certificate") from exc


def proxy_address(text: str) -> str:
    """Return the address of an HTTP proxy. Raises ValueError if the text is not such an address."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise ValueError(f"{text!r} is not the address of a proxy, http://HOST:PORT: {exc}") from exc
    if url.scheme != "http" or not url.host or url.path not in {"", "/"} or url.query or url.fragment:
        raise ValueError(f"{text!r} is not the address of a proxy, http://HOST:PORT")
    return text


@asynccontextmanager
async def open_collateral_client(
    *,
    sources: Sequence[Source],
    root: TrustRoot,
    update: TcbUpdate,
    cache_directory: Path | None,
    tls_ca: Path | None,
    seen: FreshnessState,
    proxy: str | None = None,
    tls_roots: Path | None = None,
    clock: Callable[[], datetime] = system_clock,
    on_change: Callable[[Collateral], None] = ignore_change,
) -> AsyncIterator[CollateralClient]:
    """Yield a client; its connections close with the context.

    Args:
        sources: in order of preference.
        root: the trust root that every set must verify under.
        update: which of Intel's TCB infos to request.
        cache_directory: where sets survive a restart; None keeps them in memory only.
        tls_ca: PEM of further certificate authorities for the sources' TLS, such as a PCCS' self-signed one.
        seen: the floors; a set below them is refused.
        proxy: ``http://HOST:PORT`` of a proxy for the sources that use HTTPS; requests to a source on this
            machine that uses HTTP never go through it.
        tls_roots: PEM of the authorities to trust instead of the built-in ones (Mozilla's).
        clock: aware UTC now.
        on_change: called with each set that differs from the one before.

    Raises:
        FileError: ``tls_ca`` or ``tls_roots`` cannot be read, or holds no certificate.
        ValueError: ``proxy`` is no address of a proxy.
    """
    context = tls_context(tls_ca=tls_ca, tls_roots=tls_roots)
    through = None
    if proxy is not None:
        address = proxy_address(proxy)
        through = {"https://": httpx.AsyncHTTPTransport(proxy=address, verify=context, trust_env=False)}
    chance = random.SystemRandom()
    # Environment variables change neither the trusted authorities nor the proxy.
    async with httpx.AsyncClient(
        verify=context, mounts=through, headers={"User-Agent": "bondstone"}, trust_env=False
    ) as http:
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
