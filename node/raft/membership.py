"""Dynamic quorum through the log (3.6): the leader writes demotions and promotions as Cfg entries.

An ABSTAIN does not change the quorum by itself; it is the signal on which the leader acts here. An entry that
shrinks the quorum is committed by the old quorum and the new one, so no minority can write it.
"""

from collections.abc import Iterator
from typing import Final

from node.features import Build, Features
from node.peers import Incarnation, Preference
from node.raft.entries import encode_config, encode_number
from node.raft.events import ChangeVersion
from node.raft.leader import Leader
from node.raft.quorum import Config, is_quorum, tie_for
from node.raft.tenure import Leadership
from node.raft.types import Entry, EntryKind, NotExecuted, Outcome

PROMOTION_ROUNDS: Final = 3


class Membership(Leader):
    """The leader's changes of the voters, the feature level and the machine's version."""

    features: Features

    def _count_rounds(self, leadership: Leadership) -> None:
        """Count, once per heartbeat, for how many rounds each learner has kept up and answered.

        A single round without an ACK does not end the count. If a heartbeat's time is short for a host, one
        answer may come just before one count, and the next answer just after the following count.
        """
        tenure = self.tenure
        leadership.review_due = True
        responsive = self._responsive(leadership)
        for peer in self.audience:
            if peer not in tenure.members:
                if peer in leadership.acked:
                    leadership.streak[peer] = leadership.streak.get(peer, 0) + 1
                elif peer not in responsive:
                    leadership.streak[peer] = 0
        leadership.acked.clear()
        known = self.peers.keys() | set(tenure.members)
        for table in (
            leadership.match,
            leadership.echo,
            leadership.answered_ms,
            leadership.lag,
            leadership.streak,
        ):
            for stranger in [peer for peer in table if peer not in known]:
                del table[stranger]
        self._raise_level(leadership)
        tenure.ended_bonds = {
            peer: loss for peer, loss in tenure.ended_bonds.items() if peer in tenure.members
        }

    # ---- feature levels, and the machine's version --------------------------
    def _builds(self) -> list[Build] | None:
        """Return the software of every voter and learner; None if a voter's software is not known.

        Learners count like voters, because they apply the same entries (U9).
        """
        if any(voter != self.me and voter not in self.peers for voter in self.tenure.members):
            return None
        others = {*self.tenure.members, *self.audience} - {self.me}
        return [self.build, *(self.peers[peer].build for peer in sorted(others))]

    def _raise_level(self, leadership: Leadership) -> None:
        """Write FEATURE n when all have known n for a while.

        A member that is away for a moment must not find it written when it returns.
        """
        present = self._level()
        # Nearly always we know no higher level ourselves.
        builds = self._builds() if self.build.features.high > present else None
        level = present if builds is None else min(build.features.high for build in builds)
        if level <= present:
            leadership.feature = None
        elif leadership.feature is None or level < leadership.feature[0]:
            leadership.feature = (level, self.now)
        elif self._is_level_known_for_long(leadership.feature[1]) and self._may_write_levels(leadership):
            self._write_levels(leadership, EntryKind.FEATURE, leadership.feature[0])
            leadership.feature = None

    def _is_level_known_for_long(self, since_ms: int) -> bool:
        return self.now - since_ms >= self.features.after_ms

    def _may_write_levels(self, leadership: Leadership) -> bool:
        """Allow one such entry at a time, and only when we have applied all of them before it."""
        return (
            not self._refusal(leadership)
            and self._has_committed_in_term(leadership)
            and leadership.levels_index <= self.tenure.commit == self.tenure.replica.applied.index
        )

    def _write_levels(self, leadership: Leadership, kind: EntryKind, number: int) -> Entry:
        entry = self._write(kind, encode_number(number))
        leadership.levels_index = leadership.awaited = entry.index
        return entry

    def _change_version(self, change: ChangeVersion) -> None:
        """Write MACHINE v, if every voter and learner can run the machine as v."""
        tenure = self.tenure
        leadership, builds, levels = tenure.leadership, self._builds(), tenure.replica.levels
        refusal = "not-leader" if leadership is None else self._refusal(leadership)
        if not refusal:
            known = builds is not None and all(
                build.versions.low <= change.version <= build.versions.high for build in builds
            )
            refusal = "" if known else "machine-version-change-unsupported"
        if (
            not refusal
            and leadership is not None
            and (levels is None or not self._may_write_levels(leadership))
        ):
            refusal = "overloaded"
        if refusal or leadership is None:
            self._complete(change.token, NotExecuted(refusal, tenure.leader))
            return
        entry = self._write_levels(leadership, EntryKind.MACHINE, change.version)
        leadership.version_change = (change.token, entry.index)

    def _version_changed(self, index: int, outcome: Outcome) -> None:
        """The MACHINE entry at ``index`` is applied here."""
        leadership = self.tenure.leadership
        if (
            leadership is not None
            and leadership.version_change is not None
            and leadership.version_change[1] == index
        ):
            self._complete(leadership.version_change[0], outcome)
            leadership.version_change = None

    # ---- configurations ------------------------------------------------------
    def _may_propose_config(self, leadership: Leadership) -> bool:
        """I5: propose a Cfg only after a commit in our term, and keep one uncommitted Cfg at most."""
        return self._has_committed_in_term(leadership) and not self._config_is_pending()

    def _has_committed_in_term(self, leadership: Leadership) -> bool:
        return self.tenure.commit >= leadership.noop_index

    def _config_is_pending(self) -> bool:
        return self.tenure.configs[-1][0] > self.tenure.commit

    def _adjust_membership(self, leadership: Leadership) -> None:
        if not leadership.review_due:
            return
        leadership.review_due = False
        if (
            leadership.transfer is not None
            or self.tenure.dissolve_index
            or not self._may_propose_config(leadership)
        ):
            return
        config = self.last_config
        assert config is not None
        responsive = self._responsive(leadership)
        for voters, reason in self._wishes(leadership, config, responsive):
            wish = Config(
                epoch=config.epoch + 1,
                voters=tuple(sorted(voters)),
                tie=tie_for(voters, self.me, tie_break=self.settings.tie_break),
                reason=reason,
            )
            if self._preflight(config, wish, responsive):
                entry = self._write(EntryKind.CONFIG, encode_config(wish))
                # Until a voter knows of the commit, it needs a quorum of the old Cfg too: so send the commit
                # index at once.
                leadership.awaited = entry.index
                return

    def _wishes(
        self, leadership: Leadership, config: Config, responsive: set[Incarnation]
    ) -> Iterator[tuple[set[Incarnation], str]]:
        """Return every single step that would improve the configuration, the most urgent first."""
        voters = set(config.voters)
        names = {voter.name for voter in voters}
        promotable = [peer for peer in self.audience if self._is_promotable(leadership, peer, voters)]
        for voter in config.voters:
            loss = self.tenure.ended_bonds.get(voter)
            if loss is not None and voter != self.me:
                yield voters - {voter}, f"demote {voter}: {loss.value}"
            known = self.peers.get(voter)
            if known is not None and known.preference is Preference.OBSERVER:
                # With trust_disk a voter may come back as an Observer: it would still count, and never elect.
                yield voters - {voter}, f"demote {voter}: observer"
                for peer in promotable:
                    if peer.name not in names:
                        yield voters - {voter} | {peer}, f"replace {voter} by {peer}"
        for voter in config.voters:
            if voter not in responsive:
                for peer in promotable:
                    if peer.name == voter.name:
                        yield voters - {voter} | {peer}, f"replace {voter} by {peer}"
        for voter in config.voters:
            if voter != self.me and self._is_unresponsive(leadership, voter):
                yield voters - {voter}, f"demote {voter}: silent"
            elif voter != self.me and self._is_lagging(leadership, voter):
                yield voters - {voter}, f"demote {voter}: lagging"
        if len(voters) < self.settings.max_voters:
            for peer in promotable:
                if peer.name not in names:
                    yield voters | {peer}, f"promote {peer}"

    def _is_promotable(self, leadership: Leadership, peer: Incarnation, voters: set[Incarnation]) -> bool:
        return (
            peer not in voters
            and self.peers[peer].preference is not Preference.OBSERVER
            and leadership.streak.get(peer, 0) >= PROMOTION_ROUNDS
        )

    def _is_unresponsive(self, leadership: Leadership, voter: Incarnation) -> bool:
        heard = leadership.answered_ms.get(voter, leadership.since_ms)
        return self.now - heard >= self.settings.demote_after_ms

    def _is_lagging(self, leadership: Leadership, voter: Incarnation) -> bool:
        lag = leadership.lag.get(voter)
        return lag is not None and self.now - lag[1] >= self.settings.demote_lag_ms

    def _preflight(self, config: Config, wish: Config, responsive: set[Incarnation]) -> bool:
        """Refuse a Cfg that could not be committed, or that has fewer voters than ``min_voters``."""
        shrinks = len(wish.voters) < len(config.voters)
        return (
            is_quorum(config, responsive)
            and is_quorum(wish, responsive)
            and not (shrinks and len(wish.voters) < self.settings.min_voters)
        )
