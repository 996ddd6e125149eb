"""A member keeps the group's record of what was first seen when; what is not in it yet counts from its own."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from attestation.collateral.enforcement import CollateralSet
from node.group.errors import NotExecutedError
from node.machines.base import ApplyContext
from node.machines.system import CombinedSystem
from node.system.tcb import TcbState, tcb_of
from node.tcb_recovery import GroupEnforcement, RecoveryWatch

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MODEL, OTHER = b"model!", b"other!"
LEVEL = datetime(2026, 8, 12, tzinfo=UTC)


def found(number: int, *, fmspc: bytes = MODEL, newest: datetime = LEVEL) -> CollateralSet:
    return CollateralSet(fmspc=fmspc, number=number, newest_level=newest)


class FakeGroup:
    """A group whose log is this object."""

    def __init__(self, *, leads: bool = True, covered: bool = True) -> None:
        self.system = CombinedSystem(TcbState())
        self.is_leader = leads
        self.covered_age_ms = 5 if covered else None
        self.rejudged = 0
        self.refuses = False
        self.log: list[Any] = []

    async def execute_system(self, commands: list[Any], *, timeout_s: float) -> None:
        if self.refuses:
            raise NotExecutedError("no-leader", None)
        for command in commands:
            self.write(command, NOW)

    def write(self, command: list[Any], at: datetime) -> None:
        self.log.append(command)
        context = ApplyContext(
            term=1, index=len(self.log), sub=0, time_ms=int(at.timestamp() * 1000), group_id=bytes(32)
        )
        self.system.apply(command, context)

    def rejudge(self) -> None:
        self.rejudged += 1


class Node:
    def __init__(self, group: FakeGroup | None) -> None:
        self.now = NOW
        self.group = group
        self.enforcement = GroupEnforcement(now=lambda: self.now, group=lambda: self.group)
        self.watch = RecoveryWatch(self.enforcement, group=lambda: self.group)

    def look(self) -> None:
        asyncio.run(self.watch.look())


def test_the_leader_writes_what_it_has_seen_once():
    group = FakeGroup()
    node = Node(group)
    node.enforcement.saw(found(21))
    node.look()
    node.look()

    assert len(group.log) == 1
    assert tcb_of(group.system).since(MODEL, LEVEL) == NOW


def test_another_member_writes_what_the_leader_has_not_a_moment_later():
    group = FakeGroup(leads=False)
    node = Node(group)
    node.enforcement.saw(found(21))
    node.look()
    assert group.log == []

    node.look()
    assert len(group.log) == 1


def test_a_write_that_fails_is_tried_again():
    group = FakeGroup()
    group.refuses = True
    node = Node(group)
    node.enforcement.saw(found(21))
    node.look()
    group.refuses = False
    node.look()

    assert len(group.log) == 1


def test_bonds_are_judged_again_when_the_node_has_caught_up_and_with_each_new_sight():
    group = FakeGroup(covered=False)
    node = Node(group)
    node.look()
    assert group.rejudged == 0

    group.covered_age_ms = 5
    node.look()
    node.look()
    assert group.rejudged == 1

    group.write(["tcb-seen", MODEL, 21, 0], NOW)
    node.look()
    assert group.rejudged == 2


def test_a_node_that_has_not_caught_up_counts_from_its_own_sight():
    for group in (None, FakeGroup(covered=False)):
        node = Node(group)
        node.enforcement.saw(found(21))
        node.now += timedelta(days=3)
        node.enforcement.saw(found(21))

        assert node.enforcement.since(MODEL, LEVEL) == NOW


def test_a_node_that_has_caught_up_counts_from_the_log_whatever_it_saw_itself():
    group = FakeGroup()
    group.write(["tcb-seen", MODEL, 21, int(LEVEL.timestamp())], NOW - timedelta(days=8))
    node = Node(group)
    node.enforcement.saw(found(21))
    node.enforcement.saw(found(22))

    assert node.enforcement.since(MODEL, LEVEL) == NOW - timedelta(days=8)


def test_what_is_news_to_the_log_counts_from_the_members_own_sight():
    """All members have the new set before the leader could write so; their bonds must not end by that."""
    group = FakeGroup()
    group.write(
        ["tcb-seen", MODEL, 20, int((LEVEL - timedelta(days=90)).timestamp())], NOW - timedelta(days=99)
    )
    node = Node(group)
    node.enforcement.saw(found(21))
    node.enforcement.saw(found(3, fmspc=OTHER))

    assert node.enforcement.since(MODEL, LEVEL) == NOW
    assert node.enforcement.since(OTHER, LEVEL) == NOW
    assert node.enforcement.since(MODEL, LEVEL - timedelta(days=90)) == NOW - timedelta(days=99)


def test_a_set_that_is_no_news_and_not_in_the_log_gives_no_grace():
    """A source that has gone back: a lower number than the group has seen begins nothing."""
    group = FakeGroup()
    group.write(["tcb-seen", MODEL, 22, 0], NOW)
    node = Node(group)
    node.enforcement.saw(found(21))

    assert node.enforcement.since(MODEL, LEVEL) is None
