"""The mock authority and its TDs: real layouts, verified by the real verifier, under the mock root only."""

import hashlib
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.collateral.endorsements import verify_endorsements
from attestation.errors import AttestationError
from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.events import Event, Origin, compare, replay
from attestation.quote.codec import TDReport, parse_quote_untrusted
from attestation.values import TcbStatus
from attestation.verifier import verify_quote
from attestation.x509.pck import parse_pck_extension_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.attester import Attester
from enclave.errors import MockAuthorityError
from enclave.mock.authority import PCK_FILE, ROOT_FILE, TRUST_ROOT_FILE, MockAuthority
from enclave.mock.pki import PCKValues, encode_sgx_extension
from enclave.mock.statement import (
    MODULE_LEVELS,
    PLATFORM_OUT_OF_DATE,
    PLATFORM_UP_TO_DATE,
    QE_LEVELS,
    ModuleIdentity,
    Statement,
)
from enclave.mock.td import TDSettings
from tests.support.tickets import AUTHORITY, NOW

REPORT_DATA = bytes(range(64))


def body(quote: bytes) -> TDReport:
    parsed = parse_quote_untrusted(quote).body
    assert isinstance(parsed, TDReport)
    return parsed


# ---- quotes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "report", "body_type", "signed_bytes"),
    [(4, "1.0", 2, 632), (5, "1.0", 2, 638), (5, "1.5", 3, 702)],
)
def test_quotes_of_every_version_have_the_real_layout_and_verify(
    version: int, report: str, body_type: int, signed_bytes: int
) -> None:
    td = AUTHORITY.create_td(settings=TDSettings(quote_version=version, report_version=report))
    raw = td.quote(REPORT_DATA)
    parsed = parse_quote_untrusted(raw)
    endorsements = verify_endorsements(AUTHORITY.endorsements(NOW), root=AUTHORITY.trust_root, now=NOW)
    verified = verify_quote(raw, endorsements, now=NOW)

    assert (parsed.version, parsed.body_type, len(parsed.signed)) == (version, body_type, signed_bytes)
    assert verified.mock is True
    assert verified.tcb.status is TcbStatus.UP_TO_DATE
    assert verified.body.report_data == REPORT_DATA


@pytest.mark.parametrize(("svn", "status"), [(5, "UpToDate"), (4, "OutOfDate")])
@pytest.mark.parametrize(("version", "report"), [(4, "1.0"), (5, "1.0"), (5, "1.5")])
def test_another_implementation_finds_the_same_in_them(
    version: int, report: str, svn: int, status: str
) -> None:
    """That mock and verifier share one layout table could hide an error of the table from the rest."""
    settings = TDSettings(
        quote_version=version, report_version=report, tee_tcb_svn=bytes([svn, 1, 3]) + bytes(13)
    )
    quote = AUTHORITY.create_td(settings=settings).quote(REPORT_DATA)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(AUTHORITY.endorsements(NOW).to_json().decode())
    now = int(NOW.timestamp())
    result = dcap_qvl.verify_with_root_ca(quote, collateral, AUTHORITY.root.certificate_der, now)

    assert result.status == status
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(quote, collateral, now)


def test_a_td_reports_what_it_was_launched_with() -> None:
    settings = TDSettings(
        mrtd=b"\x01" * 48,
        rtmrs=(b"\x02" * 48, b"\x03" * 48, b"\x04" * 48, b"\x05" * 48),
        td_attributes=1 << 28 | 1 << 30,
        xfam=0x3,
        mr_config_id=b"\x06" * 48,
        mr_owner=b"\x07" * 48,
        mr_owner_config=b"\x08" * 48,
        mr_seam=b"\x09" * 48,
        mr_service_td=b"\x0a" * 48,
        tee_tcb_svn_2=bytes(range(16)),
        quote_version=5,
        report_version="1.5",
    )
    report = body(AUTHORITY.create_td(settings=settings).quote(REPORT_DATA))

    assert report == settings.report(settings.rtmrs, REPORT_DATA)
    assert report.mr_service_td == b"\x0a" * 48
    assert report.tee_tcb_svn_2 == bytes(range(16))


