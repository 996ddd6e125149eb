"""How a connection ends, and what its peer had shown by then."""

from dataclasses import dataclass
from enum import Enum

from node.bonds.wire.refusals import Refusal
from node.peers import BondLoss


class Phase(Enum):
    TLS = "tls"
    HANDSHAKE = "handshake"
    BOND = "bond"
    LINGERING = "lingering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What the peer has shown.

    Attributes:
        proved: that it has the group key.
        tickets: the newest, whether judged or not.
    """

    peer_id: bytes | None
    name: str | None
    address: str
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
    refusal: Refusal
    by_peer: bool
    broke: bool
    loss: BondLoss
