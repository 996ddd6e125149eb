"""Section 3.8: exactly once, typed outcomes, atomic batches, recorded failures."""

import asyncio

import pytest
from msgspec import structs

from node.machines.system import EmptySystem
from node.raft.entries import (
    SessionChange,
    decode_commands_untrusted,
    encode_command_body,
    encode_commands,
    encode_session,
    make_entries,
    make_entry,
    payload_prefix,
    session_id,
)
from node.raft.events import Cancel, Received, Violation
from node.raft.member import Member
from node.raft.messages import Append, Forward, ForwardReply, Proposal
from node.raft.replica import Replica
from node.raft.types import (
    LOG_START,
    Applied,
    Bootstrap,
    EntryKind,
    Failed,
    Key,
    NotExecuted,
    Ok,
    Settings,
    Unknown,
)
from tests.node.raft.cluster import GROUP, RaftCluster, Register, three


def history(cluster):
    return {tuple(n.replica.machine.history) for n in cluster.nodes.values()}


def test_a_result_comes_back_from_apply_with_its_cursor():
    cluster = three()
    first = cluster.outcome(cluster.execute(cluster.leader(), 5))
    second = cluster.outcome(cluster.execute(cluster.followers()[0], 6))

    assert (first.results, second.results) == ((Applied(5),), (Applied(11),))
    assert second.at.index == first.at.index + 1


def test_commands_of_one_member_are_executed_in_the_order_of_their_calls():
    cluster = three()
    name = cluster.followers()[0]
    for i in range(200):
        cluster.execute(name, i)
    cluster.run(1000)

    assert history(cluster) == {tuple(range(200))}


def test_lost_messages_change_neither_the_number_nor_the_order_of_executions():
    cluster = three()
    name = cluster.followers()[0]
    lost = {Append, Forward, ForwardReply}
    cluster.drop = lambda s, t, m: type(m) in lost and cluster.random.random() < 0.3
    tickets = [cluster.execute(name, i) for i in range(50)]
    for ticket in tickets:
        cluster.outcome(ticket, 60_000)
    cluster.drop = lambda *_: False
    cluster.run(3000)

    assert history(cluster) == {tuple(range(50))}


def test_an_unanswered_command_is_executed_once_though_every_leader_gets_it():
    """Named schedule 19, retry storm: three changes of leader, every answer lost."""
    cluster = three()
    name = cluster.followers()[0]
    cluster.drop = lambda s, t, m: isinstance(m, Append) and t == name
    ticket = cluster.execute(name, 7)
    cluster.run(200)
    cluster.drop = lambda *_: False
    for life in range(1, 4):
        leader = cluster.leader()
        if leader == name:
            break
        cluster.kill(leader)
        cluster.add(leader, Bootstrap.JOIN, life=life)
        cluster.elect()
        cluster.run(5000)

    assert isinstance(cluster.outcome(ticket), Ok)
    assert history(cluster) == {(7,)}


class NoDedupe(Replica):
    def admit(self, batch, time_ms):
        known = self.table.admit(batch, time_ms)
        return known if known == NotExecuted("session-expired") else None


class WithoutDedupe(Member):
    def _make_replica(self, machine):
        return NoDedupe(machine, self.make_system(), self.settings, self.group_id)


def test_a_command_that_is_in_the_log_twice_is_executed_once():
    cluster = three()
    leader = cluster.leader()
    cluster.outcome(cluster.execute(leader, 7))
    node = cluster.nodes[leader]
    entry = next(e for e in node.log.slice(1, 99, 10**6) if e.kind is EntryKind.COMMAND)
    node._write(EntryKind.COMMAND, entry.payload)
    cluster.run(300)

    assert history(cluster) == {(7,)}


def test_without_the_session_table_it_is_executed_twice():
    cluster = RaftCluster(member=WithoutDedupe)
    for name in "abc":
        cluster.add(name)
    leader = cluster.elect()
    cluster.run(300)
    cluster.outcome(cluster.execute(leader, 7))
    node = cluster.nodes[leader]
    entry = next(e for e in node.log.slice(1, 99, 10**6) if e.kind is EntryKind.COMMAND)
    node._write(EntryKind.COMMAND, entry.payload)
    cluster.run(300)

    assert history(cluster) == {(7, 7)}


