"""Members with one rule of the design switched off. They exist in tests only: the product has no such switch."""

from contextlib import contextmanager
from dataclasses import replace

from msgspec import structs

from node.machines.system import RequestKind
from node.raft.election import Vote
from node.raft.entries import EMPTY_PAYLOAD, decode_config_untrusted
from node.raft.keys import KeyTable
from node.raft.member import Member
from node.raft.membership_plan import VoterChange, changes, config_after, first_possible
from node.raft.reads import LeaseAnswer, Reads
from node.raft.recovering import PREDECESSOR_LIVES
from node.raft.replica import Replica
from node.raft.sessions import SessionTable
from node.raft.state import HaltError
from node.raft.types import Answer, Cursor, EntryKind, Key, NotExecuted, Ok, Role
from node.sync.keeper import Snapshot


class RollIsWhoIsBonded(Member):
    """mosaik: the roll of an election is whom the candidate can see (C2)."""

    def _roll(self):
        return tuple(sorted({self.me, *self.peers}))

    def _election_won(self):
        return 2 * len(self.tenure.grants) > len(self._roll())


class AbstainersLeaveTheDenominator(Member):
    """mosaik: whoever abstains no longer counts in this election (C3, C5)."""

    def _campaign(self, *, transfer):
        self.abstained = set()
        super()._campaign(transfer=transfer)

    def _pre_campaign(self):
        self.abstained = set()
        super()._pre_campaign()

    def _election_won(self):
        asked = len(self.tenure.members) - 1
        return len(self.tenure.grants) >= (asked - len(self.abstained)) // 2 + 1

    def _on_vote_request(self, sender, m):
        # In mosaik a node abstains, and remembers nothing, if its own log is behind the candidate's.
        mine = self.log.last()
        if (mine.term, mine.index) < (m.last.term, m.last.index) and m.term >= self.tenure.term:
            self._reply_vote(sender, m, Vote.ABSTAIN)
        else:
            super()._on_vote_request(sender, m)

    def _on_vote_reply(self, sender, m):
        if m.vote is Vote.ABSTAIN and self.tenure.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self.abstained.add(sender)
            self._count_grants()
        else:
            super()._on_vote_reply(sender, m)


class PulledEntriesUnchecked(Member):
    """mosaik: what is pulled is put behind whatever is there (C4)."""

    def _may_take(self, chunk):
        return chunk.after.index <= self.log.last().index

    def _take_pulled(self, chunk):
        fresh = [entry for entry in chunk.entries if entry.index > self.log.last().index]
        if fresh:
            self._append(fresh)
        self._verify_up_to(chunk.after.index + len(chunk.entries))
        self._commit_verified()


class OldPullGoesOn(Member):
    """The first Append of a new leader goes on with what was pulled in the term before."""

    appending = False

    def _on_append(self, sender, m):
        self.appending = True
        try:
            super()._on_append(sender, m)
        finally:
            self.appending = False

    def _end_old_pull(self):
        if not self.appending:
            super()._end_old_pull()


class OldPullCuts(OldPullGoesOn):
    """And nobody looks whether what it cuts off was verified in this term."""

    def _truncate(self, index):
        self.tenure.verified_term = 0
        super()._truncate(index)


class ServesUnverified(Member):
    """Peers hand out everything they hold, also what a dead leader wrote (no R-serve)."""

    def _serve_limit(self):
        return self.log.last().index


class NewestConfigOnly(Member):
    """The newest configuration alone decides, committed or not."""

    def _active_configs(self):
        return (self.tenure.configs[-1][1],) if self.tenure.configs else ()


class ManyMembersAtOnce(Member):
    """One Cfg makes every change that is wanted, and not one. With all active Cfgs counting that is safe."""

    def _plan(self, view):
        single = list(changes(view))
        voters = frozenset(view.config.voters)
        leave = {peer for change in single for peer in voters - change.voters}
        enter = {peer for change in single for peer in change.voters - voters}
        every = [VoterChange((voters - leave) | enter, "several at once")] if len(single) > 1 else []
        return first_possible(view, [*every, *single])


class NewestConfigOfManyMembers(ManyMembersAtOnce, NewestConfigOnly):
    """The newest Cfg alone counts, and may have no majority in common with the one before (3.13)."""


class ConfigBeforeNoop(Member):
    """A leader may change the configuration before its no-op is committed."""

    def _has_committed_in_term(self, leadership):
        return True


class NewestConfigBeforeNoop(ConfigBeforeNoop, NewestConfigOnly):
    """Both: Ongaro's membership bug of 2015."""


class _NoQuorumRoundForReads(Reads):
    def _needs_round(self):
        return False


