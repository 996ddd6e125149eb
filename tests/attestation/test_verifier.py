"""Verifying a quote: chains from outside, the steps of a refusal, what is kept and what is not."""

import gc
import hashlib
import tracemalloc
from dataclasses import replace

import pytest

from attestation import verifier
from attestation.collateral import endorsements
from attestation.collateral.endorsements import verify_endorsements
from attestation.errors import (
    AttestationError,
    CertificatePathError,
    MalformedError,
    SignatureError,
    StaleEndorsementsError,
    VerificationError,
)
from attestation.quote.codec import encode_enclave_report, parse_quote_untrusted
from attestation.steps import Step
from attestation.verifier import require_td_report, verify_quote
from enclave.mock.pki import PCKValues, raw_public_key, sign_raw
from enclave.mock.statement import Statement
from tests.support import evidence
from tests.support.certificates import make, usage
from tests.support.evidence import NOW, days, rebuilt

AUTHORITY = evidence.authority()
PLATFORM = AUTHORITY.platform


def _current(statement: Statement | None = None):
    return verify_endorsements(evidence.endorsements(statement), root=AUTHORITY.trust_root, now=NOW)


def _resigned_qe(raw: bytes, attestation_key: bytes, auth: bytes, **report) -> bytes:
    """Return a quote whose QE report was changed and signed again by the platform's PCK."""
    qe_report = replace(
        parse_quote_untrusted(raw).signature_data.qe_report,
        **({"report_data": hashlib.sha256(attestation_key + auth).digest() + bytes(32)} | report),
    )
    encoded = encode_enclave_report(qe_report)
    return rebuilt(
        raw,
        attestation_key=attestation_key,
        qe_auth_data=auth,
        qe_report=encoded,
        qe_report_signature=PLATFORM.pck.sign_raw(encoded),
    )


# ---- certification data ---------------------------------------------------------------------------------

PPID_DATA = {1: 36, 2: 276, 3: 404}


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("source", ["argument", "collateral"])
def test_a_quote_without_a_chain_takes_one_from_outside(kind, source):
    raw = rebuilt(evidence.quote(), certification_type=kind, certification_data=bytes(PPID_DATA[kind]))
    if source == "argument":
        verified = verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)
    else:
        carried = replace(evidence.endorsements(), pck_certificate_chain=PLATFORM.chain_pem)
        current = verify_endorsements(carried, root=AUTHORITY.trust_root, now=NOW)
        verified = verify_quote(raw, current, now=NOW)

    assert verified.pck.extension.fmspc == PLATFORM.values.fmspc


def test_intels_own_sample_size_of_type_one_is_known():
    raw = rebuilt(evidence.quote(), certification_type=1, certification_data=bytes(34))

    assert verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)


@pytest.mark.parametrize("leaf", ["der", "pem", "der with NUL"])
def test_a_quote_with_its_leaf_takes_the_rest_from_outside(leaf):
    pck = PLATFORM.pck
    data = {
        "der": pck.certificate_der,
        "pem": pck.certificate_pem,
        "der with NUL": pck.certificate_der + b"\0",
    }[leaf]
    raw = rebuilt(evidence.quote(), certification_type=4, certification_data=data)

    assert verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)


def test_a_chain_for_another_leaf_than_the_quotes_is_refused():
    other = AUTHORITY.create_platform(NOW)
    raw = rebuilt(evidence.quote(), certification_type=4, certification_data=other.pck.certificate_der)

    with pytest.raises(CertificatePathError, match="pck-chain-mismatch"):
        verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (1, bytes(36), "pck-chain-missing"),
        (4, PLATFORM.pck.certificate_der, "pck-chain-missing"),
        (6, b"", "quote-certification-data-type"),
        (7, b"", "quote-certification-data-type"),
        (5, b"", "pck-chain-length"),
        (5, PLATFORM.pck.certificate_pem, "pck-chain-length"),
        (5, PLATFORM.chain_pem + AUTHORITY.root.certificate_pem, "pck-chain-length"),
        (5, AUTHORITY.root.certificate_pem * 3, "pck-ca-role"),
        (5, PLATFORM.pck.certificate_pem + AUTHORITY.root.certificate_pem * 2, "pck-ca-role"),
        (5, PLATFORM.pck.certificate_pem * 3, "untrusted-root"),
    ],
)
def test_a_chain_of_another_shape_is_refused(kind, data, reason):
    raw = rebuilt(evidence.quote(), certification_type=kind, certification_data=data)

    with pytest.raises(AttestationError, match=reason):
        verify_quote(raw, _current(), now=NOW)


