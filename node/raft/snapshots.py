"""Snapshots of the group's state, evidence about them, and the log that is cut behind them (3.5).

    marker     an entry. Every member freezes its state exactly there, and computes a digest of it in slices
    digest     each member reports it to the leader
    evidence   an entry: the digest that a quorum of every active configuration reported
    prune      a member cuts its log at most at the newest anchor that is committed evidence, and whose
               snapshot it holds
    base       with trust_disk: once such a snapshot is durable in a file, a record makes its anchor the base
               of the log on the disk

A member whose own digest differs from the evidence halts: its state is not the group's.
"""

from collections.abc import Sequence
from typing import Final

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.raft.events import (
    SaveBase,
    SnapshotNotStored,
    SnapshotStored,
    SnapshotTaken,
    StateDiverged,
    SyncFailed,
)
from node.raft.log import entry_bytes
from node.raft.memory import SNAPSHOT_LEVEL, Memory
from node.raft.messages import Fetch, SnapshotDigest, SnapshotOffer, SyncAnswer, SyncAsk
from node.raft.state import HaltError
from node.raft.tenure import Leadership
from node.raft.types import Cursor, Entry, EntryKind, Position, SnapshotStatus
from node.raft.whole import freeze
from node.sync.evidence import MARKER, Anchor, StateEvidence, decode_snapshot_untrusted, encode_evidence
from node.sync.keeper import DivergedError, Making
from node.sync.state_sync import ANSWER_BYTES_MAX, ANSWERS_MAX, SyncProvider

REPORT_AGAIN_MS: Final = 1000
# A marker without evidence holds the next marker up for this many election timeouts.
MARKER_PATIENCE: Final = 20
STORE_AGAIN_MS: Final = 10_000  # after the disk did not take a snapshot
PRUNED_PER_STEP: Final = 4096  # entries: more would hold the step up
SYNC_RESTS_MS: Final = 10_000  # after a state sync has failed


class SyncContractError(Exception):
    """A state sync hands over what none may."""


