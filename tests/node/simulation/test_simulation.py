"""The simulator itself: reproducible, shrinking, usable, and safe on a sample of seeds."""

import json
import multiprocessing
import os
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from node.peers import BondLoss
from node.raft.events import Persisted, SaveVote
from node.simulation import campaign
from node.simulation.campaign import Totals, run_batch, run_campaign
from node.simulation.clients import Fate, SimulatedCall
from node.simulation.disk import Disk
from node.simulation.faults import CALM
from node.simulation.scenario import Scenario
from node.simulation.scenario_file import ScenarioError, parse_scenario
from node.simulation.scheduler import SECOND_US, Scheduler
from node.simulation.shrink import fails, render, shrink
from node.simulation.simulation import Simulation, draw_schedule, run
from tests.node.simulation import ablations
from tests.node.simulation.test_oracles import Group

ROOT = Path(__file__).parents[3]

DIGEST_PROGRAM = """
import json, sys
from node.simulation.simulation import Simulation, Simulation, draw_schedule
digests = []
for seed in json.loads(sys.argv[1]):
    simulation = Simulation(draw_schedule(seed), traced=True)
    simulation.run()
    digests.append(simulation.cluster.trace.digest())
print(json.dumps(digests))
"""


def digests(seeds, hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM, json.dumps(seeds)],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_a_seed_gives_the_same_trace_in_another_process_with_another_hash_seed():
    seeds = list(range(500, 506))

    first, second = digests(seeds, "1"), digests(seeds, "4711")

    assert first == second
    assert len(set(first)) == len(seeds)


def test_tracing_does_not_change_the_run():
    plain, traced = run(draw_schedule(77)), run(draw_schedule(77), traced=True)

    assert replace(plain, digest="") == replace(traced, digest="")


def test_thirty_seeds_contradict_no_oracle_and_exercise_everything():
    totals = run_batch(iter(range(2_000, 2_030))).to_json_value()

    assert totals["failures"] == []
    assert totals["schedules"] == 30
    assert totals["healed"] > 20
    for name in ("elections", "commits", "configuration_changes", "reboots", "reads_checked"):
        assert totals[name] > 10, name


def test_a_simulator_that_breaks_names_the_schedule(monkeypatch):
    def breaks(_schedule):
        raise IndexError("list index out of range")

    monkeypatch.setattr(campaign, "run", breaks)

    with pytest.raises(IndexError) as caught:
        run_batch(iter([2_000]))

    assert caught.value.__notes__ == ["in the schedule of seed 2000"]


def test_a_failing_schedule_is_shrunk_to_one_that_fails_the_same_way():
    error = fails(draw_schedule(2, member=ablations.RollIsWhoIsBonded, rules=False))
    assert error is not None

    small = shrink(error, runs_max=60)

    assert small.error.oracle == error.error.oracle
    assert len(small.schedule.plan) < len(error.schedule.plan)
    text = render(small)
    assert "seed 2 contradicts " + error.error.oracle in text
    assert "end of the trace" in text
    assert len(small.tail) > 10


def test_what_fell_of_a_plan_is_all_that_a_failing_schedule_needs():
    error = fails(draw_schedule(2, member=ablations.RollIsWhoIsBonded, rules=False), traced=True)
    planned = list(draw_schedule(2).plan)

    assert list(error.schedule.plan) == planned[: len(error.schedule.plan)] != planned
    again = fails(error.schedule, traced=True)
    assert (str(again), again.tail) == (str(error), error.tail)


def test_a_dead_voter_may_stay_where_the_only_node_to_replace_it_runs_software_of_a_lower_level():
    """Of three voters, which are the least, one died; its node knows level 1 alone, and the group is at level 2."""
    schedule = draw_schedule(881009536)
    assert schedule.shape.settings.min_voters == 3

    assert run(schedule).healed


def test_a_plan_is_the_same_each_time_and_in_the_order_of_its_times():
    drawn = next(plan for plan in (draw_schedule(seed).plan for seed in range(100)) if plan.rare)

    assert list(drawn) == list(drawn)
    assert [fault.at_us for fault in drawn] == sorted(fault.at_us for fault in drawn)
    assert set(drawn.rare) < set(drawn)