def test_an_idempotency_key_holds_on_whichever_member_it_is_used():
    cluster = three()
    outcomes = [cluster.outcome(cluster.execute(name, 7, key=b"order-1")) for name in "abc"]

    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert history(cluster) == {(7,)}


def test_a_key_used_for_another_command_is_refused():
    cluster = three()
    cluster.outcome(cluster.execute("a", 7, key=b"order-1"))
    outcome = cluster.outcome(cluster.execute("b", 8, key=b"order-1"))

    assert outcome == NotExecuted("idempotency-key-reused")
    assert history(cluster) == {(7,)}


def test_a_key_is_forgotten_after_the_ttl_by_the_time_of_entries():
    cluster = three(session_ttl_ms=10_000)
    cluster.outcome(cluster.execute("a", 7, key=b"order-1"))
    cluster.run(15_000)
    cluster.outcome(cluster.execute("b", 7, key=b"order-1"))

    assert history(cluster) == {(7, 7)}


class ForgetsHowLate(Replica):
    def admit(self, batch, time_ms):
        if batch.key is not None:
            batch = structs.replace(batch, key=Key(batch.key.name, 2**62))
        return self.table.admit(batch, time_ms)


class WithoutLateness(Member):
    def _make_replica(self, machine):
        return ForgetsHowLate(machine, self.make_system(), self.settings, self.group_id)


