"""The messages between members (3.3). The sender is the bond's peer, so no message names its own sender (rule
R2 holds by construction), and every message of a group names its cluster.

Left out of 3.3's table because nothing needs them: ``epoch`` in Append and Vote (it follows from the roll and
the chained log), ``durable`` (an ACK is sent only when durable) and ``lag`` (the leader computes it) in
AppendReply.
"""

from enum import IntEnum
from typing import Final

from msgspec import Struct

from node.features import Levels
from node.peers import Incarnation
from node.raft.types import Bootstrap, Cursor, Entry, EntryKind, Position
from node.sync.evidence import StateEvidence

DISSOLVED_MAX: Final = 64


class Vote(IntEnum):
    GRANTED = 0
    DENIED = 1
    ABSTAIN = 2


class Verdict(IntEnum):
    ACK = 0
    ABSTAIN = 1
    STALE = 2


# For code that runs in every step: see ``FOLLOWER`` in ``types``.
ACK: Final = Verdict.ACK
STALE: Final = Verdict.STALE


# ---- elections (3.4) --------------------------------------------------------
class VoteRequest(Struct, frozen=True):
    """Pre-vote or vote for the sender.

    Attributes:
        term: the term the sender would lead in.
        last: the end of its log.
        roll: union of its active voters: decides which peers may answer with more than ABSTAIN.
        transfer: the leader asked for this election, so stickiness does not apply.
    """

    cluster: bytes
    term: int
    pre: bool
    last: Position
    roll: tuple[Incarnation, ...]
    transfer: bool


class VoteReply(Struct, frozen=True):
    """``term`` is the requested term if GRANTED, otherwise the responder's own, for pre-votes too (3.13).

    ``commit``: the end of the log that the responder knows to be committed. ``verified``: up to where its log
    is proven equal to that of that term's leader; None below feature level 2, and with trust_disk.
    """

    cluster: bytes
    term: int
    pre: bool
    vote: Vote
    leader: Incarnation | None
    commit: Position
    verified: Cursor | None = None


class TimeoutNow(Struct, frozen=True):
    cluster: bytes
    term: int


# ---- replication (3.5) ------------------------------------------------------
class Append(Struct, frozen=True):
    """The leader's entries, the same message for every peer. A heartbeat is an Append without entries."""

    cluster: bytes
    term: int
    prev: Position
    entries: tuple[Entry, ...]
    commit: int
    seq: int


class AppendReply(Struct, frozen=True):
    """The answer to every Append.

    Attributes:
        match: with ACK: the log up to here is proven equal to the leader's; otherwise 0.
        seq: of the Append answered.
        have: the end of the sender's log.
    """

    cluster: bytes
    term: int
    verdict: Verdict
    match: int
    seq: int
    have: Cursor


# ---- pull (3.5) -------------------------------------------------------------
class Avail(Struct, frozen=True):
    """Ask what the peer can serve."""

    cluster: bytes
    term: int


class AvailReply(Struct, frozen=True):
    """Entries 1..``upto``, proven in ``term`` (R-serve)."""

    cluster: bytes
    term: int
    upto: int


class Fetch(Struct, frozen=True):
    """Send the entries ``after+1..upto``.

    Attributes:
        check: the asker's position at ``after``; None if the range starts beyond its log (the chunk then
            waits until the entries before it are there).
    """

    cluster: bytes
    term: int
    after: int
    check: Position | None
    upto: int


class Chunk(Struct, frozen=True):
    """The answer to a Fetch.

    Attributes:
        after: the server's position at the asked index (if not ``ok``, the position in the request).
        ok: the asker's position is the server's.
        hint: if not: the last index of the server at or below the asked one with a term not above the
            asked one.
    """

    cluster: bytes
    term: int
    after: Position
    ok: bool
    entries: tuple[Entry, ...]
    hint: int


# ---- snapshots (3.5); from feature level 2 on --------------------------------
class SnapshotDigest(Struct, frozen=True):
    """To the leader: the sender's state at a marker. Evidence is what a quorum of voters has in common."""

    cluster: bytes
    term: int
    evidence: StateEvidence


class SnapshotOffer(Struct, frozen=True):
    """The sender can serve this snapshot, and no entry up to ``base``."""

    cluster: bytes
    base: int
    evidence: StateEvidence


class SyncAsk(Struct, frozen=True):
    """A payload of a session that fetches the snapshot with the Merkle root ``root``, for a provider.

    Only the group's state sync (``node.sync.state_sync``) reads the payload.
    """

    cluster: bytes
    root: bytes
    payload: bytes


class SyncAnswer(Struct, frozen=True):
    """A payload of a provider for such a session. Empty: the sender does not hold that snapshot."""

    cluster: bytes
    root: bytes
    payload: bytes


