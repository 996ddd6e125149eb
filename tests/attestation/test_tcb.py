"""TCB evaluation: Intel's tables, levels component by component, and what is short of the next better one."""

from datetime import UTC, datetime

import pytest

from attestation.collateral.endorsements import verify_endorsements
from attestation.collateral.tcb_info import parse_qe_identity_untrusted, parse_tcb_info_untrusted
from attestation.errors import MalformedError, RevokedError, VerificationError
from attestation.tcb import converge, relaunch
from attestation.values import TcbStatus
from attestation.verifier import verify_quote
from enclave.mock.statement import (
    MODULE_LEVELS,
    PLATFORM_OUT_OF_DATE,
    PLATFORM_UP_TO_DATE,
    QE_LEVELS,
    ModuleIdentity,
    PlatformLevel,
    Statement,
    SVNLevel,
)
from enclave.mock.td import TDSettings
from tests.support import evidence

S = TcbStatus
PLATFORM_STATUSES = [
    S.UP_TO_DATE,
    S.SW_HARDENING_NEEDED,
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    S.OUT_OF_DATE,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED,
]
WITH_AN_OUTDATED_PART = {
    S.UP_TO_DATE: S.OUT_OF_DATE,
    S.SW_HARDENING_NEEDED: S.OUT_OF_DATE,
    S.CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.OUT_OF_DATE: S.OUT_OF_DATE,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
OLD = datetime(2024, 1, 1, tzinfo=UTC)
NEW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("platform", PLATFORM_STATUSES)
def test_convergence_follows_the_table(platform):
    good, outdated, revoked = S.UP_TO_DATE, S.OUT_OF_DATE, S.REVOKED

    assert converge(platform, [good, good]) is platform
    assert converge(platform, [outdated, good]) is WITH_AN_OUTDATED_PART[platform]
    assert converge(platform, [good, outdated]) is WITH_AN_OUTDATED_PART[platform]
    assert converge(platform, [revoked, good]) is S.REVOKED
    assert converge(platform, [outdated, revoked]) is S.REVOKED
    assert converge(S.REVOKED, [good, good]) is S.REVOKED


OUTDATED = {S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED}
NEEDS_CONFIGURATION = {S.CONFIGURATION_NEEDED, S.CONFIGURATION_AND_SW_HARDENING_NEEDED}


@pytest.mark.parametrize("launch", [*PLATFORM_STATUSES, S.REVOKED])
@pytest.mark.parametrize("current", [*PLATFORM_STATUSES, S.REVOKED])
def test_relaunch_follows_the_table(launch, current):
    result = relaunch(launch, current)

    if S.REVOKED in {launch, current}:
        assert result is S.REVOKED
    elif launch not in OUTDATED or current in OUTDATED:
        assert result is launch
    elif launch is S.OUT_OF_DATE and current not in NEEDS_CONFIGURATION:
        assert result is S.TD_RELAUNCH_ADVISED
    else:
        assert result is S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


def _platform(status: TcbStatus, **changes) -> PlatformLevel:
    values = {
        "sgx_svns": (0,) * 16,
        "pce_svn": 0,
        "tdx_svns": (0,) * 16,
        "date": OLD,
        "status": status,
        "advisory_ids": ("MOCK-SA-PLATFORM",),
    }
    return PlatformLevel(**(values | changes))


SGX = PLATFORM_UP_TO_DATE.sgx_svns


def _raised(svns: tuple[int, ...], index: int) -> tuple[int, ...]:
    return (*svns[:index], svns[index] + 1, *svns[index + 1 :])


@pytest.mark.parametrize("index", range(16))
def test_every_single_sgx_component_counts(index):
    levels = (
        # PCESVN is just enough, so it is not short.
        _platform(S.UP_TO_DATE, sgx_svns=_raised(SGX, index), pce_svn=13, date=NEW),
        _platform(S.SW_HARDENING_NEEDED),
    )
    platform = evidence.verified(statement=Statement(platform_levels=levels)).tcb.launch.platform

    assert platform.status is S.SW_HARDENING_NEEDED
    assert platform.better.status is S.UP_TO_DATE
    assert platform.better.tcb_date == NEW
    assert platform.superseded_at is None  # not out of date, though another level is better
    assert [(f"sgx[{index}]", SGX[index], SGX[index] + 1, 1)] == [
        (item.component, item.actual, item.needed, item.short_by) for item in platform.better.shortfalls
    ]


@pytest.mark.parametrize("index", range(2, 16))
def test_every_tdx_component_from_two_counts_with_a_versioned_module(index):
    needed = _raised((0,) * 16 if index != 2 else PLATFORM_UP_TO_DATE.tdx_svns, index)
    levels = (
        _platform(S.UP_TO_DATE, tdx_svns=needed),
        _platform(S.OUT_OF_DATE),
    )
    platform = evidence.verified(statement=Statement(platform_levels=levels)).tcb.launch.platform

    assert platform.status is S.OUT_OF_DATE
    assert [f"tdx[{index}]"] == [item.component for item in platform.better.shortfalls]


def test_components_zero_and_one_are_the_modules_with_a_versioned_module():
    levels = (_platform(S.UP_TO_DATE, tdx_svns=(255, 255, *[0] * 14)), _platform(S.OUT_OF_DATE))

    verified = evidence.verified(statement=Statement(platform_levels=levels))

    assert verified.tcb.launch.platform.status is S.UP_TO_DATE


@pytest.mark.parametrize("index", [0, 1])
def test_components_zero_and_one_count_without_a_module_version(index):
    svn = bytes([5, 0, 3]) + bytes(13)
    needed = _raised(tuple(svn), index)
    levels = (_platform(S.UP_TO_DATE, tdx_svns=needed), _platform(S.OUT_OF_DATE))

    verified = evidence.verified(TDSettings(tee_tcb_svn=svn), Statement(platform_levels=levels, modules=()))

    assert verified.tcb.launch.module is None
    assert verified.tcb.launch.platform.status is S.OUT_OF_DATE


def test_an_evaluation_has_the_parts_that_there_are():
    versioned = evidence.verified().tcb.launch
    plain = evidence.verified(
        TDSettings(tee_tcb_svn=bytes([5, 0, 3]) + bytes(13)),
        Statement(platform_levels=(_platform(S.UP_TO_DATE),), modules=()),
    ).tcb.launch

    assert versioned.module is not None
    assert versioned.parts == (versioned.platform, versioned.module, versioned.qe)
    assert plain.parts == (plain.platform, plain.qe)


def test_pcesvn_counts():
    levels = (_platform(S.UP_TO_DATE, pce_svn=14), _platform(S.OUT_OF_DATE, pce_svn=13))
    platform = evidence.verified(statement=Statement(platform_levels=levels)).tcb.launch.platform

    assert platform.status is S.OUT_OF_DATE
    assert [(item.component, item.actual, item.needed) for item in platform.better.shortfalls] == [
        ("pcesvn", 13, 14)
    ]


def test_the_documents_order_of_levels_means_nothing():
    ordered = Statement()
    reversed_ = Statement(
        platform_levels=ordered.platform_levels[::-1],
        modules=(ModuleIdentity(major=1, levels=MODULE_LEVELS[::-1]),),
        qe_levels=QE_LEVELS[::-1],
    )

    assert evidence.verified(statement=ordered).tcb == evidence.verified(statement=reversed_).tcb


def test_equal_svns_reach_a_level_and_one_less_does_not():
    low = TDSettings(tee_tcb_svn=bytes([4, 1, 3]) + bytes(13))

    assert evidence.verified().tcb.launch.module.status is S.UP_TO_DATE
    assert evidence.verified(low).tcb.launch.module.status is S.OUT_OF_DATE


def test_dates_are_the_earliest_and_advisories_the_union():
    low = TDSettings(tee_tcb_svn=bytes([4, 1, 3]) + bytes(13))
    tcb = evidence.verified(low).tcb

    assert tcb.status is S.OUT_OF_DATE
    assert tcb.advisory_ids == ("MOCK-SA-00002",)
    assert tcb.tcb_date == tcb.launch.module.tcb_date
    assert tcb.tcb_date < tcb.launch.platform.tcb_date


def test_the_evaluation_data_number_is_the_smaller_one():
    for tcb_number, qe_number in ((20, 19), (19, 20)):
        statement = Statement(tcb_evaluation_data_number=tcb_number, qe_evaluation_data_number=qe_number)

        assert evidence.verified(statement=statement).tcb.tcb_evaluation_data_number == 19


def test_a_platform_below_every_level_has_no_status_and_the_report_names_what_is_short():
    levels = (
        _platform(S.UP_TO_DATE, sgx_svns=(9,) * 16),
        _platform(S.OUT_OF_DATE, sgx_svns=(8, *SGX[1:]), pce_svn=99),
    )

    with pytest.raises(VerificationError, match="tcb-level-not-found") as refused:
        evidence.verified(statement=Statement(platform_levels=levels))

    assert [(item["component"], item["short_by"]) for item in refused.value.values["shortfalls"]] == [
        ("sgx[0]", 1),
        ("pcesvn", 86),
    ]
    assert "sgx[0] is 7, needs 8" in refused.value.message


def test_the_next_better_level_is_the_nearest_one():
    levels = (
        _platform(S.UP_TO_DATE, pce_svn=20, date=NEW),
        _platform(S.UP_TO_DATE, pce_svn=15, date=datetime(2025, 6, 1, tzinfo=UTC)),
        _platform(S.OUT_OF_DATE, pce_svn=14),
        _platform(S.OUT_OF_DATE, pce_svn=1),
    )
    platform = evidence.verified(statement=Statement(platform_levels=levels)).tcb.launch.platform

    assert platform.better.shortfalls[0].needed == 15
    assert platform.superseded_at == datetime(2025, 6, 1, tzinfo=UTC)


# ---- TDX modules ----------------------------------------------------------------------------------------


def test_an_unknown_module_version_is_refused_by_name():
    with pytest.raises(VerificationError, match="tdx-module-unknown") as refused:
        evidence.verified(TDSettings(tee_tcb_svn=bytes([5, 0x1A, 3]) + bytes(13)))

    assert refused.value.values["expected"] == "TDX_1A"


def test_a_module_id_is_compared_without_regard_to_case():
    modules = (ModuleIdentity(major=0x1A, levels=MODULE_LEVELS),)
    settings = TDSettings(tee_tcb_svn=bytes([5, 0x1A, 3]) + bytes(13))
    lower = evidence.resigned(
        "tcb_info",
        lambda value: value["tdxModuleIdentities"][0].update(id="tdx_1a"),
        evidence.endorsements(Statement(modules=modules)),
    )

    current = verify_endorsements(lower, root=evidence.authority().trust_root, now=evidence.NOW)
    tcb = verify_quote(evidence.quote(settings), current, now=evidence.NOW).tcb

    assert tcb.status is S.UP_TO_DATE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (TDSettings(mr_signer_seam=b"\1" + bytes(47)), "tdx-module-signer"),
        (TDSettings(seam_attributes=b"\1" + bytes(7)), "tdx-module-attributes"),
        (TDSettings(tee_tcb_svn=bytes([2, 1, 3]) + bytes(13)), "tdx-module-level-not-found"),
        (
            TDSettings(tee_tcb_svn=bytes([5, 0, 3]) + bytes(13), mr_signer_seam=b"\1" * 48),
            "tdx-module-signer",
        ),
    ],
)
def test_a_module_that_intel_does_not_describe_is_refused(settings, reason):
    with pytest.raises(VerificationError, match=reason):
        evidence.verified(settings)