def executed_behind_a_dripping_bond(member):
    """A network that lets one Forward through now and then keeps a session alive, and holds the next back.

    The caller has long repeated his keyed command elsewhere, and the group has forgotten his key.
    """
    ttl_ms = 8000
    cluster = three(member=member, session_ttl_ms=ttl_ms)
    leader, (name, other) = cluster.leader(), cluster.followers()
    session = cluster.nodes[name].session.id
    held = []

    def hold(sender, _to, message):
        if sender == name and isinstance(message, Forward):
            held.append(message)
            return True
        return False

    def drip():
        cluster.step(leader, Received(cluster.nodes[name].me, held.pop(0)))
        cluster.run(200)

    cluster.drop = hold
    first = cluster.execute(name, 100)
    cluster.run(100)
    keyed = cluster.execute(name, 7, key=b"order-1")
    cluster.run(100)
    for _, token in (first, keyed):
        cluster.step(name, Cancel(token))
    cluster.outcome(cluster.execute(other, 7, key=b"order-1"))
    cluster.run(ttl_ms * 3 // 4)
    drip()
    cluster.run(ttl_ms // 2)
    assert session in cluster.nodes[leader].replica.table
    drip()
    (told,) = history(cluster)
    return told.count(7)


def test_a_keyed_command_that_a_bond_held_back_is_not_executed_once_its_key_is_forgotten():
    assert executed_behind_a_dripping_bond(Member) == 1


def test_without_its_latest_time_it_is_executed_twice():
    assert executed_behind_a_dripping_bond(WithoutLateness) == 2


def test_the_latest_time_of_a_keyed_command_is_counted_from_when_it_was_first_handed_over():
    cluster = three(session_ttl_ms=8000)
    name = cluster.followers()[0]
    cluster.drop = lambda sender, _to, message: sender == name and isinstance(message, Forward)
    late, in_time = cluster.execute(name, 7, key=b"order-1"), cluster.execute(name, 8)
    cluster.run(1500)
    cluster.drop = lambda *_: False

    assert cluster.outcome(late) == NotExecuted("stale")
    assert isinstance(cluster.outcome(in_time), Ok)
    assert isinstance(cluster.outcome(cluster.execute(name, 7, key=b"order-1")), Ok)


def test_a_keyed_command_that_waits_for_a_leader_is_not_late():
    cluster = three(session_ttl_ms=8000)
    name = cluster.followers()[0]
    cluster.isolate(name)
    ticket = cluster.execute(name, 7, key=b"order-1")
    cluster.run(5000)
    cluster.heal()

    assert isinstance(cluster.outcome(ticket), Ok)


def test_an_expired_session_is_renewed_and_its_commands_executed_once():
    cluster = three(session_ttl_ms=5000)
    name = cluster.followers()[0]
    cluster.isolate(name)
    tickets = [cluster.execute(name, i) for i in range(3)]
    for _ in range(10):
        cluster.run(1000)
        cluster.execute(cluster.leader(), 100)
    assert cluster.nodes[name].session.id not in cluster.nodes[cluster.leader()].replica.table
    cluster.heal()
    for ticket in tickets:
        assert isinstance(cluster.outcome(ticket), Ok)
    cluster.run(1000)

    (told,) = history(cluster)
    assert [i for i in told if i < 100] == [0, 1, 2]
    assert cluster.nodes[name].session.number == 1


def test_an_idle_session_is_kept_alive():
    cluster = three(session_ttl_ms=5000)
    cluster.run(30_000)

    assert {n.session.number for n in cluster.nodes.values()} == {0}


def test_a_late_copy_of_an_open_cannot_revive_an_expired_session():
    cluster = three(session_ttl_ms=5000)
    leader, name = cluster.leader(), cluster.followers()[0]
    node = cluster.nodes[leader]
    session = cluster.nodes[name].session.id
    late = encode_session(SessionChange("open", session, cluster.nodes[name].me.id, 0))
    cluster.kill(name)
    cluster.run(20_000)
    assert session not in node.replica.table
    node._write(EntryKind.SESSION, late)
    cluster.run(500)

    assert session not in node.replica.table


def test_execute_many_is_one_entry_and_all_or_nothing():
    cluster = three()
    leader = cluster.leader()
    before = cluster.nodes[leader].log.last().index
    done = cluster.outcome(cluster.execute(leader, 1, 2, 3))
    failed = cluster.outcome(cluster.execute(leader, 10, "refuse", 20))

    assert done.results == (Applied(1), Applied(3), Applied(6))
    assert done.at.index == before + 1
    aborted = Failed("batch-aborted", "command 1 of the batch was refused")
    assert failed.results == (aborted, Failed("refused", "as asked"), aborted)
    assert set(cluster.values().values()) == {6}


def test_the_driver_of_a_member_is_informed_of_every_exception_from_its_machine():
    cluster, told = three(), []
    for name, node in cluster.nodes.items():
        node.on_raised = lambda what, raised, name=name: told.append((name, what, type(raised)))
    assert cluster.outcome(cluster.execute(cluster.leader(), "crash")).results[0].code == "apply-raised"
    cluster.run(300)
    assert sorted(told) == [(name, "apply", ZeroDivisionError) for name in sorted(cluster.nodes)]


def test_apply_that_raises_is_a_recorded_failure_and_never_a_wedge():
    cluster = three()
    outcome = cluster.outcome(cluster.execute(cluster.leader(), "crash"))
    assert outcome.results == (Failed("apply-raised", "ZeroDivisionError"),)
    assert cluster.outcome(cluster.execute(cluster.leader(), 4)).results == (Applied(4),)
    cluster.run(300)

    assert cluster.values() == {"a": 4, "b": 4, "c": 4}


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, GeneratorExit])
def test_apply_that_raises_what_is_no_exception_is_a_recorded_failure_too(kind, monkeypatch):
    def apply(self, command, context):
        if command == "stop":
            self.value += 1000
            raise kind
        self.value += command
        return self.value

    monkeypatch.setattr(Register, "apply", apply)
    cluster = three()
    outcome = cluster.outcome(cluster.execute(cluster.leader(), "stop"))
    assert outcome.results == (Failed("apply-raised", kind.__name__),)
    assert cluster.outcome(cluster.execute(cluster.leader(), 4)).results == (Applied(4),)
    cluster.run(300)

    assert cluster.values() == {"a": 4, "b": 4, "c": 4}


def test_ctrl_c_in_apply_is_no_result():
    cluster = three()
    follower = cluster.followers()[0]
    cluster.nodes[follower].replica.machine.apply = lambda *_: interrupt()

    with pytest.raises(KeyboardInterrupt):
        cluster.outcome(cluster.execute(follower, 1))


def interrupt():
    raise KeyboardInterrupt


def test_a_machine_that_cannot_go_back_halts_its_member_instead_of_diverging():
    cluster = three()
    follower = cluster.followers()[0]
    machine = cluster.nodes[follower].replica.machine
    machine.rollback = lambda _: 1 / 0
    machine.savepoint = lambda: None
    cluster.outcome(cluster.execute(cluster.leader(), "crash"))
    cluster.run(300)

    assert cluster.nodes[follower].halted == "state-machine-broken"


