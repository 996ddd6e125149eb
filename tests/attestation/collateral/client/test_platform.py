import json
from datetime import UTC, datetime, timedelta

import pytest

from attestation.collateral.client.platform import (
    platform_of_pck_chain_untrusted,
    platform_of_quote_untrusted,
)
from attestation.collateral.client.requests import PckCaKind, Platform
from attestation.errors import MalformedError
from attestation.quote.codec import parse_quote_untrusted
from enclave.mock.authority import MockAuthority
from enclave.mock.pki import PCKValues, make_pck
from tests.support.vectors import VECTORS, needs_vectors, vector

NOW = datetime(2026, 11, 22, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
QUOTES = sorted(path.parent.name for path in VECTORS.glob("real/*/quote.bin"))


@needs_vectors
@pytest.mark.parametrize("name", QUOTES)
def test_the_platform_of_a_real_quote_is_the_one_in_its_pck_certificate(name: str) -> None:
    quote = parse_quote_untrusted(vector("real", name, "quote.bin"))
    entry = next(item for item in json.loads(vector("index.json"))["real"] if item["name"] == name)
    if quote.signature_data.certification_type != 5:
        with pytest.raises(MalformedError) as caught:
            platform_of_quote_untrusted(quote)
        assert caught.value.reason == "quote-no-pck-chain"
        return
    platform = platform_of_quote_untrusted(quote)

    assert platform.fmspc.hex() == entry["fmspc"]
    if entry["tee"] == "TDX":
        assert platform.ca is PckCaKind.PLATFORM


@needs_vectors
def test_a_real_quote_of_the_processor_ca_is_recognised() -> None:
    quote = parse_quote_untrusted(vector("real", "dcapqvl-sgx_quote", "quote.bin"))

    assert platform_of_quote_untrusted(quote) == Platform.from_text_untrusted("00a067110000", "processor")


def test_the_platform_of_a_mock_quote_is_the_mock_authoritys() -> None:
    quote = parse_quote_untrusted(AUTHORITY.create_td().quote(bytes(64)))

    assert platform_of_quote_untrusted(quote).fmspc == AUTHORITY.platform.values.fmspc


def test_a_certificate_that_is_no_pck_names_no_platform() -> None:
    with pytest.raises(MalformedError) as caught:
        platform_of_pck_chain_untrusted(AUTHORITY.platform_ca.certificate_pem)
    assert caught.value.reason == "pck-extension-missing"


def test_a_pck_of_another_issuer_names_no_platform() -> None:
    pck = make_pck(AUTHORITY.root, PCKValues(), NOW, NOW + timedelta(days=1))

    with pytest.raises(MalformedError) as caught:
        platform_of_pck_chain_untrusted(pck.certificate_pem)
    assert caught.value.reason == "pck-issuer-unknown"


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "pck-chain-malformed"),
        (b"no PEM", "pck-chain-malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "pck-malformed"),
    ],
)
def test_bytes_that_are_not_a_pck_chain_name_no_platform(pem: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        platform_of_pck_chain_untrusted(pem)
    assert caught.value.reason == reason
