"""The endpoint by which an operator lets a survivor found a new generation of the group."""

import base64
from typing import Final

from node.api import schemas, views
from node.api.membership import node_schema
from node.api.problems import ProblemError
from node.api.service import GroupView, SurvivorView
from node.raft.types import NotExecuted, Position

_WHY: Final = {
    "recovery-not-authorized": 'the group document has no [recovery] authorize = "survivor"',
    "recovery-needs-no-survivor": 'with storage = "trust-disk" the voters come back: start them',
    "no-cluster": "this node is in no cluster, so it holds nothing",
    "feature-level-too-low": "the group's feature level has no recovery",
    "not-a-voter": "this node is no voter of the newest configuration that it knows",
    "dissolving": "the cluster gives itself up",
    "group-is-alive": "a quorum is here or may come back, or a leader was here a moment ago: wait",
    "another-cluster-is-here": "a connected node is in another cluster: see which one is the group",
    "position-differs": "the log of this node ends elsewhere: look again",
    "approval-refused": "the approval is not that of the group's authority for this very position",
}


def survivor_response(view: GroupView, survivor: SurvivorView) -> schemas.Survivor:
    """Return the answer of ``GET /v1/recovery``."""
    newest = view.configs[-1] if view.configs else None
    end = survivor.log_end
    return schemas.Survivor(
        member=node_schema(view.status.me),
        authorized=survivor.authorized,
        needs_approval=survivor.needs_approval,
        votes=newest is not None and view.status.me in newest.voters,
        group_id=view.group_id.hex(),
        cluster=views.cluster_schema(view.cluster),
        log_end=schemas.LogEnd(term=end.term, index=end.index, chain=end.chain.hex()),
        applied_index=view.status.applied,
        age_ms=view.covered_age_ms,
        quorum=views.quorum_schema(view.outlook),
    )


def recovery_asked(asked: schemas.RecoveryRequest) -> tuple[Position, bytes]:
    """Return the position that the operator repeats, and the approval; empty if there is none.

    Raises:
        ProblemError: ``request-invalid``: the approval is not base64.
    """
    end = asked.log_end
    try:
        approval = b"" if asked.approval is None else base64.b64decode(asked.approval, validate=True)
    except ValueError as exc:
        raise ProblemError("request-invalid", "`approval` is not base64") from exc
    return Position(end.term, end.index, bytes.fromhex(end.chain)), approval


def recovery_refused(outcome: NotExecuted) -> ProblemError:
    """Return the problem of a recovery that did not happen."""
    message = _WHY.get(outcome.reason, "the node refused it, and nothing has changed")
    return ProblemError("recovery-refused", message, extensions={"reason": outcome.reason})
