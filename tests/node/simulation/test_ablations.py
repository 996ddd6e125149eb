"""Every load-bearing rule, switched off, must be noticed: a rule that nothing misses is a hole in the tests.

``rules`` is off, so only harm counts: two leaders of a term, lost or doubled commands, stale reads, diverging
logs, or a member that halts because it sees such a thing itself. Where the search begins at a seed known to
fail, it still goes on from there: the core may change, the rule must stay needed.
"""

import re
from pathlib import Path

import pytest

from node.raft.member import Member
from node.simulation.errors import InvariantError
from node.simulation.faults import Blow
from node.simulation.scenario import Scenario
from node.simulation.scenario_file import ScenarioError, parse_scenario
from node.simulation.simulation import ScheduleError, draw_schedule, run
from tests.node.simulation import ablations

SEEDS_MAX = 250
SCENARIOS = Path(__file__).parent / "scenarios"
ROOT = Path(__file__).parents[3]


def search(member, first, *, rules=False, **overrides):
    """Return the first seed from ``first`` on whose schedule does harm, and what harm."""
    for seed in range(first, first + SEEDS_MAX):
        try:
            run(draw_schedule(seed, member=member, rules=rules, **overrides))
        except ScheduleError as error:
            if error.error.oracle in HARMS or (rules and error.error.oracle != "liveness"):
                return seed, error.error.oracle
    return None


