"""What a node logs: what matters is there, and nobody can flood it."""

import asyncio
import logging
import re
from datetime import UTC, datetime

import pytest

from node.api.service import Readiness
from node.audit import AuditLog
from node.cli.logs import BURST, INTERVAL_S, KINDS_MAX, Ration
from node.group.driver import _log_raised
from node.progress import report_progress
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
class StartingNode:
    def __init__(self, *readiness):
        self.to_come = list(readiness)

    def bonds(self):
        return ["a bond"]

    cluster = None

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
