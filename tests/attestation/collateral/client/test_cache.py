import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestation.collateral.client.assembly import AGE_MAX, cache_key, parse_record_untrusted
from attestation.collateral.client.collateral_client import (
    FETCHES_MAX,
    NEGATIVE_TTL,
    PLATFORMS_MAX,
    RETRY_TTL,
)
from attestation.collateral.client.disk import DiskCache
from attestation.collateral.client.requests import (
    PckCaKind,
    Platform,
    UpdateMode,
)
from attestation.collateral.client.retry import ATTEMPTS_MAX
from attestation.errors import (
    EndorsementsUnavailableError,
)
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import PccsFault
from enclave.mock.pki import PCKValues
from tests.support.collateral import (
    AUTHORITY,
    ITEMS,
    NEXT_SET,
    NOW,
    PLATFORM,
    ROOT,
    SET,
    Held,
    Recording,
    get,
    refused,
    rig,
    run,
)

# ---- the cache -------------------------------------------------------------------------------------


def test_a_held_set_is_not_fetched_again_until_it_is_due() -> None:
    r = rig()
    get(r)
    r.clock.now += AGE_MAX - timedelta(seconds=1)
    get(r)
    assert r.faults.asked["tcb-info"] == 1

    r.clock.now += timedelta(seconds=2)
    r.serve(NEXT_SET)
    assert get(r).endorsements == NEXT_SET
    assert r.faults.asked["tcb-info"] == 2


def test_a_set_near_its_end_is_refreshed_after_half_of_what_is_left() -> None:
    r = rig()
    until = get(r).verified.valid_until
    late = rig(now=until - timedelta(hours=4))

    assert get(late).refresh_at == until - timedelta(hours=2)


def test_jitter_brings_a_refresh_forward_and_never_puts_it_off() -> None:
    plain, early = get(rig(jitter=0.0)), get(rig(jitter=0.999))

    assert plain.refresh_at - timedelta(hours=5) < early.refresh_at < plain.refresh_at


def test_a_source_that_is_down_does_not_shorten_what_is_still_valid() -> None:
    r = rig()
    until = get(r).verified.valid_until
    r.faults.fail_all(PccsFault.SERVER_ERROR)
    r.clock.now = until - timedelta(minutes=5)

    assert get(r).endorsements == SET


def test_a_source_that_is_down_does_not_lengthen_it_either() -> None:
    r = rig()
    until = get(r).verified.valid_until
    r.faults.fail_all(PccsFault.SERVER_ERROR)
    r.clock.now = until + timedelta(seconds=1)

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"


def test_while_a_source_is_down_a_held_set_is_given_without_waiting_for_it() -> None:
    r = rig()
    get(r)
    r.faults.fail_all(PccsFault.SERVER_ERROR)
    r.clock.now += AGE_MAX
    get(r)
    asked = r.faults.asked["tcb-info"]
    get(r)
    assert r.faults.asked["tcb-info"] == asked

    r.clock.now += RETRY_TTL
    get(r)
    assert r.faults.asked["tcb-info"] > asked


def test_an_unknown_platform_is_remembered_briefly() -> None:
    other = Platform(fmspc=b"\xaa" * 6, ca=PckCaKind.PLATFORM)
    requests: list[str] = []
    r = rig(transport=lambda inner: Recording(inner, requests))
    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"
    asked = len(requests)
    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"
    assert len(requests) == asked

    r.clock.now += NEGATIVE_TTL
    refused(r, EndorsementsUnavailableError, other)
    assert len(requests) > asked


def test_a_platform_that_became_known_is_no_longer_remembered_as_unknown() -> None:
    r = rig()
    r.faults.once["tcb-info"] = [PccsFault.NOT_FOUND]
    assert refused(r, EndorsementsUnavailableError) == "platform-unknown"
    run(r.client.refresh(PLATFORM))

    assert r.client._failures == {}


def test_a_passing_failure_is_not_remembered_when_nothing_is_held() -> None:
    r = rig()
    r.faults.fail_all(PccsFault.SERVER_ERROR)
    refused(r, EndorsementsUnavailableError)
    r.faults.always.clear()

    assert get(r).endorsements == SET


def test_concurrent_requests_cause_one_fetch() -> None:
    r = rig()

    async def storm() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(r.client.endorsements(PLATFORM)) for _ in range(50)]
        return [task.result() for task in tasks]

    results = run(storm())

    assert len({id(result) for result in results}) == 1
    assert [r.faults.asked[item] for item in ITEMS] == [1, 1, 1, 1]


def test_concurrent_requests_all_get_the_failure() -> None:
    r = rig()
    r.faults.fail_all(PccsFault.SERVER_ERROR)

    async def storm() -> list[str]:
        async def one() -> str:
            with pytest.raises(EndorsementsUnavailableError) as caught:
                await r.client.endorsements(PLATFORM)
            return caught.value.reason

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(10)]
        return [task.result() for task in tasks]

    assert set(run(storm())) == {"collateral-source-failing"}
    assert r.faults.asked["tcb-info"] == ATTEMPTS_MAX


def test_when_the_fetching_caller_is_cancelled_the_waiting_callers_still_get_the_set() -> None:
    gate = asyncio.Event()
    r = rig(transport=lambda inner: Held(inner, gate))

    async def scenario() -> Any:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(r.client.endorsements(PLATFORM))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting = group.create_task(r.client.endorsements(PLATFORM))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            gate.set()
            return await waiting

    assert run(scenario()).endorsements == SET


