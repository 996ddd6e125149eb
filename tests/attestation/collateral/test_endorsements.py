"""Endorsements: who may sign what, until when, and what an attacker with one leaked key cannot do."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral import endorsements as collateral
from attestation.collateral import signers
from attestation.collateral.endorsements import (
    COLLATERAL_BYTES_MAX,
    Endorsements,
    authenticate_endorsements,
    verify_endorsements,
)
from attestation.errors import (
    AttestationError,
    CertificatePathError,
    MalformedError,
    RevokedError,
    SignatureError,
    StaleEndorsementsError,
)
from attestation.values import timestamp
from attestation.verifier import verify_quote
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from enclave.mock.authority import MockAuthority
from enclave.mock.pki import Signer, make_crl
from enclave.mock.statement import Statement
from tests.support import evidence
from tests.support.certificates import make, root_until, usage
from tests.support.evidence import NOW, days

ROOT = evidence.authority().trust_root
AUTHORITY = evidence.authority()


def _verify(endorsements: Endorsements, now: datetime = NOW):
    current = verify_endorsements(endorsements, root=ROOT, now=now)
    return verify_quote(evidence.quote(), current, now=now)


def _signed_by(signer: Signer, *chain: Signer) -> Endorsements:
    """Return endorsements whose TCB info is signed by somebody else, with this issuer chain."""
    base = evidence.endorsements()
    return replace(
        base,
        tcb_info_signature=signer.sign_raw(base.tcb_info),
        tcb_info_issuer_chain=b"".join(item.certificate_pem for item in chain),
    )


# ---- roles ----------------------------------------------------------------------------------------------


def test_a_pck_key_cannot_sign_collateral_with_its_full_chain():
    pck = AUTHORITY.platform.pck
    forged = _signed_by(pck, pck, AUTHORITY.platform_ca, AUTHORITY.root)

    with pytest.raises(CertificatePathError, match="tcb-info-signer-chain-length"):
        _verify(forged)


def test_a_pck_key_cannot_sign_collateral_with_a_short_chain():
    pck = AUTHORITY.platform.pck

    with pytest.raises(CertificatePathError, match="tcb-info-signer-issuer-mismatch"):
        _verify(_signed_by(pck, pck, AUTHORITY.root))


def _leaf_of_the_root() -> Signer:
    """Return a leaf that the root itself issued, but for another role."""
    return make("Mock SGX PCK Certificate", AUTHORITY.root, key_usage=usage("digital_signature"))


def test_a_leaf_of_another_role_cannot_sign_collateral():
    leaf = _leaf_of_the_root()

    with pytest.raises(CertificatePathError, match="tcb-info-signer-role"):
        _verify(_signed_by(leaf, leaf, AUTHORITY.root))


def test_without_the_role_check_that_forgery_would_pass(monkeypatch):
    """The attack works as soon as the check is gone: the test above tests the check, not luck."""
    monkeypatch.setattr(signers, "require_role", lambda *_: None)
    leaf = _leaf_of_the_root()

    assert _verify(_signed_by(leaf, leaf, AUTHORITY.root)).tcb.status == "UpToDate"


def test_a_ca_cannot_sign_collateral():
    signer = make(
        "SGX TCB Signing",
        AUTHORITY.root,
        ca=True,
        path_length=0,
        key_usage=usage("key_cert_sign", "digital_signature"),
    )

    with pytest.raises(CertificatePathError, match="tcb-info-signer-not-leaf"):
        _verify(_signed_by(signer, signer, AUTHORITY.root))


def test_a_signer_below_another_root_is_refused():
    stranger = make("Mock SGX Root CA", None, ca=True, path_length=1, key_usage=usage("key_cert_sign"))
    signer = make("SGX TCB Signing", stranger, key_usage=usage("digital_signature"))

    with pytest.raises(CertificatePathError, match="untrusted-root"):
        _verify(_signed_by(signer, signer, stranger))


def test_a_signer_that_only_names_the_pinned_root_is_refused():
    stranger = make("SGX Root CA", None, ca=True, path_length=1, key_usage=usage("key_cert_sign"))
    signer = make(
        "SGX TCB Signing",
        stranger,
        key_usage=usage("digital_signature"),
        issuer_name=AUTHORITY.root.certificate.subject,
    )

    with pytest.raises(AttestationError, match="tcb-info-signer-signature"):
        _verify(_signed_by(signer, signer, AUTHORITY.root))


def test_the_pinned_root_may_be_left_out_of_a_signers_chain():
    base = evidence.endorsements()
    short = replace(base, tcb_info_issuer_chain=AUTHORITY.tcb_signer.certificate_pem)

    assert _verify(short).tcb.status == "UpToDate"


def test_a_second_signer_is_checked_as_the_first():
    leaf = _leaf_of_the_root()
    base = evidence.endorsements()
    forged = replace(
        base,
        qe_identity_signature=leaf.sign_raw(base.qe_identity),
        qe_identity_issuer_chain=leaf.certificate_pem + AUTHORITY.root.certificate_pem,
    )

    with pytest.raises(CertificatePathError, match="qe-identity-signer-role"):
        _verify(forged)


def test_mock_collateral_is_nothing_under_intels_root():
    with pytest.raises(CertificatePathError, match="untrusted-root"):
        verify_endorsements(evidence.endorsements(), root=INTEL_SGX_ROOT, now=NOW)


# ---- signatures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["tcb_info", "qe_identity"])
def test_a_document_that_its_signer_did_not_sign_is_refused(member, monkeypatch):
    code = member.replace("_", "-")
    document = getattr(evidence.endorsements(), member).replace(b'"OutOfDate"', b'"UpToDate"')
    forged = replace(evidence.endorsements(), **{member: document})

    with pytest.raises(SignatureError, match=f"{code}-signature"):
        verify_endorsements(forged, root=ROOT, now=NOW)
    # Another document's good signature is none of this one.
    other = "qe_identity" if member == "tcb_info" else "tcb_info"
    signature = getattr(evidence.endorsements(), f"{other}_signature")
    with pytest.raises(SignatureError, match=f"{code}-signature"):
        verify_endorsements(
            replace(evidence.endorsements(), **{f"{member}_signature": signature}), root=ROOT, now=NOW
        )
    # The attack works as soon as the check is gone.
    monkeypatch.setattr(collateral, "require_document_signature", lambda *_, **__: None)
    assert _verify(forged).tcb.status == "UpToDate"


@pytest.mark.parametrize(
    ("count", "reason"),
    [(0, "chain-length"), (3, "chain-length"), (4, "chain-length"), (5, "chain-malformed")],
)
def test_a_signers_chain_is_itself_and_the_root(count, reason):
    chain = AUTHORITY.tcb_signer.certificate_pem * count
    wrong = replace(evidence.endorsements(), qe_identity_issuer_chain=chain)

    with pytest.raises(AttestationError, match=f"qe-identity-signer-{reason}") as caught:
        authenticate_endorsements(wrong, root=ROOT)
    if reason == "chain-length":
        assert caught.value.values == {"expected": 2, "actual": count}


def test_a_pck_ca_of_ones_own_is_refused_with_its_crl_and_its_pck():
    """Everything below it is consistent: name, CRL, chain. Only the root has not signed it."""
    stranger = make("x", None, subject=ROOT_SIGNER.certificate.subject, ca=True)
    ca = make(
        "SGX PCK Platform CA",
        stranger,
        issuer_name=ROOT_SIGNER.certificate.subject,
        ca=True,
        path_length=0,
        key_usage=usage("key_cert_sign", "crl_sign"),
    )
    authentic = authenticate_endorsements(replace(evidence.endorsements(), pck_crl=_crl(ca)), root=ROOT)

    with pytest.raises(SignatureError, match="pck-ca-signature"):
        authentic.require_pck_ca(ca.certificate_der)


# ---- revocation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            Statement(revoked_ca_serials=frozenset({AUTHORITY.tcb_signer.certificate.serial_number})),
            "tcb-info-signer-revoked",
        ),
        (
            Statement(revoked_ca_serials=frozenset({AUTHORITY.platform_ca.certificate.serial_number})),
            "pck-ca-revoked",
        ),
        (
            Statement(revoked_pck_serials=frozenset({AUTHORITY.platform.serial_number})),
            "pck-revoked",
        ),
    ],
)
def test_a_revoked_certificate_is_refused(statement, reason):
    with pytest.raises(RevokedError, match=reason):
        _verify(evidence.endorsements(statement))


def _crl(issuer: Signer, **changes) -> bytes:
    """Return a CRL with something about it changed."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - days(1))
        .next_update(NOW + days(1))
    )
    key_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        changes.get("identifier_of", issuer).certificate.public_key()
    )
    if changes.get("identifier", True):
        builder = builder.add_extension(key_identifier, critical=False)
    if changes.get("number", True):
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
    if changes.get("delta", False):
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


