"""What must hold of snapshots: of equal logs they are equal, and an install takes nothing back."""

from collections.abc import Mapping

from node.raft.types import Entry, EntryKind, Position
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.views import LogTree, View
from node.sync.evidence import MARKER, Anchor, StateEvidence, decode_snapshot_untrusted


class SnapshotOracle:
    """All snapshots of one run."""

    def __init__(self, tree: LogTree, *, rules: bool) -> None:
        self._tree = tree
        self._rules = rules
        # The first at each anchor, and whose it is.
        self._digests: dict[Anchor, tuple[str, StateEvidence]] = {}

    def installed(self, process: Process, anchor: Position, agreed: Mapping[int, list[int]]) -> None:
        """Note that ``process`` took a snapshot: its log is the one that led there, of which it has nothing.

        I6: this takes nothing back. What it acknowledged is in that log, or was never committed.
        """
        view = process.view
        path = self._tree.path_to(anchor)
        committed = agreed[self._tree.genesis[path[-1]]]
        if anchor.index >= len(committed) or committed[anchor.index] != path[-1]:
            raise InvariantError(
                "install-uncommitted", f"{process} installs {anchor}, which nobody committed"
            )
        if anchor.index <= view.commit:
            raise InvariantError("monotone-commit", f"{process} installs {anchor.index} below {view.commit}")
        if view.leads:
            raise InvariantError("leader-append-only", f"leader {process} installs {anchor.index}")
        view.former.append(view.nodes.copy())
        view.nodes = path
        view.configs = [
            (index, self._tree.config_at(node))
            for index, node in enumerate(path)
            if self._tree.is_entry(node, index) and self._is_config(node)
        ]
        view.commit = view.base = view.evidenced = anchor.index
        self._check_configs(process)

    def _is_config(self, node: int) -> bool:
        entry = self._tree.entries[node]
        return entry is not None and entry.kind is EntryKind.CONFIG

    def _check_configs(self, process: Process) -> None:
        """Require that an installed configuration is the one at the anchor.

        A member that found entries behind it on its disk may hold a later one of those.
        """
        held = process.member.tenure.configs[:1]
        if held and process.view.base < held[0][0] <= process.log.last().index:
            return
        if held != process.view.configs[-1:] and self._rules:
            raise InvariantError("installed-configuration", f"{process} holds {held}")

    def check_base(self, process: Process) -> None:
        """Require that nothing above the newest anchor with committed evidence is cut off a log."""
        view, base = process.view, process.log.base.index
        if base > view.evidenced and self._rules:
            raise InvariantError("prune-without-evidence", f"{process} prunes to {base} of {view.evidenced}")
        view.base = base

    def observe(self, process: Process) -> None:
        """Note the snapshots of ``process`` that are others than those noted last: one never changes."""
        view, snaps = process.view, process.member.tenure.snaps
        keeper = snaps.keeper
        if keeper.ready is not view.ready or keeper.held is not view.held:
            view.ready, view.held = keeper.ready, keeper.held
            for snapshot in (keeper.ready, keeper.held):
                if snapshot is not None:
                    self.digested(process, snapshot.evidence)
        own = snaps.reports.get(process.inc)
        if own is not None and own is not view.counted:
            view.counted = own
            self.digested(process, own)

    def digested(self, process: Process, evidence: StateEvidence) -> None:
        """Require that equal logs have equal snapshots.

        A member may replace a snapshot by the next in the step in which it reported it.
        """
        first = self._digests.setdefault(evidence.anchor, (str(process), evidence))
        if first[1] != evidence:
            raise InvariantError(
                "equal-snapshots", f"{process} and {first[0]} differ at {evidence.anchor[:2]}"
            )

    def note_evidence(self, view: View, entry: Entry) -> None:
        """Note committed evidence. It is about an entry before it that is committed too."""
        evidence = decode_snapshot_untrusted(entry.payload)
        if evidence is None:
            return
        anchor = evidence.anchor
        marker = self._tree.entries[view.nodes[anchor.index]] if anchor.index < entry.index else None
        if marker is None or marker.chain != anchor.chain or marker.payload != MARKER:
            raise InvariantError("evidence-of-nothing", f"{entry.index} is evidence about {anchor}")
        known = self._digests.get(anchor)
        if self._rules and (known is None or known[1] != evidence):
            raise InvariantError("equal-snapshots", f"the evidence at {entry.index} is nobody's")
        view.evidenced = max(view.evidenced, anchor.index)
