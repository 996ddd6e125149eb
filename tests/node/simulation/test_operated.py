"""The oracles of what operators do are shown what they are there for, as those in ``test_oracles``."""

import pytest

from node.raft.events import Halted
from node.raft.recovering import PREDECESSOR_LIVES
from node.raft.succession import Predecessor
from node.raft.types import REMOVED
from node.simulation.errors import InvariantError
from node.simulation.operated import check_generations
from tests.node.simulation.test_oracles import Group


def removed_votes_again(group: Group) -> None:
    group.scenario.do("remove c")
    voters = [group.a.inc, group.b.inc, group.c.inc]
    group.append(group.a, group.config(group.a, voters=voters, epoch=3))
    group.see(group.a)


def removal_forgotten(group: Group) -> None:
    group.scenario.do("remove c")
    group.append(group.a, group.config(group.a, voters=[group.a.inc, group.b.inc], epoch=3))
    group.see(group.a)


def succeeds_from_the_middle_of_its_log(group: Group) -> None:
    at = group.a.log.position(group.last - 1)
    group.a.member.tenure.predecessor = Predecessor(cluster=group.id, position=at, jump=0, approval=b"")
    group.a.log.restart(at, 2**41)
    group.see(group.a)


def founds_two_successors(group: Group) -> None:
    at = group.a.log.position(group.last)
    group.a.member.tenure.predecessor = Predecessor(cluster=group.id, position=at, jump=0, approval=b"")
    group.oracles._successions._signatures.add((group.id, group.a.inc))
    group.a.log.restart(at, 2**41)
    group.see(group.a)


def lives_on_beside_its_predecessor(group: Group) -> None:
    at = group.c.log.position(group.last)
    group.c.member.tenure.predecessor = Predecessor(cluster=group.id, position=at, jump=0, approval=b"")
    check_generations([group.a, group.c])


def gives_way_to_nobody(group: Group) -> None:
    at = group.c.log.position(group.last)
    group.c.member.tenure.predecessor = Predecessor(cluster=bytes(32), position=at, jump=0, approval=b"")
    group.see(group.c, Halted(PREDECESSOR_LIVES))


def ends_although_nobody_removed_it(group: Group) -> None:
    group.see(group.c, Halted(REMOVED))


@pytest.mark.parametrize(
    ("wrong", "oracle"),
    [
        (removed_votes_again, "removed-again"),
        (removal_forgotten, "removal-forgotten"),
        (succeeds_from_the_middle_of_its_log, "succession"),
        (founds_two_successors, "one-successor"),
        (lives_on_beside_its_predecessor, "two-generations"),
        (gives_way_to_nobody, "halted"),
        (ends_although_nobody_removed_it, "halted"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_what_no_member_may_do_is_seen(wrong, oracle):
    group = Group()

    with pytest.raises(InvariantError) as caught:
        wrong(group)

    assert caught.value.oracle == oracle
