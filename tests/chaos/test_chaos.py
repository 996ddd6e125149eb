"""A short form of ``python -m tests.chaos``; the checker's own tests are in tests/node/simulation."""

import json
import subprocess
import sys

import pytest

from node.simulation.linearizability import NotLinearizableError, Operation
from tests.chaos.history import History
from tests.support.cluster import PROJECT


def chaos(*arguments: str) -> dict:
    """Run chaos in a process of its own: it leaves this machine's networks for good."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return json.loads(done.stdout)


@pytest.mark.cluster
@pytest.mark.timeout(500)
def test_no_promise_is_broken_under_faults_of_network_processes_and_clocks():
    report = chaos("--seconds", "12", "--nodes", "3", "--pause", "3")
    assert report["faults"]
    assert report["checked"] > 100


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_five_nodes_keep_their_promises_for_two_minutes():
    report = chaos("--seconds", "120", "--nodes", "5", "--pause", "30")
    assert sum(report["faults"].values()) > 5


def history_of(*steps: tuple) -> History:
    """Build a history of operations one after the other."""
    history = History()
    for number, (asked, answer) in enumerate(steps):
        history.operations.append(
            Operation(key="k", invoked=2 * number, returned=2 * number + 1, input=asked, output=answer)
        )
    return history


def test_the_verdict_sees_an_acknowledged_write_that_was_lost():
    history = history_of((("put", "a"), 1), (("get",), (None, 0)))
    with pytest.raises(NotLinearizableError):
        history.check()


def test_the_verdict_sees_a_write_that_was_applied_twice_though_the_value_is_right():
    history = history_of((("put", "a"), 1), (("get",), ("a", 2)))
    with pytest.raises(NotLinearizableError):
        history.check()


def test_the_verdict_sees_a_stale_read():
    history = history_of((("put", "a"), 1), (("put", "b"), 2), (("get",), ("a", 1)))
    with pytest.raises(NotLinearizableError):
        history.check()


def test_the_verdict_accepts_an_unknown_write_that_shows_up_late():
    history = history_of((("put", "a"), 1), (("get",), ("a", 1)), (("get",), ("b", 2)))
    history.operations.append(Operation(key="k", invoked=0, returned=None, input=("put", "b")))
    assert history.check() == 4
