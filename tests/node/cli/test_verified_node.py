"""Whether a verified node is a mock follows from the root of its evidence, not from what the node writes."""

import base64
from datetime import UTC, datetime

import pytest

from attestation.errors import AppraisalError, MalformedError
from attestation.tickets.protocol import Cluster, Expiration
from node.api import schemas
from node.ca.certificates import CertificateAuthority, digest_of, pem_of
from node.ca.names import PermittedNames
from node.client import LiveEvidence
from node.client.pins import default_pins
from node.client.verified_node import GroupCaUnknownError, VerifiedNode, pin_cluster, require_group_ca

AUTHORITY = CertificateAuthority.generate(b"g" * 32, PermittedNames.of(["localhost"]), datetime.now(UTC))
OTHER = CertificateAuthority.generate(b"g" * 32, PermittedNames.of(["localhost"]), datetime.now(UTC))


def verified(
    *,
    written: bool = False,
    judged: bool = False,
    claimed: bytes | None = None,
    sent: str | None = None,
) -> VerifiedNode:
    document = schemas.OwnEvidence(
        mock=written,
        nonce="ab" * 32,
        peer_id="01" * 32,
        network_id="02" * 32,
        group_id="03" * 32,
        cluster=None,
        binding="04" * 32,
        tickets={},
        group_ca=sent,
    )
    return VerifiedNode(
        live=LiveEvidence(document=document, certificate_der=b""),
        peer_id=b"\x01" * 32,
        cluster=Cluster(id=b"c" * 32),
        group_ca=claimed,
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
    pin_cluster(verified(written=not judged, judged=judged), None, pins=None, forget=False)

    assert default_pins().exists() is remembered


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_authority_that_the_quote_names_is_the_file_to_save():
    node = verified(claimed=digest_of(AUTHORITY.certificate_der), sent=base64_of(AUTHORITY.certificate_der))
    assert require_group_ca(node) == pem_of(AUTHORITY.certificate_der)


@pytest.mark.parametrize(
    "sent", [base64_of(OTHER.certificate_der), base64_of(AUTHORITY.certificate_der + b"\0"), "", None]
)
def test_an_authority_that_the_quote_does_not_name_is_refused(sent):
    with pytest.raises(AppraisalError) as caught:
        require_group_ca(verified(claimed=digest_of(AUTHORITY.certificate_der), sent=sent))
    assert caught.value.reason == "group-ca-mismatch"


def test_what_cannot_be_read_is_refused():
    for sent, claimed in (("%", b"d" * 32), (base64_of(b"x"), digest_of(b"x"))):
        with pytest.raises(MalformedError) as caught:
            require_group_ca(verified(claimed=claimed, sent=sent))
        assert caught.value.reason == "group-ca-malformed"


def test_without_a_claim_it_is_undecided_whatever_the_node_sends():
    """A node beside the group could send an authority of its own; its quote is what counts."""
    with pytest.raises(GroupCaUnknownError) as caught:
        require_group_ca(verified(claimed=None, sent=base64_of(AUTHORITY.certificate_der)))
    assert caught.value.reason == "group-ca-none"
