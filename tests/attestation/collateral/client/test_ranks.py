"""Which sets the client keeps and refreshes, and what ends its work in the background: nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestation.collateral.client import fetcher as fetching
from attestation.collateral.client.assembly import AGE_MAX, Collateral
from attestation.collateral.client.collateral_client import PLATFORMS_MAX, RETRY_TTL, STRANGERS_MAX, Rank
from attestation.collateral.client.fetcher import CHUNKS_AT_ONCE, CHUNKS_MAX
from attestation.collateral.client.requests import PckCaKind, Platform, Source, UpdateMode, requests_for
from attestation.errors import MalformedError
from enclave.mock.pki import PCKValues
from enclave.mock.statement import Statement
from tests.support.collateral import AUTHORITY, NOW, PLATFORM, SET, fetcher, get, rig, run, sets_with_numbers
from tests.support.pccs import BASE_URL, ClientRig


def other(number: int) -> Platform:
    return Platform(fmspc=bytes([9, 9, 9, 9]) + number.to_bytes(2, "big"), ca=PckCaKind.PLATFORM)


def fetched(r: ClientRig, number: int, rank: Rank) -> Platform:
    """Have another platform's set fetched."""
    platform = other(number)
    values = PCKValues(fmspc=platform.fmspc)
    r.serve(AUTHORITY.endorsements(NOW, platform=AUTHORITY.create_platform(NOW, values)))
    run(r.client.endorsements(platform, least=rank))
    return platform


# ---- who goes when there is no room -----------------------------------------------------------------


def test_unproven_platforms_are_limited_and_evict_no_proven_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.collateral.client.collateral_client.STRANGERS_MAX", 2)
    assert STRANGERS_MAX < PLATFORMS_MAX
    r = rig()
    run(r.client.endorsements(PLATFORM, least=Rank.OWN))
    known = fetched(r, 0, Rank.KNOWN)
    strangers = [fetched(r, number, Rank.STRANGER) for number in range(1, 5)]

    assert list(r.client._held) == [PLATFORM, known, *strangers[-2:]]


def test_our_own_platforms_set_is_never_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.collateral.client.collateral_client.PLATFORMS_MAX", 2)
    r = rig()
    run(r.client.endorsements(PLATFORM, least=Rank.OWN))
    for number in range(4):
        fetched(r, number, Rank.KNOWN)

    assert list(r.client._held) == [PLATFORM, other(3)]


def test_a_stranger_finds_no_room_among_platforms_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.collateral.client.collateral_client.PLATFORMS_MAX", 1)
    r = rig()
    run(r.client.endorsements(PLATFORM, least=Rank.OWN))
    fetched(r, 0, Rank.STRANGER)

    assert list(r.client._held) == [PLATFORM]


def test_a_strangers_set_is_not_kept_fresh() -> None:
    r = rig()
    run(r.client.endorsements(PLATFORM, least=Rank.STRANGER))
    r.clock.now += AGE_MAX
    asked = r.faults.asked.total()
    keep_fresh_once(r)

    assert r.client.held(PLATFORM) is None
    assert r.faults.asked.total() == asked


# ---- nothing ends the work in the background --------------------------------------------------------


class StoppedError(Exception):
    pass


def keep_fresh_once(r: ClientRig) -> None:
    """Run the refresher until it would sleep."""

    async def stop(_seconds: float) -> None:
        raise StoppedError

    r.client._sleep = stop
    with pytest.raises(StoppedError):
        run(r.client.keep_fresh())


