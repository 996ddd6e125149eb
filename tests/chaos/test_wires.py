"""The faults of the network are real, and of one direction where they are meant to be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.probe import DATAGRAMS
from tests.support.cluster import PROJECT
from tests.support.netns import unavailable

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(unavailable() is not None, reason=f"no namespaces here: {unavailable()}"),
]


@pytest.fixture(scope="module")
def probed() -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.probe"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def measured(probed) -> dict:
    return probed["wires"]


def test_a_perfect_wire_loses_and_repeats_nothing(measured):
    assert measured["perfect"]["arrived"] == measured["perfect"]["answered"] == DATAGRAMS


def test_a_cut_of_one_direction_leaves_the_other(measured):
    assert measured["cut there"]["arrived"] == 0
    assert (measured["cut back"]["arrived"], measured["cut back"]["answered"]) == (DATAGRAMS, 0)


def test_a_lossy_wire_loses_some(measured):
    assert 0 < measured["half lost"]["arrived"] < DATAGRAMS


def test_a_repeating_wire_delivers_twice(measured):
    assert measured["repeated"]["arrived"] == 2 * DATAGRAMS


def test_a_slow_wire_takes_its_time(measured):
    assert measured["late"]["arrived"] == DATAGRAMS
    assert measured["late"]["seconds"] >= 0.3


def test_no_namespace_is_left_behind(probed):
    assert list(Path("/run/netns").glob(f"bondstone-chaos-{probed['process']}-*")) == []
