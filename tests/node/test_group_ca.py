"""The leader makes the authority once, and each member has a certificate that it renews in time."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from node.ca.certificates import MEMBER_VALIDITY, ApiCertificates, CertificateAuthority, valid_until
from node.ca.names import PermittedNames
from node.features import Levels
from node.group.errors import NotExecutedError
from node.group_ca import RENEW_BEFORE, GroupCa
from node.machines.base import ApplyContext
from node.machines.system import CombinedSystem
from node.system.ca import CaState, ca_of, command_of

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
NAMES = PermittedNames.of(["localhost"])
CONTEXT = ApplyContext(term=1, index=1, sub=0, time_ms=0, group_id=bytes(32))


@dataclass
class Status:
    halted: str | None = None
    levels: Levels | None = Levels(3, "test", 1)


class FakeGroup:
    """A group whose log is this object."""

    id = b"g" * 32

    def __init__(self, *, leads: bool = True) -> None:
        self.is_leader = leads
        self.system = CombinedSystem(CaState())
        self.status: Any = Status()
        self.covered_age_ms: int | None = 5
        self.written: list[Any] = []
        self.refuses = False
        self.overtaken_by: CertificateAuthority | None = None

    async def execute_system(self, commands: list[object], *, timeout_s: float) -> None:
        self.written += commands
        if self.refuses:
            raise NotExecutedError("no-leader", None)
        if self.overtaken_by is not None:
            self.system.apply(command_of(self.overtaken_by), CONTEXT)
        for command in commands:
            self.system.apply(command, CONTEXT)


class Node:
    def __init__(self, group: FakeGroup | None) -> None:
        self.now, self.group = NOW, group
        self.published: list[bytes] = []
        key = ec.generate_private_key(ec.SECP256R1())
        self.own = ApiCertificates.of_key(key, b"p" * 32, wanted=["localhost"], permitted=NAMES, now=NOW)
        self.ca = GroupCa(
            names=NAMES,
            own=self.own,
            group=lambda: self.group,
            now=lambda: self.now,
            publish=self.published.append,
        )

    def look(self) -> tuple[bytes, ...]:
        asyncio.run(self.ca.look())
        return self.ca.chain


def test_the_leader_makes_the_authority_once_and_has_its_certificate_at_once():
    group = FakeGroup()
    node = Node(group)
    assert node.ca.chain == (node.own.leaf,)
    leaf, member, authority = node.look()

    assert leaf == node.own.leaf
    assert authority == ca_of(group.system).certificate
    assert x509.load_der_x509_certificate(member).issuer == x509.load_der_x509_certificate(authority).subject
    assert node.published == [authority]
    assert node.look() == (leaf, member, authority)
    assert len(group.written) == 1
    assert node.published == [authority]


def test_a_follower_makes_none_and_takes_the_groups():
    group = FakeGroup(leads=False)
    node = Node(group)
    assert node.look() == (node.own.leaf,)
    assert group.written == []

    group.system.apply(command_of(CertificateAuthority.generate(group.id, NAMES, NOW)), CONTEXT)
    assert node.look()[2] == ca_of(group.system).certificate


def test_of_two_leaders_the_first_in_the_log_counts():
    group = FakeGroup()
    group.overtaken_by = CertificateAuthority.generate(group.id, NAMES, NOW)
    assert Node(group).look()[2] == group.overtaken_by.certificate_der


def test_a_leader_whose_entry_is_not_written_tries_again():
    group = FakeGroup()
    group.refuses = True
    node = Node(group)
    assert node.look() == (node.own.leaf,)
    group.refuses = False
    assert len(node.look()) == 3
    assert len(group.written) == 2


@pytest.mark.parametrize("levels", [None, Levels(1, "test", 1), Levels(2, "test", 1)])
def test_nothing_is_written_before_the_group_is_at_the_level_that_has_it(levels):
    group = FakeGroup()
    group.status = Status(levels=levels)
    node = Node(group)
    assert node.look() == (node.own.leaf,)
    assert group.written == []


@pytest.mark.parametrize("without", ["group", "state", "membership"])
def test_a_node_that_is_no_member_gets_no_certificate(without):
    group = FakeGroup()
    group.system.apply(command_of(CertificateAuthority.generate(group.id, NAMES, NOW)), CONTEXT)
    node = Node(None if without == "group" else group)
    if without == "state":
        group.covered_age_ms = None
    if without == "membership":
        group.status = Status(halted="removed")
    assert node.look() == (node.own.leaf,)


def test_a_certificate_is_renewed_before_it_expires_and_the_leaf_stays():
    node = Node(FakeGroup())
    first = node.look()
    node.now += MEMBER_VALIDITY - RENEW_BEFORE - timedelta(minutes=1)
    assert node.look() == first
    node.now += timedelta(minutes=2)
    second = node.look()

    assert (second[0], second[2]) == (first[0], first[2])
    assert valid_until(second[1]) == node.now + MEMBER_VALIDITY
    assert len(node.published) == 1


def test_a_clock_that_was_set_back_gives_a_certificate_that_begins_by_it():
    node = Node(FakeGroup())
    node.look()
    node.now -= timedelta(days=30)
    _, member, _ = node.look()
    assert x509.load_der_x509_certificate(member).not_valid_before_utc < node.now


def test_a_removed_member_renews_nothing():
    group = FakeGroup()
    node = Node(group)
    first = node.look()
    group.status = Status(halted="removed")
    node.now += 2 * MEMBER_VALIDITY
    assert node.look() == first


def test_a_member_that_joins_another_cluster_of_the_group_has_that_ones_authority():
    group = FakeGroup()
    node = Node(group)
    _, _, before = node.look()
    group.system = CombinedSystem(CaState())
    _, _, after = node.look()
    assert after != before
    assert node.published == [before, after]
