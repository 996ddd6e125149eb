"""The system state beside the machine: its commands go through the same log, and it judges every caller."""

import pytest

from node.machines.base import CommandError
from node.machines.system import EmptySystem, RequestKind, SystemState
from node.raft.events import Query, Received, Recovered, Violation
from node.raft.member import Member
from node.raft.messages import Forward, Proposal
from node.raft.replica import Replica
from node.raft.types import (
    BATCH_ABORTED,
    Answer,
    Applied,
    Bootstrap,
    Consistency,
    EntryKind,
    Failed,
    NotExecuted,
    Ok,
)
from tests.node.raft.cluster import RaftCluster, three

ALICE, MALLORY = b"alice", b"m" * 32


class Callers(SystemState):
    """Who may call: a member itself, and who was let in and not put out again."""

    def __init__(self):
        self.known = {ALICE: 2**62}
        self.asked = []

    def judge(self, credential, request, value, *, now_ms, machine):
        if value == "crash-the-judge" or value == ["crash-the-judge"]:
            raise ZeroDivisionError(hex(id(self)))
        if credential is not None and self.known.get(credential, 0) < now_ms:
            raise CommandError("not-permitted", f"this caller may make no {request.value}")

    def apply(self, command, context):
        match command:
            case ["let-in", name, until_ms]:
                self.known[name] = until_ms
                self.asked.append((context.credential, context.index))
                return len(self.known)
            case ["put-out", name]:
                return self.known.pop(name, None)
            case ["both"]:
                self.known.clear()
                raise CommandError("refused", "as asked")
            case _:
                raise ZeroDivisionError

    def query(self, query):
        return sorted(self.known)

    def snapshot(self):
        return [sorted(self.known.items()), list(self.asked)]

    def restore(self, snapshot):
        self.known, self.asked = dict(snapshot[0]), list(snapshot[1])


def callers(**overrides):
    return three(system=Callers, **overrides)


def system(cluster, name, *commands, **more):
    return cluster.outcome(cluster.execute(name, *commands, system=True, **more))


def states(cluster):
    return {node.replica.system.digest() for node in cluster.nodes.values()}


def ask(cluster, name, **fields):
    cluster.tokens += 1
    level = fields.pop("consistency", Consistency.STRONG)
    cluster.step(name, Query(cluster.tokens, fields.pop("query", "value"), level, **fields))
    return cluster.outcome((name, cluster.tokens))


def failure(outcome):
    assert isinstance(outcome, Ok)
    return [result.code for result in outcome.results if isinstance(result, Failed)]


# ---- commands of the system state ----------------------------------------------
def test_a_system_command_is_applied_on_every_member_at_the_same_index_whichever_member_is_asked():
    cluster = callers()
    for number, name in enumerate("abc"):
        done = system(cluster, name, ["let-in", bytes([number]), 5], credential=ALICE)
        assert done.results == (Applied(number + 2),)
    cluster.run(500)

    assert len(states(cluster)) == 1
    seen = {tuple(node.replica.system.asked) for node in cluster.nodes.values()}
    assert len(seen) == 1
    assert [who for who, _ in seen.pop()] == [ALICE] * 3
    assert set(cluster.values().values()) == {0}  # the machine never sees them


def test_machine_and_system_commands_of_one_member_keep_their_order():
    cluster = callers()
    follower = cluster.followers()[0]
    tickets = [
        cluster.execute(follower, 1, credential=ALICE),
        cluster.execute(follower, ["put-out", ALICE], system=True),
        cluster.execute(follower, 1, credential=ALICE),
        cluster.execute(follower, ["let-in", ALICE, 2**62], system=True),
        cluster.execute(follower, 1, credential=ALICE),
    ]
    told = [failure(cluster.outcome(ticket)) for ticket in tickets]
    cluster.run(500)

    assert told == [[], [], ["not-permitted"], [], []]
    assert set(cluster.values().values()) == {2}


def test_a_system_command_is_executed_once_however_often_it_is_asked():
    cluster = callers()
    first = system(cluster, "a", ["let-in", b"x", 5], key=b"k")
    again = [system(cluster, name, ["let-in", b"x", 5], key=b"k") for name in "abc"]

    assert {outcome.at for outcome in again} == {first.at}
    assert len(cluster.nodes["a"].replica.system.asked) == 1


def test_a_batch_of_system_commands_is_done_as_a_whole_or_not_at_all():
    cluster = callers()
    before = states(cluster)
    done = system(cluster, "b", ["let-in", b"x", 5], ["both"], ["let-in", b"y", 5])
    cluster.run(500)

    assert failure(done) == [BATCH_ABORTED, "refused", BATCH_ABORTED]
    assert states(cluster) == before


def test_a_system_state_that_raises_stops_no_member():
    cluster = callers()
    assert failure(system(cluster, "a", ["no such command"])) == ["apply-raised"]
    assert isinstance(cluster.outcome(cluster.execute("a", 1)), Ok)
    assert all(node.halted is None for node in cluster.nodes.values())


