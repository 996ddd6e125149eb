"""Which cluster each peer is in, according to its own Presence messages.

Bonds keep the order of messages, and a member sends every peer a Presence that names its cluster before it
sends any other message as a member of it. So a peer that names another cluster than its last Presence did
lies in one of the two messages. The core cannot detect that, because it takes messages in any order. With
``trust_disk`` it cannot be detected at all: there a Presence waits for the disk, and messages that commit the
member to nothing overtake it.
"""

from typing import Final, cast, get_args

from node.peers import Incarnation
from node.raft.messages import ClusterMessage, FoundingMessage, Message, Presence

_FOUNDING: Final = frozenset(get_args(FoundingMessage))


class ClusterClaims:
    """The last Presence of each bonded peer. ``ordered``: no message overtakes a Presence."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._presences: dict[Incarnation, Presence] = {}

    def forget(self, peer: Incarnation) -> None:
        """Forget ``peer``, because its bond ended."""
        self._presences.pop(peer, None)

    def allows(self, peer: Incarnation, message: Message) -> bool:
        """Return whether ``peer`` may send this message, and remember it if it is a Presence.

        Messages of a bulk transfer within a cluster that ended may arrive after the Presence that reports the
        end.
        """
        known = self._presences.get(peer)
        if type(message) in _FOUNDING:
            if self._ordered and type(message) is Presence:
                self._presences[peer] = message
            return True
        cluster = cast("ClusterMessage", message).cluster
        return known is None or cluster == known.cluster or cluster in known.dissolved