def test_more_may_found_than_it_takes_and_parted_they_found_two_clusters():
    """``expect`` smaller than the number of founders: a mistake of the operator's, after which nothing may merge."""
    schedule = draw_schedule(9353)
    assert 0 < schedule.shape.expect < len(schedule.shape.founders)
    simulation = Simulation(schedule)

    report = simulation.run()

    assert simulation.oracles.is_split
    assert not report.healed


def test_all_clients_have_their_answer_at_the_end_of_a_healed_run():
    simulation = Simulation(draw_schedule(2_003))

    report = simulation.run()

    assert report.healed
    assert {call.fate for call in simulation.clients.calls} <= {
        Fate.DONE,
        Fate.NOT_EXECUTED,
        Fate.UNKNOWN,
    }


def test_in_a_healed_world_no_member_stays_bonded_with_a_dead_one_however_patient_bonds_were():
    patient = replace(CALM, bond_timeout_us=10**12, reset=0.0)
    schedule = draw_schedule(1, names=("a", "b", "c"), founders=("a", "b", "c"), trust_disk=False)
    cluster = Simulation(replace(schedule, weather=patient, plan=())).cluster
    cluster.start()
    assert cluster.run_until(lambda: cluster.leader() is not None, deadline_us=60 * SECOND_US)
    dead = cluster.process_at("c")
    cluster.kill(dead, BondLoss.LOST)

    def bonded_with_the_dead():
        cluster.run_until(lambda: False, deadline_us=cluster.scheduler.now_us + 10 * SECOND_US)
        return [process.place for process in cluster.alive() if dead.inc in process.member.peers]

    assert bonded_with_the_dead() == ["a", "b"]
    cluster.heal()
    assert bonded_with_the_dead() == []