def test_module_attributes_must_be_zero_even_if_intel_signed_others():
    settings = TDSettings(seam_attributes=b"\1" + bytes(7))
    modules = (ModuleIdentity(major=1, levels=MODULE_LEVELS, attributes=b"\1" + bytes(7)),)

    with pytest.raises(VerificationError, match="tdx-module-attributes") as refused:
        evidence.verified(settings, Statement(modules=modules))
    assert refused.value.values == {"expected": "00" * 8, "actual": "01" + "00" * 7}
    with pytest.raises(VerificationError, match="tdx-module-attributes"):
        evidence.verified(None, Statement(modules=modules))


# ---- launch and current ---------------------------------------------------------------------------------


def _relaunched(launch: int, current: int) -> TDSettings:
    return TDSettings(
        quote_version=5,
        report_version="1.5",
        tee_tcb_svn=bytes([launch, 1, 3]) + bytes(13),
        tee_tcb_svn_2=bytes([current, 1, 3]) + bytes(13),
    )


def test_a_patched_module_under_an_old_launch_advises_relaunch():
    tcb = evidence.verified(_relaunched(4, 5)).tcb

    assert tcb.status is S.TD_RELAUNCH_ADVISED
    assert tcb.launch.status is S.OUT_OF_DATE
    assert tcb.current.status is S.UP_TO_DATE
    assert tcb.advisory_ids == ("MOCK-SA-00002",)