def test_a_malformed_command_in_the_log_is_skipped_by_everybody():
    cluster = three()
    cluster.nodes[cluster.leader()]._write(EntryKind.COMMAND, b"\xff")
    cluster.run(300)

    assert cluster.outcome(cluster.execute(cluster.leader(), 4)).results == (Applied(4),)
    assert all(n.halted is None for n in cluster.nodes.values())


def test_what_surrounds_a_malformed_command_is_applied_as_if_it_stood_alone():
    session = session_id(GROUP, b"i" * 32, 1)
    opening = encode_session(SessionChange("open", session, b"i" * 32, 1))
    good = [encode_commands(session, seq, 1, None, encode_command_body((seq,))) for seq in (1, 2, 3)]
    payloads = [good[0], good[1][:-1], b"\x83", good[1], good[2] + b"\x00", b"", good[2]]
    parts = [(1, EntryKind.COMMAND, 1, payload) for payload in payloads]
    entries = make_entries(LOG_START, [(1, EntryKind.SESSION, 1, opening), *parts])
    together, alone = (Replica(Register(), EmptySystem(), Settings(), GROUP) for _ in range(2))

    outcomes = [resolution for _, resolution in together.apply(entries)]

    assert [outcome and outcome.seq for outcome in outcomes] == [0, 1, None, None, 2, None, None, 3]
    assert outcomes == [resolution for entry in entries for _, resolution in alone.apply([entry])]
    assert (together.applied, together.commands) == (alone.applied, alone.commands) == ((1, 8), 7)
    assert together.machine.value == alone.machine.value == 6


def test_feed_answers_with_the_cursor_before_the_commit():
    cluster = three()
    follower = cluster.followers()[0]
    ticket = cluster.execute(follower, 3, feed=True)
    outcome = cluster.outcome(ticket)
    cluster.run(300)

    assert outcome.results == ()
    assert cluster.nodes[follower].term_at(outcome.at.index) == outcome.at.term
    assert set(cluster.values().values()) == {3}


def test_index_theft_another_command_at_the_promised_index_completes_no_other_caller():
    """C8, scenario 18."""
    cluster = three()
    old, (thief, victim) = cluster.leader(), cluster.followers()
    cluster.drop = lambda s, t, m: isinstance(m, Append)
    ticket = cluster.execute(victim, 1000)
    cluster.deliver()
    promised = cluster.nodes[victim].session.in_flight[1].cursor
    assert promised is not None
    cluster.drop = lambda *_: False
    cluster.kill(old)
    stolen = cluster.execute(thief, 1)
    outcome = cluster.outcome(ticket)

    assert isinstance(cluster.outcome(stolen), Ok)
    assert isinstance(outcome, Ok)
    assert outcome.at.term > promised.term
    assert sorted(history(cluster).pop()) == [1, 1000]


def test_a_cancelled_command_is_not_executed_if_it_never_left_and_unknown_if_it_did():
    cluster = three()
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.drop = lambda *_: True
    sent = cluster.execute(leader, 1)
    cluster.isolate(follower)
    kept = cluster.execute(follower, 2)
    cluster.step(leader, Cancel(sent[1]))
    cluster.step(follower, Cancel(kept[1]))

    assert isinstance(cluster.outcomes[sent], Unknown)
    assert isinstance(cluster.outcomes[kept], NotExecuted)


def test_a_command_that_was_fed_while_its_session_ran_out_unseen_is_executed():
    """Nobody led for longer than the TTL: the next entry that is applied ends the session."""
    cluster = three(session_ttl_ms=4000, demote_after_ms=10**7)
    (name, other) = cluster.followers()
    cluster.outcome(cluster.execute(name, 1))
    cluster.drop = lambda *_: True
    cluster.run(7000)
    assert cluster.leader() is None
    fed = cluster.execute(name, 10, feed=True)
    for node in cluster.nodes.values():
        node.election_due = cluster.now + (1 if node.me.name == name else 2000)
    cluster.drop = lambda *_: False
    at = cluster.outcome(fed).at
    assert cluster.leader() == name
    cluster.run(3000)

    assert cluster.nodes[other].term_at(at.index) == at.term
    assert set(cluster.values().values()) == {11}


