"""A group member: the whole core behind ``step`` (see ``node/raft/DESIGN.md``).

Every event of a member comes in through ``step`` or ``step_many``, and everything that it wants done comes
out as ``Effects``. Equal construction and equal steps give equal effects, byte for byte.
"""

from collections.abc import Callable, Sequence
from typing import Final

from node.features import Build, Features, Span
from node.machines.base import StateMachine
from node.machines.system import EmptySystem, SystemState
from node.peers import BondLoss, Incarnation, Preference
from node.raft.budget import UNLIMITED, Budget, MemoryReported, MemoryStatus
from node.raft.client_session import ClientSession
from node.raft.events import (
    ChangeVersion,
    Effects,
    Event,
    Execute,
    Halted,
    Notice,
    Query,
    QuorumChanged,
    Received,
    Recover,
    Recovered,
    RemoveMember,
    TransferLeadership,
)
from node.raft.founding import FoundingState
from node.raft.inbox import Inbox
from node.raft.log import LogStore
from node.raft.messages import DISSOLVED_MAX
from node.raft.outlook import HELD, UNKNOWN, Absence, Absent, Outlook, Quorum, look_out
from node.raft.quorum import Config
from node.raft.reads import Reads
from node.raft.replica import Replica
from node.raft.signing import Signing
from node.raft.state import Credentials, HaltError
from node.raft.succession import Recovery, generation_of
from node.raft.tenure import Leadership
from node.raft.types import (
    FOLLOWER,
    LEADER,
    Cursor,
    Founding,
    Leading,
    MemberStatus,
    NotExecuted,
    Role,
    Settings,
    Unknown,
)

_REQUESTS: Final = (Execute, Query, TransferLeadership, RemoveMember, Recover, ChangeVersion)
SHORT_VOTERS_MAX: Final = 2  # one of this many can be a quorum, and be too few to commit anything
SETTLE_ROUNDS_MAX: Final = 8
# One step applies this many entries, and about a chunk more: all other work waits until the step ends.
APPLY_ENTRIES_MAX: Final = 4096
NUMBERS: Final = 1 << 48  # enough numbers that a restart never draws the same one again


def build_of(machine: StateMachine, features: Features, image: str) -> Build:
    """Return what a node with this machine and these features reports about its software."""
    versions = Span(machine.versions[0], machine.versions[-1])
    return Build(image, Span(features.low, features.high), machine.family, versions)


