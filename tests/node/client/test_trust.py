"""Trust by evidence: a client that verifies nodes sends requests over no other connections."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from attestation.errors import AppraisalError
from attestation.tickets.protocol import Cluster
from enclave.identity import Identity
from node.client import AsyncClient, Client, ClusterChangedError, NodeRefusedError, VerifiedBy
from node.client.trust import VerifiedNodes, trust_of
from node.errors import ConfigError
from tests.node.api.fakes import IDENTITY, FakeService, served
from tests.node.client.scripted import TOKEN, Blocking, urls_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REBORN = Identity.generate("node-a", datetime.now(UTC), hosts=("elsewhere.example",))
POLICY = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[reference_values]
accept_any_td = true
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 86400
"""


class Verifier:
    """Finds at each node what the test says, and counts how often it looked."""

    def __init__(self, identity=IDENTITY, cluster=None, expires_at=None):
        self.identity, self.cluster, self.expires_at = identity, cluster, expires_at
        self.refused = None
        self.asked = []

    def __call__(self, url, **_):
        self.asked.append(url)
        if self.refused is not None:
            raise AppraisalError(self.refused, "it is not what the policy wants")
        live = SimpleNamespace(
            certificate_der=self.identity.certificate_der, document=SimpleNamespace(group_id=None)
        )
        expiration = SimpleNamespace(at=self.expires_at)
        return SimpleNamespace(live=live, cluster=self.cluster, expiration=expiration, mock=True)


def as_it_is(make, options):
    return make(Client, options)


def as_asynchronous(make, options):
    return Blocking(lambda: make(AsyncClient, options))


@pytest.fixture(params=[as_it_is, as_asynchronous], ids=["Client", "AsyncClient"])
def client_that_verifies(request, tmp_path):
    """Makes clients of either kind whose verifier is the test's."""
    (tmp_path / "policy.toml").write_text(POLICY)
    required = VerifiedBy(policy=tmp_path / "policy.toml", pins=tmp_path / "pins.json")
    made = []

    def make(verifier, *ports, now=lambda: NOW, **options):
        def new(kind, options):
            client = kind(urls_of(ports), token=TOKEN, verified_by=required, **options)
            client._trust = VerifiedNodes(required, verify=verifier, now=now)
            return client

        client = request.param(new, options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def test_a_verified_node_needs_no_file_and_no_name_in_its_certificate(client_that_verifies):
    verifier = Verifier(identity=REBORN)
    with served(FakeService(), identity=REBORN) as port:
        client = client_that_verifies(verifier, port)
        assert client.put("a", "1") == 2
        assert client.get("a").value == b"1"

    assert len(verifier.asked) == 1


def test_a_node_whose_evidence_is_refused_receives_no_request(client_that_verifies):
    verifier, service = Verifier(), FakeService()
    verifier.refused = "measurement-mismatch"
    with served(service) as port:
        client = client_that_verifies(verifier, port, deadline_s=0.3)
        with pytest.raises(NodeRefusedError, match="measurement-mismatch") as raised:
            client.put("a", "1")  # nothing is in doubt: nothing was sent

    assert raised.value.reason == "measurement-mismatch"
    assert service.executed == []


def test_the_attack_works_on_a_client_that_does_not_look_at_the_verdict(client_that_verifies):
    service = FakeService()
    with served(service) as port:
        client = client_that_verifies(Verifier(), port)  # accepts whatever answers
        client.put("a", "1")

    assert len(service.executed) == 1


def test_a_server_under_another_key_than_the_verified_one_receives_no_request(client_that_verifies):
    verifier, service = Verifier(identity=REBORN), FakeService()
    with served(service) as port:  # the evidence was somebody else's
        client = client_that_verifies(verifier, port, deadline_s=0.5)
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            client.put("a", "1")

    assert service.executed == []


def test_a_restarted_node_is_verified_again(client_that_verifies):
    verifier = Verifier(identity=REBORN)
    with served(FakeService()) as port:
        client = client_that_verifies(verifier, port)
        real = verifier.__call__

        def then_the_new_key(url, **more):
            verifier.identity = IDENTITY if verifier.asked else REBORN
            return real(url, **more)

        client_trust(client)._verify = then_the_new_key
        assert client.put("a", "1") == 2

    assert len(verifier.asked) == 2


def test_a_verdict_that_has_expired_is_not_relied_on(client_that_verifies):
    clock = [NOW]
    verifier, service = Verifier(expires_at=NOW + timedelta(minutes=5)), FakeService()
    with served(service) as port:
        client = client_that_verifies(verifier, port, now=lambda: clock[0], deadline_s=0.3)
        client.put("a", "1")
        clock[0] = NOW + timedelta(minutes=5)
        verifier.refused = "tcb-out-of-date"
        with pytest.raises(NodeRefusedError, match="tcb-out-of-date"):
            client.put("a", "2")

    assert len(service.executed) == 1


def test_a_quote_of_another_cluster_is_refused_before_a_request(client_that_verifies):
    ours, theirs = Cluster(id=b"\x01" * 32), Cluster(id=b"\x02" * 32)
    service = FakeService(cluster=theirs)
    with served(service) as port:
        client = client_that_verifies(Verifier(cluster=theirs), port, cluster=str(ours))
        with pytest.raises(ClusterChangedError):
            client.put("a", "1")

    assert service.executed == []


def test_a_quote_that_names_no_cluster_does_not_pass_for_the_named_one(client_that_verifies):
    ours, service = Cluster(id=b"\x01" * 32), FakeService(cluster=Cluster(id=b"\x01" * 32))
    with served(service) as port:
        client = client_that_verifies(Verifier(), port, cluster=str(ours), deadline_s=0.3)
        with pytest.raises(NodeRefusedError, match="cluster-none"):
            client.put("a", "1")

    assert service.executed == []


def test_one_way_to_trust_is_chosen(ca):
    for given in ((None, None), (ca, VerifiedBy())):
        with pytest.raises(ConfigError, match="give either"):
            trust_of(*given)


def client_trust(client):
    return (client._client if isinstance(client, Blocking) else client)._trust


def test_many_calls_at_once_verify_a_node_once(tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY)
    required, verifier = VerifiedBy(policy=tmp_path / "policy.toml"), Verifier()

    async def main(port):
        async with AsyncClient(urls_of([port]), token=TOKEN, verified_by=required) as client:
            client._trust = VerifiedNodes(required, verify=verifier)
            await asyncio.gather(*(client.put("a", str(n)) for n in range(8)))

    with served(FakeService()) as port:
        asyncio.run(main(port))

    assert len(verifier.asked) == 1
