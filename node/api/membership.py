"""The endpoints by which an operator stops and restarts members: who is meant, and may it be done now."""

from node.api import schemas
from node.api.limits import MEMBER_CHARACTERS_MAX
from node.api.outcomes import not_executed
from node.api.problems import ProblemError
from node.api.service import GroupView
from node.api.stopping import judge_stop
from node.api.views import committed_config, voters_of_all
from node.peers import Incarnation
from node.raft.types import Leading, NotExecuted


def member_named(view: GroupView, text: str) -> Incarnation:
    """Return the member with this name or peer id.

    A restarted node has a voter and a learner of one name until the one has replaced the other: then only the
    peer id names one of them.

    Raises:
        ProblemError: ``request-invalid``: the text names no member, or several.
    """
    known = {view.status.me, *voters_of_all(view), *view.status.learners}
    found = [one for one in sorted(known) if text in (one.name, one.id.hex())]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(one.id.hex() for one in found)
    detail = f"several members have this name: give the peer id of one ({ids})" if found else "no such member"
    raise ProblemError("request-invalid", f"`{text[:MEMBER_CHARACTERS_MAX]}`: {detail}")


def stop_response(view: GroupView, member: Incarnation) -> schemas.SafeToStop:
    """Return the answer of ``GET /v1/safe-to-stop``."""
    verdict = judge_stop(view, member)
    return schemas.SafeToStop(
        member=node_schema(member),
        verdict=verdict.word,
        reason=verdict.reason,
        message=verdict.message,
        leader=None if view.status.leader is None else node_schema(view.status.leader),
    )


def successor(view: GroupView, asked: schemas.TransferRequest) -> Incarnation:
    """Return the member that is to lead, which may lead already: a voter in step with the leader.

    Raises:
        ProblemError: ``not-executed``: ask the leader, or later; ``transfer-refused``: it cannot succeed now.
    """
    leading, me = view.leading, view.status.me
    if leading is None:
        raise not_executed(NotExecuted("not-leader", view.status.leader))
    if not leading.established:
        raise not_executed(NotExecuted("leader-is-new", view.status.me))
    if len(view.configs) > 1:
        raise not_executed(NotExecuted("change-pending", view.status.me))
    target = None if asked.target is None else member_named(view, asked.target)
    if asked.leader not in (None, me.id.hex()):  # a repetition, which the next leader receives
        if target not in (None, me):
            raise _refused("leader-changed", f"{me.name} leads by now, and was not asked to hand over")
        return me
    if target is None:
        return _furthest(view, leading)
    if target != me:
        _require_fit(view, leading, target)
    return target


def removable(view: GroupView, text: str) -> Incarnation:
    """Return the member with this name or peer id, which may be removed already: then by its peer id.

    Raises:
        ProblemError: ``request-invalid``: the text names no member, or several.
    """
    removed = {one.id.hex(): one for one in committed_config(view).removed}
    return removed[text] if text in removed else member_named(view, text)


def removal_refused(outcome: NotExecuted, view: GroupView, member: Incarnation) -> ProblemError:
    """Return the problem of a removal that did not happen."""
    name = member.name
    why = {
        "below-min-voters": f"without {name} fewer than {view.min_voters} voters (min_voters) would be left",
        "would-lose-quorum": f"without {name} the voters that answer would be no quorum",
        "too-few-copies": f"without {name} too few members answer to hold what is written",
        "feature-level-too-low": "the group's feature level has no removals yet: upgrade every node first",
        "no-such-member": f"{name} is no member any more, and is not connected with the leader",
    }.get(outcome.reason)
    if why is None:  # ask the leader, or later
        return not_executed(outcome)
    return ProblemError("removal-refused", why, extensions={"reason": outcome.reason})


def _require_fit(view: GroupView, leading: Leading, target: Incarnation) -> None:
    if target not in committed_config(view).voters:
        raise _refused("no-voter", f"{target.name} is no voter")
    if target not in leading.responsive:
        raise _refused("not-connected", f"{target.name} is not connected with the leader")
    if target not in view.status.electable:
        raise _refused("observer", f"{target.name} is an observer, which never leads")
    if target not in leading.in_step:
        raise _refused("lagging", f"{target.name} has not caught up with the leader")


def _furthest(view: GroupView, leading: Leading) -> Incarnation:
    """Return the voter whose log is proven furthest."""
    voters = {*committed_config(view).voters} - {view.status.me}
    fit = sorted(voters & {*leading.in_step} & {*view.status.electable})
    if not fit:
        raise _refused("no-successor", "no other voter is connected and has caught up")
    return max(fit, key=lambda one: view.status.match.get(one, 0))


def _refused(reason: str, message: str) -> ProblemError:
    return ProblemError("transfer-refused", message, extensions={"reason": reason})


def node_schema(member: Incarnation) -> schemas.Node:
    """Return name and peer id."""
    return schemas.Node(name=member.name, peer_id=member.id.hex())
