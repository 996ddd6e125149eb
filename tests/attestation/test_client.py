import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from attestation.client.client import (
    FETCHES_MAX,
    NEGATIVE_TTL,
    PLATFORMS_MAX,
    RETRY_TTL,
)
from attestation.client.collateral_set import AGE_MAX, cache_key, parse_record_untrusted
from attestation.client.disk import DiskCache
from attestation.client.fetcher import Fetcher
from attestation.client.requests import (
    DOCUMENT_BYTES_MAX,
    PckCa,
    Platform,
    Source,
    UpdateMode,
    requests_for,
)
from attestation.client.retry import ATTEMPTS_MAX
from attestation.collateral import Endorsements
from attestation.errors import (
    AttestationError,
    EndorsementsUnavailableError,
    MalformedError,
    SignatureError,
    StaleEndorsementsError,
)
from attestation.freshness import FreshnessState, Observation
from attestation.trust import INTEL_SGX_ROOT
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import CRLEncoding, Fault, PCCSSettings, create_pccs, no_fault
from enclave.mock.pki import PCKValues
from enclave.mock.statement import Statement
from tests.support.pccs import BASE_URL, ClientRig, ManualClock, make_rig, platform_of
from tests.support.vectors import needs_vectors, vector

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


def observation_of(r: ClientRig) -> Observation:
    return Observation.of(get(r).verified)


# ---- what is fetched ----------------------------------------------------------------------------


@pytest.mark.parametrize("crl_encoding", list(CRLEncoding))
@pytest.mark.parametrize("honours_encoding", [True, False])
@pytest.mark.parametrize("header", ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])
def test_a_set_is_fetched_and_verified_from_every_dialect(
    crl_encoding: CRLEncoding, honours_encoding: bool, header: str
) -> None:
    r = rig(crl_encoding=crl_encoding, honours_encoding=honours_encoding, tcb_info_chain_header=header)
    collateral = get(r)

    assert collateral.endorsements == SET
    assert collateral.verified.root == ROOT
    assert collateral.source == BASE_URL


def test_a_set_is_fetched_in_intels_dialect() -> None:
    source = Source.pcs("https://api.example", "https://certificates.example/IntelSGXRootCA.der")

    assert get(rig(sources=(source,), crl_encoding=CRLEncoding.PEM)).endorsements == SET


@needs_vectors
@pytest.mark.parametrize("case", ["flashbots-gcp-2025", "automata-alibaba-v5", "google-v5"])
def test_a_recorded_set_of_intels_is_fetched_and_verified_under_the_real_root(case: str) -> None:
    recorded = Endorsements.from_json_untrusted(vector("real", case, "case01", "collateral.json"))
    index = json.loads(vector("index.json"))
    now = next(item for item in index["real"] if item["name"] == case)["cases"][0]["now"]
    r = rig(endorsements=recorded, root=INTEL_SGX_ROOT, now=datetime.fromtimestamp(now, UTC))
    collateral = get(r, platform_of(recorded))

    assert collateral.verified.root.mock is False
    assert replace(collateral.endorsements, pck_certificate_chain=recorded.pck_certificate_chain) == recorded


def test_an_explicit_evaluation_number_is_asked_for() -> None:
    number = observation_of(rig()).tcb_info_number

    assert get(rig(update=number)).endorsements == SET
    assert refused(rig(update=number + 1), EndorsementsUnavailableError) == "evaluation-number-gone"


def test_a_client_without_a_source_cannot_exist() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        rig(sources=())


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_with_a_changed_bit_never_becomes_collateral(item: str) -> None:
    r = rig()
    r.faults.always[item] = Fault.CORRUPT

    with pytest.raises((SignatureError, MalformedError)):
        get(r)
    assert r.changes == []


