"""Which Cfg a leader writes next, as a table: what it sees, and the one change that follows."""

import re
from dataclasses import replace

import pytest

from node.peers import BondLoss
from node.raft.membership_plan import MembershipView, changes, plan
from node.raft.quorum import Config
from tests.node.raft.cluster import inc

A, B, C, D, E = (inc(name) for name in "abcde")
B_AGAIN = inc("b", life=1)


def view(voters=(A, B, C), *, responsive=(A, B, C, D, E, B_AGAIN), tie=None, **seen):
    """Return what the leader ``A`` of ``voters`` sees: by default all of them answer and nobody else is there."""
    given = {"min_voters": 1, "max_voters": 5, "tie_break": True, "ended_bonds": {}} | seen
    config = Config(epoch=7, voters=tuple(sorted(voters)), tie=tie, reason="test")
    return MembershipView(me=A, config=config, responsive=set(responsive), **given)


TABLE = {
    "all is well": (view(), None),
    "a learner kept up": (view(promotable=(D,)), ("promote d", (A, B, C, D))),
    "two learners kept up: one change at a time": (view(promotable=(D, E)), ("promote d", (A, B, C, D))),
    "there are as many voters as there may be": (view(promotable=(D,), max_voters=3), None),
    "a second process of a voter's node gets no second vote": (view(promotable=(B_AGAIN,)), None),
    "a voter's node is back as another incarnation": (
        view(responsive=(A, C, B_AGAIN), promotable=(B_AGAIN,)),
        ("replace b by b", (A, B_AGAIN, C)),
    ),
    "a voter said that it leaves": (
        view(responsive=(A, C), ended_bonds={B: BondLoss.DEPARTED}),
        ("demote b: departed", (A, C)),
    ),
    "a voter's ticket expired": (
        view(responsive=(A, C), ended_bonds={B: BondLoss.EXPIRED}),
        ("demote b: expired", (A, C)),
    ),
    "a voter came back as an Observer": (view(observers={B}), ("demote b: observer", (A, C))),
    "an Observer is replaced where it cannot be spared": (
        view(observers={B}, promotable=(D,), min_voters=3),
        ("replace b by d", (A, C, D)),
    ),
    "a voter has been silent for long": (
        view(responsive=(A, C), silent={B}),
        ("demote b: silent", (A, C)),
    ),
    "a voter has lagged for long": (view(lagging={B}), ("demote b: lagging", (A, C))),
    "silent counts before lagging": (
        view(responsive=(A, C), silent={B}, lagging={B}),
        ("demote b: silent", (A, C)),
    ),
    "what ended for good goes before what is silent": (
        view((A, B, C, D), responsive=(A, B, D), silent={C}, ended_bonds={D: BondLoss.DEPARTED}),
        ("demote d: departed", (A, B, C)),
    ),
    "a replacement goes before a demotion": (
        view((A, B, C, D), responsive=(A, D, C, B_AGAIN), silent={B}, promotable=(B_AGAIN,)),
        ("replace b by b", (A, B_AGAIN, C, D)),
    ),
    "a promotion comes last": (
        view(responsive=(A, C, D), silent={B}, promotable=(D,)),
        ("demote b: silent", (A, C)),
    ),
    "no fewer voters than min_voters": (view(responsive=(A, C), silent={B}, min_voters=3), None),
    "a growing Cfg may still be below min_voters": (
        view((A, B), promotable=(D,), min_voters=4),
        ("promote d", (A, B, D)),
    ),
    "the old voters must be able to commit it": (view(responsive=(A,), silent={B, C}), None),
    "the new voters must be able to commit it": (
        view((A, B, C, D, E), responsive=(A, B, D), lagging={D}, tie_break=False),
        None,
    ),
    "of two halves the leader's breaks the tie": (
        view((A, B, C, D, E), responsive=(A, B, D), lagging={D}),
        ("demote d: lagging", (A, B, C, E)),
    ),
    "the leader demotes others, not itself": (view(ended_bonds={A: BondLoss.EXPIRED}), None),
}


@pytest.mark.parametrize(("seen", "wanted"), TABLE.values(), ids=TABLE.keys())
def test_the_plan_follows_from_what_the_leader_sees(seen, wanted):
    config = plan(seen)

    if wanted is None:
        assert config is None
    else:
        reason, voters = wanted
        assert config is not None
        assert re.sub("/[0-9a-f]{8}", "", config.reason) == reason
        assert config.voters == tuple(sorted(voters))
        assert config.epoch == seen.config.epoch + 1
        assert config.tie == (A if seen.tie_break and len(voters) % 2 == 0 else None)


def test_every_change_is_of_one_voter():
    """Two configurations that differ by one voter have quorums that meet, or an active Cfg between them."""
    seen = view(
        (A, B, C),
        responsive=(A, B_AGAIN, D, E),
        promotable=(B_AGAIN, D, E),
        observers={C},
        silent={B},
        lagging={C},
        ended_bonds={B: BondLoss.DEPARTED},
    )
    wanted = list(changes(seen))

    assert len(wanted) == 9
    for change in wanted:
        before = set(seen.config.voters)
        assert len(before - change.voters) <= 1
        assert len(change.voters - before) <= 1
        assert before != change.voters


def test_a_plan_that_was_carried_out_is_not_made_again():
    seen = view(responsive=(A, C), silent={B})
    after = replace(seen, config=plan(seen), silent=set())

    assert plan(after) is None
