"""What strangers may write into the audit log."""

from datetime import UTC, datetime
from typing import Any

from node.audit import AuditLog
from node.bonds.audit_events import RATIONS, REASONS_MAX, SUMMARY_INTERVAL_MS, BondRecorder, PeerTrust

BURST, INTERVAL_MS = RATIONS[PeerTrust.STRANGER]


class Driven:
    def __init__(self) -> None:
        self.ms = 0
        self.audit = AuditLog(None, lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.recorder = BondRecorder(self.audit, lambda: self.ms)

    def knock(self, count: int, reason: str = "too-many-handshakes") -> None:
        for _ in range(count):
            self.recorder.dropped("192.0.2.1:5", reason)

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.audit.events(limit=1000)]

    def summaries(self) -> list[dict[str, Any]]:
        return [e for e in self.audit.events(limit=1000) if e["kind"] == "refusals-suppressed"]


def test_a_burst_is_recorded_and_then_one_event_per_interval() -> None:
    driven = Driven()
    driven.knock(BURST + 10)
    assert driven.kinds() == ["bond-refused"] * BURST
    driven.ms += 3 * INTERVAL_MS
    driven.knock(10)

    assert driven.kinds().count("bond-refused") == BURST + 3


def test_the_ration_never_grows_beyond_its_burst() -> None:
    driven = Driven()
    driven.ms = 10**9
    driven.knock(2 * BURST)

    assert driven.kinds().count("bond-refused") == BURST


def test_what_was_left_out_is_counted_by_reason() -> None:
    driven = Driven()
    driven.knock(BURST)
    driven.knock(7)
    driven.knock(2, "tls-failed")
    driven.recorder.tick()
    assert driven.summaries() == []
    driven.ms += SUMMARY_INTERVAL_MS
    driven.recorder.tick()
    driven.recorder.tick()

    (summary,) = driven.summaries()
    assert summary["counts"] == {"tls-failed": 2, "too-many-handshakes": 7}
    assert summary["total"] == 9


def test_reasons_that_peers_invent_do_not_fill_memory() -> None:
    driven = Driven()
    driven.knock(BURST)
    for number in range(10 * REASONS_MAX):
        driven.knock(1, f"reason-{number}")
    driven.recorder.flush()

    (summary,) = driven.summaries()
    assert len(summary["counts"]) == REASONS_MAX + 1
    assert summary["counts"]["other"] == 9 * REASONS_MAX
