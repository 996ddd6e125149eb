"""Appraisal: what a policy accepts, what it refuses and why, and what it cannot leave open."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.endorsements import verify_endorsements
from attestation.collateral.enforcement import CollateralSet, EnforcedSince, OwnSights
from attestation.encoding.canonical import encode
from attestation.errors import AppraisalError, MalformedError, StaleEndorsementsError
from attestation.eventlog.runtime import runtime_event
from attestation.eventlog.verify import encode_event_log
from attestation.policy.appraise import (
    REPORT_DATA_UNCHECKED,
    AppraisalPolicy,
    appraise,
    default_policy,
    finding_value,
    load_policy_untrusted,
)
from attestation.policy.toml import POLICY_BYTES_MAX
from attestation.values import TcbStatus, mask_of
from attestation.verifier import verify_quote
from attestation.x509.trust import INTEL_SGX_ROOT
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
from tests.support.evidence import NOW, REPORT_DATA, days

MRTD = TDSettings().mrtd.hex()
SEPT = mask_of(frozenset({"SEPT_VE_DISABLE"}))
REST = (
    'not_checked = ["rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig"]'
)


def _toml(
    *, tcb: str = "", td: str = "", values: str | None = None, ticket: str = "", rest: str = ""
) -> bytes:
    if values is None:
        values = f'{REST}\n[reference_values.baseline]\nmrtd = "{MRTD}"'
    statuses = "" if "accepted_statuses" in tcb else 'accepted_statuses = ["UpToDate"]'
    return f"""
