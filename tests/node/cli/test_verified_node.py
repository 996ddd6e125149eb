"""Whether a verified node is a mock follows from the root of its evidence, not from what the node writes."""

import pytest

from attestation.tickets.protocol import Cluster, Expiration
from node.api import schemas
from node.cli.evidence import VerifiedNode
from node.cli.verify import _remember
from node.client import LiveEvidence
from node.client.pins import default_pins


def verified(*, written: bool, judged: bool) -> VerifiedNode:
    document = schemas.OwnEvidence(
        mock=written,
        nonce="ab" * 32,
        peer_id="01" * 32,
        network_id="02" * 32,
        group_id="03" * 32,
        cluster=None,
        binding="04" * 32,
        tickets={},
    )
    return VerifiedNode(
        live=LiveEvidence(document=document, certificate_der=b""),
        peer_id=b"\x01" * 32,
        cluster=Cluster(id=b"c" * 32),
        expiration=Expiration(at=None, appraisal={"mock": judged}),
    )


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("judged", [True, False])
def test_a_node_cannot_pass_for_real_or_for_mock_by_its_own_claim(written, judged):
    assert verified(written=written, judged=judged).to_json_value()["mock"] is judged


@pytest.mark.parametrize(("judged", "remembered"), [(False, True), (True, False)])
def test_a_real_cluster_is_remembered_though_its_node_writes_that_it_is_a_mock(
    tmp_path, monkeypatch, judged, remembered
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    _remember(verified(written=not judged, judged=judged), None, pins=None, forget=False)

    assert default_pins().exists() is remembered
