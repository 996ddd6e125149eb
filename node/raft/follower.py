"""The follower's side of replication (3.5; thesis 3.5)."""

from node.peers import Incarnation
from node.raft.messages import Append, AppendReply, Verdict
from node.raft.pull import AVAIL_ON_COMMIT_MS, Pull
from node.raft.types import FOLLOWER, LEADER, Cursor


class Follower(Pull):
    """Appends, and the leader that we follow."""

    def _on_append(self, sender: Incarnation, m: Append) -> None:
        if self._is_observer(sender):
            self._violation(sender, "observer-leads")
            return
        if m.term < self.term:
            self._reply_stale(sender, m)
            return
        followed = self.leader == sender
        rivalled = self.role is LEADER or (self.leader is not None and not followed)
        if m.term == self.term and rivalled:
            # Election safety excludes this: the sender is not the leader of this term.
            self._violation(sender, "second-leader-in-term")
            return
        if m.entries and self._wrong_genesis(m.entries):
            self._violation(sender, "wrong-genesis")
            return
        if m.term > self.term or not followed:
            self.leader_commit = 0
            self.last_seq = 0
        if m.term > self.term or not followed or self.role is not FOLLOWER:
            self._become_follower(m.term, sender)
            self._end_old_pull()
        self._note_leader(m)
        if not self._agrees(m.prev):
            self.in_step = False
            self._start_pull(m)
            if self.pull is not None:
                self._reply_append(Verdict.ABSTAIN)
            return
        self._take(m.prev, m.entries)
        self._commit_verified()
        if self.pull is None:
            self.in_step = True
        else:
            self._drain_pull(self.pull)
        self._reply_append(Verdict.ACK)

    def _note_leader(self, m: Append) -> None:
        self.leader_contact_ms = self.now
        self._bind()
        self.election_due = self.now + self.election_wait
        if m.seq > self.last_seq:
            self.last_seq = m.seq
            self._await_commit(m.commit, m.term, self.now)
        if m.commit > self.leader_commit:
            self.leader_commit = m.commit
            pull = self.pull
            if pull is not None and self.now - pull.asked_ms >= AVAIL_ON_COMMIT_MS:
                self._ask_availability(pull)

    def _reply_stale(self, sender: Incarnation, m: Append) -> None:
        """Report the newer term to a deposed leader: otherwise it would lead for another election timeout."""
        last = self.log.last()
        have = Cursor(last.term, last.index)
        self._send(sender, AppendReply(self._cluster, self.term, Verdict.STALE, 0, m.seq, have))
