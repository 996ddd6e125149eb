"""The inputs and outputs of a group member. No sockets, clocks or randomness on either side.

    effects = member.step(now_ms, event, wall_ms=wall_ms)

``now_ms`` is a monotonic clock, ``wall_ms`` Unix time, both in milliseconds. The driver then hands each
``Send`` to the bonds (one serialisation for all its addressees), completes futures, publishes notices, and
starts to make ``persist`` durable (trust_disk only), reporting ``Persisted(serial)`` when that is done; it
need not wait: the member itself holds back every message that must not be sent before that. The same holds of
``store``, and the order of the two does not matter. ``next_tick_ms`` is the latest time at which a ``Tick``
is due.
"""

from typing import Any

from msgspec import Struct, field

from node.features import Build, Levels
from node.peers import BondLoss, Incarnation, Preference
from node.raft.outlook import Outlook
from node.raft.types import Consistency, Cursor, Entry, Outcome, Position, Role
from node.sync.evidence import Anchor, StateEvidence
from node.sync.keeper import Snapshot


# ---- events -----------------------------------------------------------------
class Tick(Struct, frozen=True):
    """Time passed."""


class BondUp(Struct, frozen=True):
    """A bond formed. ``build``: what the peer's software is and knows, from its Hello."""

    peer: Incarnation
    preference: Preference
    build: Build


class BondDown(Struct, frozen=True):
    peer: Incarnation
    loss: BondLoss


class Received(Struct, frozen=True):
    """A message arrived over the bond with ``sender`` (rule R2: no member sends in another's name)."""

    sender: Incarnation
    message: Any  # node.raft.messages.Message


class Execute(Struct, frozen=True):
    """Run these commands as one atomic entry, exactly once.

    Attributes:
        token: chosen by the driver, unique; names the completion.
        commands: plain CBOR data, at least one.
        key: idempotency key of the caller: the same key within the session TTL never executes twice,
            whichever node it is sent to.
        feed: complete as soon as the cursor is known (``Ok`` with no results) instead of when applied.
        credential: of the caller, 1 to 32 bytes; None: this member by itself.
        system: the commands are for the system state, not for the machine.
    """

    token: int
    commands: tuple[object, ...]
    key: bytes | None = None
    feed: bool = False
    credential: bytes | None = None
    system: bool = False


class Query(Struct, frozen=True):
    """Ask the state machine, or the system state.

    Attributes:
        min_at: answer from a state that includes this cursor (read your writes).
        max_age_ms: weak reads only: refuse if the state covered what a leader had committed longer ago,
            or never.
        credential: of the caller, 1 to 32 bytes; None: this member by itself.
        system: the query is for the system state, not for the machine.
    """

    token: int
    query: object
    consistency: Consistency
    min_at: Cursor | None = None
    max_age_ms: int | None = None
    credential: bytes | None = None
    system: bool = False


class Cancel(Struct, frozen=True):
    """The caller gave up waiting.

    A token still pending is completed at once: ``NotExecuted`` if it never left this member, ``Unknown``
    for a command that did (it may still happen). A transfer of leadership goes on.
    """

    token: int


class TransferLeadership(Struct, frozen=True):
    token: int
    target: Incarnation | None


class RemoveMember(Struct, frozen=True):
    """Ask the leader to take ``member``, itself or another, out of the group for good.

    ``Ok`` once the change is committed, at once if it was before. ``NotExecuted`` with a reason of
    ``membership_plan.removal``, or because this member does not lead or cannot change the voters now.
    """

    token: int
    member: Incarnation


class Recover(Struct, frozen=True):
    """Found a new generation from the state of this member, because the others lost theirs for good.

    ``Ok`` at the position of its genesis. ``NotExecuted`` with a reason of ``node.raft.recovering``, and
    nothing has changed.

    Attributes:
        position: of this member's last entry, as the operator saw it.
        approval: of the group's authority; empty for a group that has none.
    """

    token: int
    position: Position
    approval: bytes = b""


class ChangeVersion(Struct, frozen=True):
    """Ask the leader to run the state machine as ``version`` from the next entry on.

    ``NotExecuted("machine-version-change-unsupported")`` unless every voter and learner knows that version.
    ``Ok`` with one result: ``Failed`` if the machine refused to migrate and continues at its old version.
    """

    token: int
    version: int


class Persisted(Struct, frozen=True):
    """Everything in ``persist`` of effects up to serial ``serial`` is durable (trust_disk only)."""

    serial: int


class SnapshotStored(Struct, frozen=True):
    """A snapshot of ``store`` of effects, the one at ``anchor``, is durable (trust_disk only).

    ``failure``: why the disk did not take it; empty if it is durable. The log is not concerned.
    """

    anchor: Anchor
    failure: str = ""


Event = (
    Tick
    | BondUp
    | BondDown
    | Received
    | Execute
    | Query
    | Cancel
    | TransferLeadership
    | RemoveMember
    | Recover
    | ChangeVersion
    | Persisted
    | SnapshotStored
)


# ---- effects ----------------------------------------------------------------
class Send(Struct, frozen=True):
    """One message to some peers; serialise it once.

    ``lazy``: no member waits for it, and the next Append contains all of it. A driver may delay it by a few
    milliseconds, and drop it if such an Append is sent meanwhile.
    """

    to: tuple[Incarnation, ...]
    message: Any
    lazy: bool = False


