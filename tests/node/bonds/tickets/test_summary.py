"""What the audit log records of the tickets that a peer presented."""

from typing import Any

import pytest

from attestation.quote import codec
from node.bonds.tickets.admission import judge
from node.bonds.tickets.summary import describe_admission, describe_tickets_untrusted
from tests.support.tickets import FIRMWARE, NOW, Bench


def test_an_admitted_ticket_is_recorded_like_a_refused_one() -> None:
    bench = Bench()
    tickets = {"tdx": bench.ticket(), "other": b"not judged"}
    admission = judge([bench.validator()], tickets, bench.peer(), NOW)

    recorded = describe_admission(admission)
    assert recorded == {"tdx": describe_tickets_untrusted(tickets)["tdx"]}
    assert recorded["tdx"]["measurements"]["mrtd"] == FIRMWARE.hex()


def test_a_ticket_is_read_once_for_the_verdict_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    real, parsed = codec._parse_header, []

    def counted(data: bytes) -> Any:
        parsed.append(data)
        return real(data)

    bench = Bench()
    validator, ticket = bench.validator(), bench.ticket()
    monkeypatch.setattr(codec, "_parse_header", counted)

    describe_admission(judge([validator], {"tdx": ticket}, bench.peer(), NOW))
    assert len(parsed) == 1


@pytest.mark.parametrize(
    ("ticket", "reason"),
    [(b"", "cbor-invalid"), (b"\xff" * 20, "cbor-invalid"), (b"\xf6", "ticket-malformed")],
)
def test_a_ticket_that_cannot_be_read_is_recorded_with_the_reason(ticket: bytes, reason: str) -> None:
    assert describe_tickets_untrusted({"tdx": ticket})["tdx"]["malformed"] == reason