def test_calm_weather_without_faults_answers_everything():
    schedule = replace(draw_schedule(1), weather=CALM, plan=())
    simulation = Simulation(schedule)

    simulation.run()

    told = [call for call in simulation.clients.calls if isinstance(call, SimulatedCall)]
    done = [call for call in told if call.fate is Fate.DONE]
    assert len(done) > 0.8 * len(told) > 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster a b c", "no ----"),
        ("explode a\n----", "no such command"),
        ("run 1s\n----", "begins with: cluster"),
        ("cluster a b\nput w1 z x=1\n----", "no process runs at z"),
        ("cluster a b c\nstall a\nstall b\nwait leader within 2s\n----", "no leader"),
        ("cluster a b c\nrun soon\n----", "run soon"),
        ("cluster a b c color=red\n----", "no setting color"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_with_the_reason(text, message):
    with pytest.raises(ScenarioError, match=message):
        Scenario().play(parse_scenario(text))


def test_the_command_line_replays_a_seed_and_reports_totals_as_json():
    def call(*arguments):
        command = [sys.executable, "-m", "node.simulation", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    replayed = call("--seed", "2001")
    totals = call("--seconds", "1", "--jobs", "1", "--first", "2000", "--json")

    assert replayed.returncode == 0
    assert "boots as" in replayed.stdout
    assert totals.returncode == 0
    value = json.loads(totals.stdout)
    assert value["violations"] == 0
    assert value["schedules"] >= 1
    assert value["first_seed"] == 2000


def test_a_member_that_dies_of_a_torn_write_while_all_tickets_lapse_ends_no_campaign():
    run(draw_schedule(990003997))


def test_a_member_that_dies_of_hearing_that_another_is_back_is_not_bonded_with():
    # Found by a run that ended in a KeyError of the simulator.
    scenario = Scenario()
    for command in ("cluster a b c trust_disk=true", "wait leader", "transfer b", "wait leader b", "crash a"):
        scenario.do(command)
    leader = scenario.cluster.process_at("b")
    leader.clock.hasten(150)  # its heartbeat is due: whatever it receives now makes it send
    leader.tear_after = 0

    scenario.do("boot a")

    assert not leader.alive
    for command in ("boot b", "wait settled"):
        scenario.do(command)


def test_a_winner_that_pulled_from_its_refuser_is_accused_of_no_claim():
    """What it pulled was committed, and of a term without a leader: it counted nothing of its own (rule K)."""
    run(draw_schedule(944001071))


def test_a_winner_is_judged_by_the_configurations_that_elected_it_and_not_by_one_it_wrote_since():
    """It won by rule K, alone with the tie-break, and demoted the other voter in the same step."""
    run(draw_schedule(977023254))


def test_evidence_is_somebodys_if_a_member_reported_that_digest_and_replaced_the_snapshot_at_once():
    run(draw_schedule(988004150))


def test_a_winner_claims_nothing_about_a_term_without_a_leader():
    group = Group()
    group.term += 1  # in this term B fetched committed entries from a peer that refused it
    tenure = group.b.member.tenure
    tenure.verified_term, tenure.verified_index, tenure.verified_leader = group.term, group.last, None

    group.elect(group.b)


def test_a_second_td_of_a_name_that_reboots_keeps_the_name():
    # Seed 480004261: it came back under a name of its own, and was taken for one more node.
    scenario = Scenario()
    for command in ("cluster a b c", "wait leader", "clone a", "crash a'", "boot a'"):
        scenario.do(command)

    assert scenario.cluster.process_at("a'").inc.name == "a"


def test_a_healed_disk_soon_has_what_waits_for_it():
    # Seed 440001720: a disk of 1.5 s a write, and two minutes of writes waiting.
    scheduler = Scheduler()
    disk = Disk(scheduler, rng=Random(0), fsync_us=1000 * SECOND_US)
    told = []
    writer = SimpleNamespace(feed=told.append)
    for serial in range(100):
        disk.write(writer, [SaveVote(serial, None)], serial)
    disk.fsync_us = 1
    while scheduler.step(1001 * SECOND_US):
        pass

    assert told == [Persisted(serial) for serial in range(100)]


def workers_of(pid: int) -> list[int]:
    """Return the simulating processes of a campaign that have had results: a thread of theirs sends them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if len(list(Path(f"/proc/{child}/task").iterdir())) > 1]


def test_a_campaign_that_is_killed_leaves_no_process():
    command = [sys.executable, "-m", "node.simulation", "--seconds", "600", "--jobs", "1", "--events", "20"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT) as running:
        while not (workers := workers_of(running.pid)):
            assert running.poll() is None
        (worker,) = map(os.pidfd_open, workers)
        running.kill()

    ended, _, _ = select.select([worker], [], [], 60)
    os.close(worker)
    assert ended


def test_ctrl_c_ends_a_campaign_with_its_totals_and_leaves_no_process():
    def interrupt(_totals: Totals) -> None:
        raise KeyboardInterrupt

    totals = run_campaign(first=0, seconds=600.0, jobs=2, events=20, progress=interrupt)
    assert totals.interrupted
    assert totals.schedules
    assert multiprocessing.active_children() == []


def test_some_runs_raise_the_feature_level_and_refuse_callers():
    """Else the oracles of both would look at nothing."""
    raised = refused = outside = systems = 0
    for seed in range(120):
        schedule = draw_schedule(seed)
        if not schedule.shape.features and not schedule.habits.callers:
            continue
        simulation = Simulation(schedule)
        simulation.run()
        raised += simulation.oracles.counts["features"]
        refused += sum(len(agreed.refused) for agreed in simulation.oracles.agreements.values())
        systems += sum(len(agreed.systems) for agreed in simulation.oracles.agreements.values())
        outside += len(simulation.cluster.alive()) - len(simulation._members())

    assert raised
    assert refused
    assert systems
    assert outside  # who does not know the level that the others came to


def test_groups_of_two_to_nine_are_drawn_and_some_answers_to_vote_requests_come_terms_later():
    drawn = [draw_schedule(seed) for seed in range(300)]

    assert {len(schedule.shape.names) for schedule in drawn} == {2, 3, 4, 5, 7, 9}
    late = [schedule for schedule in drawn if schedule.weather.late_votes]
    assert late
    for schedule in late:
        election_us = schedule.shape.settings.election_timeout_ms * 1_000
        assert schedule.weather.late_votes_us >= 2 * election_us
