"""Snapshots of a group's whole state, and how a member receives one. No I/O: see ``DESIGN.md``.

These names are for a state sync of your own (docs/groups.md). The modules behind them may move.
"""

from node.errors import RemoteProtocolError
from node.peers import Incarnation
from node.sync.evidence import Anchor, StateEvidence
from node.sync.keeper import Snapshot
from node.sync.snapshot_sync import SnapshotSync
from node.sync.state_sync import (
    LogReplaySync,
    StateSync,
    SyncProgress,
    SyncProvider,
    SyncRequest,
    SyncSession,
    Target,
    Turn,
)

__all__ = [
    "Anchor",
    "Incarnation",
    "LogReplaySync",
    "RemoteProtocolError",
    "Snapshot",
    "SnapshotSync",
    "StateEvidence",
    "StateSync",
    "SyncProgress",
    "SyncProvider",
    "SyncRequest",
    "SyncSession",
    "Target",
    "Turn",
]
