"""Every oracle is shown what it is there for. One that no test can make speak may be deaf.

The group in these tests is a healthy one; then one of its members is made to send, or to have done, what no member may.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from node.features import Features, Levels
from node.machines.base import ApplyContext
from node.machines.counter import Counter
from node.peers import Incarnation
from node.raft.entries import EMPTY_PAYLOAD, encode_config, encode_number, make_entry
from node.raft.events import (
    Advanced,
    Effects,
    Halted,
    LevelsChanged,
    Query,
    RivalCluster,
    RoleChanged,
    SaveEntries,
    SaveTruncation,
    SaveVote,
    Send,
    SyncFailed,
    Tick,
    Violation,
)
from node.raft.member import Member
from node.raft.messages import AppendReply, Verdict, Vote, VoteReply, VoteRequest
from node.raft.pull import PullState
from node.raft.quorum import Config
from node.raft.types import (
    LOG_START,
    Answer,
    Applied,
    Bootstrap,
    Consistency,
    Cursor,
    EntryKind,
    NotExecuted,
    Ok,
    Position,
    Role,
)
from node.simulation.agreement import Agreement
from node.simulation.clients import Ask, Fate, SimulatedCall
from node.simulation.disk import Disk
from node.simulation.errors import InvariantError
from node.simulation.faults import CALM
from node.simulation.oracles import Oracles
from node.simulation.scenario import Scenario
from node.simulation.scheduler import Scheduler
from node.simulation.simulation import ScheduleError, draw_schedule, run
from node.simulation.verdict import judge_run
from node.simulation.workload import REGISTERS, Workload
from node.sync.evidence import MARKER, Anchor, StateEvidence, encode_evidence
from tests.node.simulation import ablations

STRANGER = Incarnation("z", bytes(32))
UNKNOWN_LEVEL = Features().high + 1


class Group:
    """Three settled members; A leads. ``log`` entries and effects are forged by the tests."""

    def __init__(self, options: str = "") -> None:
        self.scenario = Scenario()
        for command in (
            f"cluster a b c {options}",
            "wait leader within 60s",
            "transfer a",
            "wait leader a within 60s",
            "put w1 a x=1",
            "run 3s",
        ):
            self.scenario.do(command)
        self.cluster = self.scenario.cluster
        self.oracles = self.cluster.oracles
        self.a, self.b, self.c = (self.cluster.process_at(place) for place in "abc")
        self.term = self.a.view.term
        self.last = self.a.log.last().index
        self.id = self.a.log.position(1).chain

    def entry(self, process, kind=EntryKind.NOOP, payload=EMPTY_PAYLOAD, *, term=None):
        last = process.log.last()
        term = self.term if term is None else term
        return make_entry(last, term=term, kind=kind, time_ms=2**41, payload=payload)

    def append(self, process, entry):
        process.log.append((entry,))

    def add(self, process, *what, **fields):
        """Let ``process`` append an entry in one step."""
        self.append(process, self.entry(process, *what, **fields))
        self.see(process)

    def config(self, process, *, voters, epoch=2):
        config = Config(epoch=epoch, voters=tuple(sorted(voters)), tie=None, reason="forged")
        return self.entry(process, EntryKind.CONFIG, encode_config(config))

    def see(self, process, *notices, sends=(), completions=()):
        effects = Effects(notices=list(notices), sends=list(sends), completions=list(completions))
        self.oracles.observe(process, effects)

    def ack(self, process, match, *, term=None):
        term = self.term if term is None else term
        reply = AppendReply(self.id, term, Verdict.ACK, match, 1, Cursor(term, match))
        self.see(process, sends=[Send((self.a.inc,), reply)])

    def vote(self, process, candidate, term, verified=None):
        reply = VoteReply(self.id, term, False, Vote.GRANTED, None, LOG_START, verified)
        self.see(process, sends=[Send((candidate,), reply)])

    def elect(self, process, *, opens=True):
        """Let all vote for ``process``, which opens the next term, as it should, with a first entry of it."""
        term = self.term + 1
        self.see(process, RoleChanged(Role.FOLLOWER, term))
        for voter in (self.a, self.b, self.c):
            self.vote(voter, process.inc, term)
        if opens:
            self.append(process, self.entry(process, term=term))
        self.see(process, RoleChanged(Role.LEADER, term))

    def context(self, index):
        return ApplyContext(self.term, index, 0, 2**41, self.cluster.group_id)


def two_histories_of_one_entry(group: Group) -> None:
    group.add(group.a)
    group.add(group.b, EntryKind.DISSOLVE)


def gap(group: Group) -> None:
    for _ in range(2):
        group.append(group.b, group.entry(group.b))
    del group.b.view.changes[0]
    group.see(group.b)


def committed_entry_cut(group: Group) -> None:
    group.b.log.truncate(group.b.view.commit - 1)
    group.see(group.b)


def left_without_an_end(group: Group) -> None:
    group.b.log.truncate(0)
    group.see(group.b)


def left_with_data(group: Group) -> None:
    group.add(group.a, EntryKind.DISSOLVE)
    for follower in (group.b, group.c):
        group.add(follower, EntryKind.DISSOLVE)
        group.ack(follower, group.last + 1)
    group.a.log.truncate(0)
    group.see(group.a)


def led_again_with_an_end(group: Group, *, opens: bool = True) -> None:
    """DISSOLVE is with all, acknowledged by none in its own term, and A leads again."""
    for process in (group.a, group.b, group.c):
        group.add(process, EntryKind.DISSOLVE)
    group.elect(group.a, opens=opens)


def left_by_counting_an_old_end(group: Group) -> None:
    led_again_with_an_end(group, opens=False)
    for follower in (group.b, group.c):
        group.ack(follower, group.last + 1, term=group.term + 1)
    group.a.log.truncate(0)
    group.see(group.a)


def left_before_a_quorum_had_its_own_entry(group: Group) -> None:
    led_again_with_an_end(group)
    group.a.log.truncate(0)
    group.see(group.a)


def leader_cuts_its_log(group: Group) -> None:
    group.add(group.a)
    group.a.log.truncate(group.last)
    group.see(group.a)


def two_open_configurations(group: Group) -> None:
    voters = [group.a.inc, group.b.inc]
    for epoch in (2, 3):
        group.append(group.a, group.config(group.a, voters=voters, epoch=epoch))
    group.see(group.a)


def too_few_voters(group: Group) -> None:
    group.append(group.a, group.config(group.a, voters=[group.a.inc]))
    group.see(group.a)


def removed_votes_again(group: Group) -> None:
    group.scenario.do("remove c")
    voters = [group.a.inc, group.b.inc, group.c.inc]
    group.append(group.a, group.config(group.a, voters=voters, epoch=3))
    group.see(group.a)


def removal_forgotten(group: Group) -> None:
    group.scenario.do("remove c")
    group.append(group.a, group.config(group.a, voters=[group.a.inc, group.b.inc], epoch=3))
    group.see(group.a)


def epoch_skipped(group: Group) -> None:
    group.append(group.a, group.config(group.a, voters=[group.a.inc, group.b.inc], epoch=7))
    group.see(group.a)


def silent_promoted(group: Group) -> None:
    group.append(group.a, group.config(group.a, voters=[group.a.inc, group.b.inc, group.c.inc, STRANGER]))
    group.see(group.a)


def dead_lives_again(group: Group) -> None:
    group.oracles.died(group.c)
    group.oracles.born(group.c)


def term_goes_back(group: Group) -> None:
    group.see(group.b, RoleChanged(Role.FOLLOWER, 0))


def commit_goes_back(group: Group) -> None:
    group.see(group.b, Advanced(Cursor(1, 1)))


def commit_beyond_the_log(group: Group) -> None:
    group.see(group.b, Advanced(Cursor(group.term, group.last + 1)))


def two_leaders_of_a_term(group: Group) -> None:
    group.see(group.b, RoleChanged(Role.LEADER, group.term))


def leader_without_votes(group: Group) -> None:
    group.append(group.b, group.entry(group.b, term=group.term + 1))
    group.see(group.b, RoleChanged(Role.LEADER, group.term + 1))


def claim_of_what_the_leader_has_not(group: Group) -> None:
    group.add(group.b)
    group.vote(group.b, group.c.inc, group.term + 1, Cursor(group.term, group.last + 1))


def claim_about_a_term_without_a_leader(group: Group) -> None:
    group.vote(group.b, group.c.inc, group.term + 2, Cursor(group.term + 1, group.b.view.commit))


def leader_without_a_committed_entry(group: Group) -> None:
    del group.c.view.nodes[group.last :]
    group.see(group.c, RoleChanged(Role.LEADER, group.term + 1))


def another_entry_committed(group: Group) -> None:
    group.add(group.a)
    group.add(group.b)
    group.ack(group.b, group.last + 1)
    group.see(group.a, Advanced(Cursor(group.term, group.last + 1)))
    group.append(group.c, group.entry(group.c, term=group.term + 1))
    group.see(group.c, Advanced(Cursor(group.term + 1, group.last + 1)))


def old_term_committed_by_counting(group: Group) -> None:
    group.append(group.a, group.entry(group.a))
    group.elect(group.a)
    group.see(group.a, Advanced(Cursor(group.term, group.last + 1)))


def committed_alone(group: Group) -> None:
    group.append(group.a, group.entry(group.a))
    group.see(group.a, Advanced(Cursor(group.term, group.last + 1)))


def ack_of_what_is_not_there(group: Group) -> None:
    group.ack(group.b, group.last + 1)


def ack_before_the_disk_has_it(group: Group) -> None:
    group.add(group.a)
    group.add(group.b)
    group.ack(group.b, group.last + 1)


class Idle:
    """A member that gets nothing from a disk of its own."""

    alive = True

    def feed(self, event) -> None:
        pass


def give_a_disk(group: Group) -> Callable[..., None]:
    """Let B have a disk of its own, that the group may stand still; return what makes records durable there."""
    scheduler = Scheduler()
    disk = group.b.disk = Disk(scheduler, rng=Random(0), fsync_us=1)

    def write(*records) -> None:
        for record in records:
            disk.write(Idle(), [record], 0)
        while scheduler.step(1_000):
            pass

    return write


def promised_ack(group: Group) -> Send:
    """B has the next entry of A's in its log and, when its disk has it too, will report that."""
    for process in (group.a, group.b):
        group.add(process)
    reply = AppendReply(group.id, group.term, Verdict.ACK, group.last + 1, 1, Cursor(group.term, 1))
    send = Send((group.a.inc,), reply)
    group.b.member.serial += 1
    group.b.member.tenure.held.append((group.b.member.serial, send))
    group.see(group.b)
    return send


