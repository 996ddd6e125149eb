"""Short and long forms of ``python -m tests.chaos``, each in a process of its own: it leaves this machine's
networks for good.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.chaos.cluster import can_fake_clocks
from tests.support.cluster import PROJECT
from tests.support.netns import unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

needs_network = pytest.mark.skipif(
    unavailable() is not None, reason=f"no faults of the network here: {unavailable()}"
)
LOSES_PACKETS = {
    "partition", "one-way-partition", "leader-isolated", "leader-deaf", "leader-mute", "loss", "flapping",
}  # fmt: skip


def chaos(*arguments: str) -> dict[str, Any]:
    """Return the report of a run that came to its end, whatever the verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-8000:]
    report = json.loads(done.stdout)
    assert bool(report["broken"]) == (done.returncode == 1)
    return report


def assert_faults_were_real(report: dict[str, Any]) -> None:
    """What was ordered was also seen to happen: by the kernel, the wires, the nodes themselves."""
    ordered, seen, packets = report["faults"], report["seen"], report["packets"]
    assert sum(ordered.values()) > 0
    if ordered.get("pause"):
        assert seen["pause"] > 0
    if packets is not None and LOSES_PACKETS & ordered.keys():
        assert packets["dropped"] > 0
    if packets is not None and "delay" in ordered:
        assert packets["delayed"] > 0


def test_no_promise_is_broken_under_faults_of_network_processes_and_clocks():
    report = chaos("--seconds", "12", "--nodes", "3", "--pause", "3")
    assert report["broken"] == {}
    assert report["checked"]["answers"] > 100
    assert report["checked"]["search"] > 100
    assert_faults_were_real(report)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["--trust-disk", "--leases", None])
def test_five_nodes_keep_their_promises_for_two_minutes(kind):
    report = chaos("--seconds", "120", "--nodes", "5", "--pause", "30", *([kind] if kind else []))
    assert report["broken"] == {}
    assert report["checked"]["revisions"] > 1000
    assert sum(report["faults"].values()) > 5
    assert_faults_were_real(report)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["--trust-disk", None])
def test_every_acknowledged_addition_counts_once(kind):
    report = chaos("--seconds", "40", "--nodes", "3", "--pause", "8", "--counter", *([kind] if kind else []))
    assert report["broken"] == {}
    assert report["total"] == report["checked"]["additions"] + report["checked"]["gaps"]
    assert report["checked"]["additions"] > 500
    assert_faults_were_real(report)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["--trust-disk", "--counter"])
def test_sessions_that_end_during_a_pause_make_nothing_happen_twice(kind):
    """Shorter than the longest pauses, longer than any client tries again."""
    report = chaos("--seconds", "60", "--nodes", "3", "--pause", "20", "--session-ttl", "8000", kind)
    assert report["broken"] == {}
    assert_faults_were_real(report)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nodes_join_by_snapshot_and_restart_one_after_another_while_clients_work():
    only = "join_by_snapshot,restart_all"
    report = chaos("--seconds", "90", "--nodes", "3", "--pause", "4", "--snapshots", "--only", only)
    assert report["broken"] == {}
    assert report["seen"]["join-by-snapshot"] > 0
    assert report["seen"]["rolling-restart"] > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_group_that_is_short_of_memory_keeps_its_promises():
    only = "press_memory,kill"
    report = chaos("--seconds", "90", "--nodes", "3", "--pause", "4", "--memory", "--only", only)
    assert report["broken"] == {}
    assert report["seen"]["memory-pressure"] > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_members_are_demoted_and_promoted_while_clients_work():
    report = chaos("--seconds", "60", "--nodes", "5", "--pause", "8", "--only", "pause,kill,hand_over")
    assert report["broken"] == {}
    assert report["configurations"]["demote"] > 0
    assert report["configurations"]["promote"] > 0
    assert report["seen"]["hand-over"] > 0
    assert report["seen"]["incarnations"] > 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_members_are_replaced_by_their_next_incarnations_while_clients_work():
    """Where the group waits longer before it demotes, a restarted node is there before its old vote is gone."""
    report = chaos(
        "--seconds", "60", "--nodes", "5", "--pause", "4", "--only", "kill,hand_over", "--demote-after", "30000"
    )  # fmt: skip
    assert report["broken"] == {}
    assert report["configurations"]["replace"] > 0
    assert report["seen"]["incarnations"] > 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nodes_keep_no_files_threads_or_tasks_of_closed_bonds_and_clients():
    calm = "pause,pause_two,partition,one_way,isolate_leader,slow,lossy,flap,hand_over"
    report = chaos("--seconds", "120", "--nodes", "3", "--pause", "6", "--sample", "4", "--only", calm)
    assert report["broken"] == {}
    assert sorted(report["vitals"]) == [f"node-{number}, life 1" for number in range(3)]
    for samples in report["vitals"].values():
        first, last = samples["first"], samples["last"]
        assert samples["samples"] >= 8
        assert last["entries"] > first["entries"] + 1000
        assert last["threads"] <= first["threads"] + 2
        for resource in ("files", "tasks"):  # each of the clients has a connection or two
            assert last[resource] <= first[resource] + 20
            assert samples["most"][resource] <= first[resource] + 100


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(not can_fake_clocks(), reason="no libfaketime here (apt-get install faketime)")
def test_a_node_notices_that_its_clock_jumped_and_keeps_its_promises():
    report = chaos("--seconds", "20", "--nodes", "3", "--pause", "6", "--seed", "1", "--only", "jump_clock")
    assert report["broken"] == {}
    assert report["seen"]["clock-jump"] > 0


# What each breach looks like to the verdict; a group in disorder often shows more than one sign.
BREACHES = [
    # Otherwise a member is to cut what it took for committed, and halts before any harm can be seen.
    (
        "acknowledge-before-commit",
        {"node-diverged", "acknowledged-write-lost", "forbidden-in-audit-log"},
        ["--only", "isolate_leader"],
    ),
    ("read-locally", {"stale-answer"}, ["--only", "isolate_leader,partition"]),
    # Not by pauses: who stood still refuses what it then finds in its sockets, and nothing comes twice.
    ("execute-again", {"applied-twice"}, ["--only", "isolate_leader,partition"]),
    ("execute-again", {"applied-twice"}, ["--only", "isolate_leader,partition", "--counter"]),
    ("tear-batches", {"batch-torn"}, ["--only", "pause"]),
    ("diverge", {"node-diverged"}, ["--only", "pause"]),
    ("lie-about-durability", {"node-diverged", "acknowledged-write-lost"}, ["--only", "kill_all", "--trust-disk"]),
]  # fmt: skip


@needs_network
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "signs", "how"), BREACHES, ids=[f"{name}{how[-1]}" for name, _, how in BREACHES]
)
def test_nodes_that_break_a_promise_are_found_out(name, signs, how):
    report = chaos(
        "--seconds", "12", "--nodes", "3", "--pause", "3", "--converge", "15", "--seed", "1", "--broken", name, *how
    )  # fmt: skip
    assert signs & report["broken"].keys(), report["broken"]
