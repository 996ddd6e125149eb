"""The examples of docs/groups.md and of docs/jwt.md work, in their order, in one process."""

import ast
import asyncio
import dataclasses
import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop

from attestation.tickets import jwt as ticket_jwt
from attestation.tickets.jwt import _ALGORITHMS, KEYS_BYTES_MAX, KEYS_MAX, TOKEN_BYTES_MAX, JwtRules
from attestation.tickets.protocol import CLOCK_AHEAD_MAX
from enclave.identity import Identity
from node.audit import AuditLog
from node.errors import ConfigError
from node.group.identity import GroupKey
from node.group.network import Network
from tests.attestation.tickets.test_jwt import validator

DOCS = Path(__file__).parents[2] / "docs"
TICKETS = (DOCS / "jwt.md").read_text()


@pytest.mark.parametrize(("page", "count"), [("groups.md", 11), ("jwt.md", 2)])
def test_the_examples_of_a_page_run(page: str, count: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(blocks) == count
    code = compile("\n".join(blocks), page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE

    async def scenario() -> None:
        async with asyncio.timeout(30):
            await eval(code, {"__name__": "docs_groups"})

    uvloop.run(scenario())


def test_every_reason_for_refusing_a_token_is_documented() -> None:
    reasons = set(re.findall(r'"(jwt-[a-z-]+)"', inspect.getsource(ticket_jwt))) - {"jwt-keys"}

    assert len(reasons) == 18
    assert {reason for reason in reasons if f"`{reason}`" not in TICKETS} == set()
    assert set(re.findall(r"`(jwt-[a-z-]+)`", TICKETS)) == reasons


def test_every_rule_algorithm_and_limit_of_tokens_is_documented() -> None:
    rules = re.findall(r"^\| `(\w+)` \| have ", TICKETS, re.MULTILINE)

    assert rules == [rule.name for rule in dataclasses.fields(JwtRules)]
    for algorithm, (kty, curve, _) in _ALGORITHMS.items():
        (row,) = re.findall(rf"^\| .*`{algorithm}`.* \| (.*) \|$", TICKETS, re.MULTILINE)
        assert f"`{curve or kty}`" in row, algorithm
    sizes = ", ".join(str(size) for _, _, size in _ALGORITHMS.values() if size)
    assert f"at least {sizes} bytes" in TICKETS
    assert f"1 to {KEYS_MAX} keys and at most {KEYS_BYTES_MAX // 1024} KiB" in TICKETS
    assert f"more than {TOKEN_BYTES_MAX // 1024} KiB" in TICKETS
    assert CLOCK_AHEAD_MAX.total_seconds() == 5 * 60


def test_a_node_that_cannot_show_what_the_group_asks_for_cannot_join_it() -> None:
    async def scenario() -> None:
        now = datetime.now(UTC)
        network = Network(
            name="example",
            identity=Identity.generate("silent", now),
            listen=("127.0.0.1", 0),
            audit=AuditLog(None, lambda: now),
            issuers=[],
        )
        await network.start()
        builder = network.groups.with_key(GroupKey.generate()).require_ticket(validator())
        with pytest.raises(ConfigError, match="tickets that this node cannot make: jwt"):
            builder.join()
        await network.close()

    uvloop.run(scenario())
