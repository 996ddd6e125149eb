"""Acceptance checklist 1.5, "Collections proper": every kind, with writers and readers over real bonds.

``construct_from_macro`` has no counterpart: a definition is a value, shared by all who use it
(``construct_from_def``), and needs no macro.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from node import CommandFailedError, GroupClosedError
from node.collections import (
    Cell,
    Map,
    Once,
    PriorityEntry,
    PriorityQueue,
    Set,
    StoredValueError,
    ValueRefusedError,
    Vec,
    WrongMachineError,
    execute_together,
)
from tests.node.collections.support import (
    CELL,
    KINDS,
    ONCE,
    Order,
    founder,
    member,
    observer,
    observers,
    run,
    voters,
)
from tests.support.groups import INIT, Site, within
from tests.support.groups import counter as counter_builder

kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


# ---- every kind ---------------------------------------------------------------------------
@kinds
def test_smoke_no_catchup(kind: Any) -> None:
    """A reader that is there from the start shows each change as soon as it reaches its version."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        reader = definition.reader(await observer(site, "reader"))
        for number in range(5):
            version = await kind.fill(writer, [number], 1)
            await within(reader.when().reaches(version))
            assert kind.contents(reader) == kind.expected(range(number + 1))

    run(scenario)


@kinds
def test_catchup_single_reader(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        version = await kind.fill(definition.writer(await founder(site)), range(30), 4)
        reader = definition.reader(await observer(site, "reader"))
        await within(reader.when().reaches(version))

        assert kind.contents(reader) == kind.expected(range(30))
        with pytest.raises(AttributeError):
            await reader.clear()

    run(scenario)


@kinds
def test_multiple_readers_and_catchup_multiple_readers(kind: Any) -> None:
    """Readers that were there, and readers that came later, hold the same."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        groups = await observers(site, 2)
        await kind.fill(writer, range(20), 3)
        late = [await observer(site, f"late{number}") for number in range(2)]
        version = await kind.fill(writer, range(20, 30), 3)
        for group in groups + late:
            reader = definition.reader(group)
            await within(reader.when().reaches(version))
            assert kind.contents(reader) == kind.expected(range(30))

    run(scenario)


@kinds
def test_multiple_writers_and_writer_reads_own_writes(kind: Any) -> None:
    """Every member writes; each shows its own write when the call returns, and all end with the same."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        writers = [definition.writer(group) for group in await voters(site, 3)]
        writers.append(definition.writer(await observer(site, "observer")))
        for number in range(20):
            writer = writers[number % 4]
            await kind.fill(writer, [number], 1)
            assert kind.contents(writer) == kind.expected(range(number + 1))
        for writer in writers:
            await within(writer.when().reaches(writers[3].version))
            assert kind.contents(writer) == kind.expected(range(20))

    run(scenario)


@kinds
def test_many_writers_many_readers(kind: Any) -> None:
    """Concurrent writers on three members: nothing is lost, and every reader holds what every writer holds."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        groups = await voters(site, 3)
        readers = [definition.reader(group) for group in await observers(site, 2)]
        writers = [definition.writer(group) for group in groups]
        versions = await asyncio.gather(
            *(kind.fill(writer, range(start, 90, 3), 2) for start, writer in enumerate(writers))
        )
        everyone = [*writers, *readers]
        for one in everyone:
            await within(one.when().reaches(max(versions)))

        assert all(kind.contents(one) == kind.contents(writers[0]) for one in everyone)
        assert len(writers[0]) == 90
        if kind.name in {"map", "set"}:
            assert kind.contents(writers[0]) == kind.expected(range(90))

    run(scenario)


@kinds
def test_late_writer_catchup(kind: Any) -> None:
    """A member that joins late shows what was written, and writes."""

    async def scenario(site: Site) -> None:
        definition = kind.define()
        first = definition.writer(await founder(site))
        version = await kind.fill(first, range(20), 3)
        late = definition.writer(await member(site, "b"))
        await within(late.when().reaches(version))
        assert kind.contents(late) == kind.expected(range(20))
        version = await kind.fill(late, range(20, 25), 3)
        await within(first.when().reaches(version))

        assert kind.contents(first) == kind.expected(range(25))

    run(scenario)


@kinds
def test_clear_then_rebuild_and_extend_empty(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        definition = kind.define()
        writer = definition.writer(await founder(site))
        nothing = await within(writer.extend(kind.items([])))
        assert (nothing.effect, len(writer)) == (False, 0)
        assert not (await within(writer.clear())).effect
        await kind.fill(writer, range(10), 10)
        nothing = await within(writer.extend(kind.items([])))
        assert (nothing.effect, nothing.version) == (False, writer.version)
        cleared = await within(writer.clear())
        assert (cleared.count, cleared.effect, len(writer)) == (10, True, 0)
        await kind.fill(writer, range(5), 1)

        assert kind.contents(writer) == kind.expected(range(5))

    run(scenario)


@kinds
def test_construct_from_def(kind: Any) -> None:
    """Definitions that are written down twice are the same collection."""

    async def scenario(site: Site) -> None:
        group = await founder(site)
        await kind.fill(kind.define().writer(group), range(3), 3)

        assert kind.contents(kind.define().reader(group)) == kind.expected(range(3))

    run(scenario)


@kinds
def test_a_snapshot_stays_as_it_was_and_iteration_shows_one_state(kind: Any) -> None:
    async def scenario(site: Site) -> None:
        writer = kind.define().writer(await founder(site))
        await kind.fill(writer, range(10), 10)
        snapshot, iterator = writer.snapshot(), iter(writer)
        next(iterator)
        await within(writer.clear())

        assert kind.contents(snapshot) == kind.expected(range(10))
        assert (len(writer), len(snapshot), len(list(iterator))) == (0, 10, 9)
        assert snapshot.version < writer.version

    run(scenario)


# ---- map ------------------------------------------------------------------------------------
def test_map_compare_exchange() -> None:
    """Success, from none, to none, none to none, mismatch, chained, several keys, at a reader, after catch-up."""

    async def scenario(site: Site) -> None:
        definition = Map("m", str, Order)
        writer = definition.writer(await founder(site))
        reader = definition.reader(await observer(site, "reader"))
        one, two, three = (Order("x", count) for count in (1, 2, 3))
        created = await within(writer.compare_exchange("a", None, one))
        assert (created.swapped, created.effect, created.actual) == (True, True, None)
        for expected, new in ((one, two), (two, three), (three, one)):  # chained
            assert (await within(writer.compare_exchange("a", expected, new))).swapped
        before = writer.version
        mismatch = await within(writer.compare_exchange("a", two, three))
        assert (mismatch.swapped, mismatch.effect, mismatch.actual) == (False, False, one)
        assert not (await within(writer.compare_exchange("a", None, three))).swapped
        absent = await within(writer.compare_exchange("b", one, two))
        assert (absent.swapped, absent.actual) == (False, None)
        assert (await within(writer.compare_exchange("b", None, None))).swapped
        assert (dict(writer), writer.version) == ({"a": one}, before)
        for key in ("b", "c"):
            assert (await within(writer.compare_exchange(key, None, two))).swapped
        removed = await within(writer.compare_exchange("a", one, None))
        assert removed.swapped
        late = definition.reader(await observer(site, "late"))
        for one_reader in (reader, late):
            await within(one_reader.when().reaches(removed.version))
            assert dict(one_reader) == {"b": two, "c": two}

    run(scenario)


def test_of_concurrent_compare_exchanges_exactly_one_takes_effect_and_all_say_so() -> None:
    async def scenario(site: Site) -> None:
        definition = Map("m", str, int)
        writers = [definition.writer(group) for group in await voters(site, 3)]
        outcomes = await within(
            asyncio.gather(*(w.compare_exchange("k", None, n) for n, w in enumerate(writers)))
        )
        won = [number for number, outcome in enumerate(outcomes) if outcome.swapped]

        assert len(won) == 1
        assert all(outcome.actual == won[0] for outcome in outcomes if not outcome.swapped)
        assert [writer["k"] for writer in writers] == won * 3

    run(scenario)


def test_map_pop_and_the_behaviour_of_a_mapping() -> None:
    async def scenario(site: Site) -> None:
        writer = Map("m", int, str).writer(await founder(site))
        assert not (await within(writer.insert(-5, "minus"))).replaced
        assert (await within(writer.insert(-5, "minus five"))).replaced
        await within(writer.extend({10: "ten", 9: "nine", 1000: "thousand"}))

        assert list(writer) == [-5, 9, 10, 1000]  # numbers in their order
        assert (writer[9], writer.get(8), writer.get(8, "none")) == ("nine", None, "none")
        assert 9 in writer
        assert 8 not in writer
        assert "9" not in writer
        assert True not in writer
        assert next(iter(writer.items())) == (-5, "minus five")
        assert list(writer.values()) == ["minus five", "nine", "ten", "thousand"]
        assert writer.keys() & {9, 8} == {9}
        with pytest.raises(KeyError):
            _ = writer[8]
        taken = await within(writer.pop(9))
        assert (taken.found, taken.value, taken.effect) == (True, "nine", True)
        again = await within(writer.pop(9))
        assert (again.found, again.value, again.version) == (False, None, taken.version)
        assert writer == {-5: "minus five", 10: "ten", 1000: "thousand"}

    run(scenario)


# ---- cell and once ----------------------------------------------------------------------------
def test_cell_write_and_compare_exchange() -> None:
    """Success, from and to none, none to none, mismatch, chained, at a reader, after catch-up."""

    async def scenario(site: Site) -> None:
        writer = CELL.writer(await founder(site))
        reader = CELL.reader(await observer(site, "reader"))
        one, two = Order("x", 1), Order("x", 2)
        assert (writer.get(), reader.get()) == (None, None)
        assert (await within(writer.compare_exchange(None, None))).swapped
        assert (await within(writer.compare_exchange(None, one))).swapped
        mismatch = await within(writer.compare_exchange(two, one))
        assert (mismatch.swapped, mismatch.actual, writer.get()) == (False, one, one)
        assert (await within(writer.compare_exchange(one, two))).swapped
        assert (await within(writer.write(one))).replaced
        assert (await within(writer.compare_exchange(one, None))).swapped
        assert writer.get() is None
        assert not (await within(writer.write(two))).replaced
        assert (await within(writer.clear())).effect
        assert not (await within(writer.clear())).effect
        written = await within(writer.write(two))
        late = CELL.reader(await observer(site, "late"))
        for one_reader in (reader, late):
            await within(one_reader.when().reaches(written.version))
            assert one_reader.get() == two
            assert await within(one_reader.value()) == two

    run(scenario)


def test_once_await_value_and_first_write_wins() -> None:
    async def scenario(site: Site) -> None:
        groups = await voters(site, 3)
        waiting = [asyncio.create_task(ONCE.reader(group).value()) for group in groups]
        await asyncio.sleep(0)
        assert ONCE.reader(groups[0]).get() is None
        outcomes = await within(
            asyncio.gather(*(ONCE.writer(group).write(Order("x", n)) for n, group in enumerate(groups)))
        )
        (first,) = [number for number, outcome in enumerate(outcomes) if outcome.written]
        late = ONCE.reader(await observer(site, "late"))

        assert all(outcome.value == Order("x", first) for outcome in outcomes)
        assert [outcome.effect for outcome in outcomes].count(True) == 1
        assert await within(asyncio.gather(*waiting)) == [Order("x", first)] * 3
        assert await within(late.value()) == Order("x", first)
        with pytest.raises(CommandFailedError) as caught:
            await within(execute_together(groups[0], [ONCE.commands.clear()]))
        assert caught.value.code == "once-is-written"

    run(scenario)


def test_a_wait_for_a_value_ends_with_the_group() -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site)
        waits = [ONCE.reader(group).value(), CELL.reader(group).when().updated()]
        tasks = [asyncio.ensure_future(one) for one in waits]
        await asyncio.sleep(0)
        await within(group.close())
        for task in tasks:
            with pytest.raises(GroupClosedError):
                await within(task)

    run(scenario)


# ---- vec --------------------------------------------------------------------------------------
def test_vec_push_order_pop_until_empty_swap_insert_positions_truncate_edges_and_remove_out_of_bounds() -> (
    None
):
    async def scenario(site: Site) -> None:
        writer = Vec("v", str).writer(await founder(site))
        await within(writer.append("b"))
        await within(writer.appendleft("a"))
        pushed = await within(writer.extend(["c", "d"]))
        assert (pushed.length, pushed.count, list(writer)) == (4, 2, ["a", "b", "c", "d"])
        assert (writer[0], writer[-1], writer[1:3], writer[::-2]) == ("a", "d", ["b", "c"], ["d", "b"])
        assert (writer.index("c"), writer.count("z"), "b" in writer) == (2, 0, True)
        with pytest.raises(IndexError):
            _ = writer[4]

        assert (await within(writer.swap(0, 3))).placed
        outside = await within(writer.swap(0, 4))
        assert (outside.placed, outside.effect, list(writer)) == (False, False, ["d", "b", "c", "a"])
        for index, value, placed in (
            (0, "first", True),
            (5, "last", True),
            (3, "mid", True),
            (99, "x", False),
        ):
            assert (await within(writer.insert(index, value))).placed == placed
        assert list(writer) == ["first", "d", "b", "mid", "c", "a", "last"]
        assert (await within(writer.set(2, "B"))).placed
        assert not (await within(writer.set(7, "x"))).effect
        taken = await within(writer.remove(2))
        assert (taken.found, taken.value) == (True, "B")
        assert not (await within(writer.remove(6))).found
        for length, count in ((9, 0), (6, 0), (4, 2), (4, 0)):
            assert (await within(writer.truncate(length))).count == count
        assert list(writer) == ["first", "d", "mid", "c"]

        popped = [(await within(writer.pop())).value, (await within(writer.popleft())).value]
        while (one := await within(writer.pop())).found:
            popped.append(one.value)
        assert (popped, len(writer)) == (["c", "first", "mid", "d"], 0)
        assert not (await within(writer.popleft())).effect
        assert (await within(writer.truncate(0))).count == 0

    run(scenario)


# ---- set --------------------------------------------------------------------------------------
def test_set_subset_check_and_the_behaviour_of_a_set() -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site)
        small, large = Set("small", int).writer(group), Set("large", int).writer(group)
        await within(small.extend([3, 1, 2]))
        await within(large.extend(range(10)))

        assert small <= large
        assert not large <= small
        assert small < large
        assert large >= small
        assert small & large == {1, 2, 3}
        assert (large - small) | small == set(range(10))
        assert small.isdisjoint({7})
        assert {1} <= small
        assert 1 in small
        assert "1" not in small
        assert 11 not in large
        assert list(small) == [1, 2, 3]

    run(scenario)


# ---- priority queue ---------------------------------------------------------------------------
def test_queue_same_priority_bucket_updates_iter_order_and_remove_range() -> None:
    async def scenario(site: Site) -> None:
        writer = PriorityQueue("q", str, str).writer(await founder(site))
        for key, priority in (("a", 1), ("b", 2), ("c", 2), ("d", 1), ("e", 3)):
            assert (await within(writer.push(key, priority, key.upper()))).kept == 1
        assert [entry.key for entry in writer] == ["e", "b", "c", "a", "d"]
        assert (await within(writer.update_priority("b", 1))).placed
        assert [entry.key for entry in writer] == ["e", "c", "a", "d", "b"]  # behind those of its priority
        assert (await within(writer.update_value("c", "new"))).placed
        assert not (await within(writer.update_value("x", "new"))).effect
        assert not (await within(writer.update_priority("x", 9))).placed
        assert writer.get("c") == PriorityEntry("c", 2, "new")
        assert writer.get("x") is None
        assert "c" in writer
        assert "x" not in writer
        assert 7 not in writer

        mismatch = await within(writer.compare_exchange("c", "C", "newer"))
        assert (mismatch.swapped, mismatch.actual) == (False, "new")
        assert (await within(writer.compare_exchange("c", "new", "newer"))).swapped
        assert (await within(writer.compare_exchange("c", "newer", None))).swapped
        assert (await within(writer.compare_exchange("c", "newer", "x"))).actual is None
        assert (await within(writer.remove_range(3, 3))).count == 1
        taken = await within(writer.pop())
        assert (taken.found, taken.value) == (True, PriorityEntry("a", 1, "A"))
        assert (await within(writer.pop_last())).value == PriorityEntry("b", 1, "B")
        assert (await within(writer.remove("d", "x"))).count == 1
        empty = await within(writer.pop())
        assert (empty.found, empty.value, empty.effect) == (False, None, False)
        assert (writer.first(), writer.last(), len(writer)) == (None, None, 0)

    run(scenario)


def test_two_poppers_never_take_the_same_entry() -> None:
    async def scenario(site: Site) -> None:
        definition = PriorityQueue("q", int, str)
        writers = [definition.writer(group) for group in await voters(site, 2)]
        await within(writers[0].extend((n, 0, "job") for n in range(20)))
        outcomes = await within(asyncio.gather(*(writers[n % 2].pop() for n in range(30))))
        taken = [outcome.value.key for outcome in outcomes if outcome.found]

        assert sorted(taken) == list(range(20))
        assert len(outcomes) - len(taken) == 10

    run(scenario)


def test_bounded_queue_evicts_lowest_also_the_new_entry_extend_evicts_several_and_upsert_does_not_evict() -> (
    None
):
    async def scenario(site: Site) -> None:
        definition = PriorityQueue("q", str, int, capacity=3)
        group = await founder(site)
        writer = definition.writer(group)
        await within(writer.extend([("a", 1, 0), ("b", 2, 0), ("c", 3, 0)]))
        pushed = await within(writer.push("d", 4, 0))
        assert (pushed.kept, pushed.evicted, pushed.length, "a" in writer) == (1, 1, 3, False)
        itself = await within(writer.push("low", 0, 0))
        assert (itself.kept, itself.evicted, itself.effect, "low" in writer) == (0, 1, False, False)
        upsert = await within(writer.push("b", 9, 1))
        assert (upsert.kept, upsert.replaced, upsert.evicted) == (1, 1, 0)
        several = await within(writer.extend([("x", 10, 0), ("y", 11, 0), ("z", 0, 0)]))
        assert (several.kept, several.evicted, several.length) == (2, 3, 3)
        assert [entry.key for entry in writer] == ["y", "x", "b"]

    run(scenario)


# ---- several collections, other types ----------------------------------------------------------
def test_changes_of_several_collections_are_one_atomic_entry() -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site)
        orders, jobs, log = Map("orders", str, int), PriorityQueue("jobs", str, str), Vec("log", str)
        together = [
            orders.commands.insert("a", 1),
            jobs.commands.extend([("a", 5, "ship")]),
            log.commands.push(["a ordered"]),
            orders.commands.compare_exchange("a", 1, 2),
        ]
        outcomes = await within(execute_together(group, together, key=b"once"))
        again = await within(execute_together(group, together, key=b"once"))
        assert again == outcomes
        assert len({outcome.version for outcome in outcomes}) == 1
        assert (dict(orders.reader(group)), list(log.reader(group))) == ({"a": 2}, ["a ordered"])
        with pytest.raises(CommandFailedError):
            await within(
                execute_together(
                    group, [orders.commands.insert("b", 1), Set("log", str).commands.add(["kind differs"])]
                )
            )
        assert dict(orders.reader(group)) == {"a": 2}

    run(scenario)


def test_a_dropped_collection_is_gone_and_may_be_declared_anew_as_another_kind() -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site)
        writer = Map("x", str, int).writer(group)
        assert not (await within(writer.drop())).effect
        await within(writer.insert("a", 1))
        with pytest.raises(WrongMachineError, match="x is a map, not a set"):
            len(Set("x", str).reader(group))
        assert (await within(writer.drop())).effect
        assert (dict(writer), writer.version) == ({}, 0)
        assert (await within(Set("x", str).writer(group).add("a"))).effect

    run(scenario)


@dataclass(frozen=True)
class Point:
    x: float
    y: float


def test_values_are_dataclasses_structs_and_standard_types_and_others_are_refused_before_the_log() -> None:
    async def scenario(site: Site) -> None:
        group = await founder(site)
        points = Map("points", str, Point).writer(group)
        await within(points.insert("a", Point(0.1, -2.5)))
        assert points["a"] == Point(0.1, -2.5)
        position = group.log_position
        for refused in (
            points.insert("b", Order("x", 1)),  # type: ignore[arg-type]
            points.insert("b", Point(float("nan"), 0.0)),
            points.insert(7, Point(0.0, 0.0)),  # type: ignore[arg-type]
            points.insert("\ud800", Point(0.0, 0.0)),
        ):
            with pytest.raises(ValueRefusedError):
                await refused
        assert group.log_position == position
        raw = Map("raw", bytes, bytes).writer(group)
        await within(raw.insert(b"\xff\x00", b"\x80"))
        await within(raw.extend({b"a": b"text", b"\xfe": b""}))
        assert dict(raw) == {b"\xff\x00": b"\x80", b"a": b"text", b"\xfe": b""}
        with pytest.raises(StoredValueError):
            dict(Map("points", str, Order).reader(group))

    run(scenario)


def test_a_group_of_another_machine_has_no_collections() -> None:
    async def scenario(site: Site) -> None:
        group = counter_builder(await site.network("a"), INIT).join()
        with pytest.raises(WrongMachineError, match="bondstone/counter/v1"):
            len(Map("m", str, int).reader(group))
        with pytest.raises(WrongMachineError):
            await Map("m", str, int).writer(group).insert("a", 1)

    run(scenario)


@pytest.mark.parametrize("name", ["", "n" * 129, "é" * 65])
def test_a_name_is_bounded(name: str) -> None:
    for define in (lambda: Map(name, str, int), lambda: Cell(name, int), lambda: Once(name, int)):
        with pytest.raises(ValueRefusedError, match="1 to 128 bytes"):
            define()
