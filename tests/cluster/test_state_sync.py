"""A state sync of a user in three processes: one is killed, and has the group's state again by that sync."""

import pytest

from node.simulation.difference import DifferenceSync
from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.cluster.differing import BEGINS, MACHINE

KIND = Kind(machine=MACHINE, state_sync=DifferenceSync().signature, small_snapshots=True)
TOOK = "took the group's state from peers"
KEYS = 60
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_killed_node_has_the_state_again_by_the_state_sync_of_a_user(tmp_path):
    with chaos_cluster(tmp_path, 3, None, KIND) as nodes:
        gone = nodes.nodes[2]
        with nodes.client(*nodes.nodes, deadline_s=60, attempt_s=10) as client:
            for number in range(KEYS):
                client.put(f"k{number}", "x" * 10_000)
            nodes.kill(gone)
            for number in range(KEYS):
                client.put(f"k{number}", f"{number}" * 3_000)
        nodes.start(gone)
        nodes.until_listening(gone)
        nodes.until_whole("all vote again")

        log = (gone.directory / "node.log").read_text()
        assert BEGINS in log
        assert TOOK in log
        assert "state sync" not in log.replace(BEGINS, "")
        with nodes.client(gone, deadline_s=60, attempt_s=10) as client:
            found = [client.get(f"k{number}").value for number in range(KEYS)]
        assert found == [(f"{number}" * 3_000).encode() for number in range(KEYS)]
