"""Nodes whose collateral comes over HTTP from a PCCS, not from files."""

import pytest

from tests.support.cluster import local_cluster

pytestmark = pytest.mark.cluster


def test_a_cluster_bonds_with_collateral_fetched_from_a_pccs(tmp_path):
    with local_cluster(tmp_path / "cluster", arguments=["--pccs"]) as cluster, cluster.client() as client:
        client.put("fetched", "yes")
        peers = client.peers().peers

        assert client.get("fetched").value == b"yes"
        assert len(peers) == 2
        for i in range(3):
            assert list((cluster.directory / f"node-{i}" / "data" / "collateral").iterdir())
