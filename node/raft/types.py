"""Values that every part of consensus uses, and its settings with their defaults (``Settings``).

A value that is made for every message or event is a ``msgspec.Struct``. It is frozen, slotted and compared by
value like the frozen dataclasses here, and is made five times as fast.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from msgspec import Struct

from node.features import Levels
from node.machines.base import QUOTA_BYTES_DEFAULT
from node.peers import Incarnation, Preference


class Cursor(NamedTuple):
    """A place in the log: the entry at ``index`` written in ``term``. (0, 0) is before the first entry."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no caller uses on a cursor


NO_ROOM: Final = Cursor(0, 0)  # in place of where a command is in the log: it was not taken


class Position(NamedTuple):
    """A cursor and the chain digest of the log up to and including it."""

    term: int
    index: int  # type: ignore[assignment]
    chain: bytes


CHAIN_START: Final = bytes(32)
LOG_START: Final = Position(0, 0, CHAIN_START)
REMOVED: Final = "removed"  # why a member halts that an operator removed


class EntryKind(IntEnum):
    NOOP = 0
    CONFIG = 1
    COMMAND = 2
    SESSION = 3
    SNAPSHOT = 4  # a marker, or the evidence about the state at an earlier one (node.sync.evidence)
    POLICY = 5
    DISSOLVE = 6  # an empty rival group gives itself up (3.9)
    SYSTEM = 7  # as COMMAND, but for the group's own state beside the machine
    FEATURE = 8  # from here on entries and messages of this feature level may be written and sent
    MACHINE = 9  # from here on the state machine runs as this version

    # An enumeration's own hash is a function in Python, and every entry's kind is looked up in a table.
    __hash__ = int.__hash__


# The kinds that a session numbers and executes once: same payload, same keys, same results.
COMMANDS: Final = frozenset((EntryKind.COMMAND, EntryKind.SYSTEM))


class Entry(Struct, frozen=True, gc=False):
    """One log entry. ``chain`` = digest over the previous chain and all other fields.

    A log holds many, and catching up makes tens of thousands a second. An entry cannot be part of a cycle, so
    the garbage collector need not visit it.

    Attributes:
        term: leader's term, from 1.
        index: from 1, without gaps.
        kind: what the payload is.
        time_ms: Unix milliseconds, monotone in the log: see ``Replication._log_time``.
        payload: deterministic CBOR.
        chain: 32 bytes.
    """

    term: int
    index: int
    kind: EntryKind
    time_ms: int
    payload: bytes
    chain: bytes


class Role(Enum):
    LEARNER = "learner"
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


# For code that runs in every step: a global is found ten times as fast as an enumeration's member (Python
# 3.11).
FOLLOWER: Final = Role.FOLLOWER
LEADER: Final = Role.LEADER


