"""Taking the group's state from peers, instead of the entries that no peer has any more (3.5).

A member pulls entries as long as any peer that answered holds those that follow its log: that costs least
for a member that lacks little. Otherwise it fetches the snapshot that most peers offer, from all of them at
once. Every chunk is proven against the evidence that the group has committed. Nothing of it is applied,
read or promised before all of it is here; then the member's state, its log's base and its configuration
change in one step. It drops a snapshot that is not ahead of what it has committed, so an install takes
nothing back. With trust_disk that step waits until the snapshot is durable, and the member promises nothing
of the new log before its disk has where that begins.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from node.errors import RemoteProtocolError
from node.features import objection
from node.peers import Incarnation
from node.raft.entries import INTEGER_MAX, decode_config_untrusted
from node.raft.events import Advanced, ConfigCommitted, SnapshotStored, SyncFailed
from node.raft.messages import Fetch, SnapshotOffer, SyncAnswer, SyncAsk
from node.raft.pull import Pull
from node.raft.ranges import PullState
from node.raft.replication import AUTO_GENESIS
from node.raft.snapshot_state import Installing
from node.raft.snapshots import SYNC_RESTS_MS, SyncContractError
from node.raft.state import HaltError
from node.raft.types import Cursor, InstallStatus, Position
from node.raft.whole import Loading, NotRestorableError
from node.sync.evidence import CHUNK_BYTES_MAX, Anchor, StateEvidence
from node.sync.freeing import attributes_of
from node.sync.image import Cutter, NotAnImageError, read_frames
from node.sync.keeper import Snapshot
from node.sync.state_sync import ASK_BYTES_MAX, ASKS_MAX, SyncProgress, Target

LOADED_BYTES: Final = 128 * 1024  # of a snapshot that is complete, in one step
LOADED_FRAMES: Final = 8  # in one step too: small rows cost more than their bytes
STALLED_FACTOR: Final = 30  # election timeouts in which a session must make progress
# Only a share of the whole that it never had before counts, in steps of this part: a session ends.
PROGRESS_PARTS: Final = 1024


class Install(Pull):
    """Fetching and installing snapshots."""

    # ---- offers -------------------------------------------------------------
    def _on_snapshot_offer(self, sender: Incarnation, m: SnapshotOffer) -> None:
        self.tenure.offers[sender] = m.evidence
        installing = self.tenure.installing
        if installing is not None and installing.evidence == m.evidence:
            self._add_source(installing, sender)
        pull = self.tenure.pull
        if pull is not None and pull.term == self.tenure.term:
            self._learn_anchor(m.evidence.anchor)
            pull.cut(sender, m.base)
            self._drive_pull(pull)

    def _learn_anchor(self, anchor: Anchor) -> None:
        """Commit up to an anchor that our own log holds: others may have cut what led there."""
        if self.tenure.commit < anchor.index <= self.log.last().index and not self._is_ahead(anchor):
            self._commit_to(anchor.index)

    def _drive_pull(self, pull: PullState) -> None:
        if self.tenure.offers or self.log.base.index:
            # Entries that came otherwise may be cut off already: nothing can be asked for behind them.
            pull.skip(self.tenure.commit)
        super()._drive_pull(pull)
        if self.tenure.installing is None and self._is_out_of_reach(pull):
            self._begin_install()
        if self.tenure.installing is not None:
            self._drive_install(self.tenure.installing)

    def _is_out_of_reach(self, pull: PullState) -> bool:
        """Return whether no peer that answered has the entries after ours, and all had time to answer."""
        if not self.tenure.offers or self.tenure.leader is None:
            return False
        need = pull.lowest
        if pull.cut_at.get(self.tenure.leader, 0) <= need:
            return False  # it has them, or has not answered
        if any(reach > need and pull.cut_at.get(peer, 0) <= need for peer, reach in pull.known.items()):
            return False
        answered = all(peer in pull.known for peer in self.audience)
        return answered or self.now - pull.started_ms >= self.settings.heartbeat_ms

    def _begin_install(self) -> None:
        """Fetch the snapshot ahead of us that most peers offer, and of several the newest.

        A single peer that offers what it does not serve, or what nobody else has, is not preferred.
        """
        offers = {peer: offer for peer, offer in self.tenure.offers.items() if self._is_ahead(offer.anchor)}
        if not offers or self.now < self.tenure.sync_rests_until_ms:
            return
        count = Counter(offers.values())
        chosen = max(count, key=lambda offer: (count[offer], offer.anchor.index))
        try:
            session = self.sync.session(self._target(chosen))
        except Exception as exc:  # noqa: BLE001 - the code of a user
            self._session_raised(exc)
            return
        installing = Installing(chosen, session, self.now, Cutter(chosen.chunk_bytes))
        self.tenure.installing = installing
        for peer, offer in sorted(offers.items()):
            if offer == chosen:
                self._add_source(installing, peer)

    def _target(self, evidence: StateEvidence) -> Target:
        own = self.tenure.snaps.keeper.held
        return Target(evidence, own, self.settings.election_timeout_ms)

    def _is_ahead(self, anchor: Anchor) -> bool:
        """Return whether ``anchor`` is above our commit index, and our own log does not reach it."""
        if anchor.index <= self.tenure.commit:
            return False
        return anchor.index > self.log.last().index or self.log.position(anchor.index) != Position(*anchor)

    # ---- fetching -----------------------------------------------------------
    def _drive_install(self, installing: Installing) -> None:
        """Give the session its turn; give up what is no longer needed or that no peer serves any more."""
        if not self._is_ahead(installing.anchor):
            self._drop_install()
            return
        if not _is_fetching(installing):
            return
        try:
            given_up = self._take_turn(installing)
        except Exception as exc:  # noqa: BLE001 - the code of a user
            self._session_raised(exc)
            return
        for peer in given_up:
            self._lose_source(peer)
        if self.tenure.installing is installing and not installing.sources:
            if any(self._is_ahead(offer.anchor) for offer in self.tenure.offers.values()):
                self._drop_install()
                self._begin_install()
        elif _is_fetching(installing) and self.now - installing.moved_ms >= self._stalled_ms:
            self._session_failed("stalled")

    @property
    def _stalled_ms(self) -> int:
        return STALLED_FACTOR * self.settings.election_timeout_ms

    def _take_turn(self, installing: Installing) -> list[Incarnation]:
        """Do what the session wants now; return the sources that it gives up."""
        session = installing.session
        turn = session.tick(self.now)
        if len(turn.asks) > ASKS_MAX or not all(_is_ask(payload) for _, payload in turn.asks):
            raise SyncContractError("a payload is no bytes, or there are too many")
        for peer, payload in turn.asks:
            if peer in installing.sources:
                self._send(peer, SyncAsk(self._cluster, installing.evidence.root, payload))
        installing.due_ms = max(turn.due_ms, self.now + 1)
        progress = SyncProgress(*session.progress)
        if not _is_progress(progress):
            raise SyncContractError("a progress is no two counts, of which the first is at most the second")
        installing.progress = progress
        reached = progress.done * PROGRESS_PARTS // max(progress.total, 1)
        if reached > installing.reached:
            installing.reached, installing.moved_ms = reached, self.now
        installing.pieces = session.loading()
        return [peer for peer in turn.given_up if peer in installing.sources]

    def _on_sync_answer(self, sender: Incarnation, m: SyncAnswer) -> None:
        installing = self.tenure.installing
        if installing is None or installing.evidence.root != m.root:
            return
        if not m.payload:
            self._lose_source(sender)
        elif installing.pieces is None and sender in installing.sources:
            try:
                installing.session.message(sender, m.payload)
            except RemoteProtocolError as exc:
                self._lose_source(sender)
                self._violation(sender, exc.reason)
            except Exception as exc:  # noqa: BLE001 - the code of a user
                self._session_raised(exc)
        if self.tenure.installing is installing:
            self._drive_install(installing)

    def _add_source(self, installing: Installing, peer: Incarnation) -> None:
        if self.tenure.installing is installing and peer not in installing.sources:
            installing.sources.add(peer)
            try:
                installing.session.offer(peer)
            except Exception as exc:  # noqa: BLE001 - the code of a user
                self._session_raised(exc)

    def _lose_source(self, peer: Incarnation) -> None:
        self.tenure.offers.pop(peer, None)
        installing = self.tenure.installing
        if installing is not None and peer in installing.sources:
            installing.sources.discard(peer)
            try:
                installing.session.lose(peer)
            except Exception as exc:  # noqa: BLE001 - the code of a user
                self._session_raised(exc)

    def _drop_install(self) -> None:
        """End it; what it had built is freed in small steps, unless it is the member's state now."""
        self.freeing.add(self.tenure.installing)
        self.tenure.installing = None

    def _session_raised(self, exc: Exception) -> None:
        self._machine_raised("state sync (session)", exc)
        self._session_failed(type(exc).__name__)

    def _session_failed(self, reason: str) -> None:
        """Name it, and begin no other for a while: entries are pulled meanwhile, if any peer has them."""
        self._drop_install()
        self.tenure.sync_rests_until_ms = self.now + SYNC_RESTS_MS
        self._notice(SyncFailed("session", reason))

    # ---- comparing and loading ----------------------------------------------
    def _tick_install(self) -> None:
        installing = self.tenure.installing
        if installing is None:
            return
        self._drive_install(installing)
        if self.tenure.installing is not installing or installing.pieces is None:
            return
        if installing.snapshot is None:
            self._compare_some(installing, installing.pieces)
            return
        if self.settings.trust_disk:
            self._store_fetched(installing, installing.snapshot)
        try:
            self._load_some(installing, installing.snapshot)
        except (NotRestorableError, NotAnImageError) as exc:
            # A quorum has this very state. Asking again would bring the same.
            self._machine_raised("restore", exc)
            raise HaltError("snapshot-not-restorable") from exc

    def _compare_some(self, installing: Installing, pieces: Iterator[bytes]) -> None:
        """Compare the next slice with the evidence: the session may have got it in any way."""
        evidence, cutter = installing.evidence, installing.cutter
        until = cutter.size + LOADED_BYTES
        try:
            for piece in pieces:
                if not isinstance(piece, bytes) or not 0 < len(piece) <= CHUNK_BYTES_MAX:
                    raise SyncContractError("a piece is no bytes, empty, or too large")
                cutter.add(piece)
                if cutter.size > evidence.size:
                    break
                if cutter.size >= until:
                    return
        except Exception as exc:  # noqa: BLE001 - the code of a user
            self._session_raised(exc)
            return
        cutter.end()
        snapshot = Snapshot.of(evidence.anchor, cutter) if cutter.size == evidence.size else None
        if snapshot is None or snapshot.evidence != evidence:
            self._session_failed("state-not-proven")
        else:
            installing.snapshot = snapshot

    def _load_some(self, installing: Installing, snapshot: Snapshot) -> None:
        loading = installing.loading
        if loading is None:
            loading = installing.loading = Loading(self._make_replica(self.tenure.replica.machine))
            installing.frames = read_frames(self._count_pieces(installing, snapshot))
        until = installing.loaded + LOADED_BYTES
        for count, (section, value) in enumerate(installing.frames, start=1):
            first = loading.genesis is None
            loading.take(section, value)
            if first:
                self._check_head(loading, installing.anchor)
            if installing.loaded >= until or count == LOADED_FRAMES:
                return
        installing.is_loaded = True
        if installing.is_stored or not self.settings.trust_disk:
            self._install(snapshot, loading)

    @staticmethod
    def _count_pieces(installing: Installing, snapshot: Snapshot) -> Iterator[bytes]:
        for piece in snapshot.pieces():
            installing.loaded += len(piece)
            yield piece

    def _check_head(self, loading: Loading, anchor: Anchor) -> None:
        genesis, levels = loading.genesis, loading.levels
        if genesis is None or levels is None or loading.applied != anchor[:2]:
            raise NotRestorableError("the state is not that of its anchor")
        if genesis.chain != self.tenure.cluster or not self._is_genesis(genesis):
            raise NotRestorableError("the state is of another cluster")
        unfit = objection(self.build, levels)
        if unfit:
            raise HaltError(unfit)

    def _install(self, snapshot: Snapshot, loading: Loading) -> None:
        """Change state, log and configuration together; everything before happened beside them."""
        self._take_state(snapshot, loading)
        self._drop_install()
        self.tenure.pull = None
        self.tenure.offers.clear()
        if self.settings.trust_disk:
            self._begin_behind(snapshot.evidence)
            self.tenure.snaps.storing = None  # an own one that may be under way is of an earlier place
            self.tenure.durable_index = 0
            self.tenure.writes.clear()
            self.tenure.writes.append((self.serial, snapshot.evidence.anchor.index))
        self._state_replaced()
        self._announce_state()
        self._announce_snapshot(snapshot.evidence, fetched=True)

    def _restore(self, snapshot: Snapshot) -> None:
        """Begin with the state that our own disk has (trust_disk): the log there begins behind it.

        Raises:
            HaltError: this software cannot take it.
        """
        loading = Loading(self._make_replica(self.tenure.replica.machine))
        try:
            for section, value in read_frames(snapshot.pieces()):
                loading.take(section, value)
            self.tenure.cluster = None if loading.genesis is None else loading.genesis.chain
            self._check_head(loading, snapshot.evidence.anchor)
            self._take_state(snapshot, loading)
        except (NotRestorableError, NotAnImageError) as exc:
            self._machine_raised("restore", exc)
            raise HaltError("snapshot-not-restorable") from exc
        self.tenure.snaps.base = snapshot.evidence.anchor.index
        self._announce_state()

    def _take_state(self, snapshot: Snapshot, loading: Loading) -> None:
        anchor = snapshot.evidence.anchor
        self.tenure.snaps.keeper.forget_unproven()
        replica = self.tenure.replica
        replaced = [replica, *attributes_of(replica.machine)]
        self.tenure.replica = loading.finish()
        self.freeing.add(replaced)
        genesis = loading.genesis
        assert genesis is not None
        config, _ = decode_config_untrusted(loading.config_payload)
        self.log.restart(Position(*anchor), self.tenure.replica.applied_ms)
        self.tenure.log_commands, self.tenure.dissolve_index = self.tenure.replica.commands, 0
        self.tenure.is_auto = decode_config_untrusted(genesis.payload)[0].reason == AUTO_GENESIS
        self.tenure.configs = [(loading.config_index, config)]
        self.tenure.commit = anchor.index
        # What was proven of this term's leader's log was about entries that are gone.
        self.tenure.verified_index = 0
        self.tenure.appended_ms, self.tenure.log_time_rest = self.now, 0
        self._refresh_active()
        self.tenure.snaps.marker, self.tenure.snaps.marker_taken = anchor.index, self.log.taken
        self.tenure.snaps.marker_ms = self.now
        self.tenure.snaps.keeper.install(snapshot)

    def _announce_state(self) -> None:
        """Announce what the entries that led to this state would have announced."""
        applied = self.tenure.replica.applied
        self._announce_levels(applied)
        _, config = self.tenure.configs[0]
        self._notice(ConfigCommitted(config.epoch, config.voters, config.reason))
        self._notice(Advanced(applied))

    # ---- the disk (trust_disk) ----------------------------------------------
    def _store_fetched(self, installing: Installing, snapshot: Snapshot) -> None:
        if not installing.is_storing and not installing.is_stored and self.now >= self.tenure.snaps.store_due:
            installing.is_storing = True
            self.out.store.append(snapshot)

    def _on_snapshot_stored(self, stored: SnapshotStored) -> None:
        installing = self.tenure.installing
        if installing is None or not installing.is_storing or installing.anchor != stored.anchor:
            super()._on_snapshot_stored(stored)
            return
        installing.is_storing, installing.is_stored = False, not stored.failure
        if stored.failure:
            self._not_stored(stored)

    def _install_due(self, installing: Installing) -> int:
        if installing.is_loaded and not installing.is_stored and self.settings.trust_disk:
            patience = self.now + self.settings.election_timeout_ms  # ``SnapshotStored`` ends the waiting
            return patience if installing.is_storing else max(self.now, self.tenure.snaps.store_due)
        if installing.pieces is not None:
            return self.now
        return min(installing.due_ms, installing.moved_ms + self._stalled_ms)

    def _install_status(self) -> InstallStatus | None:
        installing = self.tenure.installing
        if installing is None:
            return None
        anchor, evidence = installing.anchor, installing.evidence
        progress = installing.progress
        return InstallStatus(
            Cursor(anchor.term, anchor.index),
            progress.done,
            progress.total,
            evidence.size,
            len(installing.sources),
        )

    # ---- the serving side ---------------------------------------------------
    def _on_fetch(self, sender: Incarnation, m: Fetch) -> None:
        if m.term == self.tenure.term and self._is_cut(m):
            self._offer_snapshot(sender)
            return
        super()._on_fetch(sender, m)


def _is_ask(payload: object) -> bool:
    return isinstance(payload, bytes) and 0 < len(payload) <= ASK_BYTES_MAX


def _is_progress(progress: SyncProgress) -> bool:
    """Return whether these are counts: this member's use of memory is computed of them, and reported."""
    done, total = progress
    return type(done) is int and type(total) is int and 0 <= done <= total <= INTEGER_MAX


def _is_fetching(installing: Installing) -> bool:
    """Return whether the session still lacks a part.

    A function, because what the session does in between changes the answer, and types do not show that.
    """
    return installing.pieces is None
