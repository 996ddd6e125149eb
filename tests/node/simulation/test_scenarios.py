"""Directed schedules: ``scenarios/*.txt``, numbered as in docs/design/consensus.md; from 30 on our own.

REWRITE=1 writes what they print now into the files; read the difference before you commit it.
"""

import os
import re
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


# The suite of docs/design/consensus.md; 25 is disaster recovery, which this version does not have.
NAMED = (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 15, 16, 18, 19, 20, 21, 23, 24)


def test_every_numbered_schedule_exists_under_its_number_beside_our_own():
    firsts = {path.stem: path.read_text().splitlines()[0] for path in SCENARIOS}
    named = {
        number for number in NAMED for line in firsts.values() if re.search(rf"Scenario {number}\b", line)
    }
    own = [stem for stem in firsts if int(stem[:2]) >= 30]

    assert named == set(NAMED)
    assert len(own) >= 10