version = 1
[tcb]
{statuses}
{tcb}
[td]
{td}
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 7200
{ticket}
[reference_values]
{values}
{rest}
""".encode()


def _policy(**parts: str) -> AppraisalPolicy:
    return load_policy_untrusted(_toml(**parts))


def _appraise(policy, settings=None, statement=None, now=NOW, report_data=REPORT_DATA, event_log=None):
    verified = evidence.verified(settings, statement, now)
    return appraise(
        verified,
        policy,
        now=now,
        report_data=report_data,
        event_log=event_log,
        enforcement=SeenAtTheirDates(),
    )


class SeenAtTheirDates:
    """Every set was first seen on the date of its newest level."""

    def since(self, _fmspc, superseded_at):
        return superseded_at


def _findings(*args, **kwargs) -> list[str]:
    """Return the reasons with which this evidence is refused; none if it is accepted."""
    try:
        _appraise(*args, **kwargs)
    except AppraisalError as exc:
        return _reasons(exc)
    return []


def _reasons(refused: AppraisalError) -> list[str]:
    findings = refused.values["findings"]
    reasons = [finding["reason"] for finding in findings]
    assert refused.reason == reasons[0]
    assert all(finding["step"] and finding["message"] for finding in findings)
    return reasons


def test_a_finding_for_json_has_its_own_values_and_no_other_findings():
    with pytest.raises(AppraisalError) as caught:
        _appraise(_policy(), _bit(0), report_data=bytes(64))
    value = finding_value(caught.value)

    assert len(caught.value.values["findings"]) == 2
    assert value["reason"] == "td-debug"
    assert value["values"] == {k: v for k, v in caught.value.values.items() if k != "findings"} != {}


# ---- TD attributes --------------------------------------------------------------------------------------


def _bit(bit: int) -> TDSettings:
    return TDSettings(td_attributes=SEPT | 1 << bit)


# A9, bit by bit.
ALLOWED_BITS = {16, 18, 19, 20, 21, 22, 27, 28, 30, 31, 62, 63}
BIT_REASONS = {
    0: "td-debug",
    4: "td-profiling",
    5: "td-profiling",
    6: "td-profiling",
    17: "td-service-td-extension",
    29: "td-migratable",
}


@pytest.mark.parametrize("bit", range(64))
def test_every_attribute_bit_has_its_default(bit):
    reason = BIT_REASONS.get(bit, "td-attributes-reserved")

    assert _findings(_policy(), _bit(bit)) == ([] if bit in ALLOWED_BITS else [reason])


@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("DEBUG", 0),
        ("HGS_PLUS_PROF", 4),
        ("PERF_PROF", 5),
        ("PMT_PROF", 6),
        ("SERVTD_EXT", 17),
        ("MIGRATABLE", 29),
    ],
)
def test_a_refused_attribute_can_be_allowed_by_its_name_only(name, bit):
    allowing = _policy(td=f'allowed_attributes = ["{name}"]')

    assert _findings(allowing, _bit(bit)) == []
    assert _findings(allowing, _bit(29 if bit == 0 else 0)) != []


def test_an_allowed_attribute_can_be_refused_or_required():
    assert _findings(_policy(td='refused_attributes = ["PERFMON"]'), _bit(63)) == ["td-attribute-refused"]
    assert _findings(_policy(td='required_attributes = ["PKS"]'), TDSettings(td_attributes=0)) == [
        "td-attribute-missing"
    ]


def test_sept_ve_disable_is_required_unless_waived():
    without = TDSettings(td_attributes=0)

    assert _findings(_policy(), without) == ["td-sept-ve-disable-missing"]
    assert _findings(_policy(td="required_attributes = []"), without) == []


@pytest.mark.parametrize(
    ("xfam", "accepted"),
    [
        (0xE7, True),
        (0x3, True),
        (0x1, False),
        (0, False),
        (0x8E7, True),
        (0x10E7, True),
        (0x400E7, True),
        (0x800E7, False),
    ],
)
def test_xfam_needs_its_fixed_bits_and_no_unknown_ones(xfam, accepted):
    assert _findings(_policy(), TDSettings(xfam=xfam)) == ([] if accepted else ["td-xfam"])


def test_xfam_bounds_can_be_narrowed():
    assert _findings(_policy(td="xfam_allowed = 0x7")) == ["td-xfam"]
    assert _findings(_policy(td="xfam_required = 0xFF\nxfam_allowed = 0xFF")) == ["td-xfam"]


def test_a_service_td_is_refused_unless_its_measurement_is_listed():
    bound = TDSettings(quote_version=5, report_version="1.5", mr_service_td=b"\7" * 48)
    listed = _policy(td=f'mr_service_td = ["{"07" * 48}"]')

    assert _findings(_policy(), bound) == ["td-service-td"]
    assert _findings(listed, bound) == []
    # A policy that wants a service TD is not met by a report that cannot show one.
    assert _findings(listed) == ["td-service-td"]


# ---- TCB ------------------------------------------------------------------------------------------------


def _status(status: TcbStatus, advisories: tuple[str, ...] = ()) -> Statement:
    level = replace(PLATFORM_OUT_OF_DATE, status=status, advisory_ids=advisories)
    return Statement(platform_levels=(level,))


@pytest.mark.parametrize(
    "status",
    [
        status
        for status in TcbStatus
        if status not in {"Revoked", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"}
    ],
)
def test_only_listed_statuses_are_accepted(status):
    refused = [] if status == "UpToDate" else ["tcb-status-not-accepted"]

    assert _findings(_policy(), statement=_status(status)) == refused
    assert _findings(_policy(tcb=f'accepted_statuses = ["{status}"]'), statement=_status(status)) == []


def test_a_relaunch_is_not_up_to_date():
    settings = TDSettings(
        quote_version=5,
        report_version="1.5",
        tee_tcb_svn=bytes([4, 1, 3]) + bytes(13),
        tee_tcb_svn_2=bytes([5, 1, 3]) + bytes(13),
    )
    relaxed = 'accepted_statuses = ["UpToDate", "TDRelaunchAdvised"]\naccepted_advisories = "any"'

    assert "tcb-status-not-accepted" in _findings(_policy(), settings)
    assert _findings(_policy(tcb=relaxed), settings) == []


def test_advisories_are_accepted_by_name_or_all_at_once():
    statement = _status(TcbStatus.UP_TO_DATE, ("SA-1", "SA-2"))

    assert _findings(_policy(), statement=statement) == ["tcb-advisory-not-accepted"]
    assert _findings(_policy(tcb='accepted_advisories = ["SA-1"]'), statement=statement) == [
        "tcb-advisory-not-accepted"
    ]
    assert _findings(_policy(tcb='accepted_advisories = ["SA-2", "SA-1"]'), statement=statement) == []
    assert _findings(_policy(tcb='accepted_advisories = "any"'), statement=statement) == []
    assert _findings(
        _policy(tcb='accepted_advisories = "any"\nrefused_advisories = ["SA-2"]'), statement=statement
    ) == ["tcb-advisory-refused"]


def test_the_evaluation_data_number_has_a_minimum():
    older = Statement(qe_evaluation_data_number=19)

    assert _findings(_policy(tcb="minimum_evaluation_data_number = 19"), statement=older) == []
    assert _findings(_policy(tcb="minimum_evaluation_data_number = 20"), statement=older) == [
        "tcb-evaluation-data-number"
    ]


def test_the_svn_has_a_minimum_at_launch_and_now():
    minimum = f'minimum_tee_tcb_svn = "{(bytes([5, 1, 3]) + bytes(13)).hex()}"'
    low = TDSettings(
        quote_version=5,
        report_version="1.5",
        tee_tcb_svn=bytes([5, 1, 3]) + bytes(13),
        tee_tcb_svn_2=bytes([4, 1, 3]) + bytes(13),
    )

    assert _findings(_policy(tcb=minimum)) == []
    assert "tee-tcb-svn-too-low" in _findings(_policy(tcb=minimum), low)
    assert "tee-tcb-svn-too-low" in _findings(
        _policy(tcb=minimum), TDSettings(tee_tcb_svn=bytes([9, 1, 2]) + bytes(13))
    )


def test_collateral_has_a_maximum_age():
    old = Statement(issued_before=days(9))

    assert _findings(_policy(tcb="max_collateral_age_days = 10"), statement=old) == []
    # TCB info, QE identity and PCK CRL; not the root CRL.
    assert _findings(_policy(tcb="max_collateral_age_days = 9"), statement=old) == ["collateral-too-old"] * 3


# ---- the grace period -----------------------------------------------------------------------------------

SUPERSEDED = NOW - days(10)


def _platform(status: TcbStatus, pce_svn: int, date: datetime) -> PlatformLevel:
    return replace(PLATFORM_UP_TO_DATE, pce_svn=pce_svn, status=status, date=date)


def _outdated(status=TcbStatus.OUT_OF_DATE, newer=TcbStatus.UP_TO_DATE) -> Statement:
    return Statement(
        platform_levels=(
            _platform(newer, 99, NOW - days(1)),
            _platform(newer, 50, SUPERSEDED),
            _platform(status, 1, NOW - days(400)),
        )
    )


def test_grace_counts_from_when_the_level_was_superseded():
    result = _appraise(_policy(tcb="grace_period_days = 10"), statement=_outdated())

    assert result.grace_until == NOW
    assert result.valid_until == NOW
    assert _findings(_policy(tcb="grace_period_days = 9"), statement=_outdated()) == [
        "tcb-status-not-accepted"
    ]


def test_grace_counts_from_first_sight_and_not_from_the_levels_date():
    """Intel promotes a set about a year after its levels' dates: 30 days from those are over before they begin."""
    verified = evidence.verified(None, _outdated(), NOW)
    policy = _policy(tcb="grace_period_days = 9")
    seen = EnforcedSince(NOW - days(8))
    judged = {"now": NOW, "report_data": REPORT_DATA}

    assert appraise(verified, policy, **judged, enforcement=seen).grace_until == NOW + days(1)
    with pytest.raises(AppraisalError, match="its grace period ended"):
        appraise(verified, policy, **judged, enforcement=EnforcedSince(NOW - days(10)))


