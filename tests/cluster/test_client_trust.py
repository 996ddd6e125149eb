"""A program that has the group document alone: no certificates, no first meeting."""

import asyncio

import pytest

from node.client import AsyncClient, Client, NodeRefusedError, VerifiedBy
from tests.support.cluster import local_cluster

pytestmark = pytest.mark.cluster


def test_clients_verify_real_evidence_and_go_on_after_a_node_was_started_anew(tmp_path):
    with local_cluster(tmp_path / "dev") as cluster:
        urls = [node["api"] for node in cluster.nodes]
        required = VerifiedBy(group_document=cluster.directory / "group.toml", pins=tmp_path / "pins.json")
        options = {"token": cluster.ready["token"], "verified_by": required, "deadline_s": 30}
        with Client(urls, **options) as client:
            client.put("a", "1")
            cluster.kill(0)
            cluster.run_node(cluster.node_config(0)).event("ready")
            with Client(urls[:1], **options) as alone:
                alone.put("a", "2")
            assert client.get("a").value == b"2"
            known = client.cluster

        async def at_once():
            async with AsyncClient(urls, cluster=known, **options) as client:
                await asyncio.gather(*(client.put(f"k{n}", "v") for n in range(20)))
                return [item.key async for item in client.list("k")]

        assert len(asyncio.run(at_once())) == 20

        (tmp_path / "other.toml").write_text(OTHER)
        strict = VerifiedBy(policy=tmp_path / "other.toml", trust_root="intel")
        with (
            Client(urls, **{**options, "verified_by": strict, "deadline_s": 3}) as client,
            pytest.raises(NodeRefusedError),
        ):
            client.put("a", "3")  # mock evidence never passes for real


OTHER = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[reference_values]
accept_any_td = true
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 86400
"""
