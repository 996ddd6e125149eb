"""One verification from raw bytes to a JSON document and an exit code: what ``quote verify`` prints.

A refusal is reported as completely as an acceptance: the document always has the same members. For a quote
that did not verify, it shows what the quote's bytes *claim*; ``verified`` distinguishes the two.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from attestation.collateral.endorsements import (
    AuthenticEndorsements,
    Endorsements,
    authenticate_endorsements,
)
from attestation.collateral.enforcement import Enforcement
from attestation.errors import (
    AppraisalError,
    AttestationError,
    EndorsementsUnavailableError,
    VerificationError,
)
from attestation.eventlog.verify import EventLogEvidence, parse_event_log_untrusted
from attestation.policy.appraise import (
    REPORT_DATA_UNCHECKED,
    UNKNOWN_ENFORCEMENT,
    AppraisalPolicy,
    ReportData,
    appraise,
    default_policy,
    finding_value,
    not_checked,
    td_findings,
)
from attestation.policy.result import body_value, pck_value, policy_value, tcb_value, verified_value
from attestation.policy.rules import REGISTERS, EventLogRules
from attestation.quote.codec import Quote, TDReport, parse_quote_untrusted
from attestation.steps import Step
from attestation.tcb import TcbEvaluation
from attestation.values import timestamp, whole_seconds
from attestation.verifier import (
    AuthenticQuote,
    VerifiedQuote,
    authenticate_quote,
    claimed_fmspc_untrusted,
    require_td_report,
    verify_parsed_quote,
)
from attestation.x509.trust import TrustRoot

EXIT_ACCEPTED: Final = 0
EXIT_REFUSED: Final = 1
EXIT_UNDECIDED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """The outcome of a verification.

    Attributes:
        value: the JSON document; docs/attestation.md has its schema.
        exit_code: 0 accepted, 1 refused, 3 could not decide (collateral missing).
    """

    value: dict[str, Any]
    exit_code: int


@dataclass(slots=True)
class _Reached:
    """How far a verification came before it was refused; what was not reached is None."""

    quote: Quote | None = None
    endorsements: AuthenticEndorsements | None = None
    verified: VerifiedQuote | None = None


def verify_report(
    quote: bytes,
    collateral: bytes | None,
    *,
    root: TrustRoot,
    policy: AppraisalPolicy | None,
    now: datetime,
    report_data: bytes | ReportData = REPORT_DATA_UNCHECKED,
    event_log: EventLogEvidence | None = None,
    pck_chain: bytes | None = None,
    own_config_id: bytes | None = None,
    enforcement: Enforcement = UNKNOWN_ENFORCEMENT,
) -> VerificationReport:
    """Verify and appraise a quote from raw bytes. Never raises for anything in them.

    Args:
        quote: raw quote.
        collateral: ``QuoteCollateralV3`` JSON; None if there is no collateral: the outcome is then undecided.
        root: the pinned root.
        policy: None stands for ``default_policy()``, and the result lists what that does not check.
        now: aware.
        report_data: the 64 bytes that the quote must carry.
        event_log: the attester's event log. Even if the policy does not rely on a log, the log must explain
            every register that it extends: a log that was given is never ignored.
        pck_chain: PEM, for quotes without a chain of their own.
        own_config_id: SHA-384 of the group document, for a policy with ``mrconfigid = "own"``.
        enforcement: since when sets are enforced, for the policy's grace period.
    """
    now = whole_seconds(now)
    applied = default_policy() if policy is None else policy
    reached = _Reached()
    try:
        reached.quote = parse_quote_untrusted(quote)
        require_td_report(reached.quote)
        if collateral is None:
            raise EndorsementsUnavailableError(
                "collateral-missing", "no collateral was given, so nothing can be decided"
            )
        raw = Endorsements.from_json_untrusted(collateral)
        reached.endorsements = authenticate_endorsements(raw, root=root)
        current = reached.endorsements.require_current(now)
        reached.verified = verify_parsed_quote(reached.quote, current, pck_chain=pck_chain)
        result = appraise(
            reached.verified,
            applied if event_log is None else _relying_on(event_log, applied),
            now=now,
            report_data=report_data,
            event_log=event_log,
            own_config_id=own_config_id,
            enforcement=enforcement,
        )
        result = replace(result, policy=applied)
    except AttestationError as exc:
        value = {
            **_refusal_value(exc),
            **_claimed_value(reached.quote, now),
            "trust_root": {"sha256": root.fingerprint.hex(), "mock": root.mock},
            "mock": root.mock,
            "policy": policy_value(applied, root, variant=None, grace_until=None),
            "not_checked": list(not_checked(applied, report_data)),
            **_reached_value(exc, reached, pck_chain=pck_chain, policy=applied),
        }
        return VerificationReport(value=value, exit_code=EXIT_UNDECIDED if exc.undecided else EXIT_REFUSED)
    return VerificationReport(value=result.to_json_value(), exit_code=EXIT_ACCEPTED)


def _relying_on(event_log: EventLogEvidence, policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return the policy, relying on a log that was given although the policy does not need one.

    Raises:
        MalformedError: the bytes are not an event log.
        AppraisalError: ``event-log-empty``: it extends no register, so the quote cannot confirm it.
    """
    if policy.event_log.registers:
        return policy
    events = event_log if isinstance(event_log, tuple) else parse_event_log_untrusted(event_log)
    registers = frozenset(item.register for item in events if item.extends and item.register is not None)
    if not registers:
        raise AppraisalError(
            "event-log-empty",
            "the event log extends no register, so the quote confirms nothing of it",
            step=Step.EVENT_LOG,
        )
    return replace(policy, event_log=EventLogRules(registers=registers))


