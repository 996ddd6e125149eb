"""Taking the group's state from peers, instead of the entries that no peer has any more (3.5).

A member pulls entries as long as any peer that answered holds those that follow its log: that costs least
for a member that lacks little. Otherwise it fetches the snapshot that most peers offer, from all of them at
once. Every chunk is proven against the evidence that the group has committed. Nothing of it is applied,
read or promised before all of it is here; then the member's state, its log's base and its configuration
change in one step. It drops a snapshot that is not ahead of what it has committed, so an install takes
nothing back.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from node.features import objection
from node.peers import Incarnation
from node.raft.entries import decode_config_untrusted
from node.raft.events import Advanced, ConfigCommitted
from node.raft.messages import Fetch, SnapshotAsk, SnapshotChunk, SnapshotOffer
from node.raft.pull import Pull
from node.raft.ranges import PullState
from node.raft.replication import AUTO_GENESIS
from node.raft.snapshot_state import Installing
from node.raft.state import HaltError
from node.raft.types import Cursor, InstallStatus, Position
from node.raft.whole import Loading, NotRestorableError
from node.sync.evidence import Anchor
from node.sync.fetching import Fetching
from node.sync.image import NotAnImageError, read_frames
from node.sync.keeper import Snapshot

LOADED_BYTES: Final = 128 * 1024  # of a snapshot that is complete, in one step


class Install(Pull):
    """Fetching and installing snapshots."""

    # ---- offers -------------------------------------------------------------
    def _on_snapshot_offer(self, sender: Incarnation, m: SnapshotOffer) -> None:
        if self.settings.trust_disk:
            return  # an install could not be made durable (``_takes_snapshots``)
        self.tenure.offers[sender] = m.evidence
        installing = self.tenure.installing
        if installing is not None and installing.fetching.evidence == m.evidence:
            installing.fetching.offer(sender)
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
        if not offers:
            return
        count = Counter(offers.values())
        chosen = max(count, key=lambda offer: (count[offer], offer.anchor.index))
        fetching = Fetching(chosen)
        for peer, offer in sorted(offers.items()):
            if offer == chosen:
                fetching.offer(peer)
        self.tenure.installing = Installing(fetching)

    def _is_ahead(self, anchor: Anchor) -> bool:
        """Return whether ``anchor`` is above our commit index, and our own log does not reach it."""
        if anchor.index <= self.tenure.commit:
            return False
        return anchor.index > self.log.last().index or self.log.position(anchor.index) != Position(*anchor)

    # ---- fetching -----------------------------------------------------------
    def _drive_install(self, installing: Installing) -> None:
        """Ask for what is missing; give up what is no longer needed or that no peer serves any more."""
        fetching = installing.fetching
        if not self._is_ahead(installing.anchor):
            self.tenure.installing = None
            return
        if fetching.is_complete:
            return
        for peer in fetching.given_up():
            self._lose_source(peer)
        if not fetching.sources:
            # A peer that offers it again, or offers another, is asked.
            if any(self._is_ahead(offer.anchor) for offer in self.tenure.offers.values()):
                self.tenure.installing = None
                self._begin_install()
            return
        for peer, number in fetching.requests(self.now, self.settings.election_timeout_ms):
            self._send(peer, SnapshotAsk(self._cluster, fetching.evidence.root, number))

    def _on_snapshot_chunk(self, sender: Incarnation, m: SnapshotChunk) -> None:
        installing = self.tenure.installing
        if installing is None or installing.fetching.evidence.root != m.root:
            return
        fetching = installing.fetching
        if not m.data:
            self._lose_source(sender)
        elif not fetching.take(sender, m.number, m.data, m.proof):
            self._lose_source(sender)
            self._violation(sender, "chunk-not-proven")
        self._drive_install(installing)

    def _lose_source(self, peer: Incarnation) -> None:
        self.tenure.offers.pop(peer, None)
        if self.tenure.installing is not None:
            self.tenure.installing.fetching.lose(peer)

    # ---- loading ------------------------------------------------------------
    def _tick_install(self) -> None:
        installing = self.tenure.installing
        if installing is None:
            return
        self._drive_install(installing)
        if self.tenure.installing is installing and installing.fetching.is_complete:
            try:
                self._load_some(installing)
            except (NotRestorableError, NotAnImageError) as exc:
                # A quorum has this very state. Asking again would bring the same.
                self._machine_raised("restore", exc)
                raise HaltError("snapshot-not-restorable") from exc

    def _load_some(self, installing: Installing) -> None:
        loading = installing.loading
        if loading is None:
            loading = installing.loading = Loading(self._make_replica(self.tenure.replica.machine))
            installing.frames = read_frames(self._count_chunks(installing))
        until = installing.loaded + LOADED_BYTES
        for section, value in installing.frames:
            first = loading.genesis is None
            loading.take(section, value)
            if first:
                self._check_head(loading, installing.anchor)
            if installing.loaded >= until:
                return
        self._install(installing, loading)

    @staticmethod
    def _count_chunks(installing: Installing) -> Iterator[bytes]:
        for chunk in installing.fetching.chunks():
            installing.loaded += len(chunk)
            yield chunk

    def _check_head(self, loading: Loading, anchor: Anchor) -> None:
        genesis, levels = loading.genesis, loading.levels
        if genesis is None or levels is None or loading.applied != anchor[:2]:
            raise NotRestorableError("the state is not that of its anchor")
        if genesis.chain != self.tenure.cluster or not self._is_genesis(genesis):
            raise NotRestorableError("the state is of another cluster")
        unfit = objection(self.build, levels)
        if unfit:
            raise HaltError(unfit)

    def _install(self, installing: Installing, loading: Loading) -> None:
        """Change state, log and configuration together; everything before happened beside them."""
        fetching, anchor = installing.fetching, installing.anchor
        self.tenure.snaps.keeper.forget_unproven()
        self.tenure.replica = loading.finish()
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
        self.tenure.installing, self.tenure.pull = None, None
        self.tenure.offers.clear()
        self.tenure.snaps.marker, self.tenure.snaps.marker_taken = anchor.index, self.log.taken
        self.tenure.snaps.marker_ms = self.now
        self.tenure.snaps.keeper.install(Snapshot(fetching.evidence, fetching.chunks(), fetching.tree()))
        self._state_replaced()
        self._announce_levels(self.tenure.replica.applied)
        self._notice(ConfigCommitted(config.epoch, config.voters, config.reason))
        self._announce_snapshot(fetching.evidence, fetched=True)
        self._notice(Advanced(self.tenure.replica.applied))

    def _install_due(self, installing: Installing) -> int:
        if installing.fetching.is_complete:
            return self.now
        return installing.fetching.due_ms(self.now, self.settings.election_timeout_ms)

    def _install_status(self) -> InstallStatus | None:
        if self.tenure.installing is None:
            return None
        fetching, anchor = self.tenure.installing.fetching, self.tenure.installing.anchor
        return InstallStatus(
            Cursor(anchor.term, anchor.index),
            fetching.done,
            fetching.evidence.count,
            fetching.evidence.size,
            fetching.sources,
        )

    # ---- the serving side ---------------------------------------------------
    def _on_fetch(self, sender: Incarnation, m: Fetch) -> None:
        if m.term == self.tenure.term and self._is_cut(m):
            self._offer_snapshot(sender)
            return
        super()._on_fetch(sender, m)