def test_a_refused_chain_is_counted():
    raw = rebuilt(evidence.quote(), certification_data=PLATFORM.pck.certificate_pem)

    with pytest.raises(CertificatePathError, match="pck-chain-length") as refused:
        verify_quote(raw, _current(), now=NOW)

    assert refused.value.values == {"expected": 3, "actual": 1}


def test_the_leaf_of_a_quote_is_the_first_one_in_it():
    other = AUTHORITY.create_platform(NOW)
    data = other.pck.certificate_pem + PLATFORM.pck.certificate_pem
    raw = rebuilt(evidence.quote(), certification_type=4, certification_data=data)

    with pytest.raises(CertificatePathError, match="pck-chain-mismatch"):
        verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)


def test_platform_data_of_another_size_is_malformed():
    raw = rebuilt(evidence.quote(), certification_type=1, certification_data=bytes(35))

    with pytest.raises(MalformedError, match="quote-certification-data"):
        verify_quote(raw, _current(), now=NOW, pck_chain=PLATFORM.chain_pem)


def test_a_leaf_that_is_no_pck_is_refused():
    signer = AUTHORITY.tcb_signer.certificate_pem
    chain = signer + b"".join(PLATFORM.issuers)
    raw = rebuilt(evidence.quote(), certification_data=chain)

    with pytest.raises(CertificatePathError, match="pck-issuer-mismatch"):
        verify_quote(raw, _current(), now=NOW)


def test_a_pck_without_its_extension_is_malformed():
    issuer = AUTHORITY.platform_ca
    plain = make("SGX PCK Certificate", issuer, key_usage=usage("digital_signature"))
    raw = rebuilt(evidence.quote(), certification_data=plain.certificate_pem + b"".join(PLATFORM.issuers))

    with pytest.raises(MalformedError, match="pck-extension-missing"):
        verify_quote(raw, _current(), now=NOW)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("SGX Other Certificate", {"key_usage": usage("digital_signature")}, "pck-role"),
        ("SGX PCK Certificate", {"key_usage": usage("key_agreement")}, "pck-not-leaf"),
        ("SGX PCK Certificate", {"ca": True, "key_usage": usage("digital_signature")}, "pck-not-leaf"),
    ],
)
def test_a_certificate_of_another_role_is_no_pck(name, changes, reason):
    leaf = make(name, AUTHORITY.platform_ca, **changes)
    chain = leaf.certificate_pem + b"".join(PLATFORM.issuers)

    with pytest.raises(CertificatePathError, match=reason):
        verify_quote(rebuilt(evidence.quote(), certification_data=chain), _current(), now=NOW)


def test_a_platform_ca_cannot_stand_for_a_pck():
    chain = b"".join((PLATFORM.issuers[0], *PLATFORM.issuers))
    raw = rebuilt(evidence.quote(), certification_data=chain)

    with pytest.raises(AttestationError, match="pck-issuer-mismatch"):
        verify_quote(raw, _current(), now=NOW)


def test_the_quote_of_an_sgx_enclave_is_no_td_report():
    quote = parse_quote_untrusted(evidence.quote())
    sgx = replace(quote, body=quote.signature_data.qe_report)

    with pytest.raises(VerificationError, match="sgx-evidence-unsupported"):
        require_td_report(sgx)


