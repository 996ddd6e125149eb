"""Catching up (3.5): several ranges on their way, in any order, bounded, and never stuck."""

from itertools import pairwise

import pytest

from node.raft.entries import EMPTY_PAYLOAD, make_entries
from node.raft.events import Execute, Received, Tick
from node.raft.messages import Append, Avail, Chunk, Fetch
from node.raft.ranges import (
    GIVEN_UP_MAX,
    RANGE_ENTRIES,
    RANGES_OF_LEADER,
    RANGES_PER_SOURCE,
    Flight,
    PullState,
)
from node.raft.types import LOG_START, Bootstrap, Entry, EntryKind, Position
from tests.node.raft.cluster import Register, inc, three


class Sum(Register):
    """Adds, and keeps nothing that grows: these logs are long."""

    def apply(self, command, context):
        self.value += command


@pytest.fixture(autouse=True)
def long_logs(monkeypatch):
    monkeypatch.setattr("tests.node.raft.cluster.Register", Sum)


A, B = inc("a"), inc("b")
PATIENCE_MS = 1000


def filled(entries, **overrides):
    """Three members with so many commands in their logs, and a learner whose Fetches are kept back."""
    cluster = three(**overrides)
    leader = cluster.leader()
    for start in range(0, entries, 500):
        count = min(500, entries - start)
        cluster.step(leader, *[Execute(1000 + start + i, (1,)) for i in range(count)])
        cluster.run(100)
    return cluster


def join(cluster, drop):
    cluster.add("d", Bootstrap.JOIN, bond=False)
    cluster.drop = drop
    for other in "abc":
        cluster.bond("d", other)


def caught_up(cluster, entries):
    return cluster.values()["d"] == entries


# ---- how much is asked ---------------------------------------------------------
def test_each_follower_is_asked_for_several_ranges_at_a_time_before_any_has_come():
    cluster = filled(RANGE_ENTRIES * 20)
    asked = []
    arrived = []

    def drop(sender, to, message):
        if isinstance(message, Fetch):
            asked.append(to)
        if isinstance(message, Chunk):
            arrived.append(message)
            return len(arrived) > 1  # the answer to the search comes, and then nothing
        return False

    join(cluster, drop)
    cluster.run(300)

    followers = cluster.followers()
    assert {name for name in "abc" if asked.count(name) >= RANGES_PER_SOURCE} == set(followers) - {"d"}
    assert cluster.leader() not in asked
    pull = cluster.nodes["d"].tenure.pull
    assert all(len(flight.ranges) == RANGES_PER_SOURCE for flight in pull.in_flight.values())


def test_a_leader_that_alone_can_serve_is_asked_for_little_at_a_time():
    cluster = filled(RANGE_ENTRIES * 6)
    leader = cluster.leader()
    most = 0

    def drop(sender, to, message):
        nonlocal most
        pull = cluster.nodes["d"].tenure.pull
        if pull is not None:
            most = max(most, *(len(flight.ranges) for flight in pull.in_flight.values()), 0)
        return isinstance(message, Avail)

    join(cluster, drop)
    cluster.run_until(lambda: caught_up(cluster, RANGE_ENTRIES * 6))

    assert most == RANGES_OF_LEADER
    assert cluster.nodes[leader].role is not None


@pytest.mark.parametrize("places", [1, 2, 3])
def test_a_pull_with_few_places_for_chunks_never_asks_for_more_and_comes_to_its_end(places):
    cluster = filled(600, chunk_bytes_max=2000, catchup_buffer_bytes_max=2000 * places)
    most = 0

    def drop(sender, to, message):
        nonlocal most
        pull = cluster.nodes["d"].tenure.pull
        most = max(most, 0 if pull is None else pull.outstanding)
        return False

    join(cluster, drop)
    cluster.run_until(lambda: caught_up(cluster, 600))

    assert most == places


