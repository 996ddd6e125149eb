"""Whether a member can stop now without risk to its group: judged by what the leader knows.

The verdict reserves nothing, and it is as old as the leader's knowledge, at most an election timeout. Stop
one member at a time, and ask again before the next. What cannot be known is not safe.
"""

from dataclasses import dataclass
from typing import Final, Literal

from node.api.service import GroupView
from node.peers import Incarnation
from node.raft.quorum import is_quorum_of_all
from node.raft.types import Leading

NOT_KNOWN: Final = "not-known"


@dataclass(frozen=True, slots=True)
class StopVerdict:
    """Whether a member can stop. ``reason`` is a stable kebab-case code; both texts are empty if it can."""

    reason: str = ""
    message: str = ""

    @property
    def word(self) -> Literal["safe", "unsafe", "unknown"]:
        """Return the verdict in one word."""
        if not self.reason:
            return "safe"
        return "unknown" if self.reason == NOT_KNOWN else "unsafe"


def judge_stop(view: GroupView, member: Incarnation) -> StopVerdict:
    """Return whether ``member``, one of the group's, can stop now."""
    leading, status = view.leading, view.status
    if leading is None or status.halted is not None:
        who = (
            "nobody that it knows leads"
            if status.leader is None
            else f"ask {status.leader.name}, which leads"
        )
        return StopVerdict(NOT_KNOWN, f"only a leader knows who holds its log: {who}")
    if leading.transferring:
        return StopVerdict("transfer-pending", "the leader is handing its leadership over: wait")
    if not leading.established:
        return StopVerdict("leader-is-new", "nothing of the leader's term is committed yet: wait")
    if len(view.configs) > 1:
        reason = view.configs[-1].reason
        return StopVerdict("change-pending", f"a change of the voters is not committed yet ({reason}): wait")
    votes = any(member in config.voters for config in view.configs)
    waiting = waiting_learners(view, leading) if votes else []
    if waiting:
        names = ", ".join(learner.name for learner in waiting)
        return StopVerdict(
            "learner-not-voter", f"on the way to become a voter: {names}; wait until it is one"
        )
    remaining = {one for one in leading.in_step if one != member}
    if not is_quorum_of_all(view.configs, remaining):
        return StopVerdict("would-lose-quorum", _too_few(view, member, remaining))
    if len(remaining) < leading.copies_needed:
        message = (
            f"without {member.name} only {len(remaining)} of {leading.copies_needed} copies could be held"
        )
        return StopVerdict("too-few-copies", message)
    if member == status.me:
        return StopVerdict("leads", f"{member.name} leads: hand the leadership over first")
    return StopVerdict()


def waiting_learners(view: GroupView, leading: Leading) -> list[Incarnation]:
    """Return the bonded learners that the leader will make voters when they have caught up."""
    voters = {voter for config in view.configs for voter in config.voters}
    has_room = len(voters) < view.max_voters
    to_replace = {voter.name for voter in voters if voter not in leading.responsive}
    learners = (one for one in view.status.learners if one in view.status.electable)
    return [one for one in learners if has_room or one.name in to_replace]


def _too_few(view: GroupView, member: Incarnation, remaining: set[Incarnation]) -> str:
    voters = view.configs[0].voters
    left = [voter.name for voter in voters if voter in remaining]
    names = ", ".join(left) or "none"
    return (
        f"without {member.name} only {len(left)} of {len(voters)} voters would be connected and caught up "
        f"({names}), which is no quorum"
    )