# ---- signatures and bindings ----------------------------------------------------------------------------


def test_a_quote_signed_by_a_key_of_ones_own_is_refused():
    """The mistake of verifying only with the key inside the quote: anybody can make one."""
    own = AUTHORITY.tcb_signer.key
    quote = parse_quote_untrusted(evidence.quote())
    raw = rebuilt(
        evidence.quote(),
        attestation_key=raw_public_key(own),
        signature=sign_raw(own, quote.signed),
    )

    with pytest.raises(VerificationError, match="attestation-key-binding"):
        verify_quote(raw, _current(), now=NOW)


def test_a_td_report_that_was_changed_after_it_was_signed_is_refused():
    raw = evidence.quote()
    position = raw.index(evidence.REPORT_DATA)

    with pytest.raises(SignatureError, match="quote-signature"):
        verify_quote(raw[:position] + b"\xff" + raw[position + 1 :], _current(), now=NOW)


def test_a_qe_report_that_the_pck_did_not_sign_is_refused():
    """All else about it is right: only the PCK's signature shows that a quoting enclave made it."""
    base = evidence.quote()
    data = parse_quote_untrusted(base).signature_data
    raw = rebuilt(base, qe_report_signature=AUTHORITY.tcb_signer.sign_raw(data.qe_report_bytes))

    with pytest.raises(SignatureError, match="qe-report-signature"):
        verify_quote(raw, _current(), now=NOW)


def test_authentication_data_of_any_length_is_bound():
    base = evidence.quote()
    key = parse_quote_untrusted(base).signature_data.attestation_key

    for auth in (b"", b"x", bytes(65000)):
        assert verify_quote(_resigned_qe(base, key, auth), _current(), now=NOW)


def test_the_second_half_of_the_binding_must_be_zero():
    base = evidence.quote()
    data = parse_quote_untrusted(base).signature_data
    bound = hashlib.sha256(data.attestation_key).digest()
    raw = _resigned_qe(base, data.attestation_key, b"", report_data=bound + b"\1" + bytes(31))

    with pytest.raises(VerificationError, match="attestation-key-binding"):
        verify_quote(raw, _current(), now=NOW)


def test_an_attestation_key_off_the_curve_is_malformed():
    raw = _resigned_qe(evidence.quote(), b"\1" * 64, b"")

    with pytest.raises(MalformedError, match="attestation-key-malformed"):
        verify_quote(raw, _current(), now=NOW)


def test_a_debug_quoting_enclave_is_refused():
    base = evidence.quote()
    data = parse_quote_untrusted(base).signature_data
    attributes = bytes([data.qe_report.attributes[0] | 2, *data.qe_report.attributes[1:]])
    raw = _resigned_qe(base, data.attestation_key, b"", attributes=attributes)

    with pytest.raises(VerificationError, match="qe-attributes"):
        verify_quote(raw, _current(), now=NOW)


# ---- platform and time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (PCKValues(fmspc=b"\x99" * 6), "tcb-info-fmspc-mismatch"),
        (PCKValues(pce_id=b"\0\1"), "tcb-info-pceid-mismatch"),
    ],
)
def test_collateral_of_another_platform_is_refused(values, reason):
    other = AUTHORITY.create_platform(NOW, values)
    raw = AUTHORITY.create_td(platform=other).quote(bytes(64))

    with pytest.raises(VerificationError, match=reason):
        verify_quote(raw, _current(), now=NOW)


def test_an_expired_pck_is_refused_and_the_result_expires_with_it():
    short = AUTHORITY.create_platform(NOW, valid_for=days(1))
    raw = AUTHORITY.create_td(platform=short).quote(bytes(64))

    verified = verify_quote(raw, _current(), now=NOW)
    assert verified.valid_until == NOW + days(1)
    assert verified.valid_from == _current().valid_from
    with pytest.raises(StaleEndorsementsError, match="pck-expired"):
        verify_quote(raw, _current(), now=NOW + days(2))


