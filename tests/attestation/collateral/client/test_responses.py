import base64
import json
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.client.requests import (
    INTEL_PCS,
    CollateralItem,
    Platform,
    Request,
    UpdateMode,
    requests_for,
)
from attestation.collateral.client.responses import (
    CHAIN_HEADER_BYTES_MAX,
    Part,
    assemble,
    decode_crl_untrusted,
    decode_issuer_chain_untrusted,
    parse_response_untrusted,
)
from attestation.collateral.endorsements import verify_endorsements
from attestation.errors import MalformedError, SignatureError
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.mock.authority import MockAuthority
from tests.support.vectors import needs_vectors, vector

PLATFORM = Platform.from_text_untrusted("00806f050000", "platform")
REQUESTS = {item.item: item for item in requests_for(INTEL_PCS, PLATFORM, UpdateMode.STANDARD)}
NOW = datetime(2026, 11, 22, tzinfo=UTC)
MOCK = MockAuthority.create(NOW).endorsements(NOW)
CHAIN = quote(MOCK.tcb_info_issuer_chain)
TCB_BODY = b'{"tcbInfo":%b,"signature":"%b"}' % (MOCK.tcb_info, MOCK.tcb_info_signature.hex().encode())


def parse(item: CollateralItem, body: bytes, header: str | None = None, chain: str | bytes = CHAIN) -> Part:
    request = REQUESTS[item]
    name = header or (request.chain_headers[0] if request.chain_headers else "X-None")
    text = chain if isinstance(chain, str) else quote(chain)
    return parse_response_untrusted(request, [(name, text)], body)


