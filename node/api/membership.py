"""The endpoints by which an operator stops and restarts members: who is meant, and may it be done now."""

from node.api import schemas
from node.api.limits import MEMBER_CHARACTERS_MAX
from node.api.problems import ProblemError
from node.api.service import GroupView
from node.api.stopping import judge_stop
from node.api.views import voters_of_all
from node.peers import Incarnation


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


def node_schema(member: Incarnation) -> schemas.Node:
    """Return name and peer id."""
    return schemas.Node(name=member.name, peer_id=member.id.hex())
