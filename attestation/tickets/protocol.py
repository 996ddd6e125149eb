"""Tickets: the evidence that a peer shows to be admitted, and the protocol of the validators that judge it.

A validator's ``signature`` is a digest of everything that can change its verdict. The GroupId is a digest
over every validator's signature. So two groups with different trust can never bond.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol, Self

from attestation.encoding.canonical import digest
from attestation.errors import AttestationError

CLOCK_AHEAD_MAX: Final = timedelta(minutes=5)
"""How far the clock of a ticket's maker may be ahead of ours. It does not extend the ticket's life."""

CLUSTER_ID_BYTES: Final = 32
GENERATION_MAX: Final = 2**32 - 1
_CLUSTER_TEXT: Final = re.compile(r"([0-9a-fA-F]{64})(?:/([0-9]{1,10}))?")


class TicketRejectedError(AttestationError):
    """A validator does not accept this ticket. ``reason`` is the cause's own stable code."""

    @classmethod
    def of(cls, cause: AttestationError) -> Self:
        """Return the refusal with the reason and details of its cause. Raise it ``from`` the cause."""
        error = cls(cause.reason, cause.message, step=cause.step, values=cause.values)
        error.undecided = cause.undecided
        return error


def binding_of(exporter: bytes, nonce: bytes) -> bytes:
    """Return the 32-byte binding of a ticket for one connection and one verifier.

    Args:
        exporter: the TLS connection's exported keying material (RFC 8446 7.5), 32 bytes.
        nonce: the verifier's own fresh nonce, 32 bytes.
    """
    return digest("bondstone/bond-binding/v1", exporter, nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Which of a group's clusters. The same GroupId can be founded twice, for example after a total loss.

    Attributes:
        id: digest of the cluster's genesis entry, 32 bytes.
        generation: 0 for the cluster that the founders began; a recovery raises it.
    """

    id: bytes
    generation: int = 0

    def __post_init__(self) -> None:
        if len(self.id) != CLUSTER_ID_BYTES or not 0 <= self.generation <= GENERATION_MAX:
            raise ValueError(f"a cluster has an id of {CLUSTER_ID_BYTES} bytes and a generation from 0")

    def __str__(self) -> str:
        """``ID/GENERATION``: the id in lower-case hex, the generation in decimal."""
        return f"{self.id.hex()}/{self.generation}"

    @classmethod
    def from_text_untrusted(cls, text: str) -> Self:
        """Read the form that ``str`` gives; without ``/GENERATION`` the generation is 0.

        Raises:
            ValueError: the text has another form.
        """
        found = _CLUSTER_TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is not a cluster: 64 hex digits, and perhaps /GENERATION")
        return cls(id=bytes.fromhex(found[1]), generation=int(found[2] or 0))


class AnyCluster(Enum):
    """The one way not to compare a ticket's cluster: the caller passes this value explicitly."""

    ANY = "any"


ANY_CLUSTER: Final = AnyCluster.ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedClaims:
    """What the verifier itself knows of the peer that presents a ticket.

    Attributes:
        peer_id: id of the key whose possession the peer proved in TLS, 32 bytes.
        network_id: our network, 32 bytes.
        group_id: the group whose bond is being formed, 32 bytes; None outside a group.
        binding: digest of the TLS exporter of this connection and our own nonce, 32 bytes. None
            only when judging a published, unbound ticket (audit), never when admitting.
        fresh: the nonce in ``binding`` was given out for this answer alone, so the ticket was made just now.
            False for a ticket that is judged again.
        cluster: the cluster that the verifier is in. A ticket that names another one is refused as a rival's;
            a ticket that names no cluster yet is not. ``ANY_CLUSTER`` if the verifier holds no entry of a
            cluster itself, or if it compares the ticket's cluster by itself.
    """

    peer_id: bytes
    network_id: bytes
    group_id: bytes | None
    binding: bytes | None
    cluster: Cluster | AnyCluster
    fresh: bool = False


def nothing_to_remember() -> None:
    """Remember nothing: this evidence contains nothing that later verdicts depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiration:
    """A validator's acceptance, and until when it holds.

    Attributes:
        at: aware UTC time after which the ticket is worth nothing; None if it does not expire.
        appraisal: what was established, JSON-able, for the audit log and the API.
        presented: what the ticket itself claims, for the record of who presented it. It is what a record of a
            refused ticket has too, so that the two can be compared.
        remember: makes the validator keep the collateral and the time from the evidence. A caller that admits
            the peer calls it, after the last validator of the group has accepted. A caller that only reads
            the verdict does not.
    """

    at: datetime | None
    appraisal: dict[str, Any]
    presented: dict[str, Any] = field(default_factory=dict)
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
        """Return until when the ticket holds. This call has no effect on later verdicts.

        Only the answer's ``remember`` keeps something of the evidence.

        Raises:
            TicketRejectedError: with a stable reason.
        """
        ...


class TicketIssuer(Protocol):
    """Makes this node's own tickets of one class."""

    @property
    def ticket_class(self) -> str: ...

    def issue(
        self,
        *,
        group_id: bytes | None,
        cluster: Cluster | None,
        binding: bytes | None,
        now: datetime,
        group_ca: bytes | None = None,
    ) -> bytes:
        """Return a fresh ticket. Blocking (a quote takes milliseconds to seconds): call in a thread.

        ``cluster`` is None until this node holds a committed entry of one. ``group_ca`` is the SHA-256 of the
        certificate of the group's authority; peers are not sent it, so it is None for a bond.
        """
        ...
