"""Wall clocks that jump, under real processes."""

import time

import pytest

from tests.chaos.cluster import can_fake_clocks, chaos_cluster
from tests.chaos.files import Kind
from tests.support.cluster import until

JUMP_S = 120  # twice the TTL of sessions and idempotency keys, within a ticket's lifetime

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not can_fake_clocks(), reason="no libfaketime here (apt-get install faketime)"),
]


def test_jumps_of_wall_clocks_beyond_every_ttl_let_no_command_execute_twice(tmp_path):
    """All of them, because the leader's clock drives the log's time."""
    with (
        chaos_cluster(tmp_path, 3, None, Kind()) as cluster,
        cluster.client(*cluster.nodes, deadline_s=30, attempt_s=10) as client,
    ):
        command = {"op": "put", "key": "k", "value": "v"}
        first = client.execute(command, idempotency_key="once")
        for node in cluster.nodes:
            cluster.set_clock(node, JUMP_S)

        def jumped() -> bool:
            told = [cluster.vitals(node) for node in cluster.nodes]
            return all(one is not None and one["wall"] > time.time() + JUMP_S / 2 for one in told)

        until(jumped, "the nodes' clocks have jumped")
        client.put("other", "v")
        again = client.execute(command, idempotency_key="once")
        assert (again, client.get("k").version) == (first, 1)
