"""The example of a state sync of one's own: only what differs is sent, and every oracle of the simulator holds."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from node.machines.base import StateMachine
from node.raft.events import SnapshotTaken, SyncFailed
from node.raft.member import Member
from node.raft.messages import SyncAnswer, SyncAsk
from node.raft.types import Bootstrap
from node.simulation import ScheduleError, Workload, difference
from node.simulation.difference import CONTENT, DIGESTS, PAGE
from node.simulation.simulation import Simulation, draw_schedule
from node.simulation.workload import SYNCED_REGISTERS, SyncedRegisters
from tests.node.raft.cluster import RaftCluster
from tests.node.raft.test_snapshots import SMALL, base, notices, write
from tests.node.simulation import ablations
from tests.node.simulation.test_ablations import HARMS

ROOT = Path(__file__).parents[3]


def test_the_page_shows_this_very_example():
    page = (ROOT / "docs" / "groups.md").read_text()
    (shown,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "DifferenceSync" in block
    ]
    source = Path(difference.__file__).read_text()
    _, _, code = source.partition('"""\n\n')
    assert shown == code


@pytest.mark.parametrize("first", range(9000, 9040, 10))
def test_groups_whose_members_send_only_what_differs_keep_every_promise(first):
    installs = 0
    for seed in range(first, first + 10):
        schedule = draw_schedule(
            seed, workload=SYNCED_REGISTERS, events=6000, snapshot_bytes=1, log_keep_bytes=0
        )
        simulation = Simulation(schedule)
        simulation.run()
        installs += simulation.oracles.counts["installs"]
    assert installs


def test_some_of_all_drawn_schedules_use_it():
    machines = {draw_schedule(seed).shape.machine for seed in range(40)}
    assert SyncedRegisters in machines
    assert len(machines) == 2


def test_a_workload_of_a_user_keeps_its_machine():
    class Own(SyncedRegisters):
        pass

    own = Workload(machine=Own, command=SYNCED_REGISTERS.command, query=SYNCED_REGISTERS.query)
    assert {draw_schedule(seed, workload=own).shape.machine for seed in range(20)} == {Own}


class Forgetful(difference.DifferenceSync):
    """Its providers leave out the end of the state, and everything that they send fits together."""

    def provider(self):
        provider = difference.DifferenceProvider()
        message = provider.message

        def shortened(peer, snapshot, payload):
            message(peer, snapshot, DIGESTS + bytes(8))
            provider._spans = difference.spans_of(snapshot)[:-1]
            return message(peer, snapshot, payload)

        provider.message = shortened
        return provider


class ForgetfulRegisters(SyncedRegisters):
    def state_sync(self):
        return Forgetful()


def first_harm(member):
    """Return what the first schedule shows in which anything is wrong."""
    for seed in range(9000, 9060):
        schedule = draw_schedule(
            seed,
            workload=replace(SYNCED_REGISTERS, machine=ForgetfulRegisters),
            member=member,
            rules=False,
            events=6000,
            snapshot_bytes=1,
            log_keep_bytes=0,
        )
        try:
            Simulation(schedule).run()
        except ScheduleError as error:
            return error.error.oracle
    return None


def test_a_false_state_that_fits_together_is_stopped_by_the_core_and_by_nothing_else():
    assert first_harm(Member) == "state-sync-failed"
    assert first_harm(ablations.InstallsWhatASyncBrings) in HARMS


class Slots(StateMachine):
    """A thousand numbers; a command sets one. Each hundred is an item of its snapshot."""

    signature = "test/register/v1"

    def __init__(self):
        self.slots = [0] * 1000

    def apply(self, command, context):
        self.slots[command % 1000] = context.index
        return

    def query(self, query):
        return self.slots[query]

    def freeze(self):
        return self

    def items(self):
        return iter([list(self.slots[at : at + 100]) for at in range(0, 1000, 100)])

    def release(self):
        pass

    def thaw(self):
        return Thawing(self)

    def state_sync(self):
        return difference.DifferenceSync()