def test_a_waiting_caller_may_be_cancelled_without_harm_to_the_others() -> None:
    gate = asyncio.Event()
    r = rig(transport=lambda inner: Held(inner, gate))

    async def scenario() -> tuple[bool, Any]:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(r.client.endorsements(PLATFORM))
            waiting = group.create_task(r.client.endorsements(PLATFORM))
            while not r.client._flights:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            gate.set()
            return waiting.cancelled(), await first

    cancelled, collateral = run(scenario())

    assert cancelled
    assert collateral.endorsements == SET
    assert r.faults.asked["tcb-info"] == 1


def test_our_own_bug_is_not_taken_for_a_source_that_is_down() -> None:
    class Buggy(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise ZeroDivisionError

    r = rig(transport=lambda _: Buggy())
    with pytest.raises(ExceptionGroup) as caught:
        get(r)

    assert caught.value.subgroup(ZeroDivisionError) is not None
    assert r.client._flights == {}


def test_the_set_that_was_not_asked_for_longest_is_let_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.collateral.client.collateral_client.PLATFORMS_MAX", 2)
    r = rig()
    platforms = []
    for number in range(3):
        values = PCKValues(fmspc=bytes([9, 9, 9, 9, 9, number]))
        platform = AUTHORITY.create_platform(NOW, values)
        r.serve(AUTHORITY.endorsements(NOW, platform=platform))
        platforms.append(Platform(fmspc=values.fmspc, ca=PckCaKind.PLATFORM))
        get(r, platforms[-1])
        if number == 1:
            get(r, platforms[0])

    assert list(r.client._held) == [platforms[0], platforms[2]]


def test_unverified_quotes_cannot_start_more_than_a_few_fetches_at_once() -> None:
    running = most = 0

    class Counting(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self._inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            try:
                return await self._inner.handle_async_request(request)
            finally:
                running -= 1

    r = rig(transport=Counting)

    async def storm() -> None:
        async def one(number: int) -> None:
            platform = Platform(fmspc=number.to_bytes(6, "big"), ca=PckCaKind.PLATFORM)
            with pytest.raises(EndorsementsUnavailableError):
                await r.client.endorsements(platform)

        async with asyncio.TaskGroup() as group:
            for number in range(PLATFORMS_MAX + 10):
                group.create_task(one(number))

    run(storm())

    assert most <= FETCHES_MAX * len(ITEMS)
    assert len(r.client._failures) == PLATFORMS_MAX


# ---- the disk --------------------------------------------------------------------------------------


def test_a_set_survives_a_restart_without_the_source(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    r = rig(directory=tmp_path)
    r.faults.fail_all(PccsFault.SERVER_ERROR)

    assert get(r).endorsements == SET
    assert r.faults.asked.total() == 0


def test_a_set_on_disk_that_is_due_is_fetched_anew(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    r = rig(directory=tmp_path, now=NOW + AGE_MAX)
    get(r)

    assert r.faults.asked["tcb-info"] == 1


def record_path(directory: Path) -> Path:
    return directory / f"{cache_key(ROOT, PLATFORM, UpdateMode.STANDARD)}.json"


@pytest.mark.parametrize("damage", ["cut", "garbage", "forged", "other-set", "huge"])
def test_a_damaged_or_forged_record_is_discarded_and_fetched_anew(tmp_path: Path, damage: str) -> None:
    get(rig(directory=tmp_path))
    path = record_path(tmp_path)
    good = path.read_bytes()
    other = MockAuthority.create(NOW)
    bad = {
        "cut": good[: len(good) // 2],
        "garbage": b"\xff" * 100,
        "forged": good.replace(b'\\"tcbStatus\\":\\"', b'\\"tcbStatus\\": \\"'),
        "other-set": good.replace(
            SET.root_ca_crl.hex().encode(), other.endorsements(NOW).root_ca_crl.hex().encode()
        ),
        "huge": good + b" " * (4 * 1024 * 1024),
    }[damage]
    assert bad != good
    path.write_bytes(bad)
    r = rig(directory=tmp_path)

    assert get(r).endorsements == SET
    assert r.faults.asked["tcb-info"] == 1
    assert parse_record_untrusted(path.read_bytes()).endorsements == SET


def test_a_record_that_does_not_verify_is_removed_from_the_disk(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    record_path(tmp_path).write_bytes(b"{}")
    r = rig(directory=tmp_path)
    r.faults.fail_all(PccsFault.SERVER_ERROR)

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"
    assert list(tmp_path.iterdir()) == []


def test_a_record_dated_in_the_future_is_still_refreshed(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    path = record_path(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"2026-11-22T12:00:00Z", b"2096-11-22T12:00:00Z"))

    assert get(rig(directory=tmp_path)).refresh_at <= NOW + AGE_MAX


def test_a_record_of_one_root_is_never_used_under_another(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    other = MockAuthority.create(NOW)
    r = rig(directory=tmp_path, endorsements=other.endorsements(NOW), root=other.trust_root)

    assert get(r).verified.root == other.trust_root
    assert r.faults.asked["tcb-info"] == 1


def test_nothing_is_left_behind_when_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    r = rig(directory=tmp_path)

    assert get(r).endorsements == SET
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_replaced_as_a_whole(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.store("ab12", b"old")
    cache.store("ab12", b"new")

    assert cache.load_untrusted("ab12") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["ab12.json"]
