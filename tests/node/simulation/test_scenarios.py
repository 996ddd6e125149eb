"""Directed schedules: ``scenarios/*.txt``, numbered as in the consensus design; from 30 on our own.

REWRITE=1 writes what they print now into the files; read the difference before you commit it.
"""

import os
from pathlib import Path

import pytest

from node.simulation.scenario import Scenario
from node.simulation.scenario_file import format_scenario, parse_scenario

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path):
    text = path.read_text()
    printed = format_scenario(Scenario().play(parse_scenario(text)))
    if os.environ.get("REWRITE"):
        path.write_text(printed)

    assert printed == path.read_text()
