"""Followers pull what they miss, from several peers at once, and check all of it (3.5).

    sources   peers that answer Avail in our term, and the leader last
    search    Fetch(check = our position at k): the first source that has the same position starts the pull;
              else its hint lowers k, never below our commit
    ranges    fixed index ranges behind k, one in flight per source; a chunk is taken only when what it
              says precedes it is what we have
    restart   a range: timeout, bond loss, refusal. Everything: a new term. No peer can trip an assertion.

The leader's Appends that arrive meanwhile are kept up to a bound; a hole only means another pull.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from node.raft.log import entry_bytes
from node.raft.messages import ACK, Append, AppendReply, Avail, AvailReply, Chunk, Fetch, Verdict
from node.raft.replication import Replication
from node.raft.types import Cursor, Incarnation, Position, Role

RANGE_ENTRIES: Final = 512
AVAIL_AGAIN_MS: Final = 1000
AVAIL_ON_COMMIT_MS: Final = 100


@dataclass(slots=True)
class Range:
    """Entries ``after+1..upto``, asked of one source at ``sent_ms``."""

    after: int
    upto: int
    sent_ms: int


@dataclass(slots=True)
class PullState:
    """One pull, valid in one term.

    Attributes:
        target: up to where we want everything: the latest ``prev`` that we could not match.
        known: how far each peer can serve.
        at: the next index to search an agreement at (while not ``joined``), then the first unassigned.
        joined: the start is agreed upon.
        flying: what each source was asked.
        again: ranges to be asked anew, sorted.
        resting: sources that could not help, and when to try them again.
        held: chunks whose predecessor is not there yet, by ``after``.
        buffer: the leader's Appends since, contiguous.
        buffer_bytes: their size.
    """

    term: int
    target: int
    at: int
    started_ms: int
    asked_ms: int
    joined: bool = False
    known: dict[Incarnation, int] = field(default_factory=dict)
    flying: dict[Incarnation, Range] = field(default_factory=dict)
    again: list[tuple[int, int]] = field(default_factory=list)
    resting: dict[Incarnation, int] = field(default_factory=dict)
    held: dict[int, Chunk] = field(default_factory=dict)
    buffer: deque[Append] = field(default_factory=deque)
    buffer_bytes: int = 0


class Pull(Replication):
    """Both sides of catching up."""

    pull: PullState | None = None
    leader_commit = 0
    last_seq = 0  # of the latest Append of this term

    # ---- what we tell the leader --------------------------------------------
    def _ack_index(self) -> int:
        """An ACK claims what is verified, never what the log merely holds (C16)."""
        return self.verified

    def _reply_append(self, verdict: Verdict) -> None:
        if self.leader is None:
            return  # we stopped hearing it, and stand ourselves; what we pulled stays
        last = self.log.last()
        match = self._ack_index() if verdict is ACK else 0
        have = Cursor(last.term, last.index)
        self._send(
            self.leader,
            AppendReply(self._cluster, self.term, verdict, match, self.last_seq, have),
        )

    def _commit_verified(self) -> None:
        verified = self.verified
        if self.leader_commit < verified:
            verified = self.leader_commit
        self._commit_to(verified)

    # ---- the asking side ----------------------------------------------------
    def _start_pull(self, append: Append) -> None:
        """``append`` does not fit: get what precedes it."""
        pull = self.pull
        prev = append.prev.index
        if pull is None or pull.term != self.term:
            at = max(min(self.log.last().index, prev), self.commit)
            pull = self.pull = PullState(self.term, prev, at, self.now, self.now)
            self._broadcast(Avail(self._cluster, self.term))
        pull.target = max(pull.target, prev)
        self._keep(pull, append)
        self._drive_pull(pull)

    def _keep(self, pull: PullState, append: Append) -> None:
        """Keep an Append for later, within the bound and only without a hole."""
        size = sum(entry_bytes(entry) for entry in append.entries) + 64
        if pull.buffer_bytes + size > self.settings.catchup_buffer_bytes_max:
            return
        if pull.buffer:
            end = pull.buffer[-1]
            reached = end.prev.index + len(end.entries)
            if append.prev.index != reached or not append.entries:
                return
        pull.buffer.append(append)
        pull.buffer_bytes += size

    @property
    def _cluster(self) -> bytes:
        assert self.cluster is not None
        return self.cluster

    def _sources(self, pull: PullState) -> list[Incarnation]:
        """Idle sources in the order of preference: peers by id, the leader last, and not at once."""
        leader = self.leader
        resting = {peer for peer, until in pull.resting.items() if self.now < until}
        known = [peer for peer in pull.known if peer != leader and peer in self.peers and peer not in resting]
        idle = sorted(peer for peer in known if peer not in pull.flying)
        if leader is None or leader not in self.peers or leader in pull.flying or leader in resting:
            return idle
        lowest = min(pull.again[0][0], pull.at) if pull.again else pull.at
        if any(pull.known[peer] > lowest for peer in known):
            return idle
        alone = all(peer == leader for peer in self.audience)
        waited = self.now - pull.started_ms >= self.settings.heartbeat_ms
        answered = len(known) >= len(self.audience) - 1
        return [*idle, leader] if alone or waited or answered else idle

    def _reach(self, pull: PullState, source: Incarnation) -> int:
        return pull.target if source == self.leader else pull.known.get(source, 0)

    def _drive_pull(self, pull: PullState) -> None:
        """Ask idle sources for what is missing."""
        sources = self._sources(pull)
        if not pull.joined:
            if not pull.flying:
                self._search(pull, sources)
            return
        room = self.settings.catchup_buffer_bytes_max // self.settings.chunk_bytes_max
        for source in sources:
            if len(pull.held) + len(pull.flying) >= max(1, room):
                break
            reach = self._reach(pull, source)
            work = self._next_range(pull, reach)
            if work is None:
                continue
            after, upto = work
            check = self.log.position(after) if after <= self.verified else None
            self._fetch(pull, source, after, check, upto)

    def _search(self, pull: PullState, sources: list[Incarnation]) -> None:
        # An Append that fitted may have cut the log below where the search stood.
        pull.at = min(pull.at, self.log.last().index)
        for source in sources:
            reach = self._reach(pull, source)
            if reach > pull.at or (reach == pull.at and source == self.leader):
                upto = min(pull.at + RANGE_ENTRIES, max(reach, pull.at))
                self._fetch(pull, source, pull.at, self.log.position(pull.at), upto)
                return

    def _next_range(self, pull: PullState, reach: int) -> tuple[int, int] | None:
        for position, (after, upto) in enumerate(pull.again):
            if reach > after:
                del pull.again[position]
                if reach < upto:
                    self._ask_again(pull, reach, upto)
                return after, min(upto, reach)
        upto = min(pull.at + RANGE_ENTRIES, pull.target, reach)
        if upto <= pull.at:
            return None
        after, pull.at = pull.at, upto
        return after, upto

    def _fetch(
        self, pull: PullState, source: Incarnation, after: int, check: Position | None, upto: int
    ) -> None:
        pull.flying[source] = Range(after, upto, self.now)
        self._send(source, Fetch(self._cluster, self.term, after, check, upto))

    @staticmethod
    def _ask_again(pull: PullState, after: int, upto: int) -> None:
        if upto > after:
            pull.again.append((after, upto))
            pull.again.sort()

    def _on_avail_reply(self, sender: Incarnation, m: AvailReply) -> None:
        pull = self.pull
        if pull is None or m.term != self.term or pull.term != self.term:
            return
        pull.known[sender] = m.upto
        self._drive_pull(pull)

    def _on_chunk(self, sender: Incarnation, m: Chunk) -> None:
        pull = self.pull
        if pull is None or m.term != self.term or pull.term != self.term:
            return
        asked = pull.flying.get(sender)
        if asked is None or asked.after != m.after.index:
            return  # late or repeated: the range was given to somebody else
        if self._wrong_genesis(m.entries):
            self._violation(sender, "wrong-genesis")
            return
        del pull.flying[sender]
        if not pull.joined:
            self._on_search_answer(pull, sender, asked, m)
        elif m.ok and m.entries:
            pull.held[asked.after] = m
            self._ask_again(pull, asked.after + len(m.entries), asked.upto)
        else:
            self._let_rest(pull, sender)
            self._ask_again(pull, asked.after, asked.upto)
        self._drain_pull(pull)

    def _on_search_answer(self, pull: PullState, sender: Incarnation, asked: Range, m: Chunk) -> None:
        if m.ok:
            pull.joined = True
            pull.at = asked.upto
            pull.held[asked.after] = m
            self._ask_again(pull, asked.after + len(m.entries), asked.upto)
        elif m.hint < asked.after and asked.after > self.commit:
            pull.at = max(m.hint, self.commit)
        else:
            self._let_rest(pull, sender)

    def _let_rest(self, pull: PullState, source: Incarnation) -> None:
        """It cannot help at present; ask the others first."""
        pull.resting[source] = self.now + self.settings.heartbeat_ms

    def _drain_pull(self, pull: PullState) -> None:
        """Take every chunk whose predecessor we have, then the kept Appends, then ask for more."""
        progress = True
        while progress:
            progress = False
            for after in sorted(pull.held):
                chunk = pull.held[after]
                first = pull.joined and self._may_take(chunk)
                if first:
                    del pull.held[after]
                    self._take_pulled(chunk)
                    progress = True
                elif after <= self.verified:
                    # Its predecessor is not what we now know to be right: fetch the range again.
                    del pull.held[after]
                    self._ask_again(pull, after, after + len(chunk.entries))
        self._replay_kept(pull)
        if self.pull is pull:
            self._drive_pull(pull)

    def _may_take(self, chunk: Chunk) -> bool:
        """Entries come only with a checked predecessor (without this: seed 33 in 0.1 s)."""
        index = chunk.after.index
        return index <= self.log.last().index and self.log.position(index) == chunk.after

    def _take_pulled(self, chunk: Chunk) -> None:
        self._take(chunk.after, chunk.entries)
        self._commit_verified()

    def _replay_kept(self, pull: PullState) -> None:
        """The kept Appends fit as soon as the pull has reached what precedes them."""
        while pull.buffer:
            first = pull.buffer[0]
            if first.prev.index > self.verified or not self._agrees(first.prev):
                break
            pull.buffer.popleft()
            self._take(first.prev, first.entries)
            self._commit_verified()
        if self.verified >= pull.target and not pull.buffer:
            self.pull = None
            self.in_step = True
            self._reply_append(Verdict.ACK)

    def _tick_pull(self) -> None:
        pull = self.pull
        if pull is None:
            return
        if pull.term != self.term or self.role is Role.LEADER:
            self.pull = None
            return
        late = [
            source
            for source, asked in pull.flying.items()
            if source not in self.peers or self.now - asked.sent_ms >= self.settings.election_timeout_ms
        ]
        for source in late:
            asked = pull.flying.pop(source)
            self._let_rest(pull, source)
            if pull.joined:
                self._ask_again(pull, asked.after, asked.upto)
        if late or self.now - pull.asked_ms >= AVAIL_AGAIN_MS:
            self._ask_availability(pull)
        self._drive_pull(pull)

    def _ask_availability(self, pull: PullState) -> None:
        """Again every second and on every commit advance: what peers can serve grows (C10)."""
        pull.asked_ms = self.now
        self._broadcast(Avail(self._cluster, self.term))

    def _pull_due(self, pull: PullState) -> int:
        due = pull.asked_ms + AVAIL_AGAIN_MS
        if not pull.flying and self.now - pull.started_ms < self.settings.heartbeat_ms:
            due = min(due, pull.started_ms + self.settings.heartbeat_ms)
        due = min([due, *(until for until in pull.resting.values() if until > self.now)])
        for asked in pull.flying.values():
            due = min(due, asked.sent_ms + self.settings.election_timeout_ms)
        return due

    # ---- the serving side ---------------------------------------------------
    def _on_avail(self, sender: Incarnation, m: Avail) -> None:
        if m.term == self.term:
            self._send(sender, AvailReply(self._cluster, self.term, self._serve_limit()))

    def _on_fetch(self, sender: Incarnation, m: Fetch) -> None:
        """R-serve: only in the asker's term, only what is verified in it or committed."""
        if m.term != self.term:
            return
        limit = min(self._serve_limit(), self.log.last().index)
        if m.after > limit:
            self._refuse(sender, m, limit)
            return
        mine = self.log.position(m.after)
        if m.check is not None and m.check != mine:
            hint = max(m.after - 1, 0)
            while hint > 0 and self.log.position(hint).term > m.check.term:
                hint -= 1
            self._refuse(sender, m, hint)
            return
        upto = min(m.upto, limit)
        entries = self.log.slice(m.after + 1, upto, self.settings.chunk_bytes_max) if upto > m.after else ()
        self._send(sender, Chunk(self._cluster, self.term, mine, True, entries, 0))

    def _refuse(self, sender: Incarnation, m: Fetch, hint: int) -> None:
        asked = Position(0, m.after, bytes(32))
        self._send(sender, Chunk(self._cluster, self.term, asked, False, (), hint))