def test_without_the_date_of_enforcement_there_is_no_grace():
    verified = evidence.verified(None, _outdated(), NOW)
    with pytest.raises(AppraisalError):
        appraise(verified, _policy(tcb="grace_period_days = 3650"), now=NOW, report_data=REPORT_DATA)


def test_a_later_set_does_not_begin_the_grace_of_an_earlier_one_again():
    sights = OwnSights()
    for number, newest, at in ((20, 30, 20), (21, 10, 8), (22, 10, 2), (23, 1, 1)):
        found = CollateralSet(fmspc=bytes(6), number=number, newest_level=NOW - days(newest))
        sights.saw(found, NOW - days(at))
        sights.saw(found, NOW)

    assert sights.since(bytes(6), NOW - days(10)) == NOW - days(8)
    assert sights.since(bytes(6), NOW - days(5)) == NOW - days(1)
    assert sights.since(bytes(6), NOW) is None
    assert sights.since(b"other!", NOW - days(10)) is None


def test_a_status_that_is_accepted_needs_no_grace():
    policy = _policy(tcb='accepted_statuses = ["OutOfDate"]\ngrace_period_days = 10')

    assert _appraise(policy, statement=_outdated()).grace_until is None


def test_grace_forgives_being_out_of_date_and_nothing_else():
    needs_configuration = _outdated(TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED)
    grace = "grace_period_days = 10"
    both = f'accepted_statuses = ["UpToDate", "ConfigurationNeeded"]\n{grace}'

    assert _findings(_policy(tcb=grace), statement=needs_configuration) == ["tcb-status-not-accepted"]
    assert _findings(_policy(tcb=both), statement=needs_configuration) == []
    assert _findings(_policy(tcb=grace), statement=_status(TcbStatus.SW_HARDENING_NEEDED)) != []