def test_chunks_that_arrive_out_of_order_are_applied_in_order():
    cluster = filled(RANGE_ENTRIES * 10)
    kept = []
    searching = True

    def drop(sender, to, message):
        nonlocal searching
        if isinstance(message, Chunk) and to == "d":
            if searching:
                searching = False
                return False
            kept.append((sender, message))
            return True
        return False

    join(cluster, drop)
    cluster.run(300)
    assert len(kept) > RANGES_PER_SOURCE
    cluster.drop = lambda sender, to, message: False
    before = cluster.nodes["d"].log.last().index
    for sender, message in reversed(kept):
        if sender in cluster.nodes:
            cluster.step("d", Received(cluster.nodes[sender].me, message))
    cluster.run(500)

    assert before <= 2 * RANGE_ENTRIES
    assert caught_up(cluster, RANGE_ENTRIES * 10)


def test_a_step_takes_a_chunk_or_two_and_the_next_is_due_at_once():
    cluster = filled(RANGE_ENTRIES * 12)
    kept = []
    searching = True

    def drop(sender, to, message):
        nonlocal searching
        if isinstance(message, Chunk) and to == "d" and not searching:
            kept.append((sender, message))
            return True
        searching = searching and not isinstance(message, Chunk)
        return False

    join(cluster, drop)
    cluster.run(100)
    learner = cluster.nodes["d"]
    kept.sort(key=lambda item: item[1].after.index, reverse=True)
    for sender, message in kept:
        reached = learner.log.last().index
        effects = cluster.step("d", Received(cluster.nodes[sender].me, message))

    first = learner.log.last().index - reached
    assert 0 < first <= 2 * RANGE_ENTRIES
    assert learner.tenure.pull.held
    assert effects.next_tick_ms <= cluster.now
    cluster.step("d", Tick())
    assert 0 < learner.log.last().index - reached - first <= 2 * RANGE_ENTRIES


def test_ranges_shrink_to_what_fits_into_a_chunk_and_grow_again():
    pull = PullState(1, 10_000, 0, 0, 0)
    pull.sent(A, 0, 512, 0)
    pull.fit_span(pull.answered(A, 0, 1), 20)
    assert pull.next_range(10_000) == (0, 20)
    pull.sent(A, 0, 20, 2)
    pull.fit_span(pull.answered(A, 0, 3), 20)

    assert pull.next_range(10_000) == (20, 60)


# ---- what becomes of a range ---------------------------------------------------
def test_a_range_is_late_only_after_its_source_sent_nothing_for_the_timeout():
    pull = PullState(1, 10_000, 0, 0, 0)
    for number in range(4):
        pull.sent(A, number * 10, number * 10 + 10, 0)
    pull.answered(A, 0, 900)

    assert pull.take_late(A, 1899, PATIENCE_MS) == []
    assert [r.after for r in pull.take_late(A, 1900, PATIENCE_MS)] == [10, 20, 30]
    assert pull.in_flight == {}


def test_a_range_that_others_overtake_is_late_in_the_end_though_its_source_sends():
    flight = Flight(0)
    pull = PullState(1, 10_000, 0, 0, 0, in_flight={A: flight})
    pull.sent(A, 0, 10, 0)
    for at in range(0, 4000, 100):
        pull.sent(A, 10 + at, 20 + at, at)
        pull.answered(A, 10 + at, at)

    assert pull.take_late(A, 3999, PATIENCE_MS) == []
    assert [r.after for r in pull.take_late(A, 4000, PATIENCE_MS)] == [0]


def test_an_answer_counts_once_and_only_from_the_asked_peer():
    pull = PullState(1, 10_000, 0, 0, 0)
    pull.sent(A, 0, 10, 0)

    assert pull.answered(B, 0, 1) is None
    assert pull.answered(A, 5, 1) is None
    assert pull.answered(A, 0, 1) is not None
    assert pull.answered(A, 0, 2) is None