class NoQuorumRoundForReads(Member):
    """mosaik: a leader answers strong reads by itself (C9)."""

    def _make_reads(self, last_id):
        return _NoQuorumRoundForReads(self, last_id=last_id)


class VoteNotRecorded(Member):
    """A grant binds nobody."""

    def _remember_vote(self, candidate):
        pass


class NoUpToDateCheck(Member):
    """Anybody's log is good enough to be voted for."""

    def _is_up_to_date(self, last):
        return True


class CommitsOldTerms(Member):
    """Entries of earlier terms are committed by counting copies; leaders still write a no-op."""

    def _may_commit(self, index):
        return True


class NoNoop(Member):
    """A new leader writes nothing of its own, and waits for nothing to be committed in its term."""

    def _open_term(self):
        pass

    def _has_committed_in_term(self, leadership):
        return True


class Figure8(NoNoop, CommitsOldTerms):
    """And they write none: Raft's figure 8."""


class _NoDedupe(Replica):
    def admit(self, batch, time_ms):
        known = super().admit(batch, time_ms)
        expired = isinstance(known, NotExecuted) and known.reason == "session-expired"
        return known if expired else None


class NoSessionDedupe(Member):
    """A command that comes twice is executed twice (C13)."""

    def _make_replica(self, machine):
        return _NoDedupe(machine, self.make_system(), self.settings, self.group_id)


class _NobodyJudges(Replica):
    def _judge(self, credential, request, value, now_ms):
        return None


class NobodyJudges(Member):
    """A caller is judged, if at all, by the member that it asks: what is in the log is applied."""

    def _make_replica(self, machine):
        return _NobodyJudges(machine, self.make_system(), self.settings, self.group_id)


class _JudgesByItself(Reads):
    def ask(self, query):
        request = RequestKind.SYSTEM_QUERY if query.system else RequestKind.QUERY
        replica = self.host.tenure.replica
        refusal = replica._judge(query.credential, request, query.query, 0)
        if refusal is not None:
            self.host._complete(query.token, Answer(refusal, replica.applied))
        else:
            super().ask(structs.replace(query, credential=None))


class JudgesByItself(Member):
    """A strong query is judged when it is asked, not by the state that answers it."""

    def _make_reads(self, last_id):
        return _JudgesByItself(self, last_id=last_id)


class LevelOfTheLeaderAlone(Member):
    """The leader raises the level to what it knows itself (U9)."""

    def _builds(self):
        return [self.build]


class WritesAboveItsLevel(Member):
    """A leader that knows level 2 writes what belongs to it before FEATURE 2 is applied (U8)."""

    def _level_of(self, kind):
        return 1

    def _open_term(self):
        super()._open_term()
        if self.features.high > 1:
            self._write(EntryKind.POLICY, EMPTY_PAYLOAD)


class _LeaseNotRechecked(Reads):
    def _lease_still_holds(self):
        return True


class LeaseNotRechecked(Member):
    """What was computed under a lease is answered without asking whether the lease still holds."""

    def _make_reads(self, last_id):
        return _LeaseNotRechecked(self, last_id=last_id)


class CountsNoClaims(Member):
    """No candidate counts what a dead leader would have counted (rule K): safe, and the group may be stuck."""

    def _count_claims(self):
        pass


class ClaimsMoveTheCommitIndex(Member):
    """A follower commits what it and the leader hold, before the leader knows it (rule K)."""

    def _commit_verified(self):
        super()._commit_verified()
        tenure = self.tenure
        while index := self._next_settled():
            tenure.settled = index
        self._commit_to(tenure.settled)
        self._forget_claims()


class DemotedByClaimsStands(Member):
    """A member that learns by rule K that it has no vote goes on, and wins with the votes of others."""

    def _elects_itself(self):
        return True


class KeepsClaims(Member):
    """What rule K found is kept when the election ends, below a truncation and over the cluster's end."""

    def _forget_claims(self):
        pass

    def _end_tenure(self):
        settled = self.tenure.settled
        super()._end_tenure()
        self.tenure.settled = settled

    def _become_leader(self):
        self.tenure.settled = min(self.tenure.settled, self.log.last().index)
        super()._become_leader()


class LeaseBindsNobody(Member):
    """Voters elect another leader although the old one's lease runs."""

    def _lease_binds(self, m):
        return False

    def _follows_leader(self):
        return False

    def _is_bound(self):
        return False


class LeaseBindsOthersOnly(Member):
    """A voter refuses others for the lease's sake, and stands itself as soon as its bond breaks."""

    def _leader_bond_lost(self):
        with self._free():
            super()._leader_bond_lost()

    def _tick_election(self):
        with self._free():
            super()._tick_election()

    @contextmanager
    def _free(self):
        bound, self.tenure.bound_ms = self.tenure.bound_ms, self.now
        yield
        self.tenure.bound_ms = bound


