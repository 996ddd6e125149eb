"""docs/collections.md names every command, query, kind and limit of the machine."""

import re
from pathlib import Path

from node.machines.collections import machine, queries, reading, state
from node.machines.collections.frozen import KINDS
from node.machines.collections.machine import CollectionsMachine
from node.machines.collections.maps import map_commands
from node.machines.collections.queries import collection_queries
from node.machines.collections.queues import queue_commands
from node.machines.collections.vecs import vec_commands
from node.machines.counter import Counter

DOCUMENT = (Path(__file__).parents[4] / "docs" / "collections.md").read_text()
REFERENCE = DOCUMENT.split("## Commands and queries\n")[1]


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
    assert f"as many as {machine.COLLECTIONS_MAX}" in DOCUMENT
    limits = REFERENCE.split("| limit |")[1]
    for shown in (
        f"{reading.NAME_BYTES_MAX} bytes, {reading.KEY_BYTES_MAX // kib} KiB, {reading.VALUE_BYTES_MAX // mib} MiB",
        f"{reading.ITEMS_MAX:,} items, and `consensus.command_bytes_max`",
        f"| {machine.CAPACITY_MAX:,} |",
        f"| {machine.STORE_BYTES_MAX // mib} MiB, where each item counts {state.ITEM_COST} bytes more",
        f"an entry of a queue {state.QUEUE_ITEM_COST} bytes and its key twice",
        f"{queries.LIST_LIMIT_MAX:,} items, {queries.LIST_BYTES_MAX // mib} MiB",
    ):
        assert shown in limits, shown
    assert f"`limit`? ({queries.LIST_LIMIT_DEFAULT})" in REFERENCE


def test_the_collections_are_a_family_of_their_own():
    assert CollectionsMachine().family == "bondstone/collections"
    assert Counter().family != CollectionsMachine().family
