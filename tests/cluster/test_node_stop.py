"""A node that stops hands its leadership over, and ``bondstone node stop --safe`` stops no node that is needed."""

import pytest

from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.support.cluster import cli, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
HANDED_OVER = "the leadership was handed over to"


@pytest.fixture
def nodes(tmp_path):
    with chaos_cluster(tmp_path, 3, None, Kind()) as running:
        yield running


def stop(nodes, node, *flags):
    """Run ``node stop --safe`` for ``node``; it asks every node that lives."""
    urls = [part for one in nodes.nodes if one.alive for part in ("--url", f"https://{one.api}")]
    config = node.directory / "node.toml"
    return cli(
        "node", "stop", "--config", config, "--safe", *flags, *urls, "--token", nodes.token, "--ca", nodes.ca
    )


def test_a_leader_stops_safely_after_it_handed_over_and_then_no_other_can(nodes):
    leader = until(nodes.leader, "a leader")
    run = stop(nodes, leader, "--wait", "60")
    assert (run.returncode, run.stdout) == (0, f"{leader.name} has stopped\n"), run.stderr
    nodes.reap(leader)
    assert any(record["kind"] == "leadership-transferred" for record in nodes.audit_records())

    left = next(node for node in nodes.nodes if node.alive)
    refused = stop(nodes, left)
    assert refused.returncode == 1
    assert left.process.poll() is None
    with nodes.client(*(node for node in nodes.nodes if node.alive), deadline_s=60, attempt_s=10) as client:
        client.put("k", "v")
    forced = stop(nodes, left, "--force")
    assert forced.returncode == 0
    assert forced.stdout.startswith("unsafe: ")
    nodes.reap(left)
    assert stop(nodes, left).returncode == 2  # it does not run any more


def test_a_leader_that_gets_sigterm_hands_over_before_it_leaves(nodes):
    leader = until(nodes.leader, "a leader")
    nodes.stop(leader)

    assert HANDED_OVER in (leader.directory / "node.log").read_text()
    with nodes.client(*(node for node in nodes.nodes if node.alive), deadline_s=60, attempt_s=10) as client:
        client.put("k", "v")
