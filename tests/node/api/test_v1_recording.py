"""What a client of the first release sent, and how it was answered, replayed against the node of today.

Every recorded request is taken as then. Every answer has its status, its media type and at least the members
that it had, with the same values where they do not depend on the run; later releases may add members.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from node.client.channel import client_tls_context
from node.config import load_node
from node.daemon import running
from node.dev import DevCluster
from tests.support.cluster import free_port_block

RECORDING = json.loads((Path(__file__).parent / "vectors" / "v1.json").read_text())["exchanges"]

# Of these members, only that they are there and of which type: they depend on the run, or are for people.
OF_THE_RUN = frozenset(
    {
        "term", "index", "peer_id", "group_id", "network_id", "cluster_id", "binding", "leader", "tie", "tdx",
        "hash", "prev", "seq", "at", "age_ms", "detail", "message", "title", "commit_index", "applied_index",
        "last_index", "config_epoch", "voters", "learners", "since",
        "state_machine",  # its version rises with releases
    }
)  # fmt: skip
PATIENCE_S = 60


def missing(recorded: Any, now: Any, path: str = "$", name: str = "") -> list[str]:
    """Return what the recorded answer has, and the answer of now has not."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        return [
            line
            for key, value in recorded.items()
            for line in (
                missing(value, now[key], f"{path}.{key}", key) if key in now else [f"{path}.{key} is gone"]
            )
        ]
    if isinstance(recorded, list) and isinstance(now, list):
        if len(recorded) != len(now):
            return [f"{path} has {len(now)} items, had {len(recorded)}"]
        return [
            line
            for i, (one, other) in enumerate(zip(recorded, now, strict=True))
            for line in missing(one, other, f"{path}[{i}]", name)
        ]
    if type(recorded) is not type(now):
        return [f"{path} is {now!r}, was {recorded!r}"]
    if name not in OF_THE_RUN and recorded != now:
        return [f"{path} is {now!r}, was {recorded!r}"]
    return []


async def replay(directory: Path) -> list[str]:
    cluster = DevCluster(directory, nodes=1, api_port=free_port_block(1), report=lambda _event: None)
    cluster.prepare()
    (node,) = cluster.nodes
    files = load_node(node.config_file)
    wrong = []
    async with running(files.document, files.config, lambda _event: None) as daemon:
        async with asyncio.timeout(PATIENCE_S):
            while not daemon.readiness().ready:
                await asyncio.sleep(0.02)
        tls = client_tls_context(node.certificate_file.read_bytes())
        token = cluster.token_file.read_text().strip()
        async with httpx.AsyncClient(
            base_url=f"https://{node.api}", verify=tls, trust_env=False, timeout=PATIENCE_S
        ) as client:
            for number, exchange in enumerate(RECORDING):
                where = f"{number} {exchange['request']['method']} {exchange['request']['path']}"
                answer = await send(client, exchange["request"], token)
                wrong += [f"{where}: {line}" for line in differences(exchange["answer"], answer)]
    return wrong


async def send(client: httpx.AsyncClient, request: dict[str, Any], token: str) -> httpx.Response:
    headers = dict(request.get("headers", {}))
    if request["token"]:
        headers["authorization"] = f"Bearer {token if request['token'] is True else request['token']}"
    body = {key: request[key] for key in ("json", "content") if key in request}
    return await client.request(request["method"], request["path"], headers=headers, **body)


def differences(recorded: dict[str, Any], answer: httpx.Response) -> list[str]:
    if recorded["status"] != answer.status_code:
        return [f"status {answer.status_code}, was {recorded['status']}: {answer.text[:300]}"]
    wrong = [
        f"header {name}: {answer.headers.get(name)!r}, was {value!r}"
        for name, value in recorded["headers"].items()
        if answer.headers.get(name) != value
    ]
    return wrong + missing(of_all_events(recorded["json"]), answer.json())


def of_all_events(recorded: Any) -> Any:
    """Return what is the same of every record of an audit log: which comes first is no promise."""
    if not isinstance(recorded, dict) or "events" not in recorded:
        return recorded
    common = ("at", "hash", "prev", "seq")
    events = [{name: event[name] for name in common} for event in recorded["events"]]
    return {**recorded, "events": events}


def test_what_was_sent_and_answered_in_v1_is_taken_and_answered_so_today(tmp_path):
    assert uvloop.run(replay(tmp_path)) == []


def test_the_recording_covers_all_that_clients_use():
    paths = {exchange["request"]["path"].partition("?")[0] for exchange in RECORDING}

    assert paths >= {
        "/healthz", "/readyz", "/v1/group", "/v1/members", "/v1/bonds", "/v1/commands", "/v1/queries",
        "/v1/attestation/evidence", "/v1/attestation/peers", "/v1/audit/head", "/v1/audit/events", "/v1/provision",
    }  # fmt: skip
    assert {exchange["answer"]["status"] for exchange in RECORDING} >= {
        200,
        202,
        400,
        401,
        404,
        405,
        409,
        415,
        422,
    }


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({"a": 1, "term": 9, "new": None}, []),
        ({"term": 2}, ["$.a is gone"]),
        ({"a": "1", "term": 2}, ["$.a is '1', was 1"]),
        ({"a": True, "term": 2}, ["$.a is True, was 1"]),
        ({"a": 2, "term": 2}, ["$.a is 2, was 1"]),
        ({"a": 1, "term": None}, ["$.term is None, was 2"]),
    ],
)
def test_the_comparison_finds_what_a_client_would_miss(now, found):
    assert missing({"a": 1, "term": 2}, now) == found
