"""Which TCB evaluation data numbers Intel publishes (A8.1 and A12; PCS API v4).

Several TCB infos of one platform are valid at the same time; each TCB recovery adds one, with the next
number. This signed statement lists the numbers, so that an operator can choose one, or see that a source
still serves one that Intel has withdrawn. It decides no verdict: the number inside the TCB info counts, and a
floor under it is policy.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestation.collateral.signed_json import (
    ARRAY,
    TEXT,
    UINT16,
    UINT32,
    parse_json_untrusted,
    read_map,
    time,
)
from attestation.collateral.signers import load_signer_untrusted, require_document_signature, require_signer
from attestation.errors import MalformedError
from attestation.values import whole_seconds
from attestation.x509.certificates import require_in_window, require_window
from attestation.x509.crl import parse_crl_untrusted, require_crl_in_window, require_crl_signed_by
from attestation.x509.trust import TrustRoot

CODE: Final = "evaluation-numbers"
SIGNER_ROLE: Final = "evaluation-numbers-signer"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationNumber:
    """One set of TCB infos that Intel publishes.

    Attributes:
        number: tcbEvaluationDataNumber, of every TCB info in the set.
        recovery_event_date: when the TCB recovery that caused it became public, aware UTC.
        tcb_date: the tcbDate of the levels that it added, aware UTC.
    """

    number: int
    recovery_event_date: datetime
    tcb_date: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationNumbers:
    """The statement, parsed. ``numbers`` is sorted, highest first, and never empty."""

    issue_date: datetime
    next_update: datetime
    numbers: tuple[EvaluationNumber, ...]

    def __contains__(self, number: object) -> bool:
        """Return whether this number is published."""
        return any(entry.number == number for entry in self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEvaluationNumbers:
    """The statement as it came; nothing in it is verified.

    Attributes:
        document: the exact bytes that were signed.
        signature: raw ``r||s``, 64 bytes.
        issuer_chain: PEM.
        root_crl: DER.
    """

    document: bytes
    signature: bytes
    issuer_chain: bytes
    root_crl: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvaluationNumbers:
    """Signed by the right role below the pin, and current. Made by :func:`verify_evaluation_numbers` only."""

    numbers: EvaluationNumbers
    root: TrustRoot
    verified_at: datetime


def parse_evaluation_numbers_untrusted(data: bytes) -> EvaluationNumbers:
    """Parse the ``tcbEvaluationDataNumbers`` of TDX, version 1.

    Raises:
        MalformedError: ``evaluation-numbers-malformed``, ``-version`` or ``-not-tdx``.
    """
    top = read_map(parse_json_untrusted(data, code=CODE), code=CODE)
    if top.take("id", TEXT) != "TDX":
        raise MalformedError(
            f"{CODE}-not-tdx",
            f"the evaluation numbers are for {top.take('id', TEXT)!r}, not for 'TDX'",
            values={"expected": "TDX", "actual": top.take("id", TEXT)},
        )
    version = top.take("version", UINT16)
    if version != 1:
        raise MalformedError(
            f"{CODE}-version",
            f"the evaluation numbers have version {version}, only 1 is supported",
            values={"expected": 1, "actual": version},
        )
    issue_date, next_update = top.take("issueDate", time), top.take("nextUpdate", time)
    if next_update < issue_date:
        top.refuse("nextUpdate", "is before issueDate")
    numbers = [
        EvaluationNumber(
            number=entry.take("tcbEvaluationDataNumber", UINT32),
            recovery_event_date=entry.take("tcbRecoveryEventDate", time),
            tcb_date=entry.take("tcbDate", time),
        )
        for entry in top.each_below("tcbEvalNumbers", ARRAY)
    ]
    if not numbers or len({entry.number for entry in numbers}) != len(numbers):
        top.refuse("tcbEvalNumbers", "is empty, or names one number twice")
    return EvaluationNumbers(
        issue_date=issue_date,
        next_update=next_update,
        numbers=tuple(sorted(numbers, key=lambda entry: entry.number, reverse=True)),
    )


def verify_evaluation_numbers(
    signed: SignedEvaluationNumbers, *, root: TrustRoot, now: datetime
) -> VerifiedEvaluationNumbers:
    """Verify the statement: the rules are those of TCB info.

    Raises:
        MalformedError: something is not what it claims to be.
        VerificationError: something is not genuine, revoked, or outside its window.
    """
    now = whole_seconds(now)
    signer = load_signer_untrusted(signed.issuer_chain, role=SIGNER_ROLE, root=root)
    root_crl = parse_crl_untrusted(signed.root_crl, role="root-crl")
    require_crl_signed_by(root_crl, root.certificate)
    require_crl_in_window(root_crl, now)
    require_signer(signer, root, root_crl)
    require_document_signature(signer, signed.signature, signed.document, code=CODE)
    numbers = parse_evaluation_numbers_untrusted(signed.document)
    require_in_window(root.certificate, now)
    require_in_window(signer, now)
    require_window(CODE, "the statement of evaluation numbers", numbers.issue_date, numbers.next_update, now)
    return VerifiedEvaluationNumbers(numbers=numbers, root=root, verified_at=now)