def test_a_revoked_running_module_is_revoked_whatever_it_was_at_launch():
    levels = (*MODULE_LEVELS, SVNLevel(isv_svn=1, date=OLD, status=S.REVOKED))
    statement = Statement(modules=(ModuleIdentity(major=1, levels=levels),))

    with pytest.raises(RevokedError, match="tcb-revoked") as refused:
        evidence.verified(_relaunched(5, 1), statement)

    assert refused.value.values == {"launch": "UpToDate", "current": "Revoked"}


def test_the_running_module_must_have_a_level_too():
    with pytest.raises(VerificationError, match="tdx-module-level-not-found"):
        evidence.verified(_relaunched(5, 2))


# ---- the quoting enclave --------------------------------------------------------------------------------


def test_a_quoting_enclave_below_every_level_is_refused_and_the_message_names_the_lowest():
    levels = (
        SVNLevel(isv_svn=12, date=NEW, status=S.UP_TO_DATE),
        SVNLevel(isv_svn=9, date=OLD, status=S.OUT_OF_DATE),
    )

    with pytest.raises(VerificationError, match="qe-level-not-found") as refused:
        evidence.verified(statement=Statement(qe_levels=levels))

    assert refused.value.step == "15"
    assert refused.value.values["shortfalls"][0]["short_by"] == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"miscselect": "01000000"}, "qe-miscselect"),
        ({"attributes": "13000000000000000000000000000000"}, "qe-attributes"),
        ({"mrsigner": "00" * 32}, "qe-mrsigner"),
        ({"isvprodid": 1}, "qe-isvprodid"),
    ],
)
def test_another_quoting_enclave_is_refused(changes, reason):
    changed = evidence.resigned("qe_identity", lambda value: value.update(changes))
    current = verify_endorsements(changed, root=evidence.authority().trust_root, now=evidence.NOW)

    with pytest.raises(VerificationError, match=reason):
        verify_quote(evidence.quote(), current, now=evidence.NOW)


