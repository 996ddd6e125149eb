"""Followers pull what they miss, from several peers at once, and check all of it (3.5).

    sources   peers that answer Avail in our term, and the leader last
    search    Fetch(check = our position at k): the first source that has the same position starts the pull;
              else its hint lowers k, never below our commit
    ranges    index ranges behind k, a few on their way from each source; a chunk is taken only when our log
              holds the position that the chunk names as its predecessor
    restart a range: timeout, bond loss, refusal. Everything: a new term. No answer that comes late, twice or
              from another life can trip an assertion. (A false answer can: members are believed.)

The leader's Appends that arrive meanwhile are kept up to a bound; a hole only means another pull.
"""

from typing import Final

from node.peers import Incarnation
from node.raft.log import OVERHEAD_BYTES, entry_bytes
from node.raft.messages import (
    ACK,
    Append,
    AppendReply,
    Avail,
    AvailReply,
    Chunk,
    Fetch,
    Message,
    Verdict,
)
from node.raft.ranges import RANGE_ENTRIES, RANGES_OF_LEADER, RANGES_PER_SOURCE, PullState, Range
from node.raft.snapshots import Snapshots
from node.raft.types import Cursor, Position, Role

AVAIL_AGAIN_MS: Final = 1000
AVAIL_ON_COMMIT_MS: Final = 100