CA, ROOT_SIGNER = AUTHORITY.platform_ca, AUTHORITY.root


@pytest.mark.parametrize(
    ("member", "crl", "reason"),
    [
        ("pck_crl", _crl(CA, identifier=False), "pck-crl-malformed"),
        ("pck_crl", _crl(CA, number=False), "pck-crl-malformed"),
        ("pck_crl", _crl(CA, delta=True), "pck-crl-malformed"),
        ("pck_crl", _crl(CA, identifier_of=ROOT_SIGNER), "pck-crl-issuer-mismatch"),
        ("pck_crl", b"", "pck-crl-malformed"),
        ("pck_crl", b"\x30\x00", "pck-crl-malformed"),
        ("pck_crl", bytes(512 * 1024 + 1), "pck-crl-malformed"),
        ("root_ca_crl", _crl(CA), "root-crl-issuer-mismatch"),
        ("root_ca_crl", _crl(ROOT_SIGNER, number=False), "root-crl-malformed"),
    ],
)
def test_a_crl_that_is_not_the_issuers_complete_list_is_refused(member, crl, reason):
    with pytest.raises(AttestationError, match=reason):
        _verify(replace(evidence.endorsements(), **{member: crl}))


def test_a_crl_signed_with_another_key_in_the_right_name_is_refused():
    forged = Signer(key=AUTHORITY.tcb_signer.key, certificate=CA.certificate)
    crl = make_crl(forged, (), NOW - days(1), NOW + days(1))

    with pytest.raises(AttestationError, match="pck-crl-signature"):
        _verify(replace(evidence.endorsements(), pck_crl=crl))