class Bootstrap(Enum):
    """How a group comes into being (3.9)."""

    INIT = "init"
    JOIN = "join"
    EXPECT = "expect"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Consensus settings that are wire- or safety-relevant: all of them are folded into the GroupId.

    Times in milliseconds, sizes in bytes.
    """

    heartbeat_ms: int = 100
    election_timeout_ms: int = 1000
    election_jitter_ms: int = 500
    reluctant_factor: int = 3
    demote_after_ms: int = 3000
    demote_to_two_after_ms: int = 60_000  # instead, of three voters; never sooner than the others
    demote_lag_ms: int = 5000
    min_voters: int = 2
    max_voters: int = 7
    tie_break: bool = True
    trust_disk: bool = False
    lease_reads: bool = False
    session_ttl_ms: int = 60_000
    session_window: int = 1024
    append_bytes_max: int = 512 * 1024
    chunk_bytes_max: int = 256 * 1024
    command_bytes_max: int = 2 * 1024 * 1024
    catchup_buffer_bytes_max: int = 16 * 1024 * 1024
    pending_max: int = 16_384
    # A snapshot is due when the log has grown by this much, and by as much as the last snapshot has, or when
    # it has grown at all in this time.
    snapshot_bytes: int = 16 * 1024 * 1024
    snapshot_ms: int = 3_600_000
    snapshot_chunk_bytes: int = 128 * 1024
    # Behind a snapshot the log is kept for members that lag: this much of it, and nothing older than this.
    log_keep_bytes: int = 16 * 1024 * 1024
    log_keep_ms: int = 600_000
    quota_bytes: int = QUOTA_BYTES_DEFAULT  # what the machine's state may take; the machine judges it
    on_rival: str = "refuse"  # or "discard-shorter" (auto mode, demos only)

    def contradiction(self) -> str:
        """Return which settings contradict each other, for people; empty if no settings do."""
        if self.min_voters > self.max_voters:
            return "min_voters is larger than max_voters"
        if self.election_timeout_ms < 2 * self.heartbeat_ms:
            return "election_timeout_ms must be at least twice heartbeat_ms"
        if self.demote_after_ms < self.election_timeout_ms:
            return "demote_after_ms must be at least election_timeout_ms, or idle voters are demoted"
        if self.session_ttl_ms < 2 * self.election_timeout_ms:
            return "session_ttl_ms must be at least twice election_timeout_ms, or sessions end unused"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """How this member may get a genesis. ``expect`` is the number of founders (EXPECT only)."""

    bootstrap: Bootstrap
    expect: int = 0
    bootstrap_delay_ms: int = 3000  # AUTO: alone for this long -> founds {self}

    def contradiction(self, preference: Preference) -> str:
        """Return why a member with this preference cannot found so, for people; empty if it can.

        The text begins with a stable reason code.
        """
        if preference is Preference.OBSERVER and self.bootstrap in (Bootstrap.EXPECT, Bootstrap.INIT):
            return (
                "observer-among-founders: an observer never votes, so it is none of the founders that this "
                'group waits for: let it join (bootstrap = "join", Bootstrap.JOIN)'
            )
        return ""


class Consistency(Enum):
    STRONG = "strong"
    WEAK = "weak"


class Applied(Struct, frozen=True):
    """What ``apply`` returned: plain CBOR data."""

    value: object


class Failed(Struct, frozen=True):
    """``apply`` refused, the same way on every node; the state did not change."""

    code: str
    message: str


Result = Applied | Failed
BATCH_ABORTED: Final = "batch-aborted"  # the code of the others, when one command of an entry was refused


class Ok(Struct, frozen=True):
    """Committed and applied exactly once, at ``at``. One result per command."""

    results: tuple[Result, ...]
    at: Cursor


class AlreadyExecuted(Struct, frozen=True):
    """Executed exactly once, at ``at``, when an earlier copy came; the results are not kept any more.

    Attributes:
        digest: SHA-256 of the deterministic CBOR of the list of results; empty if it had no key.
        size: bytes of that list.
    """

    at: Cursor
    digest: bytes
    size: int


class Answer(Struct, frozen=True):
    """A query's result and the state that gave it.

    ``value`` is ``Failed`` if the machine refused the query. ``age_ms``: time since that state covered all
    that a leader had committed (weak reads); None if it never did.
    """

    value: object
    at: Cursor
    age_ms: int | None = 0


class NotExecuted(Struct, frozen=True):
    """It did not happen and never will, so it is safe to try again. ``leader`` may be able to help.

    ``detail``: for people; often empty.
    """

    reason: str
    leader: Incarnation | None = None
    detail: str = ""


class Unknown(Struct, frozen=True):
    """It may or may not have happened (only after session loss or a local deadline)."""

    reason: str


Outcome = Ok | AlreadyExecuted | Answer | NotExecuted | Unknown


class Key(Struct, frozen=True):
    """A caller's idempotency key, and how late this copy of the caller's commands may be executed.

    Attributes:
        name: 1 to ``entries.KEY_BYTES_MAX`` bytes.
        not_after_ms: in the time of the entries (``Entry.time_ms``). After that the group may have forgotten
            the key, and so the execution of another copy.
    """

    name: bytes
    not_after_ms: int


class CommandBatch(Struct, frozen=True):
    """One atomic entry of a session.

    Attributes:
        ack_below: the origin has its answer to every sequence number below this one.
        keyed: of a batch with a key, the bytes of caller and commands in the entry; otherwise empty. Equal
            bytes mean equal caller and commands.
        credential: of the caller; None: the member that the session belongs to.
        system: the commands are for the system state, not for the machine.
    """

    session: bytes
    seq: int
    ack_below: int
    key: Key | None
    commands: tuple[object, ...]
    keyed: bytes
    credential: bytes | None = None
    system: bool = False


class Resolution(Struct, frozen=True):
    """The outcome of the command (session, seq); seq 0 is a change of the session itself."""

    session: bytes
    seq: int
    outcome: Ok | AlreadyExecuted | NotExecuted


class KeyUse(NamedTuple):
    """How much of their limited space the idempotency keys take.

    Attributes:
        keys: the number of remembered keys.
        kept_bytes: the size of what is kept of their results.
        brief: the number of keys with only digest and size of the results.
    """

    keys: int
    kept_bytes: int
    brief: int


class InstallStatus(NamedTuple):
    """How far a snapshot is that this member fetches, to take the group's state from it.

    Attributes:
        at: the entry that the state includes.
        done: the number of chunks that are here.
        count: of all chunks.
        size: of all chunks, in bytes.
        sources: the number of peers that serve it.
    """

    at: Cursor
    done: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which no caller uses here
    size: int
    sources: int


class SnapshotStatus(NamedTuple):
    """The newest snapshot of the group that this member holds: the log is cut behind it at the latest."""

    at: Cursor
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """A snapshot of one member, for people and metrics.

    Attributes:
        electable: this member and its bonded peers, without Observers: they may vote and lead.
        base: the log holds the entries behind this index.
        log_bytes: about how many bytes they take.
    """

    me: Incarnation
    role: Role
    term: int
    leader: Incarnation | None
    cluster_id: bytes | None
    commit: Cursor
    last: Cursor
    applied: int
    config_epoch: int
    voters: tuple[Incarnation, ...]
    learners: tuple[Incarnation, ...]
    tie: Incarnation | None
    online: bool
    halted: str | None
    match: dict[Incarnation, int] = field(default_factory=dict)
    electable: tuple[Incarnation, ...] = ()
    levels: Levels | None = None
    base: int = 0
    log_bytes: int = 0
    snapshot: SnapshotStatus | None = None
    install: InstallStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """What only a leader knows of its members.

    Attributes:
        established: an entry of its term is committed; before that it knows of no change of the voters.
        transferring: it is handing its leadership over.
        responsive: itself, and the members that answered within an election timeout, in order.
        in_step: those of them that hold its log as far as its broadcasts reached them, and not less than the
            first entry of its term.
        copies_needed: this many members must hold an entry before it is committed.
    """

    established: bool
    transferring: bool
    responsive: tuple[Incarnation, ...]
    in_step: tuple[Incarnation, ...]
    copies_needed: int
