"""The memory budget (3.5): a write is refused before it is in the log, while a voter has no memory for it.

What is in the log is applied by every member, and ``apply`` reads no local limit. So the leader alone
decides, from what the voters report: how much they use, and how much they may. In between it counts what it
has written since. A member that takes more than half of its budget reports with every heartbeat, any other
one with some, and when its log has grown by a part of its budget.

Commands that only make the state smaller, the group's own state, and what the leader itself writes
(configurations, markers, evidence) have room beyond the mark.
"""

from typing import Final

from attestation.encoding.fields import integer
from node.peers import Incarnation
from node.raft.budget import (
    NO_BUDGET,
    OUTCOME_COST,
    Budget,
    MemoryReported,
    MemoryUse,
    log_memory,
)
from node.raft.client_session import ClientSession
from node.raft.entries import ENTRY_LEVELS, commands_of_untrusted
from node.raft.events import MemoryPressed
from node.raft.log import entry_bytes
from node.raft.messages import MemoryReport, Proposal
from node.raft.replication import Replication
from node.raft.tenure import NEVER, Leadership
from node.raft.types import EntryKind

SNAPSHOT_LEVEL: Final = ENTRY_LEVELS[EntryKind.SNAPSHOT]
# A member looks again, and reports again, when its log has grown by these parts of its budget.
MEASURE_PARTS: Final = 64
REPORT_PARTS: Final = 32
REPORT_BEATS: Final = 10  # and after this many heartbeats, because a report may be overtaken
# A snapshot is worth its work if the log has grown by this part of the smallest budget since the last one.
WORTH_PARTS: Final = 16
WORTH_BYTES_MIN: Final = 16 * 1024  # and by this much: a voter may report a budget that none can run with
# What a member lacks is counted entry by entry up to here; beyond it the whole log of the leader counts.
COUNTED_MAX: Final = 4096
_BYTES: Final = integer(0, NO_BUDGET)


