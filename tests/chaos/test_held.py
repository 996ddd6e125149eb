"""A network may hold back what a client has sent for as long as it likes."""

import json
import time

import pytest

from node.bonds.wire.addresses import split_address
from tests.chaos.cluster import chaos_cluster
from tests.chaos.files import Kind
from tests.support.held import HeldRequest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
TTL_MS = 3000
COMMAND = {"op": "put", "key": "k", "value": "v"}


def request(token: str) -> bytes:
    body = json.dumps({"command": COMMAND}).encode()
    head = (
        "POST /v1/commands HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\nidempotency-key: once\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def test_what_the_network_held_back_is_not_executed_once_its_key_is_forgotten(tmp_path):
    with chaos_cluster(tmp_path, 3, None, Kind(session_ttl_ms=TTL_MS)) as cluster:
        first, *others = cluster.nodes
        with cluster.client(*others, deadline_s=30, attempt_s=10) as elsewhere:
            elsewhere.put("other", "v")  # the group is there
            with HeldRequest(split_address(first.api), request(cluster.token)) as held:
                elsewhere.execute(COMMAND, idempotency_key="once")
                time.sleep(2 * TTL_MS / 1000)  # what is waited for is that time goes by
                elsewhere.put("other", "w")  # and the log knows of it
                answer = held.deliver()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"stale"' in answer
            assert elsewhere.get("k").version == 1
