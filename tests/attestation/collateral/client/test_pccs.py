"""The test service itself: a fault that it does not really make would make a test of the client hollow."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from attestation.collateral.client.requests import Source, UpdateMode, requests_for
from attestation.collateral.endorsements import Endorsements
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import CRLEncoding, PccsFault, PCCSSettings, create_pccs, no_fault
from enclave.mock.statement import Statement
from tests.support.pccs import BASE_URL, ManualClock, platform_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
SET = AUTHORITY.endorsements(NOW)
OLD_SET = AUTHORITY.endorsements(NOW - timedelta(days=20), Statement(tcb_evaluation_data_number=19))
URLS = {
    str(request.item): request.url
    for request in requests_for(Source.pccs(BASE_URL), platform_of(SET), UpdateMode.STANDARD)
}


def get(url: str, **settings: Any) -> httpx.Response:
    settings.setdefault("fault", no_fault)
    return ask(create_pccs(PCCSSettings(endorsements=lambda: SET, **settings)), url)


def ask(app: Starlette, url: str) -> httpx.Response:
    async def answer() -> httpx.Response:
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http,
            http.stream("GET", url) as response,
        ):
            # Raw, since a body that only claims to be compressed cannot be decoded.
            body = b"".join([chunk async for chunk in response.aiter_raw()])
        return httpx.Response(
            response.status_code,
            headers=[(k, v) for k, v in response.headers.items() if k != "content-encoding"],
            content=body,
            extensions={"encoding": response.headers.get("content-encoding", "")},
        )

    return asyncio.run(answer())


def with_fault(item: str, fault: PccsFault, **settings: Any) -> httpx.Response:
    return get(URLS[item], fault=lambda asked: fault if asked == item else None, **settings)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (URLS["tcb-info"], 200),
        (URLS["tcb-info"].replace("fmspc=", "fmspc=0"), 404),
        (URLS["tcb-info"] + "&tcbEvaluationDataNumber=1", 400),
        (URLS["tcb-info"].replace("update=standard", "update=never"), 400),
        (URLS["tcb-info"].replace("update=standard", "tcbEvaluationDataNumber=1"), 410),
        (URLS["pck-crl"].replace("ca=platform", "ca=processor"), 404),
        (URLS["pck-crl"].replace("ca=platform", "ca=evil"), 400),
        (f"{BASE_URL}/sgx/certification/v4/pckcert", 404),
    ],
)
def test_it_answers_with_the_status_codes_of_the_real_service(url: str, status: int) -> None:
    assert get(url).status_code == status


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (CRLEncoding.HEX, SET.pck_crl.hex().encode()),
        (CRLEncoding.DER, SET.pck_crl),
        (CRLEncoding.PEM, b"-----BEGIN X509 CRL-----"),
    ],
)
def test_it_writes_crls_in_the_encoding_that_it_is_set_to(encoding: CRLEncoding, expected: bytes) -> None:
    url = URLS["pck-crl"].replace("&encoding=der", "")

    assert get(url, crl_encoding=encoding).content.startswith(expected)


def test_each_fault_of_the_mock_pccs_does_what_its_name_states() -> None:
    good = get(URLS["tcb-info"])
    options: dict[str, Any] = {"sleep": ManualClock(NOW).sleep, "stale": lambda: OLD_SET}
    answers = {fault: with_fault("tcb-info", fault, **options) for fault in PccsFault}

    assert answers[PccsFault.SLOW].content == good.content
    assert answers[PccsFault.SERVER_ERROR].status_code == 500
    assert answers[PccsFault.BUSY].headers["Retry-After"] == "1"
    assert answers[PccsFault.NOT_FOUND].status_code == 404
    assert answers[PccsFault.REDIRECT].headers["Location"].startswith("http://elsewhere.invalid/")
    assert answers[PccsFault.TRUNCATED].content == good.content[: len(good.content) // 2]
    assert len(answers[PccsFault.CORRUPT].content) == len(good.content)
    assert sum(a != b for a, b in zip(answers[PccsFault.CORRUPT].content, good.content, strict=True)) == 1
    assert len(answers[PccsFault.OVERSIZED].content) > len(good.content) + 1024 * 1024
    assert "tcb-info-issuer-chain" not in answers[PccsFault.NO_HEADER].headers
    assert answers[PccsFault.WRONG_HEADER].headers["tcb-info-issuer-chain"] == "not%20PEM"
    assert OLD_SET.tcb_info in answers[PccsFault.STALE].content
    assert answers[PccsFault.COMPRESSED].extensions["encoding"] == "gzip"


def test_a_slow_answer_is_late_by_what_it_is_set_to() -> None:
    clock = ManualClock(NOW)
    with_fault("root-crl", PccsFault.SLOW, sleep=clock.sleep, slow_s=9.0)

    assert clock.slept_s == [9.0]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("update=standard", OLD_SET), ("update=early", SET), ("tcbEvaluationDataNumber=19", OLD_SET)],
)
def test_it_serves_the_early_and_the_standard_set_side_by_side(
    selection: str, expected: Endorsements
) -> None:
    app = create_pccs(PCCSSettings(endorsements=lambda: OLD_SET, early=lambda: SET, fault=no_fault))
    answers = [
        ask(app, URLS[item].replace("update=standard", selection)).content
        for item in ("tcb-info", "qe-identity")
    ]

    assert expected.tcb_info in answers[0]
    assert expected.qe_identity in answers[1]


def test_the_mock_pccs_has_no_list_of_numbers_by_default() -> None:
    url = f"{BASE_URL}/tdx/certification/v4/tcbevaluationdatanumbers"

    assert get(url).status_code == 404
    signed = AUTHORITY.evaluation_numbers(NOW)
    assert signed.document in get(url, evaluation_numbers=lambda: signed).content