def test_the_short_form_overrides_the_settings() -> None:
    registers = (b"\x01" * 48,) * 4
    td = AUTHORITY.create_td(mrtd=b"\x02" * 48, rtmrs=registers, attributes=1 << 28 | 1)
    report = body(td.quote(REPORT_DATA))

    assert (report.mrtd, report.rtmrs, report.td_attributes) == (b"\x02" * 48, registers, 1 << 28 | 1)


def test_by_default_only_sept_ve_disable_is_set() -> None:
    assert body(AUTHORITY.create_td().quote(REPORT_DATA)).td_attributes == 1 << 28


def test_extending_a_register_is_hashing_old_value_and_digest() -> None:
    td = AUTHORITY.create_td()
    td.extend_rtmr(3, b"\x01" * 48)
    td.extend_rtmr(3, b"\x02" * 48)
    once = hashlib.sha384(bytes(48) + b"\x01" * 48).digest()
    twice = hashlib.sha384(once + b"\x02" * 48).digest()

    assert body(td.quote(REPORT_DATA)).rtmrs == (bytes(48), bytes(48), bytes(48), twice)
    assert td.rtmrs[3] == twice


def test_what_the_tdx_module_refuses_the_mock_refuses() -> None:
    td = AUTHORITY.create_td()
    for index, digest in ((4, bytes(48)), (-1, bytes(48)), (3, bytes(32))):
        with pytest.raises(ValueError, match="RTMR"):
            td.extend_rtmr(index, digest)
    with pytest.raises(ValueError, match="64"):
        td.quote(bytes(32))
    with pytest.raises(ValueError, match="48 bytes"):
        TDSettings(mrtd=bytes(32))
    with pytest.raises(ValueError, match="no quote of version 4"):
        TDSettings(report_version="1.5")


def test_the_mock_td_is_an_attester_that_reports_mock() -> None:
    attester: Attester = AUTHORITY.create_td()

    assert (attester.mock, attester.provider) == (True, "mock")


def test_boot_events_replay_to_the_registers_and_are_logged_as_ccel() -> None:
    events = [
        Event(origin=Origin.CCEL, register=0, type=0x80000001, name="", digest=b"\x01" * 48, data=b"var"),
        Event(origin=Origin.CCEL, register=1, type=0x4, name="", digest=b"\x02" * 48, data=bytes(4)),
        Event(origin=Origin.CCEL, register=2, type=0xD, name="", digest=b"\x03" * 48, data=b"quiet"),
    ]
    td = AUTHORITY.create_td(boot_events=events)
    log = td.event_log()

    assert td.rtmrs == replay(events)
    assert log is not None
    assert all(item.explained for item in compare(parse_ccel_untrusted(log), td.rtmrs))
    assert AUTHORITY.create_td().event_log() is None


# ---- the authority ----------------------------------------------------------------------------------


def test_the_root_is_not_intels_and_marked_as_mock() -> None:
    assert AUTHORITY.trust_root.mock is True
    assert AUTHORITY.trust_root.spki_digest != INTEL_SGX_ROOT.spki_digest
    names = [
        signer.certificate.subject.rfc4514_string()
        for signer in (AUTHORITY.root, AUTHORITY.platform_ca, AUTHORITY.tcb_signer, AUTHORITY.platform.pck)
    ]
    assert all("Mock" in name and "Intel" not in name for name in names)


def test_mock_collateral_is_refused_under_intels_root() -> None:
    with pytest.raises(AttestationError) as caught:
        verify_endorsements(AUTHORITY.endorsements(NOW), root=INTEL_SGX_ROOT, now=NOW)

    assert caught.value.reason == "untrusted-root"


def test_every_authority_is_another() -> None:
    assert MockAuthority.create(NOW).trust_root.spki_digest != AUTHORITY.trust_root.spki_digest


