"""Which cluster answers: the header field, the precondition, and the client's pin."""

from dataclasses import replace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from attestation.tickets.protocol import Cluster
from node.authority import AuthorityKey, authority_of, sign, spki_of
from node.client import (
    BondstoneClient,
    ClusterChangedError,
    ClusterNotConfirmedError,
    ConfirmedBy,
    NotExecutedError,
)
from node.errors import ConfigError
from node.system.birth import BirthCertificate, first_statement
from node.tokens import AccessRole
from tests.node.api.fakes import FakeService, call, served
from tests.node.client.scripted import OK, TOKEN, Clock, Script, connected

OURS = Cluster(id=b"\x09" * 32)
THEIRS = Cluster(id=b"\x0b" * 32)
PUT = b'{"command": {"op": "put", "key": "a", "value": "1"}}'


def execute(service, *headers):
    fields = [("content-type", "application/json"), *headers]
    return call(service, "POST", "/v1/commands", role=AccessRole.WRITE, chunks=(PUT,), headers=fields)


def named(cluster):
    return ("bondstone-cluster", str(cluster))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/group", "/v1/nowhere", "/openapi.json"])
def test_every_answer_names_the_cluster(path):
    for role in (None, AccessRole.ADMIN):
        assert call(FakeService(), "GET", path, role=role).headers["bondstone-cluster"] == "09" * 32 + "/0"


def test_a_node_without_cluster_state_names_no_cluster():
    reply = call(FakeService(cluster=None), "GET", "/readyz")

    assert "bondstone-cluster" not in reply.headers
    assert reply.json["cluster"] is None


def test_the_field_follows_the_node_into_its_cluster():
    service = FakeService(cluster=None)
    assert "bondstone-cluster" not in call(service, "GET", "/healthz").headers
    service.cluster = THEIRS

    assert call(service, "GET", "/healthz").headers["bondstone-cluster"] == str(THEIRS)


def test_a_command_for_another_cluster_is_not_executed():
    service = FakeService(cluster=THEIRS)
    reply = execute(service, named(OURS))

    assert (reply.status, reply.json["code"]) == (412, "cluster-changed")
    assert service.executed == []
    assert execute(service, named(Cluster(id=THEIRS.id, generation=1))).status == 412
    assert execute(service, named(THEIRS), named(THEIRS)).json["code"] == "request-invalid"
    assert execute(service, named(THEIRS)).status == 200
    assert execute(service).status == 200  # nothing was asked for: as before


def test_a_node_without_a_cluster_takes_no_command_for_one():
    service = FakeService(cluster=None)
    reply = execute(service, named(OURS))

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (503, "not-ready", "no-cluster")
    assert service.executed == []


# ---- the client -------------------------------------------------------------------------
def scripted(ca, *endings, **options):
    script, clock = Script(*endings), Clock()
    client = BondstoneClient(
        ["https://a:1", "https://b:1"], token=TOKEN, ca=ca, sleep=clock.sleep, clock=clock, **options
    )
    client._http = httpx.Client(transport=httpx.MockTransport(script))
    client._pem = ca.read_bytes()
    return client, script


def answer(cluster, status=200):
    headers = {} if cluster is None else {"bondstone-cluster": str(cluster)}
    content = b'{"term": 1, "index": 1, "result": null}'
    return httpx.Response(status, content=content, headers=headers)


def test_an_empty_cluster_under_the_same_group_is_reported_and_executes_nothing(ca):
    """After a total loss the same configuration founds anew, and a strong read went from 41 to nothing."""
    service = FakeService()
    with served(service) as port, connected(ca, port) as client:
        client.put("n", "41")
        assert client.cluster == str(OURS)
        service.cluster, service.executed = THEIRS, []

        with pytest.raises(ClusterChangedError) as caught:
            client.put("n", "42")
        assert (caught.value.executed, caught.value.answered) == (False, str(THEIRS))
        assert service.executed == []
        with pytest.raises(ClusterChangedError):
            client.get("n")
    # Without the pin the read would have been answered, without a warning.
    with served(service) as port, connected(ca, port) as client:
        client.get("n")