class Thawing:
    def __init__(self, machine):
        self.machine, self.slots = machine, []

    def take(self, item):
        self.slots += item

    def finish(self):
        self.machine.slots = self.slots


def contents(cluster, name):
    """Count the blocks that ``name`` asks for from now on."""
    asked = []
    cluster.drop = lambda sender, to, message: (
        isinstance(message, SyncAsk)
        and message.payload[:1] == CONTENT
        and sender == name
        and bool(asked.append(to))
    )
    return asked


def pruned(**overrides):
    cluster = RaftCluster(**{**SMALL, **overrides})
    for name in "abc":
        cluster.add(name, machine=Slots())
    cluster.elect()
    write(cluster, 60)
    cluster.run_until(lambda: all(base(cluster, name) for name in "abc"))
    cluster.run(2000)
    return cluster


def test_a_member_that_was_away_fetches_only_what_differs_from_its_own_snapshot():
    cluster = pruned()
    (name, *_) = cluster.followers()
    cluster.isolate(name)
    write(cluster, 200)
    cluster.run(3000)
    asked = contents(cluster, name)
    cluster.heal()
    cluster.run_until(lambda: equal(cluster))

    fetched = [taken for taken in notices(cluster, name, SnapshotTaken) if taken.fetched]
    blocks = len(difference.spans_of(cluster.nodes[name].tenure.snaps.keeper.held))
    assert fetched
    assert 0 < len(asked) <= blocks - 9  # nine of the ten hundreds are as they were
    assert not notices(cluster, name, SyncFailed)


def test_a_joiner_has_nothing_and_fetches_all_from_several_members():
    cluster = pruned()
    asked = contents(cluster, "d")
    cluster.add("d", Bootstrap.JOIN, machine=Slots())
    cluster.run_until(lambda: equal(cluster))
    blocks = len(difference.spans_of(cluster.nodes["a"].tenure.snaps.keeper.held))
    assert len(asked) == blocks
    assert set(asked) == set("abc")
    assert blocks < PAGE


def test_a_false_block_costs_its_sender_the_bond_and_the_others_serve():
    cluster = pruned()
    bad = cluster.nodes["a"]

    class Lying(difference.DifferenceProvider):
        def message(self, peer, snapshot, payload):
            (answer,) = super().message(peer, snapshot, payload)
            return [answer[:-1] + bytes([answer[-1] ^ 1])] if payload[:1] == CONTENT else [answer]

    bad.tenure.snaps.provider = Lying()
    cluster.add("d", Bootstrap.JOIN, machine=Slots())
    cluster.run_until(lambda: equal(cluster))
    assert {(one.peer, one.reason) for one in cluster.violations()} == {(bad.me, "block-differs")}


def test_false_digests_bring_no_false_state():
    cluster = pruned()

    class Lying(difference.DifferenceProvider):
        def message(self, peer, snapshot, payload):
            (answer,) = super().message(peer, snapshot, payload)
            return [answer if payload[:1] == CONTENT else answer[:-32] + bytes(32)]

    cluster.nodes["a"].tenure.snaps.provider = Lying()
    node = cluster.add("d", Bootstrap.JOIN, machine=Slots())
    cluster.run_until(
        lambda: notices(cluster, "d", SyncFailed) or cluster.violations() or equal(cluster), 90_000
    )
    assert node.halted is None
    assert equal(cluster) or node.replica.machine.slots == [0] * 1000


def test_a_late_or_repeated_answer_and_a_lost_one_do_no_harm():
    cluster = pruned()
    kept = []

    def lose_first(sender, to, message):
        if isinstance(message, SyncAnswer) and len(kept) < 3:
            kept.append(message)
            return True
        return False

    cluster.drop = lose_first
    node = cluster.add("d", Bootstrap.JOIN, machine=Slots())
    cluster.run_until(lambda: len(kept) == 3 and node.tenure.installing is not None)
    cluster.run_until(lambda: equal(cluster))
    assert not notices(cluster, "d", SyncFailed)


def equal(cluster):
    return len({tuple(node.replica.machine.slots) for node in cluster.nodes.values()}) == 1