def cut_by_a_newer_leader(group: Group) -> None:
    group.b.member.tenure.term += 1
    group.b.log.truncate(group.last)
    group.see(group.b)


def released(group: Group, send: Send) -> None:
    group.b.member.tenure.held.clear()
    group.see(group.b, sends=[send])


def untrue_promise(group: Group) -> None:
    reply = AppendReply(group.id, group.term, Verdict.ACK, group.last + 1, 1, Cursor(group.term, 1))
    group.b.member.serial += 1
    group.b.member.tenure.held.append((group.b.member.serial, Send((group.a.inc,), reply)))
    group.see(group.b)


def promise_cut_in_its_own_term(group: Group) -> None:
    send = promised_ack(group)
    group.b.log.truncate(group.last)
    released(group, send)


def promise_cut_before_the_disk_had_it(group: Group) -> None:
    send = promised_ack(group)
    cut_by_a_newer_leader(group)
    released(group, send)


def promise_of_what_the_disk_cut_before(group: Group) -> None:
    write = give_a_disk(group)
    write(SaveEntries((group.entry(group.b),)), SaveTruncation(0))
    send = promised_ack(group)
    cut_by_a_newer_leader(group)
    released(group, send)


def ack_of_what_was_cut_in_its_own_term(group: Group) -> None:
    for process in (group.a, group.b):
        group.add(process)
    group.b.log.truncate(group.last)
    group.ack(group.b, group.last + 1)


