from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.client.requests import (
    INTEL_PCS,
    CollateralItem,
    PckCaKind,
    Platform,
    Source,
    UpdateMode,
    requests_for,
)
from attestation.collateral.client.retry import (
    BACKOFF_S_MAX,
    backoff_s,
    error_of_status,
    is_retryable,
    retry_after_s_untrusted,
)
from attestation.errors import MalformedError

PLATFORM = Platform(fmspc=bytes.fromhex("90c06f000000"), ca=PckCaKind.PLATFORM)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def urls(source: Source, update: UpdateMode | int) -> dict[CollateralItem, str]:
    return {request.item: request.url for request in requests_for(source, PLATFORM, update)}


def test_intel_is_asked_under_its_documented_addresses() -> None:
    assert urls(INTEL_PCS, UpdateMode.STANDARD) == {
        CollateralItem.ROOT_CRL: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        CollateralItem.PCK_CRL: "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl"
        "?ca=platform&encoding=der",
        CollateralItem.TCB_INFO: "https://api.trustedservices.intel.com/tdx/certification/v4/tcb"
        "?fmspc=90c06f000000&update=standard",
        CollateralItem.QE_IDENTITY: "https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity"
        "?update=standard",
    }


def test_a_pccs_is_asked_for_the_root_crl_too() -> None:
    found = urls(Source.pccs("https://pccs.example:8081/"), UpdateMode.EARLY)

    assert found[CollateralItem.ROOT_CRL] == "https://pccs.example:8081/sgx/certification/v4/rootcacrl"
    assert found[CollateralItem.QE_IDENTITY].endswith("?update=early")


def test_an_explicit_number_replaces_the_update_mode() -> None:
    found = urls(INTEL_PCS, 19)

    assert found[CollateralItem.TCB_INFO].endswith("?fmspc=90c06f000000&tcbEvaluationDataNumber=19")
    assert "update" not in found[CollateralItem.TCB_INFO] + found[CollateralItem.QE_IDENTITY]


@pytest.mark.parametrize("number", [0, -1, 2**32])
def test_a_number_that_cannot_be_one_is_our_own_bug(number: int) -> None:
    with pytest.raises(ValueError, match="tcbEvaluationDataNumber"):
        requests_for(INTEL_PCS, PLATFORM, number)


@pytest.mark.parametrize(
    "url",
    [
        "http://pccs.example:8081",
        "ftp://pccs.example",
        "file:///etc/passwd",
        "pccs.example",
        "https://",
        "https://user:secret@pccs.example",
        "https://pccs.example/?x=1",
        "https://pccs.example/#top",
        "https://pccs.example/sgx/certification/v4/",
        "https://pccs.example:port",
        "https://pccs.example/a b",
        "https://pccs.example/\r\nX-Evil: 1",
        "https://[::1",
    ],
)
def test_an_address_that_is_no_plain_https_base_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|base address"):
        Source.pccs(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081"])
def test_plain_http_is_for_loopback_alone(url: str) -> None:
    assert Source.pccs(url).base_url == url


@pytest.mark.parametrize(
    "fmspc",
    [
        "",
        "90c06f00000",
        "90c06f0000000",
        "90c06f00000g",
        "90c06f000000&ca=x",
        "９０c06f000000",
        "90c06f000000\n",
    ],
)
def test_an_fmspc_that_is_not_twelve_hex_digits_never_gets_into_a_url(fmspc: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Platform.from_text_untrusted(fmspc, "platform")
    assert caught.value.reason == "fmspc-invalid"


def test_a_ca_that_intel_does_not_have_is_refused() -> None:
    with pytest.raises(MalformedError) as caught:
        Platform.from_text_untrusted("90c06f000000", "evil")
    assert caught.value.reason == "pck-ca-invalid"


def test_a_platform_of_another_length_cannot_exist() -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        Platform(fmspc=b"12345", ca=PckCaKind.PLATFORM)


@given(st.binary(min_size=6, max_size=6), st.sampled_from(PckCaKind))
def test_every_request_stays_with_the_configured_source(fmspc: bytes, ca: PckCaKind) -> None:
    source = Source.pccs("https://pccs.example:8081")
    for request in requests_for(source, Platform(fmspc=fmspc, ca=ca), UpdateMode.STANDARD):
        assert request.url.startswith("https://pccs.example:8081/")


# ---- when to ask again --------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_bound_and_never_falls_below_half() -> None:
    assert [backoff_s(attempt, 0.0) for attempt in range(6)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff_s(50, 0.999999) < BACKOFF_S_MAX


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("9" * 30, 999999999.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("-7", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("7" * 100, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s_untrusted(value, NOW) == seconds


@given(st.text(max_size=70))
def test_retry_after_of_arbitrary_text_never_raises(value: str) -> None:
    seconds = retry_after_s_untrusted(value, NOW)

    assert seconds is None or 0 <= seconds <= timedelta(days=365_000_0).total_seconds()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "platform-unknown"),
        (410, "evaluation-number-gone"),
        (400, "collateral-request-refused"),
        (401, "collateral-access-refused"),
        (302, "collateral-redirected"),
        (461, "collateral-not-found"),
        (460, "collateral-source-error"),
        (503, "collateral-source-failing"),
        (204, "collateral-source-error"),
    ],
)
def test_each_status_of_tcb_info_has_its_meaning(status: int, reason: str) -> None:
    request = next(
        item
        for item in requests_for(INTEL_PCS, PLATFORM, UpdateMode.STANDARD)
        if item.item is CollateralItem.TCB_INFO
    )

    assert error_of_status(request, status).reason == reason


def test_only_what_may_pass_by_itself_is_asked_for_again() -> None:
    again = [status for status in range(200, 600) if is_retryable(status)]

    assert again == [408, 425, 429, 500, 502, 503, 504]


def test_only_the_tcb_info_reveals_that_a_platform_is_unknown() -> None:
    request = requests_for(INTEL_PCS, PLATFORM, UpdateMode.STANDARD)[0]

    assert error_of_status(request, 404).reason == "collateral-not-found"
