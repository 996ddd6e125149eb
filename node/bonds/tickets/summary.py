"""What a peer presented, for the audit log."""

import hashlib
from collections.abc import Mapping
from typing import Any

from attestation.errors import MalformedError
from attestation.quote.codec import TDReport, parse_quote_untrusted
from attestation.tickets.tdx import TICKET_CLASS, parse_ticket_untrusted, presented_value
from node.bonds.tickets.admission import Admission


def describe_admission(admission: Admission) -> dict[str, Any]:
    """Return size and digest of each admitted ticket, and what the validator read in it."""
    return {
        name: _size_and_digest(ticket) | admission.presented[name]
        for name, ticket in admission.tickets.items()
    }


def describe_tickets_untrusted(tickets: Mapping[str, bytes]) -> dict[str, Any]:
    """Return size and digest of each ticket, and the measurements in a TDX ticket's quote.

    Unverified: a refused quote may claim anything. The log keeps the claims because an operator needs them to
    find the node that runs the wrong image.
    """
    return {
        name: _size_and_digest(ticket) | (_tdx_untrusted(ticket) if name == TICKET_CLASS else {})
        for name, ticket in tickets.items()
    }


def _size_and_digest(ticket: bytes) -> dict[str, Any]:
    return {"bytes": len(ticket), "sha256": hashlib.sha256(ticket).hexdigest()}


def _tdx_untrusted(data: bytes) -> dict[str, Any]:
    try:
        ticket = parse_ticket_untrusted(data)
        body = parse_quote_untrusted(ticket.quote).body
    except MalformedError as exc:
        return {"malformed": exc.reason}
    if not isinstance(body, TDReport):
        return {"malformed": "not-a-td-quote"}
    return presented_value(ticket.claims, body)