def two_votes(group: Group) -> None:
    group.vote(group.b, group.a.inc, 99)
    group.vote(group.b, group.c.inc, 99)


def vote_before_the_disk_knows(group: Group) -> None:
    group.vote(group.b, group.a.inc, 99)


def term_saved_after_a_higher_one(group: Group) -> None:
    group.b.disk.write(group.b, [SaveVote(0, None)], 1)
    group.scenario.do("run 1s")


def roll_of_strangers(group: Group) -> None:
    request = VoteRequest(group.id, 99, True, group.b.log.last(), (group.b.inc, STRANGER), False)
    group.see(group.b, sends=[Send((group.a.inc,), request)])


def answered_by_an_old_lease(group: Group) -> None:
    group.a.view.leased = (group.term - 1, frozenset({5}))
    group.see(group.a, completions=[(5, Answer("old", Cursor(group.term, group.last)))])


def applied_twice(group: Group) -> None:
    group.oracles.applied(group.b, 1, 0, {"key": "x", "value": "1"}, group.context(1))
    group.see(group.b)


def another_command_applied(group: Group) -> None:
    group.oracles.applied(group.a, 7, 0, {}, group.context(group.last + 1))
    group.oracles.applied(group.b, 8, 0, {}, group.context(group.last + 1))
    group.see(group.b)