@pytest.mark.parametrize(
    ("member", "first", "overrides"),
    [
        (ablations.RollIsWhoIsBonded, 7, {}),
        (ablations.AbstainersLeaveTheDenominator, 1, {}),
        (ablations.PulledEntriesUnchecked, 2, {}),
        (ablations.ServesUnverified, 15, {}),
        (ablations.NewestConfigOnly, 33, {"tie_break": True}),
        (ablations.NewestConfigOfManyMembers, 52, {"tie_break": False}),
        (ablations.NewestConfigBeforeNoop, 93, {}),
        (ablations.VoteNotRecorded, 283, {}),
        (ablations.NoUpToDateCheck, 15, {}),
        (ablations.NoSessionDedupe, 3, {}),
        (ablations.LeaseBindsNobody, 96, {"lease_reads": True}),
        (ablations.PromisesBeforeDurable, 100, {"trust_disk": True}),
        (ablations.NobodyJudges, 1, {}),
        (ablations.JudgesByItself, 1, {}),
        (ablations.DigestAtTheEndOfTheBatch, 7, {}),
        (ablations.InstallsBelowItsCommit, 1, {}),
        (ablations.InstallsWithoutSessions, 1, {}),
        (ablations.InstallsWithoutKeys, 11, {}),
        (ablations.InstallsTheFirstConfiguration, 2347, {"snapshot_bytes": 600, "log_keep_bytes": 0}),
        (ablations.ClaimsMoveTheCommitIndex, 84, {}),
        (ablations.NamesItsSnapshotFirst, 70, {"trust_disk": True}),
        (ablations.IgnoresMemoryReports, 23, {"budgets": {"b": 6_000}}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_random_schedules_notice_that_the_rule_is_missing(member, first, overrides):
    found = search(member, first, **overrides)

    assert found is not None
    seed, oracle = found
    # The same schedule is harmless with the rule.
    run(draw_schedule(seed, **overrides))
    assert oracle in HARMS


HARMS = {
    "election-safety",
    "log-matching",
    "leader-completeness",
    "state-machine-safety",
    "committed-truncated",
    "exactly-once",
    "applied-where-told",
    "agreed-answer",
    "linearizable-read",
    "linearizability",
    "real-time-order",
    "not-executed",
    "equal-states",
    "equal-snapshots",
    "monotone-commit",
    "lease",
    "halted",
    "durable-base",
    "memory-bounded",
    "two-generations",
}


def test_random_schedules_notice_a_log_that_is_cut_before_there_is_evidence():
    found = search(ablations.PrunesToItsMarker, 0, rules=True)

    assert found is not None
    assert found[1] == "prune-without-evidence"


def test_a_reboot_must_not_keep_its_identity():
    found = search(Member, 15, same_identity=True)

    assert found is not None
    assert found[1] in HARMS


def play(name, member=Member, *, rules=False, shape=""):
    text = (SCENARIOS / f"{name}.txt").read_text().replace("\ncluster ", f"\ncluster {shape} ")
    return Scenario(member=member, rules=rules).play(parse_scenario(text))


@pytest.mark.parametrize(
    ("member", "scenario", "oracle"),
    [
        (ablations.VoteNotRecorded, "03-abstain-twice", "election-safety"),
        (ablations.AbstainersLeaveTheDenominator, "03-abstain-twice", "election-safety"),
        (ablations.PulledEntriesUnchecked, "04-stale-tail", "halted"),
        (ablations.Figure8, "09-figure-8", "leader-completeness"),
        (ablations.NewestConfigBeforeNoop, "10-ongaro-2015", "leader-completeness"),
        (ablations.LeaseNotRechecked, "21-frozen-leader", "lease"),
        (ablations.LeaseBindsOthersOnly, "57-own-vote-under-a-lease", "lease"),
        (ablations.LeaseForgottenAtRestart, "58-restart-under-a-lease", "lease"),
        (ablations.LeaseBeforeApplied, "60-lease-before-it-applied", "linearizable-read"),
        (ablations.LeaseBeforeOwnCommit, "61-lease-before-its-own-commit", "linearizable-read"),
        (ablations.ReadsBeforeOwnCommit, "20-read-after-crash", "linearizable-read"),
        (ablations.NoQuorumRoundForReads, "47-deposed-leader-reads", "linearizable-read"),
        (ablations.PromisesBeforeDurable, "50-power-cut-before-sync", "leader-completeness"),
        (ablations.CountsOldGrants, "63-stale-grant", "log-matching"),
        (ablations.UndurableLeaderCounts, "64-undurable-leader", "leader-completeness"),
        (ablations.CountsOldAcks, "65-stale-ack", "leader-completeness"),
        (ablations.AcksLastIndexWithoutNoop, "51-old-tail-behind-a-heartbeat", "leader-completeness"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_directed_schedule_notices_that_the_rule_is_missing(member, scenario, oracle):
    play(scenario)

    with pytest.raises(InvariantError) as caught:
        play(scenario, member)

    assert caught.value.oracle == oracle


@pytest.mark.parametrize(
    ("member", "scenario"),
    [
        (ablations.NamesItsSnapshotFirst, "70-torn-snapshot"),
        (ablations.InstallsBeforeItIsStored, "71-torn-install"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_directed_schedule_notices_a_base_without_a_durable_snapshot(member, scenario):
    play(scenario)

    with pytest.raises(InvariantError, match="durable-base"):
        play(scenario, member)


def test_a_directed_schedule_notices_that_a_reboot_keeps_its_identity():
    play("07-rollback-vote")

    with pytest.raises(InvariantError, match="election-safety"):
        play("07-rollback-vote", shape="same_identity=true")


@pytest.mark.parametrize(
    ("member", "scenario"),
    [
        (ablations.CommitsOldTerms, "09-figure-8"),
        (ablations.NoNoop, "09-figure-8"),
        (ablations.NewestConfigOnly, "10-ongaro-2015"),
        (ablations.ConfigBeforeNoop, "10-ongaro-2015"),
        (ablations.AcksLastIndex, "51-old-tail-behind-a-heartbeat"),
        (ablations.NoNoop, "51-old-tail-behind-a-heartbeat"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value[:2],
)
def test_of_two_rules_that_cover_each_other_one_is_enough(member, scenario):
    # Famous bugs that took two mistakes: each rule alone still keeps what was promised.
    assert play(scenario, member)[-1].expected == play(scenario)[-1].expected


def test_a_directed_schedule_notices_that_a_removed_member_votes_again():
    play("67-removed")

    with pytest.raises(InvariantError, match="malformed-config-in-log"):
        play("67-removed", ablations.RemovedVotesAgain)


@pytest.mark.parametrize(
    ("member", "scenario", "oracle"),
    [
        (ablations.YieldsToItsSuccessor, "73-partition-taken-for-a-loss", "halted"),
        (ablations.SignsTwoSuccessors, "74-recovered-twice", "one-successor"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_directed_schedule_notices_a_recovery_without_its_rule(member, scenario, oracle):
    play(scenario)

    with pytest.raises(InvariantError) as caught:
        play(scenario, member)

    assert caught.value.oracle == oracle


def test_random_schedules_notice_a_survivors_generation_that_lives_on_beside_a_living_quorum():
    found = search(ablations.LivesOnBesideItsPredecessor, 0, recovers=True)

    assert found is not None
    seed, oracle = found
    assert oracle == "two-generations"
    run(draw_schedule(seed, recovers=True))


def test_random_schedules_recover_from_losses_and_from_partitions_and_some_jump():
    """Otherwise the oracles would judge no recovery, and no log with a gap."""
    drawn = [draw_schedule(seed, recovers=True) for seed in range(40)]
    reports = [run(schedule) for schedule in drawn]
    recovered = [(s, r) for s, r in zip(drawn, reports, strict=True) if r.counts["recoveries"]]
    blows = [fault for schedule, _ in recovered for fault in schedule.plan if fault.blow is Blow.RECOVER]

    assert {fault.amount for fault in blows} == {0, 1}
    assert {schedule.shape.jump for schedule, _ in recovered} == {0, 1, 40}
    assert any(report.healed for _, report in recovered)


def test_many_changes_in_one_configuration_are_safe_where_every_active_one_counts():
    assert search(ablations.ManyMembersAtOnce, 40) is None


def test_without_its_latest_time_a_command_is_executed_again_when_its_key_is_forgotten():
    kept = play("59-forward-behind-a-dripping-bond")[-1]
    broken = play("59-forward-behind-a-dripping-bond", ablations.KeyedCommandsAreNeverLate)[-1]

    assert "a b c: x=2" in kept.expected
    assert any(line.startswith("a b c: x=1") for line in broken.expected)


def test_a_late_report_of_the_disk_does_not_confirm_other_entries_at_the_same_indices():
    def known(member):
        blocks = play("23-truncate-while-persisting", member)
        lines = [line for block in blocks for line in block.expected]
        return [line for line in lines if line.startswith("a knows") and "of 9" in line]

    assert known(Member)[:3] == ["a knows 6 of 9 entries to be on its disk"] * 3
    assert known(ablations.LatePersistedCounts)[1:3] == [
        f"a knows {wrong} of 9 entries to be on its disk" for wrong in (7, 8)
    ]


def test_without_the_refusers_term_two_voters_refuse_each_other_without_end():
    with pytest.raises(ScenarioError, match="no leader b in time"):
        play("15-prevote-term-gap", ablations.RefusalHidesTerm)


def test_without_check_quorum_a_deaf_leader_stays_one_while_its_bonds_live():
    kept, broken = play("30-deaf-leader")[-1], play("30-deaf-leader", ablations.NeverStepsDown)[-1]

    assert "leaders: 0" in kept.expected
    assert "leaders: 1" in broken.expected


def test_without_pre_votes_a_lonely_follower_comes_back_with_a_high_term():
    # Safe, and a nuisance: the leader loses its place to somebody that was merely away.
    kept, broken = play("02-lonely-follower"), play("02-lonely-follower", ablations.NoPreVote)

    assert broken != kept
    assert broken[-1].expected[-1] == kept[-1].expected[-1] == "a b c: x=2"


@pytest.mark.parametrize(
    ("member", "first", "oracle", "overrides"),
    [
        (ablations.ManyPendingConfigs, 30, "one-pending-configuration", {}),
        (ablations.NobodyJudges, 0, "judged-first", {}),
        (ablations.LevelOfTheLeaderAlone, 17, "feature-unknown", {}),
        (ablations.WritesAboveItsLevel, 8, "entry-above-level", {}),
        (ablations.SingleCopies, 0, "commit-quorum", {"min_voters": 2, "tie_break": True}),
        (ablations.NoPreflight, 0, "min-voters", {"min_voters": 2}),
        (ablations.PromisesBeforeDurable, 0, "durable-promise", {"trust_disk": True}),
        (ablations.UndurableLeaderCounts, 0, "commit-quorum", {"trust_disk": True}),
        (ablations.RollIsWhoIsBonded, 0, "roll", {}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_proof_s_own_rules_are_noticed_before_they_do_harm(member, first, oracle, overrides):
    found = search(member, first, rules=True, **overrides)

    assert found is not None
    assert found[1] == oracle


def test_every_rule_that_can_be_switched_off_is_on_the_page_and_has_a_test():
    page = (ROOT / "node" / "raft" / "ABLATIONS.md").read_text()
    places = (Path(__file__).parent, ROOT / "tests" / "node" / "raft")
    tests = "".join(path.read_text() for place in places for path in place.glob("test_*.py"))
    classes = {
        name
        for name, value in vars(ablations).items()
        if getattr(value, "__module__", "") == ablations.__name__
    }
    shown = {name for name in classes if not name.startswith("_")}

    assert len(shown) > 20
    assert {name for name in shown if f"ablations.{name}" not in tests} == set()
    listed = set(re.findall(r"^\* \*\*[^*]+\*\*:\s+`([A-Z]\w+)`\.", page, re.MULTILINE))
    assert len(listed) > 20
    assert listed <= shown
    alone = {
        "CommitsOldTerms",
        "NoNoop",
        "ConfigBeforeNoop",
        "AcksLastIndex",
        "KeepsEveryQuery",
        "ManyMembersAtOnce",
        "OldPullGoesOn",
    }
    assert {name for name in shown if f"`{name}`" not in page} == alone
