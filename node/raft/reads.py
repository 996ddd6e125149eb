"""Reads (3.7): ReadIndex in batches, on followers too; leases by request; weak reads with at and age.

The rules that come from Raft are in the thesis 6.4 (ReadIndex) and 6.4.1 (leases).
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from node.peers import Incarnation
from node.raft.events import Query
from node.raft.messages import Message, ReadIndex, ReadIndexReply
from node.raft.tenure import Leadership, Tenure
from node.raft.types import Answer, Consistency, Cursor, NotExecuted, Outcome, Settings


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


class ReadHost(Protocol):
    """What reads need of the member that they belong to."""

    @property
    def settings(self) -> Settings: ...
    @property
    def now(self) -> int: ...
    @property
    def peers(self) -> Container[Incarnation]: ...
    @property
    def tenure(self) -> Tenure: ...
    @property
    def _cluster(self) -> bytes: ...

    def covered_age_ms(self, now_ms: int) -> int | None:
        """Return how long ago the applied state covered all that a leader had committed."""
        ...

    def _log_time_passed(self) -> int: ...
    def _has_committed_in_term(self, leadership: Leadership) -> bool: ...
    def _echoed(self, leadership: Leadership, seq: int) -> bool: ...
    def _send(self, to: Incarnation, message: Message) -> None: ...
    def _complete(self, token: int, outcome: Outcome) -> None: ...


class Reads:
    """Queries of this member, and read indices for others.

    Where a query can be: ``asking`` -> round -> ``settled`` (waits for apply) -> answered.

    Attributes:
        asking: strong queries whose index is not known yet.
        settled: queries that wait until an index is applied.
        remote: peers that asked for a read index -> their latest id.
        leased: computed under the lease, answered in the next step if the lease still holds then.
        last_id: of our latest ReadIndex.
    """

    def __init__(self, host: ReadHost, *, last_id: int) -> None:
        self.host = host
        self.asking: deque[Query] = deque()
        self.settled: deque[tuple[int, Query]] = deque()
        self.remote: dict[Incarnation, int] = {}
        self.leased: list[LeaseAnswer] = []
        self.round: ReadRound | None = None
        self.last_id = last_id

    def ask(self, query: Query) -> None:
        reaches = 0 if query.min_at is None else query.min_at.index
        if query.consistency is Consistency.WEAK and reaches <= self.host.tenure.replica.applied.index:
            self._answer(query, self.host.covered_age_ms(self.host.now))
            return
        waiting = len(self.asking) + len(self.settled)
        waiting += len(self.round.queries) if self.round else 0
        if waiting >= self.host.settings.pending_max:
            self.host._complete(query.token, NotExecuted("overloaded", self.host.tenure.leader))
        elif query.consistency is Consistency.STRONG:
            self.asking.append(query)
        else:
            self.settled.append((reaches, query))

    def _answer(self, query: Query, age_ms: int | None) -> None:
        tenure = self.host.tenure
        if query.min_at is not None and not self._has_applied(query.min_at):
            self.host._complete(query.token, NotExecuted("superseded", tenure.leader))
            return
        if query.max_age_ms is not None and (age_ms is None or age_ms > query.max_age_ms):
            reason = "never-current" if age_ms is None else "too-old"
            self.host._complete(query.token, NotExecuted(reason, tenure.leader))
            return
        value = tenure.replica.query(query, self._reading_ms())
        self.host._complete(query.token, Answer(value, tenure.replica.applied, age_ms))

    def _reading_ms(self) -> int:
        """Return the log's time by which to judge a caller that reads now: credentials expire by it."""
        return max(self.host.tenure.replica.applied_ms, self.host._log_time_passed())

    def _has_applied(self, cursor: Cursor) -> bool:
        return (
            cursor.index <= self.host.tenure.replica.applied.index
            and self.host.tenure.replica.term_at(cursor.index) == cursor.term
        )

    # ---- the leader ---------------------------------------------------------
    def begin_round(self, leadership: Leadership) -> bool:
        """Return whether a broadcast is wanted to confirm that this member still leads.

        The index is the commit index now: with the no-op committed it is at least every earlier leader's, and
        a quorum that echoes a later Append proves that no later leader was there yet.
        """
        if self.round is not None or not (self.asking or self.remote):
            return False
        if not self.host._has_committed_in_term(leadership):
            return False
        queries = list(self.asking)
        self.asking.clear()
        remote, self.remote = self.remote, {}
        self.round = ReadRound(
            queries,
            remote,
            self.host.tenure.term,
            self.host.now,
            index=self.host.tenure.commit,
            seq=leadership.seq + 1,
        )
        return self._needs_round()

    def _needs_round(self) -> bool:
        """Return whether reads need a quorum round: without one a deposed leader answers old state (3.13)."""
        return True

    def end_round(self, leadership: Leadership) -> None:
        current = self.round
        if current is None or current.id:
            return
        if self._needs_round() and not self.host._echoed(leadership, current.seq):
            return
        self.round = None
        for query in current.queries:
            self.settled.append((current.index, query))
        for peer, asked in sorted(current.remote.items()):
            self.host._send(
                peer, ReadIndexReply(self.host._cluster, asked, self.host.tenure.term, current.index)
            )

    def on_read_index(self, sender: Incarnation, m: ReadIndex) -> None:
        """Answer only as the leader: otherwise the asker asks again when it knows of a leader."""
        if self.host.tenure.leadership is not None:
            self.remote[sender] = m.id

    def forget_peer(self, peer: Incarnation) -> None:
        """Forget what ``peer`` asked, because its bond ended: it may have restarted when it bonds again."""
        self.remote.pop(peer, None)
        if self.round is not None:
            self.round.remote.pop(peer, None)

    # ---- leases -------------------------------------------------------------
    def _lease_holds(self, leadership: Leadership) -> bool:
        return (
            self.host.settings.lease_reads
            and not leadership.lease_forbidden
            and self.host._has_committed_in_term(leadership)
            and self.host.now < leadership.lease_ms
        )

    def read_under_lease(self, leadership: Leadership) -> None:
        """Compute now, answer in the next step: the host can stop us anywhere in between."""
        tenure = self.host.tenure
        if not self.asking or not self._lease_holds(leadership):
            return
        if tenure.replica.applied.index < tenure.commit:
            return  # what the lease covers is the committed state, so apply first
        while self.asking:
            query = self.asking.popleft()
            value = tenure.replica.query(query, self._reading_ms())
            self.leased.append(LeaseAnswer(query, Answer(value, tenure.replica.applied)))

    def release_leased(self) -> None:
        """Judge leased reads by a fresh ``now``: one that the lease no longer covers needs a quorum round."""
        leased, self.leased = self.leased, []
        holds = self._lease_still_holds()
        for held in leased:
            cursor = held.query.min_at
            if holds and (cursor is None or self._has_applied(cursor)):
                self.host._complete(held.query.token, held.answer)
            else:
                self.asking.append(held.query)

    def _lease_still_holds(self) -> bool:
        return self.host.tenure.leadership is not None and self._lease_holds(self.host.tenure.leadership)

    # ---- followers ----------------------------------------------------------
    def _ask_leader(self) -> None:
        tenure = self.host.tenure
        if self.round is None and self.asking and tenure.leader in self.host.peers:
            assert tenure.leader is not None
            self.last_id += 1
            self.round = ReadRound(list(self.asking), {}, tenure.term, self.host.now, id=self.last_id)
            self.asking.clear()
            self.host._send(tenure.leader, ReadIndex(self.host._cluster, self.last_id))

    def on_read_index_reply(self, sender: Incarnation, m: ReadIndexReply) -> None:
        current = self.round
        if current is None or not current.id or current.id != m.id:
            return
        if sender != self.host.tenure.leader or m.term != self.host.tenure.term:
            return  # the sender led when we asked, but no longer
        self.round = None
        for query in current.queries:
            self.settled.append((m.index, query))

    # ---- every step ---------------------------------------------------------
    @property
    def is_waiting(self) -> bool:
        """Whether ``flush`` has anything to do."""
        return self.round is not None or bool(self.asking) or bool(self.settled)

    def flush(self) -> None:
        """Ask the leader, and answer what is settled."""
        if self.round is not None:
            self._drop_void_round()
        if self.asking and self.host.tenure.leadership is None:
            self._ask_leader()
        if self.settled:
            self._answer_settled()

    def _drop_void_round(self) -> None:
        """A round ends with its term or its leader; if a message was lost, we ask again."""
        tenure = self.host.tenure
        current = self.round
        if current is None:
            return
        void = current.term != tenure.term or bool(current.id) == (tenure.leadership is not None)
        late = current.id and self.host.now - current.sent_ms >= self.host.settings.election_timeout_ms // 2
        lost = current.id and tenure.leader not in self.host.peers
        if void or late or lost:
            self.round = None
            self.asking.extendleft(reversed(current.queries))

    def _answer_settled(self) -> None:
        settled = self.settled
        for _ in range(len(settled)):
            index, query = settled.popleft()
            reached = index if query.min_at is None else max(index, query.min_at.index)
            if self.host.tenure.replica.applied.index >= reached:
                self._answer(
                    query,
                    0 if query.consistency is Consistency.STRONG else self.host.covered_age_ms(self.host.now),
                )
            else:
                settled.append((index, query))

    def due(self, due: int) -> int:
        """Return ``due``, or the time at which reads have to be checked, if that is sooner."""
        if self.leased:
            return self.host.now
        current = self.round
        if current is not None and current.id:
            return min(due, current.sent_ms + self.host.settings.election_timeout_ms // 2)
        return due

    def cancel(self, token: int) -> bool:
        """Forget a waiting query; return whether it was found."""
        for queue in (self.asking, *([self.round.queries] if self.round else [])):
            for query in queue:
                if query.token == token:
                    queue.remove(query)
                    return True
        for item in self.settled:
            if item[1].token == token:
                self.settled.remove(item)
                return True
        before = len(self.leased)
        self.leased = [held for held in self.leased if held.query.token != token]
        return len(self.leased) < before

    # ---- the end of a cluster, and of the member ----------------------------
    def ask_again(self) -> None:
        """Ask every waiting query again.

        An index confirmed in a cluster that ended proves nothing in the next log.
        """
        waiting = [query for _, query in self.settled] + [held.query for held in self.leased]
        waiting += (self.round.queries if self.round is not None else []) + list(self.asking)
        self._forget_all()
        for query in waiting:
            if query.min_at is not None:
                self.host._complete(query.token, NotExecuted("superseded", self.host.tenure.leader))
            else:
                self.asking.append(query)

    def refuse_all(self, reason: str) -> None:
        """Complete every waiting query with ``reason``."""
        waiting = [query for _, query in self.settled] + list(self.asking)
        waiting += self.round.queries if self.round is not None else []
        waiting += [held.query for held in self.leased]
        self._forget_all()
        for query in waiting:
            self.host._complete(query.token, NotExecuted(reason))

    def _forget_all(self) -> None:
        self.asking.clear()
        self.settled.clear()
        self.remote.clear()
        self.leased.clear()
        self.round = None