def test_an_expired_pck_ca_is_refused_and_the_result_expires_with_it():
    old = AUTHORITY.platform_ca.certificate
    ca = make(
        "",
        AUTHORITY.root,
        subject=old.subject,
        key=AUTHORITY.platform_ca.key,
        ca=True,
        path_length=0,
        key_usage=usage("key_cert_sign", "crl_sign"),
        not_after=NOW + days(1),
    )
    chain = b"".join((PLATFORM.pck.certificate_pem, ca.certificate_pem, AUTHORITY.root.certificate_pem))
    raw = rebuilt(evidence.quote(), certification_data=chain)

    verified = verify_quote(raw, _current(), now=NOW)
    assert verified.pck.ca == "platform"
    assert verified.valid_until == NOW + days(1)
    with pytest.raises(StaleEndorsementsError, match="pck-ca-expired"):
        verify_quote(raw, _current(), now=NOW + days(2))


def test_a_pck_that_was_accepted_before_is_refused_once_it_is_revoked():
    """Its chain's signatures are not verified again; what can change is checked every time."""
    revoked = Statement(revoked_pck_serials=frozenset({PLATFORM.serial_number}))
    assert verify_quote(evidence.quote(), _current(), now=NOW)

    with pytest.raises(AttestationError, match="pck-revoked"):
        verify_quote(evidence.quote(), _current(revoked), now=NOW)


def test_windows_are_checked_once_for_one_time_and_again_for_another(monkeypatch):
    short = AUTHORITY.create_platform(NOW, valid_for=days(1))
    raw = AUTHORITY.create_td(platform=short).quote(bytes(64))
    current, checked = _current(), []
    for module in (endorsements, verifier):
        monkeypatch.setattr(module, "require_in_window", lambda certificate, now: checked.append(now))

    verified = verify_quote(raw, current, now=NOW)
    assert verified.endorsements is current
    assert verified.require_current(NOW) is verified
    assert len(checked) == 2, "those of the PCK and its CA"

    later = verified.require_current(NOW + days(2))
    assert later.verified_at == later.endorsements.verified_at == NOW + days(2)
    assert checked[2:] == [NOW + days(2)] * 5


def test_a_verified_quote_does_not_outlive_its_pck():
    short = AUTHORITY.create_platform(NOW, valid_for=days(1))
    verified = verify_quote(AUTHORITY.create_td(platform=short).quote(bytes(64)), _current(), now=NOW)

    with pytest.raises(StaleEndorsementsError, match="pck-expired") as caught:
        verified.require_current(NOW + days(2))
    assert caught.value.step == Step.PCK_WINDOWS


def test_a_quote_is_mock_under_a_mock_root():
    assert evidence.verified().mock


# ---- what a refusal states, what is kept -----------------------------------------------------------------


def test_every_step_has_its_own_number_in_order():
    assert [str(number) for number in range(1, 24)] == [step.value for step in Step]


def test_a_naive_time_is_a_bug():
    with pytest.raises(AssertionError):
        verify_quote(evidence.quote(), _current(), now=NOW.replace(tzinfo=None))


def test_no_verdict_is_kept_between_quotes():
    """A second quote with the same endorsements is judged by itself, whatever the first came to."""
    current = _current()
    good = evidence.quote()
    bad = good[:700] + bytes([good[700] ^ 1]) + good[701:]

    for _ in range(2):
        assert verify_quote(good, current, now=NOW)
        with pytest.raises(VerificationError):
            verify_quote(bad, current, now=NOW)


def test_a_storm_of_different_quotes_leaves_memory_flat():
    current = _current()
    td = AUTHORITY.create_td()
    quotes = [td.quote(index.to_bytes(64, "big")) for index in range(50)]

    def storm() -> None:
        for raw in quotes * 4:
            verify_quote(raw, current, now=NOW)
        gc.collect()

    storm()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    storm()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert grown < 32 * 1024
