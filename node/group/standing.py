"""Which cluster each peer is in, by its own word.

Bonds keep the order of what is said, and a member tells every peer which cluster it is in before it says
anything as a member of it. So whoever names another one than its last Presence lies in one of the two. The
core can't know that: it takes messages in any order. Nor can anybody with ``trust_disk``, where a Presence
waits for the disk and what binds nobody overtakes it.
"""

from typing import Final, cast, get_args

from node.raft.messages import ClusterMessage, FoundingMessage, Message, Presence
from node.raft.types import Incarnation

_FOUNDING: Final = frozenset(get_args(FoundingMessage))


class Standing:
    """What each bonded peer last said of itself. ``ordered``: nothing overtakes a Presence."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._presences: dict[Incarnation, Presence] = {}

    def forget(self, peer: Incarnation) -> None:
        """Its bond ended."""
        self._presences.pop(peer, None)

    def allows(self, peer: Incarnation, message: Message) -> bool:
        """Return whether ``peer`` may say this, and remember it if it is a Presence.

        A bulk transfer within a cluster that ended may come after the Presence that says so.
        """
        known = self._presences.get(peer)
        if type(message) in _FOUNDING:
            if self._ordered and type(message) is Presence:
                self._presences[peer] = message
            return True
        cluster = cast("ClusterMessage", message).cluster
        return known is None or cluster == known.cluster or cluster in known.dissolved
