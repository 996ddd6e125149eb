"""The leader's side of replication (3.5; thesis 3.5, 3.6.2, 3.10) and check-quorum (3.7; thesis 6.2).

The leader broadcasts the same Append to every peer. Per peer it tracks the latest verified match, the latest
echoed seq, and when the peer last answered. It never decides what to send to which peer, never retries for a
follower, never streams a backlog.
"""

from typing import Final

from node.peers import Incarnation, Preference
from node.raft.entries import EMPTY_PAYLOAD, is_open
from node.raft.follower import Follower
from node.raft.messages import ACK, STALE, Append, AppendReply, Proposal, TimeoutNow
from node.raft.tenure import Leadership, Mark, Transfer
from node.raft.types import (
    COMMANDS,
    LEADER,
    NO_ROOM,
    Cursor,
    Entry,
    EntryKind,
    NotExecuted,
    Ok,
    Unknown,
)

# The clocks of two machines may drift apart by this share of an election timeout before a lease is wrong.
LEASE_DRIFT_PERCENT: Final = 10
# The resolution at which a leader knows how current its state is.
MARK_MS: Final = 10


class Leader(Follower):
    """Write, broadcast, count, commit."""

    # ---- taking office ------------------------------------------------------
    def _become_leader(self) -> None:
        tenure = self.tenure
        self._commit_to(tenure.settled)
        self._become(LEADER, self.me)
        tenure.pull = None
        leadership = tenure.leadership = Leadership(
            term=tenure.term,
            noop_index=self.log.last().index + 1,
            since_ms=self.now,
            heartbeat_due=self.now,
            mark_due=self.now,
            census_due=self.now + self.settings.heartbeat_ms,
            # A new leader has received no answer yet: check-quorum must not depose it (3.13).
            answered_ms=dict.fromkeys(tenure.members, self.now),
        )
        leadership.sent_index = self.log.last().index
        leadership.announced = tenure.commit
        self._open_term()

    def _open_term(self) -> None:
        """Write a no-op: entries of earlier terms are committed only below one of this term (figure 8)."""
        self._write(EntryKind.NOOP, EMPTY_PAYLOAD)

    # ---- writing ------------------------------------------------------------
    def _refusal(self, leadership: Leadership) -> str:
        """Return why no command may be written now; empty if one may."""
        if leadership.transfer is not None:
            return "transferring"
        if self.tenure.dissolve_index:
            return "dissolving"
        if self.log.last().index - self.tenure.commit >= self.settings.pending_max:
            return "overloaded"
        return ""

    def _propose(self, session: bytes, proposal: Proposal) -> Cursor | None:
        """Write a proposal of ``session`` unless it is already there; return where it is.

        None: the session is open already, or the command was refused. The log carries the refusal to its
        origin. ``NO_ROOM``: a voter has no memory for it, or had none for an earlier copy of it.
        """
        tenure = self.tenure
        leadership = tenure.leadership
        assert leadership is not None
        key = (session, proposal.seq)
        at = leadership.proposed.get(key)
        if at is not None:
            return Cursor(tenure.term, at)
        if proposal.kind in COMMANDS:
            known = tenure.replica.table.outcome_of(session, proposal.seq)
            if known is not None:
                return None if isinstance(known, NotExecuted) else known.at
            if session in tenure.refused and proposal.seq in tenure.refused[session]:
                return NO_ROOM
        elif session in tenure.replica.table and is_open(proposal.payload):
            return None
        if self.log.taken >= leadership.taken_max and not self._has_room(leadership, proposal):
            return NO_ROOM
        entry = self._write(proposal.kind, proposal.payload)
        leadership.proposed[key] = entry.index
        return Cursor(entry.term, entry.index)

    # ---- broadcasting -------------------------------------------------------
    def _flush_leader(self, leadership: Leadership, *, wants_round: bool) -> None:
        """One broadcast for everything that happened since the last one."""
        last = self.log.last().index
        if last > leadership.sent_index:
            while leadership.sent_index < last:
                first = leadership.sent_index + 1
                entries = self.log.slice(first, last, self.settings.append_bytes_max)
                self._broadcast_append(leadership, entries)
        elif wants_round or self.now >= leadership.heartbeat_due or leadership.awaited > leadership.announced:
            if (
                wants_round
                or self.now >= leadership.heartbeat_due
                or self.tenure.commit > leadership.announced
            ):
                self._broadcast_append(leadership, ())
        elif self.tenure.commit > leadership.announced:
            # Only our own callers waited for this commit, and they have their answer.
            self._broadcast_append(leadership, (), lazy=True)

    def _broadcast_append(
        self, leadership: Leadership, entries: tuple[Entry, ...], *, lazy: bool = False
    ) -> None:
        tenure = self.tenure
        leadership.seq += 1
        last = self.log.last()
        prev = last if leadership.sent_index == last.index else self.log.position(leadership.sent_index)
        leadership.sent_index += len(entries)
        leadership.announced = tenure.commit
        leadership.heartbeat_due = self.now + self.settings.heartbeat_ms
        if self.now >= leadership.mark_due:
            leadership.mark_due = self.now + MARK_MS
            leadership.marks.append(Mark(leadership.seq, tenure.commit, self.now))
        if self.settings.lease_reads:
            leadership.sent_ms.append((leadership.seq, self.now))
        message = Append(self._cluster, tenure.term, prev, entries, tenure.commit, leadership.seq)
        self._broadcast(message, lazy=lazy)

    # ---- counting -----------------------------------------------------------
    def _on_append_reply(self, sender: Incarnation, m: AppendReply) -> None:
        if m.term > self.tenure.term:
            self._become_follower(m.term, None)
            return
        leadership = self.tenure.leadership
        if leadership is None or m.verdict is STALE or not self._is_of_this_term(m):
            return
        if m.match > self.log.last().index or m.seq > leadership.seq:
            self._violation(sender, "reply-beyond-log")
            return
        leadership.answered_ms[sender] = self.now
        if m.seq > leadership.echo.get(sender, -1):
            leadership.echo[sender] = m.seq
        if m.verdict is ACK:
            if m.match > leadership.match.get(sender, -1):
                leadership.match[sender] = m.match
            if leadership.lag:
                leadership.lag.pop(sender, None)
            leadership.acked.add(sender)
        else:
            self._note_lag(leadership, sender, m.have.index)

    def _is_of_this_term(self, m: AppendReply) -> bool:
        """An ACK is about the log of its own term's leader (I3): in a later term our log differs."""
        return m.term == self.tenure.term

    def _note_lag(self, leadership: Leadership, sender: Incarnation, have: int) -> None:
        leadership.acked.discard(sender)
        leadership.streak[sender] = 0
        before = leadership.lag.get(sender)
        if before is None or have > before[0]:
            leadership.lag[sender] = (have, self.now)

    def _own_match(self) -> int:
        return self.tenure.durable_index if self.settings.trust_disk else self.log.last().index

    def _holders(self, leadership: Leadership, index: int) -> set[Incarnation]:
        """Return the members that are proven to hold the log up to ``index``."""
        holders = {peer for peer, match in leadership.match.items() if match >= index}
        if self._own_match() >= index:
            holders.add(self.me)
        return holders

    def _may_commit(self, index: int) -> bool:
        """Only entries of the own term are committed by counting (Raft 5.4.2)."""
        return self.log.position(index).term == self.tenure.term

    def _try_commit(self, leadership: Leadership) -> None:
        """Commit up to the largest index of our term that a quorum of EVERY active Cfg holds (I4)."""
        tenure = self.tenure
        progress = True
        while progress:
            progress = False
            for index in sorted({self._own_match(), *leadership.match.values()}, reverse=True):
                if index <= tenure.commit or not self._may_commit(index):
                    break
                holders = self._holders(leadership, index)
                if self._have(holders) and self._has_enough_copies(holders):
                    before = tenure.active
                    self._commit_to(index)
                    progress = tenure.active is not before  # fewer Cfgs may let more through
                    break

    def _echoed(self, leadership: Leadership, seq: int) -> bool:
        """Return whether a quorum answered an Append of ours from ``seq`` on."""
        return self._have({self.me, *(peer for peer, echo in leadership.echo.items() if echo >= seq)})

    def _prove_marks(self, leadership: Leadership) -> None:
        """Find the latest time at which no other leader existed: when we sent what a quorum answered.

        We may be deposed since. The arrival of the answers does not count: the network can delay them, and so
        can a host that stops this member.
        """
        if self._have({self.me}):
            self._await_commit(max(self.tenure.commit, leadership.noop_index), leadership.term, self.now)
            return
        echoed = sorted(set(leadership.echo.values()), reverse=True)
        echo = next((seq for seq in echoed if self._echoed(leadership, seq)), 0)
        proven: Mark | None = None
        while leadership.marks and leadership.marks[0].seq <= echo:
            proven = leadership.marks.popleft()
        if proven is not None:
            self._await_commit(max(proven.commit, leadership.noop_index), leadership.term, proven.ms)

    def covered_age_ms(self, now_ms: int) -> int | None:
        """Return how long ago the applied state covered all that a leader had committed (3.7).

        None: it never did, in this life. A heartbeat of the leader alone proves nothing: entries that it
        committed may be missing here. A follower counts from when it received the leader's commit index. A
        leader counts from when it sent the broadcast that a quorum has answered.
        """
        tenure = self.tenure
        if tenure.leadership is not None:
            self._prove_marks(tenure.leadership)
        self._cover()
        return None if tenure.covered_ms is None else max(now_ms - tenure.covered_ms, 0)

    def _renew_lease(self, leadership: Leadership) -> None:
        while leadership.sent_ms and self._echoed(leadership, leadership.sent_ms[0][0]):
            _, sent = leadership.sent_ms.popleft()
            span = self.settings.election_timeout_ms * (100 - LEASE_DRIFT_PERCENT) // 100
            leadership.lease_ms = sent + span

    @staticmethod
    def _end_lease(leadership: Leadership) -> None:
        """Begin the lease anew: the voters of a new Cfg may elect before those of the old one are free again.

        Until that Cfg is committed the next lease needs a quorum of both.
        """
        leadership.lease_ms = 0
        leadership.sent_ms.clear()

    # ---- staying in office --------------------------------------------------
    def _responsive(self, leadership: Leadership) -> set[Incarnation]:
        window = self.settings.election_timeout_ms
        heard = {peer for peer, at in leadership.answered_ms.items() if self.now - at < window}
        heard.add(self.me)
        return heard

    def _check_quorum(self, leadership: Leadership) -> None:
        """Step down when no quorum answers any more (3.7)."""
        if not self._have(self._responsive(leadership)):
            self._become_follower(self.tenure.term, None)

    def _leave(self) -> None:
        """A leader outside the committed Cfg steps down once every peer could receive that commit (3.6).

        It asks the voter that is furthest to stand at once, as in a transfer: the others still follow it.
        """
        leadership = self.tenure.leadership
        heir = None if leadership is None else self._best_successor(leadership)
        if heir is not None:
            self._send(heir, TimeoutNow(self._cluster, self.tenure.term))
        self._become_follower(self.tenure.term, None)

    # ---- leadership transfer ------------------------------------------------
    def _start_transfer(self, token: int, target: Incarnation | None) -> None:
        leadership = self.tenure.leadership
        if leadership is None:
            self._complete(token, NotExecuted("not-leader", self.tenure.leader))
            return
        if leadership.transfer is not None:
            self._complete(token, NotExecuted("transferring", self.me))
            return
        chosen = target if target is not None else self._best_successor(leadership)
        if chosen is None or chosen == self.me or not self._may_succeed(chosen):
            self._complete(token, NotExecuted("no-such-voter", self.me))
            return
        # No command is taken during a transfer, so it must not begin with a wait for what the target lacks.
        is_here = chosen in self._responsive(leadership)
        if not is_here or chosen in leadership.lag:
            self._complete(token, NotExecuted("lagging" if is_here else "not-connected", self.me))
            return
        until = self.now + self.settings.election_timeout_ms
        leadership.transfer = Transfer(token, chosen, until)

    def _best_successor(self, leadership: Leadership) -> Incarnation | None:
        responsive = self._responsive(leadership)
        rated = [
            (leadership.match.get(peer, 0), peer)
            for peer in self.tenure.members
            if peer != self.me and peer in responsive and peer in self.peers and self._may_succeed(peer)
        ]
        # Of those that have caught up, if there are any; otherwise the refusal names the reason.
        rated = [one for one in rated if one[1] not in leadership.lag] or rated
        return max(rated)[1] if rated else None

    def _may_succeed(self, peer: Incarnation) -> bool:
        """Return whether ``peer`` is a voter that would stand as a candidate, as far as we know."""
        known = self.peers.get(peer)
        return peer in self.tenure.members and (known is None or known.preference is not Preference.OBSERVER)

    def _drive_transfer(self, leadership: Leadership, transfer: Transfer) -> None:
        if self.now >= transfer.until_ms or transfer.target not in self.peers:
            leadership.transfer = None
            late = Unknown("transfer-timeout") if transfer.sent else NotExecuted("transfer-timeout", self.me)
            self._complete(transfer.token, late)
        elif not transfer.sent and leadership.match.get(transfer.target, 0) == self.log.last().index:
            transfer.sent = True
            # From here a voter may be elected although others still follow us: no lease in this term.
            leadership.lease_forbidden = True
            self._send(transfer.target, TimeoutNow(self._cluster, self.tenure.term))

    def _abdicated(self, leadership: Leadership) -> None:
        self._prove_marks(leadership)
        if leadership.version_change is not None:
            self._complete(leadership.version_change[0], Unknown("leader-lost"))
        if leadership.removal is not None:
            self._complete(leadership.removal[0], Unknown("leader-lost"))
        transfer = leadership.transfer
        if transfer is None:
            return
        if transfer.sent:
            self.tenure.handed_over = transfer
        else:
            self._complete(transfer.token, NotExecuted("transfer-lost", self.tenure.leader))

    def _conclude_transfer(self, handed_over: Transfer) -> None:
        """Answer as soon as a member leads. Our own stepping down does not prove that TimeoutNow arrived."""
        tenure = self.tenure
        if tenure.leader is None and self.now < handed_over.until_ms:
            return
        tenure.handed_over = None
        last = self.log.last()
        done = tenure.leader == handed_over.target
        self._complete(
            handed_over.token, Ok((), Cursor(last.term, last.index)) if done else Unknown("transfer-lost")
        )
