"""A host may stop a node for as long as it likes."""

import time

import pytest

from node.client import BondstoneClient, ClientError
from node.client.errors import OutcomeUnknownError
from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.support.cluster import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
TTL_MS = 3000


def test_a_request_that_waited_in_a_stopped_nodes_socket_is_not_executed_after_its_key_expired(tmp_path):
    command = {"op": "put", "key": "k", "value": "v"}
    with chaos_cluster(tmp_path, 3, None, Kind(session_ttl_ms=TTL_MS)) as cluster:
        leader = cluster.leader()
        stopped, *others = [leader, *(node for node in cluster.nodes if node is not leader)][::-1]
        with (
            cluster.client(stopped, deadline_s=1, attempt_s=1) as there,
            cluster.client(*others, deadline_s=30, attempt_s=10) as elsewhere,
        ):
            until(lambda: _works(there), "the connection is there")
            cluster.pause(stopped)
            with pytest.raises(OutcomeUnknownError):
                there.execute(command, idempotency_key="once")
            elsewhere.execute(command, idempotency_key="once")
            time.sleep(2 * TTL_MS / 1000)  # what is waited for is that time goes by
            elsewhere.put("other", "v")  # and the log knows of it
            cluster.resume(stopped)
            until(lambda: _works(there), "the node works again")
            assert elsewhere.get("k").version == 1


def _works(client: BondstoneClient) -> bool:
    try:
        client.put("other", "w")
    except ClientError:
        return False
    return True
