"""The documents are right about ports, files, limits and exit codes."""

import re

from node.api.app import REQUEST_FIELD
from node.cli.exits import NO, UNDECIDED, USAGE, YES
from node.dev import DevCluster
from node.machines.base import QUOTA_BYTES_DEFAULT
from node.machines.kv import values
from tests.support.cluster import PROJECT

API = (PROJECT / "docs/api.md").read_text()
COMMANDS = (PROJECT / "docs/command-line.md").read_text()


def test_the_examples_use_the_port_and_the_file_of_bondstone_dev(tmp_path):
    cluster = DevCluster(tmp_path, nodes=1, api_port=8440, report=lambda _: None)
    assert f".bondstone/dev/{cluster.ca_file.name}" in API
    assert f".bondstone/dev/{cluster.token_file.name}" in API
    assert "https://127.0.0.1:8440 " in API
    assert "8443" not in API.split("Then the cluster answers")[0]


def test_the_limit_of_the_store_is_what_is_written():
    text = " ".join(API.split())
    shown = f"permits, {QUOTA_BYTES_DEFAULT // 2**20} MiB by default, where each key counts {values.KEY_COST} bytes"
    assert shown in text


def test_the_exit_codes_are_those_of_the_table():
    assert re.findall(r"^\| ([0-9]) \| (\w+)", COMMANDS, re.MULTILINE) == [
        (str(YES), "yes"),
        (str(NO), "no"),
        (str(USAGE), "usage"),
        (str(UNDECIDED), "could"),
    ]


def test_the_field_that_names_a_request_is_documented():
    assert f"`{REQUEST_FIELD.decode().title()}`" in API


def test_the_readme_states_that_ctrl_c_forgets_everything():
    assert "Ctrl-C forgets everything" in (PROJECT / "README.md").read_text()