def test_grace_for_an_outdated_part_still_asks_for_the_platforms_own_status():
    qe_levels = (
        SVNLevel(isv_svn=9, date=SUPERSEDED, status=TcbStatus.UP_TO_DATE),
        SVNLevel(isv_svn=1, date=NOW - days(400), status=TcbStatus.OUT_OF_DATE),
    )
    hardening = replace(_status(TcbStatus.SW_HARDENING_NEEDED), qe_levels=qe_levels)
    grace = "grace_period_days = 10"

    # Convergence shows OutOfDate; what remains after forgiving is SWHardeningNeeded.
    assert _findings(_policy(tcb=grace), statement=hardening) == ["tcb-status-not-accepted"]
    assert _findings(_policy(tcb=grace), statement=Statement(qe_levels=qe_levels)) == []


def test_the_earliest_outdated_part_ends_the_grace():
    modules = (
        ModuleIdentity(
            major=1,
            levels=(
                SVNLevel(isv_svn=9, date=NOW - days(20), status=TcbStatus.UP_TO_DATE),
                SVNLevel(isv_svn=1, date=NOW - days(400), status=TcbStatus.OUT_OF_DATE),
            ),
        ),
    )
    statement = replace(_outdated(), modules=modules)

    assert _findings(_policy(tcb="grace_period_days = 15"), statement=statement) != []
    assert _appraise(_policy(tcb="grace_period_days = 20"), statement=statement).grace_until == NOW


def test_without_a_newer_level_there_is_nothing_to_count_from():
    statement = Statement(platform_levels=(_platform(TcbStatus.OUT_OF_DATE, 1, SUPERSEDED),))

    assert _findings(_policy(tcb="grace_period_days = 3650"), statement=statement) == [
        "tcb-status-not-accepted"
    ]


def test_grace_covers_a_relaunch_by_its_launch_level():
    settings = TDSettings(
        quote_version=5,
        report_version="1.5",
        tee_tcb_svn=bytes([4, 1, 3]) + bytes(13),
        tee_tcb_svn_2=bytes([5, 1, 3]) + bytes(13),
    )
    levels = (replace_level(MODULE_LEVELS[0], SUPERSEDED), replace_level(MODULE_LEVELS[1], NOW - days(400)))
    statement = Statement(modules=(ModuleIdentity(major=1, levels=levels),), qe_levels=QE_LEVELS)
    policy = _policy(tcb='grace_period_days = 10\naccepted_advisories = "any"')

    assert _appraise(policy, settings, statement).grace_until == NOW


def replace_level(level: SVNLevel, date: datetime) -> SVNLevel:
    return replace(level, date=date)


