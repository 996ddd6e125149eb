"""The attestation result: what was accepted, why, for how long, and what was not checked."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.eventlog.verify import VerifiedEventLog
from attestation.policy.rules import AppraisalPolicy
from attestation.quote.codec import TDReport
from attestation.tcb import Evaluation, ReachedLevel, TcbEvaluation, shortfall_value
from attestation.values import td_attribute_names, timestamp, u64_hex
from attestation.verifier import Pck, VerifiedQuote
from attestation.x509.trust import TrustRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """Genuine evidence that a policy accepts. Made by ``attestation.policy.appraise`` only.

    Attributes:
        variant: name of the reference-value variant that matched; None if the policy has none.
        grace_until: if an outdated TCB was accepted within the grace period, until when.
        event_log: None if the policy needs no log and the caller gave none.
        not_checked: the checks that the policy or the caller waived.
    """

    verified: VerifiedQuote
    policy: AppraisalPolicy
    variant: str | None
    grace_until: datetime | None
    event_log: VerifiedEventLog | None
    not_checked: tuple[str, ...]
    appraised_at: datetime

    @property
    def mock(self) -> bool:
        """True if the trust root is not Intel's."""
        return self.verified.mock

    @property
    def valid_until(self) -> datetime:
        """The last second at which this result holds."""
        until = self.verified.valid_until
        return until if self.grace_until is None else min(until, self.grace_until)

    def to_json_value(self) -> dict[str, Any]:
        """Return the document that ``quote verify --json`` prints (docs/attestation.md has its schema)."""
        return {
            "accepted": True,
            "status": str(self.verified.tcb.status),
            "reason": None,
            "message": None,
            "step": None,
            "values": {},
            "findings": [],
            **verified_value(self.verified),
            "policy": policy_value(
                self.policy,
                self.verified.endorsements.root,
                variant=self.variant,
                grace_until=self.grace_until,
            ),
            "not_checked": list(self.not_checked),
            "valid_until": timestamp(self.valid_until),
        }


def verified_value(verified: VerifiedQuote) -> dict[str, Any]:
    """Return what is established about a genuine quote, for JSON."""
    root = verified.endorsements.root
    return {
        "verified": True,
        "mock": verified.mock,
        "now": timestamp(verified.verified_at),
        "quote_version": verified.quote.version,
        "advisory_ids": list(verified.tcb.advisory_ids),
        "fmspc": verified.pck.extension.fmspc.hex(),
        **body_value(verified.body),
        "tcb": tcb_value(verified.tcb),
        "pck": pck_value(verified.pck),
        "trust_root": {"sha256": root.fingerprint.hex(), "mock": root.mock},
        "collateral": {
            "digest": verified.endorsements.digest.hex(),
            "valid_from": timestamp(verified.endorsements.valid_from),
            "valid_until": timestamp(verified.endorsements.valid_until),
            "tcb_evaluation_data_number": verified.endorsements.tcb_evaluation_data_number,
        },
        "valid_from": timestamp(verified.valid_from),
    }


def policy_value(
    policy: AppraisalPolicy, root: TrustRoot, *, variant: str | None, grace_until: datetime | None
) -> dict[str, Any]:
    """Return which policy was applied, and how it was met, for JSON."""
    return {
        "signature": policy.signature_with(root).hex(),
        "variant": variant,
        "grace_until": None if grace_until is None else timestamp(grace_until),
    }


def body_value(body: TDReport) -> dict[str, Any]:
    """Return the fields of a TD report, for JSON: lower-case hex in memory order."""
    return {
        "body_type": body.body_type,
        "measurements": {
            "mrtd": body.mrtd.hex(),
            **{f"rtmr{index}": value.hex() for index, value in enumerate(body.rtmrs)},
            "mrseam": body.mr_seam.hex(),
            "mrconfigid": body.mr_config_id.hex(),
            "mrowner": body.mr_owner.hex(),
            "mrownerconfig": body.mr_owner_config.hex(),
        },
        "report_data": body.report_data.hex(),
        "td_attributes": u64_hex(body.td_attributes),
        "td_attribute_names": list(td_attribute_names(body.td_attributes)),
        "xfam": u64_hex(body.xfam),
        "tee_tcb_svn": body.tee_tcb_svn.hex(),
        "tee_tcb_svn_2": None if body.tee_tcb_svn_2 is None else body.tee_tcb_svn_2.hex(),
        "mr_service_td": None if body.mr_service_td is None else body.mr_service_td.hex(),
    }


def tcb_value(tcb: TcbEvaluation) -> dict[str, Any]:
    """Return a TCB evaluation, for JSON."""
    return {
        "status": str(tcb.status),
        "tcb_date": timestamp(tcb.tcb_date),
        "tcb_evaluation_data_number": tcb.tcb_evaluation_data_number,
        "launch": _evaluation_value(tcb.launch),
        "current": None if tcb.current is None else _evaluation_value(tcb.current),
    }


def _evaluation_value(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "tee_tcb_svn": evaluation.tee_tcb_svn.hex(),
        "status": str(evaluation.status),
        "tcb_date": timestamp(evaluation.tcb_date),
        "advisory_ids": list(evaluation.advisory_ids),
        "platform": _level_value(evaluation.platform),
        "module": None if evaluation.module is None else _level_value(evaluation.module),
        "qe": _level_value(evaluation.qe),
    }


def _level_value(level: ReachedLevel) -> dict[str, Any]:
    better = level.better
    return {
        "status": str(level.status),
        "tcb_date": timestamp(level.tcb_date),
        "advisory_ids": list(level.advisory_ids),
        "next_better": None
        if better is None
        else {
            "status": str(better.status),
            "tcb_date": timestamp(better.tcb_date),
            "shortfalls": [shortfall_value(item) for item in better.shortfalls],
        },
    }


def pck_value(pck: Pck) -> dict[str, Any]:
    """Return the PCK's fields, for JSON."""
    extension = pck.extension
    configuration = extension.configuration
    return {
        "ca": pck.ca,
        "serial": f"{pck.certificate.parsed.serial_number:x}",
        "ppid": extension.ppid.hex(),
        "pceid": extension.pce_id.hex(),
        "fmspc": extension.fmspc.hex(),
        "tcb_components": list(extension.tcb_components),
        "pcesvn": extension.pce_svn,
        "cpusvn": extension.cpu_svn.hex(),
        "sgx_type": extension.sgx_type.name.lower(),
        "platform_instance_id": None
        if extension.platform_instance_id is None
        else extension.platform_instance_id.hex(),
        "configuration": None
        if configuration is None
        else {
            "dynamic_platform": configuration.dynamic_platform,
            "cached_keys": configuration.cached_keys,
            "smt_enabled": configuration.smt_enabled,
        },
        "not_before": timestamp(pck.certificate.not_before),
        "not_after": timestamp(pck.certificate.not_after),
    }
