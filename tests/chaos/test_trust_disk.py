"""trust_disk over real processes: what only a disk can give, and that it does."""

import pytest

from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_a_killed_node_goes_on_as_the_same_incarnation_and_a_power_cut_loses_nothing(tmp_path):
    with chaos_cluster(tmp_path, 3, None, Kind(trust_disk=True)) as cluster:
        before = [node.peer_id() for node in cluster.nodes]
        victim = cluster.nodes[0]
        with cluster.client(*cluster.nodes, deadline_s=30, attempt_s=10) as client:
            client.put("one", "1")
            cluster.kill(victim)
            client.put("two", "2")
            cluster.start(victim)
            cluster.until_listening(victim)
            assert victim.peer_id() == before[0]
            cluster.until_whole("the restarted node votes again")

            for node in cluster.nodes:
                cluster.kill(node)
            for node in cluster.nodes:
                cluster.start(node)
            for node in cluster.nodes:
                cluster.until_listening(node)
            cluster.until_whole("the group is back after the power cut")
            assert [node.peer_id() for node in cluster.nodes] == before
            held = {key: client.get(key) for key in ("one", "two")}
            assert [held["one"].value, held["two"].value] == [b"1", b"2"]
