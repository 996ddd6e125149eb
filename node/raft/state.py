"""What a member knows (3.2), and the few moves that every rule uses. No I/O, clock or randomness.

The core is one object, written in chapters: each module adds one class to a single line of inheritance

    State > Promises > Replication > Pull > Follower > Leader > Membership > Reads > Clients
          > Election > Signing > Founding > Rivals > Inbox > Member

so a chapter uses the chapters before it, and a test build switches a rule off by overriding one method.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from node.features import Build
from node.machines.base import StateMachine
from node.machines.system import SystemState
from node.peers import Incarnation, Preference
from node.raft.events import (
    Effects,
    LeaderChanged,
    Notice,
    OnlineChanged,
    Record,
    RoleChanged,
    SaveVote,
    Send,
    Violation,
)
from node.raft.log import LogStore
from node.raft.messages import Message, Presence
from node.raft.quorum import Config, is_quorum_of_all
from node.raft.replica import Replica, ignore_raised
from node.raft.types import (
    FOLLOWER,
    LEADER,
    Cursor,
    Entry,
    Founding,
    Outcome,
    Role,
    Settings,
)

UNECHOED_MAX: Final = 4096  # broadcasts that a lease is timed by; an older one would end the lease sooner
NOTHING_AWAITED: Final = 1 << 62
MARKS_MAX: Final = 1024  # marks of a leader that no quorum has answered yet; at most one per ``MARK_MS``
CATCHING_UP_PATIENCE: Final = 10  # election timeouts without a leader before a member that catches up stands


class HaltError(Exception):
    """An invariant broke: the member stops. ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Credentials(Protocol):
    """The incarnation's key, for genesis signatures."""

    def sign(self, data: bytes) -> bytes:
        """Return our signature over ``data``."""
        ...

    def verify(self, incarnation: Incarnation, data: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` over ``data`` was made with the key of ``incarnation``."""
        ...


@dataclass(slots=True)
class Peer:
    """A bonded peer.

    Attributes:
        cluster: the cluster that its last message or presence named.
        presence: its last one.
        rival: it was reported as a member of a rival cluster.
    """

    preference: Preference
    build: Build
    cluster: bytes | None = None
    presence: Presence | None = None
    rival: bool = False


@dataclass(slots=True)
class Transfer:
    """A leadership transfer under way. ``token`` is answered when it is decided."""

    token: int
    target: Incarnation
    until_ms: int
    sent: bool = False


class Mark(NamedTuple):
    """A leader's broadcast: a peer that answers it or a later one had elected no other at ``ms``."""

    seq: int
    commit: int
    ms: int


@dataclass(slots=True)
class Leadership:
    """What only a leader knows; dropped when it steps down.

    Attributes:
        term: in which it leads.
        noop_index: of its first entry: nothing of earlier terms counts before that is committed.
        seq: of the last Append broadcast; 0 before the first.
        sent_index: the last index broadcast.
        announced: the commit index last broadcast.
        awaited: the last index whose commit a peer waits for: the peer forwarded that entry, or the entry is
            a Cfg.
        match: verified match index per peer.
        echo: highest seq answered per peer, in this term.
        answered_ms: when a peer last answered.
        sent_ms: (seq, when) of broadcasts that no quorum has echoed yet, oldest first; only the latest.
        marks: when broadcasts were sent that no quorum is known to have echoed, oldest first.
        lag: peer -> (have index, since when it makes no progress).
        streak: rounds, one a census, in which a learner ACKed since it last lagged or failed to answer.
        acked: the peers that ACKed since the last census.
        census_due: when to check the quorum and count rounds; steady writes put off heartbeats, not this.
        proposed: (session, seq) -> index of entries written in this term and not yet applied.
        review_due: the membership may have to change.
        feature: a feature level that all members know, and since when; None if all know no higher level.
        levels_index: of the last FEATURE or MACHINE entry that it wrote.
        version_change: the request that waits for the MACHINE entry at an index to be applied.
        lease_ms: the time until which a quorum elects no other leader; 0 without lease reads.
    """

    term: int
    noop_index: int
    since_ms: int
    heartbeat_due: int
    census_due: int
    seq: int = 0
    sent_index: int = 0
    announced: int = 0
    awaited: int = 0
    match: dict[Incarnation, int] = field(default_factory=dict)
    echo: dict[Incarnation, int] = field(default_factory=dict)
    answered_ms: dict[Incarnation, int] = field(default_factory=dict)
    sent_ms: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=UNECHOED_MAX))
    marks: deque[Mark] = field(default_factory=lambda: deque(maxlen=MARKS_MAX))
    mark_due: int = 0
    lag: dict[Incarnation, tuple[int, int]] = field(default_factory=dict)
    streak: dict[Incarnation, int] = field(default_factory=dict)
    acked: set[Incarnation] = field(default_factory=set)
    proposed: dict[tuple[bytes, int], int] = field(default_factory=dict)
    transfer: Transfer | None = None
    review_due: bool = True
    feature: tuple[int, int] | None = None
    levels_index: int = 0
    version_change: tuple[int, int] | None = None
    lease_ms: int = 0
    lease_forbidden: bool = False


class State(ABC):
    """The state of one member and its elementary moves."""

    def __init__(
        self,
        *,
        me: Incarnation,
        group_id: bytes,
        settings: Settings,
        founding: Founding,
        preference: Preference,
        build: Build,
        machine: StateMachine,
        system: Callable[[], SystemState],
        log: LogStore,
        credentials: Credentials,
        randrange: Callable[[int], int],
        now_ms: int,
    ) -> None:
        self.me = me
        self.group_id = group_id
        self.settings = settings
        self.founding = founding
        self.preference = preference
        self.build = build
        self.log = log
        self.credentials = credentials
        self.randrange = randrange
        self.make_system = system
        # The driver may log exceptions of the machine; that changes nothing here.
        self.on_raised: Callable[[str, BaseException], None] = ignore_raised
        self.replica = self._make_replica(machine)

        self.now = now_ms
        self.wall = 0
        self.born_ms = now_ms
        self.appended_ms = now_ms
        self.halted: str | None = None
        self.out = Effects()

        # 3.2. Terms here are the counters of generation 0: disaster recovery makes new generations.
        self.term = 0
        self.voted_for: Incarnation | None = None
        self.role = Role.FOLLOWER
        self.leader: Incarnation | None = None
        self.cluster: bytes | None = None
        self.commit = 0
        self.configs: list[tuple[int, Config]] = []
        self.verified_term = 0
        self.verified_index = 0
        self.leadership: Leadership | None = None

        self.peers: dict[Incarnation, Peer] = {}
        self.audience: tuple[Incarnation, ...] = ()
        self.has_outsiders = False  # some bonded peers may not know our cluster, or be in another
        self.active: tuple[Config, ...] = ()
        self.members: tuple[Incarnation, ...] = ()
        self.is_voter = False

        self.leader_contact_ms: int | None = None  # when the current leader's last message arrived
        # At ``covered_ms`` a leader had committed no more than what is applied here; None: never known.
        self.covered_ms: int | None = None
        # The index to apply to cover all that the leader of a term had committed at some time (3.7).
        self.awaited_index, self.awaited_term, self.awaited_ms = NOTHING_AWAITED, 0, 0
        self.bound_ms = now_ms  # until when lease reads bind our vote
        self.in_step = False  # the last Append matched
        self.online = False
        self.published_leader: Incarnation | None = None
        self.published_role = Role.LEARNER
        self.election_wait = self._draw_election_wait()
        self.election_due = now_ms + self.election_wait

        # trust_disk: promises wait until what they rest on is durable.
        self.serial = 0
        self.persisted = 0
        self.writes: deque[tuple[int, int]] = deque()  # (serial, last index written by it)
        self.durable_index = 0
        self.held: deque[tuple[int, Send]] = deque()
        self.released: list[Send] = []  # in this step
        self._batch_open = False

    # ---- what later chapters define -----------------------------------------
    @abstractmethod
    def _entry_applied(self, session: bytes, seq: int, outcome: Outcome) -> None:
        """A command of some session was decided."""

    @abstractmethod
    def _abdicated(self, leadership: Leadership) -> None:
        """We stepped down."""

    @abstractmethod
    def _dissolve(self, cursor: Cursor) -> None:
        """Our cluster gave itself up at ``cursor``."""

    @abstractmethod
    def _meet_rival(self, sender: Incarnation, m: Presence) -> None:
        """A bonded peer is in another cluster of our group."""

    @abstractmethod
    def _is_genesis(self, entry: Entry) -> bool:
        """Return whether ``entry`` is a genesis that every one of its founders signed."""

    # ---- configuration ------------------------------------------------------
    def _active_configs(self) -> tuple[Config, ...]:
        """active(n): the last Cfg at or below commit and every one above (3.2)."""
        settled = [config for index, config in self.configs if index <= self.commit]
        return (*settled[-1:], *(config for index, config in self.configs if index > self.commit))

    def _refresh_active(self) -> None:
        """Recompute what depends on configurations or on the commit index having passed one."""
        while len(self.configs) > 1 and self.configs[1][0] <= self.commit:
            del self.configs[0]
        self.active = self._active_configs()
        self.members = tuple(sorted({v for config in self.active for v in config.voters}))
        self.is_voter = self.me in self.members

    def _have(self, members: set[Incarnation]) -> bool:
        """have(n, S): a quorum in EVERY active configuration; none without a configuration."""
        return bool(self.active) and is_quorum_of_all(self.active, members)

    @property
    def last_config(self) -> Config | None:
        return self.configs[-1][1] if self.configs else None

    def _make_replica(self, machine: StateMachine) -> Replica:
        replica = Replica(machine, self.make_system(), self.settings, self.group_id)
        replica.on_raised = self._machine_raised
        return replica

    def _machine_raised(self, what: str, raised: BaseException) -> None:
        self.on_raised(what, raised)

    # ---- terms and roles ----------------------------------------------------
    def _set_vote(self, term: int, voted_for: Incarnation | None) -> None:
        """I1: one vote per term; trust_disk makes it durable before a peer learns of it."""
        assert term > self.term or (term == self.term and self.voted_for in (None, voted_for))
        self.term = term
        self.voted_for = voted_for
        self._record(SaveVote(term, voted_for))

    def _become_follower(self, term: int, leader: Incarnation | None) -> None:
        if self.leadership is not None:
            # "Verified in a term" means proven equal to the log of that term's leader.
            self.verified_term, self.verified_index = self.term, self.log.last().index
        if term > self.term:
            self._set_vote(term, None)
            self.leader_contact_ms = None
        if self.role is not FOLLOWER or leader != self.leader:
            self._rearm_election()
        self.role = FOLLOWER
        self.leader = leader
        if leader is None:
            self.in_step = False
        if self.leadership is not None:
            leadership, self.leadership, self.in_step = self.leadership, None, False
            self._abdicated(leadership)

    def _draw_election_wait(self) -> int:
        """Randomised, so that split votes are rare (Raft 5.2); Reluctant waits longer."""
        wait = self.settings.election_timeout_ms + self.randrange(self.settings.election_jitter_ms + 1)
        if self.preference is Preference.RELUCTANT:
            wait *= self.settings.reluctant_factor
        return wait

    def _rearm_election(self) -> None:
        self.election_wait = self._draw_election_wait()
        self.election_due = self.now + self.election_wait

    def _follows_leader(self) -> bool:
        """Stickiness: return whether to refuse other candidates because we follow a leader (3.4).

        A follower whose bond with the leader broke no longer counts as following it, so a killed leader is
        replaced at once. With lease reads it still counts.
        """
        if self.role is LEADER or self._is_bound():
            return True
        if self.leader_contact_ms is None or (self.leader is not None and self.leader not in self.peers):
            return False
        return self.now - self.leader_contact_ms < self.settings.election_timeout_ms

    def _bind(self) -> None:
        """Promise to elect no leader, not even ourselves, for an election timeout from now."""
        self.bound_ms = self.now + self.settings.election_timeout_ms

    def _is_bound(self) -> bool:
        """Return whether a leader may read under a lease that it got by our answer to its Append (3.7).

        A broken bond, a later term, or a restart of the same incarnation does not take that promise back.
        """
        return self.settings.lease_reads and self.now < self.bound_ms

    def _is_observer(self, peer: Incarnation) -> bool:
        """Return whether ``peer`` bonded as one that never stands and never leads (3.4)."""
        return self.peers[peer].preference is Preference.OBSERVER

    # ---- effects ------------------------------------------------------------
    def _send(self, to: Incarnation, message: Message) -> None:
        if to in self.peers:
            self.out.sends.append(Send((to,), message))

    def _broadcast(self, message: Message, *, lazy: bool = False) -> None:
        """Send to every bonded peer that is not known to be in another cluster."""
        if self.audience:
            self.out.sends.append(Send(self.audience, message, lazy))

    def _refresh_audience(self) -> None:
        self.audience = tuple(
            sorted(
                inc
                for inc, peer in self.peers.items()
                if peer.cluster is None or peer.cluster == self.cluster
            )
        )
        self.has_outsiders = any(
            peer.presence is None or peer.cluster != self.cluster for peer in self.peers.values()
        )

    def _complete(self, token: int, outcome: Outcome) -> None:
        self.out.completions.append((token, outcome))

    def _notice(self, notice: Notice) -> None:
        self.out.notices.append(notice)

    def _violation(self, peer: Incarnation, reason: str) -> None:
        self._notice(Violation(peer, reason))

    def _record(self, record: Record) -> None:
        if not self.settings.trust_disk:
            return
        if not self._batch_open:
            self._batch_open = True
            self.serial += 1
        self.out.persist.append(record)

    # ---- notices that follow the state --------------------------------------
    @property
    def shown_role(self) -> Role:
        if self.role is FOLLOWER and not self.is_voter:
            return Role.LEARNER
        return self.role

    def _publish(self) -> None:
        if self.leader != self.published_leader:
            self.published_leader = self.leader
            self._notice(LeaderChanged(self.leader, self.term))
        role = self.role if self.is_voter else self.shown_role
        if role is not self.published_role:
            self.published_role = role
            self._notice(RoleChanged(role, self.term))
        if self.leadership is not None:
            online = self.commit >= self.leadership.noop_index
        else:
            online = self.leader is not None and self.in_step
        if online != self.online:
            self.online = online
            self._notice(OnlineChanged(online))