def test_all_nodes_of_one_day_make_the_same_collateral(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path / "authority")
    loaded = MockAuthority.load(tmp_path / "authority")
    morning = datetime(2026, 11, 22, tzinfo=UTC)

    assert loaded.endorsements(morning) == AUTHORITY.endorsements(morning + timedelta(hours=23, minutes=59))
    assert loaded.endorsements(morning) != AUTHORITY.endorsements(morning + timedelta(days=1))


@pytest.mark.parametrize("skew", [-timedelta(hours=23), timedelta(0), timedelta(days=27)])
def test_collateral_is_good_for_clocks_a_day_behind_and_weeks_ahead(skew: timedelta) -> None:
    endorsements = AUTHORITY.endorsements(NOW)

    assert verify_endorsements(endorsements, root=AUTHORITY.trust_root, now=NOW + skew)


def test_a_saved_authority_makes_the_same_tds(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "authority"
    AUTHORITY.save(directory)
    loaded = MockAuthority.load(directory)
    endorsements = verify_endorsements(AUTHORITY.endorsements(NOW), root=AUTHORITY.trust_root, now=NOW)
    verified = verify_quote(loaded.create_td().quote(REPORT_DATA), endorsements, now=NOW)

    assert verified.body.report_data == REPORT_DATA
    assert loaded.platform.values == AUTHORITY.platform.values
    assert (directory / TRUST_ROOT_FILE).read_bytes() == AUTHORITY.root.certificate_der
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_saving_never_overwrites(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    with pytest.raises(MockAuthorityError, match="exists"):
        MockAuthority.create(NOW).save(tmp_path)

    assert MockAuthority.load(tmp_path).trust_root == AUTHORITY.trust_root


def test_a_damaged_authority_is_refused_by_file(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    other = MockAuthority.create(NOW)
    other.save(tmp_path / "other")
    key = (tmp_path / ROOT_FILE).read_text().split("-----BEGIN CERTIFICATE")[0]
    certificate = other.root.certificate_pem.decode()
    damages = {
        "cannot read": None,
        "does not hold": b"-----BEGIN nothing",
        "larger than": bytes(20_000),
        "does not belong to its certificate": (key + certificate).encode(),
    }
    for text, content in damages.items():
        path = tmp_path / ROOT_FILE
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(MockAuthorityError, match=text):
            MockAuthority.load(tmp_path)


def test_bytes_that_are_not_a_pck_are_refused(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    (tmp_path / PCK_FILE).write_bytes((tmp_path / ROOT_FILE).read_bytes())

    with pytest.raises(MockAuthorityError, match="SGX extension"):
        MockAuthority.load(tmp_path)


def test_a_pck_whose_extension_is_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.mock.pki.encode_sgx_extension", lambda _values: b"\x30\x00")
    replace(AUTHORITY, platform=AUTHORITY.create_platform(NOW)).save(tmp_path)

    with pytest.raises(MockAuthorityError, match="not a PCK certificate"):
        MockAuthority.load(tmp_path)


def test_a_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    AUTHORITY.save(tmp_path)
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / ROOT_FILE).write_bytes(key + AUTHORITY.root.certificate_pem)

    with pytest.raises(MockAuthorityError, match="P-256"):
        MockAuthority.load(tmp_path)


def test_an_authority_that_cannot_be_saved_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(MockAuthorityError, match="cannot make the directory"):
        AUTHORITY.save(tmp_path / "file" / "authority")


# ---- what can be made otherwise ---------------------------------------------------------------------


def status(statement: Statement, **td: int) -> TcbStatus:
    platform = AUTHORITY.platform
    settings = TDSettings(tee_tcb_svn=bytes([td.get("svn", 5), 1, 3]) + bytes(13))
    quote = AUTHORITY.create_td(settings=settings, platform=platform).quote(REPORT_DATA)
    endorsements = AUTHORITY.endorsements(NOW, statement)
    verified = verify_endorsements(endorsements, root=AUTHORITY.trust_root, now=NOW)
    return verify_quote(quote, verified, now=NOW).tcb.status


def test_levels_and_statuses_are_the_statements() -> None:
    newer = replace(PLATFORM_UP_TO_DATE, sgx_svns=(9,) * 8 + (0,) * 8)
    hardening = replace(PLATFORM_UP_TO_DATE, status=TcbStatus.SW_HARDENING_NEEDED)
    old_qe = (replace(QE_LEVELS[0], isv_svn=9), QE_LEVELS[1])

    assert status(Statement()) is TcbStatus.UP_TO_DATE
    assert status(Statement(platform_levels=(newer, PLATFORM_OUT_OF_DATE))) is TcbStatus.OUT_OF_DATE
    assert status(Statement(platform_levels=(hardening,))) is TcbStatus.SW_HARDENING_NEEDED
    assert status(Statement(), svn=4) is TcbStatus.OUT_OF_DATE
    assert status(Statement(qe_levels=old_qe)) is TcbStatus.OUT_OF_DATE


def test_a_module_version_that_no_identity_describes_is_refused() -> None:
    statement = Statement(modules=(ModuleIdentity(major=0x0A, levels=MODULE_LEVELS),))

    with pytest.raises(AttestationError) as caught:
        status(statement)
    assert caught.value.reason.startswith("tdx-module")


def test_a_running_module_that_was_updated_advises_a_relaunch() -> None:
    settings = TDSettings(
        quote_version=5,
        report_version="1.5",
        tee_tcb_svn=bytes([4, 1, 3]) + bytes(13),
        tee_tcb_svn_2=bytes([5, 1, 3]) + bytes(13),
    )
    endorsements = verify_endorsements(AUTHORITY.endorsements(NOW), root=AUTHORITY.trust_root, now=NOW)
    quote = AUTHORITY.create_td(settings=settings).quote(REPORT_DATA)

    assert verify_quote(quote, endorsements, now=NOW).tcb.status is TcbStatus.TD_RELAUNCH_ADVISED


def test_another_platform_needs_its_own_tcb_info() -> None:
    platform = AUTHORITY.create_platform(NOW, PCKValues(fmspc=bytes.fromhex("c0806f000000")))
    quote = AUTHORITY.create_td(platform=platform).quote(REPORT_DATA)
    root = AUTHORITY.trust_root
    others = verify_endorsements(AUTHORITY.endorsements(NOW), root=root, now=NOW)
    own = verify_endorsements(AUTHORITY.endorsements(NOW, platform=platform), root=root, now=NOW)
    with pytest.raises(AttestationError) as caught:
        verify_quote(quote, others, now=NOW)

    assert caught.value.reason == "tcb-info-fmspc-mismatch"
    assert verify_quote(quote, own, now=NOW).pck.extension.fmspc.hex() == "c0806f000000"


def test_an_expired_pck_is_refused() -> None:
    platform = AUTHORITY.create_platform(NOW, valid_for=-timedelta(days=1))
    endorsements = verify_endorsements(AUTHORITY.endorsements(NOW), root=AUTHORITY.trust_root, now=NOW)
    with pytest.raises(AttestationError) as caught:
        verify_quote(AUTHORITY.create_td(platform=platform).quote(REPORT_DATA), endorsements, now=NOW)

    assert caught.value.reason == "pck-expired"


def test_the_sgx_extension_encodes_high_svns_as_der_wants_them() -> None:
    values = PCKValues(sgx_svns=(0, 1, 127, 128, 255) + (3,) * 11, pce_svn=0xFFFF)
    parsed = parse_pck_extension_untrusted(encode_sgx_extension(values))

    assert parsed.tcb_components == values.sgx_svns
    assert parsed.pce_svn == 0xFFFF
    assert parsed.cpu_svn == bytes(values.sgx_svns)


def test_crls_list_what_was_revoked() -> None:
    statement = Statement(revoked_pck_serials=frozenset({7, 9}))
    crl = x509.load_der_x509_crl(AUTHORITY.endorsements(NOW, statement).pck_crl)

    assert sorted(entry.serial_number for entry in crl) == [7, 9]
