"""Reads (3.7): ReadIndex in batches, on followers too; leases by request; weak reads with at and age.

The rules that come from Raft are in the thesis 6.4 (ReadIndex) and 6.4.1 (leases).
"""

from collections import deque
from dataclasses import dataclass, field

from node.peers import Incarnation
from node.raft.events import Query
from node.raft.membership import Membership
from node.raft.messages import ReadIndex, ReadIndexReply
from node.raft.tenure import Leadership
from node.raft.types import Answer, Consistency, Cursor, NotExecuted


@dataclass(slots=True)
class ReadRound:
    """Strong reads whose index is being confirmed; one round at a time, so reads batch by themselves.

    Attributes:
        queries: of this member.
        remote: peer -> id of the ReadIndex that it sent (leader only).
        term: the round is void in any other.
        index: the leader's commit index when the round began.
        seq: leader: the Append whose echo confirms it. Follower: 0.
        id: follower: of its ReadIndex. Leader: 0.
    """

    queries: list[Query]
    remote: dict[Incarnation, int]
    term: int
    sent_ms: int
    index: int = 0
    seq: int = 0
    id: int = 0


@dataclass(slots=True)
class LeaseAnswer:
    query: Query
    answer: Answer


@dataclass(slots=True)
class ReadQueues:
    """Where a query can be: ``asking`` -> round -> ``settled`` (waits for apply) -> answered.

    Attributes:
        remote: peers that asked for a read index -> their latest id.
        leased: computed under the lease, answered in the next step if the lease still holds then.
    """

    asking: deque[Query] = field(default_factory=deque)
    settled: deque[tuple[int, Query]] = field(default_factory=deque)
    remote: dict[Incarnation, int] = field(default_factory=dict)
    leased: list[LeaseAnswer] = field(default_factory=list)
    round: ReadRound | None = None
    last_id: int = 0


