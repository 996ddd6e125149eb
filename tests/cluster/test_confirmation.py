"""The authority's statement about the cluster, from the founding to a look-alike and a total loss."""

import json
import shutil

import pytest

from tests.support.cluster import cli, local_cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("confirmed"), arguments=["--authority"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def look_alike(founded, tmp_path_factory):
    """A second cluster from the same files: same GroupId, same measurements, genuine evidence."""
    directory = tmp_path_factory.mktemp("look-alike")
    for name in ("authority", "group.key", "token", "network", "group-authority.pem"):
        source = founded.directory / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / name)
    with local_cluster(directory, arguments=["--authority"]) as cluster:
        assert cluster.ready["group_id"] == founded.ready["group_id"]
        yield cluster


def verify(cluster, *more):
    run = cli(
        "verify",
        cluster.nodes[0]["api"],
        "--group-document",
        cluster.directory / "group.toml",
        "--json",
        *more,
    )
    return run.returncode, json.loads(run.stdout)


def group(cluster, command, *more):
    document = ["--group-document", cluster.directory / "group.toml"]
    run = cli("group", command, *more, *document, "--json")
    return run.returncode, json.loads(run.stdout) if run.stdout else run.stderr


def urls(cluster):
    return [node["api"] for node in cluster.nodes]


def test_from_founding_to_look_alike(founded, look_alike, tmp_path):
    key = ["--key", founded.directory / "group-authority.pem"]
    code, answer = verify(founded)
    assert (code, answer["reason"]) == (3, "cluster-not-confirmed")

    # Not by one founder's evidence, not by another key, and only once all are in one cluster.
    code, text = group(founded, "confirm", urls(founded)[0], *key)
    assert (code, "name all founders" in text) == (2, True)
    stranger = tmp_path / "stranger.pem"
    assert cli("group", "authority-key", "--out", stranger).returncode == 0
    code, text = group(founded, "confirm", *urls(founded), "--key", stranger)
    assert (code, "not one of the group's authority" in text) == (1, True)
    code, text = group(founded, "confirm", *urls(founded)[:2], urls(look_alike)[0], *key)
    assert (code, "in different clusters" in text) == (1, True)
    assert not (founded.directory / "group.birth").exists()

    code, confirmed = group(founded, "confirm", *urls(founded), *key)
    assert (code, confirmed["complete"], confirmed["seq"], confirmed["predecessor"]) == (0, True, 1, None)
    assert confirmed["cluster"] == f"{founded.cluster_id()}/0"
    code, answer = verify(founded)
    assert (code, answer["confirmed"]["seq"]) == (0, 1)
    assert group(founded, "confirm", *urls(founded), *key)[1] == confirmed  # again: the same statement

    # A look-alike is refused by whoever never met the first one, whatever it hands out.
    certificate = founded.directory / "group.birth"
    assert verify(look_alike)[1]["reason"] == "cluster-not-confirmed"
    code, text = group(look_alike, "submit", urls(look_alike)[0], "--certificate", certificate)
    assert (code, "birth-certificate-cluster" in text or "has confirmed cluster" in text) == (1, True)
    code, text = group(look_alike, "confirm", *urls(look_alike), *key, "--certificate", certificate)
    assert (code, "--replace" in text) == (1, True)
    assert verify(look_alike)[0] == 3

    # The first is given up for good: the second succeeds it, and whoever saw that refuses the first one.
    pins = ["--pins", tmp_path / "pins.json"]
    assert verify(founded, *pins)[0] == 0
    old = founded.cluster_id()
    arguments = [*urls(look_alike), *key, "--certificate", certificate]
    code, text = group(look_alike, "confirm", *arguments, "--replace", "0b" * 32)
    assert (code, "--replace" in text) == (1, True)
    code, succeeded = group(look_alike, "confirm", *arguments, "--replace", old)
    assert (code, succeeded["seq"], succeeded["predecessor"]) == (0, 2, old)
    code, answer = verify(look_alike, *pins)
    assert (code, answer["confirmed"]["seq"]) == (0, 2)
    code, answer = verify(founded, *pins)
    assert (code, answer["reason"]) == (1, "birth-certificate-superseded")
    # What remains: whoever never saw the second certificate can be shown the first cluster.
    assert verify(founded)[0] == 0


def test_a_group_without_an_authority_reports_that_it_cannot_be_confirmed(tmp_path):
    with local_cluster(tmp_path / "plain", nodes=1) as cluster:
        code, text = group(cluster, "confirm", *urls(cluster))
        assert (code, "there is no [authority]" in text) == (2, True)
        code, answer = verify(cluster)
        assert (code, answer["confirmed"]) == (0, None)
        # Only the pin distinguishes two clusters, once the first one was met.
        pins = ["--pins", tmp_path / "pins.json"]
        assert verify(cluster, *pins)[0] == 0
        known = json.loads((tmp_path / "pins.json").read_text())
        known["groups"][answer["group_id"]]["cluster"] = "0b" * 32 + "/0"
        (tmp_path / "pins.json").write_text(json.dumps(known))
        code, answer = verify(cluster, *pins)
        assert (code, answer["reason"]) == (1, "cluster-changed")
        assert verify(cluster, *pins, "--forget-pin")[0] == 0
        assert verify(cluster, *pins)[0] == 0