def test_without_a_system_state_every_system_command_and_query_is_refused():
    cluster = three()
    assert failure(system(cluster, "a", ["let-in", b"x", 5])) == ["system-command-unknown"]
    assert failure(system(cluster, "a", {"op": "let-in"})) == ["not-a-system-command"]
    assert ask(cluster, "a", query=["who"], system=True).value.code == "system-command-unknown"
    assert isinstance(cluster.outcome(cluster.execute("a", 1, credential=MALLORY)), Ok)


def test_a_system_state_comes_back_from_a_log_that_was_kept():
    cluster = RaftCluster(system=Callers, trust_disk=True, min_voters=1)
    node = cluster.add("a", bootstrap=Bootstrap.INIT)
    cluster.elect()
    system(cluster, "a", ["let-in", b"x", 5], credential=ALICE)
    log = node.log.slice(1, node.log.last().index, 10**9)
    cluster.kill("a")
    again = cluster.add("a", bootstrap=Bootstrap.INIT, recovered=Recovered(node.term, node.voted_for, log))
    cluster.elect()
    cluster.run(300)

    assert again.replica.system.snapshot() == node.replica.system.snapshot()


# ---- who may call ----------------------------------------------------------------
class Unjudged(Replica):
    def _judge(self, credential, request, value, now_ms):
        return None


class WithoutJudge(Member):
    def _make_replica(self, machine):
        return Unjudged(machine, self.make_system(), self.settings, self.group_id)


def overtaken_by_its_revocation(member):
    """A follower takes a command from a caller that is put out before the command is in the log."""
    cluster = three(system=Callers, member=member)
    leader, (name, _) = cluster.leader(), cluster.followers()
    system(cluster, leader, ["let-in", MALLORY, 2**62])
    cluster.run(500)
    held = []
    cluster.drop = lambda sender, to, m: isinstance(m, Forward) and not held.append((sender, to, m))
    ticket = cluster.execute(name, 1000, credential=MALLORY)
    cluster.deliver()
    cluster.drop = lambda sender, to, m: False
    system(cluster, leader, ["put-out", MALLORY])
    cluster.wire += held
    outcome = cluster.outcome(ticket)
    cluster.run(500)
    return outcome, set(cluster.values().values())


def test_a_command_that_its_callers_revocation_overtakes_is_refused_on_every_member():
    outcome, values = overtaken_by_its_revocation(Member)
    assert failure(outcome) == ["not-permitted"]
    assert values == {0}


def test_without_the_judgement_at_its_index_it_is_executed():
    outcome, values = overtaken_by_its_revocation(WithoutJudge)
    assert outcome.results == (Applied(1000),)
    assert values == {1000}


def test_a_refused_command_changes_nothing_and_the_refusal_is_remembered():
    cluster = callers()
    first = cluster.outcome(cluster.execute("a", 1, credential=MALLORY, key=b"k"))
    system(cluster, "a", ["let-in", MALLORY, 2**62])
    again = cluster.outcome(cluster.execute("b", 1, credential=MALLORY, key=b"k"))
    new = cluster.outcome(cluster.execute("c", 1, credential=MALLORY, key=b"l"))
    cluster.run(500)

    assert failure(first) == ["not-permitted"]
    assert again == first
    assert new.results == (Applied(1),)
    assert set(cluster.values().values()) == {1}


def test_a_batch_is_judged_as_a_whole_by_the_state_before_it():
    cluster = callers()
    before = states(cluster)
    refused = system(cluster, "a", ["put-out", ALICE], ["crash-the-judge"], credential=ALICE)
    cluster.run(500)
    assert failure(refused) == [BATCH_ABORTED, "judge-raised"]
    assert states(cluster) == before

    done = system(cluster, "a", ["put-out", ALICE], ["let-in", b"x", 5], credential=ALICE)
    assert failure(done) == []
    assert cluster.nodes["a"].replica.system.asked[-1][0] == ALICE


def test_a_caller_whose_time_is_over_is_refused_by_the_time_of_the_log():
    cluster = callers()
    leader = cluster.leader()
    until_ms = cluster.nodes[leader].replica.applied_ms + 2_000
    system(cluster, leader, ["let-in", MALLORY, until_ms])
    assert failure(cluster.outcome(cluster.execute("a", 1, credential=MALLORY))) == []
    for name in "abc":
        assert ask(cluster, name, credential=MALLORY).value == 1
    cluster.run(4_000)  # nothing is written meanwhile

    for name in "abc":
        assert ask(cluster, name, credential=MALLORY).value.code == "not-permitted"
    assert failure(cluster.outcome(cluster.execute("a", 1, credential=MALLORY))) == ["not-permitted"]


