"""Three nodes with real bonds and a small memory budget: what clients write ends none of them."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import uvloop

from node.config import load_node
from node.daemon import running
from node.dev import DevCluster
from node.errors import ConfigError
from node.group.errors import CommandFailedError, NotExecutedError
from node.group.group import Group
from node.host import memory_budget
from node.raft.budget import Budget, needed_for
from tests.support.cluster import free_port_block

MIB = 1024 * 1024
QUOTA = 8 * MIB  # what the writers replaced, and have not compacted yet, counts too
BUDGET = needed_for(QUOTA)
PATIENCE_S = 60
WRITES, VALUE_BYTES, WRITERS = 400, 500_000, 4


def prepare(directory: Path, **consensus: int) -> list[Path]:
    """Write the files of three nodes with these settings; return the node files."""
    cluster = DevCluster(directory, nodes=3, api_port=free_port_block(3), report=lambda _event: None)
    cluster.prepare()
    text = cluster.document_file.read_text()
    settings = "".join(f"{name} = {value}\n" for name, value in consensus.items())
    text = text.replace("[consensus]\n", f"[consensus]\n{settings}")
    start = text.index("quota_bytes = ")
    cluster.document_file.write_text(
        text[:start] + f"quota_bytes = {QUOTA}\n" + text[text.index("\n", start) :]
    )
    for node in cluster.nodes:
        lines = node.config_file.read_text().splitlines()
        lines = [f"budget_bytes = {BUDGET}" if line.startswith("budget_bytes") else line for line in lines]
        node.config_file.write_text("\n".join(lines) + "\n")
    return [node.config_file for node in cluster.nodes]


async def compact(group: Group, revision: int) -> None:
    """Let go of what was replaced, as a client of etcd's does."""
    with suppress(CommandFailedError):  # another writer has compacted further
        await group.execute(["compact", revision], timeout_s=PATIENCE_S)


async def write_much(files: list[Path]) -> tuple[int, list[str], int, list[str | None]]:
    """Return how many writes succeeded, the refusals, the most memory in use, and which members halted."""
    async with AsyncExitStack() as stack:
        loaded = [load_node(file) for file in files]
        nodes = [
            await stack.enter_async_context(running(one.document, one.config, lambda _event: None))
            for one in loaded
        ]
        async with asyncio.timeout(PATIENCE_S):
            while not all(node.readiness().ready for node in nodes):
                await asyncio.sleep(0.05)
        groups = [node.joined for node in nodes]
        refused: list[str] = []
        done = most = 0

        async def write(writer: int) -> None:
            nonlocal done, most
            for number in range(WRITES // WRITERS):
                group = groups[(writer + number) % 3]
                assert group is not None
                try:
                    put = {"op": "put", "key": "k", "value": "x" * VALUE_BYTES}
                    executed = await group.execute(put, timeout_s=PATIENCE_S)
                    done += 1
                    await compact(group, executed.result["revision"])
                except NotExecutedError as exc:
                    refused.append(str(exc))
                    await asyncio.sleep(0.1)  # as a client waits before it tries again
                most = max(most, *(one.memory.use.total for one in groups if one is not None))

        async with asyncio.TaskGroup() as writers:
            for writer in range(WRITERS):
                writers.create_task(write(writer))
        return done, refused, most, [None if one is None else one.status.halted for one in groups]


@pytest.mark.cluster
def test_large_writes_without_end_are_taken_or_refused_and_no_member_halts(tmp_path: Path) -> None:
    """The log is cut only when memory is short, so the budget alone keeps the members alive."""
    files = prepare(tmp_path, snapshot_bytes=2**40, log_keep_bytes=2**40)
    done, refused, most, halted = uvloop.run(write_much(files))

    assert halted == [None] * 3
    assert done + len(refused) == WRITES
    assert done > WRITES / 2
    assert done * VALUE_BYTES > BUDGET
    assert all("overloaded: the memory of node-" in one for one in refused)
    assert most <= BUDGET + WRITERS * 4 * VALUE_BYTES


def test_a_node_of_this_group_with_less_memory_does_not_start(tmp_path: Path) -> None:
    file, *_ = prepare(tmp_path)
    text = file.read_text()
    loaded = load_node(file)
    assert memory_budget(loaded.document, loaded.config) == Budget(BUDGET)
    file.write_text(text.replace(f"budget_bytes = {BUDGET}", f"budget_bytes = {BUDGET - 1}"))
    loaded = load_node(file)

    async def start() -> None:
        async with running(loaded.document, loaded.config, lambda _event: None):
            pass

    with pytest.raises(
        ConfigError, match=rf"memory budget of this node is {BUDGET - 1} bytes.* needs {BUDGET} "
    ):
        uvloop.run(start())