class LeaseForgottenAtRestart(Member):
    """Who restarts with its old identity knows of no lease."""

    def _recover(self, recovered):
        super()._recover(recovered)
        self.tenure.bound_ms = self.now


class _LeaseBeforeApplied(Reads):
    def read_under_lease(self, leadership):
        replica = self.host.tenure.replica
        while self.asking and self._lease_holds(leadership):
            query = self.asking.popleft()
            answer = Answer(replica.query(query, self._reading_ms()), replica.applied)
            self.leased.append(LeaseAnswer(query, answer))


class LeaseBeforeApplied(CountsNoClaims):
    """What is committed and not yet applied is missing in what is read under a lease.

    Rule K would often commit that, and so apply it, before the term has its lease.
    """

    def _make_reads(self, last_id):
        return _LeaseBeforeApplied(self, last_id=last_id)


class _LeaseBeforeOwnCommit(Reads):
    def _lease_holds(self, leadership):
        return super()._lease_holds(replace(leadership, noop_index=0))


class LeaseBeforeOwnCommit(CountsNoClaims):
    """A new leader reads under its lease before anything is committed in its term.

    Where rule K has committed all that its predecessor answered, that does no harm.
    """

    def _make_reads(self, last_id):
        return _LeaseBeforeOwnCommit(self, last_id=last_id)


class _ReadsBeforeOwnCommit(Reads):
    def begin_round(self, leadership):
        return super().begin_round(replace(leadership, noop_index=0))


class ReadsBeforeOwnCommit(CountsNoClaims):
    """A new leader confirms a strong read before anything is committed in its term (C9).

    Where rule K has committed all that its predecessor answered, that does no harm.
    """

    def _make_reads(self, last_id):
        return _ReadsBeforeOwnCommit(self, last_id=last_id)


class AcksLastIndex(Member):
    """mosaik: an ACK names the end of the log, proven or not (C16)."""

    def _ack_index(self):
        return self.log.last().index


class AcksLastIndexWithoutNoop(AcksLastIndex, NoNoop):
    """And no no-op stands between what a follower holds of old terms and what it ACKs."""


class PromisesBeforeDurable(Member):
    """trust_disk without waiting for the disk."""

    def _hold_promises(self):
        self.out.serial = self.serial
        self._batch_open = False
        self.tenure.durable_index = self.log.last().index
        self.persisted = self.serial


class UndurableLeaderCounts(Member):
    """trust_disk: a leader counts its own copy of an entry before its disk has it."""

    def _own_match(self):
        return self.log.last().index


class CountsOldGrants(Member):
    """A candidate takes the grant of an earlier term, in which it stood as well, for one of its present term."""

    def _is_of_this_election(self, m):
        return m.pre == (self.tenure.role is Role.PRE_CANDIDATE)


class CountsOldAcks(Member):
    """A leader counts what was ACKed to it in an earlier term that it led."""

    def _is_of_this_term(self, m):
        return True


class LatePersistedCounts(Member):
    """A write that was under way when its entries were cut still reports that this many are durable (ABA)."""

    def _truncate(self, index):
        before = tuple(self.tenure.writes)
        super()._truncate(index)
        self.tenure.writes.clear()
        self.tenure.writes.extend(before)


class _NeverLate(Replica):
    def admit(self, batch, time_ms):
        if batch.key is not None:
            batch = structs.replace(batch, key=Key(batch.key.name, 2**62))
        return super().admit(batch, time_ms)


class KeyedCommandsAreNeverLate(Member):
    """A command with a key is executed however late it comes into the log."""

    def _make_replica(self, machine):
        return _NeverLate(machine, self.make_system(), self.settings, self.group_id)


class RefusalHidesTerm(Member):
    """A refused pre-vote does not raise the term of the candidate."""

    def _on_vote_reply(self, sender, m):
        if m.vote is Vote.GRANTED:
            super()._on_vote_reply(sender, m)


class NoPreVote(Member):
    """A member without a leader's message stands at once, also after an election that it lost."""

    def _pre_campaign(self):
        self._become(Role.FOLLOWER, None)
        self._campaign(transfer=False)


class SingleCopies(Member):
    """One of two voters, the tie, commits alone although two were asked for."""

    def _has_enough_copies(self, holders):
        return True


class RemovedVotesAgain(Member):
    """A member that an operator removed becomes a voter again when it keeps up."""

    def _is_removed(self, config, peer):
        return False


class NoPreflight(Member):
    """Configurations are written whether or not they could be committed or fall below ``min_voters``."""

    def _plan(self, view):
        return next((config_after(view, change) for change in changes(view)), None)


class ManyPendingConfigs(Member):
    """A leader writes the next configuration before the last one is committed."""

    def _config_is_pending(self):
        return False