def executed_twice(group: Group) -> None:
    # SimulatedCall 1 is w1, executed before; the time is that of its own entry, so no key can have been forgotten.
    first = next(iter(group.oracles.agreements[group.id].sequence.values()))
    again = ApplyContext(group.term, group.last + 1, 0, first[3].time_ms, group.cluster.group_id)
    group.oracles.applied(group.b, 1, 0, first[2], again)
    group.see(group.b)


def applied_unjudged(group: Group) -> None:
    group.oracles.executed(group.a, 7, 0, {}, group.context(group.last + 1))
    group.see(group.a)


def of_a_level_that_was_never_written(group: Group) -> None:
    group.add(group.a, EntryKind.POLICY)


def level_written_again(group: Group) -> None:
    group.add(group.a, EntryKind.FEATURE, encode_number(1))


def level_that_a_member_does_not_know(group: Group) -> None:
    group.add(group.a, EntryKind.FEATURE, encode_number(UNKNOWN_LEVEL))


def peer_kept_that_does_not_know_the_level(group: Group) -> None:
    group.see(group.b, LevelsChanged(Levels(UNKNOWN_LEVEL, "m", 1), Cursor(group.term, group.last)))


def committed(group: Group, kind: EntryKind, payload: bytes) -> None:
    """Let A write an entry, which B acknowledges, and let A commit it."""
    index = group.last + 1
    for process in (group.a, group.b):
        group.add(process, kind, payload)
    group.ack(group.b, index)
    group.see(group.a, Advanced(Cursor(group.term, index)))
    group.last = index


def evidence_about(position: Position) -> bytes:
    return encode_evidence(StateEvidence(Anchor(*position), bytes(32), 1, 1, 40))


def install_of_what_is_not_committed(group: Group) -> None:
    group.add(group.a)
    group.c.view.changes.append(group.a.log.last())
    group.see(group.c)


def install_of_what_no_log_had(group: Group) -> None:
    group.c.view.changes.append(Position(group.term, group.last, bytes(32)))
    group.see(group.c)


def install_without_its_configuration(group: Group) -> None:
    committed(group, EntryKind.NOOP, EMPTY_PAYLOAD)
    group.c.member.tenure.configs.clear()
    group.c.view.changes.append(group.a.log.last())
    group.see(group.c)


def evidence_that_nobody_computed(group: Group) -> None:
    committed(group, EntryKind.SNAPSHOT, MARKER)
    committed(group, EntryKind.SNAPSHOT, evidence_about(group.a.log.position(group.last)))


def evidence_about_what_is_no_marker(group: Group) -> None:
    committed(group, EntryKind.SNAPSHOT, evidence_about(group.a.log.position(1)))


def log_cut_before_there_is_evidence(group: Group) -> None:
    group.b.log.prune(1)
    group.see(group.b)


def halted_before_a_level_that_nobody_wrote(group: Group) -> None:
    group.see(group.b, Halted("feature-level-too-low"))


def halted(group: Group) -> None:
    group.see(group.b, Halted("log-divergence"))


def honest_peer_accused(group: Group) -> None:
    group.see(group.b, Violation(group.a.inc, "wrong-genesis"))


def rival_met(group: Group) -> None:
    group.see(group.b, RivalCluster(group.a.inc, bytes(32)))


