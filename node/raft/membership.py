"""Dynamic quorum through the log (3.6): the leader writes what ``membership_plan`` asks for as Cfg entries.

Also here are the entries that change the feature level and the machine's version.
"""

from typing import Final

from node.features import Build, Features
from node.peers import Incarnation, Preference
from node.raft.entries import REMOVED_LEVEL, encode_config, encode_number
from node.raft.events import ChangeVersion, RemoveMember
from node.raft.leader import Leader
from node.raft.membership_plan import MembershipView, plan, removal
from node.raft.quorum import Config
from node.raft.state import HaltError
from node.raft.tenure import Leadership
from node.raft.types import REMOVED, Cursor, Entry, EntryKind, NotExecuted, Ok, Outcome

PROMOTION_ROUNDS: Final = 3
# A removed member goes on for this many election timeouts: it may be the vote or the copy by which the others
# learn that its removal is committed.
REMOVED_LINGERS: Final = 3


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
        config = self._plan(self._membership_view(leadership))
        if config is not None:
            self._write_config(leadership, config)

    def _write_config(self, leadership: Leadership, config: Config) -> Entry:
        entry = self._write(EntryKind.CONFIG, encode_config(config))
        # Until a voter knows of the commit, it needs a quorum of the old Cfg too: so send the commit index at
        # once.
        leadership.awaited = entry.index
        self._end_lease(leadership)
        return entry

    def _plan(self, view: MembershipView) -> Config | None:
        return plan(view)

    # ---- removal by an operator ----------------------------------------------
    def _remove_member(self, request: RemoveMember) -> None:
        outcome = self._removal(request)
        if outcome is not None:
            self._complete(request.token, outcome)

    def _removal(self, request: RemoveMember) -> Outcome | None:
        """Write the Cfg that removes a member; return what is decided already, None if that Cfg decides."""
        leadership, config, member = self.tenure.leadership, self.last_config, request.member
        if leadership is None or config is None:
            return NotExecuted("not-leader", self.tenure.leader)
        refusal = self._refusal(leadership)
        if refusal:
            return NotExecuted(refusal, self.me)
        if not self._has_committed_in_term(leadership):
            return NotExecuted("leader-is-new", self.me)
        if self._config_is_pending():
            return NotExecuted("change-pending", self.me)
        if member in config.removed:
            return Ok((), self.tenure.replica.applied)
        if member not in config.voters and member not in self.audience:
            return NotExecuted("no-such-member", self.me)
        if self._level() < REMOVED_LEVEL:
            return NotExecuted("feature-level-too-low", self.me)
        wanted = self._plan_removal(self._membership_view(leadership), member)
        if isinstance(wanted, NotExecuted):
            return wanted
        leadership.removal = (request.token, self._write_config(leadership, wanted).index)
        return None

    def _plan_removal(self, view: MembershipView, member: Incarnation) -> Config | NotExecuted:
        return removal(view, member)

    def _conclude_removal(self, leadership: Leadership, token: int, index: int) -> None:
        """Answer at the commit: when it is applied, a leader that removed itself leads no more."""
        if index <= self.tenure.commit:
            leadership.removal = None
            self._complete(token, Ok((), Cursor(leadership.term, index)))

    def _is_removed(self, config: Config, peer: Incarnation) -> bool:
        return peer in config.removed

    def _end_if_removed(self) -> None:
        if self.tenure.removed_ms is not None and self.now >= self._removed_until_ms(self.tenure.removed_ms):
            raise HaltError(REMOVED)

    def _removed_until_ms(self, removed_ms: int) -> int:
        return removed_ms + REMOVED_LINGERS * self.settings.election_timeout_ms

    def _membership_view(self, leadership: Leadership) -> MembershipView:
        config, settings, peers = self.last_config, self.settings, self.peers
        assert config is not None
        observers = {peer for peer, known in peers.items() if known.preference is Preference.OBSERVER}
        others = [voter for voter in config.voters if voter != self.me]
        return MembershipView(
            me=self.me,
            config=config,
            responsive=self._responsive(leadership),
            promotable=tuple(
                peer
                for peer in self.audience
                if peer not in config.voters
                and not self._is_removed(config, peer)
                and peer not in observers
                and leadership.streak.get(peer, 0) >= PROMOTION_ROUNDS
                and peer not in leadership.pressed
            ),
            observers=observers,
            ended_bonds=self.tenure.ended_bonds,
            silent={voter for voter in others if self._is_silent(leadership, voter)},
            lagging={voter for voter in others if self._is_lagging(leadership, voter)},
            min_voters=settings.min_voters,
            max_voters=settings.max_voters,
            tie_break=settings.tie_break,
        )

    def _is_silent(self, leadership: Leadership, voter: Incarnation) -> bool:
        answered_ms = leadership.answered_ms.get(voter, leadership.since_ms)
        return self.now - answered_ms >= self._patience_ms(self.settings.demote_after_ms)

    def _is_lagging(self, leadership: Leadership, voter: Incarnation) -> bool:
        lag = leadership.lag.get(voter)
        return lag is not None and self.now - lag[1] >= self._patience_ms(self.settings.demote_lag_ms)

    def _patience_ms(self, usual_ms: int) -> int:
        """Return how long a voter may be silent or lag: of three, longer than otherwise.

        Any two of three are a quorum; of two, only both are, and the tie. So the third should be gone for
        good before it is given up: bench.availability has measured how long to wait.
        """
        config = self.last_config
        if config is None or len(config.voters) != 3:
            return usual_ms
        return max(usual_ms, self.settings.demote_to_two_after_ms)
