import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from attestation.collateral.client.requests import (
    DOCUMENT_BYTES_MAX,
    PckCaKind,
    Platform,
    Source,
    UpdateMode,
    requests_for,
)
from attestation.collateral.endorsements import Endorsements
from attestation.errors import (
    AttestationError,
    EndorsementsUnavailableError,
    MalformedError,
    SignatureError,
    StaleEndorsementsError,
)
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import CRLEncoding, PccsFault
from tests.support.collateral import (
    ITEMS,
    NOW,
    PLATFORM,
    ROOT,
    SET,
    Recording,
    fetcher,
    get,
    observation_of,
    refused,
    rig,
    run,
)
from tests.support.pccs import BASE_URL, platform_of
from tests.support.vectors import needs_vectors, vector

# ---- what is fetched -------------------------------------------------------------------------------


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


# ---- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_with_a_changed_bit_never_becomes_collateral(item: str) -> None:
    r = rig()
    r.faults.always[item] = PccsFault.CORRUPT

    with pytest.raises((SignatureError, MalformedError)):
        get(r)
    assert r.changes == []


@pytest.mark.parametrize(
    ("item", "fault", "reason"),
    [
        ("tcb-info", PccsFault.TRUNCATED, "tcb-info-malformed"),
        ("qe-identity", PccsFault.TRUNCATED, "qe-identity-malformed"),
        ("pck-crl", PccsFault.TRUNCATED, "pck-crl-malformed"),
        ("root-crl", PccsFault.TRUNCATED, "root-crl-malformed"),
        ("tcb-info", PccsFault.NO_HEADER, "tcb-info-chain-missing"),
        ("pck-crl", PccsFault.NO_HEADER, "pck-crl-chain-missing"),
        ("qe-identity", PccsFault.WRONG_HEADER, "qe-identity-chain-malformed"),
        ("tcb-info", PccsFault.OVERSIZED, "tcb-info-too-large"),
        ("root-crl", PccsFault.OVERSIZED, "root-crl-too-large"),
        ("tcb-info", PccsFault.COMPRESSED, "tcb-info-malformed"),
    ],
)
def test_an_answer_that_is_not_what_it_should_be_is_refused_by_name(
    item: str, fault: PccsFault, reason: str
) -> None:
    r = rig()
    r.faults.always[item] = fault

    assert refused(r, MalformedError) == reason
    assert r.clock.slept_s == []


@pytest.mark.parametrize("item", ITEMS)
def test_a_redirect_is_not_followed(item: str) -> None:
    hosts: list[str] = []
    r = rig(transport=lambda inner: Recording(inner, hosts))
    r.faults.always[item] = PccsFault.REDIRECT

    assert refused(r, EndorsementsUnavailableError) == "collateral-redirected"
    assert set(hosts) == {"pccs.example"}


def test_a_set_under_another_root_is_refused() -> None:
    other = MockAuthority.create(NOW)

    assert refused(rig(root=other.trust_root), AttestationError) == "untrusted-root"
    assert refused(rig(root=INTEL_SGX_ROOT), AttestationError) == "untrusted-root"


def test_an_expired_set_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(StaleEndorsementsError):
        get(rig(now=NOW + timedelta(days=60), directory=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_tcb_info_of_another_platform_is_refused() -> None:
    other = Platform(fmspc=bytes(6), ca=PckCaKind.PLATFORM)
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
