"""A limit on the messages of a peer that wait for the member.

The node stops reading from a peer that has used its share up, until half of the share is worked off. The
peer's further messages then wait on its own side. This is not counted against the peer: an honest leader can
be faster than this node, too.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from node.peers import Incarnation
from node.raft.ranges import RANGES_PER_SOURCE

MESSAGES_MAX: Final = 2048
BYTES_MAX: Final = 8 * 1024 * 1024  # can be exceeded by less than one message
# Messages that each take a turn of the loop, for which all others wait. An honest peer has this many ranges
# under way, and requests each of them again a few times if this node is slow.
TURNS_MAX: Final = 4 * RANGES_PER_SOURCE


class PausableReading(Protocol):
    """The source of the messages."""

    def pause_reading(self, peer: Incarnation) -> None:
        """Take no more messages of ``peer``, from now on."""
        ...

    def resume_reading(self, peer: Incarnation) -> None: ...


@dataclass(slots=True)
class _Share:
    messages: int = 0
    size: int = 0
    turns: int = 0
    full: bool = False

    def reaches(self, part: int) -> bool:
        """Return whether the share has reached one ``part``-th of a limit."""
        return (
            self.messages * part >= MESSAGES_MAX
            or self.size * part >= BYTES_MAX
            or self.turns * part >= TURNS_MAX
        )


class Backlog:
    """Counts the waiting messages of each peer, and pauses and resumes the reading."""

    def __init__(self, source: PausableReading) -> None:
        self._source = source
        self._shares: dict[Incarnation, _Share] = {}

    @property
    def size(self) -> int:
        """How many bytes wait, of all peers."""
        return sum(share.size for share in self._shares.values())

    def add(self, peer: Incarnation, size: int, *, turn: bool) -> None:
        """Count a message of ``size`` bytes that waits; ``turn``: it will take a turn of its own."""
        share = self._shares.get(peer)
        if share is None:
            share = self._shares[peer] = _Share()
        share.messages += 1
        share.size += size
        share.turns += turn
        if share.reaches(1):
            share.full = True
            # On every message: the peer may have a new bond, which has not been reported here yet.
            self._source.pause_reading(peer)

    def remove(self, peer: Incarnation, size: int, *, turn: bool) -> None:
        """Stop counting a message that no longer waits."""
        share = self._shares[peer]
        share.messages -= 1
        share.size -= size
        share.turns -= turn
        if share.full and not share.reaches(2):
            share.full = False
            self._source.resume_reading(peer)
        if not share.messages:
            del self._shares[peer]
