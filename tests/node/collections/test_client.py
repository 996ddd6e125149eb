"""The typed collections through the HTTP API, over the real server; and the codec and answers alone."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import CollectionsMachine, KeyValue
from node.client import RefusedError
from node.collections import (
    AnswerError,
    Cell,
    Map,
    Once,
    PriorityEntry,
    PriorityQueue,
    Set,
    StoredValueError,
    ValueRefusedError,
    Vec,
)
from node.collections import base as base_module
from node.collections.codec import Codec
from node.collections.wire import MachineResult
from tests.node.api.fakes import FakeService, served, write_ca
from tests.node.client.scripted import connected
from tests.node.collections.support import Order


@pytest.fixture
def client(tmp_path):
    with (
        served(FakeService(machine=CollectionsMachine())) as port,
        connected(write_ca(tmp_path), port) as one,
    ):
        yield one


def test_a_map(client, monkeypatch):
    monkeypatch.setattr(base_module, "PAGE_ITEMS", 3)
    orders = Map("orders", str, Order).client(client)
    assert (orders.get("a"), list(orders.items()), orders.length(), orders.version()) == (None, [], 0, 0)
    written = orders.insert("a", Order("x", 1))
    assert (written.replaced, written.effect, written.version) == (False, True, orders.version())
    assert orders.insert("a", Order("x", 2)).replaced
    assert orders.get("a") == Order("x", 2)
    mismatch = orders.compare_exchange("a", Order("x", 1), None)
    assert (mismatch.swapped, mismatch.actual) == (False, Order("x", 2))
    assert orders.compare_exchange("a", Order("x", 2), Order("é", 3)).swapped
    extended = orders.extend({f"k{number}": Order("y", number) for number in range(8)})
    assert (extended.added, orders.length()) == (8, 9)
    assert [key for key, _ in orders.items()] == ["a", *(f"k{number}" for number in range(8))]
    assert orders.pop("k1").value == Order("y", 1)
    assert not orders.pop("k1").found
    assert orders.remove("k2", "k3", "zz").count == 2
    assert orders.clear().count == 6
    assert orders.drop().effect
    assert (orders.drop().effect, orders.length()) == (False, 0)
    assert not orders.insert("again", Order("x", 1)).replaced


def test_a_map_of_bytes(client, monkeypatch):
    monkeypatch.setattr(base_module, "PAGE_ITEMS", 1)
    raw = Map("raw", bytes, bytes).client(client)
    items = {b"\xff": b"\x00\x80", b"a": b"text", b"\xfe\xff": b""}
    raw.extend(items)

    assert dict(raw.items()) == items
    assert raw.get(b"\xff") == b"\x00\x80"


def test_a_set(client):
    tags = Set("tags", str).client(client)
    assert tags.contains("a", "b") == [False, False]
    assert tags.add("b", "a", "b").added == 2
    assert not tags.add("a").effect
    assert tags.extend(["c"]).added == 1
    assert tags.contains("a", "z") == [True, False]
    assert tags.remove("b", "z").count == 1
    assert (list(tags.elements()), tags.length(), tags.version() > 0) == (["a", "c"], 2, True)
    assert tags.clear().count == 2
    assert tags.drop().effect


def test_a_vec(client, monkeypatch):
    monkeypatch.setattr(base_module, "PAGE_ITEMS", 2)
    events = Vec("events", str).client(client)
    assert events.get(0) is None
    assert events.append("b").length == 1
    assert events.appendleft("a").length == 2
    assert events.extend(["c", "d", "e"]).count == 3
    assert (list(events.values()), events.get(4), events.get(5)) == (list("abcde"), "e", None)
    assert (events.pop().value, events.popleft().value) == ("e", "a")
    assert (events.insert(1, "x").placed, events.insert(9, "x").placed) == (True, False)
    assert (events.set(0, "B").placed, events.swap(0, 2).placed, events.swap(0, 9).placed) == (
        True,
        True,
        False,
    )
    assert (events.remove(1).value, events.truncate(1).count) == ("x", 2 - 1 + 1)
    assert (list(events.values()), events.length(), events.version() > 0) == (["c"], 1, True)
    assert events.clear().count == 1
    assert not events.pop().found
    assert events.drop().effect


def test_a_cell_and_a_once(client):
    leader, winner = Cell("leader", str).client(client), Once("winner", Order).client(client)
    assert (leader.get(), winner.get()) == (None, None)
    assert leader.compare_exchange(None, "a").swapped
    assert leader.compare_exchange(None, "b").actual == "a"
    assert leader.write("b").replaced
    assert (leader.get(), leader.clear().count, leader.get()) == ("b", 1, None)
    first = winner.write(Order("x", 1))
    second = winner.write(Order("x", 2))
    assert (first.written, second.written) == (True, False)
    assert first.value == second.value == winner.get() == Order("x", 1)
    assert winner.version() == first.version == second.version > leader.version()
    assert leader.drop().effect
    assert winner.drop().effect


def test_a_priority_queue(client, monkeypatch):
    monkeypatch.setattr(base_module, "PAGE_ITEMS", 1)
    jobs = PriorityQueue("jobs", str, Order, capacity=3).client(client)
    assert (jobs.first(), jobs.last(), jobs.get("a"), list(jobs.entries())) == (None, None, None, [])
    assert jobs.push("a", 1, Order("x", 1)).kept == 1
    assert jobs.extend([("b", 2, Order("x", 2)), ("c", 2, Order("x", 3)), ("d", 0, Order("x", 4))]).kept == 2
    assert [entry.key for entry in jobs.entries()] == ["b", "c", "a"]
    assert (jobs.first(), jobs.last().key) == (PriorityEntry("b", 2, Order("x", 2)), "a")
    assert jobs.update_priority("a", 7).placed
    assert jobs.update_value("a", Order("y", 9)).placed
    assert jobs.compare_exchange("a", Order("y", 9), Order("z", 0)).swapped
    assert jobs.get("a") == PriorityEntry("a", 7, Order("z", 0))
    assert (jobs.pop().value.key, jobs.pop_last().value.key) == ("a", "c")
    assert (jobs.remove("x").count, jobs.remove_range(2, 2).count) == (0, 1)
    assert (jobs.length(), jobs.version() > 0, jobs.clear().effect) == (0, True, False)
    assert jobs.drop().effect


def test_a_refusal_of_the_machine_has_its_code(client):
    Map("x", str, int).client(client).insert("a", 1)
    with pytest.raises(RefusedError) as caught:
        Set("x", str).client(client).add("a")
    assert caught.value.reason == "kind-differs"
    with pytest.raises(RefusedError) as caught:
        Set("x", str).client(client).contains("a")
    assert caught.value.reason == "kind-differs"


def test_a_group_of_another_machine_is_noticed(tmp_path):
    with (
        served(FakeService(machine=KeyValue())) as port,
        connected(write_ca(tmp_path), port) as client,
        pytest.raises(RefusedError) as caught,
    ):
        Map("x", str, int).client(client).insert("a", 1)

    assert caught.value.reason == "op-unknown"


# ---- the codec ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Point:
    x: float
    y: float


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (str, ["", "a", "é"]),
        (bytes, [b"", b"\xff"]),
        (int, [-(2**63), -1, 0, 1, 10, 2**63 - 1]),
        (bool, [False, True]),
        (UUID, [UUID(int=7)]),
        (date, [date(2026, 11, 30)]),
        (tuple[int, str], [(1, "a")]),
        (Point, [Point(0.1, -0.0)]),
        (Order, [Order("é", 1, 1e300)]),
        (dict[str, int], [{"b": 1, "a": 2}]),
    ],
)
def test_a_value_comes_back_and_keys_too(kind, values):
    for codec in (Codec(kind), Codec(kind, key=True)):
        assert [codec.decode(codec.encode(value)) for value in values] == values


def test_equal_values_have_equal_bytes():
    codec = Codec(dict[str, int])

    assert codec.encode({"b": 1, "a": 2}) == codec.encode({"a": 2, "b": 1}) == b'{"a":2,"b":1}'


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_numbers_as_keys_are_in_their_order(one, other):
    codec = Codec(int, key=True)

    assert (codec.encode(one) < codec.encode(other)) == (one < other)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (str, True, 7),
        (str, True, "\ud800"),
        (bytes, False, "text"),
        (int, True, True),
        (int, True, 2**63),
        (int, True, "7"),
        (int, False, "7"),
        (Order, False, Point(0.0, 0.0)),
        (float, False, float("nan")),
        (Point, False, object()),
    ],
)
def test_a_value_that_no_reader_could_read_is_refused(kind, key, value):
    with pytest.raises(ValueRefusedError):
        Codec(kind, key=key).encode(value)


@pytest.mark.parametrize(
    ("kind", "key", "stored"),
    [
        (str, True, b"\xff"),
        (int, True, b"7"),
        (int, True, b"000000000000000G"),
        (int, True, b" 00000000000000f"),
        (Order, False, b"{}"),
        (Order, False, b"\xff"),
    ],
)
def test_stored_bytes_of_another_type_are_an_error_of_their_own(kind, key, stored):
    with pytest.raises(StoredValueError):
        Codec(kind, key=key).decode(stored)


# ---- answers of another machine, or of a server that lies -----------------------------------
@pytest.mark.parametrize(
    "read",
    [
        lambda: MachineResult(None),
        lambda: MachineResult({}).version,
        lambda: MachineResult({"version": True}).version,
        lambda: MachineResult({"swapped": 1}).flag("swapped"),
        lambda: MachineResult({"contained": [1]}).flags("contained"),
        lambda: MachineResult({}).item(),
        lambda: MachineResult({"item": 7}).item(),
        lambda: MachineResult({"items": {}}).items(),
        lambda: MachineResult({"value_b64": "!"}).data("value"),
        lambda: MachineResult({"value": 7}).data("value"),
        lambda: MachineResult({"value": "\ud800"}).data("value"),
    ],
)
def test_an_answer_of_another_form_is_refused(read):
    with pytest.raises(AnswerError):
        read()
