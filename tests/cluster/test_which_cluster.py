"""Which cluster of a group answers: in the evidence, on every answer, in the client's pin."""

import json
import time

import pytest

from tests.support.cluster import cli

pytestmark = pytest.mark.cluster


def verify(cluster, *more):
    run = cli(
        "verify", cluster.nodes[0]["api"], "--json",
        "--group-document", cluster.directory / "group.toml", *more,
    )  # fmt: skip
    return run.returncode, json.loads(run.stdout)


def test_verify_names_the_cluster_that_the_quote_covers(cluster):
    with cluster.http(0) as http:
        reply = http.get("/v1/group")
    held = {"id": reply.json()["cluster_id"], "generation": 0}
    code, answer = verify(cluster)

    assert (code, answer["cluster"], answer["appraisal"]["ticket"]["cluster"]) == (0, held, held)
    assert reply.headers["bondstone-cluster"] == f"{held['id']}/0"
    assert verify(cluster, "--cluster", held["id"])[0] == 0
    assert verify(cluster, "--cluster", f"{held['id']}/0")[0] == 0
    code, answer = verify(cluster, "--cluster", "0b" * 32)
    assert (code, answer["reason"]) == (1, "cluster-mismatch")
    nonsense = ["--group-document", cluster.directory / "group.toml", "--cluster", "nonsense"]
    assert cli("verify", cluster.nodes[0]["api"], *nonsense).returncode == 2


def test_members_hold_evidence_of_each_other_that_names_the_cluster(cluster):
    """Bonds form before the genesis: the first tickets name no cluster, and are renewed when there is one."""
    with cluster.http(0) as http:
        group = http.get("/v1/group").json()
        deadline = time.monotonic() + 60
        while True:
            peers = http.get("/v1/attestation/peers").json()["peers"]
            claimed = [peer["appraisals"]["tdx"]["ticket"]["cluster"] for peer in peers]
            if None not in claimed and len(claimed) == 2:
                break
            assert time.monotonic() < deadline, claimed
            time.sleep(0.05)

    assert claimed == [{"id": group["cluster_id"], "generation": 0}] * 2
