"""LSE-07 and LSE-10: the keeper on a machine, with time in steps, whoever leads."""

import itertools
import random

import pytest

from node.compaction import Compactor
from node.group_document.tables import NoCompaction, PeriodicCompaction, RevisionCompaction
from node.lease_keeper import INTERVAL_MS, LeaseKeeper
from node.machines.base import ApplyContext, CommandError
from node.machines.kv import KeyValue


class Site:
    """Members that share one machine, as if each entry were applied everywhere at once."""

    def __init__(self, members):
        self.machine = KeyValue()
        self.keepers = [LeaseKeeper() for _ in range(members)]
        self.now_ms = 7_000_000
        self.term = 0
        self.leader = None
        self.index = 0
        self.proposed = []
        self.flying = []  # [applied at, keeper, command, term]
        self.answered = {}  # lease: when its last renewal was answered

    def elect(self, leader):
        self.leader = leader
        self.term += leader is not None

    def apply(self, command):
        self.index += 1
        return self.machine.apply(command, ApplyContext(self.term, self.index, 0, 0, bytes(32), None, 3))

    def grant(self, lease_id, ttl_s):
        self.apply(["lease-grant", lease_id, ttl_s])
        self.answered[lease_id] = self.now_ms

    def run(self, ms, latency_ms=20):
        for _ in range(ms // 10):
            self.now_ms += 10
            self._land()
            for number, keeper in enumerate(self.keepers):
                term = self.term if number == self.leader else None
                command = keeper.propose(self.now_ms, term, self.machine.leases)
                if command is not None:
                    self.proposed.append((self.now_ms, number, command))
                    self.flying.append((self.now_ms + latency_ms, keeper, command))

    def _land(self):
        due = [one for one in self.flying if one[0] <= self.now_ms]
        for one in due:
            if self.leader is None:
                continue
            self.flying.remove(one)
            _, keeper, command = one
            try:
                result = self.apply(command)
            except CommandError:
                keeper.failed()
                continue
            for lease_id, ttl_s in keeper.applied(self.now_ms, result):
                if ttl_s:
                    self.answered[lease_id] = self.now_ms

    def lives(self, lease_id):
        return lease_id in self.machine.leases.by_id


def test_a_lease_ends_not_before_its_ttl_from_the_last_answer_and_within_a_second_after():
    site = Site(3)
    site.elect(0)
    site.run(5000)
    assert site.proposed == []  # without leases no entry is spent on the clock
    site.grant(1, 5)
    site.run(3000)
    for renewed_at in (0, 2):
        site.keepers[renewed_at].renew(1)
        site.run(4900)
        assert site.lives(1)
    while site.lives(1):
        site.run(10)

    late_ms = site.now_ms - site.answered[1] - 5000
    assert 0 <= late_ms <= 1000


def test_at_most_two_commands_a_second_come_from_each_member_however_many_renew():
    site = Site(2)
    site.elect(0)
    for lease_id in range(1, 50):
        site.grant(lease_id, 60)
    for turn in range(400):
        for keeper in site.keepers:
            keeper.renew(turn % 49 + 1)
        site.run(10)

    for member in range(2):
        times = [at for at, number, _ in site.proposed if number == member]
        assert len(times) >= 7
        assert all(b - a >= INTERVAL_MS for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("seed", range(30))
def test_over_ten_elections_no_lease_ends_early_and_none_lives_for_ever(seed):
    """The clock stands while nobody leads, and a new leader adds less than a second to what is left."""
    rng = random.Random(seed)
    site = Site(3)
    site.elect(0)
    leases = {lease_id: rng.randrange(2, 9) for lease_id in range(1, 6)}
    for lease_id, ttl_s in leases.items():
        site.grant(lease_id, ttl_s)
    served_ms = dict.fromkeys(leases, 0)  # since the last answer, while a leader served
    elections = 0

    def run(ms):
        nonlocal served_ms
        for _ in range(ms // 10):
            before = dict(site.answered)
            alive = [one for one in leases if site.lives(one)]
            site.run(10, latency_ms=rng.choice([10, 50, 400]))
            for one in alive:
                served_ms[one] += 10 if site.leader is not None else 0
                if not site.lives(one):
                    assert site.now_ms - site.answered[one] >= leases[one] * 1000
                elif site.answered[one] != before[one]:
                    served_ms[one] = 0
                assert served_ms[one] <= leases[one] * 1000 + 1000 * (elections + 1)

    for _ in range(10):
        run(rng.randrange(200, 3000))
        for lease_id in leases:
            if rng.random() < 0.3:
                site.keepers[rng.randrange(3)].renew(lease_id)
        site.elect(None)
        run(rng.randrange(0, 4000))
        site.elect(rng.randrange(3))
        elections += 1
    run(11_000)
    assert site.machine.leases.by_id == {}


def test_a_renewal_that_was_not_answered_is_reported_and_the_next_command_follows():
    site = Site(1)
    site.elect(0)
    site.grant(1, 5)
    keeper = site.keepers[0]
    keeper.renew(1)
    assert keeper.propose(site.now_ms, 1, site.machine.leases) == ["lease-tick", 1, 0, 0, [1]]
    assert keeper.propose(site.now_ms + 900, 1, site.machine.leases) is None
    assert keeper.failed() == (1,)
    assert keeper.propose(site.now_ms + 900, 1, site.machine.leases) == ["lease-tick", 1, 0, 0, []]


def test_a_store_keeps_at_least_so_many_revisions():
    due = Compactor(RevisionCompaction(keep_revisions=1000)).due

    assert due(0, leads=True, revision=1100, floor=0) is None
    assert due(0, leads=True, revision=1101, floor=0) == 101
    assert due(0, leads=True, revision=1201, floor=101) is None
    assert due(0, leads=False, revision=9000, floor=0) is None


def test_a_store_keeps_at_least_so_many_seconds_whoever_leads():
    compactor = Compactor(PeriodicCompaction(keep_s=300))
    found = []
    for second in range(0, 700, 10):
        target = compactor.due(second * 1000, leads=True, revision=second, floor=0)
        found += [] if target is None else [(second, target)]
    assert found
    assert all(second - 300 - 30 <= target <= second - 300 for second, target in found)
    assert compactor.due(700_000, leads=False, revision=700, floor=0) is None
    assert compactor.due(990_000, leads=True, revision=990, floor=0) is None


def test_without_a_policy_nothing_is_compacted():
    assert Compactor(NoCompaction()).due(0, leads=True, revision=10**9, floor=0) is None
