"""``bondstone kv`` against a real server: bytes go in and come out, and every exit code means one thing."""

import json
import os
import socket
from functools import partial
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from node.api.problems import ProblemError
from node.cli.exits import EXPECTED, exit_code_of
from node.cli.kv import app
from node.client import Client
from node.raft.types import NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served, write_ca

ADMIN = TOKENS[AccessRole.ADMIN]


@pytest.fixture
def ca(tmp_path):
    return write_ca(tmp_path)


@pytest.fixture
def store(ca, tmp_path):
    """A served store, and how to run ``bondstone kv`` with it."""
    service = FakeService()
    with served(service) as port:
        yield service, lambda *arguments, **more: kv(ca, port, *arguments, **more)


def kv(ca, port, *arguments, token=ADMIN, given=b""):
    url = f"https://localhost:{port}"
    return run_with({}, *arguments, "--url", url, "--ca", ca, "--token", token, given=given)


def run_with(environment, *arguments, given=b""):
    """Run ``bondstone kv`` as ``main`` does, in this process: its exit code, and what it prints, as bytes."""
    texts = [os.fsdecode(argument) for argument in arguments]
    result = CliRunner(env=environment).invoke(app, texts, input=given)
    failure = result.exception
    if failure is None or isinstance(failure, SystemExit):
        return SimpleNamespace(
            returncode=result.exit_code, stdout=result.stdout_bytes, stderr=result.stderr_bytes
        )
    if not isinstance(failure, EXPECTED):
        raise failure
    stderr = result.stderr_bytes + f"error: {failure}\n".encode()
    return SimpleNamespace(returncode=exit_code_of(failure), stdout=result.stdout_bytes, stderr=stderr)


def test_what_get_writes_to_a_file_is_what_was_put(store, tmp_path):
    _, run = store
    for number, value in enumerate((bytes(range(256)) * 2800, b"", b"\n", b"no newline", b"one\n")):
        (tmp_path / "value").write_bytes(value)
        for way in (["--file", tmp_path / "value"], ["-"]):
            assert run("put", f"k{number}", *way, given=value).returncode == 0
            got = run("get", f"k{number}")
            assert (got.returncode, got.stdout) == (0, value)


def test_binary_keys_are_written_read_listed_and_deleted(store):
    _, run = store
    assert run("put", "fffefd", "00ff", "--hex").returncode == 0
    assert run("put", "//79", "text").returncode == 0
    assert run("get", "//79", "--base64").stdout == b"\x00\xff"  # //79 is fffefd in base64
    assert run("get", b"\xff\xfe\xfd").stdout == b"\x00\xff"
    assert run("get", "//79").stdout == b"text"
    listed = run("list").stdout.decode()
    assert "\\xff\\xfe\\xfd" in listed
    assert "//79" in listed
    assert json.loads(run("list", "fffe", "--hex", "--json").stdout)[0]["key_b64"] == "//79"
    assert run("del", "fffefd", "--hex").returncode == 0
    assert run("get", "fffefd", "--hex").returncode == 1
    assert run("get", "//79").stdout == b"text"


def test_a_key_that_the_shell_passes_as_other_bytes_than_utf_8_is_that_key(store):
    service, run = store
    assert run("put", b"\xff", b"v\xfe").returncode == 0
    assert service.machine.query({"op": "get", "key_b64": "/w=="})["item"]["value_b64"] == "dv4="


def test_stored_values_with_markup_and_escape_sequences_are_listed_for_everyone(store):
    _, run = store
    for value in ("[/nope]", "\x1b[2Kaccepted", "[x]", "a\nb"):
        assert run("put", f"[x]{value}", value).returncode == 0
    done = run("list")
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert done.stdout.count(b"[/nope]") == 2
    assert done.stdout.count(b"\\x1b[2Kaccepted") == 2
    assert b"[x][x]" in done.stdout
    assert run("get", "[x][/nope]").stdout == b"[/nope]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "xyz", "--hex"],
        ["get", "a", "--hex", "--base64"],
        ["put", "k", "v", "--file", "value"],
        ["put", "k"],
        ["put", "k", "--file", "/nowhere"],
        ["list", "*", "--base64"],
    ],
)
def test_a_command_line_that_is_wrong_is_2(store, arguments):
    done = store[1](*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"error: ")


