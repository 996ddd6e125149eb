"""What operators do to a group, and what follows: removed members, and a survivor's generation."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from node.peers import Incarnation
from node.raft.events import Recover
from node.raft.member import Member
from node.raft.quorum import REMOVED_MAX, Config, is_quorum
from node.raft.recovering import PREDECESSOR_LIVES
from node.raft.succession import Predecessor
from node.raft.types import LEADER, REMOVED, Entry, Position
from node.simulation.agreement import Agreement
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.views import LogTree

Change = Sequence[Entry] | int | Position


class Successor(Member):
    """A member that may found a generation, by a jump of the index that a list can hold.

    Attributes:
        jump: of the index.
        is_succeeding: it commits what its log holds, for the new generation alone.
    """

    jump: int = 0
    is_succeeding: bool = False

    def _index_jump(self) -> int:
        return self.jump

    def _recover_group(self, request: Recover) -> None:
        self.is_succeeding = True
        super()._recover_group(request)
        self.is_succeeding = False


class Permitted:
    """The group document permits that a survivor recovers; the operator makes the mistakes."""

    def permits(self, statement: bytes, approval: bytes) -> bool:  # noqa: ARG002
        return True


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


def check_generations(living: Sequence[Process]) -> None:
    """Require that no survivor's generation lives on although a member leads the cluster before it."""
    for process in living:
        if _is_outlived(process, living):
            raise InvariantError("two-generations", f"{process} lives beside the cluster that it succeeded")


def are_split(living: Iterable[Process]) -> bool:
    """Whether two survivors founded a generation each after the same cluster: neither gives way."""
    found = {(process.member.cluster, process.member.tenure.predecessor) for process in living}
    before = Counter(predecessor.cluster for _, predecessor in found if predecessor is not None)
    return any(count > 1 for count in before.values())


def outlasted(living: Sequence[Process]) -> list[Process]:
    """Return the members of clusters that have a living successor and can have no leader any more.

    Nothing moves them but their operator, who restarts their nodes.
    """
    before = [process.member.tenure.predecessor for process in living]
    left = {predecessor.cluster for predecessor in before if predecessor is not None}
    found = []
    for cluster in left:
        members = [process for process in living if process.member.cluster == cluster]
        incs = {process.inc for process in members}
        views = [process.view for process in sorted(members, key=_last) if process.view.configs]
        active = views[-1].active(views[-1].commit, len(views[-1].nodes) - 1) if views else []
        if not all(is_quorum(config, incs) for config in active):
            found += members
    return found


def _last(process: Process) -> Position:
    return process.log.last()


def succession(process: Process, changes: Sequence[Change]) -> Predecessor | None:
    """Return after which cluster ``process`` goes on in a new one in this step; None if it does not."""
    predecessor = process.member.tenure.predecessor
    return predecessor if predecessor is not None and predecessor.start in changes else None


class Successions:
    """The generations that survivors found, in one run."""

    def __init__(self) -> None:
        self._signatures: set[tuple[bytes, Incarnation]] = set()
        self._deferred: list[Callable[[Agreement], None]] = []

    def __bool__(self) -> bool:
        return bool(self._signatures)

    def defers(self, process: Process, action: Callable[[Agreement], None]) -> bool:
        """Whether ``action`` waits for ``note``.

        What a survivor applies in the step in which it founds a generation is part of that one alone.
        """
        if not isinstance(process.member, Successor) or not process.member.is_succeeding:
            return False
        self._deferred.append(action)
        return True

    def note(
        self, process: Process, predecessor: Predecessor, tree: LogTree, agreements: dict[bytes, Agreement]
    ) -> tuple[int, list[int]]:
        """Note a new cluster: what its founder held and was executed before counts as executed in it too.

        Returns:
            Its genesis, and the log before that.
        """
        signed = (predecessor.cluster, process.inc)
        if signed in self._signatures:
            raise InvariantError("one-successor", f"{process} founds a second successor of one cluster")
        self._signatures.add(signed)
        *path, genesis = succeed(process, predecessor, tree)
        terms = [tree.term_of(node) for node in path[: predecessor.position.index + 1]]
        successor = agreements[tree.cluster_of(genesis)] = agreements[predecessor.cluster].succeeded(terms)
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action(successor)
        return genesis, path


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
    view.commit = view.base = view.evidenced = start.index
    view.nodes = [*path, *[path[-1]] * predecessor.jump]
    return [*view.nodes, tree.extend(path[-1], genesis)]
