"""A live node's quote, bound to a fresh nonce and to the TLS key: what ``bondstone quote get URL`` saves."""

import base64
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import AppraisalError, MalformedError
from attestation.policy.result import body_value
from attestation.quote.codec import TDReport, parse_quote_untrusted
from attestation.tickets.ids import peer_id_of_spki
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims
from attestation.tickets.tdx import TICKET_CLASS, parse_ticket_untrusted, require_claims
from node.api.evidence import binding_of_nonce
from node.client import LiveEvidence, fetch_evidence_unauthenticated


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
    return bound_quote(fetch_evidence_unauthenticated(url, nonce), nonce)


def bound_quote(live: LiveEvidence, nonce: bytes) -> BoundQuote:
    """Require that a node's quote covers the key of its TLS connection and the nonce.

    Raises:
        MalformedError: the certificate, the ticket or the quote cannot be read, or there is no ticket.
        AppraisalError: ``report-data-mismatch``, ``ticket-peer-mismatch``, ``ticket-network-mismatch``,
            ``ticket-group-mismatch``, ``ticket-unbound`` or ``ticket-binding-mismatch``.
    """
    document = live.document
    peer_id = _peer_id(live.certificate_der)
    ticket = parse_ticket_untrusted(_ticket(live))
    report = parse_quote_untrusted(ticket.quote).body
    if not isinstance(report, TDReport):
        raise MalformedError("quote-tee-type", "the node's quote is one of an SGX enclave, not of a TD")
    if not hmac.compare_digest(report.report_data, ticket.claims.report_data()):
        raise AppraisalError(
            "report-data-mismatch", "the node's quote was not made for the claims that the node sends with it"
        )
    require_claims(
        ticket.claims,
        ExpectedClaims(
            peer_id=peer_id,
            network_id=bytes.fromhex(document.network_id),
            group_id=None if document.group_id is None else bytes.fromhex(document.group_id),
            binding=binding_of_nonce(nonce),
            cluster=ANY_CLUSTER,
        ),
    )
    return BoundQuote(quote=ticket.quote, event_log=ticket.event_log, report=report, peer_id=peer_id)


def _peer_id(certificate_der: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate_der).public_key()
        return peer_id_of_spki(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise MalformedError("certificate-malformed", "the node's TLS certificate cannot be read") from exc


def _ticket(live: LiveEvidence) -> bytes:
    text = live.document.tickets.get(TICKET_CLASS)
    if text is None:
        raise MalformedError("ticket-missing", f"the node shows no evidence of class {TICKET_CLASS}")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:  # no base64, or no ASCII
        raise MalformedError("ticket-malformed", "the node sent a ticket that is not base64") from exc
