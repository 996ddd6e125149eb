"""The memory budget: the leader refuses what a voter has no memory for, and no member ever halts for it."""

import pytest

from node.machines import kv
from node.machines.base import CommandError
from node.machines.collections.machine import CollectionsMachine
from node.raft.budget import NO_BUDGET, Budget, MemoryReported, log_memory, needed_for
from node.raft.entries import encode_command_body, encode_commands, session_id
from node.raft.events import Execute, Halted, MemoryPressed, Received, TransferLeadership
from node.raft.log import MemoryLog
from node.raft.member import Member
from node.raft.messages import (
    Append,
    AppendReply,
    Forward,
    ForwardReply,
    MemoryReport,
    Overloaded,
    Proposal,
    SnapshotDigest,
    SyncAnswer,
)
from node.raft.tenure import Refused
from node.raft.types import Bootstrap, EntryKind, NotExecuted, Ok, Unknown
from node.sync.state_sync import LogReplaySync
from tests.node.raft.cluster import GROUP, RaftCluster
from tests.node.simulation import ablations

SIZE = 1_000_000
SETTINGS = {"session_window": 64, "snapshot_chunk_bytes": 4096, "session_ttl_ms": 60_000}


class KeyValue(kv.KeyValue):
    """The store as of version 2: its past is bounded, so that only the log and the snapshots grow."""

    signature = "bondstone/kv/v2"
    versions = range(1, 3)


@pytest.fixture(autouse=True)
def _small_history(monkeypatch):
    monkeypatch.setattr("node.machines.kv.older.HISTORY_BYTES_MAX", 20_000)


def put(key, size):
    return {"op": "put", "key": key, "value": "x" * size}


def group(names="abc", budgets=None, machine=KeyValue, **overrides):
    """Return members with small budgets, all founders."""
    cluster = RaftCluster(**{**SETTINGS, **overrides})
    for name in names:
        budget = Budget((budgets or {}).get(name, SIZE))
        cluster.add(name, expect=len(names), machine=machine(), budget=budget)
    cluster.elect()
    cluster.run(500)
    return cluster


class LogAlone(KeyValue):
    """A store that catches up by the log, so that the log is never cut."""

    def state_sync(self):
        return LogReplaySync()


def without_snapshots(machine=LogAlone, **options):
    """Return a group whose log cannot be cut."""
    return group(machine=machine, **options)


def fill(cluster, name, size=5_000, most=1_000, key="k{}"):
    """Write to ever new keys until a command is refused; return the refusal."""
    for number in range(most):
        outcome = cluster.outcome(cluster.execute(name, put(key.format(number), size)))
        if not isinstance(outcome, Ok):
            return outcome
    raise AssertionError("no write was refused")


def use(cluster, name):
    return cluster.nodes[name].memory_use()


def notices(cluster, name, kind):
    return [notice for notice in cluster.notices[name] if isinstance(notice, kind)]


def halted(cluster):
    return [name for name in cluster.nodes if notices(cluster, name, Halted)]