class Member(Inbox):
    """One member of one group.

    Args:
        me: this life of this node.
        group_id: 32 bytes.
        settings: equal in the whole group (they are in the GroupId).
        founding: how this member may get a genesis.
        preference: how much it wants to lead.
        features: the feature levels that this software can work at.
        image: name and version of this software, for people.
        machine: in its initial state.
        system: makes a system state in its initial state, the same on every member of the group.
        log: empty.
        credentials: the key behind ``me``.
        randrange: ``randrange(n)`` returns 0 <= x < n. The only randomness in the core.
        now_ms: monotonic milliseconds.
        recovery: whether a survivor may found a new generation; None: the group does not permit it.
        recovered: trust_disk only: what an earlier process of this same incarnation left on its disk.
        budget: how much memory this member may use; a local limit, which ``apply`` never reads.
    """

    def __init__(
        self,
        *,
        me: Incarnation,
        group_id: bytes,
        settings: Settings,
        founding: Founding,
        preference: Preference,
        machine: StateMachine,
        system: Callable[[], SystemState] = EmptySystem,
        log: LogStore,
        credentials: Credentials,
        randrange: Callable[[int], int],
        now_ms: int,
        recovered: Recovered | None = None,
        features: Features | None = None,
        image: str = "",
        budget: Budget = UNLIMITED,
        recovery: Recovery | None = None,
    ) -> None:
        self.features = features or Features()
        self.recovery = recovery
        super().__init__(
            me=me,
            group_id=group_id,
            settings=settings,
            founding=founding,
            preference=preference,
            build=build_of(machine, self.features, image),
            machine=machine,
            system=system,
            log=log,
            credentials=credentials,
            randrange=randrange,
            now_ms=now_ms,
            budget=budget,
        )
        self.published_outlook: Outlook | None = None  # the last report about a missing quorum
        # An earlier process of this incarnation may have used any small number, also one whose opening its
        # disk has lost. If we continued its session, new commands would get old results. If we reused its
        # ReadIndex id, a late answer to it would be taken for an answer to ours.
        first = 0 if recovered is None else 1 + randrange(NUMBERS)
        self.reads = self._make_reads(last_id=0 if recovered is None else randrange(NUMBERS))
        self.session = ClientSession(self, first)
        self.signing = Signing(self)
        self.founding_state = FoundingState(presence_due=now_ms)
        self.initial_state = machine.snapshot() if settings.on_rival == "discard-shorter" else None
        self.unpublished: list[Notice] = []  # since it was made
        if recovered is not None:
            try:
                self._recover(recovered)
            except HaltError as exc:
                self.halted, self.unpublished = exc.reason, [Halted(exc.reason)]

    def _make_reads(self, last_id: int) -> Reads:
        return Reads(self, last_id=last_id)

    def _recover(self, recovered: Recovered) -> None:
        """Continue as the same incarnation (trust_disk): our promises rest on this term, vote and log."""
        tenure = self.tenure
        assert self.settings.trust_disk
        self.founding_state.dissolved = recovered.ended[-DISSOLVED_MAX:]
        tenure.term, tenure.voted_for = recovered.term, recovered.voted_for
        self._bind()  # we may have answered a leader a moment ago, and its lease relies on that answer
        if recovered.snapshot is not None:
            self._restore(recovered.snapshot)
        elif recovered.entries:
            tenure.cluster = recovered.entries[0].chain
        else:
            self.founding_state.may_have_collected = True
            self.signing.recover(recovered.term, recovered.voted_for)
        if recovered.entries:
            self._append(recovered.entries)
            # A Cfg is proposed only when the one before is committed (I5), so the one before is certainly
            # committed.
            if len(tenure.configs) > 1:
                self._commit_to(tenure.configs[-2][0])
        self.unpublished, self.out = self.out.notices, Effects()
        self.serial = 0
        self._batch_open = False
        tenure.writes.clear()
        tenure.durable_index = self.log.last().index

    # ---- the way in ---------------------------------------------------------
    def step(self, now_ms: int, event: Event, *, wall_ms: int) -> Effects:
        """Take one event. ``now_ms`` is monotonic, ``wall_ms`` Unix time."""
        return self.step_many(now_ms, (event,), wall_ms=wall_ms)

    def step_many(self, now_ms: int, events: Sequence[Event], *, wall_ms: int) -> Effects:
        """Take several events at once: one broadcast and one Forward for all of them."""
        out = self.out = Effects()
        if self.unpublished:
            out.notices, self.unpublished = self.unpublished, []
        if self.halted is not None:
            self._refuse_all(events)
            return out
        if now_ms > self.now:
            self.now = now_ms
        self.wall = wall_ms
        try:
            if self.reads.leased:
                self.reads.release_leased()
            for event in events:
                # Nearly all of them are messages, and ``match`` asks each class in turn.
                if type(event) is Received:
                    self._on_message(event.sender, event.message)
                else:
                    self._handle(event)
            self._tick()
            self._settle()
        except HaltError as exc:
            self._halt(exc.reason)
            self._refuse_all(events)
            return self.out
        if self.settings.trust_disk:
            self._hold_promises()
        self._publish()
        out.next_tick_ms = self._next_tick()
        return out

    # ---- after the events ---------------------------------------------------
    def _tick(self) -> None:
        if self.now >= self.founding_state.presence_due:
            self._tick_founding()
        self.freeing.work()
        if self.tenure.cluster is None:
            return
        self._end_if_removed()
        if self.now >= self.election_due and self.tenure.role is not LEADER:
            self._tick_election()
            self._watch_quorum()
        elif self.published_outlook is not None and self.tenure.leader is not None:
            self._watch_quorum()  # a member leads again
        if self.tenure.pull is not None:
            self._tick_pull()
        if self.tenure.installing is not None:
            self._tick_install()
        self._tend_memory()
        self._tend_snapshots()
        if self.session.in_flight:
            self.session.retry()
        if self.tenure.handed_over is not None:
            self._conclude_transfer(self.tenure.handed_over)
        leadership = self.tenure.leadership
        if leadership is None:
            return
        if self.now >= leadership.census_due:
            # This must not depend on the heartbeat: under steady writes no heartbeat is ever due.
            leadership.census_due = self.now + self.settings.heartbeat_ms
            self._check_quorum(leadership)
            if self.tenure.leadership is not None:
                self._count_rounds(leadership)
                self._review_memory(leadership)
            self._watch_quorum()

    def _settle(self) -> None:
        """Commit, apply, answer, write and broadcast until no step causes another."""
        limit = self.tenure.replica.applied.index + APPLY_ENTRIES_MAX
        for _ in range(SETTLE_ROUNDS_MAX):
            commit, last, role, cluster = (
                self.tenure.commit,
                self.log.last(),
                self.tenure.role,
                self.tenure.cluster,
            )
            if cluster is not None and self.tenure.leader is not None:
                self.session.flush()
            if self.tenure.leadership is not None:
                self._lead(self.tenure.leadership)
            if self.tenure.replica.applied.index < min(self.tenure.commit, limit):
                self._apply_committed(limit)
            if self.tenure.parting_due:
                self._part_with_unfit()
            if self.reads.is_waiting:
                self.reads.flush()
            if (
                commit == self.tenure.commit
                and last == self.log.last()
                and role is self.tenure.role
                and cluster == self.tenure.cluster
            ):
                return

    def _lead(self, leadership: Leadership) -> None:
        tenure = self.tenure
        if self.log.last().index > tenure.commit:
            self._try_commit(leadership)
        if leadership.removal is not None:
            self._conclude_removal(leadership, *leadership.removal)
        if leadership.review_due:
            self._adjust_membership(leadership)
        self._lead_snapshots(leadership)
        if leadership.transfer is not None:
            self._drive_transfer(leadership, leadership.transfer)
        if self.settings.lease_reads:
            self._renew_lease(leadership)
            self.reads.read_under_lease(leadership)
        wants_round = bool(self.reads.asking or self.reads.remote) and self.reads.begin_round(leadership)
        last = self.log.last().index
        if (
            wants_round
            or last > leadership.sent_index
            or tenure.commit > leadership.announced
            or self.now >= leadership.heartbeat_due
        ):
            self._flush_leader(leadership, wants_round=wants_round)
        if self.reads.round is not None:
            self.reads.end_round(leadership)
        if not tenure.is_voter:
            self._leave()

    def _next_tick(self) -> int:
        tenure = self.tenure
        leadership = tenure.leadership
        if leadership is not None:
            due = min(leadership.heartbeat_due, leadership.census_due)
        elif tenure.cluster is not None:
            due = self.election_due
        else:
            due = self.now + self.settings.election_timeout_ms
        if tenure.cluster is None or self.has_outsiders or (tenure.leader is None and self._lacks_genesis()):
            due = min(due, self.founding_state.presence_due)
        if self.reads.round is not None or self.reads.leased:
            due = self.reads.due(due)
        if tenure.pull is not None:
            due = min(due, self._pull_due(tenure.pull))
        if tenure.installing is not None:
            due = min(due, self._install_due(tenure.installing))
        due = self.now if self.freeing.is_waiting else self._snapshots_due(due)
        if self.session.in_flight:
            due = min(due, self.session.due())
        if tenure.handed_over is not None:
            due = min(due, tenure.handed_over.until_ms)
        if tenure.removed_ms is not None:
            due = min(due, self._removed_until_ms(tenure.removed_ms))
        if tenure.replica.applied.index < tenure.commit:
            due = self.now
        return max(due, self.now)

    # ---- the end ------------------------------------------------------------
    def _halt(self, reason: str) -> None:
        """Stop, because an invariant broke. No message that this step prepared may be sent."""
        tenure = self.tenure
        self.halted = reason
        leadership = tenure.leadership
        transfers = (tenure.handed_over, leadership.transfer if leadership is not None else None)
        unanswered = [token for token, _ in self.out.completions]
        unanswered += [transfer.token for transfer in transfers if transfer is not None]
        if leadership is not None and leadership.version_change is not None:
            unanswered.append(leadership.version_change[0])
        if leadership is not None and leadership.removal is not None:
            unanswered.append(leadership.removal[0])
        self.out = Effects()
        tenure.leadership = tenure.handed_over = None
        self._become(FOLLOWER, None)  # from here on it neither leads nor follows, whatever its role was
        self._notice(Halted(reason))
        for token in unanswered:
            self._complete(token, Unknown("halted"))
        if self.online:
            self.online = False
        self.session.give_up(Unknown("halted"))
        self.reads.refuse_all("halted")

    def _refuse_all(self, events: Sequence[Event]) -> None:
        done = {token for token, _ in self.out.completions}
        for event in events:
            if not isinstance(event, _REQUESTS):
                continue
            if event.token not in done:
                self._complete(event.token, NotExecuted("halted"))
        self.out.next_tick_ms = self.now + self.settings.election_timeout_ms

    # ---- looking in ---------------------------------------------------------
    def term_at(self, index: int) -> int | None:
        """Return the term of the log's entry at ``index``; None if the log does not reach it."""
        if not 0 <= index <= self.log.last().index:
            return None
        if index < self.log.base.index:
            return self.replica.term_at(index)
        return self.log.position(index).term

    @property
    def cluster(self) -> bytes | None:
        """The id of the cluster that this member is in."""
        return self.tenure.cluster

    @property
    def term(self) -> int:
        """The present term; 0 in no cluster."""
        return self.tenure.term

    @property
    def voted_for(self) -> Incarnation | None:
        """The candidate that has this member's vote in the present term."""
        return self.tenure.voted_for

    @property
    def role(self) -> Role:
        """The role by the rules of Raft; ``shown_role`` tells a learner from a follower."""
        return self.tenure.role

    @property
    def leader(self) -> Incarnation | None:
        """The leader of the present term, as far as it is known."""
        return self.tenure.leader

    @property
    def commit(self) -> int:
        """The commit index."""
        return self.tenure.commit

    @property
    def members(self) -> tuple[Incarnation, ...]:
        """The voters of every active Cfg."""
        return self.tenure.members

    @property
    def replica(self) -> Replica:
        """The state machine, the sessions and what else the log made; another one in every cluster."""
        return self.tenure.replica

    @property
    def held_cluster(self) -> bytes | None:
        """The cluster of which this member holds a committed entry, so that it may attest to be in it.

        A member that only entered a cluster may still leave it, if no member holds an entry of it.
        """
        return self.tenure.cluster if self.tenure.commit else None

    @property
    def held_generation(self) -> int:
        """The generation of ``held_cluster``; only if there is one."""
        return generation_of(self._first_entry().term)

    def _electable(self) -> tuple[Incarnation, ...]:
        mine = () if self.preference is Preference.OBSERVER else (self.me,)
        return tuple(sorted((*mine, *(peer for peer in self.peers if not self._is_observer(peer)))))

    def outlook(self) -> Outlook:
        """Return what this member knows of quorum and missing voters, and whether waiting can help."""
        tenure = self.tenure
        if self.halted is not None or not tenure.active:
            return UNKNOWN
        if tenure.leadership is None and tenure.leader is not None:
            return HELD  # it would step down without a quorum
        here = (
            self._responsive(tenure.leadership)
            if tenure.leadership is not None
            else {*self.audience, self.me}
        )
        present = {peer for peer in here if peer == self.me or peer in self.peers}
        for voter in tenure.members:
            if any(peer.name == voter.name and peer != voter for peer in self.audience):
                tenure.replaced.add(voter)
        tenure.replaced.intersection_update(tenure.members)
        absent = [Absent(voter, self._absence(voter)) for voter in tenure.members if voter not in present]
        return look_out(
            tenure.active,
            present,
            absent,
            led=tenure.leadership is not None,
            copies_needed=self._copies_needed(),
            durable=self.settings.trust_disk,
        )

    def _absence(self, voter: Incarnation) -> Absence:
        if voter in self.tenure.replaced:
            return Absence.RESTARTED
        match self.tenure.ended_bonds.get(voter):
            case BondLoss.DEPARTED:
                return Absence.DEPARTED
            case BondLoss.EXPIRED:
                return Absence.EXPIRED
            case _:
                return Absence.UNREACHABLE

    def _watch_quorum(self) -> None:
        """Report when the quorum is lost, when the missing voters change, and when the quorum is back."""
        if (
            self.tenure.leadership is not None
            and self.published_outlook is None
            and len(self.tenure.members) > SHORT_VOTERS_MAX
        ):
            return  # it has a quorum of more than one member
        outlook = self.outlook()
        ill = outlook.quorum in (Quorum.SHORT, Quorum.LOST, Quorum.GONE)
        if not ill:
            if self.published_outlook is None or outlook.quorum is Quorum.UNKNOWN:
                return
            outlook = HELD
        if outlook != self.published_outlook:
            self.published_outlook = outlook if ill else None
            self._notice(QuorumChanged(outlook))

    @property
    def configs(self) -> tuple[Config, ...]:
        """The last Cfg that this member knows to be committed, and every later one of its log."""
        return self.tenure.active

    def leading(self) -> Leading | None:
        """Return what this member knows of the others if it leads; otherwise None."""
        leadership = self.tenure.leadership
        if leadership is None:
            return None
        responsive = {peer for peer in self._responsive(leadership) if peer == self.me or peer in self.peers}
        return Leading(
            established=self.tenure.commit >= leadership.noop_index,
            transferring=leadership.transfer is not None,
            responsive=tuple(sorted(responsive)),
            in_step=tuple(
                sorted(peer for peer in responsive if peer == self.me or self._is_in_step(leadership, peer))
            ),
            copies_needed=self._copies_needed(),
        )

    def _is_in_step(self, leadership: Leadership, peer: Incarnation) -> bool:
        return peer not in leadership.lag and leadership.match.get(peer, -1) >= leadership.noop_index

    def memory(self) -> MemoryStatus:
        """Return what is in use of the memory budget, for people and metrics."""
        leadership = self.tenure.leadership
        pressed: tuple[tuple[Incarnation, MemoryReported], ...] = ()
        if leadership is not None:
            pressed = tuple((peer, leadership.memory[peer]) for peer in sorted(leadership.pressed))
        return MemoryStatus(self.memory_use(), self.budget, pressed)

    def status(self) -> MemberStatus:
        """Return a snapshot for people and metrics."""
        tenure = self.tenure
        last = self.log.last()
        config = self.last_config
        removed = config.removed if config else ()
        commit = self.log.position(tenure.commit)
        leadership = tenure.leadership
        return MemberStatus(
            me=self.me,
            role=self.shown_role,
            term=tenure.term,
            leader=tenure.leader,
            cluster_id=tenure.cluster,
            commit=Cursor(commit.term, commit.index),
            last=Cursor(last.term, last.index),
            applied=tenure.replica.applied.index,
            config_epoch=config.epoch if config else 0,
            voters=config.voters if config else (),
            learners=tuple(
                peer for peer in self.audience if peer not in tenure.members and peer not in removed
            ),
            tie=config.tie if config else None,
            online=self.online,
            halted=self.halted,
            match={} if leadership is None else dict(sorted(leadership.match.items())),
            electable=self._electable(),
            levels=tenure.replica.levels,
            base=self.log.base.index,
            log_bytes=self.log.size,
            snapshot=self._snapshot_status(),
            install=self._install_status(),
        )
