"""Real node processes whose group document has ``state_machine = "collections"``."""

import asyncio
from pathlib import Path

import pytest

from node import BondstoneClient, dev
from node.collections import Map, PriorityQueue
from tests.node.collections.support import Order
from tests.support.cluster import free_port_block

pytestmark = pytest.mark.cluster

ORDERS = Map("orders", str, Order)
JOBS = PriorityQueue("jobs", str, Order, capacity=2)


def test_clients_of_two_nodes_share_typed_collections(tmp_path, monkeypatch):
    text_of = dev.group_document_text
    monkeypatch.setattr(
        dev,
        "group_document_text",
        lambda **given: text_of(**given).replace('state_machine = "kv"', 'state_machine = "collections"'),
    )
    cluster = dev.DevCluster(tmp_path, nodes=2, api_port=free_port_block(2), report=lambda _event: None)

    def use() -> None:
        token = cluster.token_file.read_text().strip()
        one, other = (
            BondstoneClient([f"https://{node.api}"], token=token, ca=Path(cluster.ca_file))
            for node in cluster.nodes
        )
        with one, other:
            assert one.group().levels.machine == "bondstone/collections"
            here, there = ORDERS.client(one), ORDERS.client(other)
            assert there.get("a") is None
            written = here.insert("a", Order("é", 1))
            assert there.get("a") == Order("é", 1)
            swaps = [client.compare_exchange("a", Order("é", 1), Order("x", 2)) for client in (here, there)]
            assert [swap.swapped for swap in swaps] == [True, False]
            assert swaps[1].actual == Order("x", 2)
            assert here.version() == there.version() == swaps[0].version > written.version
            pushed = JOBS.client(other).extend((str(n), n, Order("job", n)) for n in range(3))
            assert (pushed.kept, pushed.evicted) == (2, 1)
            assert [JOBS.client(one).pop().value.key, JOBS.client(other).pop().value.key] == ["2", "1"]
            assert not JOBS.client(one).pop().found

    async def scenario() -> None:
        async with cluster.running():
            await asyncio.to_thread(use)

    asyncio.run(scenario())
