"""How a connection ends, and what its other side had shown of itself by then."""

from dataclasses import dataclass
from enum import Enum

from node.bonds.refusals import Refusal
from node.raft.events import BondLoss


class Phase(Enum):
    TLS = "tls"
    HANDSHAKE = "handshake"
    BOND = "bond"
    LINGERING = "lingering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What the one on the other side has shown.

    Attributes:
        proved: that it has the group key.
        tickets: the newest; judged or not.
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
        phase: how far it had come.
        by_peer: the peer's doing, not ours.
        broke: nobody said why; ``refusal`` only names what was seen.
        loss: for consensus; meaningful if it had come to ``BOND``.
    """

    phase: Phase
    refusal: Refusal
    by_peer: bool
    broke: bool
    loss: BondLoss
