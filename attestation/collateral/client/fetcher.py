"""The HTTP driver: GETs with their limits and retries."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import httpx

from attestation.collateral.client.requests import CollateralItem, Request
from attestation.collateral.client.responses import Part, parse_response_untrusted
from attestation.collateral.client.retry import (
    ATTEMPTS_MAX,
    RETRY_AFTER_S_MAX,
    backoff_s,
    error_of_status,
    is_retryable,
    retry_after_s_untrusted,
)
from attestation.errors import AttestationError, EndorsementsUnavailableError, MalformedError

# A PCCS that caches on demand first sends a request to Intel, so reading its answer may take long.
TIMEOUT: Final = httpx.Timeout(connect=5.0, read=20.0, write=5.0, pool=20.0)
# With a read timeout alone, a source could send one byte at a time without end.
ATTEMPT_S_MAX: Final = 60.0
# Each chunk of an answer costs the event loop time, however small it is. The largest real answer has 14 kB.
CHUNKS_MAX: Final = 1024
CHUNKS_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


class Fetcher:
    """Fetches single items. Its only state is the connection pool.

    Args:
        http: the pool. Its TLS settings decide which servers it trusts. Collateral is signed, so TLS adds
            privacy and no trust, but is never switched off.
        clock: aware UTC now.
        sleep: waits for the given number of seconds.
        jitter: a float in [0, 1).
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._http = http
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def fetch(self, request: Request, *, attempts_max: int = ATTEMPTS_MAX) -> Part:
        """Return the item, after retries if needed.

        Raises:
            EndorsementsUnavailableError: no answer, or a refusal.
            MalformedError: an answer that is too large or not what it should be.
        """
        attempt = 0
        while True:
            error, asked_s = await self._attempt(request)
            if isinstance(error, Part):
                return error
            attempt += 1
            if attempt >= attempts_max:
                raise error
            if asked_s is not None and asked_s > RETRY_AFTER_S_MAX:
                raise error
            wait_s = backoff_s(attempt - 1, self._jitter())
            if asked_s is not None:
                wait_s = max(wait_s, asked_s)
            _log.info("%s: %s; asking again in %.1f s", request.item, error, wait_s)
            await self._sleep(wait_s)

    async def fetch_all(
        self, requests: Sequence[Request], *, attempts_max: int = ATTEMPTS_MAX
    ) -> dict[CollateralItem, Part]:
        """Return several items, fetched at the same time; a failure of one ends the other fetches.

        Raises:
            AttestationError: as ``fetch``; of several failures, the most informative one.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.fetch(request, attempts_max=attempts_max)) for request in requests
                ]
        except BaseExceptionGroup as failures:
            ours, others = failures.split(AttestationError)
            if others is not None or ours is None:
                raise
            raise _first_leaf(ours) from failures
        return {task.result().item: task.result() for task in tasks}

    async def _attempt(self, request: Request) -> tuple[Part | EndorsementsUnavailableError, float | None]:
        """Return the part, or a passing error and the wait that the source wants. Raise a lasting error."""
        try:
            async with (
                asyncio.timeout(ATTEMPT_S_MAX),
                self._http.stream(
                    "GET",
                    request.url,
                    # A compressed body could grow after its size was checked.
                    headers={"Accept-Encoding": "identity"},
                    follow_redirects=False,
                    timeout=TIMEOUT,
                ) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    error = error_of_status(request, response.status_code)
                    if not is_retryable(response.status_code):
                        raise error
                    asked = response.headers.get("Retry-After")
                    return error, retry_after_s_untrusted(asked, self._clock())
                body = await _read_bounded(request, response)
                headers = response.headers.multi_items()
        except (httpx.RequestError, httpx.StreamError, TimeoutError) as exc:
            return _unreachable(request, exc), None
        # Certificates and CRLs are parsed in the thread: up to a megabyte, from an untrusted source.
        return await asyncio.to_thread(parse_response_untrusted, request, headers, body), None


def _first_leaf(group: BaseExceptionGroup[AttestationError]) -> AttestationError:
    """Return the most informative failure: an answer about the platform before a fault of the network."""
    leaves = [
        _first_leaf(item) if isinstance(item, BaseExceptionGroup) else item for item in group.exceptions
    ]
    return next((leaf for leaf in leaves if leaf.reason == "platform-unknown"), leaves[0])


async def _read_bounded(request: Request, response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise MalformedError(
            f"{request.item}-malformed", "the answer is compressed, although the request does not permit that"
        )
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and (len(announced) > 12 or int(announced) > request.bytes_max):
        raise _too_large(request)
    body = bytearray()
    chunks = 0
    async for chunk in response.aiter_raw():
        chunks += 1
        if len(body) + len(chunk) > request.bytes_max:
            raise _too_large(request)
        if chunks > CHUNKS_MAX:
            raise MalformedError(
                f"{request.item}-too-many-chunks",
                f"the {request.item} comes in more than {CHUNKS_MAX} chunks",
            )
        body += chunk
        if chunks % CHUNKS_AT_ONCE == 0:
            await asyncio.sleep(0)  # chunks that arrived together are read without waiting in between
    return bytes(body)


def _too_large(request: Request) -> MalformedError:
    return MalformedError(
        f"{request.item}-too-large", f"the {request.item} has more than {request.bytes_max} bytes"
    )


def _unreachable(request: Request, cause: Exception) -> EndorsementsUnavailableError:
    error = EndorsementsUnavailableError(
        "collateral-source-unreachable",
        f"{request.item}: {type(cause).__name__} from {httpx.URL(request.url).host}",
        values={"item": str(request.item), "url": request.url},
    )
    error.__cause__ = cause
    return error