def test_ranges_of_a_source_that_went_away_are_asked_of_another_at_once():
    cluster = filled(RANGE_ENTRIES * 8)
    gone = cluster.followers()[0]
    join(cluster, lambda sender, to, message: isinstance(message, Chunk) and sender == gone)
    cluster.run(100)
    assert cluster.nodes["d"].tenure.pull is not None
    cluster.unbond("d", gone)
    cluster.run(PATIENCE_MS // 2)

    assert caught_up(cluster, RANGE_ENTRIES * 8)


def behind_a_slow_link(delay_ms):
    """Whether a learner catches up within a minute when each chunk takes so long."""
    cluster = filled(RANGE_ENTRIES * 3)
    under_way = []

    def drop(sender, to, message):
        if isinstance(message, Chunk) and to == "d":
            under_way.append((cluster.now + delay_ms, sender, message))
            return True
        return False

    join(cluster, drop)
    end = cluster.now + 60_000
    while cluster.now < end and not caught_up(cluster, RANGE_ENTRIES * 3):
        cluster.run(10)
        while under_way and under_way[0][0] <= cluster.now:
            _, sender, message = under_way.pop(0)
            cluster.step("d", Received(cluster.nodes[sender].me, message))
    assert not cluster.violations()
    return caught_up(cluster, RANGE_ENTRIES * 3)


@pytest.mark.parametrize("delay_ms", [PATIENCE_MS + 50, 2 * PATIENCE_MS, 5 * PATIENCE_MS])
def test_chunks_that_take_longer_than_an_election_timeout_are_still_accepted(delay_ms):
    assert behind_a_slow_link(delay_ms)


def test_without_late_answers_such_a_learner_never_gets_anything(monkeypatch):
    monkeypatch.setattr(PullState, "answered_late", lambda *_: None)
    assert not behind_a_slow_link(PATIENCE_MS + 50)


def given_up(*, asked_of=None, joined=True):
    """A range of A that was given up, and may be on its way from another."""
    pull = PullState(1, 10_000, 0, 0, 0, joined=joined)
    pull.sent(A, 0, 10, 0)
    (late,) = pull.take_late(A, PATIENCE_MS, PATIENCE_MS)
    if asked_of is not None:
        pull.sent(asked_of, 0, 10, PATIENCE_MS)
    elif joined:
        pull.ask_again(late.after, late.upto)
    return pull


def test_a_late_answer_replaces_the_request_to_another_peer():
    pull = given_up(asked_of=B)
    before = pull.outstanding

    assert pull.answered_late(A, 0, 1).upto == 10
    assert pull.outstanding == before - 1
    assert pull.answered(B, 0, PATIENCE_MS) is None


def test_a_late_answer_is_taken_for_a_range_that_is_not_requested_yet():
    pull = given_up()

    assert pull.answered_late(A, 0, 1).upto == 10
    assert pull.again == []


def test_a_late_answer_counts_once_only_if_asked_and_only_while_it_is_wanted():
    assert given_up().answered_late(B, 0, 1) is None
    assert given_up().answered_late(A, 5, 1) is None
    twice = given_up()
    twice.answered_late(A, 0, 1)
    assert twice.answered_late(A, 0, 1) is None
    here = given_up(asked_of=B)
    here.answered(B, 0, PATIENCE_MS)
    assert here.answered_late(A, 0, 1) is None
    moved = given_up(joined=False)
    moved.at = 7
    assert moved.answered_late(A, 0, 1) is None


def test_no_late_answer_is_held_beyond_the_places_for_chunks():
    pull = given_up()
    pull.sent(B, 10, 20, PATIENCE_MS)

    assert pull.answered_late(A, 0, 1) is None
    assert pull.again == [(0, 10)]


def test_the_memory_of_abandoned_ranges_is_bounded():
    pull = PullState(1, 10_000, 0, 0, 0)
    for number in range(2 * GIVEN_UP_MAX):
        pull.sent(A, number, number + 1, 0)
    pull.take_late(A, PATIENCE_MS, PATIENCE_MS)

    assert [after for _, after in pull.given_up] == list(range(GIVEN_UP_MAX, 2 * GIVEN_UP_MAX))


# ---- the kept Appends ----------------------------------------------------------
def test_kept_appends_are_replayed_a_chunk_s_worth_at_a_time():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node, peer = cluster.nodes[follower], cluster.nodes[leader].me
    base = node.log.last()
    hole = stray(base, node.term, 1)
    cluster.drop = lambda *_: True
    after, index = at(hole[-1]), base.index
    for seq in range(20):
        entries = stray(after, node.term, 200)
        cluster.step(follower, Received(peer, Append(node.cluster, node.term, after, entries, 0, 90 + seq)))
        after = at(entries[-1])
    assert node.log.last().index == index
    assert len(node.tenure.pull.buffer) == 20
    effects = cluster.step(follower, Received(peer, Append(node.cluster, node.term, base, hole, 0, 99)))

    reached = [node.log.last().index]
    while node.tenure.pull is not None:
        assert effects.next_tick_ms <= cluster.now
        effects = cluster.step(follower, Tick())
        reached.append(node.log.last().index)
    steps = [upto - before for before, upto in pairwise([index, *reached])]
    assert sum(steps) == 1 + 20 * 200
    # Once when something comes, and once in the tick of the same step.
    assert max(steps) <= 1 + 2 * (RANGE_ENTRIES + 200)
    assert node.tenure.in_step


# ---- the search ----------------------------------------------------------------
def test_a_search_follows_a_log_that_an_older_append_cut_below_it():
    """The next tick asked for a position that was no longer there, and the member died of an IndexError."""
    cluster = three()
    leader, (follower, other) = cluster.leader(), cluster.followers()
    node = cluster.nodes[follower]
    base = node.log.last()
    term = node.term + 1
    cluster.drop = lambda sender, to, message: True
    own = Append(node.cluster, node.term, base, stray(base, node.term, 5), 0, 99)
    cluster.step(follower, Received(cluster.nodes[leader].me, own))
    assert node.log.last().index == base.index + 5
    beyond = Append(node.cluster, term, Position(term, base.index + 9, bytes(32)), (), 0, 1)
    cluster.step(follower, Received(cluster.nodes[other].me, beyond))
    assert node.tenure.pull.at == base.index + 5
    cut = Append(node.cluster, term, base, stray(base, term, 1), 0, 2)
    cluster.step(follower, Received(cluster.nodes[other].me, cut))

    assert node.log.last().index == base.index + 1
    cluster.now += 5000
    cluster.step(follower, Tick())
    assert node.halted is None
    assert node.tenure.pull is None or node.tenure.pull.at <= node.log.last().index


def test_two_unresponsive_sources_are_not_retried_alternately_without_end():
    cluster = filled(RANGE_ENTRIES)
    leader = cluster.leader()
    join(cluster, lambda sender, to, message: isinstance(message, Fetch) and to != leader)
    cluster.run_until(lambda: caught_up(cluster, RANGE_ENTRIES))


def at(entry):
    return Position(entry.term, entry.index, entry.chain)


def stray(after, term, count) -> tuple[Entry, ...]:
    return make_entries(after, [(term, EntryKind.NOOP, 0, EMPTY_PAYLOAD)] * count)


# ---- what is no log of ours ------------------------------------------------------
def test_a_chunk_that_does_not_begin_with_its_clusters_genesis_is_a_violation_and_the_pull_goes_on():
    cluster = filled(20)
    kept = []

    def keep(sender, to, message):
        if isinstance(message, Chunk) and message.entries:
            kept.append((sender, message))
        return bool(kept)

    join(cluster, keep)
    cluster.run_until(lambda: kept, 1000)
    node, (sender, chunk) = cluster.nodes["d"], kept[0]
    genesis = chunk.entries[0]
    parts = [(genesis.term, genesis.kind, genesis.time_ms + 1, genesis.payload)]
    other = make_entries(chunk.after, parts)
    assert chunk.after == LOG_START
    wrong = Chunk(chunk.cluster, chunk.term, chunk.after, True, other, 0)
    cluster.step("d", Received(cluster.nodes[sender].me, wrong))

    assert [(v.peer.name, v.reason) for v in cluster.violations()] == [(sender, "wrong-genesis")]
    assert node.log.last().index == 0
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: caught_up(cluster, 20))
