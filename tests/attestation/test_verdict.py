"""The report: the same members whether accepted or refused, a status wherever one can be given."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.policy.appraise import load_policy_untrusted
from attestation.values import TcbStatus
from attestation.verdict import EXIT_ACCEPTED, EXIT_REFUSED, EXIT_UNDECIDED, verify_report
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.mock.statement import PLATFORM_UP_TO_DATE, PlatformLevel, Statement
from enclave.mock.td import TDSettings
from tests.support import evidence
from tests.support.evidence import NOW, days, rebuilt
from tests.support.vectors import needs_vectors, real_case

ROOT = evidence.authority().trust_root
MEASUREMENTS = {
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrseam",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
}
MEMBERS = {
    "accepted",
    "status",
    "reason",
    "message",
    "step",
    "values",
    "findings",
    "verified",
    "mock",
    "now",
    "quote_version",
    "body_type",
    "advisory_ids",
    "fmspc",
    "measurements",
    "report_data",
    "td_attributes",
    "td_attribute_names",
    "xfam",
    "tee_tcb_svn",
    "tee_tcb_svn_2",
    "mr_service_td",
    "tcb",
    "pck",
    "trust_root",
    "collateral",
    "policy",
    "not_checked",
    "valid_from",
    "valid_until",
}


def _report(quote=None, collateral=None, *, now=NOW, root=ROOT, policy=None, statement=None, **kwargs):
    report = verify_report(
        evidence.quote() if quote is None else quote,
        evidence.endorsements(statement).to_json() if collateral is None else collateral,
        root=root,
        policy=policy,
        now=now,
        **kwargs,
    )
    json.dumps(report.value)
    assert set(report.value) == MEMBERS
    assert set(report.value["measurements"]) == MEASUREMENTS
    assert (report.exit_code == EXIT_ACCEPTED) == report.value["accepted"]
    return report


def test_an_accepted_quote_is_described_completely():
    report = _report()
    value = report.value

    assert report.exit_code == EXIT_ACCEPTED
    assert (value["status"], value["reason"], value["findings"]) == ("UpToDate", None, [])
    assert value["verified"]
    assert value["mock"]
    assert value["quote_version"] == 4
    assert value["fmspc"] == evidence.authority().platform.values.fmspc.hex()
    assert value["measurements"]["mrtd"] == TDSettings().mrtd.hex()
    assert value["report_data"] == evidence.REPORT_DATA.hex()
    assert value["td_attributes"] == "0000001000000000"
    assert value["td_attribute_names"] == ["SEPT_VE_DISABLE"]
    assert value["tcb"]["launch"]["platform"]["next_better"] is None
    assert value["trust_root"] == {"sha256": ROOT.fingerprint.hex(), "mock": True}


def test_the_report_of_an_outdated_platform_names_what_to_update():
    low = TDSettings(tee_tcb_svn=bytes([4, 1, 3]) + bytes(13))
    report = _report(evidence.quote(low))
    module = report.value["tcb"]["launch"]["module"]

    assert report.exit_code == EXIT_REFUSED
    assert report.value["status"] == "OutOfDate"
    assert report.value["reason"] == "tcb-status-not-accepted"
    assert report.value["step"] == "20"
    assert report.value["advisory_ids"] == ["MOCK-SA-00002"]
    assert module["next_better"]["status"] == "UpToDate"
    assert module["next_better"]["shortfalls"] == [
        {"component": "isvsvn", "label": "", "actual": 4, "needed": 5, "short_by": 1}
    ]


def test_without_collateral_nothing_is_decided():
    report = verify_report(evidence.quote(), None, root=ROOT, policy=None, now=NOW)

    assert report.exit_code == EXIT_UNDECIDED
    assert report.value["reason"] == "collateral-missing"
    assert report.value["status"] is None
    assert not report.value["accepted"]
    assert set(report.value) == MEMBERS


def test_stale_collateral_refuses_and_still_gives_a_status():
    report = _report(now=NOW + days(60))

    assert report.exit_code == EXIT_REFUSED
    assert report.value["reason"] == "tcb-info-expired"
    assert report.value["step"] == "7"
    assert report.value["status"] == "UpToDate"
    assert not report.value["verified"]


def test_a_revoked_platform_is_refused_with_its_status():
    revoked = PlatformLevel(
        sgx_svns=(0,) * 16,
        pce_svn=0,
        tdx_svns=(0,) * 16,
        date=PLATFORM_UP_TO_DATE.date,
        status=TcbStatus.REVOKED,
    )
    report = _report(statement=Statement(platform_levels=(revoked,)))

    assert (report.value["status"], report.value["reason"]) == ("Revoked", "tcb-revoked")
    assert report.value["tcb"]["launch"]["platform"]["status"] == "Revoked"


def test_findings_about_the_td_are_reported_beside_a_missing_level():
    statement = Statement(platform_levels=(PLATFORM_UP_TO_DATE,))
    low = evidence.authority().create_platform(
        NOW, type(evidence.authority().platform.values)(sgx_svns=(0,) * 16)
    )
    settings = TDSettings(td_attributes=1)
    quote = evidence.authority().create_td(platform=low, settings=settings).quote(bytes(64))
    report = _report(quote, statement=statement)

    assert report.value["status"] is None
    assert [finding["reason"] for finding in report.value["findings"]] == [
        "tcb-level-not-found",
        "td-debug",
        "td-sept-ve-disable-missing",
    ]


@pytest.mark.parametrize("root", [ROOT, INTEL_SGX_ROOT])
def test_a_broken_signature_gives_no_status(root):
    quote = evidence.quote()
    report = _report(quote[:200] + bytes([quote[200] ^ 1]) + quote[201:], root=root)

    assert report.exit_code == EXIT_REFUSED
    assert report.value["status"] is None
    assert report.value["tcb"] is None
    assert not report.value["verified"]
    # What the bytes claim is still shown, as a claim.
    assert report.value["fmspc"] == evidence.authority().platform.values.fmspc.hex()


@pytest.mark.parametrize("quote", [b"", b"garbage", evidence.quote()[:3000]])
def test_bytes_that_are_no_quote_are_refused(quote):
    report = _report(quote)

    assert report.exit_code == EXIT_REFUSED
    assert report.value["quote_version"] is None
    assert set(report.value["measurements"].values()) == {None}


@pytest.mark.parametrize(
    "chain", [b"", b"-----BEGIN CERTIFICATE-----", evidence.authority().tcb_signer.certificate_pem]
)
def test_a_quote_whose_chain_names_no_platform_has_no_fmspc(chain):
    report = _report(rebuilt(evidence.quote(), certification_data=chain))

    assert report.value["fmspc"] is None
    assert report.value["quote_version"] == 4


def test_a_quote_with_platform_data_instead_of_a_chain_has_no_claimed_fmspc():
    raw = rebuilt(evidence.quote(), certification_type=1, certification_data=bytes(36))

    assert _report(raw).value["reason"] == "pck-chain-missing"
    assert _report(raw, pck_chain=evidence.authority().platform.chain_pem).value["accepted"]


def test_a_policy_is_applied_and_named():
    policy = load_policy_untrusted(
        b'version = 1\n[tcb]\naccepted_statuses = ["UpToDate"]\n[reference_values]\naccept_any_td = true\n'
        b"[ticket]\nmax_age_seconds = 1\nmax_lifetime_seconds = 1\n"
    )
    report = _report(policy=policy, report_data=bytes(64))

    assert report.value["reason"] == "report-data-mismatch"
    assert report.value["policy"]["signature"] == policy.signature_with(ROOT).hex()
    assert "report_data" not in report.value["not_checked"]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_report_never_raises(quote, collateral):
    assert verify_report(quote, collateral, root=ROOT, policy=None, now=NOW).exit_code == EXIT_REFUSED


@needs_vectors
def test_the_sgx_quote_is_refused_before_its_collateral():
    case = real_case("dcapqvl-sgx_quote-case01")

    report = _report(case.quote, case.collateral, root=case.root, now=case.now)
    assert report.value["reason"] == "sgx-evidence-unsupported"
    assert report.value["quote_version"] == 3
