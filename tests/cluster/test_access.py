"""Who may call a cluster of real processes, and that no file of a host decides about it."""

import json
import re
import signal
from pathlib import Path

import httpx
import pytest

from node.tokens import AccessRole, new_token, render_token_entry
from tests.support.cluster import cli, until

pytestmark = pytest.mark.cluster

SECRET = {"query": {"op": "get", "key": "secret"}}
WEAK = {**SECRET, "consistency": "weak"}


def token_cli(cluster, *arguments):
    run = cli(
        "token", *arguments, "--json", env={"BONDSTONE_CLUSTER": str(cluster.directory / "client.json")}
    )
    return run.returncode, json.loads(run.stdout) if run.stdout else run.stderr


def asked(cluster, i, token, method="GET", path="/v1/group", **more):
    """Return status and code or body of one request to node ``i``."""
    with cluster.http(i, token=token) as http:
        reply = http.request(method, path, **more)
    return reply.status_code, reply.json().get("code")


def listening(cluster, i, process):
    """Return the peer id of node ``i``, started by hand, when clients trust its new certificate."""
    peer_id = process.event("listening")["peer_id"]
    certificate = (cluster.directory / f"node-{i}" / "data" / "api-certificate.pem").read_text()
    until(lambda: certificate in Path(cluster.ready["ca"]).read_text(), "the new certificate is known")
    return peer_id


def test_a_host_that_adds_a_token_of_its_own_on_one_node_gets_nothing_of_the_group(own_cluster):
    """With the list in a file of the node, this read and wrote the whole group."""
    cluster, victim = own_cluster, 2
    with cluster.client() as client:
        client.put("secret", "41")
    mallory = new_token()
    theirs = (cluster.directory / "group.toml").read_text()
    own = cluster.directory / "node-2" / "group.toml"
    own.write_text(theirs + "\n" + render_token_entry("mallory", mallory, [AccessRole.ADMIN]))
    config = cluster.node_config(victim)
    config.write_text(config.read_text().replace('document = "../group.toml"', 'document = "group.toml"'))
    cluster.kill(victim)
    process = cluster.run_node(config)
    peer_id = listening(cluster, victim, process)

    def refused():
        return any(
            event["kind"] == "bond-refused" and peer_id in json.dumps(event)
            for i in (0, 1)
            for event in cluster.audit(i)
        )

    until(refused, "the changed node is refused by the others")
    for method, path, body in [
        ("GET", "/v1/group", None),
        ("POST", "/v1/queries", WEAK),
        ("POST", "/v1/queries", SECRET),
        ("POST", "/v1/commands", {"command": {"op": "put", "key": "secret", "value": "0"}}),
        ("GET", "/v1/access", None),
    ]:
        status, code = asked(cluster, victim, mallory, method, path, json=body)
        assert (status, code) == (503, "access-not-current"), (method, path)
        for i in (0, 1):
            assert asked(cluster, i, mallory, method, path, json=body) == (401, "credentials-unknown")
    with cluster.client(0, 1) as client:
        assert client.get("secret").value == b"41"
        assert peer_id not in {member.peer_id for member in client.members().members}


def test_an_access_file_in_a_node_file_is_refused_by_name(own_cluster):
    cluster = own_cluster
    config = cluster.node_config(2)
    mine = config.with_name("mine.toml")
    mine.write_text(re.sub(r"(\[api\]\n)", r'\1tokens_file = "access.toml"\n', config.read_text()))
    run = cli("node", "run", "--config", mine)

    assert run.returncode == 2
    assert "tokens_file" in run.stderr


def test_a_token_opens_every_node_as_soon_as_it_is_made_and_none_once_it_is_revoked(cluster):
    code, made = token_cli(cluster, "new", "ci", "--role", "read", "--role", "write", "--prefix", "ci/")
    token = made["token"]
    assert code == 0
    for i in range(3):
        put = {"command": {"op": "put", "key": f"ci/{i}", "value": "1"}}
        assert asked(cluster, i, token, "POST", "/v1/commands", json=put) == (200, None)
        out = {"command": {"op": "put", "key": "other", "value": "1"}}
        assert asked(cluster, i, token, "POST", "/v1/commands", json=out) == (403, "not-permitted")
        everything = {"query": {"op": "list"}, "consistency": "weak"}
        assert asked(cluster, i, token, "POST", "/v1/queries", json=everything) == (403, "not-permitted")
        assert asked(cluster, i, token, path="/v1/audit/head") == (403, "role-missing")
        assert asked(cluster, i, token, path="/v1/access") == (403, "role-missing")
    _, listed = token_cli(cluster, "list")
    assert [(one["name"], one["prefixes"]) for one in listed["access"]] == [("dev", None), ("ci", ["ci/"])]

    code, revoked = token_cli(cluster, "revoke", "ci")
    assert (code, revoked["name"], revoked["admins"]) == (0, "ci", 1)
    for i in range(3):
        for path, body in [("/v1/commands", put), ("/v1/queries", SECRET)]:
            assert asked(cluster, i, token, "POST", path, json=body)[0] in {401, 403}
        assert asked(cluster, i, token) == (401, "credentials-unknown")


def test_the_last_admin_is_not_revoked_by_mistake(cluster):
    code, says = token_cli(cluster, "revoke", "dev")

    assert code == 1
    assert "last admin" in says


def test_a_name_with_its_password_opens_every_node(cluster):
    with cluster.client() as client:
        client.grant("alice", ["read"], password="correct horse")
    for i in range(3):
        with cluster.http(i, token=None) as http:
            good = httpx.BasicAuth("alice", "correct horse")
            assert http.get("/v1/group", auth=good).status_code == 200
            assert http.get("/v1/audit/head", auth=good).status_code == 403
            assert http.get("/v1/group", auth=httpx.BasicAuth("alice", "horse")).status_code == 401
    with cluster.client() as client:
        client.revoke("alice")


def test_without_a_quorum_only_status_answers_and_a_restarted_node_knows_no_credential(own_cluster):
    cluster = own_cluster
    token = cluster.ready["token"]
    with cluster.client() as client:
        client.put("secret", "41")
    assert asked(cluster, 2, token, "POST", "/v1/queries", json=WEAK) == (200, None)
    for i in (0, 1):
        cluster.kill(i)

    def remains():
        return (
            asked(cluster, 2, token, "POST", "/v1/queries", json=WEAK),
            asked(cluster, 2, token, path="/v1/audit/head"),
            asked(cluster, 2, token),
        )

    lost = (503, "access-not-current")
    until(
        lambda: remains() == (lost, lost, (200, None)), "weak reads and audit end with the lag, status stays"
    )
    assert asked(cluster, 2, "bst_unknown") == lost

    again = cluster.run_node(cluster.node_config(0))
    listening(cluster, 0, again)
    for path in ("/v1/group", "/v1/audit/head"):
        assert asked(cluster, 0, token, path=path) == lost
    again.stop(signal.SIGKILL)
