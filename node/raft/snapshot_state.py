"""What a member knows of snapshots in one cluster: those that it takes and serves, and the one it fetches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from node.peers import Incarnation
from node.raft.whole import Loading
from node.sync.evidence import Anchor, StateEvidence
from node.sync.fetching import Fetching
from node.sync.keeper import Keeper


@dataclass(slots=True)
class Snapshotting:
    """The snapshots that this member takes.

    Attributes:
        marker: index of the last marker in the log.
        marker_taken: ``log.taken`` after it was appended.
        marker_ms: when it was appended here; 0 before the first.
        report_due: when to report our digest to the leader again.
        reports: of this term: what each member reported last.
        term: of the reports.
        proposed: the anchor of the evidence that we wrote in that term.
        named: peers that were named because their state differs, and the anchor.
    """

    keeper: Keeper = field(default_factory=Keeper)
    marker: int = 0
    marker_taken: int = 0
    marker_ms: int = 0
    report_due: int = 0
    reports: dict[Incarnation, StateEvidence] = field(default_factory=dict)
    term: int = 0
    proposed: int = 0
    named: dict[Incarnation, Anchor] = field(default_factory=dict)


@dataclass(slots=True)
class Installing:
    """A snapshot that is fetched, then loaded.

    Attributes:
        loading: the state under way, once every chunk is here.
        frames: that it is made from.
        loaded: how many bytes of the chunks were read.
    """

    fetching: Fetching
    loading: Loading | None = None
    frames: Iterator[tuple[int, Any]] = field(default_factory=lambda: iter(()))
    loaded: int = 0

    @property
    def anchor(self) -> Anchor:
        return self.fetching.evidence.anchor