# ---- windows --------------------------------------------------------------------------------------------


def test_every_window_holds_at_both_of_its_ends_and_not_beyond():
    current = verify_endorsements(evidence.endorsements(), root=ROOT, now=NOW)
    second = timedelta(seconds=1)

    current.require_current(current.valid_from)
    current.require_current(current.valid_until)
    with pytest.raises(StaleEndorsementsError, match="not-yet-valid"):
        current.require_current(current.valid_from - second)
    with pytest.raises(StaleEndorsementsError, match="expired"):
        current.require_current(current.valid_until + second)


def test_a_crl_is_over_at_its_next_update_and_a_document_after_it():
    current = verify_endorsements(evidence.endorsements(), root=ROOT, now=NOW)
    next_update = current.tcb_info.next_update

    assert next_update == current.authentic.pck_crl.next_update
    with pytest.raises(StaleEndorsementsError, match="pck-crl-expired"):
        current.require_current(next_update)
    with pytest.raises(StaleEndorsementsError, match="tcb-info-expired"):
        current.require_current(next_update + timedelta(seconds=1))


def test_verified_endorsements_do_not_outlive_their_window():
    current = verify_endorsements(evidence.endorsements(), root=ROOT, now=NOW)

    with pytest.raises(StaleEndorsementsError):
        verify_quote(evidence.quote(), current, now=NOW + days(60))


def test_fractions_of_a_second_do_not_count():
    current = verify_endorsements(evidence.endorsements(), root=ROOT, now=NOW)

    current.require_current(current.valid_until + timedelta(microseconds=999_999))


def test_an_expired_signer_is_refused_though_its_signature_verifies():
    signer = make(
        "SGX TCB Signing",
        AUTHORITY.root,
        key=AUTHORITY.tcb_signer.key,
        key_usage=usage("digital_signature"),
        not_after=NOW - days(1),
    )

    with pytest.raises(StaleEndorsementsError, match="tcb-info-signer-expired"):
        _verify(_signed_by(signer, signer, AUTHORITY.root))


