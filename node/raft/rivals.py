"""Two clusters of one group (3.9): detected, refused, never merged; in auto mode one may give itself up.

The side that yields does so through its own log: its leader writes DISSOLVE, and every member that applies
that entry leaves. No entry behind it is ever applied, so commands that were pending there were not executed
and are handed over again elsewhere.
"""

from node.peers import Incarnation
from node.raft.entries import EMPTY_PAYLOAD
from node.raft.events import DataDiscarded, RivalCluster, SaveEnd, SaveTruncation, SaveVote
from node.raft.founding import ClusterFounding
from node.raft.messages import DISSOLVED_MAX, Presence
from node.raft.state import HaltError
from node.raft.types import LOG_START, Bootstrap, Cursor, EntryKind, Unknown
from node.sync.freeing import attributes_of


class Rivals(ClusterFounding):
    """Meeting another cluster of the same group, and leaving one that ended."""

    initial_state: object

    def _meet_rival(self, sender: Incarnation, m: Presence) -> None:
        """Handle a rival cluster: never merge with it. One may yield, if both are in auto mode."""
        if m.cluster in self.founding_state.dissolved:
            self._send(sender, self._presence())
            return
        if m.cluster is not None and m.commit and self._is_stranded():
            self._end_tenure()
            self._enter(m.cluster)
            return
        auto = self._mode() is Bootstrap.AUTO and m.mode is Bootstrap.AUTO
        if auto and self._must_yield(m):
            self._propose_dissolution()
        elif (not auto or not self._rival_yields(m)) and sender not in self.tenure.rivals:
            self.tenure.rivals.add(sender)
            assert m.cluster is not None
            self._notice(RivalCluster(sender, m.cluster))

    def _is_stranded(self) -> bool:
        """Return whether we entered a cluster, hold no entry of it, and see no peer that does.

        That cluster may be dead.

        Leaving is safe only for a member that promised nothing there. A member with an empty log sends no
        ACK, but a founder may be asked for its vote before it has the genesis.
        """
        may_be_founder = self.founding.bootstrap is Bootstrap.EXPECT or self.settings.trust_disk
        if self.log.last().index or (may_be_founder and self.tenure.term):
            return False
        presences = [peer.presence for peer in self.peers.values() if peer.presence is not None]
        return not any(known.cluster == self.tenure.cluster and known.commit for known in presences)

    def _must_yield(self, rival: Presence) -> bool:
        """Return whether our log, committed or not, holds fewer commands than the rival has committed.

        Our commands count even if uncommitted, the rival's only if committed, so both sides can never yield
        at once.
        """
        tenure = self.tenure
        assert rival.cluster is not None
        if not rival.commit:
            return False  # it has entered that cluster and knows as little of it as we do
        if tenure.log_commands == 0:
            return rival.commands > 0 or rival.cluster < self._cluster
        if self.settings.on_rival != "discard-shorter":
            return False
        return tenure.log_commands < rival.commands or (
            tenure.log_commands == rival.commands and rival.cluster < self._cluster
        )

    def _rival_yields(self, rival: Presence) -> bool:
        """Return whether waiting for the rival to dissolve itself makes sense."""
        return rival.commands == 0 or self.settings.on_rival == "discard-shorter"

    def _propose_dissolution(self) -> None:
        leadership = self.tenure.leadership
        if leadership is None or self.tenure.dissolve_index or not self._may_propose_config(leadership):
            return
        self._write(EntryKind.DISSOLVE, EMPTY_PAYLOAD)

    def _dissolve(self, cursor: Cursor) -> None:
        """Leave a cluster that ended; pending commands were never executed and are handed over again.

        With trust_disk a restart must not forget that. Otherwise we would enter it again as a new member, and
        vote for a log that lacks entries that we acknowledged.
        """
        assert self.tenure.cluster is not None
        if self.tenure.replica.commands:
            if self.settings.on_rival != "discard-shorter":
                raise HaltError("dissolved-with-commands")
            self._notice(DataDiscarded(cursor))
        self.founding_state.dissolved = (*self.founding_state.dissolved, self.tenure.cluster)[-DISSOLVED_MAX:]
        self._record(SaveEnd(self.tenure.cluster))
        self._end_tenure()
        self._broadcast_presence()

    def _end_tenure(self) -> None:
        """Return to the state of a member that never was in a cluster; a dead cluster's votes do not bind."""
        self._become_follower(self.tenure.term, None)
        self.reads.ask_again()
        if self.tenure.handed_over is not None:
            self._complete(self.tenure.handed_over.token, Unknown("transfer-lost"))
        self.signing.on_left(self._founding_signatures())
        machine = self.tenure.replica.machine
        ended = [self.tenure, *attributes_of(machine)]
        if self.tenure.replica.commands:
            machine.restore(self.initial_state)
        self.tenure.snaps.keeper.forget_unproven()
        self.log.restart(LOG_START, 0)
        self._record(SaveTruncation(0))
        self._record(SaveVote(0, None))
        self.signing.record_again()
        self.tenure = self._new_tenure(machine)
        self.freeing.add(ended)
        self.session.renew()
        self._refresh_audience()