class Pull(Snapshots):
    """Both sides of catching up."""

    # ---- what we report to the leader ---------------------------------------
    def _ack_index(self) -> int:
        """An ACK claims only entries that are verified, not all that the log holds (C16)."""
        return self.verified

    def _reply_append(self, verdict: Verdict) -> None:
        tenure = self.tenure
        if tenure.leader is None:
            return  # we receive nothing from it and stand ourselves; what we pulled stays
        last = self.log.last()
        match = self._ack_index() if verdict is ACK else 0
        have = Cursor(last.term, last.index)
        reply = AppendReply(self._cluster, tenure.term, verdict, match, tenure.last_seq, have)
        before = self.out.sends[-1] if self.out.sends else None
        if before is not None and before.to == (tenure.leader,) and _is_covered_by(before.message, reply):
            # A peer that is behind receives many Appends at once, and the leader must read the answers of all
            # peers.
            self.out.sends.pop()
        self._send(tenure.leader, reply)

    def _commit_verified(self) -> None:
        verified = self.verified
        if self.tenure.leader_commit < verified:
            verified = self.tenure.leader_commit
        self._commit_to(verified)

    # ---- the asking side ----------------------------------------------------
    def _start_pull(self, append: Append) -> None:
        """Begin to fetch the entries before ``append``, which does not fit our log."""
        tenure = self.tenure
        pull = tenure.pull
        prev = append.prev.index
        if pull is None or pull.term != tenure.term:
            at = max(min(self.log.last().index, prev), tenure.commit)
            pull = tenure.pull = PullState(tenure.term, prev, at, self.now, self.now)
            self._broadcast(Avail(self._cluster, tenure.term))
        pull.target = max(pull.target, prev)
        self._keep(pull, append)
        self._drive_pull(pull)

    def _pull_committed(self, source: Incarnation, commit: Position) -> None:
        """Fetch up to ``commit`` from a peer that knows it to be committed, while no leader is known.

        Every leader of this term has those entries, so they are verified like those that its followers serve.
        """
        tenure = self.tenure
        if tenure.leader is not None or commit.index <= tenure.commit:
            return
        pull = tenure.pull
        if pull is None or pull.term != tenure.term:
            at = max(min(self.log.last().index, commit.index), tenure.commit)
            pull = tenure.pull = PullState(tenure.term, commit.index, at, self.now, self.now)
        pull.target = max(pull.target, commit.index)
        pull.known[source] = max(pull.known.get(source, 0), commit.index)
        self._drive_pull(pull)

    def _keep(self, pull: PullState, append: Append) -> None:
        """Keep an Append for later, within the bound and only without a hole."""
        size = _kept_bytes(append)
        if pull.buffer_bytes + size > self.settings.catchup_buffer_bytes_max:
            return
        if pull.buffer:
            end = pull.buffer[-1]
            reached = end.prev.index + len(end.entries)
            if append.prev.index != reached or not append.entries:
                return
        pull.buffer.append(append)
        pull.buffer_bytes += size

    def _sources(self, pull: PullState) -> list[Incarnation]:
        """Sources in the order of preference: peers by id, the leader last, and not at once.

        A source that failed to answer comes after all sources that did not fail, and the latest to fail comes
        last. Otherwise two sources that never answer would be asked in turn without end. While every other
        source has failed, the leader is asked too.
        """
        leader = self.tenure.leader
        resting = {peer for peer, until in pull.resting.items() if self.now < until}
        known = sorted(
            peer
            for peer in pull.known
            if peer != leader and peer in self.peers and peer not in resting and pull.can_serve(peer)
        )
        known.sort(key=lambda peer: pull.resting.get(peer, 0))
        if leader is None or leader not in self.peers or leader in resting or not pull.can_serve(leader):
            return known
        if any(pull.known[peer] > pull.lowest and peer not in pull.resting for peer in known):
            return known
        alone = all(peer == leader for peer in self.audience)
        waited = self.now - pull.started_ms >= self.settings.heartbeat_ms
        answered = len(pull.known.keys() - {leader}) >= len(self.audience) - 1
        if not (alone or waited or answered):
            return known
        return sorted([*known, leader], key=lambda peer: pull.resting.get(peer, 0))

    def _has_window(self, pull: PullState, source: Incarnation) -> bool:
        flight = pull.in_flight.get(source)
        limit = RANGES_OF_LEADER if source == self.tenure.leader else RANGES_PER_SOURCE
        return flight is None or len(flight.ranges) < limit

    def _reach(self, pull: PullState, source: Incarnation) -> int:
        return pull.target if source == self.tenure.leader else pull.known.get(source, 0)

    def _drive_pull(self, pull: PullState) -> None:
        """Ask idle sources for what is missing."""
        sources = self._sources(pull)
        if not pull.joined:
            if not pull.in_flight:
                self._search(pull, sources)
            return
        # The lowest range goes first: when every place is taken, the chunk that all others wait for has a
        # place.
        asked = True
        while asked:
            asked = False
            for source in sources:  # in turn, so that neighbouring ranges come from different ones
                if pull.outstanding < self._places and self._has_window(pull, source):
                    asked = self._ask_next(pull, source) or asked

    @property
    def _places(self) -> int:
        """How many chunks may be on their way or held at a time."""
        return max(1, self.settings.catchup_buffer_bytes_max // self.settings.chunk_bytes_max)

    def _ask_next(self, pull: PullState, source: Incarnation) -> bool:
        work = pull.next_range(self._reach(pull, source))
        if work is None:
            return False
        after, upto = work
        check = self.log.position(after) if after <= self.verified else None
        self._fetch(pull, source, after, check, upto)
        return True

    def _search(self, pull: PullState, sources: list[Incarnation]) -> None:
        # An Append that fitted may have cut the log below where the search stood.
        pull.at = min(pull.at, self.log.last().index)
        for source in sources:
            reach = self._reach(pull, source)
            if reach > pull.at or (reach == pull.at and source == self.tenure.leader):
                upto = min(pull.at + RANGE_ENTRIES, max(reach, pull.at))
                self._fetch(pull, source, pull.at, self.log.position(pull.at), upto)
                return

    def _fetch(
        self, pull: PullState, source: Incarnation, after: int, check: Position | None, upto: int
    ) -> None:
        pull.sent(source, after, upto, self.now)
        self._send(source, Fetch(self._cluster, self.tenure.term, after, check, upto))

    def _on_avail_reply(self, sender: Incarnation, m: AvailReply) -> None:
        tenure = self.tenure
        pull = tenure.pull
        if pull is None or m.term != tenure.term or pull.term != tenure.term:
            return
        pull.known[sender] = m.upto
        self._drive_pull(pull)

    def _on_chunk(self, sender: Incarnation, m: Chunk) -> None:
        tenure = self.tenure
        pull = tenure.pull
        if pull is None or m.term != tenure.term or pull.term != tenure.term:
            return
        if self._wrong_genesis(m.entries):
            self._violation(sender, "wrong-genesis")
            return
        asked = pull.answered(sender, m.after.index, self.now)
        if asked is None and (m.ok or not pull.joined):
            # Otherwise a link whose answers take longer than an election timeout would never deliver an
            # entry.
            asked = pull.answered_late(sender, m.after.index, self._places)
        if asked is None:
            return  # a repeated chunk, or its entries are here already
        pull.resting.pop(sender, None)
        if not pull.joined:
            self._on_search_answer(pull, sender, asked, m)
        elif m.ok and m.entries:
            self._hold_chunk(pull, asked, m)
        else:
            self._let_rest(pull, sender)
            pull.ask_again(asked.after, asked.upto)
        self._drain_pull(pull)

    def _on_search_answer(self, pull: PullState, sender: Incarnation, asked: Range, m: Chunk) -> None:
        if m.ok:
            pull.joined = True
            pull.at = asked.upto
            self._hold_chunk(pull, asked, m)
        elif m.hint < asked.after and asked.after > self.tenure.commit:
            pull.at = max(m.hint, self.tenure.commit)
        else:
            self._let_rest(pull, sender)

    @staticmethod
    def _hold_chunk(pull: PullState, asked: Range, m: Chunk) -> None:
        pull.held[asked.after] = m
        pull.ask_again(asked.after + len(m.entries), asked.upto)
        if m.entries:
            pull.fit_span(asked, len(m.entries))

    def _let_rest(self, pull: PullState, source: Incarnation) -> None:
        """Ask the other sources first: ``source`` cannot help at present."""
        pull.resting[source] = self.now + self.settings.heartbeat_ms

    def _drain_pull(self, pull: PullState) -> None:
        """Take a chunk whose predecessor we have, then the kept Appends, then ask for more.

        It takes only one chunk. When many chunks arrive late and together, messages that arrive meanwhile
        must not wait for all of them. The next chunk is due with the next tick (``_pull_due``).
        """
        for after in sorted(pull.held):
            chunk = pull.held[after]
            if pull.joined and self._may_take(chunk):
                del pull.held[after]
                self._take_pulled(chunk)
                break
            if after <= self.verified:
                # Its predecessor differs from the entry that is verified by now: fetch the range again.
                del pull.held[after]
                pull.ask_again(after, after + len(chunk.entries))
        self._replay_kept(pull)
        if self.tenure.pull is pull:
            self._drive_pull(pull)

    def _may_take(self, chunk: Chunk) -> bool:
        """Entries come only with a checked predecessor (without this: seed 33 in 0.1 s)."""
        index = chunk.after.index
        if not self.log.base.index <= index <= self.log.last().index:
            return False
        return self.log.position(index) == chunk.after

    def _take_pulled(self, chunk: Chunk) -> None:
        self._take(chunk.after, chunk.entries)
        self._commit_verified()

    def _replay_kept(self, pull: PullState) -> None:
        """The kept Appends fit as soon as the pull has reached what precedes them.

        One call takes about a chunk of them. The rest is due with the next tick.
        """
        room = RANGE_ENTRIES
        while room > 0 and self._kept_is_next(pull):
            if not self._agrees(pull.buffer[0].prev):
                # No leader of this term sends this after the entries that we verified. It must not block the
                # pull.
                pull.buffer.clear()
                pull.buffer_bytes = 0
                break
            first = pull.buffer.popleft()
            pull.buffer_bytes -= _kept_bytes(first)
            self._take(first.prev, first.entries)
            self._commit_verified()
            room -= len(first.entries) + 1
        if self.verified >= pull.target and not pull.buffer:
            self.tenure.pull = None
            self.tenure.in_step = True
            self._reply_append(Verdict.ACK)

    def _kept_is_next(self, pull: PullState) -> bool:
        return bool(pull.buffer) and pull.buffer[0].prev.index <= self.verified

    def _end_old_pull(self) -> None:
        """Drop what was pulled in an earlier term: it proves nothing about this leader's log.

        Chunks that are still held would cut entries that this leader sent, and we would acknowledge them to
        it.
        """
        tenure = self.tenure
        if tenure.pull is not None and (tenure.pull.term != tenure.term or tenure.role is Role.LEADER):
            tenure.pull = None

    def _tick_pull(self) -> None:
        self._end_old_pull()
        pull = self.tenure.pull
        if pull is None:
            return
        late = False
        for source in list(pull.in_flight):
            patience_ms = self.settings.election_timeout_ms if source in self.peers else 0
            for asked in pull.take_late(source, self.now, patience_ms):
                late = True
                self._let_rest(pull, source)
                if pull.joined:
                    pull.ask_again(asked.after, asked.upto)
        if late or self.now - pull.asked_ms >= AVAIL_AGAIN_MS:
            self._ask_availability(pull)
        self._drain_pull(pull)

    def _ask_availability(self, pull: PullState) -> None:
        """Ask again every second and when the commit index advances: peers can serve more by then (C10)."""
        pull.asked_ms = self.now
        self._broadcast(Avail(self._cluster, self.tenure.term))

    def _pull_due(self, pull: PullState) -> int:
        due = pull.asked_ms + AVAIL_AGAIN_MS
        if not pull.in_flight and self.now - pull.started_ms < self.settings.heartbeat_ms:
            due = min(due, pull.started_ms + self.settings.heartbeat_ms)
        due = min([due, *(until for until in pull.resting.values() if until > self.now)])
        for flight in pull.in_flight.values():
            due = min(due, flight.due_ms(self.settings.election_timeout_ms))
        if self._kept_is_next(pull) or any(after <= self.verified for after in pull.held):
            due = self.now
        return due

    # ---- the serving side ---------------------------------------------------
    def _on_avail(self, sender: Incarnation, m: Avail) -> None:
        if m.term == self.tenure.term:
            self._offer_snapshot(sender)
            self._send(sender, AvailReply(self._cluster, self.tenure.term, self._serve_limit()))

    def _on_fetch(self, sender: Incarnation, m: Fetch) -> None:
        """R-serve: serve only in the asker's term, and only entries verified in that term or committed."""
        if m.term != self.tenure.term:
            return
        limit = min(self._serve_limit(), self.log.last().index)
        if m.after > limit:
            self._refuse(sender, m, limit)
            return
        mine = self.log.position(m.after)
        if m.check is not None and m.check != mine:
            hint = max(m.after - 1, 0)
            while hint > self.log.base.index and self.log.position(hint).term > m.check.term:
                hint -= 1
            self._refuse(sender, m, hint)
            return
        upto = min(m.upto, limit)
        entries = self.log.slice(m.after + 1, upto, self.settings.chunk_bytes_max) if upto > m.after else ()
        self._send(sender, Chunk(self._cluster, self.tenure.term, mine, True, entries, 0))

    def _refuse(self, sender: Incarnation, m: Fetch, hint: int) -> None:
        asked = Position(0, m.after, bytes(32))
        self._send(sender, Chunk(self._cluster, self.tenure.term, asked, False, (), hint))


def _is_covered_by(message: Message, reply: AppendReply) -> bool:
    """Return whether ``reply``, which follows ``message`` at once, contains all that ``message`` contains."""
    return (
        type(message) is AppendReply
        and message.verdict is reply.verdict
        and message.term == reply.term
        and message.match <= reply.match
        and message.seq <= reply.seq
    )


def _kept_bytes(append: Append) -> int:
    return sum(entry_bytes(entry) for entry in append.entries) + OVERHEAD_BYTES
