"""Genuine, but do we accept it? Applies an appraisal policy to a verified quote (steps 19 to 23).

All rules are applied and every finding is reported, so that an operator sees everything that is wrong at
once; the first finding gives the refusal its reason.
"""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from attestation.collateral.enforcement import Enforcement, UnknownEnforcement
from attestation.errors import AppraisalError, AttestationError, UndecidedError
from attestation.eventlog.verify import (
    EventLogEvidence,
    VerifiedEventLog,
    parse_event_log_untrusted,
    verify_event_log,
)
from attestation.policy.result import AttestationResult
from attestation.policy.rules import (
    ZERO_MEASUREMENT,
    AppraisalPolicy,
    ReferenceValues,
    TdRules,
    Values,
    default_policy,
)
from attestation.policy.tcb import grace_until, tcb_findings
from attestation.policy.toml import load_policy_untrusted
from attestation.quote.codec import TDReport
from attestation.steps import Step
from attestation.values import (
    td_attribute_names,
    u64_hex,
)
from attestation.verifier import VerifiedQuote

__all__ = [
    "REPORT_DATA_UNCHECKED",
    "AppraisalPolicy",
    "AttestationResult",
    "ReportData",
    "appraise",
    "default_policy",
    "load_policy_untrusted",
]


class ReportData(Enum):
    """The one way not to check REPORTDATA: the caller passes this value explicitly."""

    UNCHECKED = "unchecked"


REPORT_DATA_UNCHECKED: Final = ReportData.UNCHECKED

_ATTRIBUTE_REASONS: Final = {
    "DEBUG": "td-debug",
    "MIGRATABLE": "td-migratable",
    "SERVTD_EXT": "td-service-td-extension",
    "HGS_PLUS_PROF": "td-profiling",
    "PERF_PROF": "td-profiling",
    "PMT_PROF": "td-profiling",
}


UNKNOWN_ENFORCEMENT: Final = UnknownEnforcement()

