"""The watches of a member, over a small store."""

import random
from collections.abc import Sequence

import pytest

from node.machines.keys import KeyRange
from node.watch.hub import (
    BYTES_MAX,
    BYTES_PER_OWNER_MAX,
    RANGE_COST,
    REVISIONS_PER_STEP_MAX,
    WATCH_COST,
    WATCHES_PER_OWNER_MAX,
    WatchHub,
)
from node.watch.stream import (
    BYTES_PER_ANSWER,
    DUPLICATE_ID,
    EMPTY_RANGE,
    FRAGMENT_BYTES_MAX,
    NOTIFY_S,
    PERMISSION_DENIED,
    REVISIONS_PER_TURN_MAX,
    TOO_MANY,
    WAITING_MAX,
    WatchStream,
)
from node.watch.values import NO_WATCH, WatchAnswer, WatchOrder
from tests.node.watch.histories import SmallStore


def yes(start: bytes, end: bytes | None) -> bool:
    return True


def no(start: bytes, end: bytes | None) -> bool:
    return False


def key(name: bytes, **options: object) -> WatchOrder:
    return WatchOrder(start=name, end=name + b"\0", **options)  # type: ignore[arg-type]


def prefix(name: bytes, **options: object) -> WatchOrder:
    return WatchOrder(start=name, end=KeyRange.of_prefix(name).end, **options)  # type: ignore[arg-type]


def drain(stream: WatchStream, now_s: float = 0.0) -> list[WatchAnswer]:
    answers = []
    while stream.ready:
        answer = stream.take(now_s)
        if answer is not None:
            answers.append(answer)
    return answers


def one(stream: WatchStream) -> WatchAnswer:
    (answer,) = drain(stream)
    return answer


def shown(answers: Sequence[WatchAnswer]) -> list[tuple[int, bytes, bytes | None]]:
    return [
        (change.revision, change.key, None if change.version is None else change.version.value)
        for answer in answers
        for change in answer.changes
    ]


@pytest.fixture
def store() -> SmallStore:
    return SmallStore()


@pytest.fixture
def hub(store: SmallStore) -> WatchHub:
    return WatchHub(store)


@pytest.fixture
def stream(hub: WatchHub) -> WatchStream:
    return hub.attach(b"owner", yes)


# ---- creation -------------------------------------------------------------------
def test_wch_01_a_watch_is_answered_with_its_id_and_the_head(store: SmallStore, stream: WatchStream) -> None:
    stream.create(key(b"a"), 0)
    stream.create(key(b"b"), 0)
    stream.create(key(b"c", watch_id=7), 0)
    assert [(one.watch_id, one.created, one.revision) for one in drain(stream)] == [
        (0, True, 1),
        (1, True, 1),
        (7, True, 1),
    ]


def test_wch_02_an_id_in_use_and_an_empty_range_are_refused_and_the_stream_lives_on(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"a", watch_id=3), 0)
    stream.create(key(b"b", watch_id=3), 0)
    stream.create(WatchOrder(start=b"b", end=b"a"), 0)
    stream.create(WatchOrder(start=b"b", end=b"b"), 0)
    good, *refused = drain(stream)
    assert not good.canceled
    assert [one.reason for one in refused] == [DUPLICATE_ID, EMPTY_RANGE, EMPTY_RANGE]
    assert all(one.created and one.canceled and one.watch_id == NO_WATCH for one in refused)
    store.write((b"a", b"1"))
    hub.stepped()
    assert shown(drain(stream)) == [(2, b"a", b"1")]


def test_an_id_that_was_chosen_is_never_chosen_again(stream: WatchStream) -> None:
    stream.create(key(b"a", watch_id=1), 0)
    stream.create(key(b"a"), 0)
    stream.cancel(0)
    stream.create(key(b"a"), 0)
    assert [one.watch_id for one in drain(stream) if one.created] == [1, 0, 2]