def reason(item: CollateralItem, headers: list[tuple[str, str]], body: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_response_untrusted(REQUESTS[item], headers, body)
    return caught.value.reason


# ---- recorded answers of Intel ------------------------------------------------------------------


@needs_vectors
def test_a_recorded_set_of_intel_answers_verifies_as_a_whole() -> None:
    tcb = json.loads(vector("pcs", "teepot-tdx_tcb_info_00806F050000.json"))
    qe = json.loads(vector("pcs", "teepot-tdx_qe_identity.json"))
    crl = json.loads(vector("pcs", "teepot-pck_crl_platform.json"))
    # Recorded apart; valid for about a year around the others.
    root_crl = json.loads(vector("real", "flashbots-gcp-2025", "case01", "collateral.json"))["root_ca_crl"]
    parts = {
        CollateralItem.TCB_INFO: parse(
            CollateralItem.TCB_INFO, body_of(tcb, "tcb_info_json"), chain=tcb["issuer_chain"].encode()
        ),
        CollateralItem.QE_IDENTITY: parse(
            CollateralItem.QE_IDENTITY,
            body_of(qe, "enclave_identity_json"),
            chain=qe["issuer_chain"].encode(),
        ),
        CollateralItem.PCK_CRL: parse(
            CollateralItem.PCK_CRL, crl["crl_data"].encode(), chain=crl["issuer_chain"].encode()
        ),
        CollateralItem.ROOT_CRL: parse(CollateralItem.ROOT_CRL, root_crl.encode()),
    }
    issued = x509.load_der_x509_crl(bytes.fromhex(root_crl)).last_update_utc
    now = max(datetime(2025, 6, 10, tzinfo=UTC), issued)
    verified = verify_endorsements(assemble(parts), root=INTEL_SGX_ROOT, now=now)

    assert verified.tcb_info.fmspc == PLATFORM.fmspc
    assert verified.tcb_evaluation_data_number == 17


def body_of(recorded: dict[str, str], member: str) -> bytes:
    return recorded[member].encode()


@needs_vectors
@pytest.mark.parametrize("name", ["google-pckcrl", "google-rootcrl.der"])
def test_a_recorded_der_crl_is_taken_as_it_is(name: str) -> None:
    data = vector("pcs", name)

    assert decode_crl_untrusted(data, role="pck-crl") == data


@needs_vectors
def test_recorded_pem_and_der_of_a_crl_are_both_read() -> None:
    pem = json.loads(vector("pcs", "teepot-pck_crl_processor.json"))["crl_data"].encode()
    der = base64.b64decode(json.loads(vector("pcs", "teepot-pck_crl_processor_der.json"))["crl_data_base64"])
    names = {
        x509.load_der_x509_crl(decode_crl_untrusted(data, role="pck-crl")).issuer.rfc4514_string()
        for data in (pem, der)
    }

    assert len(names) == 1
    assert "Processor CA" in names.pop()


@needs_vectors
def test_a_recorded_document_that_was_changed_parses_but_is_not_genuine() -> None:
    good = json.loads(vector("pcs", "teepot-tdx_tcb_info_00806F050000.json"))
    forged = good["tcb_info_json"].replace('"nextUpdate":"2025-', '"nextUpdate":"3000-')
    part = parse(CollateralItem.TCB_INFO, forged.encode(), chain=good["issuer_chain"].encode())
    assert forged != good["tcb_info_json"]
    other = parse_mock_parts()
    qe = json.loads(vector("pcs", "teepot-tdx_qe_identity.json"))
    root_crl = json.loads(vector("real", "flashbots-gcp-2025", "case01", "collateral.json"))["root_ca_crl"]
    parts = {
        **other,
        CollateralItem.TCB_INFO: part,
        CollateralItem.ROOT_CRL: parse(CollateralItem.ROOT_CRL, root_crl.encode()),
        CollateralItem.QE_IDENTITY: parse(
            CollateralItem.QE_IDENTITY,
            body_of(qe, "enclave_identity_json"),
            chain=qe["issuer_chain"].encode(),
        ),
    }

    with pytest.raises(SignatureError) as caught:
        verify_endorsements(assemble(parts), root=INTEL_SGX_ROOT, now=NOW)
    assert caught.value.reason == "tcb-info-signature"


def parse_mock_parts() -> dict[CollateralItem, Part]:
    qe = b'{"signature":"%b","enclaveIdentity":%b}' % (
        MOCK.qe_identity_signature.hex().encode(),
        MOCK.qe_identity,
    )
    return {
        CollateralItem.TCB_INFO: parse(CollateralItem.TCB_INFO, TCB_BODY),
        CollateralItem.QE_IDENTITY: parse(CollateralItem.QE_IDENTITY, qe),
        CollateralItem.PCK_CRL: parse(CollateralItem.PCK_CRL, MOCK.pck_crl, chain=MOCK.pck_crl_issuer_chain),
        CollateralItem.ROOT_CRL: parse(CollateralItem.ROOT_CRL, MOCK.root_ca_crl),
    }


# ---- dialects -----------------------------------------------------------------------------------


def test_four_answers_make_the_very_set_that_was_served() -> None:
    assert assemble(parse_mock_parts()) == MOCK


@pytest.mark.parametrize(
    "body",
    [
        MOCK.pck_crl,
        MOCK.pck_crl.hex().encode(),
        MOCK.pck_crl.hex().upper().encode() + b"\r\n",
        x509.load_der_x509_crl(MOCK.pck_crl).public_bytes(Encoding.PEM),
        x509.load_der_x509_crl(MOCK.pck_crl).public_bytes(Encoding.PEM).replace(b"\n", b"\r\n"),
    ],
    ids=["der", "hex", "upper-hex", "pem", "pem-crlf"],
)
def test_a_crl_is_read_in_every_encoding_by_its_content(body: bytes) -> None:
    assert decode_crl_untrusted(body, role="pck-crl") == MOCK.pck_crl


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"30",
        MOCK.pck_crl[:-1],
        MOCK.pck_crl + b"\0",
        MOCK.pck_crl.hex().encode()[:-1],
        b"-----BEGIN X509 CRL-----\n!!!!\n-----END X509 CRL-----",
        b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----",
    ],
)
def test_bytes_that_are_not_a_crl_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_crl_untrusted(body, role="pck-crl")
    assert caught.value.reason == "pck-crl-malformed"