# ---- reference values -----------------------------------------------------------------------------------

OTHER = "ab" * 48
RTMR1 = b"\1" * 48
ALL = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig")


def _actual(settings: TDSettings) -> dict[str, str]:
    return {
        "mrtd": settings.mrtd.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(settings.rtmrs)},
        "mrseam": settings.mr_seam.hex(),
        "mrconfigid": settings.mr_config_id.hex(),
        "mrowner": settings.mr_owner.hex(),
        "mrownerconfig": settings.mr_owner_config.hex(),
    }


@pytest.mark.parametrize("name", ALL)
def test_every_register_can_be_pinned(name):
    settings = TDSettings(
        rtmrs=tuple(bytes([index]) * 48 for index in range(1, 5)),
        mr_config_id=b"\5" * 48,
        mr_owner=b"\6" * 48,
        mr_owner_config=b"\7" * 48,
    )
    pinned = _actual(settings)
    lines = "\n".join(f'{register} = "{value}"' for register, value in pinned.items())
    wrong = "\n".join(
        f'{register} = ["{OTHER if register == name else value}"]' for register, value in pinned.items()
    )

    assert _findings(_policy(values=f"[reference_values.baseline]\n{lines}"), settings) == []
    assert _findings(_policy(values=f"[reference_values.baseline]\n{wrong}"), settings) == [
        "measurement-mismatch"
    ]


def test_any_of_the_listed_values_is_accepted():
    values = f'{REST}\n[reference_values.baseline]\nmrtd = ["{OTHER}", "{MRTD.upper()}"]'

    assert _findings(_policy(values=values)) == []


VARIANTS = f"""
not_checked = ["rtmr0", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig"]
[reference_values.baseline]
mrtd = "{MRTD}"
[reference_values.variants.old]
rtmr1 = "{OTHER}"
[reference_values.variants.new]
rtmr1 = "{RTMR1.hex()}"
"""


def test_one_variant_must_match_as_well_as_the_baseline():
    matching = TDSettings(rtmrs=(bytes(48), RTMR1, bytes(48), bytes(48)))

    assert _appraise(_policy(values=VARIANTS), matching).variant == "new"
    assert _findings(_policy(values=VARIANTS)) == ["measurement-no-variant"]
    assert _findings(_policy(values=VARIANTS), replace(matching, mrtd=RTMR1)) == ["measurement-mismatch"]


def test_two_half_matching_variants_do_not_make_a_whole_one():
    values = (
        VARIANTS.replace('"rtmr2", ', "").replace(
            "[reference_values.variants.new]", f'rtmr2 = "{"00" * 48}"\n[reference_values.variants.new]'
        )
        + f'rtmr2 = "{OTHER}"\n'
    )
    settings = TDSettings(rtmrs=(bytes(48), RTMR1, bytes(48), bytes(48)))

    assert _findings(_policy(values=values), settings) == ["measurement-no-variant"]


# ---- REPORTDATA, event log ------------------------------------------------------------------------------


def test_report_data_must_be_the_expected_one():
    assert _findings(_policy(), report_data=bytes(64)) == ["report-data-mismatch"]
    assert _findings(_policy(), report_data=REPORT_DATA[:32]) == ["report-data-mismatch"]


def test_report_data_is_skipped_only_by_an_explicit_choice():
    result = _appraise(_policy(), report_data=REPORT_DATA_UNCHECKED)

    assert "report_data" in result.not_checked
    assert "report_data" not in _appraise(_policy()).not_checked
    assert result.mock


def _logged() -> tuple[bytes, bytes]:
    """Return a quote whose RTMR3 was extended once, and the log of it."""
    event = runtime_event("image", b"payload")
    td = evidence.authority().create_td()
    td.extend_rtmr(3, event.digest)
    return td.quote(REPORT_DATA), encode_event_log(None, [event])


def _appraise_logged(policy, log):
    quote, _ = _logged()
    current = verify_endorsements(evidence.endorsements(), root=evidence.authority().trust_root, now=NOW)
    verified = verify_quote(quote, current, now=NOW)
    return appraise(verified, policy, now=NOW, report_data=REPORT_DATA, event_log=log)


