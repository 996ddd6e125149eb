"""How a connection ends, and what is known of its peer by then."""

from dataclasses import dataclass
from enum import Enum

from node.bonds.wire.refusals import Refusal
from node.peers import BondLoss


class Phase(Enum):
    """How far a connection has come; the audit log names it."""

    TLS = "tls"
    HANDSHAKE = "handshake"
    BOND = "bond"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPeer:
    """What is known of the peer of a connection, for the audit log.

    Attributes:
        peer_id: of the key that it proved in TLS; None before.
        name: from its Hello; None before.
        address: remote socket address.
        role: which side of the connection it is: ``initiator`` or ``responder``.
        group_id: of the group that both sides named; None before.
        proved: it has the group key.
        tickets: the newest that it has shown, whether judged or not.
    """

    peer_id: bytes | None
    name: str | None
    address: str
    role: str
    group_id: bytes | None
    proved: bool
    tickets: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a connection ended.

    Attributes:
        phase: how far the connection had come.
        by_peer: the peer caused the end, not this node.
        broke: neither side sent a reason; ``refusal`` only names what was observed.
        loss: for consensus; meaningful if the connection had reached ``BOND``.
    """

    phase: Phase
    peer: KnownPeer
    refusal: Refusal
    by_peer: bool
    broke: bool
    loss: BondLoss
