"""docs/kv.md: its examples are run in their order, against one store."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from node.machines.kv import KeyValue
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served, write_ca
from tests.node.cli.test_kv import kv

TEXT = (Path(__file__).parents[2] / "docs" / "kv.md").read_text()
ADMIN = TOKENS[AccessRole.ADMIN]
ANYTHING = "…"


def examples():
    """Yield each command with what it reads from standard input, and what the page shows of its output."""
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = example.partition("\n")
            given = ""
            if command.endswith(" <<'END'"):
                command = command.removesuffix(" <<'END'")
                given, _, shown = shown.partition("END\n")
            yield command, given, shown.rstrip("\n")


def is_shown(expected, actual):
    return re.fullmatch(".*".join(map(re.escape, expected.split(ANYTHING))), actual, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples need curl")
def test_every_example_prints_what_the_page_shows(tmp_path):
    ca = write_ca(tmp_path)
    tried = set()
    with served(FakeService(machine=KeyValue())) as port:
        environment = {
            "PATH": os.environ["PATH"],
            "API": f"https://127.0.0.1:{port}",
            "CA": str(ca),
            "TOKEN": ADMIN,
        }
        for command, given, shown in examples():
            program, *arguments = shlex.split(command)
            if program == "bondstone":
                assert arguments[0] == "kv"
                done = kv(ca, port, *arguments[1:], given=given.encode())
                printed = done.stdout.decode().rstrip("\n")
                tried.add(arguments[1])
            else:
                bash = subprocess.run(
                    ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
                )
                printed = bash.stdout
            assert is_shown(shown, printed), f"{command}\n{printed}"
    assert tried == {"put", "get", "del", "txn", "lease", "compact", "hashkv"}


def test_the_comparison_above_can_fail():
    assert is_shown("a…c", "abc")
    assert not is_shown("a…c", "abd")