LOGGED = '[event_log]\nexplained_registers = ["rtmr3"]'


def test_a_register_that_the_policy_relies_on_must_be_explained():
    _, log = _logged()
    other = encode_event_log(None, [runtime_event("image", b"other")])

    accepted = _appraise_logged(_policy(rest=LOGGED), log)
    assert accepted.event_log.runtime_payloads("image") == (b"payload",)
    assert "event_log" not in accepted.not_checked
    for bad, reason in (
        (None, "event-log-missing"),
        (other, "event-log-contradicts-quote"),
        (encode_event_log(None, []), "event-log-register-unexplained"),
    ):
        with pytest.raises(AppraisalError, match=reason) as refused:
            _appraise_logged(_policy(rest=LOGGED), bad)
        assert refused.value.step == "23"


def test_a_log_that_cannot_be_parsed_is_malformed_only_where_it_matters():
    with pytest.raises(MalformedError):
        _appraise_logged(_policy(rest=LOGGED), b"garbage")

    assert _appraise_logged(_policy(), b"garbage").event_log is None


# ---- results --------------------------------------------------------------------------------------------


def test_all_findings_are_reported_at_once():
    settings = TDSettings(td_attributes=1, xfam=0, mrtd=RTMR1)

    assert _findings(_policy(), settings, report_data=bytes(64)) == [
        "td-debug",
        "td-sept-ve-disable-missing",
        "td-xfam",
        "measurement-mismatch",
        "report-data-mismatch",
    ]


def test_an_appraisal_checks_the_windows_again():
    verified = evidence.verified()

    with pytest.raises(StaleEndorsementsError):
        appraise(verified, _policy(), now=NOW + days(60), report_data=REPORT_DATA)


def test_an_appraisal_at_another_time_checks_the_windows_of_the_pck_too():
    short = evidence.authority().create_platform(NOW, valid_for=days(1))
    quote = evidence.authority().create_td(platform=short).quote(REPORT_DATA)
    current = verify_endorsements(evidence.endorsements(), root=evidence.authority().trust_root, now=NOW)
    verified = verify_quote(quote, current, now=NOW)

    assert appraise(
        verified, _policy(), now=NOW + days(1), report_data=REPORT_DATA
    ).appraised_at == NOW + days(1)
    with pytest.raises(StaleEndorsementsError, match="pck-expired"):
        appraise(verified, _policy(), now=NOW + days(2), report_data=REPORT_DATA)


def test_the_policy_lists_what_it_does_not_check():
    full = "\n".join(f'{name} = "{value}"' for name, value in _actual(TDSettings()).items())
    strict = _policy(
        tcb=f'minimum_evaluation_data_number = 1\nmax_collateral_age_days = 30\nminimum_tee_tcb_svn = "{"01" * 2 + "00" * 14}"',
        values=f"[reference_values.baseline]\n{full}",
        rest='[event_log]\nexplained_registers = ["rtmr3"]',
    )

    result = _appraise(strict, event_log=encode_event_log(None, []))
    assert result.not_checked == ()
    assert _appraise(default_policy(), report_data=REPORT_DATA_UNCHECKED).not_checked == (
        "tcb_evaluation_data_number",
        "minimum_tee_tcb_svn",
        "collateral_age",
        *ALL,
        "report_data",
        "event_log",
    )


# ---- the file -------------------------------------------------------------------------------------------


def test_an_unpinned_register_must_be_waived_by_name():
    with pytest.raises(MalformedError, match="policy-register-unaddressed") as refused:
        _policy(values=f'[reference_values.baseline]\nmrtd = "{MRTD}"')

    assert refused.value.values["register"] == "rtmr0"


def test_a_register_pinned_in_some_variants_only_is_not_pinned():
    values = VARIANTS + f'rtmr2 = "{OTHER}"\n'

    with pytest.raises(MalformedError, match="waives rtmr2"):
        _policy(values=values)
    with pytest.raises(MalformedError, match="policy-register-unaddressed"):
        _policy(values=values.replace('"rtmr2", ', ""))


