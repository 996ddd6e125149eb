"""What a successor's genesis states: which cluster it follows, and where that one's log ended for it.

A volatile majority that lost its memory cannot come back. An operator may then let one living voter, the
*survivor*, found a new *generation* from its own state. Nothing inside the group shows a loss apart from a
partition. So a successor is made only where the group document permits it, for the exact position that the
operator repeats, and it gives way as soon as its predecessor shows that it lives.

Terms are ``generation * 2**32 + counter``. The index of a successor's genesis is that of the survivor's last
entry plus one and a jump: no index that a client saw in a suffix that was lost is ever used again.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from attestation.encoding.canonical import digest
from node.errors import RemoteProtocolError
from node.raft.types import Position

GENERATION_BITS: Final = 32
GENERATION_MAX: Final = 2**16
INDEX_JUMP: Final = 2**30
INDEX_MAX: Final = 2**62
RULE: Final = "accepted"  # the operator accepted that what no survivor holds may be lost
APPROVAL_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """The cluster before this one, and what the survivor held of it.

    Attributes:
        cluster: its id, 32 bytes.
        position: of the survivor's last entry.
        jump: by how much the index of the successor's genesis exceeds that entry's, minus one.
        approval: of the group's authority; empty for a group that has none.
    """

    cluster: bytes
    position: Position
    jump: int
    approval: bytes

    @property
    def start(self) -> Position:
        """The position that the successor's genesis follows."""
        return Position(self.position.term, self.position.index + self.jump, self.position.chain)

    @property
    def generation(self) -> int:
        """The generation of the successor."""
        return generation_of(self.position.term) + 1

    def to_value(self) -> list[Any]:
        return [self.cluster, list(self.position), self.jump, RULE, self.approval]


class Recovery(Protocol):
    """Whether this group permits a survivor to found a generation; asked before anything changes."""

    def permits(self, statement: bytes, approval: bytes) -> bool:
        """Return whether ``approval`` suffices for ``statement``, 32 bytes: see ``recovery_statement``."""
        ...


def generation_of(term: int) -> int:
    """Return the generation in which a term is."""
    return term >> GENERATION_BITS


def genesis_term(generation: int) -> int:
    """Return the term of the genesis of a generation."""
    return (generation << GENERATION_BITS) | 1


def recovery_statement(group_id: bytes, predecessor: Predecessor, survivor: bytes) -> bytes:
    """Return what the group's authority signs, 32 bytes.

    It names the group, the cluster that is lost, its generation, the survivor, and the exact position of the
    survivor's last entry.
    """
    return digest(
        "bondstone/recovery-statement/v1",
        group_id,
        predecessor.cluster,
        predecessor.generation - 1,
        survivor,
        list(predecessor.position),
    )


def predecessor_untrusted(value: Any) -> Predecessor:
    """Return the predecessor that a genesis names.

    Raises:
        RemoteProtocolError: it names none.
    """
    match value:
        case [
            bytes(cluster),
            [int(term), int(index), bytes(chain)],
            int(jump),
            "accepted",
            bytes(approval),
        ] if (
            len(cluster) == len(chain) == 32
            and 1 <= term < genesis_term(GENERATION_MAX)
            and 1 <= index <= INDEX_MAX
            and 0 <= jump <= INDEX_JUMP
            and len(approval) <= APPROVAL_BYTES_MAX
        ):
            position = Position(term, index, chain)
            return Predecessor(cluster=cluster, position=position, jump=jump, approval=approval)
        case _:
            raise RemoteProtocolError("bad-config", "the predecessor of a genesis is malformed")
