"""Elections (3.4): pre-vote, vote, stickiness, and standing at once when the leader's bond breaks.

The rules that come from Raft are in the thesis 3.4, 3.6.1 (up to date), 4.2.3 (stickiness) and 9.6
(pre-vote).
"""

from typing import Final

from node.peers import Incarnation, Preference
from node.raft.forwarding import Forwarding
from node.raft.messages import TimeoutNow, Vote, VoteReply, VoteRequest
from node.raft.state import CATCHING_UP_PATIENCE
from node.raft.types import Position, Role

# Members that lose the leader at the same moment stand one after another, so that votes do not split.
STAGGER_MS: Final = 25


class Election(Forwarding):
    """Elections: voting, standing, and winning a term."""

    # ---- standing -----------------------------------------------------------
    def _may_stand(self) -> bool:
        """Return whether we are a voter, no Observer, and not catching up while others could lead."""
        tenure = self.tenure
        if not tenure.is_voter or self.preference is Preference.OBSERVER:
            return False
        if tenure.pull is None or tenure.leader_contact_ms is None:
            return True
        patience = CATCHING_UP_PATIENCE * self.settings.election_timeout_ms
        return self.now - tenure.leader_contact_ms >= patience

    def _tick_election(self) -> None:
        tenure = self.tenure
        self._rearm_election()
        if self.now < tenure.quick_retry_until_ms:
            beat = self.settings.heartbeat_ms
            self.election_due = self.now + beat + self.randrange(beat)
        if not self._may_stand():
            self._become_follower(tenure.term, None)
        elif self._is_bound():
            # A lease promise binds our own vote like the votes that we give to others.
            self.election_due = tenure.bound_ms + self.randrange(self.settings.heartbeat_ms)
        else:
            self._pre_campaign()

    def _leader_bond_lost(self) -> None:
        """Stand at once, without an election timeout: the broken bond itself shows that the leader is gone.

        With lease reads, stand as soon as our promise has run out.
        """
        tenure = self.tenure
        tenure.in_step = False
        if tenure.role is not Role.FOLLOWER or not self._may_stand():
            return
        start = tenure.bound_ms if self._is_bound() else self.now
        tenure.quick_retry_until_ms = start + self.settings.election_timeout_ms
        rank = tenure.members.index(self.me)
        delay = rank * STAGGER_MS + self.randrange(STAGGER_MS)
        if self.preference is Preference.RELUCTANT:
            delay *= self.settings.reluctant_factor
        self.election_due = min(self.election_due, start + delay)

    def _roll(self) -> tuple[Incarnation, ...]:
        """Return who may answer with more than ABSTAIN: the log's voters, not the bonded peers (seed 33)."""
        return self.tenure.members

    def _request(self, term: int, *, pre: bool, transfer: bool) -> VoteRequest:
        return VoteRequest(self._cluster, term, pre, self.log.last(), self._roll(), transfer)

    def _pre_campaign(self) -> None:
        """Ask whether a campaign could succeed. This changes no member's state."""
        tenure = self.tenure
        self._become(Role.PRE_CANDIDATE, None)
        tenure.grants = {self.me}
        self._broadcast(self._request(tenure.term + 1, pre=True, transfer=False))
        self._count_grants()

    def _campaign(self, *, transfer: bool) -> None:
        tenure = self.tenure
        self._set_vote(tenure.term + 1, self.me)
        self._become(Role.CANDIDATE, None)
        tenure.leader_contact_ms = None
        self._rearm_election()
        tenure.grants = set()
        tenure.own_vote_serial = self.serial
        self._broadcast(self._request(tenure.term, pre=False, transfer=transfer))
        self._count_own_vote()

    def _count_own_vote(self) -> None:
        """Count our own vote once it is as durable as the vote of a peer must be."""
        tenure = self.tenure
        if tenure.role is Role.CANDIDATE and self.persisted >= tenure.own_vote_serial:
            tenure.grants.add(self.me)
            self._count_grants()

    def _election_won(self) -> bool:
        return self._have(self.tenure.grants)

    def _count_grants(self) -> None:
        if not self._election_won():
            return
        if self.tenure.role is Role.PRE_CANDIDATE:
            self._campaign(transfer=False)
        elif self.tenure.role is Role.CANDIDATE:
            self._become_leader()

    # ---- answering requests -------------------------------------------------
    def _on_vote_request(self, sender: Incarnation, m: VoteRequest) -> None:
        if self._is_observer(sender):
            self._violation(sender, "observer-stands")
        elif self.me not in m.roll or self.preference is Preference.OBSERVER:
            # From a learner, an observer or a rebooted incarnation: the answer binds nothing and counts
            # nothing.
            self._reply_vote(sender, m, Vote.ABSTAIN)
        elif m.pre:
            granted = (
                m.term > self.tenure.term
                and self._is_up_to_date(m.last)
                and (m.transfer or not self._follows_leader())
            )
            self._reply_vote(sender, m, Vote.GRANTED if granted else Vote.DENIED)
        else:
            self._on_real_vote_request(sender, m)

    def _on_real_vote_request(self, sender: Incarnation, m: VoteRequest) -> None:
        tenure = self.tenure
        if m.term < tenure.term or self._lease_binds(m):
            self._reply_vote(sender, m, Vote.DENIED)
            return
        if m.term > tenure.term:
            self._become_follower(m.term, None)
        if tenure.voted_for in (None, sender) and self._is_up_to_date(m.last):
            if tenure.role is Role.PRE_CANDIDATE:
                self._become_follower(tenure.term, None)  # it has not voted yet, not even for itself
            # A lagging VOTER grants too: its vote may complete the quorum.
            self._remember_vote(sender)
            self._rearm_election()
            self._reply_vote(sender, m, Vote.GRANTED)
        else:
            self._reply_vote(sender, m, Vote.DENIED)

    def _lease_binds(self, m: VoteRequest) -> bool:
        """With lease reads, a member that follows a leader elects no other leader in any term (3.7)."""
        return self.settings.lease_reads and not m.transfer and self._follows_leader()

    def _remember_vote(self, candidate: Incarnation) -> None:
        if self.tenure.voted_for is None:
            self._set_vote(self.tenure.term, candidate)

    def _is_up_to_date(self, last: Position) -> bool:
        mine = self.log.last()
        return (last.term, last.index) >= (mine.term, mine.index)

    def _reply_vote(self, to: Incarnation, m: VoteRequest, vote: Vote) -> None:
        tenure = self.tenure
        term = m.term if vote is Vote.GRANTED else tenure.term
        commit = self.log.position(tenure.commit)
        self._send(to, VoteReply(self._cluster, term, m.pre, vote, tenure.leader, commit))

    # ---- counting answers ---------------------------------------------------
    def _on_vote_reply(self, sender: Incarnation, m: VoteReply) -> None:
        tenure = self.tenure
        if m.commit.index > tenure.commit and tenure.leadership is None:
            self._learn_commit(m.commit)
        if m.vote is Vote.GRANTED:
            asking = Role.PRE_CANDIDATE if m.pre else Role.CANDIDATE
            if tenure.role is asking and self._is_of_this_election(m):
                tenure.grants.add(sender)
                self._count_grants()
        elif m.vote is Vote.DENIED and m.term > tenure.term:
            # Without this two voters can refuse each other's pre-votes without end (3.13).
            standing = tenure.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)
            self._become_follower(m.term, None)
            if standing:
                self.election_due = self.now + 1 + self.randrange(self.settings.heartbeat_ms)

    def _is_of_this_election(self, m: VoteReply) -> bool:
        """A grant is for one term: a late one, when we stand again, would count as a second vote there."""
        return m.term == (self.tenure.term + 1 if m.pre else self.tenure.term)

    def _learn_commit(self, commit: Position) -> None:
        """Commit what a peer knows to be committed, if our log holds it.

        A demoted voter may hold more of its dead leader's log than we do, and refuse us. It cannot stand
        itself. If it knows that its demotion was committed, then we know it now too, and no longer need its
        vote.
        """
        tenure = self.tenure
        if commit.index > self.log.last().index or self.log.position(commit.index) != commit:
            return
        self._commit_to(commit.index)
        if tenure.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            if tenure.is_voter:
                self._count_grants()
            else:
                self._become_follower(tenure.term, None)

    def _on_timeout_now(self, sender: Incarnation, m: TimeoutNow) -> None:
        """The leader hands over: no pre-vote, and stickiness does not apply.

        Like an Append it comes from the term's only leader. We need not have received an Append of that
        leader before: with trust_disk a voter that just restarted keeps its term, and its earlier ACKs count.
        """
        tenure = self.tenure
        if m.term != tenure.term or tenure.role is not Role.FOLLOWER:
            return
        if self._is_observer(sender) or (tenure.leader is not None and sender != tenure.leader):
            self._violation(sender, "transfer-by-non-leader")
        elif tenure.is_voter and self.preference is not Preference.OBSERVER:
            self._campaign(transfer=True)
