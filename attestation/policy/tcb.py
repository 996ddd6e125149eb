"""Step 20 of an appraisal: which TCB the policy accepts, and for how long (A8, A9 and A10)."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from attestation.collateral.enforcement import Enforcement
from attestation.errors import AppraisalError
from attestation.policy.rules import TcbRules
from attestation.quote.codec import TDReport
from attestation.steps import Step
from attestation.tcb import Evaluation
from attestation.values import OUT_OF_DATE_STATUSES, RELAUNCH_STATUSES, TcbStatus, timestamp
from attestation.verifier import VerifiedQuote

_FORGIVEN: Final = {
    TcbStatus.OUT_OF_DATE: TcbStatus.UP_TO_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.CONFIGURATION_NEEDED,
}


def tcb_findings(
    verified: VerifiedQuote, rules: TcbRules, now: datetime, enforcement: Enforcement
) -> Iterator[AppraisalError]:
    """Yield every finding of the TCB rules about a verified quote at ``now``."""
    yield from _status_findings(verified, rules, now, enforcement)
    advisories = set(verified.tcb.advisory_ids)
    if refused := sorted(advisories & rules.refused_advisories):
        yield AppraisalError(
            "tcb-advisory-refused",
            f"the platform is affected by {', '.join(refused)}, which the policy refuses",
            step=Step.TCB_POLICY,
            values={"advisory_ids": refused},
        )
    if rules.accepted_advisories is not None and (
        unknown := sorted(advisories - rules.accepted_advisories - rules.refused_advisories)
    ):
        yield AppraisalError(
            "tcb-advisory-not-accepted",
            f"the platform is affected by {', '.join(unknown)}; "
            'list them in tcb.accepted_advisories (or "any") to accept that',
            step=Step.TCB_POLICY,
            values={"advisory_ids": unknown},
        )
    number = verified.tcb.tcb_evaluation_data_number
    if number < rules.minimum_evaluation_data_number:
        yield AppraisalError(
            "tcb-evaluation-data-number",
            f"the collateral is of TCB evaluation {number}, the policy requires at least "
            f"{rules.minimum_evaluation_data_number}",
            step=Step.TCB_POLICY,
            values={"expected": rules.minimum_evaluation_data_number, "actual": number},
        )
    yield from _svn_findings(verified.body, rules)
    yield from _age_findings(verified, rules, now)


def _status_findings(
    verified: VerifiedQuote, rules: TcbRules, now: datetime, enforcement: Enforcement
) -> Iterator[AppraisalError]:
    tcb = verified.tcb
    if tcb.status in rules.accepted_statuses:
        return
    until = grace_until(verified, rules, enforcement)
    if until is None or now > until:
        yield AppraisalError(
            "tcb-status-not-accepted",
            f"the TCB status is {tcb.status}; the policy accepts "
            f"{', '.join(sorted(rules.accepted_statuses))}"
            + ("" if until is None else f", and its grace period ended at {timestamp(until)}"),
            step=Step.TCB_POLICY,
            values={
                "expected": sorted(str(status) for status in rules.accepted_statuses),
                "actual": str(tcb.status),
                "grace_until": None if until is None else timestamp(until),
            },
        )


def grace_until(verified: VerifiedQuote, rules: TcbRules, enforcement: Enforcement) -> datetime | None:
    """Return until when the grace period covers this status; None if it does not, or need not.

    Grace covers an outdated status and nothing else: the policy must accept the rest of the status by itself.
    For each outdated part, it starts when a set with a better level was first enforced; the earliest start
    counts. If that time is not known, there is no grace.
    """
    tcb, fmspc = verified.tcb, verified.endorsements.tcb_info.fmspc
    forgivable = OUT_OF_DATE_STATUSES | RELAUNCH_STATUSES
    if not rules.grace_period or tcb.status in rules.accepted_statuses or tcb.status not in forgivable:
        return None
    evaluations = [tcb.launch]
    if tcb.status in RELAUNCH_STATUSES and tcb.current is not None:
        evaluations.append(tcb.current)
    starts: list[datetime] = []
    for evaluation in evaluations:
        residual = _FORGIVEN.get(evaluation.platform.status, evaluation.platform.status)
        superseded = _superseded(evaluation)
        if residual not in rules.accepted_statuses or superseded is None:
            return None
        for superseded_at in superseded:
            since = enforcement.since(fmspc, superseded_at)
            if since is None:
                return None
            starts.append(since)
    return min(starts) + rules.grace_period


def _superseded(evaluation: Evaluation) -> list[datetime] | None:
    """Return when each outdated part was superseded; None if the date of any of them is unknown."""
    out = []
    for part in evaluation.parts:
        if part.status in OUT_OF_DATE_STATUSES:
            if part.superseded_at is None:
                return None
            out.append(part.superseded_at)
    return out


def _svn_findings(body: TDReport, rules: TcbRules) -> Iterator[AppraisalError]:
    for name, svn in (("TEE_TCB_SVN", body.tee_tcb_svn), ("TEE_TCB_SVN2", body.tee_tcb_svn_2)):
        if svn is None:
            continue
        short = [
            index
            for index, (actual, needed) in enumerate(zip(svn, rules.minimum_tee_tcb_svn, strict=True))
            if actual < needed
        ]
        if short:
            yield AppraisalError(
                "tee-tcb-svn-too-low",
                f"{name} is below the policy's minimum in component {short[0]}",
                step=Step.TCB_POLICY,
                values={
                    "expected": rules.minimum_tee_tcb_svn.hex(),
                    "actual": svn.hex(),
                    "components": short,
                },
            )


def _age_findings(verified: VerifiedQuote, rules: TcbRules, now: datetime) -> Iterator[AppraisalError]:
    if rules.max_collateral_age is None:
        return
    authentic = verified.endorsements.authentic
    # Not the root CRL: Intel issues it about once a year.
    for what, issued in (
        ("TCB info", authentic.tcb_info.issue_date),
        ("QE identity", authentic.qe_identity.issue_date),
        ("PCK CRL", authentic.pck_crl.this_update),
    ):
        if now - issued > rules.max_collateral_age:
            yield AppraisalError(
                "collateral-too-old",
                f"the {what} was issued at {timestamp(issued)}, longer ago than the policy allows",
                step=Step.TCB_POLICY,
                values={
                    "issued": timestamp(issued),
                    "max_age_seconds": int(rules.max_collateral_age.total_seconds()),
                },
            )
