"""The oracles' knowledge of every process: its log as a place in one tree, its configurations, its commits.

Equal prefixes of logs are the same node of the tree, so the oracles compare only integers.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from node.features import LOWEST
from node.raft.entries import decode_config_untrusted, decode_number_untrusted
from node.raft.log import MemoryLog
from node.raft.messages import AppendReply
from node.raft.quorum import Config
from node.raft.types import Entry, EntryKind, Position, Role
from node.simulation.errors import InvariantError
from node.sync.evidence import StateEvidence
from node.sync.keeper import Snapshot

ROOT: Final = 0  # the empty log
ALL_OF_IT: Final = 1 << 30  # above the position of any command in its entry


def _is_succession(entry: Entry) -> bool:
    """Whether ``entry`` is the genesis of a survivor's generation: another cluster begins with it."""
    if entry.kind is not EntryKind.CONFIG:
        return False
    _, founding = decode_config_untrusted(entry.payload)
    return founding is not None and founding.predecessor is not None


class LogTree:
    """Every log prefix that ever existed, once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int, int, bytes, bytes], int] = {}
        self._by_place: dict[tuple[int, int, int], int] = {}
        self._configs: dict[int, Config] = {}
        self.genesis = [ROOT]  # by node: the first entry of its log
        self.levels = [LOWEST]  # by node: the feature level of a group that has applied its log
        self.entries: list[Entry | None] = [None]
        self._prefixes = [ROOT]
        self._by_chain: dict[bytes, int] = {}

    def term_of(self, node: int) -> int:
        """Return the term of the entry of ``node``; 0 for the root."""
        entry = self.entries[node]
        return 0 if entry is None else entry.term

    def config_at(self, node: int) -> Config:
        """Return the configuration in the CONFIG entry of ``node``."""
        config = self._configs.get(node)
        if config is None:
            entry = self.entries[node]
            assert entry is not None
            config, _ = decode_config_untrusted(entry.payload)
            self._configs[node] = config
        return config

    @property
    def is_rooted(self) -> bool:
        """Whether any log ever had a genesis."""
        return len(self.entries) > 1

    def extend(self, prefix: int, entry: Entry) -> int:
        """Return the node for ``entry`` after ``prefix``.

        Raises:
            InvariantError: another log holds another history up to the same index and term.
        """
        key = (prefix, entry.term, entry.time_ms * 16 + entry.kind, entry.payload, entry.chain)
        node = self._nodes.get(key)
        if node is not None:
            return node
        node = self._nodes[key] = len(self.entries)
        genesis = node if prefix == ROOT or _is_succession(entry) else self.genesis[prefix]
        self.entries.append(entry)
        self._prefixes.append(prefix)
        self._by_chain[entry.chain] = node
        self.genesis.append(genesis)
        self.levels.append(self._level(self.levels[prefix], entry))
        place = (genesis, entry.index, entry.term)
        if self._by_place.setdefault(place, node) != node:
            raise InvariantError("log-matching", f"two histories end in the entry {entry.term}:{entry.index}")
        return node

    @staticmethod
    def _level(before: int, entry: Entry) -> int:
        if entry.kind is EntryKind.FEATURE:
            return max(before, decode_number_untrusted(entry.payload))
        if entry.index == 1 and entry.kind is EntryKind.CONFIG:
            _, founding = decode_config_untrusted(entry.payload)
            return before if founding is None else founding.levels.level
        return before

    def path_to(self, position: Position) -> list[int]:
        """Return, by index, the nodes of the log that ends at ``position``.

        Raises:
            InvariantError: no log ever had that position.
        """
        node = self._by_chain.get(position.chain, ROOT)
        entry = self.entries[node]
        if entry is None or (entry.term, entry.index) != position[:2]:
            raise InvariantError("install-of-nothing", f"no log ever ended at {position}")
        path = [node]
        while path[-1] != ROOT:
            prefix = self._prefixes[path[-1]]
            path += [prefix] * self._distance(prefix, path[-1])
        return path[::-1]

    def _distance(self, prefix: int, node: int) -> int:
        """Return by how much the index grows from ``prefix`` to ``node``: 1, unless a generation jumps."""
        before, entry = self.entries[prefix], self.entries[node]
        assert entry is not None
        return entry.index - (0 if before is None else before.index)

    def is_entry(self, node: int, index: int) -> bool:
        """Whether there is an entry at ``index`` of a log, where it has ``node``; generations jump."""
        entry = self.entries[node]
        return entry is not None and entry.index == index

    def cluster_of(self, node: int) -> bytes:
        """Return the name of the cluster of a log that ends in ``node``; empty for the empty log."""
        genesis = self.entries[self.genesis[node]]
        return genesis.chain if genesis is not None else b""


class Promise(NamedTuple):
    """An ACK that may have to wait for the disk, and the state that it depends on.

    Attributes:
        node: the tree's node of the log up to ``reply.match``.
        written: how many writes the disk had been given before the step that promised the ACK.
    """

    reply: AppendReply
    node: int
    written: int


class View:
    """The oracles' knowledge of one process.

    Attributes:
        nodes: by index, the tree's node of the log up to there; where the index jumped, that of the last
            entry before.
        configs: (index, configuration) of every CONFIG entry in the log.
        applied: (index, position in the entry) of the last command applied.
        changes: of the log in the present step: entries added, the index it was cut to, or the position
            behind which it went on.
        base: up to here the real log was cut off.
        evidenced: the newest anchor of which it knows committed evidence.
        ready, held: the snapshots that were judged last; a snapshot never changes.
        counted: what it counted last of its own digests, as a leader; alone it needs no other's.
        former: the log as it was in the present step before each cut.
        promises: ACKs that wait for the disk, by their ``id``.
        proposed: length of ``configs`` before the present step.
        leads: in the present step it led ``term``, at least for a part of the step.
        leased: tokens of the answers that it computed under a lease of ``term`` and has not sent yet.
    """

    __slots__ = (
        "applied",
        "base",
        "changes",
        "commit",
        "configs",
        "counted",
        "evidenced",
        "former",
        "held",
        "leads",
        "leased",
        "nodes",
        "promises",
        "proposed",
        "ready",
        "role",
        "term",
    )  # fmt: skip

    def __init__(self) -> None:
        self.nodes: list[int] = [ROOT]
        self.configs: list[tuple[int, Config]] = []
        self.commit = 0
        self.term = 0
        self.role = Role.FOLLOWER
        self.leads = False
        self.leased: tuple[int, frozenset[int]] = (0, frozenset())
        self.applied = (0, 0)
        self.base = self.evidenced = 0
        self.ready: Snapshot | None = None
        self.held: Snapshot | None = None
        self.counted: StateEvidence | None = None
        self.changes: list[Sequence[Entry] | int | Position] = []
        self.former: list[list[int]] = []
        self.promises: dict[int, Promise] = {}
        self.proposed = 0

    def leave(self) -> None:
        """Its cluster dissolved: the process begins anew, in no cluster."""
        self.nodes = [ROOT]
        self.configs = []
        self.commit = 0
        self.term = 0
        self.base = self.evidenced = 0

    def active(self, commit: int, target: int) -> list[Config]:
        """Return which configurations must agree to go from ``commit`` to ``target``.

        These are the last one at or below ``commit`` and every one above. A configuration that was added in
        the present step beyond ``target`` does not count: it came after the decision.
        """
        below = 0
        for position, (index, _) in enumerate(self.configs):
            if index <= commit:
                below = position
        return [
            config
            for position, (index, config) in enumerate(self.configs)
            if position >= below and (position < self.proposed or index <= target)
        ]


class ObservedLog(MemoryLog):
    """The log store of a process. Its changes are judged after the step, when the step's roles are known."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self._view.changes.append(tuple(entries))

    def truncate(self, index: int) -> None:
        super().truncate(index)
        self._view.changes.append(index)

    def restart(self, base: Position, time_ms: int) -> None:
        super().restart(base, time_ms)
        self._view.changes.append(base if base.index else 0)
        self._view.applied = (base.index, ALL_OF_IT)
