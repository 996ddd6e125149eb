import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from attestation.collateral.client.collateral_client import FETCHES_MAX, RETRY_TTL, Rank
from attestation.collateral.client.requests import PckCaKind, Platform
from attestation.collateral.client.source import WISHES_MAX, ClientSource
from attestation.quote.codec import parse_quote_untrusted
from attestation.tickets.store import EndorsementsSource
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import PccsFault
from node.bonds.tickets.admission import judge
from tests.support import tickets
from tests.support.pccs import ClientRig, make_rig, platform_of
from tests.support.vectors import needs_vectors, vector

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
SET = AUTHORITY.endorsements(NOW)
QUOTE = parse_quote_untrusted(AUTHORITY.create_td().quote(bytes(64)))


def with_source(
    work: Callable[[ClientRig, ClientSource], Awaitable[Any]],
    transport: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda inner: inner,
) -> Any:
    """Run ``work`` beside a running source, and end the source with it."""
    r = make_rig(SET, root=AUTHORITY.trust_root, now=NOW, transport=transport)

    async def scenario() -> Any:
        source = ClientSource(r.client)
        r.client._sleep = lambda _: asyncio.Event().wait()  # type: ignore[assignment,return-value]
        running = asyncio.get_running_loop().create_task(source.run())
        try:
            return await work(r, source)
        finally:
            running.cancel()
            await asyncio.wait([running])

    return asyncio.run(asyncio.wait_for(scenario(), 20))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_is_held_is_given_at_once() -> None:
    async def work(r: ClientRig, source: EndorsementsSource) -> None:
        await r.client.endorsements(platform_of(SET))
        assert source.endorsements_for(QUOTE, NOW) == SET
        assert r.faults.asked["tcb-info"] == 1

    with_source(work)


def test_what_is_not_held_is_fetched_meanwhile_even_when_asked_from_another_thread() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        assert await asyncio.to_thread(source.endorsements_for, QUOTE, NOW) is None
        await until(lambda: r.client.held(platform_of(SET)))
        assert source.endorsements_for(QUOTE, NOW) == SET

    with_source(work)


def test_a_source_that_fails_ends_nothing_and_is_asked_again_on_the_next_wish() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        r.faults.fail_all(PccsFault.TRUNCATED)
        source.endorsements_for(QUOTE, NOW)
        await until(lambda: r.faults.asked["tcb-info"] == 1 and not source._wishes)
        r.faults.always.clear()
        r.clock.now += RETRY_TTL
        source.endorsements_for(QUOTE, NOW)
        await until(lambda: r.client.held(platform_of(SET)))

    with_source(work)


def test_unverified_quotes_cannot_pile_up_wishes() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        for number in range(WISHES_MAX * 3):
            source.wish(Platform(fmspc=number.to_bytes(6, "big"), ca=PckCaKind.PLATFORM))
        assert len(source._wishes) == WISHES_MAX
        await until(lambda: not source._wishes)
        source.endorsements_for(QUOTE, NOW)
        await until(lambda: r.client.held(platform_of(SET)))

    assert FETCHES_MAX < WISHES_MAX
    with_source(work)


def test_an_expired_set_is_still_given_for_the_verifier_to_refuse_by_name() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        await r.client.endorsements(platform_of(SET))
        r.clock.now += timedelta(days=400)
        assert source.endorsements_for(QUOTE, r.clock.now) == SET

    with_source(work)


@needs_vectors
def test_a_quote_without_a_pck_chain_causes_no_fetch() -> None:
    quote = parse_quote_untrusted(vector("real", "oasis-quote_v3_ecdsa_p256_eppid", "quote.bin"))

    async def work(r: ClientRig, source: ClientSource) -> None:
        assert source.endorsements_for(quote, NOW) is None
        await asyncio.sleep(0)
        assert source._wishes == {}
        assert r.faults.asked.total() == 0

    with_source(work)


# ---- strangers' platforms ---------------------------------------------------------------------------


def invented(number: int) -> Platform:
    return Platform(fmspc=bytes([0xEE, 0, 0, 0, 0, number]), ca=PckCaKind.PLATFORM)


class StrangersHang(httpx.AsyncBaseTransport):
    """A source that never answers for invented platforms."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if str(request.url.params.get("fmspc", "")).startswith("ee"):
            await asyncio.Event().wait()
        return await self._inner.handle_async_request(request)


@pytest.mark.parametrize("rank", [Rank.KNOWN, Rank.OWN])
def test_invented_platforms_keep_no_platform_that_was_accepted_waiting(rank: Rank) -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        for number in range(WISHES_MAX):
            source.wish(invented(number))
        await until(lambda: len(r.client._flights) == WISHES_MAX)
        r.client.raise_rank(platform_of(SET), rank)
        source.endorsements_for(QUOTE, NOW)
        await until(lambda: r.client.held(platform_of(SET)))

    with_source(work, StrangersHang)


def test_accepted_evidence_takes_its_platform_out_of_the_crowd() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        bench = tickets.Bench()
        validator = bench.validator(witnesses=[source.witness])
        judge([validator], {"tdx": bench.ticket()}, bench.peer(), NOW)
        await until(lambda: r.client.rank_of(platform_of(SET)) is Rank.KNOWN)

    with_source(work)


def test_a_stranger_that_has_waited_longest_goes_when_there_is_no_room() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        for number in range(WISHES_MAX):
            source.wish(invented(number))
        await until(lambda: len(r.client._flights) == WISHES_MAX)
        source.endorsements_for(QUOTE, NOW)
        await until(lambda: platform_of(SET) in source._wishes)

        assert invented(0) not in source._wishes
        assert len(source._wishes) == WISHES_MAX

    with_source(work, StrangersHang)


def test_a_stranger_costs_four_requests_while_the_source_fails() -> None:
    async def work(r: ClientRig, source: ClientSource) -> None:
        r.faults.fail_all(PccsFault.SERVER_ERROR)
        for _ in range(5):
            source.wish(platform_of(SET))
            await until(lambda: not source._wishes)
        assert r.faults.asked.total() <= 4
        # Who is known is worth retries.
        r.client.raise_rank(platform_of(SET), Rank.KNOWN)
        r.clock.now += RETRY_TTL
        source.wish(platform_of(SET))
        await until(lambda: r.faults.asked["tcb-info"] > 1 and not source._wishes)

    with_source(work)