@pytest.mark.parametrize(
    "header",
    [
        "TCB-Info-Issuer-Chain",
        "tcb-info-issuer-chain",
        "SGX-TCB-Info-Issuer-Chain",
        "sgx-tcb-info-issuer-chain",
    ],
)
def test_the_chain_of_tcb_info_is_found_under_both_names_in_any_case(header: str) -> None:
    assert parse(CollateralItem.TCB_INFO, TCB_BODY, header).issuer_chain == MOCK.tcb_info_issuer_chain


def test_the_current_header_name_wins_over_the_old_one() -> None:
    part = parse_response_untrusted(
        REQUESTS[CollateralItem.TCB_INFO],
        [("SGX-TCB-Info-Issuer-Chain", "%20"), ("TCB-Info-Issuer-Chain", CHAIN)],
        TCB_BODY,
    )

    assert part.issuer_chain == MOCK.tcb_info_issuer_chain


def test_a_plus_in_a_chain_is_base64_and_not_a_space() -> None:
    chain = MOCK.tcb_info_issuer_chain
    while b"+" not in chain:  # once in some hundred keys
        chain = MockAuthority.create(NOW).endorsements(NOW).tcb_info_issuer_chain
    escaped = chain.decode().replace("\n", "%0A").replace(" ", "%20")

    assert decode_issuer_chain_untrusted(escaped, role="tcb-info") == chain


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], "tcb-info-chain-missing"),
        ([("TCB-Info-Issuer-Chain", CHAIN)] * 2, "tcb-info-chain-missing"),
        ([("TCB-Info-Issuer-Chain", "")], "tcb-info-chain-malformed"),
        ([("TCB-Info-Issuer-Chain", "no PEM")], "tcb-info-chain-malformed"),
        ([("TCB-Info-Issuer-Chain", "-----BEGIN CERTIFICATE-----")], "tcb-info-chain-malformed"),
        ([("TCB-Info-Issuer-Chain", "ü")], "tcb-info-chain-malformed"),
        ([("TCB-Info-Issuer-Chain", CHAIN * 3)], "tcb-info-chain-malformed"),
        ([("TCB-Info-Issuer-Chain", "x" * (CHAIN_HEADER_BYTES_MAX + 1))], "tcb-info-chain-malformed"),
    ],
)
def test_an_answer_without_one_good_issuer_chain_is_refused(
    headers: list[tuple[str, str]], expected: str
) -> None:
    assert reason(CollateralItem.TCB_INFO, headers, TCB_BODY) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        TCB_BODY[:-1],
        TCB_BODY + b"{}",
        TCB_BODY.replace(b'"signature"', b'"tcbInfo":{},"signature"'),
        TCB_BODY.replace(b"tcbInfo", b"enclaveIdentity"),
        TCB_BODY.replace(b'"signature":"', b'"signature":"zz'),
        b'{"tcbInfo":' + b"[" * 100_000,
    ],
    ids=["empty", "array", "cut", "trailing", "twice", "other-member", "signature", "deep"],
)
def test_a_body_that_is_no_signed_document_is_refused(body: bytes) -> None:
    assert reason(CollateralItem.TCB_INFO, [("TCB-Info-Issuer-Chain", CHAIN)], body) == "tcb-info-malformed"


@given(st.binary(max_size=300), st.text(max_size=100), st.sampled_from(list(REQUESTS.values())))
def test_arbitrary_answers_raise_only_the_declared_error(body: bytes, chain: str, request_: Request) -> None:
    headers = [(name, chain) for name in request_.chain_headers[:1]]
    with suppress(MalformedError):
        parse_response_untrusted(request_, headers, body)
        raise AssertionError("arbitrary bytes made a part of a set")


@given(st.integers(0, len(TCB_BODY) - 1), st.integers(1, 255))
def test_a_changed_byte_in_an_answer_raises_only_the_declared_error(at: int, change: int) -> None:
    broken = bytearray(TCB_BODY)
    broken[at] ^= change
    with suppress(MalformedError):
        part = parse(CollateralItem.TCB_INFO, bytes(broken))
        assert (part.document, part.signature) != (MOCK.tcb_info, MOCK.tcb_info_signature) or (
            bytes(broken).lower() == TCB_BODY.lower()
        )