class Snapshots(Memory):
    """Markers, digests, evidence, and pruning."""

    # ---- the log ------------------------------------------------------------
    def _snapshot_appended(self, entry: Entry) -> None:
        snaps = self.tenure.snaps
        if entry.payload != MARKER:
            snaps.marker_taken += entry_bytes(entry)  # evidence alone is no reason for another snapshot
        else:
            snaps.marker, snaps.marker_taken, snaps.marker_ms = entry.index, self.log.taken, self.now

    def _snapshot_applied(self, entry: Entry) -> None:
        """Freeze exactly here, or take the evidence."""
        evidence = decode_snapshot_untrusted(entry.payload)
        if evidence is None:
            self._freeze(Anchor(entry.term, entry.index, entry.chain))
            return
        keeper = self.tenure.snaps.keeper
        held = keeper.held
        try:
            keeper.prove(evidence, self.now)
        except DivergedError as exc:
            raise HaltError("state-diverged") from exc
        if keeper.held is not held:
            self._announce_snapshot(evidence, fetched=False)
        if self.tenure.leadership is not None:
            for peer, report in sorted(self.tenure.snaps.reports.items()):
                self._compare(peer, report)

    def _freeze(self, anchor: Anchor) -> None:
        try:
            frames, release = freeze(self.tenure.replica)
        except Exception as exc:  # noqa: BLE001 - the group goes on without a snapshot of this member
            self.tenure.snaps.keeper.forget_unproven()
            self._machine_raised("freeze", exc)
            return
        self.tenure.snaps.keeper.begin(
            Making(anchor, frames, release, chunk_bytes=self.settings.snapshot_chunk_bytes)
        )
        try:
            self._provider().marker_applied(anchor)
        except Exception as exc:  # noqa: BLE001 - the code of a user
            self._provider_failed(exc)

    def _announce_snapshot(self, evidence: StateEvidence, *, fetched: bool) -> None:
        anchor = evidence.anchor
        self._notice(SnapshotTaken(Cursor(anchor.term, anchor.index), evidence.size, fetched))

    def _snapshot_status(self) -> SnapshotStatus | None:
        held = self.tenure.snaps.keeper.held
        if held is None:
            return None
        anchor = held.evidence.anchor
        return SnapshotStatus(Cursor(anchor.term, anchor.index), held.evidence.size)

    # ---- in every step ------------------------------------------------------
    def _tend_snapshots(self) -> None:
        """Do a slice of what is under way."""
        snaps = self.tenure.snaps
        keeper = snaps.keeper
        if keeper.making is not None:
            self._make_some()
        if keeper.ready is not None and self.now >= snaps.report_due:
            self._report(keeper.ready.evidence)
        if snaps.pace.waiting:
            self._answer_asks()
        if keeper.before is not None:
            keeper.tidy(self.now)
        if keeper.held is not None and keeper.held.evidence.anchor.index > self.log.base.index:
            self._prune(keeper.held.evidence.anchor.index)
        if self.settings.trust_disk and self._may_store() and self.now >= snaps.store_due:
            self._store_held()

    def _make_some(self) -> None:
        keeper = self.tenure.snaps.keeper
        held = keeper.held
        try:
            keeper.work(self.now)
        except DivergedError as exc:
            raise HaltError("state-diverged") from exc
        except Exception as exc:  # noqa: BLE001 - as in ``_freeze``
            self._machine_raised("freeze", exc)
            return
        if keeper.ready is not None:
            self.tenure.snaps.report_due = self.now
        if keeper.held is not None and keeper.held is not held:
            self._announce_snapshot(keeper.held.evidence, fetched=False)

    def _report(self, evidence: StateEvidence) -> None:
        self.tenure.snaps.report_due = self.now + REPORT_AGAIN_MS
        if self.tenure.leadership is None and self.tenure.leader is not None:
            self._send(self.tenure.leader, SnapshotDigest(self._cluster, self.tenure.term, evidence))

    def _snapshots_due(self, due: int) -> int:
        snaps = self.tenure.snaps
        keeper = snaps.keeper
        if keeper.making is not None:
            return self.now
        if keeper.held is not None and self._can_prune(keeper.held.evidence.anchor.index):
            return self.now
        if self.settings.trust_disk and self._may_store():
            due = min(due, snaps.store_due)
        asked = snaps.pace.due_ms() if snaps.pace.waiting else None
        if asked is not None:
            due = min(due, asked)
        if keeper.ready is not None and self.tenure.leadership is None:
            return min(due, snaps.report_due)
        return due

    # ---- pruning ------------------------------------------------------------
    def _can_prune(self, limit: int) -> bool:
        first = self.log.base.index + 1
        return first <= limit and self._is_spare(first, self.log.size)

    def _is_spare(self, index: int, size: int) -> bool:
        """Return whether the entry at ``index``, the first of ``size`` bytes, need not wait for laggards."""
        if self.tenure.memory.is_tight:
            return True
        age_ms = self.log.last_ms() - self.log.get(index).time_ms
        return size > self.settings.log_keep_bytes or age_ms > self.settings.log_keep_ms

    def _prune(self, limit: int) -> None:
        """Cut the log at ``limit`` at most, and keep the rest for members that lag a little."""
        base = cut = self.log.base.index
        limit = min(limit, base + PRUNED_PER_STEP)
        size = self.log.size
        while cut < limit and self._is_spare(cut + 1, size):
            cut += 1
            size -= entry_bytes(self.log.get(cut))
        if cut > base:
            self.log.prune(cut)

    # ---- the disk (trust_disk) ----------------------------------------------
    def _may_store(self) -> bool:
        """Return whether the log on the disk could begin behind a later snapshot than it does."""
        snaps = self.tenure.snaps
        held = snaps.keeper.held
        return held is not None and snaps.storing is None and held.evidence.anchor.index > snaps.base

    def _store_held(self) -> None:
        held = self.tenure.snaps.keeper.held
        assert held is not None
        self.tenure.snaps.storing = held.evidence
        self.out.store.append(held)

    def _on_snapshot_stored(self, stored: SnapshotStored) -> None:
        snaps = self.tenure.snaps
        if snaps.storing is None or snaps.storing.anchor != stored.anchor:
            return  # of a cluster that ended, from before an install, or of one that was given up
        evidence, snaps.storing = snaps.storing, None
        if stored.failure:
            self._not_stored(stored)
        else:
            self._begin_behind(evidence)

    def _not_stored(self, stored: SnapshotStored) -> None:
        self.tenure.snaps.store_due = self.now + STORE_AGAIN_MS
        self._notice(SnapshotNotStored(Cursor(stored.anchor.term, stored.anchor.index), stored.failure))

    def _begin_behind(self, evidence: StateEvidence) -> None:
        """The snapshot is durable: only now may the log on the disk name it, and what came before be cut."""
        self.tenure.snaps.base = evidence.anchor.index
        self._record(SaveBase(evidence))

    # ---- the leader ---------------------------------------------------------
    def _on_snapshot_digest(self, sender: Incarnation, m: SnapshotDigest) -> None:
        if self.tenure.leadership is None or m.term != self.tenure.term:
            return
        self._begin_reports()
        self.tenure.snaps.reports[sender] = m.evidence
        self._compare(sender, m.evidence)

    def _begin_reports(self) -> None:
        snaps = self.tenure.snaps
        if snaps.term != self.tenure.term:
            snaps.term, snaps.proposed = self.tenure.term, 0
            snaps.reports.clear()

    def _compare(self, peer: Incarnation, report: StateEvidence) -> None:
        known = self.tenure.snaps.keeper.known
        named = self.tenure.snaps.named
        if (
            known is not None
            and known.anchor == report.anchor
            and known != report
            and named.get(peer) != known.anchor
        ):
            named[peer] = known.anchor
            self._notice(StateDiverged(peer, Cursor(known.anchor.term, known.anchor.index)))

    def _lead_snapshots(self, leadership: Leadership) -> None:
        """Write evidence, or the next marker, if it is time."""
        snaps = self.tenure.snaps
        ready = snaps.keeper.ready
        if ready is not None or snaps.reports:
            self._begin_reports()
            if ready is not None:
                snaps.reports[self.me] = ready.evidence
            self._propose_evidence(leadership)
        if self._is_marker_due(leadership) and self._may_write_snapshot(leadership):
            self._write(EntryKind.SNAPSHOT, MARKER)

    def _propose_evidence(self, leadership: Leadership) -> None:
        snaps = self.tenure.snaps
        known = snaps.keeper.known
        newest = max(snaps.proposed, 0 if known is None else known.anchor.index)
        if all(report.anchor.index <= newest for report in snaps.reports.values()):
            return  # nearly always: this is asked in every step of a leader
        for evidence in dict.fromkeys(report for _, report in sorted(snaps.reports.items())):
            if evidence.anchor.index <= newest or not self._is_agreed(evidence):
                continue
            if self._has_applied_marker(evidence.anchor) and self._may_write_snapshot(leadership):
                snaps.proposed = evidence.anchor.index
                self._write(EntryKind.SNAPSHOT, encode_evidence(evidence))
                return

    def _is_agreed(self, evidence: StateEvidence) -> bool:
        """Return whether a quorum of every active configuration computed this state.

        With the tie-break a leader alone is a quorum of two. It must not halt the other one by its own word.
        """
        agree = {peer for peer, report in self.tenure.snaps.reports.items() if report == evidence}
        return self._have(agree) and self._has_enough_copies(agree)

    def _has_applied_marker(self, anchor: Anchor) -> bool:
        index, applied = anchor.index, self.tenure.replica.applied.index
        return self.log.base.index <= index <= applied and self.log.position(index) == Position(*anchor)

    def _may_write_snapshot(self, leadership: Leadership) -> bool:
        return (
            self._level() >= SNAPSHOT_LEVEL
            and self.tenure.commit >= leadership.noop_index
            and leadership.transfer is None
            and not self.tenure.dissolve_index
        )

    def _is_marker_due(self, leadership: Leadership) -> bool:
        """Return whether the log has grown enough since the last marker, and that one is done with."""
        snaps, settings = self.tenure.snaps, self.settings
        keeper = snaps.keeper
        grown = self.log.taken - snaps.marker_taken
        size = 0 if keeper.held is None else keeper.held.evidence.size
        waited = self.now - max(snaps.marker_ms, self.tenure.since_ms)
        is_time = grown >= max(settings.snapshot_bytes, size) or (waited >= settings.snapshot_ms and grown)
        is_first = snaps.is_wanted and not snaps.marker
        if not (is_time or is_first) and not self._wants_early_marker(leadership, grown):
            return False
        if keeper.making is not None or not self._takes_snapshots():
            return False
        proven = 0 if keeper.known is None else keeper.known.anchor.index
        return snaps.marker <= proven or waited >= MARKER_PATIENCE * settings.election_timeout_ms

    # ---- serving ------------------------------------------------------------
    def _offer_snapshot(self, peer: Incarnation) -> None:
        held = self.tenure.snaps.keeper.held
        if held is not None and self.log.base.index:
            self._send(peer, SnapshotOffer(self._cluster, self.log.base.index, held.evidence))

    def _on_sync_ask(self, sender: Incarnation, m: SyncAsk) -> None:
        self.tenure.snaps.pace.ask(sender, m.root, m.payload)
        self._answer_asks()

    def _answer_asks(self) -> None:
        for peer, root, payload in self.tenure.snaps.pace.due(self.now):
            for answer in self._answers_to(peer, root, payload):
                self._send(peer, SyncAnswer(self._cluster, root, answer))

    def _answers_to(self, peer: Incarnation, root: bytes, payload: bytes) -> Sequence[bytes]:
        snaps = self.tenure.snaps
        snapshot = snaps.keeper.serve(root, self.now)
        if snapshot is None:
            return (b"",)
        if self.now < snaps.rests_until_ms:
            return ()
        try:
            answers = tuple(self._provider().message(peer, snapshot, payload))
            if len(answers) > ANSWERS_MAX or not all(_is_answer(one) for one in answers):
                raise SyncContractError("an answer is no bytes, or there are too many")
        except RemoteProtocolError as exc:
            self._violation(peer, exc.reason)
        except Exception as exc:  # noqa: BLE001 - the code of a user
            self._provider_failed(exc)
        else:
            return answers
        return ()

    def _provider(self) -> SyncProvider:
        snaps = self.tenure.snaps
        if snaps.provider is None:
            snaps.provider = self.sync.provider()
        return snaps.provider

    def _provider_failed(self, exc: Exception) -> None:
        """Name it, and let it rest: peers are served by others meanwhile, and never in another way."""
        self.tenure.snaps.rests_until_ms = self.now + SYNC_RESTS_MS
        self._machine_raised("state sync (provider)", exc)
        self._notice(SyncFailed("provider", type(exc).__name__))

    def _is_cut(self, m: Fetch) -> bool:
        """Return whether the entries that ``m`` asks for are no longer in our log."""
        return m.after < self.log.base.index


def _is_answer(payload: object) -> bool:
    return isinstance(payload, bytes) and 0 < len(payload) <= ANSWER_BYTES_MAX
