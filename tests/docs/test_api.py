"""docs/api.md: its examples are run, its table of errors is compared."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from node.api.limits import BODY_VALUES_MAX, CHUNKS_MAX, FIELDS_MAX, PIPELINED_MAX, REPEATED_OF_TTL, ApiLimits
from node.api.operations import OPERATIONS
from node.api.problems import CATALOGUE
from node.client.options import CONNECT_TIMEOUT_S
from node.config import ApiTable
from node.places import Usage
from node.serving import api_server_of
from node.tokens import AccessRole
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served, write_ca
from tests.node.api.raw import AUTHORIZATION, client
from tests.support import documents

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ANYTHING = "…"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def as_shown(expected, actual):
    """Equal, where the page shows more than an ellipsis."""
    if expected == ANYTHING:
        return actual not in (None, "", {})
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            as_shown(expected[name], actual[name]) for name in expected
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(as_shown, expected, actual))
    return expected == actual


@pytest.fixture
def environment(tmp_path):
    ca = write_ca(tmp_path)
    with served(FakeService()) as port:
        yield {
            "PATH": os.environ["PATH"],
            "API": f"https://127.0.0.1:{port}",
            "CA": str(ca),
            "TOKEN": TOKENS[AccessRole.ADMIN],
        }


def examples():
    for block in blocks("console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = example.partition("\n")
            yield command, json.loads(answer)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples need curl")
def test_every_example_answers_as_shown(environment):
    tried = 0
    for command, expected in examples():
        ran = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, check=True, text=True
        )

        assert as_shown(expected, json.loads(ran.stdout)), f"{command}\n{ran.stdout}"
        tried += 1
    assert tried >= 12


def test_the_comparison_can_fail():
    assert not as_shown({"a": ANYTHING}, {"a": 1, "b": 2})
    assert not as_shown({"a": ANYTHING}, {"a": None})
    assert not as_shown([1], [1, 2])
    assert not as_shown({"a": [1]}, {"a": [2]})
    assert as_shown({"a": [ANYTHING]}, {"a": [7]})


def test_the_python_examples_run(environment, monkeypatch):
    for name in ("API", "CA", "TOKEN"):
        monkeypatch.setenv(name, environment[name])
    examples = blocks("python")
    assert len(examples) == 3

    for example in examples:
        exec(compile(example, "docs/api.md", "exec"), {})


def test_the_table_of_errors_is_the_catalogue():

    listed = {
        code: int(status) for status, code in re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    }

    assert listed == {code: kind.status.value for code, kind in CATALOGUE.items()}
    for line in TEXT.splitlines():
        for code, kind in CATALOGUE.items():
            if line.startswith(f"| {kind.status.value} | `{code}` |"):
                assert line.endswith("| yes |") is kind.retry


def test_every_path_with_examples_exists():
    named = set(re.findall(r"\$API(/[a-z0-9/]+)", TEXT))

    assert named <= {operation.path for operation in OPERATIONS}


def test_every_operation_has_its_row():
    def role(access):
        roles = access if isinstance(access, tuple) else (access,)
        return " or ".join(f"`{one.value}`" if isinstance(one, AccessRole) else one for one in roles)

    rows = re.findall(r"^\| `([A-Z]+) (/[a-z0-9/.{}-]+)` \| (.+?) \| (.+) \|$", TEXT, re.MULTILINE)

    assert rows == [
        (one.method, one.path, role(one.access), one.summary.removesuffix(".")) for one in OPERATIONS
    ]


def test_the_limits_shown_are_the_defaults():
    limits = ApiLimits()

    assert f"| requests at once | {limits.concurrent_requests_max} " in TEXT
    assert f"| connections | {limits.connections_max} (" in TEXT
    assert f"beside them | {limits.handshakes_max} (" in TEXT
    assert f"chunks of a body | {FIELDS_MAX}; {CHUNKS_MAX:,} |" in TEXT
    assert f"outside of text | {BODY_VALUES_MAX:,} |" in TEXT
    evidence = f"{limits.concurrent_evidence_max}; {limits.evidence_waiting_max}, for {limits.evidence_wait_s_max:g} s"
    assert f"waiting for a turn | {evidence} |" in TEXT
    assert f"requests are answered | {limits.bodies_bytes_max // 2**20} MiB (" in TEXT
    assert f"on one connection | {PIPELINED_MAX} |" in TEXT
    assert {f"api.{key}" for key in ApiTable.__struct_fields__ if key.endswith("_max")} == set(
        re.findall(r"`(api\.[a-z_]+_max)`", TEXT)
    )
    for key in ("body_bytes_max", "bodies_bytes_max", "concurrent_requests_max", "connections_max"):
        assert getattr(ApiTable(), key) == getattr(limits, key)
    assert ApiTable().handshakes_max == limits.handshakes_max
    assert (
        f"| time for a head; for a body | {limits.head_timeout_s:g} s; {limits.body_timeout_s:g} s |" in TEXT
    )
    assert f"| a connection without a request | {limits.idle_s_max:g} s after" in TEXT
    assert f"a quarter of `session_ttl_ms`: {limits.keyed_age_s_max:g} s |" in TEXT
    assert f"half of `session_ttl_ms` ({limits.session_ttl_s * REPEATED_OF_TTL:g} s)" in TEXT
    assert (
        f"up to {limits.session_ttl_s * REPEATED_OF_TTL - 2 * CONNECT_TIMEOUT_S:g} s after its first" in TEXT
    )
    assert f"| time for a command or a query | {limits.command_timeout_s:g} s |" in TEXT
    assert f"| body | {limits.body_bytes_max // 2**20} MiB " in TEXT
    assert f"| request line and header fields | {limits.head_bytes_max // 1024} KiB |" in TEXT


def test_every_pool_is_in_the_metrics_and_in_the_docs():
    service = FakeService()
    bonds = Usage(pool="bond-handshakes", limit=64, strangers=3, known=1, sent_away=2)
    queues = [
        Usage(pool=name, limit=1, strangers=0, known=0, sent_away=0)
        for name in ("bond-quotes", "bond-verdicts")
    ]
    service.usages = lambda: (bonds, *queues)
    api = msgspec.structs.replace(documents.node_config().api, listen="127.0.0.1:0")
    config = msgspec.structs.replace(documents.node_config(), api=api)

    async def scrape():
        server = api_server_of(
            documents.document(documents.MINIMAL),
            config,
            IDENTITY,
            service,
            chain=lambda: (IDENTITY.certificate_der,),
        )
        await server.start()
        try:
            return await asyncio.to_thread(scraped, server.address[1])
        finally:
            await server.close()

    def scraped(port):
        with client() as http:
            return http.get(f"https://localhost:{port}/metrics", headers=AUTHORIZATION).text

    text = asyncio.run(scrape())
    pools = set(re.findall(r'bondstone_pool_limit{pool="([a-z-]+)"}', text))

    assert len(pools) == 10
    assert pools == set(re.findall(r"`((?:api|bond)-[a-z]+)`", TEXT))
    assert 'bondstone_pool_taken{pool="bond-handshakes",standing="stranger"} 3.0' in text
    assert 'bondstone_pool_taken{pool="api-connections",standing="known"} 1.0' in text
    assert 'bondstone_pool_sent_away_total{pool="bond-handshakes"} 2.0' in text
