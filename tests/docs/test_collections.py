"""docs/collections.md: its examples work, in their order, in one process; every command and limit is named."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

import uvloop

from node.collections import __all__ as names
from node.collections.base import CollectionWhen
from node.machines.base import QUOTA_BYTES_DEFAULT
from node.machines.collections import machine, queries, reading, state
from node.machines.collections.frozen import KINDS
from node.machines.collections.maps import map_commands
from node.machines.collections.queries import collection_queries
from node.machines.collections.queues import queue_commands
from node.machines.collections.vecs import vec_commands

DOCUMENT = Path(__file__).parents[2] / "docs" / "collections.md"
REFERENCE = DOCUMENT.read_text().split("## Commands and queries\n")[1]
CLOSE = "await second.close()\nawait first.close()\n"


def test_the_examples_of_the_collections_run() -> None:
    text = DOCUMENT.read_text()
    assert len(re.findall(r"```python\n", text)) == 10
    # Every line stays where it is, so that a failure names the line of the page.
    parts = re.split(r"```(?:python)?\n", text)
    source = "\n".join(part if number % 2 else "\n" * part.count("\n") for number, part in enumerate(parts))
    source += CLOSE
    code = compile(source, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE

    async def scenario() -> None:
        async with asyncio.timeout(30):
            await eval(code, {"__name__": "docs_collections"})

    uvloop.run(scenario())


def test_every_kind_has_a_chapter_and_every_condition_a_row() -> None:
    text = DOCUMENT.read_text()
    chapters = set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    table = text.split("| `when().` |")[1].split("\n\n")[0]

    assert {"Map", "Vec", "Set", "Cell", "Once", "Priority queue"} <= chapters
    assert {"Map", "Vec", "Set", "Cell", "Once", "PriorityQueue"} <= set(names)
    conditions = {name for name in vars(CollectionWhen) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", table)) == conditions


def named(table):
    """Return the names in the first column of the table that begins with this heading."""
    rows = REFERENCE.split(f"| {table} |")[1].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}


def test_every_command_and_query_is_documented_and_no_other():
    commands = {**map_commands(), **vec_commands(), **queue_commands()}

    assert named("command") == {"declare", "drop", "clear", *commands}
    assert named("query") == {"collections", "describe", *collection_queries()}
    assert all(f"`{kind}`" in REFERENCE for kind in KINDS)


def test_every_limit_is_documented():
    kib, mib = 1024, 1024 * 1024
    assert f"as many as {machine.COLLECTIONS_MAX}" in DOCUMENT.read_text()
    limits = REFERENCE.split("| limit |")[1]
    for shown in (
        f"{reading.NAME_BYTES_MAX} bytes, {reading.KEY_BYTES_MAX // kib} KiB, {reading.VALUE_BYTES_MAX // mib} MiB",
        f"{reading.ITEMS_MAX:,} items, and `consensus.command_bytes_max`",
        f"| {machine.CAPACITY_MAX:,} |",
        f"`store.quota_bytes` of the group document, {QUOTA_BYTES_DEFAULT // mib} MiB by default, where each item counts {state.ITEM_COST} bytes more",
        f"an entry of a queue {state.QUEUE_ITEM_COST} bytes and its key twice",
        f"{queries.LIST_LIMIT_MAX:,} items, {queries.LIST_BYTES_MAX // mib} MiB",
    ):
        assert shown in limits, shown
    assert f"`limit`? ({queries.LIST_LIMIT_DEFAULT})" in REFERENCE