def _signed_for(not_after, member) -> Endorsements:
    signer = make("SGX TCB Signing", ROOT_SIGNER, key_usage=usage("digital_signature"), not_after=not_after)
    base = evidence.endorsements()
    return replace(
        base,
        **{
            f"{member}_issuer_chain": signer.certificate_pem,
            f"{member}_signature": signer.sign_raw(getattr(base, member)),
        },
    )


def _shortened(member, until) -> Endorsements:
    def change(value):
        value["nextUpdate"] = timestamp(until)

    return evidence.resigned(member, change)


@pytest.mark.parametrize(
    ("endorsements", "reason"),
    [
        (
            replace(evidence.endorsements(), root_ca_crl=make_crl(ROOT_SIGNER, (), NOW - days(1), NOW)),
            "root-crl-expired",
        ),
        (replace(evidence.endorsements(), pck_crl=make_crl(CA, (), NOW - days(1), NOW)), "pck-crl-expired"),
        (_signed_for(NOW - timedelta(seconds=1), "tcb_info"), "tcb-info-signer-expired"),
        (_signed_for(NOW - timedelta(seconds=1), "qe_identity"), "qe-identity-signer-expired"),
        (_shortened("tcb_info", NOW - timedelta(seconds=1)), "tcb-info-expired"),
        (_shortened("qe_identity", NOW - timedelta(seconds=1)), "qe-identity-expired"),
    ],
)
def test_each_part_of_a_set_ends_it_by_itself(endorsements, reason):
    authentic = authenticate_endorsements(endorsements, root=ROOT)

    authentic.require_current(NOW - timedelta(seconds=1))
    assert authentic.valid_until == NOW - timedelta(seconds=1)
    with pytest.raises(StaleEndorsementsError, match=reason):
        authentic.require_current(NOW)


def test_the_number_of_a_set_is_the_smaller_one():
    for statement in (
        Statement(tcb_evaluation_data_number=19, qe_evaluation_data_number=20),
        Statement(tcb_evaluation_data_number=20, qe_evaluation_data_number=19),
    ):
        current = verify_endorsements(evidence.endorsements(statement), root=ROOT, now=NOW)
        assert current.tcb_evaluation_data_number == 19


def test_the_pinned_root_has_a_window_too():
    expired = root_until(ROOT_SIGNER, NOW - days(1))
    root = TrustRoot.from_bytes_untrusted(expired.certificate_der)
    endorsements = replace(AUTHORITY, root=expired).endorsements(NOW)

    with pytest.raises(StaleEndorsementsError, match="root-expired"):
        verify_endorsements(endorsements, root=root, now=NOW)


# ---- the PCK chain --------------------------------------------------------------------------------------


def test_only_one_authoritys_quotes_pass_under_its_root():
    other = MockAuthority.create(NOW)
    current = verify_endorsements(evidence.endorsements(), root=ROOT, now=NOW)

    with pytest.raises(CertificatePathError, match="untrusted-root"):
        verify_quote(other.create_td().quote(bytes(64)), current, now=NOW)


def _pck_ca(**changes) -> Signer:
    values = {
        "ca": True,
        "path_length": 0,
        "key_usage": usage("key_cert_sign", "crl_sign"),
    } | changes
    return make(values.pop("name", "SGX PCK Platform CA"), AUTHORITY.root, **values)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca": False, "path_length": None}, "pck-ca-not-ca"),
        ({"ca": None, "path_length": None}, "pck-ca-not-ca"),
        ({"key_usage": usage("crl_sign")}, "pck-ca-not-ca"),
        ({"key_usage": None}, "pck-ca-not-ca"),
        ({"name": "SGX Something CA"}, "pck-ca-role"),
        ({"key_usage": usage("key_cert_sign")}, "pck-crl-issuer-not-crl-signer"),
    ],
)
def test_an_intermediate_that_may_not_issue_is_refused(changes, reason):
    ca = _pck_ca(**changes)
    endorsements = replace(evidence.endorsements(), pck_crl=_crl(ca))
    authentic = authenticate_endorsements(endorsements, root=ROOT)

    with pytest.raises(AttestationError, match=reason):
        authentic.require_pck_ca(ca.certificate_der)


