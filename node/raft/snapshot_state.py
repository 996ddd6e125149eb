"""What a member knows of snapshots in one cluster: those that it takes and serves, and the one it fetches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from node.peers import Incarnation
from node.raft.whole import Loading
from node.sync.evidence import Anchor, StateEvidence
from node.sync.image import Cutter
from node.sync.keeper import Keeper, Snapshot
from node.sync.pace import Pace
from node.sync.state_sync import SyncProgress, SyncProvider, SyncSession


@dataclass(slots=True)
class Snapshotting:
    """The snapshots that this member takes.

    Attributes:
        is_wanted: a snapshot is due at once: nobody can join without one.
        marker: index of the last marker in the log.
        marker_taken: ``log.taken`` after it was appended.
        marker_ms: when it was appended here; 0 before the first.
        report_due: when to report our digest to the leader again.
        reports: of this term: what each member reported last.
        term: of the reports.
        proposed: the anchor of the evidence that we wrote in that term.
        named: peers that were named because their state differs, and the anchor.
        provider: of this cluster; None until it is needed.
        pace: the requests of peers that wait for it.
        rests_until_ms: it has raised: until then it answers nobody.
        base: index behind which the log on the disk begins, or will once a record is durable (trust_disk).
        storing: the snapshot that is on its way to the disk, to become that base.
        store_due: when to try again after the disk did not take one.
    """

    keeper: Keeper = field(default_factory=Keeper)
    is_wanted: bool = False
    marker: int = 0
    marker_taken: int = 0
    marker_ms: int = 0
    report_due: int = 0
    reports: dict[Incarnation, StateEvidence] = field(default_factory=dict)
    term: int = 0
    proposed: int = 0
    named: dict[Incarnation, Anchor] = field(default_factory=dict)
    provider: SyncProvider | None = None
    pace: Pace = field(default_factory=Pace)
    rests_until_ms: int = 0
    base: int = 0
    storing: StateEvidence | None = None
    store_due: int = 0


@dataclass(slots=True)
class Installing:
    """A snapshot that is fetched, then compared with its evidence, then loaded.

    Attributes:
        sources: the peers that serve it.
        due_ms: when the session wants its next turn.
        progress: what the session states.
        reached, moved_ms: the largest share that it ever had, in parts of the whole, and since when.
        pieces: of the snapshot, once the session has all of it; then of what is still to be compared.
        cutter: what was compared until now.
        snapshot: the whole, equal to its evidence.
        loading: the state under way.
        frames: that it is made from.
        loaded: how many bytes of the snapshot were read.
        is_loaded: ``loading`` has all of them.
        is_storing, is_stored: the snapshot is on its way to the disk, or durable (trust_disk).
    """

    evidence: StateEvidence
    session: SyncSession
    moved_ms: int
    cutter: Cutter
    sources: set[Incarnation] = field(default_factory=set)
    due_ms: int = 0
    progress: SyncProgress = SyncProgress(0, 0)
    reached: int = 0
    pieces: Iterator[bytes] | None = None
    snapshot: Snapshot | None = None
    loading: Loading | None = None
    frames: Iterator[tuple[int, Any]] = field(default_factory=lambda: iter(()))
    loaded: int = 0
    is_loaded: bool = False
    is_storing: bool = False
    is_stored: bool = False

    @property
    def anchor(self) -> Anchor:
        return self.evidence.anchor

    @property
    def memory_bytes(self) -> int:
        """About how much it takes: what the session has, what was compared, and the state under way."""
        done, total = self.progress
        fetched = self.evidence.size * done // max(total, done, 1)
        return fetched + self.cutter.memory_bytes + self.loaded
