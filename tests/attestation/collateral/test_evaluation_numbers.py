"""The list of published evaluation data numbers: who may sign it, until when, and what is not such a list."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestation.collateral import evaluation_numbers as module
from attestation.collateral import signers
from attestation.collateral.client.requests import Source
from attestation.collateral.endorsements import Endorsements
from attestation.collateral.evaluation_numbers import (
    SignedEvaluationNumbers,
    parse_evaluation_numbers_untrusted,
    verify_evaluation_numbers,
)
from attestation.errors import (
    AttestationError,
    CertificatePathError,
    EndorsementsUnavailableError,
    MalformedError,
    RevokedError,
    SignatureError,
    StaleEndorsementsError,
)
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import PccsFault
from enclave.mock.pki import Signer, make_crl
from enclave.mock.statement import Statement
from tests.support import evidence
from tests.support.certificates import make, root_until, usage
from tests.support.collateral import rig, run
from tests.support.evidence import NOW
from tests.support.vectors import needs_vectors, vector

AUTHORITY = evidence.authority()
ROOT = AUTHORITY.trust_root
SIGNED = AUTHORITY.evaluation_numbers(NOW)
ISSUED = Statement().issued_at(NOW)
NEXT = ISSUED + Statement().valid_for
VALUE = json.loads(SIGNED.document)


def verify(signed: SignedEvaluationNumbers, now: datetime = NOW) -> Any:
    return verify_evaluation_numbers(signed, root=ROOT, now=now)


def signed_by(signer: Signer, *chain: Signer, document: bytes = SIGNED.document) -> SignedEvaluationNumbers:
    return replace(
        SIGNED,
        document=document,
        signature=signer.sign_raw(document),
        issuer_chain=b"".join(item.certificate_pem for item in chain),
    )


def edited(**changes: Any) -> bytes:
    return json.dumps(VALUE | changes).encode()


def entry(number: Any = 21, **changes: Any) -> dict[str, Any]:
    dates = {"tcbRecoveryEventDate": "2026-05-12T00:00:00Z", "tcbDate": "2026-05-13T00:00:00Z"}
    return {"tcbEvaluationDataNumber": number} | dates | changes


# ---- genuine and current --------------------------------------------------------------------------------


def test_the_list_gives_the_numbers_highest_first() -> None:
    shuffled = edited(tcbEvalNumbers=[entry(18), entry(20), entry(19)])
    numbers = verify(signed_by(AUTHORITY.tcb_signer, AUTHORITY.tcb_signer, document=shuffled)).numbers

    assert [item.number for item in numbers.numbers] == [20, 19, 18]
    assert numbers.numbers[0].tcb_date == datetime(2026, 5, 13, tzinfo=UTC)
    assert numbers.numbers[0].recovery_event_date == datetime(2026, 5, 12, tzinfo=UTC)
    assert (19 in numbers, 21 in numbers) == (True, False)


@needs_vectors
def test_intels_own_list_is_genuine() -> None:
    recorded = json.loads(vector("pcs", "teepot-tdx_tcb_eval_nums.json"))
    body = recorded["tcb_evaluation_data_numbers_json"].encode()
    answer = json.loads(body)
    document = body[len(b'{"tcbEvaluationDataNumbers":') : body.rindex(b',"signature"')]
    collateral = vector("real", "dcapqvl-tdx_quote", "case01", "collateral.json")
    signed = SignedEvaluationNumbers(
        document=document,
        signature=bytes.fromhex(answer["signature"]),
        issuer_chain=recorded["issuer_chain"].encode(),
        root_crl=Endorsements.from_json_untrusted(collateral).root_ca_crl,
    )
    at = datetime(2025, 6, 20, tzinfo=UTC)
    numbers = verify_evaluation_numbers(signed, root=INTEL_SGX_ROOT, now=at).numbers

    assert [item.number for item in numbers.numbers] == [19, 18, 17]
    with pytest.raises(SignatureError):
        verify_evaluation_numbers(
            replace(signed, document=document.replace(b":19,", b":20,")), root=INTEL_SGX_ROOT, now=at
        )
    with pytest.raises(StaleEndorsementsError, match="evaluation-numbers-expired"):
        verify_evaluation_numbers(signed, root=INTEL_SGX_ROOT, now=datetime(2025, 6, 27, tzinfo=UTC))


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (ISSUED - timedelta(seconds=1), "root-crl-not-yet-valid"),
        (ISSUED, None),
        (NEXT, None),
        (NEXT + timedelta(seconds=1), "evaluation-numbers-expired"),
    ],
)
def test_both_ends_of_the_window_count(now: datetime, reason: str | None) -> None:
    if reason is None:
        assert verify(SIGNED, now).verified_at == now
        return
    with pytest.raises(StaleEndorsementsError) as caught:
        verify(SIGNED, now)
    assert caught.value.reason == reason


def test_a_list_that_is_issued_tomorrow_is_refused_today() -> None:
    tomorrow = edited(issueDate="2999-01-01T00:00:00Z", nextUpdate="2999-01-31T00:00:00Z")

    with pytest.raises(StaleEndorsementsError, match="evaluation-numbers-not-yet-valid"):
        verify(signed_by(AUTHORITY.tcb_signer, AUTHORITY.tcb_signer, document=tomorrow))


def test_an_expired_signer_is_refused_while_its_list_would_still_be_valid() -> None:
    short = make("SGX TCB Signing", AUTHORITY.root, key_usage=usage("digital_signature"), not_after=NOW)

    assert verify(signed_by(short, short))
    with pytest.raises(StaleEndorsementsError, match="evaluation-numbers-signer-expired"):
        verify(signed_by(short, short), NOW + timedelta(seconds=1))


def test_an_expired_root_is_refused() -> None:
    short = root_until(AUTHORITY.root, NOW - timedelta(seconds=1))
    pinned = TrustRoot.from_bytes_untrusted(short.certificate_der)
    alone = replace(SIGNED, issuer_chain=AUTHORITY.tcb_signer.certificate_pem)

    assert verify_evaluation_numbers(alone, root=pinned, now=NOW - timedelta(seconds=1))
    with pytest.raises(StaleEndorsementsError, match="root-expired"):
        verify_evaluation_numbers(alone, root=pinned, now=NOW)


def test_an_expired_root_crl_is_refused() -> None:
    crl = make_crl(AUTHORITY.root, (), ISSUED, NOW)

    assert verify(replace(SIGNED, root_crl=crl), NOW - timedelta(seconds=1))
    with pytest.raises(StaleEndorsementsError, match="root-crl-expired"):
        verify(replace(SIGNED, root_crl=crl))


# ---- who may sign ---------------------------------------------------------------------------------------


def test_a_pck_key_cannot_sign_the_list() -> None:
    pck = AUTHORITY.platform.pck

    with pytest.raises(CertificatePathError, match="evaluation-numbers-signer-chain-length"):
        verify(signed_by(pck, pck, AUTHORITY.platform_ca, AUTHORITY.root))
    with pytest.raises(CertificatePathError, match="evaluation-numbers-signer-issuer-mismatch"):
        verify(signed_by(pck, pck, AUTHORITY.root))


def leaf_of_another_role() -> Signer:
    return make("Mock SGX PCK Certificate", AUTHORITY.root, key_usage=usage("digital_signature"))


def test_a_leaf_of_another_role_cannot_sign_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = leaf_of_another_role()

    with pytest.raises(CertificatePathError, match="evaluation-numbers-signer-role"):
        verify(signed_by(leaf, leaf, AUTHORITY.root))
    # The attack works as soon as the check is gone.
    monkeypatch.setattr(signers, "require_role", lambda *_: None)
    assert verify(signed_by(leaf, leaf, AUTHORITY.root))


def test_a_list_under_another_root_is_refused() -> None:
    other = MockAuthority.create(NOW)

    with pytest.raises(CertificatePathError, match="untrusted-root"):
        verify(other.evaluation_numbers(NOW))
    with pytest.raises(CertificatePathError, match="untrusted-root"):
        verify_evaluation_numbers(SIGNED, root=INTEL_SGX_ROOT, now=NOW)
    # Without its root in the chain, the link to the pinned one is what fails.
    with pytest.raises(SignatureError, match="evaluation-numbers-signer-signature"):
        verify(signed_by(other.tcb_signer, other.tcb_signer))


def test_a_revoked_signer_is_refused() -> None:
    revoked = Statement(revoked_ca_serials=frozenset({AUTHORITY.tcb_signer.certificate.serial_number}))

    with pytest.raises(RevokedError, match="evaluation-numbers-signer-revoked"):
        verify(AUTHORITY.evaluation_numbers(NOW, revoked))


def test_a_crl_of_another_root_cannot_clear_the_signer() -> None:
    other = MockAuthority.create(NOW)
    crl = make_crl(other.root, (), ISSUED, NEXT)

    with pytest.raises(AttestationError, match="root-crl-"):
        verify(replace(SIGNED, root_crl=crl))


def test_a_signed_tcb_info_is_no_list() -> None:
    tcb_info = evidence.endorsements().tcb_info

    with pytest.raises(MalformedError, match="evaluation-numbers-version"):
        verify(signed_by(AUTHORITY.tcb_signer, AUTHORITY.tcb_signer, document=tcb_info))


def test_every_changed_byte_of_the_list_is_refused() -> None:
    for index in range(len(SIGNED.document)):
        changed = bytearray(SIGNED.document)
        changed[index] ^= 1
        with pytest.raises(SignatureError):
            verify(replace(SIGNED, document=bytes(changed)))


def test_without_the_signature_check_a_changed_list_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "require_document_signature", lambda *_, **__: None)

    assert 99 in verify(replace(SIGNED, document=edited(tcbEvalNumbers=[entry(99)]))).numbers


# ---- what is not such a list ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "evaluation-numbers-malformed"),
        (b"[]", "evaluation-numbers-malformed"),
        (edited(id="SGX"), "evaluation-numbers-not-tdx"),
        (edited(version=2), "evaluation-numbers-version"),
        (edited(version=0xFFFF), "evaluation-numbers-version"),
        (edited(version=0x10000), "evaluation-numbers-malformed"),
        (edited(version=True), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers={}), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(20), entry(20)]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(-1)]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(2**32)]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry("20")]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(20.0)]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(tcbDate="2026-05-13")]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(tcbRecoveryEventDate=None)]), "evaluation-numbers-malformed"),
        (edited(tcbEvalNumbers=[entry(n) for n in range(1025)]), "evaluation-numbers-malformed"),
        (edited(nextUpdate="2001-01-01T00:00:00Z"), "evaluation-numbers-malformed"),
        (SIGNED.document[:-1] + b',"version":1}', "evaluation-numbers-malformed"),
        (SIGNED.document + b" " * (256 * 1024), "evaluation-numbers-malformed"),
    ],
)
def test_what_is_not_the_list_is_refused_by_name(document: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_evaluation_numbers_untrusted(document)
    assert caught.value.reason == reason


def test_a_list_of_another_version_is_refused_naming_the_known_one() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_evaluation_numbers_untrusted(edited(version=2))

    assert caught.value.values == {"expected": 1, "actual": 2}


def test_the_largest_number_and_unknown_members_are_taken() -> None:
    parsed = parse_evaluation_numbers_untrusted(
        edited(tcbEvalNumbers=[entry(2**32 - 1, comment="new")], more={"a": 1})
    )

    assert 2**32 - 1 in parsed


def test_a_list_may_be_valid_for_a_single_second() -> None:
    same = edited(issueDate="2026-05-12T00:00:00Z", nextUpdate="2026-05-12T00:00:00Z")
    parsed = parse_evaluation_numbers_untrusted(same)

    assert parsed.issue_date == parsed.next_update


# ---- fetched --------------------------------------------------------------------------------------------


def numbers_rig(signed: Callable[[], SignedEvaluationNumbers] | None = lambda: SIGNED, **options: Any) -> Any:
    return rig(endorsements=evidence.endorsements(), root=ROOT, now=NOW, evaluation_numbers=signed, **options)


def test_the_client_fetches_and_verifies_the_list() -> None:
    published = run(numbers_rig().client.evaluation_numbers())

    assert [item.number for item in published.verified.numbers.numbers] == [20, 19]
    assert published.verified.root == ROOT
    assert published.source == "https://pccs.example:8081"


def test_the_client_fetches_it_in_intels_dialect() -> None:
    source = Source.pcs("https://api.example", "https://certificates.example/IntelSGXRootCA.der")

    assert run(numbers_rig(sources=(source,)).client.evaluation_numbers()).source == "https://api.example"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (PccsFault.NOT_FOUND, "collateral-not-found"),
        (PccsFault.SERVER_ERROR, "collateral-source-failing"),
        (PccsFault.REDIRECT, "collateral-redirected"),
        (PccsFault.TRUNCATED, "evaluation-numbers-malformed"),
        (PccsFault.CORRUPT, "evaluation-numbers-signature"),
        (PccsFault.OVERSIZED, "evaluation-numbers-too-large"),
        (PccsFault.NO_HEADER, "evaluation-numbers-chain-missing"),
        (PccsFault.WRONG_HEADER, "evaluation-numbers-chain-malformed"),
        (PccsFault.COMPRESSED, "evaluation-numbers-malformed"),
    ],
)
def test_an_answer_that_is_not_the_list_is_refused_by_name(fault: PccsFault, reason: str) -> None:
    r = numbers_rig()
    r.faults.always["evaluation-numbers"] = fault

    with pytest.raises(AttestationError) as caught:
        run(r.client.evaluation_numbers())
    assert caught.value.reason == reason


def test_the_second_source_is_asked_when_the_first_has_no_list() -> None:
    sources = (Source.pccs("https://first.example"), Source.pccs("https://second.example"))
    r = numbers_rig(sources=sources)
    r.faults.once["evaluation-numbers"] = [PccsFault.NOT_FOUND]

    assert run(r.client.evaluation_numbers()).source == "https://second.example"
    r.faults.always["evaluation-numbers"] = PccsFault.NOT_FOUND
    with pytest.raises(EndorsementsUnavailableError) as caught:
        run(r.client.evaluation_numbers())
    assert caught.value.reason == "collateral-sources-failed"
    assert set(caught.value.values) == {"https://first.example", "https://second.example"}
