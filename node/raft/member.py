"""A group member: the whole core behind ``step`` (see ``node/raft/DESIGN.md``).

Everything that happens to a member comes in through ``step`` or ``step_many``; everything it wants done comes
out as ``Effects``. Same construction, same steps: same effects, byte for byte.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

from node.machines.base import StateMachine
from node.raft.entries import session_id
from node.raft.events import (
    BondDown,
    BondLoss,
    BondUp,
    Cancel,
    Effects,
    Event,
    Execute,
    Halted,
    Persisted,
    Query,
    Received,
    Recovered,
    Tick,
    TransferLeadership,
)
from node.raft.founding import Birth
from node.raft.log import LogStore
from node.raft.messages import (
    Append,
    AppendReply,
    Avail,
    AvailReply,
    Chunk,
    ClusterMessage,
    Fetch,
    Forward,
    ForwardReply,
    Genesis,
    GenesisProposal,
    GenesisSignature,
    Message,
    Presence,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from node.raft.origin import Outbox
from node.raft.reads import ReadQueues
from node.raft.rivals import Rivals
from node.raft.state import Credentials, HaltError, Leadership, Peer
from node.raft.types import (
    Bootstrap,
    Cursor,
    Founding,
    Incarnation,
    MemberStatus,
    NotExecuted,
    Preference,
    Settings,
    Unknown,
)

SETTLE_ROUNDS_MAX = 8
SESSION_NUMBERS = 1 << 48  # so many that a restart never draws one again


class Member(Rivals):
    """One member of one group.

    Args:
        me: this life of this node.
        group_id: 32 bytes.
        settings: equal in the whole group (they are in the GroupId).
        founding: how this member may come to have a genesis.
        preference: how much it wants to lead.
        machine: in its initial state.
        log: empty.
        credentials: the key behind ``me``.
        randrange: ``randrange(n)`` returns 0 <= x < n. The only chance in the core.
        now_ms: monotonic milliseconds.
        recovered: trust_disk only: what an earlier process of this same incarnation left on its disk.
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
        log: LogStore,
        credentials: Credentials,
        randrange: Callable[[int], int],
        now_ms: int,
        recovered: Recovered | None = None,
    ) -> None:
        super().__init__(
            me=me,
            group_id=group_id,
            settings=settings,
            founding=founding,
            preference=preference,
            machine=machine,
            log=log,
            credentials=credentials,
            randrange=randrange,
            now_ms=now_ms,
        )
        self.gone = {}
        self.reads = ReadQueues()
        # An earlier process of this incarnation may have used any small number, also one whose
        # opening its disk has lost: going on in its session would answer new commands with old results.
        first = 0 if recovered is None else 1 + randrange(SESSION_NUMBERS)
        self.box = Outbox(first, session_id(group_id, me.id, first))
        self.grants = set()
        self.birth = Birth(presence_due=now_ms)
        self.initial_state = machine.snapshot() if settings.on_rival == "discard-shorter" else None
        if recovered is not None:
            self._recover(recovered)

    def _recover(self, recovered: Recovered) -> None:
        """Go on as the same incarnation (trust_disk): term, vote and log are what we promised by."""
        assert self.settings.trust_disk
        self.term, self.voted_for = recovered.term, recovered.voted_for
        if not recovered.entries:
            self._remember_signature(recovered.voted_for)
        else:
            self._append(recovered.entries)
            self.cluster = recovered.entries[0].chain
            # A Cfg is proposed only when the one before is committed (I5): so much is certain.
            if len(self.configs) > 1:
                self._commit_to(self.configs[-2][0])
        self.out = Effects()
        self.serial = 0
        self._batch_open = False
        self.writes.clear()
        self.durable_index = self.log.last().index

    # ---- the way in ---------------------------------------------------------
    def step(self, now_ms: int, event: Event, *, wall_ms: int) -> Effects:
        """Take one event. ``now_ms`` is monotonic, ``wall_ms`` Unix time."""
        return self.step_many(now_ms, (event,), wall_ms=wall_ms)

    def step_many(self, now_ms: int, events: Sequence[Event], *, wall_ms: int) -> Effects:
        """Take several events at once: one broadcast and one Forward for all of them."""
        out = self.out = Effects()
        if self.halted is not None:
            self._refuse_all(events)
            return out
        self.now = max(now_ms, self.now)
        self.wall = wall_ms
        try:
            if self.reads.leased:
                self._release_leased()
            for event in events:
                self._handle(event)
            self._tick()
            self._settle()
        except HaltError as exc:
            self._halt(exc.reason)
            self._refuse_all(events)
            return self.out
        self._hold_promises()
        self._publish()
        out.next_tick_ms = self._next_tick()
        return out

    def _handle(self, event: Event) -> None:
        match event:
            case Received():
                self._on_message(event.sender, event.message)
            case Execute():
                self._on_execute(event)
            case Query():
                self._on_query(event)
            case Tick():
                pass
            case BondUp():
                self._on_bond_up(event.peer, event.preference)
            case BondDown():
                self._on_bond_down(event.peer, event.loss)
            case Cancel():
                self._on_cancel(event)
            case TransferLeadership():
                self._start_transfer(event.token, event.target)
            case Persisted():
                self._persisted(event.serial)
                self._count_own_vote()
            case _:
                assert_never(event)

    # ---- bonds --------------------------------------------------------------
    def _on_bond_up(self, peer: Incarnation, preference: Preference) -> None:
        self.peers[peer] = Peer(preference)
        self.gone.pop(peer, None)
        self._refresh_audience()
        self._send(peer, self._presence())

    def _on_bond_down(self, peer: Incarnation, loss: BondLoss) -> None:
        if self.peers.pop(peer, None) is None:
            return
        self._refresh_audience()
        if loss is not BondLoss.LOST and peer in self.members:
            self.gone[peer] = loss
        if self.lead is not None:
            self.lead.review_due = True
            self.lead.streak.pop(peer, None)
            if peer not in self.members:
                self.lead.match.pop(peer, None)
                self.lead.echo.pop(peer, None)
                self.lead.heard_ms.pop(peer, None)
                self.lead.lag.pop(peer, None)
        if peer == self.leader:
            self._leader_bond_lost()
        if self.pull is not None:
            self.pull.known.pop(peer, None)
        self.reads.remote.pop(peer, None)
        self._drive_founding()

    # ---- messages -----------------------------------------------------------
    def _on_message(self, sender: Incarnation, message: Message) -> None:
        peer = self.peers.get(sender)
        if peer is None:
            return  # its bond is gone: what it said last no longer counts
        match message:
            case Presence():
                self._on_presence(sender, message)
            case GenesisProposal():
                self._on_genesis_proposal(sender, message)
            case GenesisSignature():
                self._on_genesis_signature(sender, message)
            case Genesis():
                self._on_genesis(sender, message)
            case _:
                if self._is_ours(sender, peer, message):
                    self._on_cluster_message(sender, message)

    def _is_ours(self, sender: Incarnation, peer: Peer, message: ClusterMessage) -> bool:
        """R2: only messages of our own cluster count. Who is in none enters the first that it meets."""
        if message.cluster == self.cluster:
            if peer.cluster != self.cluster:
                peer.cluster = self.cluster
                self._refresh_audience()
            return True
        if message.cluster in self.birth.dissolved:
            self._send(sender, self._presence())
            return False
        peer.cluster = message.cluster
        self._refresh_audience()
        if self.cluster is not None or not self._may_enter():
            self._send(sender, self._presence())
            return False
        self._enter(message.cluster)
        return True

    def _may_enter(self) -> bool:
        return self.founding.bootstrap is not Bootstrap.INIT

    def _on_cluster_message(self, sender: Incarnation, m: ClusterMessage) -> None:
        match m:
            case Append():
                self._on_append(sender, m)
            case AppendReply():
                self._on_append_reply(sender, m)
            case Forward():
                self._on_forward(sender, m)
            case ForwardReply():
                self._on_forward_reply(sender, m)
            case ReadIndex():
                self._on_read_index(sender, m)
            case ReadIndexReply():
                self._on_read_index_reply(m)
            case VoteRequest():
                self._on_vote_request(sender, m)
            case VoteReply():
                self._on_vote_reply(sender, m)
            case Avail():
                self._on_avail(sender, m)
            case AvailReply():
                self._on_avail_reply(sender, m)
            case Fetch():
                self._on_fetch(sender, m)
            case Chunk():
                self._on_chunk(sender, m)
            case TimeoutNow():
                self._on_timeout_now(sender, m)
            case _:
                assert_never(m)

    # ---- after the events ---------------------------------------------------
    def _tick(self) -> None:
        self._tick_founding()
        if self.cluster is None:
            return
        self._tick_election()
        if self.pull is not None:
            self._tick_pull()
        if self.box.flying:
            self._retry_forwards()
        lead = self.lead
        if lead is None:
            return
        if self.now >= lead.census_due:
            # Not with the heartbeat: under steady writes no heartbeat is ever due.
            lead.census_due = self.now + self.settings.heartbeat_ms
            self._check_quorum(lead)
            if self.lead is not None:
                self._count_rounds(lead)

    def _settle(self) -> None:
        """Commit, apply, answer, write, broadcast: until nothing more follows from anything."""
        for _ in range(SETTLE_ROUNDS_MAX):
            before = (self.commit, self.log.last().index, self.role, self.cluster)
            if self.cluster is not None:
                self._flush_origin()
            if self.lead is not None:
                self._lead(self.lead)
            if self.replica.applied.index < self.commit:
                self._apply_committed()
            self._flush_reads()
            if before == (self.commit, self.log.last().index, self.role, self.cluster):
                return

    def _lead(self, lead: Leadership) -> None:
        self._try_commit(lead)
        self._adjust_membership(lead)
        if lead.transfer is not None:
            self._drive_transfer(lead, lead.transfer)
        if self.settings.lease_reads:
            self._renew_lease(lead)
            self._read_under_lease(lead)
        wants_round = bool(self.reads.asking or self.reads.remote) and self._begin_round(lead)
        self._flush_leader(lead, wants_round=wants_round)
        if self.reads.round is not None:
            self._end_round(lead)
        self._leave_if_demoted()

    def _flush_reads(self) -> None:
        if self.reads.round is not None:
            self._drop_void_round()
        if self.lead is None and self.reads.asking:
            self._ask_leader()
        if self.reads.settled:
            self._answer_settled()

    def _next_tick(self) -> int:
        if self.lead is not None:
            due = min(self.lead.heartbeat_due, self.lead.census_due)
        elif self.cluster is not None:
            due = self.election_due
        else:
            due = self.now + self.settings.election_timeout_ms
        for other in (self._founding_due(), self._reads_due(), self._pull_due(), self._origin_due()):
            if other is not None and other < due:
                due = other
        return max(due, self.now)

    # ---- the end ------------------------------------------------------------
    def _halt(self, reason: str) -> None:
        """An invariant broke. Nothing that this step wanted to say may be said."""
        self.halted = reason
        self.out = Effects()
        self.lead = None
        self._notice(Halted(reason))
        if self.online:
            self.online = False
        for token in sorted(self.box.tokens):
            self._complete(token, Unknown("halted"))
        reads = self.reads
        waiting = [query for _, query in reads.settled] + list(reads.asking)
        waiting += reads.round.queries if reads.round else []
        waiting += [held.query for held in reads.leased]
        for query in waiting:
            self._complete(query.token, NotExecuted("halted"))
        self.box.tokens.clear()
        self.reads = ReadQueues()

    def _refuse_all(self, events: Sequence[Event]) -> None:
        done = {token for token, _ in self.out.completions}
        for event in events:
            if isinstance(event, Execute | Query | TransferLeadership) and event.token not in done:
                self._complete(event.token, NotExecuted("halted"))
        self.out.next_tick_ms = self.now + self.settings.election_timeout_ms

    # ---- looking in ---------------------------------------------------------
    def term_at(self, index: int) -> int | None:
        """Return the term of the log's entry at ``index``; None if the log does not reach it."""
        if not 0 <= index <= self.log.last().index:
            return None
        return self.log.position(index).term

    def status(self) -> MemberStatus:
        """Return a snapshot for people and metrics."""
        last = self.log.last()
        config = self.last_config
        commit = self.log.position(self.commit)
        lead = self.lead
        return MemberStatus(
            me=self.me,
            role=self.shown_role,
            term=self.term,
            leader=self.leader,
            cluster_id=self.cluster,
            commit=Cursor(commit.term, commit.index),
            last=Cursor(last.term, last.index),
            applied=self.replica.applied.index,
            config_epoch=config.epoch if config else 0,
            voters=config.voters if config else (),
            learners=tuple(peer for peer in self.audience if peer not in self.members),
            tie=config.tie if config else None,
            online=self.online,
            halted=self.halted,
            match={} if lead is None else dict(sorted(lead.match.items())),
        )
