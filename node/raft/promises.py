"""What a trust_disk member may send only when it is durable (3.4, 3.5).

Peers rely on promises, so a crash must not undo them: each promise waits for the records of its step and of
all earlier steps. Without trust_disk a crash ends the incarnation and all its promises, so no message waits.
"""

from collections import deque

from node.peers import Incarnation
from node.raft.events import Send
from node.raft.messages import Message, VoteRequest, is_promise
from node.raft.state import State


class Promises(State):
    """Holds messages back until the records that they rest on are on the disk."""

    def _persisted(self, serial: int) -> None:
        """Release the messages that waited for the records up to ``serial``, which are on the disk."""
        tenure = self.tenure
        self.persisted = max(self.persisted, min(serial, self.serial))
        while tenure.writes and tenure.writes[0][0] <= self.persisted:
            # A truncation lowered the last index of the writes under way, so an old report never covers new
            # entries.
            tenure.durable_index = tenure.writes.popleft()[1]
        while tenure.held and tenure.held[0][0] <= self.persisted:
            self.released.append(tenure.held.popleft()[1])

    def _hold_promises(self) -> None:
        """Hold this step's promises until the records that they rest on are durable.

        Promises of earlier steps that are durable now do not wait for the records of this step.
        """
        if not self.settings.trust_disk:
            return
        self.out.serial = self.serial
        self._batch_open = False
        at_once, self.released = self.released, []
        if self.persisted >= self.serial:
            at_once += self.out.sends
            self.out.sends = at_once
            return
        for send in self.out.sends:
            if self._is_promise(send.message):
                if send.to[0] in self.peers or len(send.to) > 1:
                    self._hold(send)
            else:
                at_once.append(send)
        self.out.sends = at_once

    def _hold(self, send: Send) -> None:
        """Hold ``send``; drop an earlier message of its kind to the same peer if both wait for one write.

        A disk may hang for long. Of broadcasts too only the latest is kept, whichever peers it was for: a
        founder stands again and again, as peers come and go.
        """
        tenure = self.tenure
        kind = type(send.message)
        for position in range(len(tenure.held) - 1, -1, -1):
            serial, other = tenure.held[position]
            if serial != self.serial:
                break
            same = other.to == send.to or (len(other.to) > 1 and len(send.to) > 1)
            if same and type(other.message) is kind:
                del tenure.held[position]
                break
        tenure.held.append((self.serial, send))

    def _forget_promises(self, peer: Incarnation) -> None:
        """Drop what waits for ``peer``: its bond broke, and the messages are lost as if under way.

        Otherwise a peer that comes and goes while a disk hangs would leave more messages behind with every
        bond.
        """
        tenure = self.tenure
        if tenure.held:
            tenure.held = deque(waiting for waiting in tenure.held if waiting[1].to != (peer,))

    def _is_promise(self, message: Message) -> bool:
        """Return whether ``message`` has to wait for the disk.

        A pre-vote binds no member, but it names our cluster, and a peer outside any cluster enters it. A
        founder that loses power before its genesis is durable would leave its peers in a cluster that no
        member holds.
        """
        return is_promise(message) or (self.tenure.durable_index == 0 and isinstance(message, VoteRequest))