@pytest.mark.parametrize(
    ("item", "fault", "reason"),
    [
        ("tcb-info", Fault.TRUNCATED, "tcb-info-malformed"),
        ("qe-identity", Fault.TRUNCATED, "qe-identity-malformed"),
        ("pck-crl", Fault.TRUNCATED, "pck-crl-malformed"),
        ("root-crl", Fault.TRUNCATED, "root-crl-malformed"),
        ("tcb-info", Fault.NO_HEADER, "tcb-info-chain-missing"),
        ("pck-crl", Fault.NO_HEADER, "pck-crl-chain-missing"),
        ("qe-identity", Fault.WRONG_HEADER, "qe-identity-chain-malformed"),
        ("tcb-info", Fault.OVERSIZED, "tcb-info-too-large"),
        ("root-crl", Fault.OVERSIZED, "root-crl-too-large"),
        ("tcb-info", Fault.COMPRESSED, "tcb-info-malformed"),
    ],
)
def test_an_answer_that_is_not_what_it_should_be_is_refused_by_name(
    item: str, fault: Fault, reason: str
) -> None:
    r = rig()
    r.faults.always[item] = fault

    assert refused(r, MalformedError) == reason
    assert r.clock.slept_s == []


@pytest.mark.parametrize("item", ITEMS)
def test_a_redirect_is_not_followed(item: str) -> None:
    hosts: list[str] = []
    r = rig(transport=lambda inner: Recording(inner, hosts))
    r.faults.always[item] = Fault.REDIRECT

    assert refused(r, EndorsementsUnavailableError) == "collateral-redirected"
    assert set(hosts) == {"pccs.example"}


class Recording(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, hosts: list[str]) -> None:
        self._inner, self._hosts = inner, hosts

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._hosts.append(request.url.host)
        return await self._inner.handle_async_request(request)


def test_a_set_under_another_root_is_refused() -> None:
    other = MockAuthority.create(NOW)

    assert refused(rig(root=other.trust_root), AttestationError) == "untrusted-root"
    assert refused(rig(root=INTEL_SGX_ROOT), AttestationError) == "untrusted-root"