def test_a_policy_that_accepts_any_td_must_declare_it():
    waived = f"not_checked = [{', '.join(repr(name) for name in ALL)}]".replace("'", '"')

    with pytest.raises(MalformedError, match="policy-accepts-any-td"):
        _policy(values=waived)
    assert _policy(values="accept_any_td = true").reference_values.accept_any_td
    assert _policy(values=waived + "\naccept_any_td = true").reference_values.not_checked == ALL
    with pytest.raises(MalformedError, match="contradicts the pinned mrtd"):
        _policy(values=f'accept_any_td = true\n{REST}\n[reference_values.baseline]\nmrtd = "{MRTD}"')


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"tcb": "surprise = 1"}, "[tcb] unknown key `surprise`"),
        ({"td": "surprise = 1"}, "[td] unknown key `surprise`"),
        ({"ticket": "surprise = 1"}, "[ticket] unknown key `surprise`"),
        ({"rest": "[surprise]"}, "the policy: unknown key `surprise`"),
        ({"rest": "[event_log]\nx = 1"}, "[event_log] unknown key `x`"),
        ({"rest": '[event_log]\nexplained_registers = ["rtmr4"]'}, "'rtmr4'"),
        ({"tcb": "accepted_statuses = []"}, "at least one status"),
        ({"tcb": 'accepted_statuses = ["Revoked"]'}, "'Revoked', which cannot be accepted"),
        ({"tcb": 'accepted_statuses = ["uptodate"]'}, "'uptodate'"),
        ({"tcb": "accepted_statuses = 1"}, "[tcb.accepted_statuses] must be text or a list of texts"),
        ({"tcb": "grace_period_days = -1"}, "[tcb.grace_period_days] must be an integer >= 0"),
        (
            {"tcb": "grace_period_days = true"},
            "[tcb.grace_period_days] must be an integer, not true or false",
        ),
        ({"tcb": "grace_period_days = 99999999999"}, "[tcb.grace_period_days] must be an integer <= 36600"),
        ({"tcb": 'minimum_tee_tcb_svn = "00"'}, "32 hex digits"),
        ({"tcb": 'minimum_tee_tcb_svn = ["' + "00" * 16 + '", "' + "01" * 16 + '"]'}, "one value"),
        ({"td": 'allowed_attributes = ["RESERVED_32"]'}, "'RESERVED_32'"),
        ({"td": 'refused_attributes = ["SEPT_VE_DISABLE"]'}, "contradicts"),
        ({"td": "xfam_required = 0x80000"}, "xfam_required"),
        ({"td": 'mr_service_td = "xyz"'}, "96 hex digits"),
        ({"ticket": "not_before = 2026-01-01"}, "ticket.not_before"),
        ({"ticket": "not_before = 2026-01-01T00:00:00"}, "ticket.not_before"),
        ({"values": "[reference_values.baseline]\nmrtd = []"}, "empty list"),
        (
            {"values": "[reference_values.baseline]\nmrtx = []"},
            "[reference_values.baseline] unknown key `mrtx`",
        ),
        ({"values": 'not_checked = ["mrtx"]'}, "'mrtx'"),
        (
            {"values": "accept_any_td = 1"},
            "[reference_values.accept_any_td] must be true or false, not an integer",
        ),
        ({"values": "baseline = 1"}, "[reference_values.baseline] must be a table, not an integer"),
        (
            {"values": f'{REST}\n[reference_values.variants.large]\nmrtx = "{MRTD}"'},
            "[reference_values.variants.large] unknown key `mrtx`",
        ),
        ({"ticket": "not_before = 1"}, "[ticket.not_before] must be a date and time, not an integer"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_the_keys_name(parts, text):
    with pytest.raises(MalformedError, match="policy-malformed") as refused:
        _policy(**parts)

    assert text in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version = 2",
        b"\xff",
        b"= 1",
        b" " * (POLICY_BYTES_MAX + 1),
        _toml().replace(b"max_age_seconds = 3600", b"max_age_seconds = 0"),
        _toml().replace(b"max_age_seconds = 3600", b""),
        _toml().replace(b"[ticket]", b"[tickets]"),
        _toml().replace(b"version = 1", b"version = true"),
    ],
)
def test_bytes_that_are_no_policy_are_malformed(data):
    with pytest.raises(MalformedError, match="policy-malformed"):
        load_policy_untrusted(data)