def test_wch_03_a_watch_begins_where_its_client_wants(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    for number in range(4):
        store.write((b"a", b"%d" % number))
    hub.stepped()
    stream.create(key(b"a", watch_id=1), 0)
    stream.create(key(b"a", watch_id=2, first=3), 0)
    stream.create(key(b"a", watch_id=3, first=7), 0)
    stream.create(key(b"a", watch_id=4, first=-5), 0)
    store.write((b"a", b"4"))
    store.write((b"a", b"5"))
    store.write((b"a", b"6"))
    hub.stepped()
    answers = drain(stream)
    of = {number: shown([one for one in answers if one.watch_id == number]) for number in (1, 2, 3, 4)}
    assert [revision for revision, _, _ in of[1]] == [6, 7, 8]
    assert [revision for revision, _, _ in of[2]] == [3, 4, 5, 6, 7, 8]
    assert [revision for revision, _, _ in of[3]] == [7, 8]
    assert [revision for revision, _, _ in of[4]] == [2, 3, 4, 5, 6, 7, 8]


def test_wch_05_the_floor_can_be_watched_and_what_is_below_it_ends_the_watch(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    for number in range(4):
        store.write((b"a", b"%d" % number))
    store.compact(4)
    hub.stepped()
    stream.create(key(b"a", watch_id=1, first=4), 0)
    stream.create(key(b"a", watch_id=2, first=3), 0)
    answers = drain(stream)
    assert [(one.watch_id, one.created) for one in answers[:2]] == [(1, True), (2, True)]
    assert shown(answers) == [(4, b"a", b"2"), (5, b"a", b"3")]
    (cut,) = [one for one in answers if one.canceled]
    assert (cut.watch_id, cut.compact_revision, cut.revision, cut.reason) == (2, 4, 0, "")


def test_wch_09_a_cancelled_watch_sends_nothing_and_an_unknown_id_gets_no_answer(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"a"), 0)
    drain(stream)
    store.write((b"a", b"1"))
    hub.stepped()
    stream.cancel(0)
    stream.cancel(0)
    stream.cancel(99)
    store.write((b"a", b"2"))
    hub.stepped()
    last = one(stream)
    assert (last.watch_id, last.canceled, last.changes) == (0, True, ())
    assert (hub.watches, hub.bytes_used) == (0, 0)


# ---- events ---------------------------------------------------------------------
def test_wch_04_what_one_revision_did_comes_in_one_answer_in_its_order(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(prefix(b"k"), 0)
    drain(stream)
    store.write((b"kb", b"1"), (b"ka", b"2"), (b"other", b"3"), (b"kc", b"4"))
    hub.stepped()
    assert shown([one(stream)]) == [(2, b"kb", b"1"), (2, b"ka", b"2"), (2, b"kc", b"4")]


def test_a_revision_beyond_every_limit_of_an_answer_is_not_split(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(prefix(b"k"), 0)
    drain(stream)
    store.write(*((b"k%04d" % number, b"v" * 1000) for number in range(3000)))
    store.write((b"k", b"next"))
    hub.stepped()
    first, second = drain(stream)
    assert [len(first.changes), len(second.changes)] == [3000, 1]
    assert sum(1000 for _ in first.changes) > BYTES_PER_ANSWER


def test_wch_13_a_large_answer_is_split_if_its_client_asked(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(prefix(b"k", fragment=True), 0)
    drain(stream)
    store.write(*((b"k%d" % number, b"v" * 400_000) for number in range(9)))
    hub.stepped()
    stream.ask_progress()
    *parts, progress = drain(stream)
    assert [one.more for one in parts] == [True, True, False]
    assert all(sum(400_000 for _ in one.changes) <= FRAGMENT_BYTES_MAX for one in parts)
    assert len(shown(parts)) == 9
    assert (progress.watch_id, progress.revision) == (NO_WATCH, 2)


def test_wch_08_what_is_filtered_is_not_sent(store: SmallStore, hub: WatchHub, stream: WatchStream) -> None:
    stream.create(key(b"a", puts=False, watch_id=1), 0)
    stream.create(key(b"a", deletes=False, watch_id=2), 0)
    drain(stream)
    store.write((b"a", b"1"))
    store.write((b"a", None))
    hub.stepped()
    answers = drain(stream)
    assert shown([one for one in answers if one.watch_id == 1]) == [(3, b"a", None)]
    assert shown([one for one in answers if one.watch_id == 2]) == [(2, b"a", b"1")]


# ---- progress --------------------------------------------------------------------
def test_wch_11_progress_is_reported_after_every_event_up_to_it_of_fifty_slow_watches(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    for number in range(3 * REVISIONS_PER_TURN_MAX):
        store.write((b"k%d" % (number % 7), b"v"))
    hub.stepped()
    for number in range(50):
        stream.create(key(b"k%d" % (number % 9), first=2), 0)
    stream.ask_progress()
    asked_at = store.revision
    seen: dict[int, list[int]] = {number: [] for number in range(50)}
    wanted = {
        number: [r for r in range(2, asked_at + 1) if (r - 2) % 7 == number % 9] for number in range(50)
    }
    while True:
        answer = stream.take(0)
        store.write((b"k0", b"while it catches up"))
        hub.stepped()
        if answer is None or answer.created:
            continue
        if answer.watch_id == NO_WATCH:
            break
        seen[answer.watch_id] += [change.revision for change in answer.changes]
    assert answer.revision == asked_at
    assert {number: [r for r in found if r <= asked_at] for number, found in seen.items()} == wanted


def test_progress_waits_for_a_watch_that_was_created_after_it_was_asked_for(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    store.write((b"a", b"1"))
    hub.stepped()
    stream.create(key(b"a", first=2), 0)
    stream.ask_progress()
    stream.create(key(b"a", first=2), 0)
    answers = [one for one in drain(stream) if not one.created]
    assert [one.watch_id for one in answers] == [0, 1, NO_WATCH]


def test_progress_is_reported_without_any_watch_or_event(stream: WatchStream) -> None:
    stream.ask_progress()
    stream.ask_progress()
    assert [(one.watch_id, one.revision) for one in drain(stream)] == [(NO_WATCH, 1)] * 2


def test_wch_12_an_idle_watch_reports_how_far_it_came_and_one_that_waits_does_not(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"a", notify=True, watch_id=1), 0)
    stream.create(key(b"b", notify=True, watch_id=2), 0)
    stream.create(key(b"c", watch_id=3), 0)
    drain(stream)
    store.write((b"b", b"1"))
    hub.stepped()
    stream.tick(NOTIFY_S - 0.1)
    assert len(stream._answers) == 0
    stream.tick(NOTIFY_S)
    idle, busy = drain(stream, NOTIFY_S)
    assert (idle.watch_id, idle.revision, idle.changes) == (1, 2, ())
    assert (busy.watch_id, shown([busy])) == (2, [(2, b"b", b"1")])
    stream.tick(NOTIFY_S + 1)
    assert not stream.ready
    stream.tick(2 * NOTIFY_S)
    assert [one.watch_id for one in drain(stream)] == [1, 2]


# ---- slow clients ------------------------------------------------------------------
def test_wch_16_a_client_that_never_reads_costs_the_same_however_much_is_written(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    reader = hub.attach(b"reader", yes)
    reader.create(prefix(b""), 0)
    stream.create(prefix(b""), 0)
    drain(reader)
    for number in range(2000):
        store.write((b"k", b"%d" % number))
        woken = hub.stepped()
        assert (stream in woken) == (number == 0), "the one that waits is not looked at again"
        assert len(drain(reader)) == 1
    assert len(stream._answers) == 1, "its first answer, and no copy of an event"
    assert [revision for revision, _, _ in shown(drain(stream))] == list(range(2, 2002))


def test_wch_16_only_a_compaction_cuts_off_a_slow_watch_and_never_an_idle_one(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"idle", watch_id=1), 0)
    stream.create(key(b"slow", watch_id=2), 0)
    drain(stream)
    for _ in range(10):
        store.write((b"slow", b"x"))
    hub.stepped()
    store.compact(9)
    store.write((b"idle", b"y"))
    hub.stepped()
    answers = drain(stream)
    assert [one.compact_revision for one in answers if one.watch_id == 2] == [9]
    assert shown([one for one in answers if one.watch_id == 1]) == [(12, b"idle", b"y")]


def test_what_a_compaction_hid_within_one_step_ends_every_watch_that_may_have_missed_it(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"a"), 0)
    stream.create(key(b"later", first=9), 0)
    drain(stream)
    for _ in range(4):
        store.write((b"a", b"x"))
    store.compact(4)
    assert hub.stepped() == [stream]
    assert [(one.watch_id, one.compact_revision) for one in drain(stream)] == [(0, 4)]


def test_wch_16_watches_with_a_long_past_take_turns(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    for _ in range(2 * REVISIONS_PER_TURN_MAX):
        store.write((b"k", b"v"))
    hub.stepped()
    for _ in range(300):
        stream.create(key(b"k", first=2, before=True), 0)
    drained = [one.watch_id for one in drain(stream) if one.changes]
    assert drained[:600] == [*range(300), *range(300)]


def test_one_turn_reads_a_limited_part_of_the_history(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    for _ in range(5 * REVISIONS_PER_TURN_MAX):
        store.write((b"k", b"v"))
    hub.stepped()
    stream.create(key(b"absent", first=2), 0)
    assert stream.take(0) is not None
    store.reads = 0
    assert stream.take(0) is None
    assert store.reads <= REVISIONS_PER_TURN_MAX
    assert stream.ready


def test_a_step_of_very_many_revisions_is_not_read_by_the_hub(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    stream.create(key(b"k"), 0)
    stream.create(key(b"absent"), 0)
    drain(stream)
    for _ in range(REVISIONS_PER_STEP_MAX + 1):
        store.write((b"k", b"v"))
    store.reads = 0
    assert hub.stepped() == [stream]
    assert store.reads == 0
    assert len(shown(drain(stream))) == REVISIONS_PER_STEP_MAX + 1


def test_ten_thousand_watches_cost_a_write_only_those_that_want_it(hub: WatchHub, store: SmallStore) -> None:
    stream = hub.attach(b"owner", yes)
    for number in range(10_000):
        stream.create(key(b"k%d" % number), 0)
        drain(stream)
    store.write((b"k77", b"v"))
    assert hub.stepped() == [stream]
    assert one(stream).watch_id == 77


# ---- limits ----------------------------------------------------------------------
def test_too_many_watches_are_refused_and_others_have_room(hub: WatchHub, stream: WatchStream) -> None:
    for _ in range(WATCHES_PER_OWNER_MAX):
        stream.create(key(b"k"), 0)
        assert not one(stream).canceled
    for greedy in (stream, hub.attach(b"owner", yes)):
        greedy.create(key(b"k"), 0)
        assert (one(greedy).reason, hub.watches) == (TOO_MANY, WATCHES_PER_OWNER_MAX)
    other = hub.attach(b"other", yes)
    other.create(key(b"k"), 0)
    assert not one(other).canceled
    stream.close()
    assert hub.watches == 1


@pytest.mark.parametrize("long", [b"k" * 1_000_000, b"r"])
def test_watches_of_long_keys_and_of_other_ranges_than_prefixes_are_limited_in_bytes(
    hub: WatchHub, long: bytes
) -> None:
    for owner in range(4):
        stream = hub.attach(b"%d" % owner, yes)
        number = 0
        while True:
            stream.create(WatchOrder(start=long, end=b"s%d" % number) if long == b"r" else key(long), 0)
            if one(stream).reason == TOO_MANY:
                break
            number += 1
            assert hub.bytes_used <= BYTES_MAX
        assert number <= BYTES_PER_OWNER_MAX // min(len(long) + WATCH_COST, RANGE_COST)
    assert hub.bytes_used > BYTES_MAX - 2 * len(long) - RANGE_COST * 2


def test_a_client_that_asks_and_does_not_read_is_not_read_from(stream: WatchStream) -> None:
    asked = 0
    while not stream.full:
        stream.ask_progress()
        stream.create(key(b"k"), 0)
        asked += 2
    assert asked == WAITING_MAX
    stream.take(0)
    assert not stream.full


# ---- rights ----------------------------------------------------------------------
def test_wch_17_a_watch_of_what_its_client_may_not_read_is_refused(hub: WatchHub) -> None:
    asked: list[tuple[bytes, bytes | None]] = []

    def permits(start: bytes, end: bytes | None) -> bool:
        asked.append((start, end))
        return False

    stream = hub.attach(b"owner", permits)
    stream.create(WatchOrder(start=b"a", end=None), 0)
    answer = one(stream)
    assert (answer.created, answer.canceled, answer.reason) == (True, True, PERMISSION_DENIED)
    assert asked == [(b"a", None)]


def test_wch_17_a_watch_ends_with_the_right(store: SmallStore, hub: WatchHub, stream: WatchStream) -> None:
    stream.create(key(b"a", watch_id=1), 0)
    stream.create(key(b"b", watch_id=2), 0)
    drain(stream)
    store.write((b"a", b"secret"), (b"b", b"open"))
    hub.stepped()
    stream.judge(lambda start, _: start == b"b")
    answers = drain(stream)
    assert [(one.watch_id, one.reason) for one in answers if one.canceled] == [(1, PERMISSION_DENIED)]
    assert shown(answers) == [(2, b"b", b"open")]
    stream.judge(no)
    assert one(stream).watch_id == 2


def test_a_history_that_went_back_ends_every_stream(
    store: SmallStore, hub: WatchHub, stream: WatchStream
) -> None:
    store.write((b"a", b"1"))
    hub.stepped()
    store.revision = 1
    assert hub.stepped() == [stream]
    assert stream.lost
    assert hub.head == 1


# ---- against a model ----------------------------------------------------------------
class Client:
    """What one client was shown, judged at once."""

    def __init__(self, store: SmallStore, stream: WatchStream) -> None:
        self.store = store
        self.stream = stream
        self.orders: dict[int, tuple[WatchOrder, int]] = {}
        self.next: dict[int, int] = {}  # per watch: everything before was sent
        self.waiting: list[WatchOrder] = []

    def create(self, order: WatchOrder) -> None:
        self.waiting.append(order)
        self.stream.create(order, 0)

    def wanted(self, watch_id: int, first: int, last: int) -> list[tuple[int, bytes, bytes | None]]:
        order, _ = self.orders[watch_id]
        return [
            (revision, change.key, None if change.version is None else change.version.value)
            for revision in range(max(first, 2), last + 1)
            for change in self.store.changes[revision]
            if order.start <= change.key and (order.end is None or change.key < order.end)
            if (order.puts if change.version is not None else order.deletes)
        ]

    def receive(self, answer: WatchAnswer) -> None:
        number = answer.watch_id
        if answer.created:
            order = self.waiting.pop(0)
            self.orders[number] = (order, answer.revision)
            self.next[number] = order.first or answer.revision + 1
        elif answer.canceled:
            if answer.compact_revision:
                assert answer.compact_revision == self.store.compact_revision > self.next[number]
            del self.orders[number], self.next[number]
        elif answer.changes:
            last = answer.changes[-1].revision
            # In order, each once, and whole revisions: exactly what the model has up to the last one.
            assert shown([answer]) == self.wanted(number, self.next[number], last)
            self.next[number] = last + 1
        else:
            for watch_id in self.orders if number == NO_WATCH else [number]:
                # What was promised was sent.
                assert not self.wanted(watch_id, self.next[watch_id], answer.revision)


@pytest.mark.parametrize("seed", range(40))
def test_what_clients_are_shown_is_ordered_unique_whole_resumable_and_promised_truly(seed: int) -> None:
    rng = random.Random(seed)
    store = SmallStore()
    hub = WatchHub(store)
    clients = [Client(store, hub.attach(b"%d" % number, yes)) for number in range(3)]
    keys = [b"a", b"ab", b"abc", b"b", b"b\xff", b"c"]

    def order(first: int) -> WatchOrder:
        start = rng.choice(keys)
        end = rng.choice([start + b"\0", KeyRange.of_prefix(start).end, None, b"d", b"c\0"])
        puts = rng.random() < 0.9
        return WatchOrder(
            start=start, end=end, first=first, puts=puts, deletes=not puts or rng.random() < 0.9
        )

    now = 0.0
    for _ in range(600):
        now += 0.5
        client = rng.choice(clients)
        match rng.randrange(9):
            case 0 | 1 | 2:
                for _ in range(rng.randrange(1, 4)):
                    chosen = rng.sample(keys, rng.randrange(1, 4))
                    store.write(*((name, rng.choice([None, b"v%d" % store.revision])) for name in chosen))
                hub.stepped()
            case 3 if not client.stream.full:
                floor = max(store.compact_revision, 1)
                first = rng.choice([0, rng.randrange(floor, hub.head + 3)])
                client.create(order(first))
            case 4 if client.orders:
                watch_id = rng.choice(list(client.orders))
                client.stream.cancel(watch_id)
            case 5 if not client.stream.full:
                client.stream.ask_progress()
            case 6 if rng.random() < 0.2 and hub.head > store.compact_revision + 6:
                store.compact(hub.head - 5)
            case 7:
                client.stream.tick(now)
            case _:
                for _ in range(rng.randrange(12)):
                    answer = client.stream.take(now)
                    if answer is not None:
                        client.receive(answer)
    for client in clients:
        for answer in drain(client.stream, now):
            client.receive(answer)
        # Whoever was not cut off was shown all there is.
        for number, after in client.next.items():
            assert not client.wanted(number, after, hub.head)
        client.stream.close()
    assert (hub.watches, hub.bytes_used) == (0, 0)
