"""A clock that the host sets back cannot revive anything."""

from datetime import UTC, datetime, timedelta

import pytest

from attestation.collateral.freshness import PEER_CLOCK_TOLERANCE
from attestation.tickets.protocol import TicketRejectedError
from enclave.mock.pki import PCKValues
from enclave.mock.td import MockPlatform
from node.bonds.tickets.admission import judge
from node.clock import PLATFORMS_MAX, NodeClock
from tests.support.bonds import FakeValidator
from tests.support.tickets import AUTHORITY, FIRMWARE, NOW, REGISTERS, Bench

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
    clock.reported(b"a", TRUE)
    clock.reported(b"b", TRUE)

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


def test_time_is_not_far_behind_the_majority_of_peers_and_continues_from_their_time():
    machine = Machine()
    clock = machine.clock()
    for peer in (b"a", b"b", b"c"):
        clock.reported(peer, TRUE)
    machine.wall = TRUE - timedelta(days=20)
    machine.elapsed = 60.0

    assert clock.now() == TRUE + timedelta(seconds=60) - PEER_CLOCK_TOLERANCE


def test_one_lying_peer_of_three_moves_nothing():
    machine = Machine()
    clock = machine.clock()
    clock.reported(b"a", TRUE)
    clock.reported(b"b", TRUE)
    clock.reported(b"liar", TRUE + timedelta(days=300))

    assert clock.now() == TRUE


def test_only_the_most_recent_peers_count():
    machine = Machine()
    clock = machine.clock()
    for i in range(PLATFORMS_MAX):
        clock.reported(b"early-%d" % i, TRUE + timedelta(days=300))
    for i in range(PLATFORMS_MAX):
        clock.reported(b"late-%d" % i, TRUE)

    assert clock.now() == TRUE


def test_platforms_of_long_ago_do_not_add_up_however_many_there_were():
    clock = Machine().clock()
    for i in range(3 * PLATFORMS_MAX):
        clock.reported(b"early-%d" % i, TRUE + timedelta(days=300))
    for i in range(PLATFORMS_MAX):
        clock.reported(b"late-%d" % i, TRUE)

    assert clock.now() == TRUE, "a majority of all that were ever heard would lie"


def test_the_time_of_a_peer_that_another_validator_refuses_is_not_taken():
    machine = Machine()
    machine.wall = NOW - timedelta(hours=2)
    clock = machine.clock()
    bench = Bench()
    validators = [bench.validator(witnesses=[clock.witness]), FakeValidator()]
    tickets = {"tdx": bench.ticket(), "fake": b"forged"}
    with pytest.raises(TicketRejectedError, match="not a ticket"):
        judge(validators, tickets, bench.peer(fresh=True), NOW)
    assert clock.now() == machine.wall

    judge(validators[:1], tickets, bench.peer(fresh=True), NOW)
    assert clock.now() == NOW - PEER_CLOCK_TOLERANCE


def test_old_tickets_that_are_judged_again_are_no_report_of_the_time():
    """After half an hour new collateral has them judged again: their quotes are no younger for it."""
    machine = Machine()
    machine.wall = NOW - timedelta(hours=2)
    clock = machine.clock()
    bench = Bench()
    validators = [bench.validator(witnesses=[clock.witness])]
    tickets = {"tdx": bench.ticket()}
    judge(validators, tickets, bench.peer(fresh=True), NOW)
    machine.elapsed = 1500.0
    judge(validators, tickets, bench.peer(), NOW + timedelta(seconds=1500))

    assert clock.now() == NOW + timedelta(seconds=1500) - PEER_CLOCK_TOLERANCE


def test_five_copies_on_one_host_do_not_outvote_two_honest_hosts():
    machine = Machine()
    machine.wall = NOW - timedelta(days=1)
    clock = machine.clock()
    hosts = [AUTHORITY.create_platform(NOW, PCKValues(ppid=bytes([n]) * 16)) for n in range(1, 4)]

    def bonded(host: MockPlatform, at: datetime) -> None:
        bench = Bench(attester=AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS, platform=host))
        validators = [bench.validator(witnesses=[clock.witness])]
        judge(validators, {"tdx": bench.ticket(now=at)}, bench.peer(fresh=True), NOW)

    for _ in range(5):
        bonded(hosts[0], NOW + timedelta(minutes=4, seconds=59))
    bonded(hosts[1], NOW - timedelta(minutes=5))
    bonded(hosts[2], NOW - timedelta(minutes=5))

    assert clock.now() == NOW - timedelta(minutes=5) - PEER_CLOCK_TOLERANCE
