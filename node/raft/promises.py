"""What a trust_disk member may say only when it is durable (3.4, 3.5).

A crash must not undo what others rely on: each promise waits for the records of its step, and for all before.
Without trust_disk a crash ends the incarnation and all its promises with it, and nothing waits.
"""

from collections import deque

from node.raft.events import Send
from node.raft.messages import Message, VoteRequest, is_promise
from node.raft.state import State
from node.raft.types import Incarnation


class Promises(State):
    """Holding messages back until the disk has what they rest on."""

    def _persisted(self, serial: int) -> None:
        """Everything up to ``serial`` is on the disk: what waited for it may be said."""
        self.persisted = max(self.persisted, min(serial, self.serial))
        while self.writes and self.writes[0][0] <= self.persisted:
            # A truncation lowered what later writes claim, so an old report never covers new entries.
            self.durable_index = self.writes.popleft()[1]
        while self.held and self.held[0][0] <= self.persisted:
            self.released.append(self.held.popleft()[1])

    def _hold_promises(self) -> None:
        """Keep back what this step promised until the records it rests on are durable.

        What earlier steps promised and is durable now does not wait for what this one writes besides.
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
        """Of what waits for one write, only the latest of its kind to a peer: a disk may hang for long.

        And the latest to all, whoever they were: a founder stands again and again, as peers come and go.
        """
        kind = type(send.message)
        for position in range(len(self.held) - 1, -1, -1):
            serial, other = self.held[position]
            if serial != self.serial:
                break
            same = other.to == send.to or (len(other.to) > 1 and len(send.to) > 1)
            if same and type(other.message) is kind:
                del self.held[position]
                break
        self.held.append((self.serial, send))

    def _forget_promises(self, peer: Incarnation) -> None:
        """The bond with ``peer`` broke: what it was to hear is lost with it, as if under way.

        Or who comes and goes while a disk hangs would leave more behind with every bond.
        """
        if self.held:
            self.held = deque(waiting for waiting in self.held if waiting[1].to != (peer,))

    def _is_promise(self, message: Message) -> bool:
        """Return whether ``message`` has to wait for the disk.

        A pre-vote binds nobody, but it names our cluster, and who is in none enters it. A founder that loses
        power before its genesis is durable would leave its peers in a cluster that nobody has.
        """
        return is_promise(message) or (self.durable_index == 0 and isinstance(message, VoteRequest))
