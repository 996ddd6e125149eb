"""What bonds and consensus both need to know of a peer: the module below the two of them."""

from enum import Enum

from msgspec import Struct


class Incarnation(Struct, frozen=True, order=True, cache_hash=True):
    """One life of one node: the Raft voter (rule R1).

    Attributes:
        name: the operator's stable label.
        id: 32-byte peer id: digest of the SPKI of the key born in TD memory at this start.
    """

    name: str
    id: bytes

    def __str__(self) -> str:
        return f"{self.name}/{self.id.hex()[:8]}"


class Preference(Enum):
    """How much a node wants to lead. Local: not in the GroupId, but announced to peers."""

    NORMAL = "normal"
    RELUCTANT = "reluctant"
    OBSERVER = "observer"


class BondLoss(Enum):
    """Why a bond ended."""

    LOST = "lost"  # the connection broke, or nothing arrived on it
    DEPARTED = "departed"  # the peer announced that it leaves
    EXPIRED = "expired"  # its ticket expired, or a policy or new collateral revoked it
