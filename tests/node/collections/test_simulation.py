"""Collections in the simulator: under every fault the histories of each kind are linearizable."""

from dataclasses import replace
from typing import Any

import pytest

from node.machines.base import ApplyContext
from node.simulation import ScheduleError, draw_schedule, run
from tests.node.collections.workload import CHECKED, VERSIONED, Unversioned


def check(seeds: range, workload: Any) -> dict[str, int]:
    """Run the schedules of these seeds; return what was checked in all of them."""
    totals: dict[str, int] = {}
    for seed in seeds:
        for name, count in run(draw_schedule(seed, workload=workload)).counts.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def test_histories_of_map_cell_once_and_priority_queue_are_linearizable():
    totals = check(range(4_100_000, 4_100_040), CHECKED)

    assert totals["writes"] > 200
    assert totals["reads"] > 200
    assert totals.get("undecided", 0) <= 2


def test_versions_and_answers_are_those_of_the_agreed_sequence():
    assert check(range(4_200_000, 4_200_020), VERSIONED)["writes"] > 100


@pytest.mark.long
def test_histories_of_many_schedules_are_linearizable():
    assert check(range(4_300_000, 4_300_800), CHECKED)["writes"] > 5000


class SwapsAlways(Unversioned):
    """Says that every exchange took effect."""

    def apply(self, command: Any, context: ApplyContext) -> Any:
        result = super().apply(command, context)
        return {"swapped": True} if "swapped" in result else result


class WritesTwice(Unversioned):
    """Says of a once that it was written, each time."""

    def apply(self, command: Any, context: ApplyContext) -> Any:
        result = super().apply(command, context)
        return {"written": True} if "written" in result else result


class KeepsWhatWasPopped(Unversioned):
    """Gives the first entry to every caller, and keeps it."""

    def apply(self, command: Any, context: ApplyContext) -> Any:
        savepoint = self.savepoint()
        result = super().apply(command, context)
        if command["op"] == "queue-pop":
            self.rollback(savepoint)
        return result


@pytest.mark.parametrize("machine", [SwapsAlways, WritesTwice, KeepsWhatWasPopped])
def test_a_machine_whose_outcomes_are_wrong_is_found_out(machine):
    workload = replace(CHECKED, machine=machine)
    with pytest.raises(ScheduleError) as caught:
        check(range(4_100_000, 4_100_040), workload)

    assert caught.value.error.oracle == "linearizability"
