"""The verifier (RATS, RFC 9334): is this TDX evidence genuine, and does a policy accept it?

    from attestation import INTEL_SGX_ROOT, REPORT_DATA_UNCHECKED, Endorsements
    from attestation import appraise, load_policy_untrusted, verify_endorsements, verify_quote

    endorsements = Endorsements.from_json_untrusted(collateral)
    verified_endorsements = verify_endorsements(endorsements, root=INTEL_SGX_ROOT, now=now)
    verified = verify_quote(quote, verified_endorsements, now=now)
    result = appraise(
        verified, load_policy_untrusted(policy), now=now, report_data=REPORT_DATA_UNCHECKED
    )
    print(result.to_json_value()["status"])

``quote``, ``collateral`` (QuoteCollateralV3 JSON) and ``policy`` (TOML) are bytes; ``now`` is aware. Every
step raises an ``AttestationError`` with a stable ``reason``, so evidence with a result is genuine, and the
policy accepts it. docs/attestation.md explains each step.

These names are the package's interface. The modules behind them may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from attestation.collateral.endorsements import Endorsements as Endorsements
    from attestation.collateral.endorsements import VerifiedEndorsements as VerifiedEndorsements
    from attestation.collateral.endorsements import verify_endorsements as verify_endorsements
    from attestation.errors import AppraisalError as AppraisalError
    from attestation.errors import AttestationError as AttestationError
    from attestation.errors import EndorsementsUnavailableError as EndorsementsUnavailableError
    from attestation.errors import MalformedError as MalformedError
    from attestation.errors import UndecidedError as UndecidedError
    from attestation.errors import VerificationError as VerificationError
    from attestation.policy.appraise import REPORT_DATA_UNCHECKED as REPORT_DATA_UNCHECKED
    from attestation.policy.appraise import appraise as appraise
    from attestation.policy.result import AttestationResult as AttestationResult
    from attestation.policy.rules import AppraisalPolicy as AppraisalPolicy
    from attestation.policy.rules import default_policy as default_policy
    from attestation.policy.toml import load_policy_untrusted as load_policy_untrusted
    from attestation.quote.codec import Quote as Quote
    from attestation.quote.codec import parse_quote_untrusted as parse_quote_untrusted
    from attestation.tickets.jwt import JwtRules as JwtRules
    from attestation.tickets.jwt import JwtValidator as JwtValidator
    from attestation.tickets.jwt import load_keys_untrusted as load_keys_untrusted
    from attestation.tickets.protocol import ANY_CLUSTER as ANY_CLUSTER
    from attestation.tickets.protocol import Cluster as Cluster
    from attestation.tickets.protocol import ExpectedClaims as ExpectedClaims
    from attestation.tickets.protocol import Expiration as Expiration
    from attestation.tickets.protocol import TicketIssuer as TicketIssuer
    from attestation.tickets.protocol import TicketRejectedError as TicketRejectedError
    from attestation.tickets.protocol import TicketValidator as TicketValidator
    from attestation.tickets.tdx import TdxValidator as TdxValidator
    from attestation.verdict import VerificationReport as VerificationReport
    from attestation.verdict import verify_report as verify_report
    from attestation.verifier import VerifiedQuote as VerifiedQuote
    from attestation.verifier import verify_quote as verify_quote
    from attestation.x509.trust import INTEL_SGX_ROOT as INTEL_SGX_ROOT
    from attestation.x509.trust import TrustRoot as TrustRoot

# The module of each name. A name is imported at its first use, so that one command does not load everything.
_PLACES: Final = {
    "ANY_CLUSTER": "attestation.tickets.protocol",
    "AppraisalError": "attestation.errors",
    "AppraisalPolicy": "attestation.policy.rules",
    "AttestationError": "attestation.errors",
    "AttestationResult": "attestation.policy.result",
    "Cluster": "attestation.tickets.protocol",
    "Endorsements": "attestation.collateral.endorsements",
    "EndorsementsUnavailableError": "attestation.errors",
    "ExpectedClaims": "attestation.tickets.protocol",
    "Expiration": "attestation.tickets.protocol",
    "INTEL_SGX_ROOT": "attestation.x509.trust",
    "JwtRules": "attestation.tickets.jwt",
    "JwtValidator": "attestation.tickets.jwt",
    "MalformedError": "attestation.errors",
    "Quote": "attestation.quote.codec",
    "REPORT_DATA_UNCHECKED": "attestation.policy.appraise",
    "TdxValidator": "attestation.tickets.tdx",
    "TicketIssuer": "attestation.tickets.protocol",
    "TicketRejectedError": "attestation.tickets.protocol",
    "TicketValidator": "attestation.tickets.protocol",
    "TrustRoot": "attestation.x509.trust",
    "UndecidedError": "attestation.errors",
    "VerificationError": "attestation.errors",
    "VerificationReport": "attestation.verdict",
    "VerifiedEndorsements": "attestation.collateral.endorsements",
    "VerifiedQuote": "attestation.verifier",
    "appraise": "attestation.policy.appraise",
    "default_policy": "attestation.policy.rules",
    "load_keys_untrusted": "attestation.tickets.jwt",
    "load_policy_untrusted": "attestation.policy.toml",
    "parse_quote_untrusted": "attestation.quote.codec",
    "verify_endorsements": "attestation.collateral.endorsements",
    "verify_quote": "attestation.verifier",
    "verify_report": "attestation.verdict",
}
__all__ = [
    "ANY_CLUSTER",
    "INTEL_SGX_ROOT",
    "REPORT_DATA_UNCHECKED",
    "AppraisalError",
    "AppraisalPolicy",
    "AttestationError",
    "AttestationResult",
    "Cluster",
    "Endorsements",
    "EndorsementsUnavailableError",
    "ExpectedClaims",
    "Expiration",
    "JwtRules",
    "JwtValidator",
    "MalformedError",
    "Quote",
    "TdxValidator",
    "TicketIssuer",
    "TicketRejectedError",
    "TicketValidator",
    "TrustRoot",
    "UndecidedError",
    "VerificationError",
    "VerificationReport",
    "VerifiedEndorsements",
    "VerifiedQuote",
    "appraise",
    "default_policy",
    "load_keys_untrusted",
    "load_policy_untrusted",
    "parse_quote_untrusted",
    "verify_endorsements",
    "verify_quote",
    "verify_report",
]


def __getattr__(name: str) -> Any:
    """Import a name of the interface at its first use (PEP 562)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