COMMANDS = (["get", "k"], ["put", "k", "v"], ["del", "k"], ["list"])


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda given: given[0])
def test_an_unreachable_node_leaves_it_undecided(ca, tmp_path, arguments):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = kv(ca, unused.getsockname()[1], *arguments)
    assert (done.returncode, done.stdout) == (3, b""), done.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda given: given[0])
@pytest.mark.parametrize(
    "ending", [NotExecuted("deadline", None), Unknown("deadline"), ProblemError("internal-error", "x")]
)
def test_a_node_that_does_not_know_leaves_it_undecided(ca, arguments, ending, monkeypatch):
    monkeypatch.setattr("node.cli.connect.Client", partial(Client, deadline_s=0.3))
    with served(FakeService(end_with=ending)) as port:
        url = f"https://localhost:{port}"
        result = CliRunner().invoke(app, [*arguments, "--url", url, "--ca", str(ca), "--token", ADMIN])
    assert exit_code_of(result.exception) == 3
    assert result.stdout == ""


def test_what_is_not_there_and_what_the_store_refuses_is_no(store):
    _, run = store
    assert run("get", "absent").returncode == 1
    assert run("del", "absent").returncode == 1
    refused = run("put", "", "v")
    assert refused.returncode == 1, refused.stderr


def test_a_token_that_cannot_stand_in_a_header_is_2_and_no_traceback(store):
    done = store[1]("get", "k", token="tökén")
    assert done.returncode == 2


# ---- which cluster ---------------------------------------------------------------------------------
@pytest.fixture
def settings(tmp_path, ca):
    def write(port, **more):
        (tmp_path / "token").write_text(ADMIN + "\n")
        path = tmp_path / "elsewhere" / "client.json"
        path.parent.mkdir(exist_ok=True)
        found = {"urls": [f"https://localhost:{port}"], "ca": str(ca), "token_file": str(tmp_path / "token")}
        path.write_text(json.dumps(found | more))
        return path

    return write


def test_a_cluster_that_is_named_is_the_one_that_is_used(tmp_path, settings):
    with served(FakeService()) as port:
        named = {"BONDSTONE_CLUSTER": str(settings(port))}
        assert run_with(named, "put", "k", "v").returncode == 0
        # --url alone forgets neither the certificates nor the token
        assert run_with(named, "get", "k", "--url", f"https://127.0.0.1:{port}").stdout == b"v"


def test_the_token_of_a_cluster_is_never_sent_to_a_node_that_another_file_vouches_for(tmp_path, settings, ca):
    with served(FakeService()) as port:
        named = {"BONDSTONE_CLUSTER": str(settings(port))}
        done = run_with(named, "get", "k", "--ca", str(ca))
    assert done.returncode == 3
    assert b"credentials-missing" in done.stderr


@pytest.mark.parametrize(
    "content", ["", "{}", '{"urls": [], "ca": "x"}', '{"urls": ["https://x"]}', "[1]", None]
)
def test_client_settings_that_are_malformed_are_refused_by_their_name(tmp_path, content):
    path = tmp_path / "client.json"
    if content is not None:
        path.write_text(content)
    done = run_with({"BONDSTONE_CLUSTER": str(path)}, "get", "k")
    assert done.returncode == 2
    assert str(path).encode() in done.stderr


@pytest.mark.parametrize(
    "url", ["https://[::1", "http://x", "https://", "https://x/?q", "ftp://x", "https://u:p@x"]
)
def test_an_invalid_address_is_exit_code_2_without_a_traceback(tmp_path, ca, url):
    done = run_with({}, "get", "k", "--url", url, "--ca", str(ca))
    assert done.returncode == 2, done.stderr