class Memory(Replication):
    """What this member uses, and what the leader knows of the voters."""

    session: ClientSession
    budget: Budget

    # ---- this member --------------------------------------------------------
    def memory_use(self) -> MemoryUse:
        """Return what is in use; no part is walked through for it."""
        tenure = self.tenure
        replica, keeper = tenure.replica, tenure.snaps.keeper
        held = 0 if keeper.held is None else keeper.held.evidence.size
        kept = replica.table.key_use().kept_bytes
        keys = max(replica.table.keys_memory - kept, 0) + OUTCOME_COST * replica.table.outcomes
        store = self._machine_memory() or held
        # The first snapshot is about as large as what it is made of.
        expected = (held or store + kept) if self._takes_snapshots() else 0
        installing, pull = tenure.installing, tenure.pull
        fetched = 0
        if installing is not None:
            fetched = installing.memory_bytes
        if pull is not None:
            fetched += pull.buffer_bytes + len(pull.held) * self.settings.chunk_bytes_max
        return MemoryUse(
            log=log_memory(self.log),
            kept=kept,
            keys=keys,
            store=store,
            snapshots=keeper.memory_bytes(expected),
            fetched=fetched,
            buffers=self.buffered() + 2 * self.session.pending_bytes,
        )

    def _machine_memory(self) -> int:
        try:
            # Peers refuse a report with any other value, and the bond with it.
            return _BYTES(self.tenure.replica.machine.memory_bytes)
        except Exception as exc:  # noqa: BLE001 - as if the machine did not know
            self._machine_raised("memory_bytes", exc)
            return 0

    def _takes_snapshots(self) -> bool:
        return self.sync.takes_snapshots and self._level() >= SNAPSHOT_LEVEL

    def _tend_memory(self) -> None:
        """Measure if it is time, and report to the leader."""
        own = self.tenure.memory
        if self.now < own.due and self.log.taken < own.due_taken:
            return
        if self.budget.size == NO_BUDGET:
            own.due = own.due_taken = NEVER
            return
        self._measure_memory()
        leadership = self.tenure.leadership
        if leadership is not None:
            self._review_memory(leadership)
        elif self.tenure.leader is not None and self._owes_report():
            self._report_memory(self.tenure.leader)

    def _measure_memory(self) -> None:
        own, taken = self.tenure.memory, self.log.taken
        own.use = self.memory_use().total
        own.is_tight = own.use >= self.budget.early
        own.due = self.now + self.settings.heartbeat_ms
        own.taken, own.due_taken = taken, taken + self.budget.size // MEASURE_PARTS
        if own.is_tight:
            self.tenure.snaps.keeper.before = None  # a peer that still fetches it begins with the next one

    def _owes_report(self) -> bool:
        own = self.tenure.memory
        return (
            own.reported_term != self.tenure.term
            or own.reported_much  # what is less now the leader has to learn, too
            or self.now - own.reported_ms >= REPORT_BEATS * self.settings.heartbeat_ms
            or self._is_much(own.use)
            or own.taken - own.reported_taken >= self.budget.size // REPORT_PARTS
        )

    def _is_much(self, use: int) -> bool:
        return use >= self.budget.size // 2

    def _report_memory(self, leader: Incarnation) -> None:
        own = self.tenure.memory
        own.reported_term, own.reported_taken = self.tenure.term, own.taken
        own.reported_much, own.reported_ms = self._is_much(own.use), self.now
        last = self.log.last().index
        self._send(leader, MemoryReport(self._cluster, self.tenure.term, last, own.use, self.budget.size))

    # ---- the leader ---------------------------------------------------------
    def _on_memory_report(self, sender: Incarnation, m: MemoryReport) -> None:
        leadership = self.tenure.leadership
        if leadership is None or m.term != self.tenure.term:
            return
        lacks = self._bytes_after(m.last)
        leadership.memory[sender] = MemoryReported(m.use, Budget(m.budget), self.log.taken - lacks)
        self._review_memory(leadership)

    def _bytes_after(self, index: int) -> int:
        """Return how many bytes of our log a member lacks whose log ends at ``index``."""
        last = self.log.last().index
        if last - index > COUNTED_MAX or index < self.log.base.index:
            return self.log.size
        return sum(entry_bytes(self.log.get(at)) for at in range(index + 1, last + 1))

    def _review_memory(self, leadership: Leadership) -> None:
        """Find how far the log may grow before the first voter is at one of its limits."""
        own, taken = self.tenure.memory, self.log.taken
        if self.budget.size != NO_BUDGET:
            leadership.memory[self.me] = MemoryReported(own.use, self.budget, own.taken)
        early = mark = full = NEVER
        smallest = NO_BUDGET
        for peer, known in leadership.memory.items():
            budget = known.budget
            allowed = budget.low if peer in leadership.pressed else budget.mark
            end = known.taken_at(allowed)
            if (taken >= end) != (peer in leadership.pressed):
                self._note_pressed(leadership, peer, known, pressed=taken >= end)
            if peer in self.tenure.members:
                mark = min(mark, end)
                early = min(early, known.taken_at(budget.early))
                full = min(full, known.taken_at(budget.full))
                smallest = min(smallest, budget.size)
        leadership.taken_early, leadership.taken_max, leadership.taken_full = early, mark, full
        leadership.marker_worth = max(smallest // WORTH_PARTS, WORTH_BYTES_MIN)

    def _note_pressed(
        self, leadership: Leadership, peer: Incarnation, known: MemoryReported, *, pressed: bool
    ) -> None:
        if pressed:
            leadership.pressed.add(peer)
        else:
            leadership.pressed.discard(peer)
        self._notice(MemoryPressed(peer, known.use, known.budget.size, pressed))

    def _forget_memory(self, leadership: Leadership, peer: Incarnation) -> None:
        """A member that is not here takes no memory for what is written now."""
        if leadership.memory.pop(peer, None) is not None:
            leadership.pressed.discard(peer)
            self._review_memory(leadership)

    def _has_room(self, leadership: Leadership, proposal: Proposal) -> bool:
        """Return whether this entry may be written although ``taken_max`` is reached."""
        self._measure_memory()
        self._review_memory(leadership)
        taken = self.log.taken
        if taken < leadership.taken_max or proposal.kind is EntryKind.SESSION:
            return True
        if taken >= leadership.taken_full:
            return False
        return proposal.kind is EntryKind.SYSTEM or self._frees(proposal.payload)

    def _frees(self, payload: bytes) -> bool:
        commands = commands_of_untrusted(payload)
        try:
            return bool(commands) and all(map(self.tenure.replica.machine.frees, commands))
        except Exception as exc:  # noqa: BLE001 - no such command is known to make room
            self._machine_raised("frees", exc)
            return False

    def _fullest(self, leadership: Leadership) -> tuple[Incarnation, MemoryReported]:
        """Return the voter for which writes are refused, and what is known of it."""
        voters = [(peer, known) for peer, known in leadership.memory.items() if peer in self.tenure.members]
        return min(voters, key=lambda one: one[1].taken_at(one[1].budget.mark))

    def _wants_early_marker(self, leadership: Leadership, grown: int) -> bool:
        """Return whether a snapshot is due before its time, because it makes room."""
        return self.log.taken >= leadership.taken_early and grown >= leadership.marker_worth
