"""What an operator sees of the members, and does with them, over real nodes."""

import json

import pytest

from tests.support.cluster import cli

pytestmark = pytest.mark.cluster


def client_flags(cluster, *nodes):
    """Return the flags with which a command asks these nodes; by default all."""
    urls = [cluster.nodes[i]["api"] for i in (nodes or range(cluster.count))]
    return [
        *(part for url in urls for part in ("--url", url)),
        "--token",
        cluster.ready["token"],
        "--ca",
        cluster.ready["ca"],
    ]


def test_the_leader_shows_every_voter_connected_and_caught_up(cluster):
    run = cli("member", "list", "--json", *client_flags(cluster, cluster.leader()))
    shown = json.loads(run.stdout)
    table = cli("member", "list", *client_flags(cluster))

    assert run.returncode == 0
    assert sorted(member["role"] for member in shown["members"]) == ["leader", "voter", "voter"]
    assert all(member["connected"] and member["lag"] is not None for member in shown["members"])
    assert shown["pending_change"] is None
    assert table.returncode == 0
    assert all(name in table.stdout for name in ("node-0", "node-1", "node-2"))
