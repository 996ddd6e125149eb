"""Who has no way in: nodes that differ in one thing, started by hand beside a running cluster.

Each is refused by the running nodes, whose audit logs give the reason; none ever becomes a member.
"""

import hashlib
import json
import re
import shutil
from datetime import UTC, datetime

import pytest

from enclave.mock.authority import MockAuthority
from node.group.identity import GroupKey
from tests.support.cluster import cli, until

pytestmark = pytest.mark.cluster


def intruder(cluster, name: str, *changes: tuple[str, str], document: tuple[str, str] | None = None):
    """Write a fourth node's files: copies of the first's with its own name, ports and changes."""
    directory = cluster.directory / name
    (directory / "data").mkdir(parents=True)
    text = cluster.node_config(0).read_text()
    text = text.replace('name = "node-0"', f'name = "{name}"', 1)
    text = re.sub(r'(\[api\]\nlisten = )"[^"]+"', rf'\1"127.0.0.1:{cluster.api_port + cluster.count}"', text)
    text = re.sub(r'(\[bond\]\nlisten = )"[^"]+"', r'\1"127.0.0.1:0"', text)
    text = re.sub(r"seeds = \[.*\]", f"seeds = {json.dumps([n['bond'] for n in cluster.nodes])}", text)
    if document is not None:
        theirs = (cluster.directory / "group.toml").read_text()
        assert document[0] in theirs, document[0]
        (directory / "group.toml").write_text(theirs.replace(*document))
        text = text.replace('document = "../group.toml"', 'document = "group.toml"')
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    config = directory / "node.toml"
    config.write_text(text)
    return config


def refusal_reason(cluster, name: str, process) -> str:
    """Return the reason in some running node's audit log for refusing the node with this name or id."""
    peer_id = process.event("listening")["peer_id"]

    def find():
        for i in range(cluster.count):
            for event in cluster.audit(i):
                if event["kind"] == "bond-refused" and peer_id in json.dumps(event):
                    return event["reason"]
        return None

    return until(find, f"the refusal of {name} is in an audit log")


def members(cluster) -> set[str]:
    with cluster.client(0) as client:
        return {member.name for member in client.members().members}


def wrong(register: str, cluster) -> tuple[str, str]:
    right = re.search(rf'^{register} = "([0-9a-f]+)"', cluster.node_config(0).read_text(), re.MULTILINE)
    return right.group(1), hashlib.sha384(b"another image").hexdigest()


@pytest.mark.parametrize("register", ["mrtd", "rtmr1", "rtmr2"])
def test_a_node_with_another_measurement_never_bonds(cluster, register):
    name = f"other-{register}"
    process = cluster.run_node(intruder(cluster, name, wrong(register, cluster)))

    assert refusal_reason(cluster, name, process) == "measurement-mismatch"
    assert name not in members(cluster)
    process.stop()


def test_a_debug_td_never_bonds(cluster):
    config = intruder(
        cluster, "debug", ('attributes = "0000001000000000"', 'attributes = "0100001000000000"')
    )
    process = cluster.run_node(config)

    assert refusal_reason(cluster, "debug", process) == "td-debug"
    assert "debug" not in members(cluster)
    process.stop()


def test_a_node_under_another_mock_authority_is_another_group(cluster):
    authority = cluster.directory / "other-authority"
    MockAuthority.create(datetime.now(UTC)).save(authority)
    roots = [
        (where / "trust-root.der").read_bytes().hex()
        for where in (cluster.directory / "authority", authority)
    ]
    config = intruder(
        cluster,
        "foreign",
        ('authority = "../authority"', 'authority = "../other-authority"'),
        document=(roots[0], roots[1]),
    )

    ours = cli("group-id", cluster.directory / "group.toml").stdout
    theirs = cli("group-id", config.parent / "group.toml").stdout
    process = cluster.run_node(config)

    assert ours != theirs
    assert refusal_reason(cluster, "foreign", process) == "group-not-found"
    assert "foreign" not in members(cluster)
    process.stop()