def test_a_client_names_what_it_pinned_with_every_later_request(ca):
    client, script = scripted(ca, answer(OURS))
    client.execute({"op": "x"})
    client.execute({"op": "x"})

    assert [request.headers.get("bondstone-cluster") for request in script.asked] == [None, str(OURS)]


def test_a_client_that_was_given_a_cluster_names_it_from_the_start(ca):
    client, script = scripted(ca, answer(OURS), cluster=OURS.id.hex())
    client.execute({"op": "x"})

    assert script.asked[0].headers["bondstone-cluster"] == str(OURS)
    with pytest.raises(ConfigError, match="not a cluster"):
        scripted(ca, OK, cluster="nonsense")


@pytest.mark.parametrize("answered", [THEIRS, None, Cluster(id=OURS.id, generation=1)])
def test_a_success_of_another_cluster_or_of_no_cluster_is_an_error(ca, answered):
    client, _ = scripted(ca, answer(answered), cluster=str(OURS))
    with pytest.raises(ClusterChangedError) as caught:
        client.execute({"op": "x"})

    assert caught.value.executed is True


def test_a_node_that_waits_for_its_cluster_does_not_end_the_pin(ca):
    from tests.node.client.scripted import problem

    client, script = scripted(ca, problem("not-ready", reason="no-cluster"), answer(OURS), cluster=str(OURS))
    client.execute({"op": "x"})

    assert len(script.asked) == 2
    client, _ = scripted(ca, problem("not-ready", reason="no-cluster"), cluster=str(OURS))
    with pytest.raises(NotExecutedError):
        client.execute({"op": "x"})


# ---- the authority's statement ---------------------------------------------------------------
KEY, GROUP = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32), b"g" * 32
AUTHORITY = authority_of(1, [AuthorityKey.of("ops", spki_of(KEY))])


def certificate(cluster, seq=1):
    statement = replace(first_statement(GROUP, cluster, now_s=0), seq=seq)
    return BirthCertificate(statement=statement, signatures=(("ops", sign(KEY, statement.digest)),)).encode()


def confirmed_by(pins=None):
    return ConfirmedBy(authority=AUTHORITY, group_id=GROUP, pins=pins)


def test_a_client_with_an_authority_sends_to_the_confirmed_cluster_only(ca):
    service = FakeService(certificate=certificate(OURS))
    with served(service) as port, connected(ca, port, confirmed_by=confirmed_by()) as client:
        client.put("a", "1")
        assert client.cluster == str(OURS)


@pytest.mark.parametrize(
    ("held", "handed_out", "error"),
    [
        (OURS, None, "cluster-not-confirmed"),
        (THEIRS, certificate(OURS), "is from cluster"),  # a look-alike that hands out the real one's
        (OURS, certificate(OURS)[:-1] + b"x", "authority-signature-invalid"),
        (OURS, b"x", "birth-certificate-malformed"),
    ],
    ids=["none", "look-alike", "forged", "malformed"],
)
def test_without_the_authoritys_signature_for_this_cluster_the_client_sends_no_request(
    ca, held, handed_out, error
):
    service = FakeService(cluster=held, certificate=handed_out)
    with served(service) as port, connected(ca, port, confirmed_by=confirmed_by()) as client:
        for _ in range(2):  # and the second call is not let through because the first one asked
            with pytest.raises((ClusterNotConfirmedError, ClusterChangedError), match=error):
                client.put("a", "1")
        assert service.executed == []
        # It may be confirmed later.
        service.cluster, service.certificate = OURS, certificate(OURS)
        client.put("a", "1")


def test_a_client_that_saw_the_successor_refuses_the_certificate_before_it(ca, tmp_path):
    service = FakeService(cluster=THEIRS, certificate=certificate(THEIRS, seq=2))
    required = confirmed_by(tmp_path / "pins.json")
    with served(service) as port:
        with connected(ca, port, confirmed_by=required) as client:
            client.put("a", "1")
        service.cluster, service.certificate, service.executed = OURS, certificate(OURS), []
        later = connected(ca, port, confirmed_by=required)
        with later as client, pytest.raises(ClusterNotConfirmedError, match="superseded"):
            client.put("a", "1")
        assert service.executed == []
        with connected(ca, port, confirmed_by=confirmed_by()) as client:  # what remains: no pins, no memory
            client.put("a", "1")