# ---- writes without end -------------------------------------------------------------
def test_large_writes_to_one_key_go_on_without_end_because_snapshots_cut_the_log():
    """They ended every group: 410 writes of 500 kB to one key filled 620 MB on all members at once."""
    cluster = group(snapshot_bytes=1 << 40, log_keep_bytes=1 << 40)  # no snapshot but before its time
    leader, most, refused = cluster.leader(), 0, 0
    for number in range(400):
        name = leader if number % 2 else cluster.followers()[0]
        outcome = cluster.outcome(cluster.execute(name, put("k", 20_000)))
        if isinstance(outcome, NotExecuted):
            refused += 1
            cluster.run(200)
        most = max(most, *(use(cluster, each).total for each in "abc"))

    assert refused < 40
    assert most <= SIZE
    assert cluster.nodes[leader].log.taken > 5 * SIZE
    assert not halted(cluster)


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_a_write_is_refused_as_overloaded_with_the_member_its_use_and_what_to_do(through):
    cluster = without_snapshots(budgets={"b": SIZE // 2})
    leader = cluster.leader()
    name = leader if through == "leader" else cluster.followers()[0]
    refusal = fill(cluster, name)

    assert refusal.reason == "overloaded"
    assert refusal.leader == cluster.nodes[leader].me
    assert refusal.detail.startswith("the memory of b is nearly full: it uses ")
    assert f" of {SIZE // 2} bytes" in refusal.detail
    assert "memory.budget_bytes" in refusal.detail
    assert use(cluster, "b").total <= Budget(SIZE // 2).full
    assert not halted(cluster)


def test_a_refused_command_never_happens():
    cluster = without_snapshots()
    follower = cluster.followers()[0]
    fill(cluster, follower)
    refused = cluster.execute(follower, put("late", 9_000))
    assert cluster.outcome(refused).reason == "overloaded"
    cluster.run(10_000)

    assert all(node.replica.machine._store._live.get(b"late") is None for node in cluster.nodes.values())


def test_deletes_and_the_groups_own_state_have_room_beyond_the_mark():
    cluster = without_snapshots()
    follower = cluster.followers()[0]
    fill(cluster, follower)
    batch = [put("late", 5_000), {"op": "delete", "key": "k1"}]
    cluster.tokens += 10
    first, second = ((follower, cluster.tokens - 1), (follower, cluster.tokens))
    cluster.step(follower, *[Execute(t[1], (one,)) for t, one in zip((first, second), batch, strict=True)])

    assert cluster.outcome(first).reason == "overloaded"
    assert isinstance(cluster.outcome(second), Ok)
    assert isinstance(cluster.outcome(cluster.execute(follower, {"op": "delete", "key": "k2"})), Ok)
    mixed = cluster.execute(follower, {"op": "delete", "key": "k3"}, put("late", 10))
    assert cluster.outcome(mixed).reason == "overloaded"
    assert all(len(node.replica.machine._store._live) > 20 for node in cluster.nodes.values())


def test_beyond_the_last_limit_deletes_are_refused_too_and_the_leader_still_writes():
    cluster = without_snapshots()
    leader = cluster.leader()
    fill(cluster, leader)
    refused = None
    for number in range(2_000):
        outcome = cluster.outcome(cluster.execute(leader, {"op": "delete", "key": "y" * 2_000 + str(number)}))
        if not isinstance(outcome, Ok):
            refused = outcome
            break
    assert refused.reason == "overloaded"
    assert use(cluster, leader).total <= SIZE

    cluster.isolate(leader)
    cluster.run_until(lambda: cluster.leader() not in (None, leader))
    assert not halted(cluster)


def test_the_leader_takes_writes_again_only_well_below_the_mark():
    cluster = without_snapshots(budgets=dict.fromkeys("abc", NO_BUDGET))
    leader, follower = cluster.leader(), cluster.followers()[0]
    node, peer = cluster.nodes[leader], cluster.nodes[follower].me
    taken = []
    for share in (0.86, 0.88, 0.86, 0.8, 0.74, 0.8, 0.86, 0.88):
        report = MemoryReport(node.cluster, node.term, node.log.last().index, int(SIZE * share), SIZE)
        cluster.step(leader, Received(peer, report))
        outcome = cluster.outcome(cluster.execute(leader, put("k", 1)))
        taken.append(isinstance(outcome, Ok))

    assert taken == [True, False, False, False, True, True, True, False]
    told = [(notice.peer, notice.pressed) for notice in notices(cluster, leader, MemoryPressed)]
    assert told == [(peer, True), (peer, False), (peer, True)]


def test_what_a_leader_wrote_since_the_report_counts():
    cluster = without_snapshots()
    leader = cluster.leader()
    cluster.drop = lambda sender, to, message: isinstance(message, MemoryReport)
    refusal = fill(cluster, leader)

    assert refusal.reason == "overloaded"
    assert max(use(cluster, name).total for name in "abc") <= SIZE


def test_the_leader_learns_that_a_member_takes_much_less_again():
    """It went on refusing: a member below half of its budget, whose log does not grow, reported no more."""
    cluster = without_snapshots()
    leader, follower = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[follower]
    node.buffered = lambda: SIZE * 9 // 10
    cluster.run(500)
    assert cluster.outcome(cluster.execute(leader, put("k", 10))).reason == "overloaded"
    node.buffered = lambda: 0
    cluster.run(500)

    assert isinstance(cluster.outcome(cluster.execute(leader, put("k", 10))), Ok)


def test_a_voter_that_is_gone_does_not_hold_the_others_up():
    cluster = without_snapshots(budgets={"a": 10 * SIZE, "b": 10 * SIZE, "c": SIZE})
    if cluster.leader() == "c":
        cluster.isolate("c")
        cluster.run_until(lambda: cluster.leader() not in (None, "c"))
        cluster.heal()
        cluster.run(500)
    leader = cluster.leader()
    assert "memory of c" in fill(cluster, leader).detail
    cluster.kill("c")

    assert isinstance(cluster.outcome(cluster.execute(leader, put("more", 5_000))), Ok)


def test_a_learner_over_its_mark_is_not_promoted_and_holds_nobody_up():
    cluster = without_snapshots(budgets={"a": 10 * SIZE, "b": 10 * SIZE, "c": 10 * SIZE})
    leader = cluster.leader()
    for number in range(100):
        assert isinstance(cluster.outcome(cluster.execute(leader, put(f"k{number}", 9_000))), Ok)
    cluster.add("d", budget=Budget(SIZE), machine=KeyValue())
    cluster.run(5_000)

    assert cluster.nodes["d"].log.last() == cluster.nodes[leader].log.last()
    assert cluster.nodes["d"].me not in cluster.nodes[leader].status().voters
    assert isinstance(cluster.outcome(cluster.execute(leader, put("more", 9_000))), Ok)


# ---- an answer that is not certain ------------------------------------------------------
def test_a_command_that_was_handed_over_twice_is_unknown_when_it_is_refused():
    """An earlier copy may be taken yet, so it must not be called not executed."""
    cluster = group()
    follower, leader = cluster.followers()[0], cluster.leader()
    node = cluster.nodes[follower]
    cluster.drop = lambda sender, to, message: sender == follower and not isinstance(message, AppendReply)
    twice = cluster.execute(follower, put("k", 10))
    cluster.run(3_000)
    (pending,) = node.session.in_flight.values()
    assert pending.times > 1
    told = Overloaded(node.cluster, node.term, node.session.number, (pending.seq,), node.me, 1, 2)
    cluster.step(follower, Received(cluster.nodes[leader].me, told))

    assert cluster.outcomes[twice] == Unknown("overloaded")


def pressed_group(member=Member):
    """Return a group, its leader, a follower, and a function that reports to the leader what the follower uses.

    The function takes the share of its budget.
    """
    cluster = without_snapshots(budgets=dict.fromkeys("abc", NO_BUDGET), member=member)
    leader, follower = cluster.leader(), cluster.followers()[0]

    def press(share):
        node = cluster.nodes[leader]
        use = int(SIZE * share)
        report = MemoryReport(node.cluster, node.term, node.log.last().index, use, SIZE)
        cluster.step(leader, Received(cluster.nodes[follower].me, report))

    assert isinstance(cluster.outcome(cluster.execute(follower, put("first", 1))), Ok)
    return cluster, leader, follower, press


def lead_again(cluster, leader):
    """Let ``leader`` lose its office, and win it back in a later term."""
    term = cluster.nodes[leader].term
    while cluster.leader() != leader or cluster.nodes[leader].term == term:
        other = cluster.leader()
        cluster.step(other, TransferLeadership(cluster.tokens + 1, cluster.nodes[leader].me))
        if other == leader:
            cluster.step(other, TransferLeadership(cluster.tokens + 2, None))
        cluster.tokens += 2
        cluster.run(500)


def forwards_of(cluster, sender):
    """Keep every Forward that ``sender`` sends from now on, and deliver it."""
    sent = []

    def keep(origin, to, message):
        if origin == sender and isinstance(message, Forward):
            sent.append(message)
        return False

    cluster.drop = keep
    return sent


@pytest.mark.parametrize("in_term", ["the same", "a later"])
def test_a_refused_forward_that_comes_a_second_time_is_refused_again_although_there_is_room(in_term):
    """The first copy was answered as not executed; the second was taken, and executed."""
    cluster, leader, follower, press = pressed_group()
    press(0.9)
    sent = forwards_of(cluster, follower)
    refused = cluster.outcome(cluster.execute(follower, put("late", 10)))
    assert isinstance(refused, NotExecuted)
    if in_term == "a later":
        lead_again(cluster, leader)
    press(0.1)
    (forward,) = [one for one in sent if one.proposals[0].seq]
    cluster.step(leader, Received(cluster.nodes[follower].me, forward))
    cluster.run(1_000)

    assert all(node.replica.machine._store._live.get(b"late") is None for node in cluster.nodes.values())
    assert isinstance(cluster.outcome(cluster.execute(follower, put("next", 10))), Ok)


def test_a_leader_that_forgets_what_it_refused_executes_a_command_that_was_reported_as_not_executed():
    """The rule behind the test above, switched off."""
    cluster, leader, follower, press = pressed_group(ablations.ForgetsWhatItRefused)
    press(0.9)
    sent = forwards_of(cluster, follower)
    assert isinstance(cluster.outcome(cluster.execute(follower, put("late", 10))), NotExecuted)
    press(0.1)
    (forward,) = [one for one in sent if one.proposals[0].seq]
    cluster.step(leader, Received(cluster.nodes[follower].me, forward))
    cluster.run(1_000)

    assert all(node.replica.machine._store._live.get(b"late") is not None for node in cluster.nodes.values())


def test_a_refusal_is_not_believed_of_a_command_that_the_leader_was_not_yet_given_in_its_term():
    """It may answer a copy of a Forward to an earlier leader; another copy may be in that one's log."""
    cluster, leader, follower, _ = pressed_group()
    node = cluster.nodes[follower]
    cluster.drop = lambda sender, to, message: follower in (sender, to)
    ticket = cluster.execute(follower, put("k", 10))
    (pending,) = node.session.in_flight.values()
    assert pending.times == 1
    peer, term = cluster.nodes[leader].me, node.term + 1
    last = node.log.last()
    heartbeat = Append(node.cluster, term, last, (), node.tenure.commit, 1)
    told = Overloaded(node.cluster, term, node.session.number, (pending.seq,), node.me, 1, 2)
    cluster.step(follower, Received(peer, heartbeat), Received(peer, told))

    assert node.term == term
    assert ticket not in cluster.outcomes
    assert pending.times == 2


def test_a_command_right_behind_a_refused_one_is_judged_by_itself():
    """It was refused for a gap, and handed over again, so nobody could know any more that it did not happen."""
    cluster, _, follower, press = pressed_group()
    press(0.9)
    tickets = [cluster.execute(follower, put(key, 10)) for key in ("one", "two")]
    last = cluster.execute(follower, {"op": "delete", "key": "first"})

    assert [type(cluster.outcome(ticket)) for ticket in tickets] == [NotExecuted, NotExecuted]
    assert isinstance(cluster.outcome(last), Ok)


def test_a_command_of_a_session_that_the_leader_does_not_know_yet_is_neither_taken_nor_refused_for_good():
    """Nothing would bound what the leader remembers of sessions that are not open."""
    cluster, leader, follower, press = pressed_group()
    node, origin = cluster.nodes[leader], cluster.nodes[follower].me
    press(0.9)
    body = encode_command_body((put("k", 10),), None)
    payloads = [encode_commands(session_id(GROUP, origin.id, 99), seq, 1, None, body) for seq in (1, 2)]
    proposals = tuple(Proposal(EntryKind.COMMAND, seq, one) for seq, one in enumerate(payloads, 1))
    before = node.log.last()
    effects = cluster.step(leader, Received(origin, Forward(node.cluster, 99, 0, proposals)))

    (reply,) = [send.message for send in effects.sends if isinstance(send.message, ForwardReply)]
    assert (reply.cursors, reply.refused) == ((), "overloaded")
    assert not [send for send in effects.sends if isinstance(send.message, Overloaded)]
    assert node.log.last() == before
    assert not node.tenure.refused


def test_what_a_leader_remembers_of_refused_commands_is_bounded():
    cluster, leader, follower, press = pressed_group()
    node, session = cluster.nodes[leader], cluster.nodes[follower].session
    gone = Refused(1, node.me, MemoryReported(1, Budget(1), 1))
    node.tenure.refused[b"a session that ended"] = gone
    press(0.9)
    for number in range(3 * 64):
        assert isinstance(cluster.outcome(cluster.execute(follower, put(f"k{number}", 10))), NotExecuted)

    (known,) = node.tenure.refused.values()
    assert len(known.seqs) <= 2 * 64
    assert all(seq in known for seq in range(2, session.next_seq))
    assert session.next_seq not in known


def test_the_session_of_a_member_whose_writes_are_refused_stays_open():
    cluster = without_snapshots(session_ttl_ms=20_000)
    follower = cluster.followers()[0]
    fill(cluster, follower)
    number = cluster.nodes[follower].session.number
    for _ in range(60):
        assert cluster.outcome(cluster.execute(follower, put("late", 5_000)), ms=500).reason == "overloaded"
        cluster.run(1_000)
    assert isinstance(cluster.outcome(cluster.execute(follower, {"op": "delete", "key": "k1"}), ms=500), Ok)
    assert cluster.nodes[follower].session.number == number


# ---- what is counted ------------------------------------------------------------------
def test_every_part_is_counted():
    cluster = group(budgets=dict.fromkeys("abc", 50 * SIZE), snapshot_bytes=200_000, log_keep_bytes=0)
    leader = cluster.leader()
    before = use(cluster, leader)
    for number in range(40):
        cluster.outcome(cluster.execute(leader, put(f"k{number}", 10_000), key=f"key-{number}".encode()))
    cluster.run(3_000)
    after = use(cluster, leader)

    assert after.store - before.store > 400_000
    assert after.keys > before.keys
    assert after.kept > 0
    held = cluster.nodes[leader].tenure.snaps.keeper.held
    # The one that is held, and the next one, of which nobody knows how well it will pack.
    assert after.snapshots == held.memory_bytes + held.evidence.size
    assert held.memory_bytes < held.evidence.size // 4
    assert after.log < 300_000 < cluster.nodes[leader].log.taken
    cluster.nodes[leader].buffered = lambda: 12_345
    assert use(cluster, leader).buffers == 12_345
    assert after.total == sum(after)


def test_the_memory_of_keys_is_given_back_when_they_are_forgotten():
    cluster = group(session_ttl_ms=10_000)
    leader = cluster.leader()
    table = cluster.nodes[leader].replica.table
    for number in range(50):
        cluster.outcome(cluster.execute(leader, put("k", 1), key=f"key-{number}".encode()))
    assert table.keys_memory > 50 * 46
    cluster.run(30_000)
    assert table.keys_memory == 0


def test_a_member_without_a_budget_reports_nothing():
    cluster = group(budgets=dict.fromkeys("abc", NO_BUDGET))
    sent = []
    cluster.drop = lambda sender, to, message: sent.append(message)
    cluster.run(2_000)

    assert sent
    assert not any(isinstance(message, MemoryReport) for message in sent)


def test_a_budget_for_a_quota_leaves_room_for_a_full_store_and_two_snapshots_below_the_mark():
    quota = 256 << 20
    assert Budget(needed_for(quota)).mark >= 3 * quota + (64 << 20) > Budget(needed_for(quota) - 8).mark
    limits = Budget(SIZE)
    assert limits.early < limits.low < limits.mark < limits.full < SIZE


def test_the_log_counts_with_the_objects_that_it_consists_of():
    assert log_memory(MemoryLog()) == 0


# ---- which commands make room ---------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "frees"),
    [
        ({"op": "delete", "key": "a"}, True),
        ({"op": "cas", "key": "a", "expect": "x", "value": None}, True),
        ({"op": "cas", "key": "a", "expect": "x"}, False),
        ({"op": "cas", "key": "a", "expect": None, "value": "y"}, False),
        (put("a", 1), False),
        ("delete", False),
        (None, False),
    ],
)
def test_the_store_names_the_commands_that_make_room(command, frees):
    assert KeyValue().frees(command) is frees


def test_no_command_that_makes_room_makes_a_collection_larger():
    from node.machines.base import ApplyContext
    from node.machines.collections.machine import _COMMANDS, _FREEING

    assert set(_FREEING) - {"drop", "clear"} <= set(_COMMANDS)
    machine = CollectionsMachine()
    at = ApplyContext(1, 1, 0, 0, bytes(32), version=2)
    for kind in ("map", "set", "vec", "queue", "cell"):
        machine.apply({"op": "declare", "name": kind, "kind": kind}, at)
    machine.apply({"op": "map-insert", "name": "map", "key": "a", "value": "1"}, at)
    for command in (
        {"op": "map-pop", "name": "map", "key": "a"},
        {"op": "clear", "name": "map"},
        {"op": "vec-truncate", "name": "vec", "length": 9},
        {"op": "queue-pop", "name": "queue", "last": False},
        {"op": "drop", "name": "cell"},
    ):
        before = machine.memory_bytes
        assert machine.frees(command)
        try:
            machine.apply(command, at)
        except CommandError:
            continue
        assert machine.memory_bytes <= before
    assert not machine.frees({"op": "map-insert"})
    assert not machine.frees(["drop"])


def test_a_machine_whose_own_account_fails_is_counted_by_its_snapshots():
    class Broken(LogAlone):
        @property
        def memory_bytes(self):
            raise ZeroDivisionError

        def frees(self, command):
            raise ZeroDivisionError

    cluster = without_snapshots(machine=Broken)
    raised = []
    for node in cluster.nodes.values():
        node.on_raised = lambda what, _: raised.append(what)
    fill(cluster, cluster.leader())
    outcome = cluster.outcome(cluster.execute(cluster.leader(), {"op": "delete", "key": "k1"}))

    assert outcome.reason == "overloaded"
    assert set(raised) == {"memory_bytes", "frees"}
    assert not halted(cluster)


def test_reports_without_evidence_keep_the_group_within_its_budget():
    """Members that take snapshots whose evidence never comes refuse writes, and go on when it does."""
    cluster = group()
    leader = cluster.leader()
    cluster.drop = lambda sender, to, message: isinstance(message, SnapshotDigest)
    fill(cluster, leader, key="k")
    assert max(use(cluster, name).total for name in "abc") <= SIZE
    cluster.drop = lambda *_: False
    cluster.run(60_000)

    assert isinstance(cluster.outcome(cluster.execute(leader, put("k", 5_000))), Ok)
    assert not halted(cluster)


@pytest.mark.parametrize(("size", "is_kept"), [(1_000_000, True), (350_000, False)])
def test_a_joiner_that_never_finishes_costs_no_member_its_budget_and_stops_no_writes(size, is_kept):
    """It asks for the same chunks again and again, so its snapshot is still wanted when the next one is there."""
    cluster = group(budgets=dict.fromkeys("abc", size), snapshot_bytes=60_000, log_keep_bytes=0)
    leader = cluster.leader()
    for number in range(20):
        assert isinstance(cluster.outcome(cluster.execute(leader, put(f"k{number}", 5_000))), Ok)
    cluster.run(3_000)
    cluster.drop = lambda sender, to, message: to == "d" and isinstance(message, SyncAnswer)
    cluster.add("d", Bootstrap.JOIN, machine=KeyValue(), budget=Budget(SIZE))
    most, kept, refused = 0, False, 0
    for number in range(150):
        outcome = cluster.outcome(cluster.execute(leader, put(f"k{number % 20}", 5_000)))
        refused += isinstance(outcome, NotExecuted)
        cluster.run(100)
        keepers = [cluster.nodes[name].tenure.snaps.keeper for name in "abc"]
        kept = kept or any(keeper.before is not None for keeper in keepers)
        most = max(most, *(use(cluster, name).total for name in "abc"))

    assert kept is is_kept  # an older snapshot, for the joiner, while there is room for it
    assert refused == 0
    assert most <= size
    assert cluster.nodes["d"].log.last().index == 0
    assert not halted(cluster)


@pytest.mark.parametrize("size", [0.5, -1, "many", True, 1 << 63, None])
def test_a_machine_that_names_no_number_of_bytes_counts_as_one_that_does_not_know(size):
    """Peers refuse a report with such a use: its bond ended each time."""

    class Odd(KeyValue):
        memory_bytes = size

    cluster = group(machine=Odd)
    for name in "abc":
        cluster.nodes[name].on_raised = lambda *_: None
    assert isinstance(cluster.outcome(cluster.execute("a", put("k", 10))), Ok)
    cluster.run(1000)
    for name in "abc":
        assert type(use(cluster, name).total) is int
        assert use(cluster, name).store == 0


def test_a_voter_without_a_budget_to_speak_of_costs_no_snapshot_after_snapshot():
    """A false report made the leader write a marker whenever the one before was done with, for ever."""
    cluster = group(budgets=dict.fromkeys("abc", NO_BUDGET), snapshot_ms=1 << 40)
    leader, follower = cluster.leader(), cluster.followers()[0]
    node, peer = cluster.nodes[leader], cluster.nodes[follower].me
    assert isinstance(cluster.outcome(cluster.execute(leader, put("k", 10))), Ok)
    for _ in range(5):
        report = MemoryReport(node.cluster, node.term, node.log.last().index, 0, 0)
        cluster.step(leader, Received(peer, report))
        cluster.run(200)

    kinds = [entry.kind for entry in node.log.slice(1, node.log.last().index, 1 << 40)]
    assert EntryKind.SNAPSHOT not in kinds
