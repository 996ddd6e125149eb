"""What a peer presented, for the audit log. It has not been judged when this module reads it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from attestation.errors import MalformedError
from attestation.quote.codec import TDReport, parse_quote_untrusted
from attestation.tickets.tdx import TICKET_CLASS, cluster_value, parse_ticket_untrusted


def describe_tickets(tickets: Mapping[str, bytes]) -> dict[str, Any]:
    """Return size and digest of each ticket, and the measurements in a TDX ticket's quote.

    Unverified: a refused quote may claim anything. The log keeps the claims because an operator needs them to
    find the node that runs the wrong image.
    """
    described: dict[str, Any] = {}
    for name, ticket in tickets.items():
        described[name] = {"bytes": len(ticket), "sha256": hashlib.sha256(ticket).hexdigest()}
        if name == TICKET_CLASS:
            described[name] |= _tdx_untrusted(ticket)
    return described


def _tdx_untrusted(data: bytes) -> dict[str, Any]:
    try:
        ticket = parse_ticket_untrusted(data)
        body = parse_quote_untrusted(ticket.quote).body
    except MalformedError as exc:
        return {"malformed": exc.reason}
    if not isinstance(body, TDReport):
        return {"malformed": "not-a-td-quote"}
    claims = ticket.claims
    return {
        "measurements": {
            "mrtd": body.mrtd.hex(),
            **{f"rtmr{i}": rtmr.hex() for i, rtmr in enumerate(body.rtmrs)},
        },
        "td_attributes": body.td_attributes.to_bytes(8, "little").hex(),
        "claims": {
            "peer_id": claims.peer_id.hex(),
            "network_id": claims.network_id.hex(),
            "group_id": None if claims.group_id is None else claims.group_id.hex(),
            "cluster": cluster_value(claims.cluster),
            "quoted_at": claims.quoted_at,
            "expires_at": claims.expires_at,
        },
    }
