"""How much of what a peer sent may wait for the member.

A peer that has used its share up is read no further until half of it is worked off; what it says then waits
on its own side. Nobody is blamed: an honest leader can be faster than we are, too.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from node.raft.ranges import RANGES_PER_SOURCE
from node.raft.types import Incarnation

MESSAGES_MAX: Final = 2048
BYTES_MAX: Final = 8 * 1024 * 1024  # passed by less than one message
# Messages that take a turn of the loop each, for which all others wait. An honest peer has so many ranges
# under way, and asks for each of them anew a few times if we are slow.
TURNS_MAX: Final = 4 * RANGES_PER_SOURCE


class Source(Protocol):
    """Where messages come from."""

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
        """Return whether it has reached one ``part``-th of a limit."""
        return (
            self.messages * part >= MESSAGES_MAX
            or self.size * part >= BYTES_MAX
            or self.turns * part >= TURNS_MAX
        )


class Backlog:
    """Counts what waits, by peer, and has reading paused and resumed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._shares: dict[Incarnation, _Share] = {}

    def add(self, peer: Incarnation, size: int, *, turn: bool) -> None:
        """A message of ``size`` bytes waits; ``turn``: it will take a turn of its own."""
        share = self._shares.get(peer)
        if share is None:
            share = self._shares[peer] = _Share()
        share.messages += 1
        share.size += size
        share.turns += turn
        if share.reaches(1):
            share.full = True
            # Each time: the peer may have a new bond, of which nobody said so yet.
            self._source.pause_reading(peer)

    def remove(self, peer: Incarnation, size: int, *, turn: bool) -> None:
        """A message that was added waits no more."""
        share = self._shares[peer]
        share.messages -= 1
        share.size -= size
        share.turns -= turn
        if share.full and not share.reaches(2):
            share.full = False
            self._source.resume_reading(peer)
        if not share.messages:
            del self._shares[peer]
