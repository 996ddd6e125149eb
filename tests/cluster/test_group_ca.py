"""One file is all that other programs need to trust the API of every member, whatever happens to them."""

import base64
import json
import ssl
from pathlib import Path

import httpx

from attestation.tickets.tdx import parse_ticket_untrusted
from node.ca.certificates import digest_of
from node.client import BondstoneClient
from tests.support.cluster import LocalCluster, cli, until


def standard_client(ca: str) -> ssl.SSLContext:
    """Python's own rules, with this one file: neither a pin nor anything of bondstone's."""
    return ssl.create_default_context(cafile=ca)


def is_ready(url: str, tls: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{url}/readyz", verify=tls, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False  # it is not up, or it has no certificate of the authority yet


def saved_ca(cluster: LocalCluster, i: int, name: str) -> str:
    file = cluster.directory / name
    document = cluster.directory / "group.toml"

    def saved() -> bool:
        found = cli(
            "verify", cluster.nodes[i]["api"], "--group-document", document, "--save-ca", file, "--json"
        )
        return found.returncode == 0 and json.loads(found.stdout)["saved_ca"] == str(file)

    until(saved, f"node {i} shows the group's authority")
    return str(file)


def test_one_file_verifies_all_members_while_each_is_replaced(own_cluster):
    cluster = own_cluster
    ca = saved_ca(cluster, 0, "ca.pem")
    tls = standard_client(ca)
    urls = [node["api"] for node in cluster.nodes]
    for url in urls:
        until(lambda url=url: is_ready(url, tls), f"{url} is trusted by the one file")
    with cluster.client(0) as client:
        client.put(b"kept", b"through all")

    for i, url in enumerate(urls):
        cluster.kill(i)
        replaced = cluster.run_node(cluster.node_config(i))
        assert replaced.event("listening")["peer_id"] != cluster.nodes[i]["peer_id"]
        # The same context as at the beginning: nothing is read again.
        until(lambda url=url: is_ready(url, tls), f"{url} is trusted after it was replaced")
        with cluster.http(i) as http:
            until(lambda http=http: len(http.get("/v1/group").json()["voters"]) == 3, "three voters again")

    again = saved_ca(cluster, 2, "again.pem")
    assert Path(again).read_bytes() == Path(ca).read_bytes()
    with BondstoneClient(urls, token=cluster.ready["token"], ca=Path(ca)) as client:
        item = client.get(b"kept")
    assert item is not None
    assert item.value == b"through all"


def test_the_quote_covers_the_authority_and_another_one_is_refused(cluster):
    saved_ca(cluster, 0, "ca.pem")
    with cluster.http(0, token=None) as http:
        evidence = http.get("/v1/attestation/evidence", params={"nonce": "ab" * 32}).json()
    claims = parse_ticket_untrusted(base64.b64decode(evidence["tickets"]["tdx"])).claims
    assert claims.group_ca == digest_of(base64.b64decode(evidence["group_ca"]))


def test_a_client_that_pinned_a_member_by_itself_goes_on(cluster):
    ca = saved_ca(cluster, 0, "ca.pem")
    for i, node in enumerate(cluster.nodes):
        until(lambda node=node: is_ready(node["api"], standard_client(ca)), "certified")
        pin = cluster.directory / f"node-{i}" / "data" / "api-certificate.pem"
        assert is_ready(node["api"], standard_client(str(pin)))
        for other in cluster.nodes[:i] + cluster.nodes[i + 1 :]:
            assert not is_ready(other["api"], standard_client(str(pin)))


def test_the_authoritys_key_is_in_no_file_and_in_no_answer(cluster):
    """A volatile group: what its members hold is in their memory alone."""
    saved_ca(cluster, 0, "ca.pem")
    with cluster.http(0) as http:
        paths = [path for path, item in http.get("/openapi.json").json()["paths"].items() if "get" in item]
        texts = [http.get(path).text for path in paths if "{" not in path]
    texts += [
        file.read_text(errors="replace")
        for file in cluster.directory.rglob("*")
        if file.is_file() and "authority" not in file.parts and file.suffix != ".lock"
    ]
    assert len(texts) > 20
    for text in texts:
        assert "PRIVATE KEY" not in text
        assert "group-ca-found" not in text
