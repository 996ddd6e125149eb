"""What operators do to a group, and what follows: removed members, and a survivor's generation."""

from collections.abc import Iterable, Sequence

from node.raft.quorum import REMOVED_MAX, Config
from node.raft.recovering import PREDECESSOR_LIVES
from node.raft.succession import Predecessor
from node.raft.types import LEADER, REMOVED, Entry, Position
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.views import LogTree

Change = Sequence[Entry] | int | Position


def may_end(process: Process, reason: str, living: Iterable[Process], tree: LogTree) -> bool:
    """Whether ``process`` halts for a reason that is true, and no error."""
    if reason == "feature-level-too-low":
        # A FEATURE was written somewhere that it does not know: it stops before that.
        return max(tree.levels) > process.member.build.features.high
    if reason == REMOVED:
        return _is_removed(process)
    return reason == PREDECESSOR_LIVES and _is_outlived(process, living)


def check_removals(process: Process, last: Config, config: Config) -> None:
    """Require that a removed member never votes again, and that no leader forgets who was removed."""
    if not set(last.removed).isdisjoint(config.voters):
        raise InvariantError("removed-again", f"{process} lets a removed member vote again")
    if not {*last.removed[1 - REMOVED_MAX :]} <= {*config.removed}:
        raise InvariantError("removal-forgotten", f"{process} forgets who was removed")


def _is_removed(process: Process) -> bool:
    """Whether a configuration that ``process`` knows to be committed names it as removed."""
    view = process.view
    settled = [config for index, config in view.configs if index <= view.commit]
    return bool(settled) and process.inc in settled[-1].removed


def _is_outlived(process: Process, living: Iterable[Process]) -> bool:
    """Whether a member leads the cluster before the one that ``process`` founded as a survivor."""
    predecessor = process.member.tenure.predecessor
    return predecessor is not None and any(
        other.view.role is LEADER and other.member.cluster == predecessor.cluster for other in living
    )


def succession(process: Process, changes: Sequence[Change]) -> Predecessor | None:
    """Return after which cluster ``process`` goes on in a new one in this step; None if it does not."""
    predecessor = process.member.tenure.predecessor
    return predecessor if predecessor is not None and predecessor.start in changes else None


def succeed(process: Process, predecessor: Predecessor, tree: LogTree) -> list[int]:
    """Note that ``process`` goes on behind all that its log holds; return its log with the new genesis.

    What a survivor held becomes committed in the new cluster, and there alone: another history may go on in
    the old one.
    """
    view = process.view
    path = tree.path_to(predecessor.position)
    start, *rest = view.changes
    if start != predecessor.start or path != view.nodes:
        raise InvariantError("succession", f"{process} does not succeed behind the end of its log")
    view.changes = rest
    genesis = next(change for change in rest if not isinstance(change, int | Position))[0]
    view.commit = view.base = view.evidenced = predecessor.position.index
    return [*path, tree.extend(path[-1], genesis)]