def test_a_set_that_is_let_go_while_it_is_refreshed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many platforms and one slow refresh: its own may be gone when it is done."""
    r = rig()
    get(r)
    r.clock.now += AGE_MAX
    fetch = r.client._fetch_from_sources

    async def slow(platform: Platform) -> Collateral:
        r.client._held.clear()
        return await fetch(platform)

    monkeypatch.setattr(r.client, "_fetch_from_sources", slow)
    keep_fresh_once(r)
    assert r.client.held(PLATFORM) is not None


def test_a_callback_that_raises_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    r = rig()

    def fail(_collateral: Collateral) -> None:
        raise ZeroDivisionError

    r.client._on_change = fail

    assert get(r).endorsements == SET
    assert "whoever watches the collateral" in caplog.text


def test_an_unexpected_error_in_one_refresh_leaves_the_others_refreshed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r = rig()
    bad = fetched(r, 0, Rank.KNOWN)
    r.serve(SET)
    get(r)
    r.clock.now += AGE_MAX
    fetch = r.client._fetch_from_sources
    tried: list[Platform] = []

    async def fragile(platform: Platform) -> Collateral:
        tried.append(platform)
        if platform == bad:
            raise ZeroDivisionError
        return await fetch(platform)

    monkeypatch.setattr(r.client, "_fetch_from_sources", fragile)
    with pytest.raises(ZeroDivisionError):
        run(r.client.keep_fresh())  # whoever runs it logs that, counts it, and starts it again
    keep_fresh_once(r)
    assert sorted(tried, key=str) == sorted([bad, PLATFORM], key=str)
    assert r.client.held(PLATFORM).fetched_at == r.clock.now

    r.clock.now += RETRY_TTL
    with pytest.raises(ZeroDivisionError):
        run(r.client.keep_fresh())


@pytest.mark.parametrize("kind", ["directory", "loop"])
def test_a_cache_record_that_is_no_file_costs_a_fetch_and_ends_nothing(tmp_path: Path, kind: str) -> None:
    get(rig(directory=tmp_path))
    (record,) = tmp_path.iterdir()
    record.unlink()
    if kind == "directory":
        (record / "in the way").mkdir(parents=True)
    else:
        record.symlink_to(record)
    r = rig(directory=tmp_path)

    assert get(r).endorsements == SET
    r.clock.now += AGE_MAX
    keep_fresh_once(r)
    assert r.faults.asked["tcb-info"] == 2


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("attestation.files.replace", read_only)
    r = rig(directory=tmp_path)
    get(r)
    r.clock.now += AGE_MAX
    keep_fresh_once(r)

    assert r.client.held(PLATFORM).fetched_at == r.clock.now


# ---- a source that sends many small pieces ----------------------------------------------------------


def test_an_answer_in_tiny_chunks_is_refused_and_leaves_the_loop_to_others() -> None:
    sent = turns = 0

    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield b" "

    async def scenario() -> None:
        nonlocal turns

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Dripping()))
        request = requests_for(Source.pccs(BASE_URL), PLATFORM, UpdateMode.STANDARD)[2]
        try:
            with pytest.raises(MalformedError) as caught:
                await fetcher(transport).fetch(request)
        finally:
            beside.cancel()
        assert caught.value.reason == "tcb-info-too-many-chunks"

    run(scenario())
    assert sent == CHUNKS_MAX + 1
    assert turns >= CHUNKS_MAX // CHUNKS_AT_ONCE


def test_answers_are_parsed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, threads = fetching.parse_response_untrusted, set[int]()

    def parsing(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return parse(*arguments)

    monkeypatch.setattr(fetching, "parse_response_untrusted", parsing)
    get(rig())

    assert threads
    assert threading.get_ident() not in threads


# ---- looking ahead, and at our own trouble ----------------------------------------------------------


def test_looking_at_the_early_set_has_no_effect(tmp_path: Path) -> None:
    r = rig(directory=tmp_path)
    get(r)
    kept, seen = sorted(tmp_path.iterdir()), r.client.seen
    early = AUTHORITY.endorsements(NOW, Statement(tcb_evaluation_data_number=21))
    r.serve(early)

    assert run(r.client.look_at(PLATFORM, UpdateMode.EARLY)) == early
    assert r.client.held(PLATFORM).endorsements == SET
    assert (r.client.seen, sorted(tmp_path.iterdir()), len(r.changes)) == (seen, kept, 1)


def test_why_our_own_platforms_set_is_not_renewed_is_known_until_it_is() -> None:
    old, new = sets_with_numbers(17, 18)
    r = rig(endorsements=new)
    run(r.client.endorsements(PLATFORM, least=Rank.OWN))
    assert r.client.own_problem is None
    r.serve(old)
    r.clock.now += AGE_MAX
    get(r)
    assert r.client.own_problem is not None
    assert r.client.own_problem.reason == "endorsements-rolled-back"

    r.serve(new)
    r.clock.now += RETRY_TTL
    get(r)
    assert r.client.own_problem is None
