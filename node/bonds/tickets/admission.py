"""The verdict on a peer's tickets: every validator of the group must accept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.tickets.protocol import ExpectedClaims, Expiration, TicketRejectedError, TicketValidator
from node.errors import LocalProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The result when all validators accept.

    Attributes:
        expires_at: the earliest expiration; None if no ticket expires.
        tickets: as presented, by ticket class.
        binding: what they are bound to. A later judgement of them needs this binding, not a newer one.
        appraisals: what was established, JSON-able, by ticket class.
        presented: what the tickets themselves claim, by ticket class.
    """

    expires_at: datetime | None
    tickets: dict[str, bytes]
    binding: bytes
    appraisals: dict[str, dict[str, Any]]
    presented: dict[str, dict[str, Any]]


def judge(
    validators: Sequence[TicketValidator],
    tickets: Mapping[str, bytes],
    peer: ExpectedClaims,
    now: datetime,
) -> Admission:
    """Return the admission of a peer that presents ``tickets``. May take milliseconds: call in a thread.

    The validators remember what the evidence teaches only when all of them have accepted. If one ticket is
    refused, the tickets must not influence any later verdict.

    Raises:
        TicketRejectedError: by the first validator that refuses; ``ticket-missing``, ``ticket-expired``.
        LocalProtocolError: ``peer`` names no binding.
    """
    binding = peer.binding
    if binding is None:
        raise LocalProtocolError("a ticket that is not bound to a connection admits no peer")
    expires_at: datetime | None = None
    accepted: dict[str, Expiration] = {}
    for validator in validators:
        ticket = tickets.get(validator.ticket_class)
        if ticket is None:
            raise TicketRejectedError(
                "ticket-missing", f"no ticket of class {validator.ticket_class} was presented"
            )
        expiration = validator.validate(ticket, peer, now)
        if expiration.at is not None:
            if expiration.at <= now:
                raise TicketRejectedError("ticket-expired", f"the ticket expired at {expiration.at}")
            expires_at = expiration.at if expires_at is None else min(expires_at, expiration.at)
        accepted[validator.ticket_class] = expiration
    for expiration in accepted.values():
        expiration.remember()
    return Admission(
        expires_at=expires_at,
        # Only tickets that were judged are kept: the peer could put anything into the others.
        tickets={name: tickets[name] for name in accepted},
        binding=binding,
        appraisals={name: expiration.appraisal for name, expiration in accepted.items()},
        presented={name: expiration.presented for name, expiration in accepted.items()},
    )