class Reads(Membership):
    """Queries of this member, and read indices for others."""

    reads: ReadQueues

    def _on_query(self, query: Query) -> None:
        reads = self.reads
        reaches = 0 if query.min_at is None else query.min_at.index
        if query.consistency is Consistency.WEAK and reaches <= self.tenure.replica.applied.index:
            self._answer(query, self.covered_age_ms(self.now))
            return
        waiting = len(reads.asking) + len(reads.settled)
        waiting += len(reads.round.queries) if reads.round else 0
        if waiting >= self.settings.pending_max:
            self._complete(query.token, NotExecuted("overloaded", self.tenure.leader))
        elif query.consistency is Consistency.STRONG:
            reads.asking.append(query)
        else:
            reads.settled.append((reaches, query))

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

    def _answer(self, query: Query, age_ms: int | None) -> None:
        tenure = self.tenure
        if query.min_at is not None and not self._has_applied(query.min_at):
            self._complete(query.token, NotExecuted("superseded", tenure.leader))
            return
        if query.max_age_ms is not None and (age_ms is None or age_ms > query.max_age_ms):
            reason = "never-current" if age_ms is None else "too-old"
            self._complete(query.token, NotExecuted(reason, tenure.leader))
            return
        value = tenure.replica.query(query, self._reading_ms())
        self._complete(query.token, Answer(value, tenure.replica.applied, age_ms))

    def _reading_ms(self) -> int:
        """Return the log's time by which to judge a caller that reads now: credentials expire by it."""
        return max(self.tenure.replica.applied_ms, self._log_time_passed())

    def _has_applied(self, cursor: Cursor) -> bool:
        return (
            cursor.index <= self.tenure.replica.applied.index
            and self.tenure.replica.term_at(cursor.index) == cursor.term
        )

    # ---- the leader ---------------------------------------------------------
    def _begin_round(self, leadership: Leadership) -> bool:
        """Return whether a broadcast is wanted to confirm reads.

        The index is the commit index now: with the no-op committed it is at least every earlier leader's, and
        a quorum that echoes a later Append proves that no later leader was there yet.
        """
        reads = self.reads
        if reads.round is not None or not (reads.asking or reads.remote):
            return False
        if not self._has_committed_in_term(leadership):
            return False
        queries = list(reads.asking)
        reads.asking.clear()
        remote, reads.remote = reads.remote, {}
        reads.round = ReadRound(
            queries, remote, self.tenure.term, self.now, index=self.tenure.commit, seq=leadership.seq + 1
        )
        return self._needs_round()

    def _needs_round(self) -> bool:
        """Return whether reads need a quorum round: without one a deposed leader answers old state (3.13)."""
        return True

    def _end_round(self, leadership: Leadership) -> None:
        current = self.reads.round
        if current is None or current.id:
            return
        if self._needs_round() and not self._echoed(leadership, current.seq):
            return
        self.reads.round = None
        for query in current.queries:
            self.reads.settled.append((current.index, query))
        for peer, asked in sorted(current.remote.items()):
            self._send(peer, ReadIndexReply(self._cluster, asked, self.tenure.term, current.index))

    def _on_read_index(self, sender: Incarnation, m: ReadIndex) -> None:
        """Answer only as the leader: otherwise the asker asks again when it knows of a leader."""
        if self.tenure.leadership is not None:
            self.reads.remote[sender] = m.id

    def _forget_reads_of(self, peer: Incarnation) -> None:
        """Forget what ``peer`` asked, because its bond ended: it may have restarted when it bonds again."""
        self.reads.remote.pop(peer, None)
        if self.reads.round is not None:
            self.reads.round.remote.pop(peer, None)

    # ---- leases -------------------------------------------------------------
    def _lease_holds(self, leadership: Leadership) -> bool:
        return (
            self.settings.lease_reads
            and not leadership.lease_forbidden
            and self._has_committed_in_term(leadership)
            and self.now < leadership.lease_ms
        )

    def _read_under_lease(self, leadership: Leadership) -> None:
        """Compute now, answer in the next step: the host can stop us anywhere in between."""
        tenure = self.tenure
        reads = self.reads
        if not reads.asking or not self._lease_holds(leadership):
            return
        if tenure.replica.applied.index < tenure.commit:
            return  # what the lease covers is the committed state, so apply first
        while reads.asking:
            query = reads.asking.popleft()
            value = tenure.replica.query(query, self._reading_ms())
            reads.leased.append(LeaseAnswer(query, Answer(value, tenure.replica.applied)))

    def _release_leased(self) -> None:
        """Judge leased reads by a fresh ``now``: one that the lease no longer covers needs a quorum round."""
        leased, self.reads.leased = self.reads.leased, []
        holds = self._lease_still_holds()
        for held in leased:
            cursor = held.query.min_at
            if holds and (cursor is None or self._has_applied(cursor)):
                self._complete(held.query.token, held.answer)
            else:
                self.reads.asking.append(held.query)

    def _lease_still_holds(self) -> bool:
        return self.tenure.leadership is not None and self._lease_holds(self.tenure.leadership)

    # ---- followers ----------------------------------------------------------
    def _ask_leader(self) -> None:
        tenure = self.tenure
        reads = self.reads
        if reads.round is None and reads.asking and tenure.leader in self.peers:
            assert tenure.leader is not None
            reads.last_id += 1
            reads.round = ReadRound(list(reads.asking), {}, tenure.term, self.now, id=reads.last_id)
            reads.asking.clear()
            self._send(tenure.leader, ReadIndex(self._cluster, reads.last_id))

    def _on_read_index_reply(self, sender: Incarnation, m: ReadIndexReply) -> None:
        current = self.reads.round
        if current is None or not current.id or current.id != m.id:
            return
        if sender != self.tenure.leader or m.term != self.tenure.term:
            return  # the sender led when we asked, but no longer
        self.reads.round = None
        for query in current.queries:
            self.reads.settled.append((m.index, query))

    # ---- every step ---------------------------------------------------------
    def _drop_void_round(self) -> None:
        """A round ends with its term or its leader; if a message was lost, we ask again."""
        tenure = self.tenure
        current = self.reads.round
        if current is None:
            return
        void = current.term != tenure.term or bool(current.id) == (tenure.leadership is not None)
        late = current.id and self.now - current.sent_ms >= self.settings.election_timeout_ms // 2
        lost = current.id and tenure.leader not in self.peers
        if void or late or lost:
            self.reads.round = None
            self.reads.asking.extendleft(reversed(current.queries))

    def _answer_settled(self) -> None:
        settled = self.reads.settled
        for _ in range(len(settled)):
            index, query = settled.popleft()
            reached = index if query.min_at is None else max(index, query.min_at.index)
            if self.tenure.replica.applied.index >= reached:
                self._answer(
                    query, 0 if query.consistency is Consistency.STRONG else self.covered_age_ms(self.now)
                )
            else:
                settled.append((index, query))

    def _reads_due(self, due: int) -> int:
        """Return ``due``, or the time at which reads have to be checked, if that is sooner."""
        if self.reads.leased:
            return self.now
        current = self.reads.round
        if current is not None and current.id:
            return min(due, current.sent_ms + self.settings.election_timeout_ms // 2)
        return due

    def _cancel_query(self, token: int) -> bool:
        """Forget a waiting query; return whether it was found."""
        reads = self.reads
        for queue in (reads.asking, *([reads.round.queries] if reads.round else [])):
            for query in queue:
                if query.token == token:
                    queue.remove(query)
                    return True
        for item in reads.settled:
            if item[1].token == token:
                reads.settled.remove(item)
                return True
        before = len(reads.leased)
        reads.leased = [held for held in reads.leased if held.query.token != token]
        return len(reads.leased) < before
