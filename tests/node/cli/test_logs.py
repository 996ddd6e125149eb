"""What a node logs: what matters is there, and nobody can flood it."""

import asyncio
import logging
import re
from datetime import UTC, datetime

import pytest

from node.api.service import Readiness
from node.audit import AuditLog
from node.cli.logs import BURST, INTERVAL_S, KINDS_MAX, Ration
from node.cli.node import _print_text
from node.group.driver import _log_raised
from node.process_events import FetchingState, FirstBond
from node.progress import FetchReports, report_progress
from node.raft.types import Cursor, InstallStatus
from node.tokens import AccessRole
from tests.node.api.fakes import FakeService, call


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def log():
    """A logger with a ration, its clock, and what came through."""
    clock, through = Clock(), []
    ration = Ration(clock)

    def send(message, *values, level=logging.WARNING, name="node.api"):
        record = logging.LogRecord(name, level, "f", 1, message, values, None)
        if ration.filter(record):
            through.append(record.getMessage())

    return send, clock, through


def test_strangers_bad_requests_do_not_write_one_line_each(log):
    send, clock, through = log
    for number in range(10_000):
        send("bad request from %s", number)
    assert len(through) == BURST
    send("the disk is full")
    assert through[-1] == "the disk is full", "another kind has its own ration"
    clock.now += INTERVAL_S
    send("bad request from %s", "one more")
    assert through[-1] == f"bad request from one more (and {10_000 - BURST} more like this)"
    send("bad request from %s", "and another")
    assert len(through) == BURST + 2


def test_texts_from_outside_do_not_fill_the_memory(log):
    send, _, through = log
    for number in range(3 * KINDS_MAX):
        send(f"text {number}")
    assert len(through) == 3 * KINDS_MAX


def test_debug_logging_has_no_ration(log):
    send, _, through = log
    for number in range(100):
        send("x %s", number, level=logging.DEBUG)
    assert len(through) == 100


def test_what_the_audit_log_records_is_logged(caplog):
    audit = AuditLog(None, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    with caplog.at_level(logging.INFO, logger="node.audit"):
        audit.append("leader-changed", term=7, name="node-a", peer_id=b"\1" * 32)
        audit.append("bond-refused", reason="tcb-status-not-accepted", values={"a": 1}, message="m" * 3000)
        audit.append("member-halted", reason="diverged")
    assert [record.getMessage() for record in caplog.records] == [
        f"leader-changed term=7 name=node-a peer_id={'01' * 32}",
        "bond-refused reason=tcb-status-not-accepted",
        "member-halted reason=diverged",
    ]


def test_an_exception_in_apply_leaves_its_traceback(caplog):
    def apply():
        return {}["absent"]

    try:
        apply()
    except KeyError as exc:
        _log_raised("apply", exc)
    assert "the state machine's apply raised" in caplog.text
    assert 'return {}["absent"]' in caplog.text


# ---- requests ----------------------------------------------------------------------------------------
def test_every_answer_has_an_id_and_the_log_names_it_when_the_node_fails(caplog):
    reply = call(FakeService(), "GET", "/healthz")
    assert re.fullmatch("[0-9a-f]{8}-1", reply.headers["bondstone-request"])

    service = FakeService(end_with=RuntimeError("a bug"))
    with caplog.at_level(logging.INFO):
        reply = call(
            service, "POST", "/v1/commands", role=AccessRole.ADMIN, json_body={"command": {"op": "x"}}
        )
    assert reply.status == 500
    assert f"request {reply.headers['bondstone-request']}" in caplog.text
    assert "a bug" in caplog.text


# ---- what is reported to the starter of the node ------------------------------------------------------------
def test_the_progress_of_a_fetch_is_reported_once_a_second_and_at_its_end():
    events, clock = [], [10.0]
    reports = FetchReports(events.append, lambda: clock[0])

    def at(second, done, *, count=10, size=1000):
        clock[0] = second
        reports.look(InstallStatus(Cursor(1, 5), done, count, size, 3))

    reports.look(None)
    at(10.5, 2)
    at(11.0, 3)
    at(11.2, 4)
    at(13.0, 4)
    at(13.1, 10)
    at(20.0, 10)
    at(21.0, 1)  # another snapshot is fetched
    at(22.0, 0, count=0)  # nothing is known of it yet
    reports.look(None)
    at(30.0, 10)
    assert events == [
        FetchingState(300, 1000, 3, 300),
        FetchingState(400, 1000, 3, 50),
        FetchingState(1000, 1000, 3, 6000),
        FetchingState(100, 1000, 3, 0),
        FetchingState(0, 1000, 3, 0),
        FetchingState(1000, 1000, 3, 125),
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_of_a_fetch_stays_in_one_line_of_a_terminal_and_is_plain_elsewhere(
    terminal, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    _print_text(FetchingState(1_500_000, 3_000_000, 2, 750_000))
    _print_text(FetchingState(3_000_000, 3_000_000, 2, 750_000))
    _print_text(FirstBond())
    half = "takes the group's state from 2 members: 1.5 of 3.0 MB, 0.8 MB/s"
    full = half.replace("1.5", "3.0")
    plain = f"{half}\n{full}\nbonded\n"
    assert capsys.readouterr().out == (f"\r{half}\x1b[K\r{full}\x1b[K\nbonded\n" if terminal else plain)


class StartingNode:
    def __init__(self, *readiness):
        self.to_come = list(readiness)

    def bonds(self):
        return ["a bond"]

    cluster = None

    def fetching(self):
        return None

    def readiness(self):
        return self.to_come.pop(0) if len(self.to_come) > 1 else self.to_come[0]


READY = Readiness(ready=True)
LOST = Readiness(ready=False, reason="quorum-lost", message="node-1 is missing")
HALTED = Readiness(ready=False, reason="halted", message="diverged")
STARTING = Readiness(ready=False, reason="no-cluster", message="not yet")


@pytest.mark.parametrize(
    ("sequence", "told"),
    [
        (
            [STARTING, READY, LOST, LOST, READY, HALTED],
            ["bonded", "ready", "quorum-lost", "ready-again", "halted"],
        ),
        ([STARTING, HALTED], ["bonded", "halted"]),
        ([READY, LOST, HALTED], ["bonded", "ready", "quorum-lost", "halted"]),
    ],
)
def test_a_halt_and_a_lost_quorum_are_logged(sequence, told, monkeypatch):
    monkeypatch.setattr("node.progress.READINESS_S", 0)
    monkeypatch.setattr("node.progress.STARTING_S", 0)
    events = []

    async def main():
        progress = asyncio.ensure_future(report_progress(StartingNode(*sequence), events.append))
        while len(events) < len(told):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        progress.cancel()

    asyncio.run(main())
    assert [event.fields().get("reason", event.fields()["event"]) for event in events] == told
