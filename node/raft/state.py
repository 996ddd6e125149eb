"""What outlives a cluster (3.2), and the few moves that every rule uses. No I/O, clock or randomness.

The core is one object, written in chapters: each module adds one class to a single line of inheritance

    State > Promises > Replication > Memory > Snapshots > Pull > Install > Follower > Leader > Membership
          > Forwarding > Election > ClusterFounding > Rivals > Recovering > Inbox > Member

so a chapter uses the chapters before it, and a test build switches a rule off by overriding one method.
Reads, the session of this node's callers and its signature under a genesis are components beside that line:
there a test build passes another one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from node.features import Build
from node.machines.base import StateMachine
from node.machines.system import SystemState
from node.peers import Incarnation, Preference
from node.raft.budget import Budget
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
from node.raft.tenure import Leadership, Tenure
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
from node.sync.freeing import Freeing

# From each role the roles that may follow. A learner is a follower that is no voter (``State.shown_role``).
MOVES: Final = {
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.LEADER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}
CATCHING_UP_PATIENCE: Final = 10  # election timeouts without a leader before a member that catches up stands


class HaltError(Exception):
    """An invariant broke: the member stops. ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def nothing_buffered() -> int:
    """Return how many bytes wait outside of a member that has no driver."""
    return 0


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
    """

    preference: Preference
    build: Build
    cluster: bytes | None = None
    presence: Presence | None = None


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
        budget: Budget,
    ) -> None:
        self.me = me
        self.group_id = group_id
        self.settings = settings
        self.founding = founding
        self.preference = preference
        self.build = build
        self.log = log
        self.budget = budget
        # The driver may count what waits there and in the bonds.
        self.buffered: Callable[[], int] = nothing_buffered
        self.credentials = credentials
        self.randrange = randrange
        self.make_system = system
        self.sync = machine.state_sync()
        # The driver may log exceptions of the machine; that changes nothing here.
        self.on_raised: Callable[[str, BaseException], None] = ignore_raised
        self.now = now_ms
        self.wall = 0
        self.halted: str | None = None
        self.out, self.freeing = Effects(), Freeing()

        self.tenure = self._new_tenure(machine)
        self.peers: dict[Incarnation, Peer] = {}
        self.audience: tuple[Incarnation, ...] = ()
        self.has_outsiders = False  # some bonded peers may not know our cluster, or be in another

        self.online = False
        self.published_leader: Incarnation | None = None
        self.published_role = Role.LEARNER
        self.election_wait = self._draw_election_wait()
        self.election_due = now_ms + self.election_wait

        # trust_disk: promises wait until what they rest on is durable.
        self.serial = 0
        self.persisted = 0
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
    def _snapshot_appended(self, entry: Entry) -> None:
        """A SNAPSHOT entry is in our log now."""

    @abstractmethod
    def _snapshot_applied(self, entry: Entry) -> None:
        """A SNAPSHOT entry was applied just now, and no entry after it."""

    @abstractmethod
    def _state_replaced(self) -> None:
        """A snapshot of the group's state has taken the place of ours."""

    @abstractmethod
    def _dissolve(self, cursor: Cursor) -> None:
        """Our cluster gave itself up at ``cursor``."""

    @abstractmethod
    def _meet_rival(self, sender: Incarnation, m: Presence) -> None:
        """A bonded peer is in another cluster of our group."""

    # ---- configuration ------------------------------------------------------
    def _active_configs(self) -> tuple[Config, ...]:
        """active(n): the last Cfg at or below commit and every one above (3.2)."""
        tenure = self.tenure
        settled = [config for index, config in tenure.configs if index <= tenure.commit]
        return (
            *settled[-1:],
            *(config for index, config in tenure.configs if index > tenure.commit),
        )

    def _refresh_active(self) -> None:
        """Recompute what depends on configurations or on the commit index having passed one."""
        tenure = self.tenure
        while len(tenure.configs) > 1 and tenure.configs[1][0] <= tenure.commit:
            del tenure.configs[0]
        tenure.active = self._active_configs()
        tenure.members = tuple(sorted({v for config in tenure.active for v in config.voters}))
        tenure.is_voter = self.me in tenure.members
        if tenure.removed_ms is None and tenure.configs and tenure.configs[0][0] <= tenure.commit:
            tenure.removed_ms = self.now if self.me in tenure.configs[0][1].removed else None

    def _have(self, members: set[Incarnation]) -> bool:
        """have(n, S): a quorum in EVERY active configuration; none without a configuration."""
        return bool(self.tenure.active) and is_quorum_of_all(self.tenure.active, members)

    @property
    def last_config(self) -> Config | None:
        return self.tenure.configs[-1][1] if self.tenure.configs else None

    def _new_tenure(self, machine: StateMachine) -> Tenure:
        """Return the tenure of a member that is in no cluster."""
        return self._new_tenure_over(self._make_replica(machine))

    def _new_tenure_over(self, replica: Replica) -> Tenure:
        """Return the tenure of a member that keeps what it has applied."""
        return Tenure(replica=replica, since_ms=self.now, appended_ms=self.now)

    def _make_replica(self, machine: StateMachine) -> Replica:
        replica = Replica(machine, self.make_system(), self.settings, self.group_id)
        replica.on_raised = self._machine_raised
        return replica

    def _machine_raised(self, what: str, raised: BaseException) -> None:
        self.on_raised(what, raised)

    @property
    def _cluster(self) -> bytes:
        assert self.tenure.cluster is not None
        return self.tenure.cluster

    # ---- terms and roles ----------------------------------------------------
    def _set_vote(self, term: int, voted_for: Incarnation | None) -> None:
        """I1: one vote per term; trust_disk makes it durable before a peer learns of it."""
        tenure = self.tenure
        assert term > tenure.term or (term == tenure.term and tenure.voted_for in (None, voted_for))
        if term > tenure.term:
            tenure.term_leader = None
        tenure.term = term
        tenure.voted_for = voted_for
        self._record(SaveVote(term, voted_for))

    def _become(self, role: Role, leader: Incarnation | None) -> None:
        """Take on ``role`` under ``leader``; every change of a role is made here.

        Raises:
            HaltError: that role cannot follow the present one.
        """
        tenure = self.tenure
        if role not in MOVES[tenure.role]:
            raise HaltError("impossible-role-change")
        tenure.role = role
        tenure.leader = leader
        if leader is None:
            tenure.in_step = False
        else:
            tenure.term_leader = leader
            if tenure.verified_term == tenure.term:
                # Committed entries may have been verified before this term's leader was known.
                tenure.verified_leader = leader
        if role is FOLLOWER:
            self._forget_claims()

    def _forget_claims(self) -> None:
        """Drop what was learned for one election: only what follows from it is kept, when it is won."""
        self.tenure.claims = {}
        self.tenure.settled = 0

    def _become_follower(self, term: int, leader: Incarnation | None) -> None:
        tenure = self.tenure
        if tenure.leadership is not None:
            # "Verified in a term" means proven equal to the log of that term's leader.
            tenure.verified_term, tenure.verified_index = tenure.term, self.log.last().index
            tenure.verified_leader = self.me
        if term > tenure.term:
            self._set_vote(term, None)
            tenure.leader_contact_ms = None
        if tenure.role is not FOLLOWER or leader != tenure.leader:
            self._rearm_election()
        self._become(FOLLOWER, leader)
        if tenure.leadership is not None:
            leadership, tenure.leadership, tenure.in_step = tenure.leadership, None, False
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
        tenure = self.tenure
        if tenure.role is LEADER or self._is_bound():
            return True
        if tenure.leader_contact_ms is None or (
            tenure.leader is not None and tenure.leader not in self.peers
        ):
            return False
        return self.now - tenure.leader_contact_ms < self.settings.election_timeout_ms

    def _bind(self) -> None:
        """Promise to elect no leader, not even ourselves, for an election timeout from now."""
        self.tenure.bound_ms = self.now + self.settings.election_timeout_ms

    def _is_bound(self) -> bool:
        """Return whether a leader may read under a lease that it got by our answer to its Append (3.7).

        A broken bond, a later term, or a restart of the same incarnation does not take that promise back.
        """
        return self.settings.lease_reads and self.now < self.tenure.bound_ms

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
                if peer.cluster is None or peer.cluster == self.tenure.cluster
            )
        )
        self.has_outsiders = any(
            peer.presence is None or peer.cluster != self.tenure.cluster for peer in self.peers.values()
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
        tenure = self.tenure
        if tenure.role is FOLLOWER and not tenure.is_voter:
            return Role.LEARNER
        return tenure.role

    def _publish(self) -> None:
        tenure = self.tenure
        if tenure.leader != self.published_leader:
            self.published_leader = tenure.leader
            self._notice(LeaderChanged(tenure.leader, tenure.term))
        role = tenure.role if tenure.is_voter else self.shown_role
        if role is not self.published_role:
            self.published_role = role
            self._notice(RoleChanged(role, tenure.term))
        if tenure.leadership is not None:
            online = tenure.commit >= tenure.leadership.noop_index
        else:
            online = tenure.leader is not None and tenure.in_step
        if online != self.online:
            self.online = online
            self._notice(OnlineChanged(online))
