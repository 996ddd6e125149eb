"""The error tree of the verifier. Four questions never share a class.

    AttestationError(reason)
    ├─ MalformedError                do we understand the bytes?
    ├─ VerificationError             is it genuine?
    │  ├─ SignatureError
    │  ├─ CertificatePathError
    │  ├─ RevokedError
    │  └─ StaleEndorsementsError
    ├─ AppraisalError                genuine; do we accept it?
    └─ UndecidedError              could we decide at all?
       └─ EndorsementsUnavailableError  Only this one is worth a retry.

Every error has a stable, machine-readable ``reason`` (kebab-case) that ends up in JSON output, refusals
and the audit log. Reasons are never renamed; the text around them may change.
"""

from collections.abc import Mapping


class AttestationError(Exception):
    """The base of every refusal.

    Args:
        reason: stable kebab-case code, for machines.
        message: one sentence, for people.
        step: the number of the step in ``docs/attestation.md`` that refused, if it has a number.
        values: the expected and the found values, JSON-able.

    Attributes:
        undecided: the evidence is neither accepted nor refused: something to judge by was missing.
    """

    undecided: bool = False

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        step: str | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.step = step
        self.values: Mapping[str, object] = dict(values or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"


class MalformedError(AttestationError):
    """These bytes are not what they claim to be."""


class VerificationError(AttestationError):
    """Well-formed, but not genuine."""


class SignatureError(VerificationError):
    """A signature does not verify."""


class CertificatePathError(VerificationError):
    """A certificate chain does not lead to the pinned root under the rules of RFC 5280."""


class RevokedError(VerificationError):
    """A certificate, or the whole TCB level, has been revoked."""


class StaleEndorsementsError(VerificationError):
    """An endorsement is outside its validity window at ``now``."""


class AppraisalError(AttestationError):
    """Genuine, but the appraisal policy does not accept it."""


class UndecidedError(AttestationError):
    """The verifier could not decide: an input that it needs was missing."""

    undecided = True


class EndorsementsUnavailableError(UndecidedError):
    """The verifier could not decide, because collateral is missing. Retry later."""
