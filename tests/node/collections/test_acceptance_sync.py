"""Acceptance checklist 22 to 36: what a reader holds after it caught up, over real bonds.

A reader is an Observer. These logs are too short for a snapshot (``test_acceptance_snapshots.py`` cuts them), so it
catches up by replaying them: what is
shown here is what the reader holds in the end, and that it never shows a torn state on the way.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from node import Preference
from node.collections import Map, PriorityQueue, Set
from tests.node.collections.support import (
    KINDS,
    MAP,
    ONE,
    QUEUE,
    caught_up,
    founder,
    joined,
    observer,
    observers,
    run,
)
from tests.support.groups import INIT, JOIN, Site, within

kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


SIZES = [(1, 1), (100, 1), (100, 30), (1000, 1000), (10_000, 300), (10_000, 10_000)]
LONG = [
    pytest.param(100_000, 1000, marks=pytest.mark.long),
    pytest.param(100_000, 10_000, marks=pytest.mark.long),
]


@kinds
@pytest.mark.parametrize(("number", "batch"), [*SIZES, *LONG])
def test_22_frozen(kind: Any, number: int, batch: int) -> None:
    """A late reader reaches the version and holds identical items."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        version = await kind.fill(writer, range(number), batch)
        reader = definition.reader(await observer(site, "reader"))

        assert await within(reader.when().reaches(version), timeout_s=110) == version
        assert kind.contents(reader) == kind.expected(range(number)) == kind.contents(writer)
        assert len(reader) == number

    run(scenario)


@kinds
def test_23_writes_during_sync(kind: Any) -> None:
    """Writes continue while a reader catches up; all converge, nothing is lost."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        await kind.fill(writer, range(2000), 50)
        joining = asyncio.create_task(observer(site, "reader"))
        version = 0
        for start in range(2000, 4000, 20):
            version = await kind.fill(writer, range(start, start + 20), 7)
        reader = definition.reader(await joining)
        await within(reader.when().reaches(version))

        assert kind.contents(reader) == kind.expected(range(4000)) == kind.contents(writer)

    run(scenario)


@kinds
def test_24_empty(kind: Any) -> None:
    """A reader is online without data."""

    async def scenario(site: Site) -> None:
        await founder(site)
        reader = kind.define().reader(await observer(site, "reader"))
        await within(reader.when().online())

        assert (len(reader), kind.contents(reader), reader.version) == (0, kind.expected([]), 0)

    run(scenario)


@kinds
def test_25_single_entry(kind: Any) -> None:
    """One item reaches a reader that was there, and one that came later."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        early = definition.reader(await observer(site, "early"))
        updated = early.when().updated()
        version = await kind.fill(writer, [7], 1)
        assert await within(updated) == version
        late = definition.reader(await observer(site, "late"))
        await within(late.when().reaches(version))

        assert kind.contents(early) == kind.contents(late) == kind.expected([7])

    run(scenario)