class NeverStepsDown(Member):
    """No check-quorum: a leader without answers goes on (it commits nothing; only liveness suffers)."""

    def _check_quorum(self, leadership):
        pass


class _KeepsEveryQuery(Reads):
    def ask(self, query):
        self.asking.append(query)


class KeepsEveryQuery(Member):
    """Reads wait without a bound."""

    def _make_reads(self, last_id):
        return _KeepsEveryQuery(self, last_id=last_id)


class DigestAtTheEndOfTheBatch(Member):
    """mosaik: the state is taken when the batch that holds the marker is applied, not at the marker."""

    def _apply_some(self):
        self.late_markers = []
        goes_on = super()._apply_some()
        for anchor in self.late_markers:
            super()._freeze(anchor)
        return goes_on

    def _freeze(self, anchor):
        self.late_markers.append(anchor)


class InstallsBelowItsCommit(Member):
    """A snapshot is taken although the member has committed more (C18)."""

    def _is_ahead(self, anchor):
        return anchor.index <= self.tenure.commit or super()._is_ahead(anchor)

    def _is_out_of_reach(self, pull):
        return bool(self.tenure.offers)


class InstallsWithoutSessions(Member):
    """The table of sessions and keys is no part of the state that is taken."""

    def _state_replaced(self):
        self.tenure.replica.table = SessionTable(self.settings)
        super()._state_replaced()


class InstallsWithoutKeys(Member):
    """The idempotency keys are no part of the state that is taken."""

    def _state_replaced(self):
        self.tenure.replica.table._keys = KeyTable(self.settings.session_ttl_ms)
        super()._state_replaced()


class InstallsTheFirstConfiguration(Member):
    """The configuration of the genesis is taken instead of that at the anchor."""

    def _state_replaced(self):
        config, _ = decode_config_untrusted(self.tenure.replica.genesis.payload)
        self.tenure.configs = [(1, config)]
        self._refresh_active()
        super()._state_replaced()


class InstallsWhatASyncBrings(Member):
    """What a session of a state sync hands over is not compared with the evidence."""

    def _compare_some(self, installing, pieces):
        for piece in pieces:
            installing.cutter.add(piece)
        installing.cutter.end()
        installing.snapshot = Snapshot.of(installing.anchor, installing.cutter)


class PrunesToItsMarker(Member):
    """The log is cut where a snapshot was asked for, before a quorum has one."""

    def _tend_snapshots(self):
        super()._tend_snapshots()
        marker = self.tenure.snaps.marker
        if self.log.base.index < marker <= self.tenure.replica.applied.index:
            self.log.prune(marker)


class NamesItsSnapshotFirst(Member):
    """trust_disk: the log on the disk begins behind a snapshot that is only on its way there."""

    def _store_held(self):
        super()._store_held()
        self._begin_behind(self.tenure.snaps.storing)

    def _on_snapshot_stored(self, stored):
        storing, self.tenure.snaps.storing = self.tenure.snaps.storing, None
        if storing is None:
            super()._on_snapshot_stored(stored)


class InstallsBeforeItIsStored(Member):
    """trust_disk: a state that was fetched counts while its snapshot is on its way to the disk."""

    def _store_fetched(self, installing, snapshot):
        super()._store_fetched(installing, snapshot)
        installing.is_stored = True


class IgnoresMemoryReports(Member):
    """The leader knows of no memory but its own."""

    def _on_memory_report(self, sender, m):
        pass


class LivesOnBesideItsPredecessor(Member):
    """A survivor's generation goes on although the cluster before it lives."""

    def _on_alive(self, m):
        pass


class YieldsToItsSuccessor(Member):
    """A member of a quorum that lives halts when it meets a survivor's generation."""

    def _meet_rival(self, sender, m):
        super()._meet_rival(sender, m)
        if self.tenure.predecessor is None:
            raise HaltError(PREDECESSOR_LIVES)


class SignsTwoSuccessors(Member):
    """A survivor goes back to where it was, and founds another generation behind the same cluster."""

    def _recover_group(self, request):
        predecessor, replica = self.tenure.predecessor, self.tenure.replica
        if predecessor is None:
            super()._recover_group(request)
            return
        self.log.restart(predecessor.position, self.log.last_ms())
        replica.applied = Cursor(predecessor.position.term, predecessor.position.index)
        entry = self._succeed(predecessor)
        self._complete(request.token, Ok((), Cursor(entry.term, entry.index)))


class ForgetsWhatItRefused(Member):
    """A leader that had no memory for a command takes another copy of it."""

    def _answer_no_room(self, origin, number, refused, seqs):
        super()._answer_no_room(origin, number, refused, seqs)
        self.tenure.refused = {}
