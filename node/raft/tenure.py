"""What a member knows of the cluster that it is in (3.2), or of being in none: all of it ends together.

A member leaves a cluster that gave itself up (``rivals``) by one assignment: it makes a new ``Tenure``. What
outlives a cluster is in ``State``: who this member is, its peers and timers, and how far its disk has come.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from node.features import Levels
from node.peers import BondLoss, Incarnation
from node.raft.budget import MemoryReported
from node.raft.events import Send
from node.raft.quorum import Config
from node.raft.ranges import PullState
from node.raft.replica import Replica
from node.raft.snapshot_state import Installing, Snapshotting
from node.raft.succession import Predecessor
from node.raft.types import FOLLOWER, Cursor, Role
from node.sync.evidence import StateEvidence

UNECHOED_MAX: Final = 4096  # broadcasts that a lease is timed by; an older one would end the lease sooner
NOTHING_AWAITED: Final = 1 << 62
NEVER: Final = 1 << 62  # a time, or a size of the log, that is not reached
MARKS_MAX: Final = 1024  # marks of a leader that no quorum has answered yet; at most one per ``MARK_MS``


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
        removal: the request that waits for the Cfg at an index to be committed.
        lease_ms: the time until which a quorum elects no other leader; 0 without lease reads.
        memory: what each member last reported of its memory.
        pressed: the members that were over their mark, and have not come below ``Budget.low`` again.
        taken_early, taken_max, taken_full: at which ``log.taken`` the first voter reaches these limits.
        marker_worth: by how much the log must have grown for a snapshot before its time.
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
    removal: tuple[int, int] | None = None
    lease_ms: int = 0
    lease_forbidden: bool = False
    memory: dict[Incarnation, MemoryReported] = field(default_factory=dict)
    pressed: set[Incarnation] = field(default_factory=set)
    taken_early: int = NEVER
    taken_max: int = NEVER
    taken_full: int = NEVER
    marker_worth: int = 0


@dataclass(slots=True)
class Refused:
    """The commands of one session that this member refused for want of memory, and refuses in every copy.

    Attributes:
        window: no origin waits for a command this far below one that it has handed over.
        member, reported: which member had no room for the latest of them, and what was known of it.
        last: the highest of them.
        seqs: those above ``last - window``, and maybe some others. All below count as refused.
    """

    window: int
    member: Incarnation
    reported: MemoryReported
    last: int = 0
    seqs: set[int] = field(default_factory=set)

    def __contains__(self, seq: int) -> bool:
        return seq <= self.last - self.window or seq in self.seqs

    def add(self, seq: int, member: Incarnation, reported: MemoryReported) -> None:
        self.member, self.reported = member, reported
        self.last = max(self.last, seq)
        self.seqs.add(seq)
        if len(self.seqs) >= 2 * self.window:
            self.seqs = {one for one in self.seqs if one > self.last - self.window}


@dataclass(slots=True)
class OwnMemory:
    """What this member measured of its own memory.

    Attributes:
        due, due_taken: when to measure again: a time, and a size of the log (``log.taken``).
        taken: ``log.taken`` when it was measured.
        use: bytes in use then.
        is_tight: it is more than ``Budget.early``.
        reported_term, reported_taken, reported_ms: of the last report to a leader.
        reported_much: it was of more than half of the budget.
    """

    due: int = 0
    due_taken: int = 0
    taken: int = 0
    use: int = 0
    is_tight: bool = False
    reported_term: int = -1
    reported_taken: int = 0
    reported_ms: int = 0
    reported_much: bool = False


@dataclass(slots=True, kw_only=True)
class Tenure:
    """What ends with the cluster. A member that is in none has a fresh one.

    Terms begin with the generation of the cluster (``succession``).

    Attributes:
        replica: what is applied.
        predecessor: of the cluster that this member founded as a survivor.
        since_ms: when it began, and ``appended_ms``: when an entry was last appended; both on the monotonic
            clock.
        log_time_rest: what the last entry's time lacks, in hundredths of a millisecond.
        log_commands: commands of callers in the log, committed or not.
        is_auto: the log begins with the genesis of an ``auto`` cluster.
        dissolve_index: of the DISSOLVE entry in the log, 0 if there is none.
        configs: the Cfgs of the log from the last committed one on, each with its index.
        active, members, is_voter: what follows from ``configs`` and ``commit``: the Cfgs whose quorums count,
            their voters, and whether this member is one of them.
        removed_ms: when this member learned that an operator removed it; None: it was not removed.
        term_leader: the leader of ``term``, once it is known; it may have died since.
        verified_term, verified_index: up to where the log is proven equal to that of that term's leader.
        verified_leader: the leader of ``verified_term``.
        leader_commit: as far as the present leader reported it.
        last_seq: of the latest Append of this term.
        in_step: the last Append matched.
        pull: the entries that are being fetched.
        leader_contact_ms: when the current leader's last message arrived.
        covered_ms: then a leader had committed no more than what is applied here; None: never known.
        awaited_index: to apply to cover all that the leader of ``awaited_term`` had committed at
            ``awaited_ms`` (3.7).
        grants: the members that voted for us in this election.
        claims: up to where the members that answered in it had verified their logs, and in which term.
        settled: up to here the log is known to be committed for this election alone (rule K).
        own_vote_serial: of the record that makes our own vote durable.
        quick_retry_until_ms: until then an election that failed is tried again after a heartbeat.
        bound_ms: until when lease reads bind our vote.
        handed_over: TimeoutNow was sent to its target; the next leader decides the outcome.
        ended_bonds: voters whose bond ended for good: they announced that they leave, or their ticket
            expired or was revoked.
        replaced: voters whose nodes were here as other incarnations.
        rivals: peers that were reported as members of a rival cluster.
        writes: (serial, last index written by it) of what is on its way to the disk (trust_disk).
        durable_index: the last index that is on the disk (trust_disk).
        held: messages that wait for the disk, each with the serial that it waits for (trust_disk).
        snaps: the snapshots that this member takes.
        memory: what this member measured of its memory.
        refused: by session, the commands that this member refused for want of memory, in whatever term it
            led; of sessions that were open when another one was added.
        offers: the snapshots that peers offer.
        installing: the snapshot that is fetched, to take its state.
        sync_rests_until_ms: a session has failed: until then no other is begun.
        published_levels: the levels that were last announced.
        parting_due: levels changed: a bonded peer may not know them.
    """

    replica: Replica
    since_ms: int
    appended_ms: int
    cluster: bytes | None = None
    predecessor: Predecessor | None = None

    term: int = 0
    voted_for: Incarnation | None = None
    role: Role = FOLLOWER
    leader: Incarnation | None = None
    leadership: Leadership | None = None

    commit: int = 0
    log_time_rest: int = 0
    log_commands: int = 0
    is_auto: bool = False
    dissolve_index: int = 0
    configs: list[tuple[int, Config]] = field(default_factory=list)
    active: tuple[Config, ...] = ()
    members: tuple[Incarnation, ...] = ()
    is_voter: bool = False
    removed_ms: int | None = None

    term_leader: Incarnation | None = None
    verified_term: int = 0
    verified_index: int = 0
    verified_leader: Incarnation | None = None
    leader_commit: int = 0
    last_seq: int = 0
    in_step: bool = False
    pull: PullState | None = None
    leader_contact_ms: int | None = None
    covered_ms: int | None = None
    awaited_index: int = NOTHING_AWAITED
    awaited_term: int = 0
    awaited_ms: int = 0

    grants: set[Incarnation] = field(default_factory=set)
    claims: dict[Incarnation, Cursor] = field(default_factory=dict)
    settled: int = 0
    own_vote_serial: int = 0
    quick_retry_until_ms: int = 0
    bound_ms: int = 0
    handed_over: Transfer | None = None

    ended_bonds: dict[Incarnation, BondLoss] = field(default_factory=dict)
    replaced: set[Incarnation] = field(default_factory=set)
    rivals: set[Incarnation] = field(default_factory=set)

    writes: deque[tuple[int, int]] = field(default_factory=deque)
    durable_index: int = 0
    held: deque[tuple[int, Send]] = field(default_factory=deque)

    snaps: Snapshotting = field(default_factory=Snapshotting)
    memory: OwnMemory = field(default_factory=OwnMemory)
    refused: dict[bytes, Refused] = field(default_factory=dict)
    offers: dict[Incarnation, StateEvidence] = field(default_factory=dict)
    installing: Installing | None = None
    sync_rests_until_ms: int = 0

    published_levels: Levels | None = None
    parting_due: bool = False
