"""The oracles of memory budgets and of the base of a durable log, each shown a fault that it must report.

The others are in ``test_oracles.py``; together they show a fault to every oracle.
"""

import re
from pathlib import Path
from random import Random

import pytest

from node.raft.budget import ENTRY_COST, Budget
from node.raft.events import SaveBase, SaveEntries
from node.raft.log import entry_bytes
from node.raft.types import EntryKind
from node.simulation.buffers import ON_ITS_WAY_BYTES, check_memory
from node.simulation.disk import Disk
from node.simulation.errors import InvariantError
from node.simulation.scheduler import Scheduler
from node.sync.evidence import Anchor, StateEvidence
from tests.node.simulation.test_oracles import Group, Idle

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


def test_every_oracle_that_can_report_has_a_test_that_makes_it_report():
    sources = [path.read_text() for path in PACKAGE.glob("*.py")]
    named = {name for text in sources for name in re.findall(r'InvariantError\(\s*"([a-z-]+)"', text)}
    # Not of all tests: those of ablations only list the names that one of them may be noticed by.
    tests = [*Path(__file__).parent.glob("test_oracles*.py"), Path(__file__).with_name("test_operated.py")]
    shown = {name for path in tests for name in re.findall(r'"([a-z-]+)"', path.read_text())}

    assert len(named) > 30
    assert named - shown == set()