# ---- signatures -----------------------------------------------------------------------------------------

SPELLINGS = [
    _toml(),
    b"# a comment\n" + _toml(),
    _toml().replace(MRTD.encode(), MRTD.upper().encode()),
    _toml(tcb='accepted_statuses = ["UpToDate", "UpToDate"]\nrefused_advisories = []\ngrace_period_days = 0'),
    _toml(td='allowed_attributes = ["PKS"]\nrequired_attributes = ["SEPT_VE_DISABLE"]\nxfam_required = 3'),
    _toml(td=f'mr_service_td = "{"00" * 48}"'),
    _toml(values=f'{REST[:-1]}, "rtmr0"]\n[reference_values.baseline]\nmrtd = ["{MRTD}", "{MRTD}"]'),
    _toml(rest="[event_log]"),
]


@pytest.mark.parametrize("index", range(len(SPELLINGS)))
def test_two_spellings_of_one_policy_have_one_signature(index):
    assert load_policy_untrusted(SPELLINGS[index]).signature == _policy().signature


MEANINGS = [
    {"tcb": 'accepted_statuses = ["UpToDate", "OutOfDate"]'},
    {"tcb": 'accepted_advisories = "any"'},
    {"tcb": 'accepted_advisories = ["A"]'},
    {"tcb": 'refused_advisories = ["A"]'},
    {"tcb": "grace_period_days = 1"},
    {"tcb": "minimum_evaluation_data_number = 1"},
    {"tcb": f'minimum_tee_tcb_svn = "{"01" * 16}"'},
    {"tcb": "max_collateral_age_days = 30"},
    {"td": 'allowed_attributes = ["DEBUG"]'},
    {"td": 'refused_attributes = ["PKS"]'},
    {"td": "required_attributes = []"},
    {"td": "xfam_required = 7"},
    {"td": "xfam_allowed = 7"},
    {"td": f'mr_service_td = "{"01" * 48}"'},
    {"ticket": "not_before = 2026-01-01T00:00:00Z"},
    {"rest": LOGGED},
    {"values": "accept_any_td = true"},
    {"values": f'{REST}\n[reference_values.baseline]\nmrtd = "{OTHER}"'},
    {"values": f'{REST}\n[reference_values.baseline]\nmrtd = ["{OTHER}", "{MRTD}"]'},
    {"values": f'{REST}\n[reference_values.variants.a]\nmrtd = "{MRTD}"'},
    {"values": VARIANTS},
]


def test_any_change_of_meaning_is_another_signature():
    policies = [
        _policy(),
        *(_policy(**parts) for parts in MEANINGS),
        load_policy_untrusted(_toml().replace(b"3600", b"3601")),
        load_policy_untrusted(_toml().replace(b"7200", b"7201")),
    ]

    assert len({policy.signature for policy in policies}) == len(policies)


def test_mock_and_real_roots_never_share_a_signature():
    policy = _policy()

    assert policy.signature_with(INTEL_SGX_ROOT) != policy.signature_with(evidence.authority().trust_root)
    assert policy.signature_with(INTEL_SGX_ROOT) != policy.signature


def test_the_canonical_form_is_plain_data():
    for parts in MEANINGS:
        assert encode(_policy(**parts).canonical())


def test_ticket_rules_are_read():
    ticket = _policy(ticket="not_before = 2026-01-01T01:00:00+01:00").ticket

    assert ticket.max_age == timedelta(hours=1)
    assert ticket.max_lifetime == timedelta(hours=2)
    assert ticket.not_before == datetime(2026, 1, 1, tzinfo=UTC)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_malformed(data):
    with pytest.raises(MalformedError):
        load_policy_untrusted(data)
