"""What a member can know of its group's quorum: its state, the missing voters, and whether to wait.

A voter that keeps no disk is an incarnation: when its process has ended it never comes back, and its
restarted node is another incarnation, which only a quorum can take in. So a group that has lost too many
voters for good waits in vain. With ``trust_disk`` every voter may come back, if an operator starts it.
"""

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from node.peers import Incarnation
from node.raft.quorum import Config, is_quorum_of_all


class Quorum(Enum):
    """The state of the quorum, as one member knows it."""

    HELD = "held"  # a member leads with it
    ELECTING = "electing"  # a quorum is here, and elects
    SHORT = "short"  # a quorum is here, but holds too few copies to commit (``min_voters``)
    LOST = "lost"  # no quorum is here, but one may come back
    GONE = "gone"  # no quorum is here, and no quorum can come back
    UNKNOWN = "unknown"  # this member knows no configuration


class Absence(Enum):
    """What is known of a voter that is not here."""

    UNREACHABLE = "unreachable"  # its bond broke, or was never formed
    EXPIRED = "expired"  # its evidence is not accepted any more
    DEPARTED = "departed"  # it announced that it leaves
    RESTARTED = "restarted"  # its node is here as another incarnation


FOR_GOOD: Final = frozenset({Absence.DEPARTED, Absence.RESTARTED})  # of an incarnation without a disk


class Absent(Struct, frozen=True):
    voter: Incarnation
    why: Absence


class Outlook(Struct, frozen=True):
    """The quorum as one member sees it. ``absent``: the voters that are not here, in order."""

    quorum: Quorum
    absent: tuple[Absent, ...] = ()

    @property
    def waiting_helps(self) -> bool:
        """Return whether the group may recover without an operator that gives up the data it holds."""
        return self.quorum is not Quorum.GONE


def describe(outlook: Outlook) -> str:
    """Return one sentence for people: the quorum's state, the missing voters, and what to do."""
    names = ", ".join(f"{one.voter.name} ({one.why.value})" for one in outlook.absent)
    match outlook.quorum:
        case Quorum.HELD:
            return f"a leader has a quorum; missing: {names}" if names else "a leader has a quorum"
        case Quorum.ELECTING:
            return "a quorum is here and elects a leader; wait"
        case Quorum.SHORT:
            return (
                f"one of two voters goes on alone, and commits nothing that only it holds; missing: {names}; "
                "waiting helps if it comes back, and so does any other node that joins"
            )
        case Quorum.LOST:
            return f"no quorum is here; missing: {names}; waiting helps if they still run and can be reached"
        case Quorum.GONE:
            return (
                f"a quorum ended for good; missing: {names}; waiting does not help: they kept no disk, and a "
                "restarted node is another voter that only a quorum takes in; found the group anew"
            )
        case Quorum.UNKNOWN:
            return "this node knows no configuration of the group"


UNKNOWN: Final = Outlook(Quorum.UNKNOWN)
HELD: Final = Outlook(Quorum.HELD)


def look_out(
    configs: Sequence[Config],
    present: Collection[Incarnation],
    absent: Sequence[Absent],
    *,
    led: bool,
    copies_needed: int,
    durable: bool,
) -> Outlook:
    """Return the state of the quorum of every one of ``configs``.

    Args:
        configs: the active ones.
        present: this member, and the bonded members of the same cluster, voters or not.
        absent: the voters that are not present.
        led: a member leads.
        copies_needed: how many members must hold an entry for it to be committed.
        durable: a voter that ended may come back (``trust_disk``).
    """
    if is_quorum_of_all(configs, present):
        if len(present) < copies_needed:
            return Outlook(Quorum.SHORT, tuple(absent))
        return Outlook(Quorum.HELD if led else Quorum.ELECTING, tuple(absent))
    may_return = {one.voter for one in absent if durable or one.why not in FOR_GOOD}
    hopeful = is_quorum_of_all(configs, {*present, *may_return})
    return Outlook(Quorum.LOST if hopeful else Quorum.GONE, tuple(absent))
