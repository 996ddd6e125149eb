"""Which cluster answers: the header field, the precondition, and the client's pin."""

import httpx
import pytest

from attestation.tickets import Cluster
from node.client import BondstoneClient, ClusterChangedError, NotExecutedError
from node.errors import ConfigError
from node.tokens import AccessRole
from tests.node.api.fakes import FakeService, call, served
from tests.node.api.scripted import OK, TOKEN, Clock, Script, connected

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


def test_a_node_that_holds_nothing_of_a_cluster_names_none():
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
    # Without the pin the read would have been answered, without a word.
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
def test_a_success_of_another_cluster_or_of_none_is_no_success(ca, answered):
    client, _ = scripted(ca, answer(answered), cluster=str(OURS))
    with pytest.raises(ClusterChangedError) as caught:
        client.execute({"op": "x"})

    assert caught.value.executed is True


def test_a_node_that_waits_for_its_cluster_does_not_end_the_pin(ca):
    from tests.node.api.scripted import problem

    client, script = scripted(ca, problem("not-ready", reason="no-cluster"), answer(OURS), cluster=str(OURS))
    client.execute({"op": "x"})

    assert len(script.asked) == 2
    client, _ = scripted(ca, problem("not-ready", reason="no-cluster"), cluster=str(OURS))
    with pytest.raises(NotExecutedError):
        client.execute({"op": "x"})
