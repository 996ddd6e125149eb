"""What a new user does first: the examples of the README, the command line, the API."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import PROJECT, cli

pytestmark = pytest.mark.cluster


def readme_examples() -> list[str]:
    text = (PROJECT / "README.md").read_text().partition("\n## Architecture")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith((".venv/bin/bondstone", "curl --cacert .bondstone"))]


@pytest.fixture(scope="module")
def workplace(cluster):
    """A directory in which the README's relative paths lead to the running cluster."""
    place = cluster.directory / "workplace"
    (place / ".bondstone").mkdir(parents=True)
    (place / ".bondstone" / "dev").symlink_to(cluster.directory)
    script = place / ".venv" / "bin" / "bondstone"
    script.parent.mkdir(parents=True)
    import sys

    script.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(PROJECT))} exec {shlex.quote(sys.executable)} -m node.cli.main "$@"\n'
    )
    script.chmod(0o755)
    return place


@pytest.mark.parametrize("example", readme_examples())
def test_readme_example_works_as_it_stands(cluster, workplace, example):
    command = example.replace("127.0.0.1:8440", f"127.0.0.1:{cluster.api_port}")
    run = subprocess.run(
        ["sh", "-c", command.replace("curl ", "curl --fail-with-body -sS ")],
        cwd=workplace, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stdout + run.stderr


def test_readme_has_examples_of_both_kinds():
    examples = readme_examples()

    assert sum(line.startswith("curl") for line in examples) >= 3
    assert sum("bondstone" in line.split()[0] for line in examples) >= 5


def test_the_ready_event_holds_all_that_a_script_needs(cluster):
    ready = cluster.ready

    assert set(ready) == {"event", "group_id", "nodes", "token", "ca"}
    assert Path(ready["ca"]).read_text().count("BEGIN CERTIFICATE") == 4  # the authority's too
    assert [node["api"] for node in ready["nodes"]] == [
        f"https://127.0.0.1:{cluster.api_port + i}" for i in range(3)
    ]
    for node in ready["nodes"]:
        assert {"name", "pid", "api", "bond", "peer_id", "data_dir"} <= set(node)


def test_what_is_written_through_one_node_is_read_through_all(cluster):
    with cluster.client(0) as client:
        client.put("first-use", b"\x00\xff")

    for i in range(3):
        with cluster.client(i) as client:
            assert client.get("first-use").value == b"\x00\xff"


def test_group_id_of_the_configuration_is_the_running_groups(cluster):
    run = cli("group-id", cluster.directory / "group.toml")

    assert (run.returncode, run.stdout.strip()) == (0, cluster.ready["group_id"])


def test_group_has_the_members_that_the_design_promises(cluster):
    leader = cluster.leader()
    with cluster.http(0) as http:
        group = http.get("/v1/group").json()

    assert {"group_id", "leader", "term", "commit_index", "voters", "learners"} <= set(group)
    assert group["leader"] == cluster.nodes[leader]["peer_id"]
    assert sorted(group["voters"]) == sorted(node["peer_id"] for node in cluster.nodes)
    assert group["mock"] is True


def test_every_answer_about_attestation_reports_mock(cluster):
    with cluster.http(1) as http:
        for path in ("/v1/attestation/peers", f"/v1/attestation/evidence?nonce={'ab' * 32}", "/v1/bonds"):
            assert http.get(path).json()["mock"] is True


def test_verify_refuses_another_policy_and_names_the_register(cluster, tmp_path):
    document = (cluster.directory / "group.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(re.sub(r'rtmr2 = \["..', 'rtmr2 = ["00', document))
    run = cli(
        "verify", cluster.nodes[0]["api"], "--group-document", other, "--json",
        "--group-id", cluster.ready["group_id"],
    )  # fmt: skip

    answer = json.loads(run.stdout)
    assert run.returncode == 1
    assert answer["accepted"] is False
    assert "rtmr2" in json.dumps(answer)


def test_verify_of_a_dead_address_could_not_decide(cluster, tmp_path):
    run = cli("verify", "https://127.0.0.1:9", "--group-document", cluster.directory / "group.toml")

    assert run.returncode == 3


def test_a_mock_node_never_verifies_under_intels_root(cluster):
    document = cluster.directory / "group.toml"
    run = cli(
        "verify", cluster.nodes[0]["api"], "--group-document", document, "--trust-root", "intel", "--json"
    )

    assert run.returncode == 1
    assert json.loads(run.stdout)["accepted"] is False


def policy_of(cluster, tmp_path) -> Path:
    """The policy of the cluster's group document, as a file of its own."""
    text = (cluster.directory / "group.toml").read_text()
    tables = re.findall(r"^(\[policy[^\n]*\n(?:[^\[\n][^\n]*\n)*)", text, re.MULTILINE)
    policy = tmp_path / "policy.toml"
    policy.write_text("version = 1\n" + "".join(tables).replace("[policy.", "["))
    return policy


def test_a_policy_with_own_decides_nothing_without_the_group_document(cluster, tmp_path):
    arguments = [
        "verify", cluster.nodes[0]["api"], "--policy", policy_of(cluster, tmp_path), "--json",
        "--trust-root", cluster.directory / "authority" / "trust-root.der",
    ]  # fmt: skip
    undecided = cli(*arguments)
    decided = cli(*arguments, "--group-document", cluster.directory / "group.toml")

    assert (undecided.returncode, json.loads(undecided.stdout)["reason"]) == (3, "mrconfigid-own-unknown")
    assert decided.returncode == 0, decided.stdout + decided.stderr


def test_verify_refuses_a_node_that_was_started_with_another_document(cluster, tmp_path):
    other = tmp_path / "group.toml"
    text = (cluster.directory / "group.toml").read_text()
    other.write_text(text.replace("min_voters = 2", "min_voters = 1"))
    arguments = ["verify", cluster.nodes[0]["api"], "--group-document", other, "--json"]
    by_id = cli(*arguments)
    by_register = cli(*arguments, "--group-id", cluster.ready["group_id"])

    assert (by_id.returncode, json.loads(by_id.stdout)["reason"]) == (1, "claims-group")
    assert (by_register.returncode, json.loads(by_register.stdout)["reason"]) == (1, "mrconfigid-differs")


def test_audit_log_on_disk_verifies_and_a_changed_byte_is_found(cluster, tmp_path):
    log = Path(cluster.nodes[0]["data_dir"]) / "audit.jsonl"
    good = cli("audit", "verify", log)
    bad = tmp_path / "audit.jsonl"
    bad.write_bytes(log.read_bytes().replace(b"node-1", b"node-9", 1))

    assert good.returncode == 0, good.stdout
    assert cli("audit", "verify", bad).returncode == 1


def test_a_second_cluster_in_the_same_directory_is_refused_by_name(cluster):
    run = cli("dev", "--dir", cluster.directory, "--api-port", "29999")

    assert run.returncode == 2
    assert "another cluster runs in" in run.stderr


def test_a_port_in_use_is_named(cluster, tmp_path):
    run = cli("dev", "--dir", tmp_path / "x", "--api-port", cluster.api_port)

    assert run.returncode == 2
    assert f"port {cluster.api_port} is in use" in run.stderr


def test_a_body_of_ten_megabytes_is_refused_and_loses_nothing(cluster):
    with cluster.http(0) as http:
        http.post("/v1/commands", json={"command": {"op": "put", "key": "kept", "value": "1"}})
        refused = http.post(
            "/v1/commands", content=b"x" * 10_000_000, headers={"content-type": "application/json"}
        )
        answer = http.post("/v1/queries", json={"query": {"op": "get", "key": "kept"}})

    assert refused.status_code == 413
    assert refused.json()["code"] == "body-too-large"
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", 400), (b'{"command": {"op": "put"}, "extra": 1}', 422), (b"[]", 422), (b"\xff", 400)],
)
def test_wrong_json_is_a_problem_document(cluster, body, code):
    with cluster.http(0) as http:
        answer = http.post("/v1/commands", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (code, "application/problem+json")
    assert answer.json()["code"]


def test_no_token_and_a_wrong_token_are_refused(cluster):
    for token in (None, "bst_wrong"):
        with cluster.http(0, token=token) as http:
            assert http.get("/v1/group").status_code == 401
            assert http.get("/healthz").status_code == 200


def test_a_command_may_have_two_mebibytes_whether_in_its_key_or_its_value(cluster):
    """The request is the only limit of keys and values (``consensus.command_bytes_max``)."""
    key, value = "k" * (512 * 1024), "v" * (1500 * 1024)
    with cluster.client(0) as client:
        client.put(key, value)
    with cluster.client(2) as client:
        assert client.get(key).value == value.encode()
    with cluster.client(1) as client:
        client.delete(key)

    with cluster.http(0) as http:
        large = {"command": {"op": "put", "key": "k", "value": "v" * (2 * 1024 * 1024)}}
        refused = http.post("/v1/commands", json=large)
    assert (refused.status_code, refused.json()["code"]) == (413, "body-too-large")
