"""Two of three volatile nodes lose their memory: the third founds a new generation, and what was written is there."""

import re

import pytest

from node.client.errors import ClusterChangedError
from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.support.cluster import cli, until

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
