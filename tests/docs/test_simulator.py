"""The examples in docs/simulator.md are run as they stand."""

import re
from pathlib import Path

import pytest

from node.machines.base import CommandError
from node.machines.counter import Counter
from node.simulation import ScheduleError, Workload, draw_schedule, run

DOCUMENT = Path(__file__).parents[2] / "docs" / "simulator.md"


def test_the_example_of_ten_lines_runs():
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    exec(compile(example, "docs/simulator.md", "exec"), {})

    assert len([line for line in example.splitlines() if line.strip()]) <= 10


class Forgetful(Counter):
    """Depends on how often it was asked, which no log knows: members differ."""

    asked = 0

    def query(self, query):
        self.asked += 1
        value = super().query(query)["value"]
        return {"value": value + (self.asked > 2)}


def test_a_machine_whose_answers_do_not_follow_from_the_log_is_found_out():
    workload = Workload(
        machine=Forgetful,
        command=lambda rng, unique: ({"op": "add", "by": 1},),
        query=lambda rng: {"op": "get"},
    )

    def run_some():
        for seed in range(10):
            run(draw_schedule(seed, workload=workload))

    with pytest.raises(ScheduleError) as caught:
        run_some()
    assert caught.value.error.oracle == "agreed-answer"


def test_a_command_that_is_refused_is_an_answer_like_any_other():
    class Refusing(Counter):
        def apply(self, command, context):
            raise CommandError("never", "it refuses everything")

    workload = Workload(
        machine=Refusing,
        command=lambda rng, unique: ({"op": "add", "by": 1},),
        query=lambda rng: {"op": "get"},
    )

    report = run(draw_schedule(3, workload=workload))

    assert report.counts["writes"] > 0
