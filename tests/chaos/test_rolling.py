"""A rolling restart of three real nodes: the group is never lost, and everything that was acknowledged is there."""

import pytest

from tests.chaos.rolling import roll

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(800)]


@pytest.mark.parametrize(
    ("how", "rounds"),
    [
        ("impatient", 3),
        ("patient", 1),
        pytest.param("patient", 5, marks=pytest.mark.long),
        pytest.param("impatient", 10, marks=pytest.mark.long),
    ],
)
def test_the_group_outlives_the_restart_of_every_node_in_turn(tmp_path, how, rounds):
    report = roll(tmp_path, rounds, how, print)

    assert report["restarts"] == 3 * rounds
    assert report["acknowledged"] > 0