def test_an_expired_set_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(StaleEndorsementsError):
        get(rig(now=NOW + timedelta(days=60), directory=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_tcb_info_of_another_platform_is_refused() -> None:
    other = Platform(fmspc=bytes(6), ca=PckCa.PLATFORM)
    # The mock service answers 404 for another FMSPC, so a service that lies is needed.
    r = rig(transport=LyingAboutFMSPC)

    assert refused(r, MalformedError, other) == "tcb-info-fmspc"


class LyingAboutFMSPC(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "fmspc" in request.url.params:
            url = request.url.copy_set_param("fmspc", PLATFORM.fmspc.hex())
            request = httpx.Request("GET", url, headers=request.headers)
        return await self._inner.handle_async_request(request)


def test_a_body_is_not_read_beyond_its_limit() -> None:
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 4096
                yield b" " * 4096

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
    request = requests_for(Source.pccs(BASE_URL), PLATFORM, UpdateMode.STANDARD)[2]
    with pytest.raises(MalformedError) as caught:
        run(fetcher(transport).fetch(request))

    assert caught.value.reason == "tcb-info-too-large"
    assert sent <= DOCUMENT_BYTES_MAX + 8192


def test_a_body_announced_too_large_is_not_read_at_all() -> None:
    class Forbidden(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield pytest.fail("the body was read")

    headers = {"Content-Length": str(10**15)}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=Forbidden()))
    request = requests_for(Source.pccs(BASE_URL), PLATFORM, UpdateMode.STANDARD)[2]

    with pytest.raises(MalformedError) as caught:
        run(fetcher(transport).fetch(request))
    assert caught.value.reason == "tcb-info-too-large"


def fetcher(transport: httpx.AsyncBaseTransport, clock: ManualClock | None = None) -> Fetcher:
    clock = clock or ManualClock(NOW)
    http = httpx.AsyncClient(transport=transport)
    return Fetcher(http, clock=clock, sleep=clock.sleep, jitter=lambda: 0.0)


# ---- retries ------------------------------------------------------------------------------------


def test_a_failing_source_is_asked_again_with_growing_pauses() -> None:
    r = rig()
    r.faults.once["tcb-info"] = [Fault.SERVER_ERROR] * 3

    assert get(r).endorsements == SET
    assert r.clock.slept_s == [0.25, 0.5, 1.0]
    assert r.faults.asked["tcb-info"] == 4
    assert r.faults.asked["qe-identity"] == 1


def test_a_source_that_keeps_failing_is_given_up_after_a_bounded_number_of_attempts() -> None:
    r = rig()
    r.faults.always["tcb-info"] = Fault.SERVER_ERROR

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"
    assert r.faults.asked["tcb-info"] == ATTEMPTS_MAX


def test_retry_after_is_waited_for() -> None:
    r = rig(retry_after="7")
    r.faults.once["tcb-info"] = [Fault.BUSY]
    get(r)

    assert r.clock.slept_s == [7.0]


def test_a_source_that_asks_for_too_much_patience_counts_as_down() -> None:
    r = rig(retry_after="3600")
    r.faults.once["tcb-info"] = [Fault.BUSY]

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"
    assert r.clock.slept_s == []


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x")]
)
def test_an_unreachable_source_is_unavailable_and_not_malformed(error: Exception) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    request = requests_for(Source.pccs(BASE_URL), PLATFORM, UpdateMode.STANDARD)[0]
    with pytest.raises(EndorsementsUnavailableError) as caught:
        run(fetcher(httpx.MockTransport(fail)).fetch(request))

    assert caught.value.reason == "collateral-source-unreachable"
    assert caught.value.__cause__ is error


def test_a_set_that_does_not_fit_together_is_fetched_again_as_a_whole_just_once() -> None:
    r = rig()
    r.faults.once["qe-identity"] = [Fault.CORRUPT]

    assert get(r).endorsements == SET
    assert [r.faults.asked[item] for item in ITEMS] == [2, 2, 2, 2]

    r = rig()
    r.faults.always["qe-identity"] = Fault.CORRUPT
    refused(r, SignatureError)
    assert r.faults.asked["tcb-info"] == 2


def test_the_next_source_is_asked_when_one_fails() -> None:
    down = Source.pcs("https://down.example", "https://down.example/nowhere.der")
    r = rig(sources=(down, Source.pccs(BASE_URL)), transport=DownFor)

    assert get(r).source == BASE_URL


class DownFor(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "down.example":
            raise httpx.ConnectError("down")
        return await self._inner.handle_async_request(request)


def test_the_error_of_several_sources_names_the_cause_of_each() -> None:
    down = Source.pccs("https://down.example")
    r = rig(sources=(down, Source.pccs(BASE_URL)), transport=DownFor)
    r.faults.always["tcb-info"] = Fault.TRUNCATED
    with pytest.raises(EndorsementsUnavailableError) as caught:
        get(r)

    assert caught.value.reason == "collateral-sources-failed"
    assert caught.value.values == {
        "https://down.example": "collateral-source-unreachable",
        BASE_URL: "tcb-info-malformed",
    }


def test_a_platform_unknown_to_one_source_is_unknown_though_another_is_silent() -> None:
    down = Source.pccs("https://down.example")
    r = rig(sources=(Source.pccs(BASE_URL), down), transport=DownFor)
    other = Platform(fmspc=bytes(6), ca=PckCa.PLATFORM)

    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"


# ---- the cache ----------------------------------------------------------------------------------


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
    r.faults.fail_all(Fault.SERVER_ERROR)
    r.clock.now = until - timedelta(minutes=5)

    assert get(r).endorsements == SET


def test_a_source_that_is_down_does_not_lengthen_it_either() -> None:
    r = rig()
    until = get(r).verified.valid_until
    r.faults.fail_all(Fault.SERVER_ERROR)
    r.clock.now = until + timedelta(seconds=1)

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"


def test_while_a_source_is_down_a_held_set_is_given_without_waiting_for_it() -> None:
    r = rig()
    get(r)
    r.faults.fail_all(Fault.SERVER_ERROR)
    r.clock.now += AGE_MAX
    get(r)
    asked = r.faults.asked["tcb-info"]
    get(r)
    assert r.faults.asked["tcb-info"] == asked

    r.clock.now += RETRY_TTL
    get(r)
    assert r.faults.asked["tcb-info"] > asked


def test_an_unknown_platform_is_remembered_briefly() -> None:
    other = Platform(fmspc=b"\xaa" * 6, ca=PckCa.PLATFORM)
    requests: list[str] = []
    r = rig(transport=lambda inner: Recording(inner, requests))
    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"
    asked = len(requests)
    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"
    assert len(requests) == asked

    r.clock.now += NEGATIVE_TTL
    refused(r, EndorsementsUnavailableError, other)
    assert len(requests) > asked


def test_a_passing_failure_is_not_remembered_when_nothing_is_held() -> None:
    r = rig()
    r.faults.fail_all(Fault.SERVER_ERROR)
    refused(r, EndorsementsUnavailableError)
    r.faults.always.clear()

    assert get(r).endorsements == SET


def test_many_who_ask_at_once_cause_one_fetch() -> None:
    r = rig()

    async def storm() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(r.client.endorsements(PLATFORM)) for _ in range(50)]
        return [task.result() for task in tasks]

    results = run(storm())

    assert len({id(result) for result in results}) == 1
    assert [r.faults.asked[item] for item in ITEMS] == [1, 1, 1, 1]


def test_many_who_ask_at_once_all_learn_of_the_failure() -> None:
    r = rig()
    r.faults.fail_all(Fault.SERVER_ERROR)

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


def test_when_the_one_who_fetches_is_cancelled_those_who_wait_still_get_the_set() -> None:
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


def test_one_who_waits_may_be_cancelled_without_harm_to_the_others() -> None:
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


class Held(httpx.AsyncBaseTransport):
    """Lets no request through before the gate opens."""

    def __init__(self, inner: httpx.AsyncBaseTransport, gate: asyncio.Event) -> None:
        self._inner, self._gate = inner, gate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._gate.wait()
        return await self._inner.handle_async_request(request)


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
    monkeypatch.setattr("attestation.client.client.PLATFORMS_MAX", 2)
    r = rig()
    platforms = []
    for number in range(3):
        values = PCKValues(fmspc=bytes([9, 9, 9, 9, 9, number]))
        platform = AUTHORITY.create_platform(NOW, values)
        r.serve(AUTHORITY.endorsements(NOW, platform=platform))
        platforms.append(Platform(fmspc=values.fmspc, ca=PckCa.PLATFORM))
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
            platform = Platform(fmspc=number.to_bytes(6, "big"), ca=PckCa.PLATFORM)
            with pytest.raises(EndorsementsUnavailableError):
                await r.client.endorsements(platform)

        async with asyncio.TaskGroup() as group:
            for number in range(PLATFORMS_MAX + 10):
                group.create_task(one(number))

    run(storm())

    assert most <= FETCHES_MAX * len(ITEMS)
    assert len(r.client._failures) == PLATFORMS_MAX


# ---- the disk -----------------------------------------------------------------------------------


def test_a_set_survives_a_restart_without_the_source(tmp_path: Path) -> None:
    get(rig(directory=tmp_path))
    r = rig(directory=tmp_path)
    r.faults.fail_all(Fault.SERVER_ERROR)

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


def test_a_record_dated_in_the_future_is_refreshed_all_the_same(tmp_path: Path) -> None:
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


# ---- freshness ----------------------------------------------------------------------------------


def sets_with_numbers(old: int, new: int) -> tuple[Any, Any]:
    return (
        AUTHORITY.endorsements(NOW, replace(Statement(), tcb_evaluation_data_number=old)),
        AUTHORITY.endorsements(NOW, replace(Statement(), tcb_evaluation_data_number=new)),
    )


def test_an_older_evaluation_number_than_seen_is_refused_though_it_is_genuine() -> None:
    old, new = sets_with_numbers(17, 18)
    seen = FreshnessState().observe(observation_of(rig(endorsements=new)))
    # Without the memory it is taken: it is signed and in its window.
    assert get(rig(endorsements=old)).endorsements == old

    assert refused(rig(endorsements=old, seen=seen), StaleEndorsementsError) == "endorsements-rolled-back"


def test_a_source_that_goes_back_does_not_replace_what_is_held() -> None:
    old, new = sets_with_numbers(17, 18)
    r = rig(endorsements=new)
    get(r)
    r.serve(old)
    r.clock.now += AGE_MAX

    assert get(r).endorsements == new
    assert [change.endorsements for change in r.changes] == [new]


def test_a_source_that_goes_back_is_passed_over_for_one_that_does_not() -> None:
    old, new = sets_with_numbers(17, 18)
    behind = httpx.ASGITransport(app=create_pccs(PCCSSettings(endorsements=lambda: old, fault=no_fault)))

    class ByHost(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self._inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            chosen = behind if request.url.host == "behind.example" else self._inner
            return await chosen.handle_async_request(request)

    sources = (Source.pccs("https://behind.example"), Source.pccs(BASE_URL))
    seen = FreshnessState().observe(observation_of(rig(endorsements=new)))
    fresh = get(rig(endorsements=new, sources=sources, transport=ByHost, seen=seen))

    assert (fresh.source, fresh.endorsements) == (BASE_URL, new)
    assert get(rig(endorsements=new, sources=sources, transport=ByHost)).endorsements == old


def test_a_stapled_set_raises_the_floor_for_fetched_ones() -> None:
    old, new = sets_with_numbers(17, 18)
    r = rig(endorsements=old)
    r.client.observe(observation_of(rig(endorsements=new)))

    assert refused(r, StaleEndorsementsError) == "endorsements-rolled-back"


def test_a_set_on_disk_that_is_older_than_seen_is_not_used(tmp_path: Path) -> None:
    old, new = sets_with_numbers(17, 18)
    get(rig(endorsements=old, directory=tmp_path))
    seen = FreshnessState().observe(observation_of(rig(endorsements=new)))
    r = rig(endorsements=new, directory=tmp_path, seen=seen)

    assert get(r).endorsements == new


def test_new_collateral_is_told_of_and_the_same_again_is_not() -> None:
    r = rig()
    get(r)
    run(r.client.refresh(PLATFORM))
    assert len(r.changes) == 1

    r.clock.now += timedelta(days=2)
    r.serve(NEXT_SET)
    get(r)
    assert [change.endorsements for change in r.changes] == [SET, NEXT_SET]
    assert r.client.seen.newest_issue == r.changes[-1].verified.valid_from


# ---- refresh ahead of expiry --------------------------------------------------------------------


class StoppedError(Exception):
    pass


def keep_fresh_for(r: ClientRig, total: timedelta) -> None:
    """Run the refresher until this much of its own time has passed."""
    end = r.clock.now + total
    plain = r.client._sleep

    async def sleep(seconds: float) -> None:
        await plain(seconds)
        if r.clock.now >= end:
            raise StoppedError

    r.client._sleep = sleep
    with pytest.raises(StoppedError):
        run(r.client.keep_fresh())


def test_held_sets_are_refreshed_before_they_expire_without_being_asked_for() -> None:
    r = rig()
    get(r)
    r.clock.now += timedelta(days=2) - timedelta(hours=1)
    r.serve(AUTHORITY.endorsements(r.clock.now))
    keep_fresh_for(r, timedelta(hours=2))

    assert len(r.changes) == 2
    assert r.faults.asked["tcb-info"] == 2


def test_the_refresher_survives_a_source_that_is_down_and_asks_again_later() -> None:
    r = rig()
    get(r)
    r.clock.now += AGE_MAX
    r.faults.fail_all(Fault.SERVER_ERROR)
    keep_fresh_for(r, timedelta(minutes=5))
    asked = r.faults.asked["tcb-info"]
    assert 1 + ATTEMPTS_MAX < asked <= 1 + ATTEMPTS_MAX * 6

    r.faults.always.clear()
    keep_fresh_for(r, timedelta(minutes=5))
    assert r.faults.asked["tcb-info"] == asked + 1


def test_the_refresher_waits_when_nothing_is_held() -> None:
    r = rig()
    keep_fresh_for(r, timedelta(minutes=3))

    assert r.clock.slept_s == [60.0] * 3
