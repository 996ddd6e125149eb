"""Configurations and quorums (3.2): a pure leaf, and the heart of the safety argument.

``active`` configurations are the last one at or below the commit index and every one above it. An entry or
an election needs a quorum in each of them, never only in the newest: with the tie-break, two configurations
that differ by one voter can have disjoint quorums (3.6).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from node.peers import Incarnation

REMOVED_MAX: Final = 64  # incarnations that a Cfg names as removed; the oldest are forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The voters, and the rule for ties.

    Attributes:
        epoch: from 1 (genesis), one more with every configuration.
        voters: sorted, at least one.
        tie: of two equal halves of the voters, the half with this voter is a quorum. None: no half is a
            quorum.
        reason: for people: ``genesis``, ``promote node-d``, ...
        removed: the incarnations that operators removed, the latest ones, in the order of their removal.
            They are no voters, and never will be.
    """

    epoch: int
    voters: tuple[Incarnation, ...]
    tie: Incarnation | None
    reason: str
    removed: tuple[Incarnation, ...] = ()


def is_quorum(config: Config, members: Collection[Incarnation]) -> bool:
    """Return whether ``members`` holds a majority of the voters, or half of them with the tie."""
    double = 0
    for voter in config.voters:
        if voter in members:
            double += 2
    size = len(config.voters)
    return double > size or (double == size and config.tie is not None and config.tie in members)


def is_quorum_of_all(configs: Iterable[Config], members: Collection[Incarnation]) -> bool:
    """Return whether ``members`` is a quorum in every one of ``configs``."""
    for config in configs:  # noqa: SIM110 - asked at every ACK, where a generator costs as much as the question
        if not is_quorum(config, members):
            return False
    return True


def tie_for(voters: Collection[Incarnation], leader: Incarnation, *, tie_break: bool) -> Incarnation | None:
    """Return the voter that breaks ties: the proposing leader, if the number of voters is even."""
    return leader if tie_break and len(voters) % 2 == 0 and leader in voters else None
