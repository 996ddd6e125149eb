"""The follower's side of replication (3.5; thesis 3.5)."""

from node.peers import Incarnation
from node.raft.install import Install
from node.raft.messages import Append, AppendReply, Verdict
from node.raft.pull import AVAIL_ON_COMMIT_MS
from node.raft.types import FOLLOWER, LEADER, Cursor


class Follower(Install):
    """Appends, and the leader that we follow."""

    def _on_append(self, sender: Incarnation, m: Append) -> None:
        tenure = self.tenure
        if self._is_observer(sender):
            self._violation(sender, "observer-leads")
            return
        if m.term < tenure.term:
            self._reply_stale(sender, m)
            return
        followed = tenure.leader == sender
        rivalled = tenure.role is LEADER or (tenure.leader is not None and not followed)
        if m.term == tenure.term and rivalled:
            # Election safety excludes this: the sender is not the leader of this term.
            self._violation(sender, "second-leader-in-term")
            return
        if m.entries and self._wrong_genesis(m.entries):
            self._violation(sender, "wrong-genesis")
            return
        if m.term > tenure.term or not followed:
            tenure.leader_commit = 0
            tenure.last_seq = 0
        if m.term > tenure.term or not followed or tenure.role is not FOLLOWER:
            self._become_follower(m.term, sender)
            self._end_old_pull()
        self._note_leader(m)
        if not self._agrees(m.prev):
            tenure.in_step = False
            self._start_pull(m)
            if tenure.pull is not None:
                self._reply_append(Verdict.ABSTAIN)
            return
        self._take(m.prev, m.entries)
        self._commit_verified()
        if tenure.pull is None:
            tenure.in_step = True
        else:
            self._drain_pull(tenure.pull)
        self._reply_append(Verdict.ACK)

    def _note_leader(self, m: Append) -> None:
        tenure = self.tenure
        tenure.leader_contact_ms = self.now
        self._bind()
        self.election_due = self.now + self.election_wait
        if m.seq > tenure.last_seq:
            tenure.last_seq = m.seq
            self._await_commit(m.commit, m.term, self.now)
        if m.commit > tenure.leader_commit:
            tenure.leader_commit = m.commit
            pull = tenure.pull
            if pull is not None and self.now - pull.asked_ms >= AVAIL_ON_COMMIT_MS:
                self._ask_availability(pull)

    def _reply_stale(self, sender: Incarnation, m: Append) -> None:
        """Report the newer term to a deposed leader: otherwise it would lead for another election timeout."""
        last = self.log.last()
        have = Cursor(last.term, last.index)
        self._send(sender, AppendReply(self._cluster, self.tenure.term, Verdict.STALE, 0, m.seq, have))
