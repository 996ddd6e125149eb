"""A clock that the host sets back cannot revive anything."""

from datetime import UTC, datetime, timedelta

import pytest

from attestation.freshness import PEER_CLOCK_TOLERANCE
from attestation.tickets import TicketRejectedError
from node.bonds.admission import judge
from node.clock import PEERS_MAX, NodeClock
from node.trust import WitnessedClock
from tests.support.bonds import FakeValidator
from tests.support.tickets import NOW, Bench

TRUE = datetime(2027, 1, 10, 12, tzinfo=UTC)
BUILT = datetime(2026, 11, 1, tzinfo=UTC)


class Machine:
    """A host that lies about the time, on a processor that counts right."""

    def __init__(self) -> None:
        self.wall = TRUE
        self.elapsed = 0.0

    def clock(self) -> NodeClock:
        return NodeClock(wall=lambda: self.wall, monotonic_s=lambda: self.elapsed, build_date=BUILT)


def test_an_honest_clock_is_taken_as_it_is():
    machine = Machine()
    clock = machine.clock()
    clock.heard(b"a", TRUE)
    clock.heard(b"b", TRUE)

    assert clock.now() == TRUE


def test_time_is_never_before_the_build_date():
    machine = Machine()
    machine.wall = BUILT - timedelta(days=400)

    assert machine.clock().now() == BUILT


def test_time_is_never_before_the_newest_issue_date_seen():
    machine = Machine()
    clock = machine.clock()
    clock.follow(lambda: TRUE - timedelta(days=1))
    machine.wall = TRUE - timedelta(days=20)

    assert clock.now() == TRUE - timedelta(days=1)


def test_time_is_not_far_behind_the_majority_of_peers_and_goes_on_from_what_they_said():
    machine = Machine()
    clock = machine.clock()
    for peer in (b"a", b"b", b"c"):
        clock.heard(peer, TRUE)
    machine.wall = TRUE - timedelta(days=20)
    machine.elapsed = 60.0

    assert clock.now() == TRUE + timedelta(seconds=60) - PEER_CLOCK_TOLERANCE


def test_one_lying_peer_of_three_moves_nothing():
    machine = Machine()
    clock = machine.clock()
    clock.heard(b"a", TRUE)
    clock.heard(b"b", TRUE)
    clock.heard(b"liar", TRUE + timedelta(days=300))

    assert clock.now() == TRUE


def test_only_the_peers_heard_last_count():
    machine = Machine()
    clock = machine.clock()
    for i in range(PEERS_MAX):
        clock.heard(b"early-%d" % i, TRUE + timedelta(days=300))
    for i in range(PEERS_MAX):
        clock.heard(b"late-%d" % i, TRUE)

    assert clock.now() == TRUE


def test_the_time_of_a_peer_that_another_validator_refuses_is_not_taken():
    machine = Machine()
    machine.wall = NOW - timedelta(hours=2)
    clock = machine.clock()
    bench = Bench()
    validators = [WitnessedClock(bench.validator(), clock), FakeValidator()]
    tickets = {"tdx": bench.ticket(), "fake": b"forged"}
    with pytest.raises(TicketRejectedError, match="not a ticket"):
        judge(validators, tickets, bench.peer(), NOW)
    assert clock.now() == machine.wall

    judge(validators[:1], tickets, bench.peer(), NOW)
    assert clock.now() == NOW - PEER_CLOCK_TOLERANCE
