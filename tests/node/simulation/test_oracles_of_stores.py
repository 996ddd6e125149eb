"""The oracles of memory budgets and of what disks keep, each shown a fault that it must report.

The others are in ``test_oracles.py``; together they show a fault to every oracle.
"""

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest

from node.peers import BondLoss
from node.raft.budget import ENTRY_COST, Budget
from node.raft.events import SaveBase, SaveEntries, Send
from node.raft.log import entry_bytes
from node.raft.messages import SnapshotDigest
from node.raft.types import EntryKind
from node.simulation.buffers import ON_ITS_WAY_BYTES, check_memory
from node.simulation.disk import Disk
from node.simulation.errors import InvariantError
from node.simulation.faults import CALM
from node.simulation.scheduler import MS_US, SECOND_US, Scheduler
from node.simulation.simulation import Simulation, draw_schedule
from node.sync.evidence import MARKER, Anchor, StateEvidence, decode_snapshot_untrusted, encode_evidence
from tests.node.simulation.test_oracles import Group, Idle, committed, evidence_about

PACKAGE = Path(__file__).parents[3] / "node" / "simulation"
BUDGET_BYTES = 1 << 18


def base_behind(group: Group, index: int) -> SaveBase:
    """Return the record that a log goes on behind its entry ``index``."""
    entry = group.a.log.get(index)
    return SaveBase(StateEvidence(Anchor(entry.term, entry.index, entry.chain), bytes(32), 1, 1, 40))


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture
def written(group):
    """Return a function that lets a disk with the log of A keep records, and gives the disk."""
    scheduler = Scheduler()
    disk = Disk(scheduler, rng=Random(0), fsync_us=1)
    log = group.a.log

    def write(*records) -> Disk:
        disk.write(
            Idle(), [SaveEntries(tuple(log.get(at) for at in range(1, log.last().index + 1))), *records], 0
        )
        while scheduler.step(1_000):
            pass
        return disk

    return write


def test_a_voter_that_keeps_more_of_what_clients_wrote_than_its_budget_is_seen(group):
    group.b.member.budget = Budget(BUDGET_BYTES)
    first = group.b.log.base.index + 1
    entries = [group.b.log.get(index) for index in range(first, group.last + 1)]
    kept = sum(entry_bytes(entry) + ENTRY_COST for entry in entries if entry.kind is EntryKind.COMMAND)
    room = BUDGET_BYTES + ON_ITS_WAY_BYTES - kept
    entry = group.entry(group.b, EntryKind.COMMAND, bytes(room))
    fits = room - (entry_bytes(entry) + ENTRY_COST - room)
    group.append(group.b, group.entry(group.b, EntryKind.COMMAND, bytes(fits)))
    check_memory(group.b)

    group.add(group.b, EntryKind.NOOP)
    with pytest.raises(InvariantError) as caught:
        group.add(group.b, EntryKind.COMMAND, b"x")

    assert caught.value.oracle == "memory-bounded"


def test_a_base_before_the_one_that_a_disk_has_is_seen(group, written):
    with pytest.raises(InvariantError) as caught:
        written(base_behind(group, 2), base_behind(group, 1))

    assert caught.value.oracle == "durable-base"


def test_a_base_whose_snapshot_the_disk_does_not_have_is_seen_when_the_node_starts_again(group, written):
    disk = written(base_behind(group, 2))

    with pytest.raises(InvariantError) as caught:
        disk.recovered()

    assert caught.value.oracle == "durable-base"


def between_boot_and_first_step() -> Simulation:
    """B and C were started again from the same snapshot, and still gather events for their first steps."""
    drawn = draw_schedule(1, names=("a", "b", "c"), founders=("a", "b", "c"), trust_disk=True)
    settings = replace(drawn.shape.settings, snapshot_bytes=1, log_keep_bytes=0)
    shape = replace(drawn.shape, settings=settings)
    simulation = Simulation(replace(drawn, shape=shape, weather=CALM, plan=()))
    cluster = simulation.cluster
    cluster.start()
    simulation.clients.start()

    def rest_on_one_snapshot() -> bool:
        bases = {cluster.process_at(place).disk.base_index for place in "bc"}
        return len(bases) == 1 and 0 not in bases

    assert cluster.run_until(rest_on_one_snapshot, deadline_us=60 * SECOND_US)
    cluster.network.weather = replace(CALM, gather_us=MS_US)
    for place in "bc":
        cluster.kill(cluster.process_at(place), BondLoss.LOST)
        cluster.boot(place)
    return simulation


def test_a_process_that_took_no_step_yet_is_judged_by_what_its_disk_gave_it():
    """Seed 21231 ended in an IndexError: the oracles knew nothing of a log that its member had recovered."""
    simulation = between_boot_and_first_step()

    simulation._check_states()

    for place in "bc":
        process = simulation.cluster.process_at(place)
        assert simulation.oracles.tree.path_to(process.log.last()) == process.view.nodes
        assert process.member.replica.applied.index == process.view.commit == process.log.base.index > 0


def test_a_recovered_state_that_differs_is_seen_before_the_first_step():
    simulation = between_boot_and_first_step()
    simulation.cluster.process_at("c").machine.snapshot = lambda: "another"

    with pytest.raises(InvariantError) as caught:
        simulation._check_states()

    assert caught.value.oracle == "equal-states"


def test_members_that_report_different_digests_of_one_state_are_seen_though_they_hold_no_snapshot(group):
    evidence = base_behind(group, 2).evidence
    group.see(group.b, sends=[Send((group.a.inc,), SnapshotDigest(group.id, group.term, evidence))])
    other = msgspec.structs.replace(evidence, root=bytes([1]) * 32)

    with pytest.raises(InvariantError) as caught:
        group.see(group.c, sends=[Send((group.a.inc,), SnapshotDigest(group.id, group.term, other))])

    assert caught.value.oracle == "equal-snapshots"


def test_evidence_is_the_leaders_own_if_it_decides_alone_and_replaced_its_snapshot_in_the_same_step(group):
    """With ``min_voters = 1`` it sends its digest to nobody, and holds another snapshot after the step."""
    committed(group, EntryKind.SNAPSHOT, MARKER)
    evidence = decode_snapshot_untrusted(evidence_about(group.a.log.position(group.last)))
    group.a.member.tenure.snaps.reports[group.a.inc] = evidence
    group.see(group.a)

    committed(group, EntryKind.SNAPSHOT, encode_evidence(evidence))

    assert group.a.view.evidenced == evidence.anchor.index


def test_every_oracle_that_can_report_has_a_test_that_makes_it_report():
    sources = [path.read_text() for path in PACKAGE.glob("*.py")]
    named = {name for text in sources for name in re.findall(r'InvariantError\(\s*"([a-z-]+)"', text)}
    # Not of all tests: those of ablations only list the names that one of them may be noticed by.
    tests = [*Path(__file__).parent.glob("test_oracles*.py"), Path(__file__).with_name("test_operated.py")]
    shown = {name for path in tests for name in re.findall(r'"([a-z-]+)"', path.read_text())}

    assert len(named) > 30
    assert named - shown == set()
