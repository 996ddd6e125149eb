"""What a user gets to see when files, disks and names are not what they should be: one sentence, never a traceback."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from attestation.files import FileError
from node.config import load_node
from node.errors import ConfigError
from node.host import make_data_directory
from tests.node.client.test_deadline import listening
from tests.support.cluster import COMMAND, PROJECT, cli, free_port_block

pytestmark = pytest.mark.cluster
POLICY = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 9
max_lifetime_seconds = 9
[reference_values]
accept_any_td = true
"""


@contextlib.contextmanager
def started(*arguments, cwd):
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def copied(cluster, tmp_path):
    """Return a copy of the files of a cluster, which nothing runs on."""
    here = tmp_path / "copy"
    shutil.copytree(cluster.directory, here, ignore=shutil.ignore_patterns("data", "*.log", "lock"))
    return here


@pytest.mark.parametrize("named", ["node-0/node.toml", "group.key", "group.toml"])
def test_a_fifo_in_the_place_of_a_file_neither_hangs_a_node_nor_blocks_sigterm(cluster, tmp_path, named):
    """The process ends by itself, at once; if it hung, SIGTERM would have to end it."""
    here = copied(cluster, tmp_path)
    path = here / named
    path.unlink()
    os.mkfifo(path)
    done = cli("node", "run", "--config", here / "node-0" / "node.toml")
    assert done.returncode == 2, done.stderr
    assert f"{path.name}: it is a FIFO, not a regular file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("directory", ["/proc/foo", "/dev/null/x"])
def test_a_directory_that_cannot_be_made_ends_dev_in_one_sentence(tmp_path, directory):
    done = cli("dev", "--dir", directory, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot make the directory {directory}")
    assert len(done.stderr.splitlines()) == 1


def test_a_node_does_not_start_on_a_disk_that_takes_nothing(cluster, tmp_path, monkeypatch):
    config = load_node(copied(cluster, tmp_path) / "node-0" / "node.toml").config

    def full(path, _data, **_):
        raise FileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("node.host.files.replace", full)
    with pytest.raises(ConfigError, match=r"node.data_dir: cannot write .*: No space left on device"):
        make_data_directory(config)


def test_the_commands_that_dev_prints_for_another_directory_reach_that_cluster(tmp_path):
    with started(
        "dev",
        "--nodes",
        "1",
        "--dir",
        tmp_path / "else where",
        "--api-port",
        str(free_port_block(1)),
        cwd=tmp_path,
    ) as dev:
        printed = []
        for line in dev.stdout:
            printed.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        script = "\n".join(
            line
            for line in printed
            if line.startswith("export") or " kv put " in line or line.endswith(" status")
        )
        assert "BONDSTONE_CLUSTER" in script
        run = subprocess.run(
            ["sh", "-ec", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(30) == 0


def test_what_verify_has_verified_is_what_kv_then_trusts(cluster, tmp_path):
    url = cluster.nodes[0]["api"]
    saved = tmp_path / "saved"
    done = cli(
        "verify",
        url,
        "--group-document",
        cluster.directory / "group.toml",
        "--save",
        saved,
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["saved"]
    token = (cluster.directory / "token").read_text().strip()
    put = cli("kv", "put", "k", "v", "--token", token, env={"BONDSTONE_CLUSTER": settings}, cwd=tmp_path)
    assert put.returncode == 0, put.stderr

    # The cluster that was verified is named with every request: another one executes nothing.
    kept = json.loads(Path(settings).read_text())
    assert kept["cluster"] == f"{cluster.cluster_id()}/0"
    Path(settings).write_text(json.dumps({**kept, "cluster": "0b" * 32 + "/0"}))
    put = cli("kv", "put", "k", "w", "--token", token, env={"BONDSTONE_CLUSTER": settings}, cwd=tmp_path)
    assert (put.returncode, "nothing was executed" in put.stderr) == (3, True), put.stderr
    with cluster.client(0) as client:
        assert client.get("k").value == b"v"


def test_a_malicious_servers_texts_are_shown_escaped_and_do_nothing(tmp_path):
    body = json.dumps(
        {
            "type": "urn:x",
            "title": "x",
            "status": 403,
            "code": "\u001b[2K\u001b[1Gaccepted",
            "detail": "\u001b[32maccepted\u001b[0m, TCB status UpToDate\n[/nope]",
        }
    ).encode()

    def answer(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    (tmp_path / "policy.toml").write_text(POLICY)
    with listening(answer) as port:
        done = cli("verify", f"https://127.0.0.1:{port}", "--policy", tmp_path / "policy.toml", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert done.stderr.startswith("undecided: \\x1b[32maccepted\\x1b[0m, TCB status UpToDate\\x0a[/nope]")
    assert "refused" not in done.stderr


@pytest.mark.parametrize("ticket", ["é", "=", "AAA"])
def test_a_ticket_that_is_no_base64_is_refused_and_no_traceback(tmp_path, ticket):
    zero = "00" * 32

    def answer(connection):
        head = connection.recv(65536)
        nonce = head.split(b"nonce=")[1].split(b" ")[0].decode()
        evidence = {
            "mock": True,
            "nonce": nonce,
            "peer_id": zero,
            "network_id": zero,
            "group_id": None,
            "cluster": None,
            "birth_certificate": None,
            "binding": zero,
            "tickets": {"tdx": ticket},
        }
        body = json.dumps(evidence, ensure_ascii=False).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    (tmp_path / "policy.toml").write_text(POLICY)
    with listening(answer) as port:
        done = cli("verify", f"https://127.0.0.1:{port}", "--policy", tmp_path / "policy.toml", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode in {1, 3}, done.stderr
    assert done.stderr.startswith(("refused: ", "undecided: "))


def test_dev_reports_a_lost_quorum(tmp_path):
    arguments = ("dev", "--json", "--dir", tmp_path / "dev", "--api-port", str(free_port_block(3)))
    with started(*arguments, cwd=tmp_path) as dev:
        told = None
        for line in dev.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                for node in event["nodes"][1:]:
                    os.kill(node["pid"], signal.SIGKILL)
            if event["event"] == "node-not-ready":
                told = event
                break
        dev.send_signal(signal.SIGTERM)
        dev.wait(60)
    assert told is not None
    assert told["name"] == "node-0"
    assert told["reason"] in {"quorum-lost", "quorum-gone", "not-online"}
    assert told["message"]