def test_a_node_with_another_group_key_does_not_start(cluster):
    key = cluster.directory / "wrong.key"
    key.write_text("11" * 32)
    run = cli("node", "run", "--config", intruder(cluster, "keyless", ("../group.key", "../wrong.key")))

    assert (run.returncode, "group-key-differs" in run.stderr) == (2, True), run.stderr
    assert "wrong.key" in run.stderr


def test_a_document_that_names_another_group_key_makes_another_group(cluster):
    key = GroupKey(b"\x11" * 32)
    (cluster.directory / "other.key").write_text(key.secret.hex())
    ours = GroupKey.from_hex((cluster.directory / "group.key").read_text())
    document = (ours.public_digest.hex(), key.public_digest.hex())
    process = cluster.run_node(
        intruder(cluster, "other-key", ("../group.key", "../other.key"), document=document)
    )

    assert refusal_reason(cluster, "other-key", process) == "group-not-found"
    assert "other-key" not in members(cluster)
    process.stop()


def test_a_node_with_a_laxer_policy_is_another_group(cluster):
    document = ('["UpToDate"]', '["UpToDate", "OutOfDate"]')
    process = cluster.run_node(intruder(cluster, "lax", document=document))

    assert refusal_reason(cluster, "lax", process) == "group-not-found"
    process.stop()


@pytest.mark.parametrize(
    ("mrconfigid", "reason"), [("00" * 48, "mrconfigid-not-set"), ("11" * 48, "mrconfigid-differs")]
)
def test_a_td_that_was_not_started_with_the_groups_document_never_bonds(cluster, mrconfigid, reason):
    name = f"config-{mrconfigid[:2]}"
    process = cluster.run_node(
        intruder(cluster, name, ("[attestation.mock]", f'[attestation.mock]\nmrconfigid = "{mrconfigid}"'))
    )

    assert refusal_reason(cluster, name, process) == reason
    assert name not in members(cluster)
    process.stop()


def test_a_node_that_is_configured_for_tdx_and_finds_none_stops(cluster):
    text = intruder(cluster, "real").read_text()
    text = text[: text.index("[attestation.mock]")].replace('mode = "mock"', 'mode = "tdx"')
    config = cluster.directory / "real" / "tdx.toml"
    config.write_text(text.replace('mode = "tdx"', 'mode = "tdx"\ntsm_root = "no-such-tree"'))
    run = cli("node", "run", "--config", config)

    assert run.returncode == 1
    assert "this machine is not a TDX guest" in run.stderr


def test_an_unknown_key_in_the_configuration_is_named(cluster):
    config = intruder(cluster, "typo", ("[group]", "[group]\nkey_fil = 1"))
    run = cli("node", "run", "--config", config)

    assert (run.returncode, "key_fil" in run.stderr) == (2, True), run.stderr


def test_an_honest_fourth_node_is_admitted_and_becomes_a_voter(cluster):
    reordered = (
        "schema = 1\n",
        "# its own copy, spelled otherwise\nconsensus.tie_break = true\nschema = 0x1\n",
    )
    text = (cluster.directory / "group.toml").read_text()
    assert "[consensus]\nmin_voters = 2\n" in text
    config = intruder(cluster, "fourth", ("[group]", '[group]\nbootstrap = "join"'), document=reordered)
    copy = config.parent / "group.toml"
    copy.write_text(
        copy.read_text()
        .replace("[consensus]\nmin_voters = 2\n", "")
        .replace("consensus.tie", "consensus.min_voters = 2\nconsensus.tie")
    )
    process = cluster.run_node(config)
    process.event("ready")

    def is_voter():
        with cluster.client(0) as client:
            return any(m.name == "fourth" and m.role != "learner" for m in client.members().members)

    until(is_voter, "the fourth node votes")
    process.stop()
    until(lambda: "fourth" not in members(cluster), "the departed node is demoted")
    shutil.rmtree(config.parent)
