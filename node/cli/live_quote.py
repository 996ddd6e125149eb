"""A live node's quote, bound to a fresh nonce and to the TLS key: what ``bondstone quote get URL`` saves."""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from attestation.errors import AppraisalError, MalformedError
from attestation.policy.result import body_value
from attestation.quote.codec import TDReport, parse_quote_untrusted
from attestation.tickets.tdx import parse_ticket_untrusted, require_claims
from node.client import LiveEvidence, fetch_evidence_unauthenticated
from node.client.verified_node import ticket_and_claims


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundQuote:
    """A quote whose REPORTDATA covers the key of the TLS connection and the nonce of this call.

    Nothing here is genuine yet: neither the quote's signature nor its certificates were verified.

    Attributes:
        quote: raw, as the TD gave it.
        event_log: as ``attestation.eventlog.verify`` reads it; None: the node serves none.
        report: the TD report in the quote.
        peer_id: of the key that the TLS connection was authenticated with, 32 bytes.
    """

    quote: bytes
    event_log: bytes | None
    report: TDReport
    peer_id: bytes

    def to_json_value(self) -> dict[str, Any]:
        body = body_value(self.report)
        return {
            "verified": False,
            "peer_id": self.peer_id.hex(),
            "report_data": self.report.report_data.hex(),
            "measurements": body["measurements"],
        }


def fetch_bound_quote(url: str) -> BoundQuote:
    """Fetch a node's evidence for a fresh nonce, and require that its quote was made for it.

    Raises:
        ConfigError: not an https URL.
        ClientError: the node cannot be reached, or its answer is not that of a node.
        MalformedError, AppraisalError: as :func:`bound_quote`.
    """
    nonce = secrets.token_bytes(32)
    return bound_quote(fetch_evidence_unauthenticated(url, nonce), nonce, url=url)


def bound_quote(live: LiveEvidence, nonce: bytes, *, url: str) -> BoundQuote:
    """Require that a node's quote covers the key of its TLS connection and the nonce.

    Raises:
        MalformedError: the certificate, the ticket or the quote cannot be read, or there is no ticket.
        AppraisalError: ``report-data-mismatch``, ``ticket-peer-mismatch``, ``ticket-network-mismatch``,
            ``ticket-group-mismatch``, ``ticket-unbound`` or ``ticket-binding-mismatch``.
    """
    raw, expected = ticket_and_claims(live, nonce, url=url)
    ticket = parse_ticket_untrusted(raw)
    report = parse_quote_untrusted(ticket.quote).body
    if not isinstance(report, TDReport):
        raise MalformedError("quote-tee-type", f"{url} has a quote of an SGX enclave, not of a TD")
    if not hmac.compare_digest(report.report_data, ticket.claims.report_data()):
        raise AppraisalError(
            "report-data-mismatch", f"the quote of {url} was not made for the claims that it sends with it"
        )
    require_claims(ticket.claims, expected)
    return BoundQuote(quote=ticket.quote, event_log=ticket.event_log, report=report, peer_id=expected.peer_id)
