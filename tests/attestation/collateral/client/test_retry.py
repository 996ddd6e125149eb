import httpx
import pytest

from attestation.collateral.client.requests import (
    PckCaKind,
    Platform,
    Source,
    UpdateMode,
    requests_for,
)
from attestation.collateral.client.retry import ATTEMPTS_MAX
from attestation.errors import (
    EndorsementsUnavailableError,
    SignatureError,
)
from enclave.mock.pccs import PccsFault
from tests.support.collateral import ITEMS, PLATFORM, SET, DownFor, fetcher, get, refused, rig, run
from tests.support.pccs import BASE_URL


def test_a_failing_source_is_asked_again_with_growing_pauses() -> None:
    r = rig()
    r.faults.once["tcb-info"] = [PccsFault.SERVER_ERROR] * 3

    assert get(r).endorsements == SET
    assert r.clock.slept_s == [0.25, 0.5, 1.0]
    assert r.faults.asked["tcb-info"] == 4
    assert r.faults.asked["qe-identity"] == 1


def test_a_source_that_keeps_failing_is_given_up_after_a_bounded_number_of_attempts() -> None:
    r = rig()
    r.faults.always["tcb-info"] = PccsFault.SERVER_ERROR

    assert refused(r, EndorsementsUnavailableError) == "collateral-source-failing"
    assert r.faults.asked["tcb-info"] == ATTEMPTS_MAX


def test_retry_after_is_waited_for() -> None:
    r = rig(retry_after="7")
    r.faults.once["tcb-info"] = [PccsFault.BUSY]
    get(r)

    assert r.clock.slept_s == [7.0]


def test_a_source_that_asks_for_too_much_patience_counts_as_down() -> None:
    r = rig(retry_after="3600")
    r.faults.once["tcb-info"] = [PccsFault.BUSY]

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
    r.faults.once["qe-identity"] = [PccsFault.CORRUPT]

    assert get(r).endorsements == SET
    assert [r.faults.asked[item] for item in ITEMS] == [2, 2, 2, 2]

    r = rig()
    r.faults.always["qe-identity"] = PccsFault.CORRUPT
    refused(r, SignatureError)
    assert r.faults.asked["tcb-info"] == 2


def test_the_next_source_is_asked_when_one_fails() -> None:
    down = Source.pcs("https://down.example", "https://down.example/nowhere.der")
    r = rig(sources=(down, Source.pccs(BASE_URL)), transport=DownFor)

    assert get(r).source == BASE_URL


def test_the_error_of_several_sources_names_the_cause_of_each() -> None:
    down = Source.pccs("https://down.example")
    r = rig(sources=(down, Source.pccs(BASE_URL)), transport=DownFor)
    r.faults.always["tcb-info"] = PccsFault.TRUNCATED
    with pytest.raises(EndorsementsUnavailableError) as caught:
        get(r)

    assert caught.value.reason == "collateral-sources-failed"
    assert caught.value.values == {
        "https://down.example": "collateral-source-unreachable",
        BASE_URL: "tcb-info-malformed",
    }


def test_a_platform_unknown_to_one_source_is_unknown_though_another_does_not_answer() -> None:
    down = Source.pccs("https://down.example")
    r = rig(sources=(Source.pccs(BASE_URL), down), transport=DownFor)
    other = Platform(fmspc=bytes(6), ca=PckCaKind.PLATFORM)

    assert refused(r, EndorsementsUnavailableError, other) == "platform-unknown"