def test_an_authentic_pck_ca_is_checked_once():
    authentic = authenticate_endorsements(evidence.endorsements(), root=ROOT)

    assert authentic.require_pck_ca(CA.certificate_der) is authentic.require_pck_ca(CA.certificate_der)


def test_a_refused_pck_ca_is_refused_again():
    ca = _pck_ca(name="SGX Something CA")
    authentic = authenticate_endorsements(evidence.endorsements(), root=ROOT)

    for _ in range(2):
        with pytest.raises(CertificatePathError, match="pck-ca-role"):
            authentic.require_pck_ca(ca.certificate_der)


def test_only_authentic_pck_cas_are_kept_and_not_many():
    key = ec.generate_private_key(ec.SECP256R1())
    twins = [_pck_ca(key=key) for _ in range(10)]
    endorsements = replace(evidence.endorsements(), pck_crl=_crl(twins[0]))
    authentic = authenticate_endorsements(endorsements, root=ROOT)

    for _ in range(2):
        with pytest.raises(AttestationError, match="pck-crl-issuer-mismatch"):
            authentic.require_pck_ca(CA.certificate_der)
    assert len(authentic._pck_cas) == 0
    for twin in twins * 2:
        assert authentic.require_pck_ca(twin.certificate_der).certificate.ca
    assert len(authentic._pck_cas) == 8


# ---- the raw form ---------------------------------------------------------------------------------------


def test_both_raw_forms_survive_the_round_trip():
    for chain in (None, b"PEM"):
        base = replace(evidence.endorsements(), pck_certificate_chain=chain)

        assert base == Endorsements.from_json_untrusted(base.to_json())
        assert base == Endorsements.from_value_untrusted(base.to_value())
        assert base.digest == Endorsements.from_json_untrusted(base.to_json()).digest


def test_a_member_may_have_half_a_mebibyte_and_no_more():
    value = evidence.endorsements().to_value()
    largest = {**value, "pck_crl_issuer_chain": bytes(512 * 1024)}

    assert len(Endorsements.from_value_untrusted(largest).pck_crl_issuer_chain) == 512 * 1024
    with pytest.raises(MalformedError, match="at most 524288 bytes"):
        Endorsements.from_value_untrusted({**value, "pck_crl_issuer_chain": bytes(512 * 1024 + 1)})


def test_the_digest_covers_every_field():
    base = replace(evidence.endorsements(), pck_certificate_chain=b"chain")
    digests = {base.digest}
    for name in Endorsements.__slots__:
        digests.add(replace(base, **{name: getattr(base, name) + b" "}).digest)

    assert len(digests) == len(Endorsements.__slots__) + 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"tcb_info": b""},
        {**evidence.endorsements().to_value(), "surprise": b""},
        {**evidence.endorsements().to_value(), "pck_crl": "text"},
        {**evidence.endorsements().to_value(), "pck_crl": None},
        {**evidence.endorsements().to_value(), "pck_certificate_chain": None},
        {**evidence.endorsements().to_value(), "tcb_info_signature": bytes(63)},
        {**evidence.endorsements().to_value(), "tcb_info": bytes(600 * 1024)},
    ],
)
def test_a_value_that_is_not_endorsements_is_malformed(value):
    with pytest.raises(MalformedError, match="collateral-malformed"):
        Endorsements.from_value_untrusted(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        bytes(COLLATERAL_BYTES_MAX + 1),
        evidence.endorsements().to_json().replace(b'"pck_crl": "30', b'"pck_crl": "zz'),
        evidence.endorsements().to_json().replace(b'"tcb_info": "{', b'"tcb_info": "\\ud800{'),
    ],
)
def test_json_that_is_not_endorsements_is_malformed(data):
    with pytest.raises(MalformedError, match="collateral-malformed"):
        Endorsements.from_json_untrusted(data)


_RAW = evidence.endorsements().to_json()


@given(st.data())
def test_any_mutation_of_collateral_is_refused_by_a_declared_error(data):
    raw = bytearray(_RAW)
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))

    def check() -> None:
        verify_endorsements(Endorsements.from_json_untrusted(bytes(raw)), root=ROOT, now=NOW)

    assert evidence.reason_of(check, AttestationError) != ""
