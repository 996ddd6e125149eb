"""docs/deploy.md on ``[attestation.jwt]``: the loader takes the table, each key is there, and nodes do as it describes."""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop
from joserfc import jwt
from joserfc.jwk import ECKey

from attestation.collateral.freshness import FreshnessState
from attestation.tickets.jwt import JwtValidator
from node.api.service import UnavailableError
from node.config import load_node
from node.daemon import running
from node.dev import DevCluster, DevNode
from node.group_document.tables import JwtTable
from node.process_events import Listening, ProcessEvent
from node.service import NodeService
from node.trust import tdx_validator_of, validators_of
from tests.support import documents
from tests.support.cluster import free_port_block

TEXT = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
SECTION = TEXT.split("## A token besides the quote\n")[1].split("\n## ")[0]
(TABLE, NODE_TABLE) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \| ", SECTION, re.MULTILINE)
DEFAULTS = {
    "–": None,
    "the peer's id, in hex": None,
    "no limit": None,
    "`{}`": {},
    "`86400`": 86400,
}
KEY = ECKey.generate_key("P-256", {"kid": "first", "alg": "ES256"})
PATIENCE_S = 60


def test_the_examples_are_tables_that_the_loaders_take():
    jwt = documents.document(documents.MINIMAL + TABLE).jwt
    node = documents.node_config(documents.NODE + NODE_TABLE).attestation.jwt

    assert node.token_file == "/base/token.jwt"
    assert jwt.rules.required_claims == {"stage": "prod", "tier": 1, "audited": True}
    assert [key.algorithm for key in jwt.keys] == ["ES256"]
    left_out = {name for name in JwtTable.__struct_fields__ if name not in TABLE}
    assert left_out == {"subject"}  # the text explains when to give one


def test_every_key_is_documented_with_its_default():
    required = [name for name, default in ROWS if default == "–"]

    assert tuple(name for name, _ in ROWS if name in required) == JwtTable.__struct_fields__[: len(required)]
    assert {name for name, _ in ROWS} == set(JwtTable.__struct_fields__)
    bare = JwtTable(issuer="x", audience="x", keys=())
    for name, default in ROWS:
        if name not in required:
            assert getattr(bare, name) == DEFAULTS[default], name
    with pytest.raises(TypeError):
        JwtTable(issuer="x", audience="x")


# ---- nodes with this table --------------------------------------------------------------------------


def prepare(directory: Path, *, table: str = TABLE, keys: Sequence[ECKey] = (KEY,)) -> list[DevNode]:
    """Write the files of two nodes with mock TDs that ask for a token too, and have an empty one."""
    cluster = DevCluster(directory, nodes=2, api_port=free_port_block(2), report=lambda _event: None)
    cluster.prepare()
    document = cluster.document_file
    document.write_text(f"{document.read_text()}\n{with_keys(table, keys)}")
    for node in cluster.nodes:
        node.config_file.write_text(f"{node.config_file.read_text()}\n{NODE_TABLE}")
        (node.directory / "token.jwt").write_text("")
    return cluster.nodes


def with_keys(table: str, keys: Sequence[ECKey]) -> str:
    """The example's table, with these keys instead of its own."""
    listed = ", ".join(
        "{"
        + ", ".join(f"{name} = {json.dumps(value)}" for name, value in key.as_dict(private=False).items())
        + "}"
        for key in keys
    )
    return re.sub(r"keys = \[.*?\n\]", f"keys = [{listed}]", table, flags=re.DOTALL)


def token(peer_id: str, **changes: Any) -> str:
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": "https://admission.example", "aud": "prod", "sub": peer_id, "iat": now, "exp": now + 600}
    required = {"stage": "prod", "tier": 1, "audited": True}
    return jwt.encode({"alg": "ES256", "kid": "first"}, {**claims, **required, **changes}, KEY)


def put_token(node: DevNode, text: str) -> None:
    staged = node.directory / "token.new"
    staged.write_text(f"{text}\n")
    staged.rename(node.directory / "token.jwt")


def refusals(daemon: NodeService) -> set[str]:
    events = daemon.audit_events(after=0, limit=1000)
    return {event["reason"] for event in events if event["kind"] == "bond-refused"}


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def test_nodes_bond_once_their_tokens_are_there(tmp_path):
    async def scenario() -> None:
        nodes = prepare(tmp_path)
        heard: list[ProcessEvent] = []
        async with AsyncExitStack() as stack:
            files = [load_node(node.config_file) for node in nodes]
            daemons = [
                await stack.enter_async_context(running(each.document, each.config, heard.append))
                for each in files
            ]
            ids = [event.peer_id for event in heard if isinstance(event, Listening)]
            await until(lambda: all("jwt-malformed" in refusals(daemon) for daemon in daemons))
            assert [list(daemon.bonds()) for daemon in daemons] == [[], []]
            assert (await daemons[0].evidence(bytes(32))).tickets.keys() == {"tdx", "jwt"}

            put_token(nodes[0], token(ids[0]))
            put_token(nodes[1], token(ids[0]))
            await until(lambda: "jwt-subject" in refusals(daemons[0]))
            put_token(nodes[1], token(ids[1]))
            await until(lambda: all(daemon.readiness().ready for daemon in daemons))

            (bond,) = daemons[0].bonds()
            assert bond.appraisals.keys() == {"tdx", "jwt"}
            assert bond.appraisals["jwt"]["subject"] == ids[1]
            shown = (await daemons[0].evidence(bytes(32))).tickets["jwt"]
            assert shown.decode() == (nodes[0].directory / "token.jwt").read_text().strip()

            (nodes[0].directory / "token.jwt").unlink()
            with pytest.raises(UnavailableError, match=r"token\.jwt") as caught:
                await daemons[0].evidence(bytes(32))
            assert caught.value.reason == "token-unavailable"

    uvloop.run(scenario())


def group_id(table: str = TABLE, keys: Sequence[ECKey] = (KEY,)) -> bytes:
    return documents.document(documents.MINIMAL + with_keys(table, keys)).group_id


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("max_age_s = 3600", "max_age_s = 3_600"), True),
        (("admission.example", "other.example"), False),
        (('audience = "prod"', 'audience = "test"'), False),
        (("tier = 1", "tier = 2"), False),
        (("max_age_s = 3600", "max_age_s = 3601"), False),
        (("max_lifetime_s = 7200", ""), False),
        (("max_lifetime_s", 'subject = "node"\nmax_lifetime_s'), False),
    ],
)
def test_all_of_the_table_is_in_the_group_id(change, same):
    assert change[0] in TABLE

    assert (group_id() == group_id(TABLE.replace(*change))) is same


def test_the_keys_are_in_the_group_id_in_any_order():
    more = ECKey.generate_key("P-256", {"kid": "second", "alg": "ES256"})

    assert group_id(keys=(KEY, more)) == group_id(keys=(more, KEY)) != group_id()


def test_a_token_is_asked_for_beside_the_quote_and_after_it():
    document = documents.document(documents.MINIMAL + TABLE)

    judges = validators_of(document, tdx_validator_of(document, None, FreshnessState()))

    assert [judge.ticket_class for judge in judges] == ["tdx", "jwt"]
    assert isinstance(judges[1], JwtValidator)