@pytest.mark.parametrize(
    ("wrong", "oracle", "options"),
    [
        (two_histories_of_one_entry, "log-matching", ""),
        (gap, "gapless-log", ""),
        (committed_entry_cut, "committed-truncated", ""),
        (left_without_an_end, "committed-truncated", ""),
        (left_with_data, "data-discarded", ""),
        (left_by_counting_an_old_end, "own-term-commit", "on_rival=discard-shorter"),
        (left_before_a_quorum_had_its_own_entry, "commit-quorum", "on_rival=discard-shorter"),
        (leader_cuts_its_log, "leader-append-only", ""),
        (two_open_configurations, "one-pending-configuration", ""),
        (too_few_voters, "min-voters", ""),
        (removed_votes_again, "removed-again", ""),
        (removal_forgotten, "removal-forgotten", ""),
        (epoch_skipped, "epoch", ""),
        (silent_promoted, "dead-incarnation", ""),
        (dead_lives_again, "dead-incarnation", ""),
        (term_goes_back, "monotone-term", ""),
        (commit_goes_back, "monotone-commit", ""),
        (commit_beyond_the_log, "commit-in-log", ""),
        (two_leaders_of_a_term, "election-safety", ""),
        (leader_without_a_committed_entry, "leader-completeness", ""),
        (leader_without_votes, "election-quorum", ""),
        (claim_of_what_the_leader_has_not, "truthful-claim", ""),
        (claim_about_a_term_without_a_leader, "truthful-claim", ""),
        (another_entry_committed, "state-machine-safety", ""),
        (another_command_applied, "state-machine-safety", ""),
        (old_term_committed_by_counting, "own-term-commit", ""),
        (committed_alone, "commit-quorum", ""),
        (ack_of_what_is_not_there, "truthful-ack", ""),
        (ack_before_the_disk_has_it, "durable-promise", "trust_disk=true"),
        (untrue_promise, "truthful-ack", "trust_disk=true"),
        (promise_cut_in_its_own_term, "truthful-ack", "trust_disk=true"),
        (promise_cut_before_the_disk_had_it, "durable-promise", "trust_disk=true"),
        (promise_of_what_the_disk_cut_before, "durable-promise", "trust_disk=true"),
        (ack_of_what_was_cut_in_its_own_term, "truthful-ack", ""),
        (vote_before_the_disk_knows, "durable-promise", "trust_disk=true"),
        (term_saved_after_a_higher_one, "durable-term", "trust_disk=true"),
        (two_votes, "one-vote-per-term", ""),
        (roll_of_strangers, "roll", ""),
        (answered_by_an_old_lease, "lease", "lease_reads=true"),
        (applied_twice, "monotone-apply", ""),
        (executed_twice, "exactly-once", ""),
        (applied_unjudged, "judged-first", ""),
        (of_a_level_that_was_never_written, "entry-above-level", ""),
        (level_written_again, "monotone-feature", ""),
        (level_that_a_member_does_not_know, "feature-unknown", ""),
        (peer_kept_that_does_not_know_the_level, "unfit-peer", ""),
        (install_of_what_is_not_committed, "install-uncommitted", ""),
        (install_of_what_no_log_had, "install-of-nothing", ""),
        (install_without_its_configuration, "installed-configuration", ""),
        (evidence_that_nobody_computed, "equal-snapshots", ""),
        (evidence_about_what_is_no_marker, "evidence-of-nothing", ""),
        (log_cut_before_there_is_evidence, "prune-without-evidence", ""),
        (halted_before_a_level_that_nobody_wrote, "halted", ""),
        (halted, "halted", ""),
        (honest_peer_accused, "honest-peer-accused", ""),
        (lambda group: group.see(group.b, SyncFailed("session", "x")), "state-sync-failed", "session"),
        (rival_met, "one-genesis", ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_what_no_member_may_do_is_seen(wrong: Callable[[Group], None], oracle, options):
    group = Group(options)

    with pytest.raises(InvariantError) as caught:
        wrong(group)

    assert caught.value.oracle == oracle


def test_a_healthy_group_is_accused_of_nothing():
    group = Group()

    for process in (group.a, group.b, group.c):
        group.see(process)
    group.ack(group.b, group.last)
    group.vote(group.b, group.a.inc, group.term + 1)
    group.see(group.a, Advanced(Cursor(group.term, group.last)))


def commits_what_it_was_told_and_leads(group: Group, told: int) -> None:
    """B learns of a commit, and gets the request to take over, in one step."""
    for process in (group.a, group.b, group.c):
        group.add(process)
        group.ack(process, group.last + 1)
    group.see(group.a, Advanced(Cursor(group.term, group.last + 1)))
    group.append(group.b, group.entry(group.b, term=group.term + 1))
    term = group.b.log.last().term
    for voter in (group.a, group.c):
        group.vote(voter, group.b.inc, term)
    group.see(group.b, RoleChanged(Role.LEADER, term), Advanced(Cursor(group.term, group.last + told)))


def test_a_new_leader_has_not_counted_a_commit_that_it_learns_of_in_the_same_step():
    # Seed 931000914 with leases.
    commits_what_it_was_told_and_leads(Group(), 1)


def test_a_new_leader_counts_commits_that_no_message_reported():
    with pytest.raises(InvariantError) as caught:
        commits_what_it_was_told_and_leads(Group(), 2)

    assert caught.value.oracle == "commit-quorum"


def test_an_ack_may_leave_when_its_durable_entry_is_cut_again_for_a_newer_leader():
    group = Group("trust_disk=true")
    write = give_a_disk(group)
    send = promised_ack(group)
    cut_by_a_newer_leader(group)
    write(SaveEntries((group.a.log.get(group.last + 1),)), SaveTruncation(0))

    released(group, send)

    assert not group.b.disk.holds_entry(group.a.log.last())
    assert not group.b.view.promises


def test_an_ack_and_the_cut_for_a_newer_leader_may_be_of_one_step():
    group = Group()
    for process in (group.a, group.b):
        group.add(process)

    group.b.member.tenure.term += 1
    group.b.log.truncate(group.last)
    group.ack(group.b, group.last + 1)


# ---- buffers -------------------------------------------------------------------------
def query(token=1):
    return Query(token, {"key": "x"}, Consistency.STRONG)


def overfull_reads(member):
    member.reads.asking.extend(query() for _ in range(member.settings.pending_max + 1))


def overfull_reads_of_peers(member):
    member.reads.remote.update({STRANGER: 1, member.me: 2, Incarnation("y", b"y" * 32): 3})


def overfull_outbox(member):
    member.session.tokens.update(dict.fromkeys(range(member.settings.pending_max + 1)))


def overfull_outbox_bytes(member):
    member.session.pending_bytes = 2**40


def overfull_window(member):
    member.session.in_flight.update(dict.fromkeys(range(member.settings.session_window + 1)))


def overfull_memory_of_clusters(member):
    member.founding_state.dissolved = tuple(bytes([n]) * 32 for n in range(100))


def overfull_promises(member):
    # One write is under way: of six kinds one for each peer may wait for it, and one for all.
    member.serial = member.persisted + 1
    most = 6 * len(member.peers) + 1
    member.tenure.held.extend([(member.serial, Send((STRANGER,), None))] * (most + 1))


def overfull_proposals(member):
    member.tenure.leadership.proposed[b"session", 1] = 1


def overfull_log_of_a_leader(member):
    member.tenure.commit -= 3
    member.tenure.leadership.noop_index = 1
    member.settings = replace(member.settings, pending_max=0, session_window=-1)


def pull(member, **fields):
    state = PullState(term=1, target=1, at=1, started_ms=0, asked_ms=0)
    for name, value in fields.items():
        setattr(state, name, value)
    member.tenure.pull = state


def overfull_catchup_buffer(member):
    pull(member, buffer_bytes=member.settings.catchup_buffer_bytes_max + 1)


def overfull_ranges(member):
    pull(member, again=[(0, 1), (1, 2)])


@pytest.mark.parametrize(
    "fill",
    [
        overfull_reads,
        overfull_reads_of_peers,
        overfull_outbox,
        overfull_outbox_bytes,
        overfull_window,
        overfull_memory_of_clusters,
        overfull_promises,
        overfull_proposals,
        overfull_log_of_a_leader,
        overfull_catchup_buffer,
        overfull_ranges,
    ],
)
def test_a_queue_above_its_bound_is_seen(fill):
    group = Group()
    fill(group.a.member)

    with pytest.raises(InvariantError) as caught:
        group.see(group.a)

    assert caught.value.oracle == "buffers-bounded"


def test_a_member_that_forgets_a_bound_is_found_by_random_schedules():
    def search():
        for seed in range(40):
            run(draw_schedule(seed, member=ablations.KeepsEveryQuery, pending_max=1))

    with pytest.raises(ScheduleError) as caught:
        search()

    assert caught.value.error.oracle == "buffers-bounded"


# ---- what clients are answered --------------------------------------------------------------
def call(ask=Ask.STRONG, **fields):
    return SimulatedCall(number=1, client=0, ask=ask, **fields)


@pytest.mark.parametrize(
    ("told", "oracle"),
    [
        (call(outcome=Answer(None, Cursor(2, 4))), "linearizable-read"),
        (call(Ask.SESSION, outcome=Answer(None, Cursor(2, 6)), min_at=Cursor(2, 7)), "read-your-writes"),
        (call(Ask.WRITE, outcome=Ok((Applied(None),), Cursor(2, 9))), "applied-where-told"),
        (call(Ask.WRITE, outcome=Ok((Applied(None),), Cursor(2, 3))), "real-time-order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_from_the_wrong_place_in_the_log_is_seen(told, oracle):
    agreement = Agreement(1_000)
    agreement.applied("a", 1, 0, {}, ApplyContext(2, 3, 0, 0, bytes(32)))

    with pytest.raises(InvariantError) as caught:
        agreement.judge(told, "a", 5)

    assert caught.value.oracle == oracle


def history(*commands):
    """Oracles of a group that agreed on these puts to x, from index 1 on, each of its own call."""
    oracles = Oracles(min_voters=2, session_ttl_ms=1_000)
    for index, value in enumerate(commands, start=1):
        context = ApplyContext(2, index, 0, 0, bytes(32))
        oracles.agreements[b"id"].applied("a", index, 0, {"key": "x", "value": value}, context)
    return oracles


def put(number, value, was, *, invoked, returned, **fields):
    return SimulatedCall(
        number=number,
        client=0,
        commands=({"key": "x", "value": value},),
        invoked=invoked,
        returned=returned,
        cluster=b"id",
        **{"ask": Ask.WRITE, "fate": Fate.DONE, "outcome": Ok((Applied(was),), Cursor(2, number))} | fields,
    )


@pytest.mark.parametrize(
    ("calls", "oracle"),
    [
        (
            [put(1, 10, None, invoked=1, returned=2, fate=Fate.NOT_EXECUTED, outcome=None)],
            "not-executed",
        ),
        (
            [put(2, 20, None, invoked=1, returned=2, ask=Ask.FEED, outcome=Ok((), Cursor(2, 1)))],
            "feed-cursor",
        ),
        ([put(1, 10, 99, invoked=1, returned=2)], "agreed-answer"),
        (
            # In the agreed order, which is not the clients': the second was answered before the first asked.
            [put(1, 10, None, invoked=5, returned=6), put(2, 20, 10, invoked=1, returned=2)],
            "linearizability",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_history_that_cannot_be_is_seen(calls, oracle):
    oracles = history(10, 20)

    with pytest.raises(InvariantError) as caught:
        judge_run(oracles, calls, REGISTERS)

    assert caught.value.oracle == oracle


def test_the_same_history_in_its_own_order_is_accepted():
    calls = [put(1, 10, None, invoked=1, returned=2), put(2, 20, 10, invoked=5, returned=6)]

    judge_run(history(10, 20), calls, REGISTERS)


def test_a_key_may_execute_again_after_its_ttl_and_not_a_moment_before():
    agreement = Agreement(1_000)
    agreement.applied("a", 1, 0, {}, ApplyContext(2, 3, 0, 5_000, bytes(32)))

    with pytest.raises(InvariantError, match="exactly-once"):
        agreement.applied("a", 1, 0, {}, ApplyContext(2, 4, 0, 6_000, bytes(32)))
    agreement.applied("a", 1, 0, {}, ApplyContext(2, 5, 0, 6_001, bytes(32)))
    agreement.applied("b", 1, 0, {}, ApplyContext(2, 5, 0, 6_001, bytes(32)))

    assert agreement.again == {(1, 0): [5]}


# ---- the end of a run -----------------------------------------------------------------
class Individual(Counter):
    """Its state depends on which copy it is, its answers do not."""

    copies = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).copies += 1
        self.copy = self.copies

    def snapshot(self):
        return [super().snapshot(), self.copy]


def counting(machine):
    return Workload(
        machine=machine,
        command=lambda rng, unique: ({"op": "add", "by": 1},),
        query=lambda rng: {"op": "get"},
    )


@pytest.mark.parametrize(("snapshots", "oracle"), [(False, "equal-states"), (True, "equal-snapshots")])
def test_states_that_differ_at_one_index_are_seen(snapshots, oracle):
    schedule = draw_schedule(1, workload=counting(Individual))
    due = 1 if snapshots else 2**40
    settings = replace(schedule.shape.settings, snapshot_bytes=due, snapshot_ms=2**40)

    with pytest.raises(ScheduleError) as caught:
        run(replace(schedule, shape=replace(schedule.shape, settings=settings), weather=CALM, plan=()))

    assert caught.value.error.oracle == oracle


class NeverStands(Member):
    def _pre_campaign(self):
        pass


def test_a_healed_group_that_does_not_go_on_is_seen():
    schedule = replace(draw_schedule(1, member=NeverStands), weather=CALM, plan=())

    with pytest.raises(ScheduleError) as caught:
        run(schedule)

    assert caught.value.error.oracle == "liveness"


def test_a_configuration_that_was_on_its_way_when_its_voters_died_excuses_a_group_from_healing():
    # Seeds 420006425 and 420010614.
    group = Group("min_voters=1")
    known = len(group.oracles.tree.entries)
    group.append(group.a, group.config(group.a, voters=[STRANGER]))
    group.a.view.changes.clear()
    group.a.view.nodes.append(
        group.oracles.tree.extend(group.a.view.nodes[-1], group.a.log.get(group.last + 1))
    )
    group.a.view.configs.append(
        (group.last + 1, Config(epoch=2, voters=(STRANGER,), tie=None, reason="forged"))
    )

    assert not group.cluster.lost_its_quorum(known)  # somebody wrote it when all was well
    assert group.cluster.lost_its_quorum(known + 1)


def found_again(group: Group, voters: list[Incarnation]) -> None:
    """C empties its log, forged, and holds another genesis."""
    group.c.view.leave()
    group.c.log.truncate(0)
    group.c.view.changes.clear()
    group.append(group.c, group.config(group.c, voters=voters, epoch=1))
    group.see(group.c)


def test_two_geneses_of_different_founders_are_two_clusters():
    # Seed 430012721: the host boots two TDs of each name, and three see three at each side of a cut.
    group = Group()
    found_again(group, [STRANGER])

    group.see(group.b, RivalCluster(group.c.inc, group.c.log.position(1).chain))

    assert group.oracles.is_split


def test_a_dead_members_messages_about_a_cluster_of_other_founders_may_still_arrive():
    # Seed 920469132: two TDs that the host started beside the others founded, and died, while a founder stood still.
    group = Group()
    cluster = group.b.log.position(1).chain
    for process in (group.a, group.b):
        group.oracles.died(process)
    found_again(group, [STRANGER])

    group.see(group.c, RivalCluster(group.b.inc, cluster))

    assert group.oracles.is_split


def test_a_genesis_that_no_member_holds_any_more_counts_as_never_founded():
    # Seed 470007740: its collector lost power before any member learned of it.
    group = Group()
    for process in (group.a, group.b):
        group.oracles.died(process)

    found_again(group, [group.a.inc, STRANGER])

    assert not group.oracles.is_split


def test_a_founder_of_two_geneses_is_seen():
    group = Group()

    with pytest.raises(InvariantError) as caught:
        found_again(group, [group.a.inc, STRANGER])

    assert caught.value.oracle == "one-genesis"


@pytest.mark.parametrize("mode", ["auto", "expect"])
def test_only_auto_members_may_remain_in_a_cluster_that_no_member_holds(mode):
    # Seed 21035849.
    group = Group()
    group.cluster.shape = replace(group.cluster.shape, bootstrap=Bootstrap(mode))
    for process in (group.a, group.b, group.c):
        process.log.truncate(0)
        process.view.leave()

    assert group.cluster.lost_its_quorum(0) == (mode == "auto")


def test_a_refusal_is_no_completion_of_a_lease():
    group = Group("lease_reads=true")
    group.a.view.leased = (group.term - 1, frozenset({5}))

    group.see(group.a, completions=[(5, NotExecuted("overloaded"))])

    assert group.a.view.leased == (group.term, frozenset())


def test_an_answer_by_a_process_paused_after_reading_the_clock_breaches_no_lease():
    # Seed 410018728.
    group = Group("lease_reads=true")
    group.a.view.leased = (group.term - 1, frozenset({5}))
    group.a.was_frozen = True

    group.see(group.a, completions=[(5, Answer(0, Cursor(1, 1)))])

    assert group.a.view.leased == (group.term, frozenset())


def test_a_member_was_frozen_in_the_step_whose_clock_it_had_read_and_in_no_other():
    group = Group()
    seen = []
    member, group.a.gather_us = group.a.member, 1000
    step_many = member.step_many

    def step(*arguments, **times):
        seen.append(group.a.was_frozen)
        return step_many(*arguments, **times)

    member.step_many = step
    group.a.feed(Tick())
    group.a.stall()
    group.a.feed(Tick())
    group.a.resume()
    group.scenario.do("run 10ms")

    frozen, *later = seen
    assert frozen
    assert later
    assert not any(later)