TCB_FALLS: Final = frozenset(
    {"tcb-status-not-accepted", "tcb-advisory-not-accepted", "tcb-evaluation-data-number"}
)
"""The findings that a standing member may have: Intel's documents have changed, the member has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallenBack:
    """Genuine evidence whose only findings are in ``TCB_FALLS``.

    It is not an acceptance: unless the peer may stand (``attestation.tickets.standing``), the result is
    ``refusal``.

    Attributes:
        result: what is established, as for accepted evidence.
        refusal: the error with which a stranger is refused.
    """

    result: AttestationResult
    refusal: AppraisalError


def appraise(
    verified: VerifiedQuote,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    report_data: bytes | ReportData,
    event_log: EventLogEvidence | None = None,
    own_config_id: bytes | None = None,
    enforcement: Enforcement = UNKNOWN_ENFORCEMENT,
) -> AttestationResult:
    """Accept a verified quote; otherwise report every rule of the policy that it violates.

    Args:
        verified: from ``verify_quote``, best at this ``now``.
        policy: from ``load_policy_untrusted``.
        now: aware. If the quote was verified at another time, every window is checked again.
        report_data: the 64 bytes that the quote must carry, or ``REPORT_DATA_UNCHECKED``.
        event_log: the attester's log, if it sent one: bytes, or imported events. Ignored unless the policy
            relies on it.
        own_config_id: SHA-384 of the group document that this process has loaded, 48 bytes; a policy with
            ``mrconfigid = "own"`` accepts nothing without it.
        enforcement: since when sets are enforced, for the policy's grace period; unknown: no grace.

    Raises:
        StaleEndorsementsError: ``now`` is outside the windows of the endorsements or the PCK chain.
        MalformedError: the event log that the policy relies on cannot be parsed.
        AppraisalError: with the first finding's reason; ``values["findings"]`` has them all.
        UndecidedError: there are no findings, but ``own_config_id`` is needed and missing.
    """
    outcome = appraise_member(
        verified.require_current(now),
        policy,
        report_data=report_data,
        event_log=event_log,
        own_config_id=own_config_id,
        enforcement=enforcement,
    )
    if isinstance(outcome, FallenBack):
        raise outcome.refusal
    return outcome


def appraise_member(
    verified: VerifiedQuote,
    policy: AppraisalPolicy,
    *,
    report_data: bytes | ReportData,
    event_log: EventLogEvidence | None = None,
    own_config_id: bytes | None = None,
    enforcement: Enforcement = UNKNOWN_ENFORCEMENT,
) -> AttestationResult | FallenBack:
    """Appraise as :func:`appraise` does, and distinguish evidence whose TCB alone has fallen back.

    The time of the appraisal is the time at which the quote is verified.

    Raises:
        MalformedError, AppraisalError, UndecidedError: as ``appraise``.
    """
    now = verified.verified_at
    findings = [
        *_td_findings(verified.body, policy.td),
        *tcb_findings(verified, policy.tcb, now, enforcement),
    ]
    variant, mismatches = _match(verified.body, policy.reference_values)
    findings += mismatches
    findings += _own_config_findings(verified.body, policy.reference_values, own_config_id)
    findings += _report_data_findings(verified.body, report_data)
    log, log_findings = _event_log(verified.body, policy, event_log)
    findings += log_findings
    if any(finding.reason not in TCB_FALLS for finding in findings):
        raise _refusal(findings)
    try:
        _require_own_config_known(policy.reference_values, own_config_id)
    except UndecidedError:
        if findings:  # a refusal carries more information
            raise _refusal(findings) from None
        raise
    result = AttestationResult(
        verified=verified,
        policy=policy,
        variant=variant,
        grace_until=None if findings else grace_until(verified, policy.tcb, enforcement),
        event_log=log,
        not_checked=not_checked(policy, report_data),
        appraised_at=now,
    )
    return FallenBack(result=result, refusal=_refusal(findings)) if findings else result


def _refusal(findings: list[AppraisalError]) -> AppraisalError:
    first = findings[0]
    return AppraisalError(
        first.reason,
        first.message,
        step=first.step,
        values={**first.values, "findings": [finding_value(finding) for finding in findings]},
    )


def finding_value(finding: AttestationError) -> dict[str, Any]:
    """Return one finding for JSON."""
    return {
        "reason": finding.reason,
        "message": finding.message,
        "step": None if finding.step is None else str(finding.step),
        "values": {key: item for key, item in finding.values.items() if key != "findings"},
    }


def not_checked(policy: AppraisalPolicy, report_data: bytes | ReportData) -> tuple[str, ...]:
    """Return what a result under this policy does not cover, in the order of the steps."""
    out = []
    if policy.tcb.minimum_evaluation_data_number == 0:
        out.append("tcb_evaluation_data_number")
    if not any(policy.tcb.minimum_tee_tcb_svn):
        out.append("minimum_tee_tcb_svn")
    if policy.tcb.max_collateral_age is None:
        out.append("collateral_age")
    out += policy.reference_values.not_checked
    if isinstance(report_data, ReportData):
        out.append("report_data")
    if not policy.event_log.registers:
        out.append("event_log")
    return tuple(out)


# ---- step 19: the TD ----------------------------------------------------------------------------------


def td_findings(body: TDReport, rules: TdRules) -> list[AppraisalError]:
    """Return every finding of the TD rules about a TD report."""
    return list(_td_findings(body, rules))


def _td_findings(body: TDReport, rules: TdRules) -> Iterator[AppraisalError]:
    values = {"td_attributes": u64_hex(body.td_attributes)}
    for name in td_attribute_names(body.td_attributes & ~rules.allowed_attributes):
        reserved = name.startswith("RESERVED_")
        yield AppraisalError(
            "td-attributes-reserved" if reserved else _ATTRIBUTE_REASONS.get(name, "td-attribute-refused"),
            f"the TD has the attribute {name}, which the policy refuses",
            step=Step.TD_RULES,
            values={**values, "attribute": name},
        )
    for name in td_attribute_names(rules.required_attributes & ~body.td_attributes):
        yield AppraisalError(
            "td-sept-ve-disable-missing" if name == "SEPT_VE_DISABLE" else "td-attribute-missing",
            f"the TD lacks the attribute {name}, which the policy requires",
            step=Step.TD_RULES,
            values={**values, "attribute": name},
        )
    if body.xfam & ~rules.xfam_allowed or rules.xfam_required & ~body.xfam:
        yield AppraisalError(
            "td-xfam",
            "the TD's XFAM lacks a required bit, or has one that is not allowed",
            step=Step.TD_RULES,
            values={
                "xfam": u64_hex(body.xfam),
                "required": u64_hex(rules.xfam_required),
                "allowed": u64_hex(rules.xfam_allowed),
            },
        )
    # TD report 1.0 has no MR_SERVICETD; a bound migration TD shows as MIGRATABLE there.
    service_td = ZERO_MEASUREMENT if body.mr_service_td is None else body.mr_service_td
    if service_td not in rules.mr_service_td:
        yield AppraisalError(
            "td-service-td",
            "a service TD is bound that the policy does not accept",
            step=Step.TD_RULES,
            values={
                "expected": sorted(value.hex() for value in rules.mr_service_td),
                "actual": service_td.hex(),
            },
        )


# ---- step 21: measurements ----------------------------------------------------------------------------


def measurements(body: TDReport) -> dict[str, bytes]:
    """Return the registers that a policy pins, by the names it uses."""
    return {
        "mrtd": body.mrtd,
        **{f"rtmr{index}": value for index, value in enumerate(body.rtmrs)},
        "mrseam": body.mr_seam,
        "mrconfigid": body.mr_config_id,
        "mrowner": body.mr_owner,
        "mrownerconfig": body.mr_owner_config,
    }


def _match(body: TDReport, reference: ReferenceValues) -> tuple[str | None, list[AppraisalError]]:
    """Return the name of the variant that matches, and what does not match."""
    actual = measurements(body)
    findings = [
        _mismatch(name, actual[name], reference.baseline[name])
        for name in _mismatches(actual, reference.baseline)
    ]
    if not reference.variants:
        return None, findings
    failed = {name: _mismatches(actual, variant) for name, variant in sorted(reference.variants.items())}
    for name, registers in failed.items():
        if not registers:
            return name, findings
    findings.append(
        AppraisalError(
            "measurement-no-variant",
            "the TD matches none of the policy's variants: "
            + "; ".join(f"{name} differs in {', '.join(found)}" for name, found in failed.items()),
            step=Step.REFERENCE_VALUES,
            values={
                "variants": failed,
                "actual": {
                    register: actual[register].hex()
                    for register in sorted({name for found in failed.values() for name in found})
                },
            },
        )
    )
    return None, findings


def _own_config_findings(
    body: TDReport, reference: ReferenceValues, own_config_id: bytes | None
) -> Iterator[AppraisalError]:
    if not reference.own_mrconfigid:
        return
    values = {
        "register": "mrconfigid",
        "expected": [] if own_config_id is None else [own_config_id.hex()],
        "actual": body.mr_config_id.hex(),
    }
    if body.mr_config_id == ZERO_MEASUREMENT:
        yield AppraisalError(
            "mrconfigid-not-set",
            "MRCONFIGID is zero, so no group document was measured into the TD; "
            "a policy accepts that only by naming mrconfigid in reference_values.not_checked",
            step=Step.REFERENCE_VALUES,
            values=values,
        )
    elif own_config_id is not None and not hmac.compare_digest(own_config_id, body.mr_config_id):
        yield AppraisalError(
            "mrconfigid-differs",
            f"MRCONFIGID is {body.mr_config_id.hex()}: the TD was started with another group document",
            step=Step.REFERENCE_VALUES,
            values=values,
        )


def _require_own_config_known(reference: ReferenceValues, own_config_id: bytes | None) -> None:
    if reference.own_mrconfigid and own_config_id is None:
        raise UndecidedError(
            "mrconfigid-own-unknown",
            'the policy has mrconfigid = "own", and no group document was given to compare with',
            step=Step.REFERENCE_VALUES,
        )


def _mismatches(actual: dict[str, bytes], expected: Values) -> list[str]:
    return [name for name in actual if name in expected and actual[name] not in expected[name]]


def _mismatch(name: str, actual: bytes, expected: frozenset[bytes]) -> AppraisalError:
    return AppraisalError(
        "measurement-mismatch",
        f"{name.upper()} is {actual.hex()}, which the policy does not accept",
        step=Step.REFERENCE_VALUES,
        values={
            "register": name,
            "expected": sorted(value.hex() for value in expected),
            "actual": actual.hex(),
        },
    )


# ---- steps 22 and 23 ----------------------------------------------------------------------------------


def _report_data_findings(body: TDReport, expected: bytes | ReportData) -> Iterator[AppraisalError]:
    if isinstance(expected, ReportData):
        return
    if not hmac.compare_digest(expected, body.report_data):
        yield AppraisalError(
            "report-data-mismatch",
            "REPORTDATA is not the value that the verifier expects",
            step=Step.REPORT_DATA,
            values={"expected": expected.hex(), "actual": body.report_data.hex()},
        )


def _event_log(
    body: TDReport, policy: AppraisalPolicy, data: EventLogEvidence | None
) -> tuple[VerifiedEventLog | None, list[AppraisalError]]:
    registers = policy.event_log.registers
    if not registers:
        return None, []
    if data is None:
        return None, [
            AppraisalError(
                "event-log-missing",
                "the policy relies on an event log, and the attester sent none",
                step=Step.EVENT_LOG,
                values={"registers": [f"rtmr{register}" for register in sorted(registers)]},
            )
        ]
    try:
        events = data if isinstance(data, tuple) else parse_event_log_untrusted(data)
        return verify_event_log(events, body.rtmrs, relied_on=registers), []
    except AppraisalError as exc:
        exc.step = exc.step or Step.EVENT_LOG
        return None, [exc]