# ---- memory ------------------------------------------------------------------
class MemoryReport(Struct, frozen=True):
    """To the leader: how many bytes the sender uses, with its log up to ``last``, and how many it may."""

    cluster: bytes
    term: int
    last: int
    use: int
    budget: int


class Overloaded(Struct, frozen=True):
    """The leader did not take these commands of the sender's session, and never will of this Forward.

    Attributes:
        session: the session's number, as in the Forward.
        seqs: of the commands.
        member: the one whose memory is nearly full; the next two are from its report.
    """

    cluster: bytes
    term: int
    session: int
    seqs: tuple[int, ...]
    member: Incarnation
    use: int
    budget: int


# ---- commands and reads (3.7, 3.8) ------------------------------------------
class Proposal(Struct, frozen=True):
    """An entry to be written. ``seq`` is 0 for session changes."""

    kind: EntryKind
    seq: int
    payload: bytes


class Forward(Struct, frozen=True):
    """Proposals of the sender's session number ``session``.

    ``after`` is the unanswered command handed over just before these, 0 if every earlier command is answered.
    A leader that does not have it takes no proposal of the Forward, so commands are never executed out of
    order.
    """

    cluster: bytes
    session: int
    after: int
    proposals: tuple[Proposal, ...]


class ForwardReply(Struct, frozen=True):
    """Where the forwarded commands are in the leader's log, or why they are not.

    Attributes:
        cursors: (seq, cursor) of those that are.
        refused: empty, or why the others are not there: ``not-leader``, ``gap``, ``overloaded``,
            ``transferring``, ``dissolving``.
        leader: the leader, if known.
    """

    cluster: bytes
    term: int
    session: int
    cursors: tuple[tuple[int, Cursor], ...]
    refused: str
    leader: Incarnation | None


class ReadIndex(Struct, frozen=True):
    cluster: bytes
    id: int


class ReadIndexReply(Struct, frozen=True):
    """Reads asked under ``id`` may be answered from a state at or after ``index``."""

    cluster: bytes
    id: int
    term: int
    index: int


# ---- coming into being (3.9) ------------------------------------------------
class Presence(Struct, frozen=True):
    """The sender's state in this group, sent on every new bond and when it changes.

    Attributes:
        cluster: None: in no cluster yet.
        commands: number of committed commands in the log.
        commit: commit index.
        mode: how the sender may found; AUTO in a cluster that may give itself up.
        visible: the sender and the possible founders bonded with it; sorted; empty once in a cluster.
        dissolved: clusters that gave themselves up; never to be joined again.
        abandoned: the sender will never complete any of its proposed geneses up to this round, so the
            signatures that were given for them are free again. Only grows: late copies do no harm.
    """

    cluster: bytes | None
    commands: int
    commit: int
    mode: Bootstrap
    visible: tuple[Incarnation, ...]
    dissolved: tuple[bytes, ...]
    abandoned: int


class GenesisProposal(Struct, frozen=True):
    """The smallest founder asks for a signature over these voters and levels.

    ``round`` counts its proposals; ``levels`` are the highest that all these voters know.
    """

    round: int
    nonce: bytes
    voters: tuple[Incarnation, ...]
    levels: Levels


class GenesisSignature(Struct, frozen=True):
    nonce: bytes
    signature: bytes


class Genesis(Struct, frozen=True):
    """Entry 1, complete."""

    entry: Entry


class Alive(Struct, frozen=True):
    """The sender's ``cluster`` has a leader, although ``outlives``, the receiver's, may follow it.

    It answers a Presence, so it is never older than that cluster.
    """

    cluster: bytes
    outlives: bytes


class Ignorable(Struct, frozen=True):
    """A message of a later release that a member may ignore. Never sent."""

    tag: int


CatchUpMessage = Avail | AvailReply | Fetch | Chunk
SnapshotMessage = SnapshotDigest | SnapshotOffer | SyncAsk | SyncAnswer
MemoryMessage = MemoryReport | Overloaded
ClusterMessage = (
    VoteRequest
    | VoteReply
    | TimeoutNow
    | Append
    | AppendReply
    | CatchUpMessage
    | SnapshotMessage
    | MemoryMessage
    | Forward
    | ForwardReply
    | ReadIndex
    | ReadIndexReply
)
FoundingMessage = Presence | GenesisProposal | GenesisSignature | Genesis | Alive
Message = ClusterMessage | FoundingMessage


def is_promise(message: Message) -> bool:
    """Return whether ``message`` reports a term, vote or log of its sender that a crash must not undo."""
    match message:
        case VoteRequest(pre=False) | VoteReply(pre=False, vote=Vote.GRANTED | Vote.DENIED):
            return True
        case AppendReply(verdict=Verdict.ACK | Verdict.STALE | Verdict.ABSTAIN):
            return True
        case GenesisSignature() | Genesis() | Presence():
            return True
        case _:
            return False
