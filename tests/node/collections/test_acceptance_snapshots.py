"""Acceptance checklist 22, 23, 28, 29 and 31 where the log is cut: a late reader takes a snapshot, over real bonds."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from node import Group
from tests.node.collections.support import KINDS, ONE, founder, observer, run
from tests.support.groups import Site, until, within

kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
CUT = replace(ONE, snapshot_bytes=4_096, snapshot_chunk_bytes=1_024, log_keep_bytes=0, log_keep_ms=0)


async def cut(group: Group) -> None:
    """Wait until entries that a late reader would need are gone."""
    await until(lambda: group.status.base > 2)


async def reader_of(site: Site, name: str, kind: Any) -> Any:
    group = await observer(site, name, settings=CUT)
    await until(lambda: group.status.base > 2)
    return kind.define().reader(group)


@kinds
def test_22_frozen_by_a_snapshot_and_29_incremental_after_convergence(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site, settings=CUT)
        writer = kind.define().writer(group)
        version = await kind.fill(writer, range(1000), 50)
        await cut(group)
        reader = await reader_of(site, "reader", kind)
        assert await within(reader.when().reaches(version)) == version
        assert kind.contents(reader) == kind.expected(range(1000)) == kind.contents(writer)
        version = await kind.fill(writer, range(1000, 1100), 10)
        await within(reader.when().reaches(version))
        assert kind.contents(reader) == kind.expected(range(1100))

    run(scenario)


@kinds
def test_23_writes_during_a_snapshot_and_28_many_readers_and_31_extend_during_snapshot_sync(
    kind: Any,
) -> None:
    """Some of the commands, each of many items, are in the snapshot, others in the log behind it."""

    async def scenario(site: Site) -> None:
        group = await founder(site, settings=CUT)
        writer = kind.define().writer(group)
        await kind.fill(writer, range(1000), 50)
        await cut(group)
        joining = [asyncio.create_task(reader_of(site, f"r{number}", kind)) for number in range(3)]
        version = 0
        for start in range(1000, 2000, 20):
            version = await kind.fill(writer, range(start, start + 20), 7)
        for reader in [await one for one in joining]:
            await within(reader.when().reaches(version))
            assert kind.contents(reader) == kind.expected(range(2000)) == kind.contents(writer)

    run(scenario)
