"""Which change of the voters a leader should write next (3.6): pure rules over what the leader knows.

An ABSTAIN does not change the quorum by itself; it is the signal on which the leader acts here. An entry that
shrinks the quorum is committed by the old quorum and the new one, so no minority can write it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from node.peers import BondLoss, Incarnation
from node.raft.quorum import REMOVED_MAX, Config, is_quorum, tie_for
from node.raft.types import NotExecuted


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipView:
    """What a leader knows when it reviews its voters.

    Attributes:
        me: the leader.
        config: the last Cfg of its log, which is committed.
        responsive: who answered within an election timeout, the leader included.
        promotable: peers that are no voters, want to be, and kept up for some rounds, in order.
        observers: bonded peers that never stand and never lead.
        ended_bonds: voters whose bond ended for good, and why.
        silent: voters that did not answer for ``demote_after_ms``.
        lagging: voters that made no progress for ``demote_lag_ms``.
        min_voters, max_voters: the group's bounds.
        tie_break: a Cfg with an even number of voters names one that breaks ties.
    """

    me: Incarnation
    config: Config
    responsive: Collection[Incarnation]
    promotable: tuple[Incarnation, ...] = ()
    observers: Collection[Incarnation] = ()
    ended_bonds: Mapping[Incarnation, BondLoss]
    silent: Collection[Incarnation] = ()
    lagging: Collection[Incarnation] = ()
    min_voters: int
    max_voters: int
    tie_break: bool

    @property
    def others(self) -> tuple[Incarnation, ...]:
        """The voters but the leader."""
        return tuple(voter for voter in self.config.voters if voter != self.me)

    def newcomers(self) -> Iterator[Incarnation]:
        """Return the promotable peers whose node has no vote yet: two processes of a node get one."""
        names = {voter.name for voter in self.config.voters}
        return (peer for peer in self.promotable if peer.name not in names)


@dataclass(frozen=True, slots=True)
class VoterChange:
    """One step from the present voters to better ones. ``reason`` is for people, and in the log."""

    voters: frozenset[Incarnation]
    reason: str


def plan(view: MembershipView) -> Config | None:
    """Return the Cfg to write now; None if the voters are as good as they can be."""
    return first_possible(view, changes(view))


def first_possible(view: MembershipView, wanted: Iterable[VoterChange]) -> Config | None:
    """Return the Cfg of the first change that a quorum of the old and of the new voters can commit."""
    configs = (config_after(view, change) for change in wanted)
    return next((config for config in configs if is_possible(view, config)), None)


def changes(view: MembershipView) -> Iterator[VoterChange]:
    """Return every single step that would improve the configuration, the most urgent first."""
    for voter in view.config.voters:
        yield from demote_departed(view, voter)
        yield from replace_observer(view, voter)
    for voter in view.config.voters:
        yield from replace_restarted(view, voter)
    for voter in view.others:
        yield from demote_useless(view, voter)
    yield from promote(view)


def demote_departed(view: MembershipView, voter: Incarnation) -> Iterator[VoterChange]:
    """Demote a voter whose bond ended for good."""
    loss = view.ended_bonds.get(voter)
    if loss is not None and voter != view.me:
        yield _demotion(view, voter, loss.value)


def replace_observer(view: MembershipView, voter: Incarnation) -> Iterator[VoterChange]:
    """Demote or replace a voter that came back as an Observer (trust_disk): it counts, and never elects."""
    if voter in view.observers:
        yield _demotion(view, voter, "observer")
        for peer in view.newcomers():
            yield _replacement(view, voter, peer)


def replace_restarted(view: MembershipView, voter: Incarnation) -> Iterator[VoterChange]:
    """Replace a voter that answers no more by the present incarnation of its node."""
    if voter not in view.responsive:
        for peer in view.promotable:
            if peer.name == voter.name:
                yield _replacement(view, voter, peer)


def demote_useless(view: MembershipView, voter: Incarnation) -> Iterator[VoterChange]:
    """Demote a voter that has not answered for long, or has not caught up for long."""
    if voter in view.silent:
        yield _demotion(view, voter, "silent")
    elif voter in view.lagging:
        yield _demotion(view, voter, "lagging")


def promote(view: MembershipView) -> Iterator[VoterChange]:
    """Promote a learner of a node without a vote, while there may be more voters."""
    if len(view.config.voters) < view.max_voters:
        for peer in view.newcomers():
            yield VoterChange(frozenset(view.config.voters) | {peer}, f"promote {peer}")


def config_after(view: MembershipView, change: VoterChange) -> Config:
    """Return the Cfg that makes ``change``."""
    return Config(
        epoch=view.config.epoch + 1,
        voters=tuple(sorted(change.voters)),
        tie=tie_for(change.voters, view.me, tie_break=view.tie_break),
        reason=change.reason,
        removed=view.config.removed,
    )


def removal(view: MembershipView, member: Incarnation) -> Config | NotExecuted:
    """Return the Cfg that removes ``member`` for good, or why it may not be removed now.

    Reasons: ``below-min-voters``; ``would-lose-quorum``, if those that answer are not enough to commit it and
    to go on after it; ``too-few-copies``, if they could hold too few copies of what is written after it.
    """
    voters = frozenset(view.config.voters) - {member}
    staying = frozenset(view.responsive) - {member}
    if member in view.config.voters and len(voters) < view.min_voters:
        return NotExecuted("below-min-voters", view.me)
    heir = view.me if member != view.me else min(voters & staying, default=None)
    config = Config(
        epoch=view.config.epoch + 1,
        voters=tuple(sorted(voters)),
        tie=None if heir is None else tie_for(voters, heir, tie_break=view.tie_break),
        reason=f"remove {member}",
        removed=(*view.config.removed, member)[-REMOVED_MAX:],
    )
    if not is_quorum(view.config, view.responsive) or not is_quorum(config, staying):
        return NotExecuted("would-lose-quorum", view.me)
    if len(staying) < min(2, view.min_voters, len(voters)):
        return NotExecuted("too-few-copies", view.me)
    return config


def is_possible(view: MembershipView, config: Config) -> bool:
    """Refuse a Cfg that could not be committed, or that has fewer voters than ``min_voters``."""
    shrinks = len(config.voters) < len(view.config.voters)
    return (
        is_quorum(view.config, view.responsive)
        and is_quorum(config, view.responsive)
        and not (shrinks and len(config.voters) < view.min_voters)
    )


def _demotion(view: MembershipView, voter: Incarnation, why: str) -> VoterChange:
    return VoterChange(frozenset(view.config.voters) - {voter}, f"demote {voter}: {why}")


def _replacement(view: MembershipView, voter: Incarnation, peer: Incarnation) -> VoterChange:
    return VoterChange(frozenset(view.config.voters) - {voter} | {peer}, f"replace {voter} by {peer}")