@kinds
def test_26_reader_before_writer(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        first = await site.network("a")
        network = await site.network("reader", first)
        reader = definition.reader(joined(network, JOIN, preference=Preference.OBSERVER))
        assert (len(reader), reader.version) == (0, 0)
        waiting = reader.when().updated()
        group = joined(first, INIT)
        await within(group.when().is_leader())
        version = await kind.fill(definition.writer(group), range(10), 10)

        assert await within(waiting) == version
        assert kind.contents(reader) == kind.expected(range(10))

    run(scenario)


@kinds
@pytest.mark.parametrize("chunk_bytes", [150, 1024 * 1024])
def test_27_extreme_batch_sizes(kind: Any, chunk_bytes: int) -> None:
    """Entries travel one at a time, or all in one chunk that has room for many more."""

    async def scenario(site: Site) -> None:
        settings = replace(ONE, chunk_bytes_max=chunk_bytes)
        definition = kind.define()
        writer = definition.writer(await founder(site, settings=settings))
        version = await kind.fill(writer, range(60), 1)
        reader = definition.reader(await observer(site, "reader", settings=settings))
        await within(reader.when().reaches(version))

        assert kind.contents(reader) == kind.expected(range(60))

    run(scenario)


@kinds
@pytest.mark.parametrize("number", [3, 5])
def test_28_many_readers(kind: Any, number: int) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        version = await kind.fill(writer, range(500), 20)
        for group in await observers(site, number):
            reader = definition.reader(group)
            await within(reader.when().reaches(version))
            assert kind.contents(reader) == kind.expected(range(500))

    run(scenario)


@kinds
def test_29_incremental_after_convergence(kind: Any) -> None:
    """New writes arrive at a reader that has caught up, one by one."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        version = await kind.fill(writer, range(100), 10)
        reader = definition.reader(await observer(site, "reader"))
        await within(reader.when().reaches(version))
        for number in range(100, 120):
            updated = reader.when().updated()
            version = await kind.fill(writer, [number], 1)
            assert await within(updated) == version
            assert kind.contents(reader) == kind.expected(range(number + 1))

    run(scenario)


@kinds
def test_30_concurrent_reads_during_sync(kind: Any) -> None:
    """While a reader catches up it shows states that were, never a torn one; a snapshot of it stays."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site, settings=replace(ONE, chunk_bytes_max=500)))
        version = await kind.fill(writer, range(1000), 10)
        settings = replace(ONE, chunk_bytes_max=500)
        network = await site.network("reader", *site.networks)
        group = joined(network, JOIN, settings=settings, preference=Preference.OBSERVER)
        reader = definition.reader(group)
        seen = []
        while reader.version < version:
            snapshot = reader.snapshot()
            await within(reader.when().updated())
            seen.append((len(snapshot), kind.contents(snapshot)))

        assert kind.contents(reader) == kind.expected(range(1000))
        assert len(seen) > 1
        for length, contents in seen:
            assert length % 10 == 0
            assert contents == kind.expected(range(length))

    run(scenario)


@kinds
def test_31_extend_during_sync(kind: Any) -> None:
    """A command of many items, written while a reader catches up, is there in whole or not at all."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        await kind.fill(writer, range(500), 5)
        network = await site.network("reader", *site.networks)
        reader = definition.reader(joined(network, JOIN, preference=Preference.OBSERVER))
        writing = asyncio.create_task(kind.fill(writer, range(500, 5500), 5000))
        lengths = {len(reader)}
        while len(reader) < 5500:
            await within(reader.when().updated())
            lengths.add(len(reader))
        await writing

        assert all(length <= 500 or length == 5500 for length in lengths)
        assert kind.contents(reader) == kind.expected(range(5500))

    run(scenario)


@kinds
def test_32_clear_and_repopulate(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        await kind.fill(writer, range(50), 10)
        assert (await within(writer.clear())).count == 50
        version = await kind.fill(writer, range(100, 120), 10)
        reader = definition.reader(await observer(site, "reader"))
        await within(reader.when().reaches(version))

        assert kind.contents(reader) == kind.expected(range(100, 120))

    run(scenario)


@kinds
def test_33_mixed_mutations(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        early = definition.reader(await observer(site, "early"))
        await kind.fill(writer, range(40), 7)
        for number in range(15):
            assert (await within(kind.remove(writer, number))).effect
        version = await kind.fill(writer, range(40, 60), 3)
        late = definition.reader(await observer(site, "late"))
        for reader in (early, late):
            await within(reader.when().reaches(version))
            assert kind.contents(reader) == kind.expected(range(15, 60))

    run(scenario)


def test_34_large_values() -> None:
    """Values of half a megabyte, and elements and keys of 60,000 bytes."""

    async def scenario(site: Site) -> None:
        values, elements = Map("values", str, str), Set("elements", str)
        jobs = PriorityQueue("jobs", str, str)
        group = await founder(site)
        long_key = "k" * 60_000
        await within(values.writer(group).extend({str(n): str(n) * 500_000 for n in range(3)}))
        await within(elements.writer(group).add(long_key, "short"))
        done = await within(jobs.writer(group).push(long_key, 1, "v" * 500_000))
        late = await observer(site, "late")
        await caught_up(late, done.version)

        assert dict(values.reader(late)) == {str(n): str(n) * 500_000 for n in range(3)}
        assert set(elements.reader(late)) == {long_key, "short"}
        assert jobs.reader(late).first().value == "v" * 500_000

    run(scenario)


@kinds
def test_35_recreate_reader(kind: Any) -> None:
    """A reader is dropped, and another one is made for the same collection: on its node, and on a new one."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        version = await kind.fill(writer, range(20), 5)
        group = await observer(site, "reader")
        first = definition.reader(group)
        await within(first.when().reaches(version))
        del first
        assert kind.contents(definition.reader(group)) == kind.expected(range(20))
        await within(group.close())
        version = await kind.fill(writer, range(20, 30), 5)
        again = definition.reader(await observer(site, "again"))
        await within(again.when().reaches(version))

        assert kind.contents(again) == kind.expected(range(30))

    run(scenario)


def test_36_overwrite_keys() -> None:
    """The newest value of a map's key, and the newest entry of a queue's, are what a late reader holds."""

    async def scenario(site: Site) -> None:
        group = await founder(site)
        for kind in (MAP, QUEUE):
            definition = type(kind.define())(kind.name, int, str)
            writer = definition.writer(group)
            for turn in ("old", "new"):
                for number in range(5):
                    done = (
                        await within(writer.insert(number, turn))
                        if kind is MAP
                        else await within(writer.push(number, number, turn))
                    )
            assert done.effect
        late = await observer(site, "late")
        await caught_up(late, done.version)

        assert dict(Map("map", int, str).reader(late)) == dict.fromkeys(range(5), "new")
        entries = list(PriorityQueue("queue", int, str).reader(late))
        assert [(entry.key, entry.value) for entry in entries] == [(n, "new") for n in (4, 3, 2, 1, 0)]

    run(scenario)


def test_36_map_extend_with_overlapping_keys_and_remove_nonexistent_keys() -> None:
    async def scenario(site: Site) -> None:
        definition = Map("strings", str, int)
        writer = definition.writer(await founder(site))
        first = await within(writer.extend({"a": 1, "b": 2}))
        second = await within(writer.extend([("b", 3), ("c", 4), ("c", 5)]))
        assert (first.added, first.replaced, second.added, second.replaced) == (2, 0, 1, 1)
        gone = await within(writer.remove("x", "y"))
        assert (gone.count, gone.effect, gone.version) == (0, False, second.version)
        assert (await within(writer.remove("a", "x"))).count == 1
        reader = definition.reader(await observer(site, "late"))
        await within(reader.when().reaches(writer.version))

        assert dict(reader) == {"b": 3, "c": 5}

    run(scenario)


def test_36_set_insert_duplicates_and_remove_nonexistent_values() -> None:
    async def scenario(site: Site) -> None:
        definition = Set("words", str)
        writer = definition.writer(await founder(site))
        assert (await within(writer.add("a", "b", "a"))).added == 2
        again = await within(writer.add("a"))
        assert (again.added, again.effect) == (0, False)
        assert not (await within(writer.remove("x"))).effect
        reader = definition.reader(await observer(site, "late"))
        await within(reader.when().reaches(writer.version))

        assert reader == {"a", "b"}

    run(scenario)


def test_36_queue_remove_range_and_min_max_after_sync() -> None:
    async def scenario(site: Site) -> None:
        definition = PriorityQueue("jobs", str, str)
        writer = definition.writer(await founder(site))
        await within(writer.extend((f"k{priority}", priority, "job") for priority in range(-5, 6)))
        assert (await within(writer.remove_range(-1, 3))).count == 5
        assert not (await within(writer.remove_range(0, 2))).effect
        reader = definition.reader(await observer(site, "late"))
        await within(reader.when().reaches(writer.version))

        assert [entry.priority for entry in reader] == [5, 4, -2, -3, -4, -5]
        assert (reader.first().key, reader.last().key) == ("k5", "k-5")

    run(scenario)
