"""The issuer of TDX tickets: what it puts in, and what it refuses to put in."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestation.eventlog.events import Event, Origin
from attestation.eventlog.runtime import runtime_event
from attestation.eventlog.verify import parse_event_log_untrusted
from attestation.quote.codec import parse_quote_untrusted
from attestation.tickets.protocol import TicketIssuer
from attestation.tickets.tdx import parse_ticket_untrusted
from enclave.errors import QuoteUnavailableError
from enclave.mock.td import TDSettings
from tests.support.tickets import (
    AUTHORITY,
    BINDING,
    FIRMWARE,
    GROUP,
    NETWORK,
    NOW,
    REGISTERS,
    Bench,
    log_policy,
)


def logged(register: int, kind: int, data: bytes) -> Event:
    """An event as honest firmware logs it: the digest is that of the data."""
    digest = hashlib.sha384(data).digest()
    return Event(origin=Origin.CCEL, register=register, type=kind, name="", digest=digest, data=data)


BOOT = [logged(1, 0x4, bytes(4))]


class OddTD:
    """An attester whose quote or log is not what it should be."""

    mock = True
    provider = "mock"

    def __init__(self, *, quote: bytes | None = None, log: bytes | None = None) -> None:
        self._quote = quote
        self._log = log

    def quote(self, report_data: bytes) -> bytes:
        return AUTHORITY.create_td().quote(report_data) if self._quote is None else self._quote

    def event_log(self) -> bytes | None:
        return self._log


def test_the_claims_name_this_node_and_the_quote_commits_to_them() -> None:
    bench = Bench()
    issuer: TicketIssuer = bench.issuer()
    ticket = parse_ticket_untrusted(issuer.issue(group_id=GROUP, cluster=None, binding=BINDING, now=NOW))
    claims = ticket.claims

    assert issuer.ticket_class == "tdx"
    assert (claims.peer_id, claims.network_id) == (bench.identity.peer_id, NETWORK)
    assert (claims.group_id, claims.binding) == (GROUP, BINDING)
    assert (claims.quoted_at, claims.expires_at) == (NOW, NOW + bench.lifetime)
    assert parse_quote_untrusted(ticket.quote).body.report_data == claims.report_data()
    assert ticket.endorsements == AUTHORITY.endorsements(NOW)
    assert ticket.event_log is None


def test_times_are_whole_seconds() -> None:
    ticket = parse_ticket_untrusted(Bench().ticket(now=NOW + timedelta(milliseconds=999)))

    assert ticket.claims.quoted_at == NOW


def test_a_clock_that_was_set_back_makes_no_contradiction() -> None:
    earlier = NOW - timedelta(days=1)
    claims = parse_ticket_untrusted(Bench().ticket(now=earlier)).claims

    assert claims.started_at == claims.quoted_at == earlier


def test_nothing_is_stapled_when_there_is_nothing() -> None:
    assert parse_ticket_untrusted(Bench(stapled=None).ticket()).endorsements is None


def test_boot_and_runtime_events_travel_and_satisfy_a_policy_that_relies_on_them() -> None:
    td = AUTHORITY.create_td(
        settings=TDSettings(mrtd=FIRMWARE),
        boot_events=[*BOOT, logged(2, 0xD, b"one"), logged(2, 0xD, b"two")],
    )
    event = runtime_event("configuration", b"sha256:00")
    td.extend_rtmr(3, event.digest)
    rules = log_policy(1, 2, 3)
    bench = Bench(attester=td, runtime_events=lambda: [event], policy=unpinned(rules))
    ticket = bench.ticket()
    events = parse_event_log_untrusted(parse_ticket_untrusted(ticket).event_log or b"")

    assert events[-1] == event
    assert len(events) == 4
    assert bench.validator().validate(ticket, bench.peer(), NOW).at is not None


def unpinned(rules: Any) -> Any:
    """The policy without RTMR1 and RTMR2, whose values follow from the log here."""
    values = rules.reference_values
    return replace(
        rules,
        reference_values=replace(values, baseline={"mrtd": values.baseline["mrtd"]}),
    )


def test_an_extension_that_is_not_logged_is_refused_by_such_a_policy() -> None:
    td = AUTHORITY.create_td(settings=TDSettings(mrtd=FIRMWARE), boot_events=BOOT)
    td.extend_rtmr(3, b"\x66" * 48)
    bench = Bench(attester=td, policy=unpinned(log_policy(3)))

    assert bench.refusal().reason == "event-log-register-unexplained"


def test_no_log_at_all_is_refused_by_such_a_policy() -> None:
    bench = Bench(policy=log_policy(1))

    assert bench.attester.event_log() is None
    assert bench.refusal().reason == "event-log-missing"


def test_the_padding_of_firmware_is_not_sent_along() -> None:
    log = AUTHORITY.create_td(boot_events=BOOT).event_log()
    assert log is not None
    td: Any = OddTD(log=log + b"\xff" * 60_000)
    ticket = parse_ticket_untrusted(Bench(attester=td).ticket())

    assert ticket.event_log is not None
    assert len(ticket.event_log) < 1000
    assert list(parse_event_log_untrusted(ticket.event_log)) == BOOT


def test_a_runtime_log_travels_without_a_ccel() -> None:
    event = runtime_event("configuration", b"1")
    ticket = parse_ticket_untrusted(Bench(runtime_events=lambda: [event]).ticket())

    assert parse_event_log_untrusted(ticket.event_log or b"") == (event,)


@pytest.mark.parametrize(
    ("odd", "text"),
    [({"quote": b"junk"}, "quote cannot be used"), ({"log": b"\0" * 40}, "event log cannot be used")],
)
def test_what_the_platform_gives_is_checked_before_it_is_sent(odd: dict[str, bytes], text: str) -> None:
    td: Any = OddTD(**odd)

    with pytest.raises(QuoteUnavailableError, match=text):
        Bench(attester=td).ticket()


def test_a_ticket_that_every_verifier_would_refuse_is_not_sent() -> None:
    td: Any = OddTD(log=AUTHORITY.create_td(boot_events=[logged(2, 0xD, bytes(300_000))]).event_log())

    with pytest.raises(QuoteUnavailableError, match="limits"):
        Bench(attester=td).ticket()


def test_registers_of_the_bench_are_those_of_its_policy() -> None:
    """Without this, refusals above could come from measurements instead."""
    assert Bench().attester.rtmrs == REGISTERS  # type: ignore[attr-defined]  # a MockTD