@pytest.mark.parametrize("lease_reads", [False, True])
@pytest.mark.parametrize("of_system", [False, True])
def test_a_strong_query_is_judged_by_the_state_at_its_index(lease_reads, of_system):
    cluster = callers(lease_reads=lease_reads)
    leader = cluster.leader()
    system(cluster, leader, ["let-in", MALLORY, 2**62])
    for name in "abc":
        assert not isinstance(ask(cluster, name, credential=MALLORY, system=of_system).value, Failed)
    system(cluster, leader, ["put-out", MALLORY])

    for name in "abc":  # none of them need have received it before it is asked
        refused = ask(cluster, name, credential=MALLORY, system=of_system)
        assert refused.value.code == "not-permitted"
        assert isinstance(ask(cluster, name, system=of_system), Answer)


def test_a_weak_query_is_judged_by_what_the_member_has_applied():
    cluster = callers()
    weak = {"consistency": Consistency.WEAK}
    assert ask(cluster, "a", credential=MALLORY, **weak).value.code == "not-permitted"
    assert ask(cluster, "a", credential=ALICE, **weak).value == 0


def test_the_judge_receives_the_command_and_its_caller():
    heard = []

    class Listens(EmptySystem):
        def judge(self, credential, request, value, *, now_ms, machine):
            heard.append((request, value))

    cluster = three(system=Listens)
    cluster.outcome(cluster.execute("a", 7))
    system(cluster, "a", ["x"])
    ask(cluster, "a")
    ask(cluster, "a", query=["y"], system=True)

    for expected in (
        (RequestKind.COMMAND, 7),
        (RequestKind.SYSTEM_COMMAND, ["x"]),
        (RequestKind.QUERY, "value"),
        (RequestKind.SYSTEM_QUERY, ["y"]),
    ):
        assert expected in heard


# ---- keys and sessions are one caller's ---------------------------------------------
def test_no_caller_gets_the_answer_to_another_callers_command_under_a_key():
    cluster = callers()
    system(cluster, "a", ["let-in", MALLORY, 2**62])
    asked = cluster.outcome(cluster.execute("a", 1, key=b"k", credential=ALICE))

    assert isinstance(asked, Ok)
    for other in (MALLORY, None):
        told = cluster.outcome(cluster.execute("b", 1, key=b"k", credential=other))
        assert told == NotExecuted("idempotency-key-reused")
    assert cluster.outcome(cluster.execute("b", 1, key=b"k", credential=ALICE)) == asked


def test_a_key_of_a_machine_command_does_not_match_the_same_system_command():
    cluster = three()
    assert isinstance(cluster.outcome(cluster.execute("a", 1, key=b"k")), Ok)
    assert system(cluster, "a", 1, key=b"k") == NotExecuted("idempotency-key-reused")


@pytest.mark.parametrize("credential", [b"", b"x" * 33])
def test_a_credential_that_no_entry_could_carry_is_refused_at_once(credential):
    cluster = callers()
    last = cluster.nodes["a"].log.last()
    assert cluster.outcome(cluster.execute("a", 1, credential=credential), 0).reason == "bad-credential"
    assert cluster.nodes["a"].log.last() == last


def test_no_member_forwards_system_commands_for_another_members_session():
    cluster = callers()
    leader, (a, b) = cluster.leader(), cluster.followers()
    ticket = cluster.execute(b, ["let-in", MALLORY, 2**62], system=True)
    cluster.outcome(ticket)
    node = cluster.nodes[leader]
    theirs = next(e for e in node.log.slice(1, 99, 10**6) if e.kind is EntryKind.SYSTEM)
    stolen = Proposal(EntryKind.SYSTEM, 99, theirs.payload)
    effects = cluster.step(leader, Received(cluster.nodes[a].me, Forward(node.cluster, 0, 0, (stolen,))))

    assert effects.notices == [Violation(cluster.nodes[a].me, "forward-for-another-session")]


# ---- clusters that give themselves up --------------------------------------------
def two_alone(**whose):
    """Two members that each founded a cluster alone; the first wrote into its system state."""
    cluster = RaftCluster(system=Callers, min_voters=1)
    for name in "ab":
        cluster.add(name, bootstrap=Bootstrap.AUTO, bond=False)
        cluster.run(5_000)
        system(cluster, name, ["let-in", name.encode(), 5], **whose)
    cluster.bond("a", "b")
    cluster.run(10_000)
    return cluster


def test_what_members_wrote_for_themselves_does_not_keep_two_clusters_apart():
    cluster = two_alone()
    assert len({node.cluster for node in cluster.nodes.values()}) == 1
    assert len(states(cluster)) == 1
    assert len(cluster.nodes["a"].replica.system.known) == 2  # and nothing is left of the other's


def test_what_a_caller_asked_of_the_system_state_is_never_given_up():
    cluster = two_alone(credential=ALICE)
    assert len({node.cluster for node in cluster.nodes.values()}) == 2
