"""Tickets: what a peer shows to be admitted, and the protocol of those who judge it.

A validator's ``signature`` folds in everything that can change its verdict; the group folds every
validator's signature into its GroupId. So two groups with different trust can never bond.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, Self

from attestation.canonical import digest
from attestation.errors import AttestationError

CLOCK_AHEAD_MAX: Final = timedelta(minutes=5)
"""How far the clock of whoever made a ticket may be ahead of ours. No ticket lives longer for it."""


class TicketRejectedError(AttestationError):
    """A validator does not accept this ticket. ``reason`` is the cause's own stable code."""

    @classmethod
    def of(cls, cause: AttestationError) -> Self:
        """Return the refusal that keeps everything its cause says. Raise it ``from`` the cause."""
        return cls(cause.reason, cause.message, step=cause.step, values=cause.values)


def binding_of(exporter: bytes, nonce: bytes) -> bytes:
    """Return the 32-byte binding of a ticket for one connection and one verifier.

    Args:
        exporter: the TLS connection's exported keying material (RFC 8446 7.5), 32 bytes.
        nonce: the verifier's own fresh nonce, 32 bytes.
    """
    return digest("bondstone/bond-binding/v1", exporter, nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedClaims:
    """What the verifier itself knows of the peer that presents a ticket.

    Attributes:
        peer_id: id of the key that the peer proved to hold in TLS, 32 bytes.
        network_id: our network, 32 bytes.
        group_id: the group whose bond is being formed, 32 bytes; None outside a group.
        binding: digest of the TLS exporter of this very connection and our own nonce, 32 bytes. None
            only when judging a published, unbound ticket (audit), never when admitting.
        fresh: the nonce in ``binding`` was given out for this very answer, so the ticket was made just now.
            Not so for a ticket that is judged again.
    """

    peer_id: bytes
    network_id: bytes
    group_id: bytes | None
    binding: bytes | None
    fresh: bool = False


def nothing_to_remember() -> None:
    """Remember nothing: this evidence teaches its judge nothing that later verdicts depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiration:
    """A validator's yes, and until when it holds.

    Attributes:
        at: aware UTC time after which the ticket is worth nothing; None if it does not expire.
        appraisal: what was established, JSON-able, for the audit log and the API.
        remember: has the validator keep what the evidence teaches it (collateral, the time). Whoever asks
            all validators of a group calls it, after the last one has said yes; who only looks does not.
    """

    at: datetime | None
    appraisal: dict[str, Any]
    remember: Callable[[], None] = field(default=nothing_to_remember, compare=False, repr=False)


class TicketValidator(Protocol):
    """Judges one class of tickets."""

    @property
    def ticket_class(self) -> str:
        """Name under which a peer presents a ticket for this validator, such as ``tdx``."""
        ...

    @property
    def signature(self) -> bytes:
        """32-byte digest of everything that can change a verdict."""
        ...

    @property
    def mock(self) -> bool:
        """True if this validator accepts anything that is not rooted in real hardware or keys."""
        ...

    def validate(self, ticket: bytes, peer: ExpectedClaims, now: datetime) -> Expiration:
        """Return until when the ticket holds. No later verdict depends on its having been asked.

        What the evidence teaches is kept by the answer's ``remember``, and by nothing else.

        Raises:
            TicketRejectedError: with a stable reason.
        """
        ...


class TicketIssuer(Protocol):
    """Makes this node's own tickets of one class."""

    @property
    def ticket_class(self) -> str: ...

    def issue(self, *, group_id: bytes | None, binding: bytes | None, now: datetime) -> bytes:
        """Return a fresh ticket. Blocking (a quote takes milliseconds to seconds): call in a thread."""
        ...
