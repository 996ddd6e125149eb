"""A running cluster is what its own /openapi.json describes: schemathesis finds no answer that is not."""

import os
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.api.operations import BY_NAME
from tests.support.cluster import PROJECT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

EXAMPLES_MAX = 3  # of each operation, beside the edge cases that its schema names
# Each of these was answered with success at least once: so the requests were not all refused for their credentials.
SUCCEED = (
    "health",
    "ready",
    "metrics",
    "openapi",
    "group",
    "members",
    "bonds",
    "peers",
    "audit_events",
    "kv_range",
    "kv_put",
)


def test_schemathesis_finds_nothing(own_cluster):
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            PROJECT / "tests" / "schemathesis.toml",
            "run",
            f"{own_cluster.nodes[0]['api']}/openapi.json",
            "--header",
            f"Authorization: Bearer {own_cluster.ready['token']}",
            "--tls-verify",
            own_cluster.ready["ca"],
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES_MAX}",
            "--seed=1",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        cwd=own_cluster.directory,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        check=False,
    )

    assert found.returncode == 0, found.stdout + found.stderr
    with own_cluster.http(0) as http:
        families = text_string_to_metric_families(http.get("/metrics").text)
    succeeded = {
        sample.labels["path"]
        for family in families
        for sample in family.samples
        if sample.name == "bondstone_http_requests_total" and sample.labels["status"] == "200"
    }
    assert {BY_NAME[name].path for name in SUCCEED} <= succeeded
