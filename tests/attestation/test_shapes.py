"""Shapes of genuine evidence that the world has and the recorded vectors show rarely or never.

Everything here is rightly signed by the mock authority; what differs is the form. Each is either accepted, or
refused by name.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.collateral.endorsements import Endorsements, verify_endorsements
from attestation.errors import AttestationError
from attestation.quote.codec import (
    TDReport,
    encode_enclave_report,
    encode_quote,
    encode_signed_range,
    parse_quote_untrusted,
)
from attestation.verifier import VerifiedQuote, verify_quote
from enclave.mock.pki import make_crl, make_pck, raw_public_key, sign_raw
from enclave.mock.statement import Statement
from enclave.mock.td import TDSettings
from tests.support import evidence
from tests.support.certificates import make, usage
from tests.support.evidence import NOW, days, rebuilt, resigned

AUTHORITY = evidence.authority()
ROOT = AUTHORITY.trust_root
PLATFORM = AUTHORITY.platform
PCK, CA, TOP = PLATFORM.pck.certificate_pem, *PLATFORM.issuers
QUOTE = evidence.quote()


def verify(raw: bytes = QUOTE, endorsements: Endorsements | None = None) -> VerifiedQuote:
    current = verify_endorsements(endorsements or evidence.endorsements(), root=ROOT, now=NOW)
    return verify_quote(raw, current, now=NOW)


def refusal(raw: bytes = QUOTE, endorsements: Endorsements | None = None) -> str:
    with pytest.raises(AttestationError) as caught:
        verify(raw, endorsements)
    return caught.value.reason


# ---- quotes ---------------------------------------------------------------------------------------------


def requoted(body: TDReport, version: int = 5, auth: bytes = b"") -> bytes:
    """Return a quote around any TD report: a quoting enclave of this platform, with a key of its own."""
    base = parse_quote_untrusted(evidence.quote(TDSettings(quote_version=5)))
    key = ec.generate_private_key(ec.SECP256R1())
    public = raw_public_key(key)
    bound = hashlib.sha256(public + auth).digest() + bytes(32)
    report = encode_enclave_report(replace(base.signature_data.qe_report, report_data=bound))
    signed = encode_signed_range(replace(base.header, version=version), body)
    return encode_quote(
        signed,
        signature=sign_raw(key, signed),
        attestation_key=public,
        qe_report=report,
        qe_report_signature=PLATFORM.pck.sign_raw(report),
        qe_auth_data=auth,
        certification_type=5,
        certification_data=PLATFORM.chain_pem,
    )


def report(settings: TDSettings) -> TDReport:
    body = parse_quote_untrusted(evidence.quote(settings)).body
    assert isinstance(body, TDReport)
    return body


TD_15 = report(TDSettings(quote_version=5, report_version="1.5"))


@pytest.mark.parametrize("auth", [b"", bytes(32), bytes(range(64))])
@pytest.mark.parametrize(
    ("body", "body_type"),
    [
        (report(TDSettings()), 2),
        (TD_15, 3),
        (replace(TD_15, extension=evidence.EXTENSION), 4),
    ],
)
def test_every_td_report_in_version_five_is_genuine(body: TDReport, body_type: int, auth: bytes) -> None:
    verified = verify(requoted(body, auth=auth))

    assert (verified.quote.header.version, verified.body.body_type) == (5, body_type)
    assert verified.body == body
    assert verified.tcb.status == "UpToDate"


def test_every_byte_of_an_extended_report_is_signed() -> None:
    raw = requoted(replace(TD_15, extension=evidence.EXTENSION))
    for offset in range(54 + 648, 54 + 885):
        changed = bytearray(raw)
        changed[offset] ^= 1
        assert refusal(bytes(changed)) == "quote-signature"


@pytest.mark.parametrize("padding", [b"\0" * 3065, b"\xff" * 70, QUOTE])
@pytest.mark.parametrize("settings", [TDSettings(), TDSettings(quote_version=5, report_version="1.5")])
def test_what_follows_a_quote_in_its_buffer_means_nothing(settings: TDSettings, padding: bytes) -> None:
    raw = evidence.quote(settings)
    verified = verify(raw + padding)

    assert verified.quote.padding_bytes == len(padding)
    assert verified.body == verify(raw).body


# ---- PCK chains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain",
    [
        PCK + CA + TOP,
        PCK + CA + TOP + b"\0",
        PCK + CA + TOP + b"\n\0\0\0",
        (PCK + CA + TOP).replace(b"\n", b"\r\n"),
        PCK + b"\n\n" + CA + b"\n# root\n" + TOP,
        (PCK + CA + TOP).rstrip(b"\n"),
    ],
)
def test_a_chain_is_read_with_any_text_around_its_certificates(chain: bytes) -> None:
    assert verify(rebuilt(QUOTE, certification_data=chain)).pck.certificate.der == (
        PLATFORM.pck.certificate_der
    )


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (TOP + CA + PCK, "untrusted-root"),
        (CA + PCK + TOP, "pck-ca-issuer-mismatch"),
        (PCK + TOP + CA, "untrusted-root"),
        (PCK + CA, "pck-chain-length"),
        (PCK + CA + CA + TOP, "pck-chain-length"),
    ],
)
def test_a_chain_in_another_order_is_refused(chain: bytes, reason: str) -> None:
    assert refusal(rebuilt(QUOTE, certification_data=chain)) == reason


def test_a_pck_of_the_processor_ca_is_judged_by_that_cas_crl() -> None:
    ca = make(
        "Intel SGX PCK Processor CA",
        AUTHORITY.root,
        ca=True,
        path_length=0,
        key_usage=usage("key_cert_sign", "crl_sign"),
    )
    pck = make_pck(ca, PLATFORM.values, NOW - days(1), NOW + days(9))
    platform = replace(PLATFORM, pck=pck, issuers=(ca.certificate_pem, TOP))
    raw = AUTHORITY.create_td(platform=platform).quote(bytes(64))
    clear = replace(evidence.endorsements(), pck_crl=make_crl(ca, (), NOW - days(1), NOW + days(1)))
    serial = pck.certificate.serial_number
    revoking = replace(clear, pck_crl=make_crl(ca, (serial,), NOW - days(1), NOW + days(1)))

    assert verify(raw, clear).pck.ca == "processor"
    assert refusal(raw, revoking) == "pck-revoked"
    # The other CA's CRL does not list it.
    assert refusal(raw) == "pck-crl-issuer-mismatch"


# ---- TCB info and QE identity ---------------------------------------------------------------------------

WITHOUT_VERSION = TDSettings(tee_tcb_svn=bytes([5, 0, 3]) + bytes(13))


def drop(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for name in names:
            del value[name]

    return change


def test_tcb_info_without_module_identities_serves_modules_without_a_version_only() -> None:
    old = resigned("tcb_info", drop("tdxModuleIdentities"))

    verified = verify(evidence.quote(WITHOUT_VERSION), old)
    assert (verified.tcb.status, verified.tcb.launch.module) == ("UpToDate", None)
    assert refusal(QUOTE, old) == "tdx-module-unknown"


def test_an_empty_list_of_module_identities_counts_as_absent() -> None:
    empty = resigned("tcb_info", lambda value: value.update(tdxModuleIdentities=[]))

    assert refusal(QUOTE, empty) == "tdx-module-unknown"


def spell(value: Any) -> Any:
    """Return the value with every hex text in the other case; names, times and statuses stay."""
    if isinstance(value, dict):
        return {name: spell(item) for name, item in value.items()}
    if isinstance(value, list):
        return [spell(item) for item in value]
    if isinstance(value, str) and all(char in "0123456789abcdefABCDEF" for char in value):
        return value.swapcase()
    return value


@pytest.mark.parametrize("member", ["tcb_info", "qe_identity"])
def test_hex_means_the_same_in_both_cases(member: str) -> None:
    def change(value: dict[str, Any]) -> None:
        other = spell(value)
        assert other != value
        value.update(other)

    assert verify(QUOTE, resigned(member, change)).tcb.status == "UpToDate"


@pytest.mark.parametrize("spaces", [{"indent": 1}, {"separators": (" , ", " : ")}])
def test_a_document_with_spaces_is_genuine_if_those_bytes_were_signed(spaces: dict[str, Any]) -> None:
    base = evidence.endorsements()
    document = json.dumps(json.loads(base.tcb_info), **spaces).encode()

    assert verify(QUOTE, evidence.signed_as("tcb_info", document)).tcb.status == "UpToDate"
    assert refusal(QUOTE, replace(base, tcb_info=document)) == "tcb-info-signature"


@pytest.mark.parametrize(
    ("member", "change", "reason"),
    [
        ("tcb_info", lambda value: value.update(version=2), "tcb-info-version"),
        ("tcb_info", lambda value: value.update(id="SGX"), "tcb-info-not-tdx"),
        ("qe_identity", lambda value: value.update(version=3), "qe-identity-version"),
        ("qe_identity", lambda value: value.update(id="QE"), "qe-identity-not-td-qe"),
        ("qe_identity", lambda value: value.update(id="QVE"), "qe-identity-not-td-qe"),
    ],
)
def test_documents_of_another_kind_are_refused_by_name(
    member: str, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert refusal(QUOTE, resigned(member, change)) == reason


def test_numbers_of_two_recoveries_in_one_set_are_taken_and_the_smaller_one_counts() -> None:
    mixed = evidence.endorsements(Statement(tcb_evaluation_data_number=20, qe_evaluation_data_number=19))

    assert verify(QUOTE, mixed).endorsements.tcb_evaluation_data_number == 19


# ---- collateral as it is passed around ------------------------------------------------------------------


def test_collateral_is_read_in_every_spelling_that_tools_give_it() -> None:
    base = evidence.endorsements()
    value = json.loads(base.to_json())
    hexes = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
    chains = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
    spellings: list[dict[str, Any]] = [
        value | {"pck_certificate_chain": None},
        value | {name: value[name].upper() for name in hexes},
        value | {name: value[name] + "\0" for name in chains},
        value | {name: value[name].replace("\n", "\r\n") for name in chains},
        value | {"version": 3, "major_version": 3, "minor_version": 1, "tee_type": 129},
        dict(reversed(value.items())),
    ]
    for spelling in spellings:
        read = Endorsements.from_json_untrusted(json.dumps(spelling, indent=2).encode())
        assert verify(QUOTE, read).tcb.status == "UpToDate"


@pytest.mark.parametrize("member", ["tcb_info", "qe_identity"])
def test_a_whole_answer_in_the_place_of_its_signed_part_is_refused(member: str) -> None:
    """Intel's own library passes the whole body; the bytes that were signed are its inner part."""
    base = evidence.endorsements()
    inner, signature = getattr(base, member), getattr(base, f"{member}_signature")
    outer = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}[member]
    body = b'{"%s":%s,"signature":"%s"}' % (outer.encode(), inner, signature.hex().encode())

    assert refusal(QUOTE, replace(base, **{member: body})) == f"{member.replace('_', '-')}-signature"
