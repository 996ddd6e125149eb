"""Two of three volatile nodes lose their memory: the third founds a new generation, and what was written is there.

Or they are cut off only: what lives wins.
"""

import random
import re

import pytest

from node.client.errors import ClusterChangedError
from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.support.cluster import cli, until
from tests.support.netns import namespace_network, unavailable

ALIVE = "a quorum is here or may come back"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def recover(nodes, survivor, *flags):
    access = ["--token", nodes.token, "--ca", nodes.ca]
    return cli("group", "recover", "--from-survivor", f"https://{survivor.api}", *flags, *access)


def test_a_survivor_goes_on_and_the_others_join_its_generation(tmp_path):
    with chaos_cluster(tmp_path, 3, None, Kind(recovery=True)) as nodes:
        survivor, *lost = nodes.nodes
        with nodes.client(*nodes.nodes, deadline_s=60, attempt_s=10) as client:
            client.put("k", "v")
            before = client.cluster
        assert before.endswith("/0")
        refused = recover(nodes, survivor, "--position", f"1:1:{'0' * 64}")
        assert (refused.returncode, ALIVE in refused.stderr) == (1, True), refused.stderr
        for node in lost:
            nodes.kill(node)
        shown = recover(nodes, survivor)
        assert shown.returncode == 0
        position = re.search(r"position: (\S+)", shown.stdout)[1]

        def recovered():
            run = recover(nodes, survivor, "--position", position)
            assert run.returncode == 0 or ALIVE in run.stderr, run.stderr
            return run if run.returncode == 0 else None

        run = until(recovered, "the survivor recovers", 60)
        assert f"{survivor.name} leads cluster" in run.stdout
        for node in lost:
            nodes.start(node)
        for node in lost:
            nodes.until_listening(node)
        nodes.forget_cluster()
        nodes.until_whole("all vote in the new generation")
        with nodes.client(*lost, deadline_s=60, attempt_s=10) as client:
            assert client.get("k").value == b"v"
            client.put("k", "w")
            assert client.cluster.endswith("/1")
        assert any(record["kind"] == "group-recovered" for record in nodes.audit_records())
        with nodes.pinned(*nodes.nodes, cluster=before) as client, pytest.raises(ClusterChangedError):
            client.get("k")


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_a_partition_is_taken_for_a_loss_and_the_successor_halts_when_it_heals(tmp_path):
    with (
        namespace_network(3, random.Random(15)) as network,
        chaos_cluster(tmp_path, 3, network, Kind(recovery=True)) as nodes,
    ):
        leader = until(nodes.leader, "a node leads", 60)
        survivor = next(node for node in nodes.nodes if node is not leader)
        living = [node for node in nodes.nodes if node is not survivor]
        with nodes.client(*nodes.nodes, deadline_s=60, attempt_s=10) as client:
            client.put("before", "1")
            before = client.cluster
        network.cut([survivor.place], [node.place for node in living])

        def recovered():
            shown = recover(nodes, survivor)
            assert shown.returncode == 0, shown.stderr
            run = recover(nodes, survivor, "--position", re.search(r"position: (\S+)", shown.stdout)[1])
            assert run.returncode == 0 or ALIVE in run.stderr, run.stderr
            return run.returncode == 0

        until(recovered, "the survivor recovers", 120)
        with nodes.client(survivor, deadline_s=60, attempt_s=10) as client:
            client.put("lost", "1")
            assert client.cluster.endswith("/1")
        with nodes.pinned(survivor, cluster=before) as client, pytest.raises(ClusterChangedError):
            client.get("before")
        with nodes.client(*living, deadline_s=60, attempt_s=10) as client:
            client.put("kept", "1")
            assert client.cluster == before
        network.heal()

        def gave_way():
            halted = [record for record in nodes.audit_records() if record["kind"] == "member-halted"]
            return halted and {record["reason"] for record in halted} == {"predecessor-lives"}

        until(gave_way, "the successor halts", 60)
        nodes.kill(survivor)
        nodes.start(survivor)
        nodes.until_listening(survivor)
        nodes.forget_cluster()
        nodes.until_whole("all vote in the group that lived on")
        with nodes.client(survivor, deadline_s=60, attempt_s=10) as client:
            assert client.get("kept").value == b"1"
            assert client.get("before").value == b"1"
            assert client.get("lost") is None
            assert client.cluster == before