class LeaderChanged(Struct, frozen=True):
    leader: Incarnation | None
    term: int


class RoleChanged(Struct, frozen=True):
    role: Role
    term: int


class OnlineChanged(Struct, frozen=True):
    online: bool


class Advanced(Struct, frozen=True):
    """The commit index advanced, and everything up to it is applied."""

    commit: Cursor


class ConfigCommitted(Struct, frozen=True):
    epoch: int
    voters: tuple[Incarnation, ...]
    reason: str


class RivalCluster(Struct, frozen=True):
    """A peer of the same GroupId belongs to another cluster; its bond must be refused."""

    peer: Incarnation
    cluster_id: bytes


class DataDiscarded(Struct, frozen=True):
    """``on_rival="discard-shorter"``: this cluster discarded its log up to ``cursor`` (demos only)."""

    cursor: Cursor


class FoundingStalled(Struct, frozen=True):
    """This incarnation signed a genesis whose collector is gone; only a restart frees the signature."""

    collector: Incarnation


class Violation(Struct, frozen=True):
    """A peer broke the protocol: close its bond, with the reason in the audit log."""

    peer: Incarnation
    reason: str


class Unfit(Struct, frozen=True):
    """A peer's software does not know the levels of the group: close its bond, for ``reason``."""

    peer: Incarnation
    reason: str


class LevelsChanged(Struct, frozen=True):
    """The group runs at these levels from the entry at ``at`` on, its genesis for the first."""

    levels: Levels
    at: Cursor


class QuorumChanged(Struct, frozen=True):
    """The quorum is missing, or other voters of it are missing than before, or it is back (``HELD``)."""

    outlook: Outlook


class SnapshotTaken(Struct, frozen=True):
    """The group has evidence about its state at ``at``. This member holds that snapshot, of ``size`` bytes.

    ``fetched``: it came from peers and is this member's state now; otherwise this member computed it.
    """

    at: Cursor
    size: int
    fetched: bool


class MemoryPressed(Struct, frozen=True):
    """We lead, and refuse writes because ``peer`` is over its mark; or no longer because of this peer.

    Attributes:
        use: the bytes that it uses of ``budget``, as it last reported.
    """

    peer: Incarnation
    use: int
    budget: int
    pressed: bool


class SnapshotNotStored(Struct, frozen=True):
    """The disk did not take the snapshot at ``at``: the member goes on with its log, and tries again."""

    at: Cursor
    reason: str


class StateDiverged(Struct, frozen=True):
    """The state of ``peer`` at ``at`` is not the one that a quorum of voters has."""

    peer: Incarnation
    at: Cursor


class SyncFailed(Struct, frozen=True):
    """This member's state sync failed, and rests for a while. The member goes on without it.

    ``part``: ``provider`` or ``session``. ``reason``: ``state-not-proven``, ``stalled``, or the name of the
    exception that it raised.
    """

    part: str
    reason: str


class Halted(Struct, frozen=True):
    """Divergence or a broken invariant: this member has stopped and must not be used."""

    reason: str


Notice = (
    LeaderChanged
    | RoleChanged
    | OnlineChanged
    | Advanced
    | ConfigCommitted
    | RivalCluster
    | DataDiscarded
    | FoundingStalled
    | Violation
    | Unfit
    | LevelsChanged
    | QuorumChanged
    | SnapshotTaken
    | SnapshotNotStored
    | StateDiverged
    | SyncFailed
    | MemoryPressed
    | Halted
)


# ---- records for the disk (trust_disk only), in the order in which they must be written --------------
class SaveVote(Struct, frozen=True):
    """Term and vote replace what was saved before."""

    term: int
    voted_for: Incarnation | None


class SaveTruncation(Struct, frozen=True):
    """Entries above ``index`` are gone."""

    index: int


class SaveEntries(Struct, frozen=True):
    """These entries follow the last one saved."""

    entries: tuple[Entry, ...]


class SaveEnd(Struct, frozen=True):
    """``cluster`` gave itself up: this incarnation must not be a member of it again."""

    cluster: bytes


class SaveBase(Struct, frozen=True):
    """The snapshot that ``evidence`` is about is durable: the log goes on behind its anchor.

    Entries up to there are gone. So are those above, unless the log that was saved leads there.
    """

    evidence: StateEvidence


Record = SaveVote | SaveTruncation | SaveEntries | SaveEnd | SaveBase


class Recovered(Struct, frozen=True):
    """What a trust_disk member finds on its disk when it starts again as the same incarnation.

    Attributes:
        entries: of the log, from index 1 on or behind the anchor of ``snapshot``.
        ended: the clusters that it left because they gave themselves up, the last of them.
        snapshot: of the group's state at the base of the log; None if the log begins with the genesis.
    """

    term: int
    voted_for: Incarnation | None
    entries: tuple[Entry, ...]
    ended: tuple[bytes, ...] = ()
    snapshot: Snapshot | None = None


class Effects(Struct):
    """What one step wants done.

    Attributes:
        serial: names ``persist`` and everything persisted before (trust_disk only).
        store: snapshots to write beside the log; the driver reports each with ``SnapshotStored``.
        next_tick_ms: on the clock of ``now_ms``.
    """

    sends: list[Send] = field(default_factory=list)
    completions: list[tuple[int, Outcome]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    persist: list[Record] = field(default_factory=list)
    serial: int = 0
    store: list[Snapshot] = field(default_factory=list)
    next_tick_ms: int = 0