# ---- documents ------------------------------------------------------------------------------------------


def _tcb_info(change) -> bytes:
    return evidence.resigned("tcb_info", change).tcb_info


def _level(value):
    return value["tcbLevels"][0]


def _duplicate(key: str):
    def change(value):
        value[key].append(value[key][0])

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(version=2), "tcb-info-version"),
        (lambda v: v.update(version=4), "tcb-info-version"),
        (lambda v: v.update(id="SGX"), "tcb-info-not-tdx"),
        (lambda v: v.update(tcbType=1), "tcb-info-type"),
        (lambda v: v.update(tcbType=True), "tcb-info-malformed"),
        (lambda v: v.update(tcbLevels=[]), "tcb-info-malformed"),
        (lambda v: v.pop("tdxModule"), "tcb-info-malformed"),
        (lambda v: v.update(fmspc="00"), "tcb-info-malformed"),
        (lambda v: v.update(fmspc="zz" * 6), "tcb-info-malformed"),
        (lambda v: v.update(pceId=0), "tcb-info-malformed"),
        (lambda v: v.update(issueDate="2026-01-01"), "tcb-info-malformed"),
        (lambda v: v.update(issueDate="2026-13-01T00:00:00Z"), "tcb-info-malformed"),
        (lambda v: v.update(nextUpdate="2020-01-01T00:00:00Z"), "tcb-info-malformed"),
        (lambda v: v.update(tcbEvaluationDataNumber="20"), "tcb-info-malformed"),
        (lambda v: v.update(tcbEvaluationDataNumber=-1), "tcb-info-malformed"),
        (_duplicate("tcbLevels"), "tcb-info-malformed"),
        (_duplicate("tdxModuleIdentities"), "tcb-info-malformed"),
        (lambda v: _level(v).update(tcbStatus="Fine"), "tcb-info-malformed"),
        (lambda v: _level(v).update(tcbStatus="TDRelaunchAdvised"), "tcb-info-malformed"),
        (lambda v: _level(v).update(advisoryIDs=[1]), "tcb-info-malformed"),
        (lambda v: _level(v).update(advisoryIDs="x"), "tcb-info-malformed"),
        (lambda v: _level(v).update(advisoryIDs=["a\x1b[31m"]), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"].update(pcesvn=65536), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["sgxtcbcomponents"].pop(), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["tdxtcbcomponents"].append({"svn": 0}), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["sgxtcbcomponents"][3].update(svn=256), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["sgxtcbcomponents"][3].update(svn=True), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["sgxtcbcomponents"][3].update(svn=-1), "tcb-info-malformed"),
        (lambda v: _level(v)["tcb"]["sgxtcbcomponents"].__setitem__(3, 7), "tcb-info-malformed"),
        (lambda v: v["tdxModuleIdentities"][0].update(tcbLevels=[]), "tcb-info-malformed"),
        (
            lambda v: v["tdxModuleIdentities"][0]["tcbLevels"][0].update(tcbStatus="ConfigurationNeeded"),
            "tcb-info-malformed",
        ),
    ],
)
def test_a_tcb_info_that_breaks_its_form_is_malformed(change, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_tcb_info_untrusted(_tcb_info(change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(version=3), "qe-identity-version"),
        (lambda v: v.update(id="QE"), "qe-identity-not-td-qe"),
        (lambda v: v.update(miscselect="0"), "qe-identity-malformed"),
        (lambda v: v["tcbLevels"].append(v["tcbLevels"][0]), "qe-identity-malformed"),
        (lambda v: v.update(isvprodid=2.0), "qe-identity-malformed"),
    ],
)
def test_a_qe_identity_that_breaks_its_form_is_malformed(change, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_qe_identity_untrusted(evidence.resigned("qe_identity", change).qe_identity)


def _set_number(value, number):
    value["tcbEvaluationDataNumber"] = number


def _set_product(value, number):
    value["isvprodid"] = number


def _set_pce_svn(value, number):
    _level(value)["tcb"]["pcesvn"] = number


def _set_module_svn(value, number):
    value["tdxModuleIdentities"][0]["tcbLevels"][0]["tcb"]["isvsvn"] = number


def _set_component(value, number):
    _level(value)["tcb"]["sgxtcbcomponents"][0]["svn"] = number


@pytest.mark.parametrize(
    ("parse", "member", "change", "largest", "reason"),
    [
        (parse_tcb_info_untrusted, "tcb_info", _set_number, 0xFFFFFFFF, "tcb-info-malformed"),
        (parse_tcb_info_untrusted, "tcb_info", _set_pce_svn, 0xFFFF, "tcb-info-malformed"),
        (parse_tcb_info_untrusted, "tcb_info", _set_module_svn, 0xFFFF, "tcb-info-malformed"),
        (parse_tcb_info_untrusted, "tcb_info", _set_component, 0xFF, "tcb-info-malformed"),
        (parse_qe_identity_untrusted, "qe_identity", _set_number, 0xFFFFFFFF, "qe-identity-malformed"),
        (parse_qe_identity_untrusted, "qe_identity", _set_product, 0xFFFF, "qe-identity-malformed"),
    ],
)
def test_a_number_may_be_as_large_as_its_field_and_no_larger(parse, member, change, largest, reason):
    parse(getattr(evidence.resigned(member, lambda v: change(v, largest)), member))
    with pytest.raises(MalformedError, match=reason):
        parse(getattr(evidence.resigned(member, lambda v: change(v, largest + 1)), member))


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("version", 0xFFFF, "tcb-info-version"),
        ("version", 0x10000, "tcb-info-malformed"),
        ("tcbType", 0xFFFF, "tcb-info-type"),
        ("tcbType", 0x10000, "tcb-info-malformed"),
    ],
)
def test_an_unknown_version_or_type_is_distinguished_from_an_invalid_one(member, value, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_tcb_info_untrusted(_tcb_info(lambda v: v.update({member: value})))


def test_a_document_may_be_superseded_at_once():
    info = parse_tcb_info_untrusted(_tcb_info(lambda v: v.update(nextUpdate=v["issueDate"])))

    assert info.next_update == info.issue_date


def test_unknown_members_are_ignored_and_labels_are_kept():
    def change(value):
        value["future"] = {"a": [1.5, None]}
        _level(value)["tcb"]["sgxtcbcomponents"][0].update(category="BIOS", type="Microcode")
        _level(value)["tcb"]["tdxtcbcomponents"][2].update(category=7)

    info = parse_tcb_info_untrusted(_tcb_info(change))

    assert info.labels == {"sgx[0]": "BIOS Microcode", "tdx[2]": ""}
    assert PLATFORM_OUT_OF_DATE.sgx_svns == info.tcb_levels[1].sgx_components
