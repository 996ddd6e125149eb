"""Elections (3.4): pre-vote, vote, stickiness, and standing at once when the leader's bond breaks.

Rule K (3.6): a leader may commit a Cfg and die before it announces that. Then the voters of the new Cfg must
not wait for a quorum of the old one, which may be dead. So every answer to a vote request names up to where
the responder verified its log, and a candidate counts what the dead leader would have counted.

The rules that come from Raft are in the thesis 3.4, 3.6.1 (up to date), 4.2.3 (stickiness) and 9.6
(pre-vote).
"""

from typing import Final

from node.peers import Incarnation, Preference
from node.raft.forwarding import Forwarding
from node.raft.messages import TimeoutNow, Vote, VoteReply, VoteRequest
from node.raft.quorum import Config, is_quorum_of_all
from node.raft.state import CATCHING_UP_PATIENCE
from node.raft.types import Cursor, Position, Role

# Members that lose the leader at the same moment stand one after another, so that votes do not split.
STAGGER_MS: Final = 25
# From this feature level on votes carry what was verified, and a lease ends with its Cfg: rule K needs both.
CLAIMS_LEVEL: Final = 2


class Election(Forwarding):
    """Elections: voting, standing, and winning a term."""

    # ---- standing -----------------------------------------------------------
    def _may_stand(self) -> bool:
        """Return whether we are a voter, no Observer, and not catching up while others could lead.

        If our bond with the leader broke, all may be catching up. Then the pre-vote asks whether the leader
        lives: a peer that follows it refuses us, and so does one that holds more of its log.
        """
        tenure = self.tenure
        if not tenure.is_voter or self.preference is Preference.OBSERVER:
            return False
        if tenure.pull is None or tenure.leader_contact_ms is None or tenure.term_leader not in self.peers:
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
        self._forget_claims()
        self._broadcast(self._request(tenure.term + 1, pre=True, transfer=False))
        self._count_grants()
        self._count_claims()

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
        self._count_claims()

    def _count_own_vote(self) -> None:
        """Count our own vote once it is as durable as the vote of a peer must be."""
        tenure = self.tenure
        if tenure.role is Role.CANDIDATE and self.persisted >= tenure.own_vote_serial:
            tenure.grants.add(self.me)
            self._count_grants()

    def _election_won(self) -> bool:
        return bool(self.tenure.active) and is_quorum_of_all(self._electing_configs(), self.tenure.grants)

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
        verified = self._claim() if self._counts_claims() else None
        self._send(to, VoteReply(self._cluster, term, m.pre, vote, tenure.leader, commit, verified))

    # ---- counting answers ---------------------------------------------------
    def _on_vote_reply(self, sender: Incarnation, m: VoteReply) -> None:
        tenure = self.tenure
        if m.commit.index > tenure.commit and tenure.leadership is None:
            self._learn_commit(m.commit)
        if m.verified is not None and self._is_standing():
            tenure.claims[sender] = m.verified
            self._count_claims()
        if m.vote is Vote.GRANTED:
            asking = Role.PRE_CANDIDATE if m.pre else Role.CANDIDATE
            if tenure.role is asking and self._is_of_this_election(m):
                tenure.grants.add(sender)
                self._count_grants()
        elif m.vote is Vote.DENIED and m.term > tenure.term:
            # Without this two voters can refuse each other's pre-votes without end (3.13).
            standing = self._is_standing()
            self._become_follower(m.term, None)
            if standing:
                self.election_due = self.now + 1 + self.randrange(self.settings.heartbeat_ms)
                self._pull_from_refuser(sender, m)
        elif m.vote is Vote.DENIED and m.term == tenure.term and self._is_standing():
            self._pull_from_refuser(sender, m)

    def _pull_from_refuser(self, sender: Incarnation, m: VoteReply) -> None:
        """Fetch the committed entries that we lack from a peer that refused us, maybe for lack of them.

        In a partial partition that peer may be unable to lead itself.
        """
        self._pull_committed(sender, m.commit)

    def _is_standing(self) -> bool:
        return self.tenure.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)

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
        if self._is_standing():
            if tenure.is_voter:
                self._count_grants()
            else:
                self._become_follower(tenure.term, None)

    # ---- what was committed and not announced (rule K) ------------------------
    def _claim(self) -> Cursor:
        """Return up to where our log is proven equal to that of a term's leader, and which term's."""
        tenure = self.tenure
        if tenure.leadership is not None:
            return Cursor(tenure.term, self.log.last().index)
        if tenure.verified_leader is None:
            return Cursor(0, 0)  # only committed entries, pulled before any leader of the term was known
        return Cursor(tenure.verified_term, min(tenure.verified_index, self.log.last().index))

    def _counts_claims(self) -> bool:
        """With trust_disk a leader's copy counts when its disk has it, which only that leader knows."""
        return not self.settings.trust_disk and self._level() >= CLAIMS_LEVEL

    def _electing_configs(self) -> tuple[Config, ...]:
        """Return the Cfgs whose quorums elect: the last one known to be committed, and every later one."""
        tenure = self.tenure
        if tenure.settled <= tenure.commit:
            return tenure.active
        settled = [config for index, config in tenure.configs if index <= tenure.settled]
        return (*settled[-1:], *(config for index, config in tenure.configs if index > tenure.settled))

    def _count_claims(self) -> None:
        """Count an entry as committed if its term's leader and those who verified it then are quorums (I4).

        Nothing but this election may know that. Until we have won, that leader may live and answer strong
        reads without the entry, so our own commit index and what we apply must not move.
        """
        if not self._counts_claims():
            return
        tenure = self.tenure
        before = tenure.settled
        while index := self._next_settled():
            tenure.settled = index
        if tenure.settled == before:
            return
        if self._elects_itself():
            self._count_grants()
        else:
            self._become_follower(tenure.term, None)

    def _next_settled(self) -> int:
        """Return the largest index that the claims show to be committed; 0 if they show nothing new."""
        tenure = self.tenure
        leader, mine = tenure.verified_leader, self._claim()
        if leader is None:
            return 0
        claims = {self.me: mine, **tenure.claims}
        marks = {c.index for c in claims.values() if c.term == mine.term and c.index <= mine.index}
        for index in sorted(marks, reverse=True):
            if index <= max(tenure.commit, tenure.settled) or self.log.get(index).term != mine.term:
                break
            holders = {peer for peer, c in claims.items() if c.term == mine.term and c.index >= index}
            holders.add(leader)
            if is_quorum_of_all(self._electing_configs(), holders) and self._has_enough_copies(holders):
                return index
        return 0

    def _elects_itself(self) -> bool:
        """Return whether we have a vote: a member that learns of its demotion neither stands nor counts."""
        return any(self.me in config.voters for config in self._electing_configs())

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