def test_commands_that_cannot_be_executed_are_refused_with_their_reason():
    cluster = three(command_bytes_max=1000)
    leader = cluster.leader()
    deep = 0
    for _ in range(40):
        deep = [deep]
    cases = {
        "no-commands": (),
        "not-plain-data": (1.5,),
        "command-too-large": (b"x" * 2000,),
    }
    for reason, commands in cases.items():
        assert cluster.outcome(cluster.execute(leader, *commands), 0).reason == reason
    for odd in (deep, "\ud800", {"\ud800": 1}):
        assert cluster.outcome(cluster.execute(leader, odd), 0).reason == "not-plain-data"
    assert cluster.outcome(cluster.execute(leader, 1, key=b""), 0).reason == "bad-idempotency-key"


def test_no_member_forwards_for_another_members_session():
    cluster = three()
    leader, (a, b) = cluster.leader(), cluster.followers()
    node = cluster.nodes[leader]
    theirs = cluster.nodes[b].session.id
    body = encode_command_body((1,))
    stolen = Proposal(EntryKind.COMMAND, 99, encode_commands(theirs, 99, 1, None, body))
    last = node.log.last()
    effects = cluster.step(leader, Received(cluster.nodes[a].me, Forward(node.cluster, 0, 0, (stolen,))))

    assert effects.notices == [Violation(cluster.nodes[a].me, "forward-for-another-session")]
    assert node.log.last() == last


def test_a_payload_carries_its_session_and_number_in_its_first_bytes():
    session = session_id(GROUP, b"i" * 32, 3)
    for seq in (1, 23, 24, 255, 256, 65_536, 2**40):
        payload = encode_commands(session, seq, 1, Key(b"k", 7), encode_command_body((1, {"a": None})))
        entry = make_entry(LOG_START, term=1, kind=EntryKind.COMMAND, time_ms=1, payload=payload)
        (batch,) = decode_commands_untrusted([entry])

        assert payload.startswith(payload_prefix(session, seq))
        assert (batch.session, batch.seq, batch.key) == (session, seq, Key(b"k", 7))
        assert batch.commands == (1, {"a": None})


def test_session_tables_are_equal_on_every_member():
    cluster = three()
    for name in "abc":
        for i in range(10):
            cluster.execute(name, i, key=f"{name}{i}".encode())
    cluster.run(1000)

    assert len({n.replica.table.snapshot_digest() for n in cluster.nodes.values()}) == 1


def test_what_the_origin_acknowledged_is_forgotten():
    cluster = three()
    for i in range(50):
        cluster.outcome(cluster.execute("a", i))
    session = cluster.nodes["a"].session.id

    assert len(cluster.nodes["b"].replica.table._sessions[session].outcomes) <= 2


def test_a_members_first_command_waits_for_no_election_timeout():
    """Its session is asked for as of what it has applied; asked for before that, it would be void."""
    cluster = three()
    for _ in range(20):
        cluster.outcome(cluster.execute(cluster.leader(), 1))
    cluster.add("d", bootstrap=Bootstrap.JOIN)
    started = cluster.now

    assert isinstance(cluster.outcome(cluster.execute("d", 1)), Ok)
    assert cluster.now - started < cluster.settings.election_timeout_ms // 2


def test_forwards_refused_for_one_gap_are_handed_over_again_once_for_all_of_them():
    """Each refusal used to send all of them again, each of which was refused: threefold every round trip."""
    cluster = three()
    name = cluster.followers()[0]
    cluster.outcome(cluster.execute(name, 0))  # its session is open
    member, leader = cluster.nodes[name], cluster.nodes[cluster.leader()]
    sent = []
    cluster.drop = lambda _sender, _target, message: type(message) is Forward and not sent.append(message)
    for i in (1, 2, 3):
        cluster.execute(name, i)
    cluster.deliver()
    refusal = ForwardReply(member.cluster, member.term, 0, (), "gap", leader.me)
    before = len(sent)
    for _ in range(3):
        cluster.step(name, Received(leader.me, refusal))
        cluster.deliver()

    assert [len(forward.proposals) for forward in sent[before:]] == [3]
    cluster.drop = lambda *_: False
    cluster.run(3000)
    assert history(cluster) == {(0, 1, 2, 3)}