def _refusal_value(exc: AttestationError) -> dict[str, Any]:
    finding = finding_value(exc)
    return {
        "accepted": False,
        "status": None,
        **finding,
        "findings": exc.values.get("findings", [finding]),
        "valid_until": None,
    }


def _claimed_value(quote: Quote | None, now: datetime) -> dict[str, Any]:
    """Return what the quote's bytes claim; None: they cannot be read."""
    value: dict[str, Any] = {
        "verified": False,
        "now": timestamp(now),
        "quote_version": None,
        "advisory_ids": [],
        "fmspc": None,
        **_NO_BODY,
        "tcb": None,
        "pck": None,
        "collateral": None,
        "valid_from": None,
    }
    if quote is None:
        return value
    value["quote_version"] = quote.version
    if isinstance(quote.body, TDReport):
        value |= body_value(quote.body)
    fmspc = claimed_fmspc_untrusted(quote)
    value["fmspc"] = None if fmspc is None else fmspc.hex()
    return value


_NO_BODY: Final[dict[str, Any]] = {
    "body_type": None,
    "measurements": dict.fromkeys(REGISTERS),
    "report_data": None,
    "td_attributes": None,
    "td_attribute_names": [],
    "xfam": None,
    "tee_tcb_svn": None,
    "tee_tcb_svn_2": None,
    "mr_service_td": None,
}


def _reached_value(
    refusal: AttestationError,
    reached: _Reached,
    *,
    pck_chain: bytes | None,
    policy: AppraisalPolicy,
) -> dict[str, Any]:
    """Return what can still be reported about a refused quote: a verified one, or if all its signatures hold.

    Evidence that is refused because it is out of its window, or Revoked, still has a TCB status; evidence
    with a broken signature does not. Nothing here can turn a refusal into anything else.
    """
    if reached.verified is not None:
        return verified_value(reached.verified) | {"status": str(reached.verified.tcb.status)}
    if reached.quote is None or reached.endorsements is None or not isinstance(refusal, VerificationError):
        return {}
    try:
        authentic = authenticate_quote(reached.quote, reached.endorsements, pck_chain=pck_chain)
    except AttestationError:
        return {}
    value: dict[str, Any] = {
        "fmspc": authentic.pck.extension.fmspc.hex(),
        "pck": pck_value(authentic.pck),
        "findings": [
            finding_value(finding) for finding in (refusal, *td_findings(authentic.body, policy.td))
        ],
    }
    tcb = _evaluate(authentic)
    if tcb is not None:
        value |= {
            "status": str(tcb.status),
            "advisory_ids": list(tcb.advisory_ids),
            "tcb": tcb_value(tcb),
        }
    return value


def _evaluate(authentic: AuthenticQuote) -> TcbEvaluation | None:
    try:
        return authentic.evaluate()
    except VerificationError:
        return None
