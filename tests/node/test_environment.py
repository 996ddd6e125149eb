"""The process' environment decides what is documented, and nothing else."""

import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.environment import VARIABLES, read_environment
from node.errors import ConfigError
from tests.support.cluster import PROJECT, cli


def test_nothing_set_is_the_defaults_and_empty_is_not_set():
    assert read_environment({}) == read_environment(dict.fromkeys(VARIABLES, ""))
    assert read_environment({}).log_level == logging.INFO


def test_what_is_set_is_taken():
    said = read_environment(
        {
            "BONDSTONE_URL": "https://a:1, https://b:2",
            "BONDSTONE_TOKEN": "bst_x",
            "BONDSTONE_CA": "ca.pem",
            "BONDSTONE_CLUSTER": "dev/client.json",
            "BONDSTONE_LOG": "debug",
            "BONDSTONE_BUILD_DATE": "0",
            "BONDSTONE_PORT_8443_TCP": "tcp://10.0.0.1:8443",  # as Kubernetes sets for a service of that name
        }
    )
    assert said.urls == ("https://a:1", "https://b:2")
    assert said.token == "bst_x"
    assert said.ca == Path("ca.pem")
    assert said.cluster == Path("dev/client.json")
    assert said.log_level == logging.DEBUG
    assert said.build_date == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BONDSTONE_LOG", "nonsense"),
        ("BONDSTONE_LOG", "NOTSET"),
        ("BONDSTONE_LOG", "10"),
        ("BONDSTONE_BUILD_DATE", "yesterday"),
        ("BONDSTONE_BUILD_DATE", "9" * 30),
        ("BONDSTONE_BUILD_DATE", "-1"),
        ("BONDSTONE_BUILD_DATE", "²"),
        ("BONDSTONE_URL", "http://a"),
        ("BONDSTONE_URL", "https://a,"),
        ("BONDSTONE_TOKEN", "tökén"),
        ("BONDSTONE_TOKEN", "a b"),
        ("BONDSTONE_TOKEN", "a\r\nx: y"),
    ],
)
def test_a_variable_that_is_malformed_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        read_environment({name: value})
    if name == "BONDSTONE_TOKEN":
        assert value not in str(caught.value), "a token is a secret"


@pytest.mark.parametrize(
    "variable", [("BONDSTONE_LOG", "nonsense"), ("BONDSTONE_BUILD_DATE", "9" * 30), ("BONDSTONE_TOKEN", "é")]
)
def test_a_malformed_variable_ends_every_command_at_start_with_exit_code_2(variable, tmp_path):
    done = cli("status", env=dict([variable]), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert variable[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_every_variable_is_documented():
    text = (PROJECT / "docs/environment.md").read_text()
    assert [name for name in VARIABLES if f"`{name}`" not in text] == []


SURROUNDINGS = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "socks5://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "NO_PROXY": "[::1]",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
    "SSL_CERT_DIR": "/nowhere",
}
SCRIPT = """
import asyncio
from attestation.collateral.client.requests import Source, UpdateMode
from attestation.collateral.client.session import open_collateral_client
from attestation.collateral.freshness import FreshnessState
from attestation.x509.trust import INTEL_SGX_ROOT

async def main():
    async with open_collateral_client(
        sources=[Source.pccs("http://127.0.0.1:2")], root=INTEL_SGX_ROOT, update=UpdateMode.STANDARD,
        cache_directory=None, tls_ca=None, seen=FreshnessState(),
    ) as client:
        print([type(t).__name__ for t in client._fetcher._http._mounts.values()])

asyncio.run(main())
"""


def test_proxies_and_trust_stores_of_the_environment_are_not_used_and_do_not_end_in_tracebacks():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**SURROUNDINGS, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
