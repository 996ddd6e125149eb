"""The TDX ticket: its form, its claims, its times, its validator."""

import contextlib
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import encode
from attestation.errors import MalformedError
from attestation.quote import codec
from attestation.quote.codec import parse_quote_untrusted
from attestation.tickets.protocol import Cluster, TicketRejectedError
from attestation.tickets.tdx import (
    EVENT_LOG_BYTES_MAX,
    TICKET_BYTES_MAX,
    TdxClaims,
    TdxTicket,
    TdxValidator,
    parse_ticket_untrusted,
)
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.mock.authority import MockAuthority
from enclave.mock.td import TDSettings
from tests.support.tickets import AUTHORITY, BINDING, FIRMWARE, NOW, REGISTERS, Bench, policy

CLAIMS = TdxClaims(
    peer_id=b"\x01" * 32,
    network_id=b"\x02" * 32,
    group_id=b"\x03" * 32,
    cluster=Cluster(id=b"\x05" * 32, generation=0),
    started_at=NOW - timedelta(hours=1),
    quoted_at=NOW,
    expires_at=NOW + timedelta(hours=1),
    binding=b"\x04" * 32,
)


# ---- what a good ticket gives -----------------------------------------------------------------------


@pytest.mark.parametrize(("version", "report"), [(4, "1.0"), (5, "1.0"), (5, "1.5")])
def test_a_ticket_of_every_quote_version_admits(version: int, report: str) -> None:
    settings = TDSettings(quote_version=version, report_version=report)
    bench = Bench(attester=AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS, settings=settings))

    expiration = bench.validator().validate(bench.ticket(), bench.peer(), NOW)

    assert expiration.at == NOW + bench.lifetime
    assert expiration.appraisal["quote_version"] == version


def test_a_quote_is_parsed_once_on_its_way_to_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    real, parsed = codec._parse_header, []

    def counted(data: bytes) -> Any:
        parsed.append(data)
        return real(data)

    bench = Bench()
    validator, ticket = bench.validator(), bench.ticket()
    monkeypatch.setattr(codec, "_parse_header", counted)

    assert validator.validate(ticket, bench.peer(), NOW).at is not None
    assert len(parsed) == 1


def test_the_appraisal_reports_what_was_established() -> None:
    bench = Bench()
    appraisal = bench.validator().validate(bench.ticket(), bench.peer(), NOW).appraisal

    assert appraisal["mock"] is True
    assert appraisal["accepted"] is True
    assert appraisal["status"] == "UpToDate"
    assert appraisal["advisory_ids"] == []
    assert appraisal["measurements"]["mrtd"] == FIRMWARE.hex()
    assert appraisal["td_attribute_names"] == ["SEPT_VE_DISABLE"]
    assert appraisal["fmspc"] == "50806f000000"
    assert appraisal["collateral"]["tcb_evaluation_data_number"] == 20
    assert appraisal["collateral"]["valid_until"] == "2026-12-20T23:59:59Z"
    assert appraisal["endorsements"] == "stapled"
    assert appraisal["ticket"]["peer_id"] == bench.identity.peer_id.hex()
    assert appraisal["ticket"]["binding"] == BINDING.hex()
    assert "binding" not in appraisal["not_checked"]
    assert "report_data" not in appraisal["not_checked"]


def test_report_data_of_a_quote_is_the_digest_of_the_claims() -> None:
    ticket = parse_ticket_untrusted(Bench().ticket())

    assert parse_quote_untrusted(ticket.quote).body.report_data == ticket.claims.report_data()


def test_report_data_is_what_the_documents_state() -> None:
    """SHA-512 over deterministic CBOR of ["bondstone/tdx-ticket/v2", claims], fixed for all time."""
    claims = [
        "bondstone/tdx-ticket/v2",
        {
            "peer_id": b"\x01" * 32,
            "network_id": b"\x02" * 32,
            "group_id": b"\x03" * 32,
            "cluster": [b"\x05" * 32, 0],
            "started_at": int(NOW.timestamp()) - 3600,
            "quoted_at": int(NOW.timestamp()),
            "expires_at": int(NOW.timestamp()) + 3600,
            "binding": b"\x04" * 32,
        },
    ]
    expected = hashlib.sha512(cbor2.dumps(claims, canonical=True)).digest()
    assert expected.hex() == (
        "60196de457fb9c13f223c357f902487d998c31e8defd8d0b1c26e705eaa05dba"
        "2671a02686e76cf3708b4b272455cc197ec7ef7e87b37354eac8e78d72cf2943"
    )

    assert CLAIMS.report_data() == expected


def test_an_audit_without_a_connection_is_marked_as_not_having_checked_the_binding() -> None:
    bench = Bench()
    published = bench.ticket(binding=None)
    appraisal = bench.validator().validate(published, bench.peer(binding=None), NOW).appraisal

    assert "binding" in appraisal["not_checked"]
    assert bench.refusal(published).reason == "ticket-unbound"


# ---- times ------------------------------------------------------------------------------------------


def test_expiry_is_the_earliest_of_claim_policy_and_collateral() -> None:
    day = timedelta(days=1)
    long = policy(ticket__max_age=90 * day, ticket__max_lifetime=90 * day)
    cases: list[tuple[dict[str, Any], datetime]] = [
        ({"lifetime": timedelta(minutes=7)}, NOW + timedelta(minutes=7)),
        ({"lifetime": 2 * day}, NOW + timedelta(hours=1)),
        ({"lifetime": 2 * day, "policy": long}, NOW + 2 * day),
        ({"lifetime": 60 * day, "policy": long}, datetime(2026, 12, 20, 23, 59, 59, tzinfo=UTC)),
        (
            {"lifetime": 2 * day, "policy": policy(ticket__max_age=day, ticket__max_lifetime=3 * day)},
            NOW + day,
        ),
    ]
    for changes, expected in cases:
        bench = Bench(**changes)

        assert bench.validator().validate(bench.ticket(), bench.peer(), NOW).at == expected


@pytest.mark.parametrize(
    ("quoted", "judged", "expected"),
    [
        pytest.param(timedelta(0), timedelta(minutes=30, seconds=1), "ticket-expired", id="expired"),
        pytest.param(timedelta(0), timedelta(hours=1, seconds=1), "ticket-too-old", id="old"),
        pytest.param(timedelta(minutes=5, seconds=1), timedelta(0), "ticket-from-the-future", id="future"),
    ],
)
def test_a_ticket_outside_its_times_is_refused(quoted: timedelta, judged: timedelta, expected: str) -> None:
    bench = Bench()

    assert bench.refusal(bench.ticket(now=NOW + quoted), now=NOW + judged).reason == expected


def test_the_last_second_of_a_ticket_still_counts() -> None:
    bench = Bench()
    last = NOW + bench.lifetime

    assert bench.validator().validate(bench.ticket(), bench.peer(), last).at == last
    by_policy = Bench(lifetime=timedelta(days=1))
    last = NOW + timedelta(hours=1)
    assert by_policy.validator().validate(by_policy.ticket(), by_policy.peer(), last).at == last


def test_a_clock_ahead_of_ours_does_not_lengthen_a_tickets_life() -> None:
    bench = Bench(lifetime=timedelta(days=1))
    ticket = bench.ticket(now=NOW + timedelta(minutes=5))

    assert bench.validator().validate(ticket, bench.peer(), NOW).at == NOW + timedelta(hours=1)


def test_a_policy_can_refuse_quotes_from_before_an_instant() -> None:
    bench = Bench(policy=policy(ticket__not_before=NOW))

    assert bench.validator().validate(bench.ticket(), bench.peer(), NOW).at is not None
    earlier = bench.ticket(now=NOW - timedelta(seconds=1))
    assert bench.refusal(earlier).reason == "ticket-not-before"


def test_a_ticket_whose_node_started_after_its_quote_is_refused() -> None:
    bench = Bench()
    claims = replace(parse_ticket_untrusted(bench.ticket()).claims, started_at=NOW + timedelta(seconds=1))

    assert bench.refusal(signed(bench, claims)).reason == "ticket-times-disordered"


def test_a_ticket_without_expiry_ends_by_the_policy() -> None:
    bench = Bench()
    claims = replace(parse_ticket_untrusted(bench.ticket()).claims, expires_at=None)

    assert bench.validator().validate(signed(bench, claims), bench.peer(), NOW).at == NOW + timedelta(hours=1)


def signed(bench: Bench, claims: TdxClaims) -> bytes:
    """A ticket that this TD really quoted for such claims."""
    quote = bench.attester.quote(claims.report_data())
    return TdxTicket(quote=quote, claims=claims, endorsements=AUTHORITY.endorsements(NOW)).encode()


# ---- the validator's signature ----------------------------------------------------------------------


def test_validators_of_equal_policy_and_root_have_one_signature() -> None:
    assert Bench().validator().signature == Bench().validator().signature


def test_another_root_or_policy_is_another_validator() -> None:
    base = Bench().validator()
    real = TdxValidator(policy=policy(), root=INTEL_SGX_ROOT, endorsements_source=None)
    other_root = Bench(authority=MockAuthority.create(NOW)).validator()
    other_policy = Bench(policy=policy(ticket__max_age=timedelta(minutes=59))).validator()

    assert len({base.signature, real.signature, other_root.signature, other_policy.signature}) == 4
    assert (base.mock, real.mock, base.ticket_class) == (True, False, "tdx")


# ---- form -------------------------------------------------------------------------------------------


def test_a_ticket_survives_its_encoding() -> None:
    ticket = TdxTicket(quote=b"q", claims=CLAIMS, endorsements=AUTHORITY.endorsements(NOW), event_log=b"log")

    assert parse_ticket_untrusted(ticket.encode()) == ticket
    largest = replace(ticket, quote=bytes(128 * 1024), event_log=bytes(EVENT_LOG_BYTES_MAX))
    assert parse_ticket_untrusted(largest.encode()) == largest
    bare = TdxTicket(quote=b"q", claims=replace(CLAIMS, group_id=None, expires_at=None, binding=None))
    assert parse_ticket_untrusted(bare.encode()) == bare


@pytest.mark.parametrize("name", [item for item in CLAIMS.to_value() if item != "group_id"])
def test_changing_any_claim_changes_report_data(name: str) -> None:
    value = getattr(CLAIMS, name)
    other = value + timedelta(seconds=1) if isinstance(value, datetime) else b"\x99" * 32

    assert replace(CLAIMS, **{name: other}).report_data() != CLAIMS.report_data()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"peer_id": b"short"}, id="short-id"),
        pytest.param({"peer_id": "text"}, id="text-id"),
        pytest.param({"group_id": b""}, id="empty-group"),
        pytest.param({"binding": 7}, id="binding-number"),
        pytest.param({"quoted_at": -1}, id="before-1970"),
        pytest.param({"quoted_at": True}, id="bool-time"),
        pytest.param({"quoted_at": None}, id="no-time"),
        pytest.param({"expires_at": 253_402_300_800}, id="after-9999"),
        pytest.param({"extra": 1}, id="unknown-claim"),
    ],
)
def test_claims_of_another_form_are_malformed(change: dict[str, Any]) -> None:
    data = encode({"quote": b"q", "claims": {**CLAIMS.to_value(), **change}})

    with pytest.raises(MalformedError) as caught:
        parse_ticket_untrusted(data)

    assert caught.value.reason == "ticket-malformed"


@pytest.mark.parametrize("name", sorted(CLAIMS.to_value()))
def test_a_missing_claim_is_malformed(name: str) -> None:
    claims = CLAIMS.to_value()
    del claims[name]

    with pytest.raises(MalformedError, match=rf"claims\.{name} is missing"):
        parse_ticket_untrusted(encode({"quote": b"q", "claims": claims}))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="list"),
        pytest.param({}, id="empty"),
        pytest.param({"quote": b"q"}, id="no-claims"),
        pytest.param({"claims": CLAIMS.to_value()}, id="no-quote"),
        pytest.param({"quote": "q", "claims": CLAIMS.to_value()}, id="text-quote"),
        pytest.param({"quote": b"q", "claims": []}, id="claims-list"),
        pytest.param({"quote": b"q", "claims": CLAIMS.to_value(), "more": 1}, id="unknown-member"),
        pytest.param({"quote": b"q", "claims": CLAIMS.to_value(), "event_log": None}, id="null-log"),
        pytest.param(
            {"quote": b"q", "claims": CLAIMS.to_value(), "endorsements": None}, id="null-endorsements"
        ),
        pytest.param(
            {"quote": b"q", "claims": CLAIMS.to_value(), "event_log": bytes(EVENT_LOG_BYTES_MAX + 1)},
            id="log-too-large",
        ),
        pytest.param({"quote": bytes(128 * 1024 + 1), "claims": CLAIMS.to_value()}, id="quote-too-large"),
    ],
)
def test_tickets_of_another_form_are_malformed(value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_ticket_untrusted(encode(value))


def test_an_oversized_ticket_is_refused_before_it_is_decoded() -> None:
    data = b"\x9f" * (TICKET_BYTES_MAX + 1)  # nested arrays, which a decoder would follow

    with pytest.raises(MalformedError) as caught:
        parse_ticket_untrusted(data)

    assert caught.value.reason == "ticket-too-large"
    assert Bench().refusal(bytes(TICKET_BYTES_MAX)).reason == "cbor-too-many-items"
    assert Bench().refusal(data).reason == "ticket-too-large"


def test_a_ticket_that_no_verifier_would_read_is_not_made() -> None:
    with pytest.raises(ValueError, match="limits"):
        TdxTicket(quote=b"q", claims=CLAIMS, event_log=bytes(EVENT_LOG_BYTES_MAX + 1)).encode()


def test_a_ticket_may_be_as_large_as_the_limit_and_no_larger() -> None:
    endorsements = AUTHORITY.endorsements(NOW)
    ticket = TdxTicket(quote=bytes(128 * 1024), claims=CLAIMS, event_log=bytes(EVENT_LOG_BYTES_MAX))

    def filled(size: int) -> TdxTicket:
        return replace(ticket, endorsements=replace(endorsements, pck_certificate_chain=bytes(size)))

    size = 70_000 + TICKET_BYTES_MAX - len(filled(70_000).encode())
    largest = filled(size)
    assert len(largest.encode()) == TICKET_BYTES_MAX
    assert parse_ticket_untrusted(largest.encode()) == largest
    with pytest.raises(ValueError, match="limits"):
        filled(size + 1).encode()


def test_every_second_that_can_be_encoded_is_a_time() -> None:
    edges = replace(
        CLAIMS,
        started_at=datetime.fromtimestamp(0, UTC),
        expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    )
    assert TdxClaims.from_value_untrusted(edges.to_value()) == edges
    for name, beyond in (("started_at", -1), ("expires_at", edges.to_value()["expires_at"] + 1)):
        with pytest.raises(MalformedError, match="a time in Unix seconds"):
            TdxClaims.from_value_untrusted({**edges.to_value(), name: beyond})


def test_every_truncation_of_a_ticket_is_malformed() -> None:
    data = Bench().ticket()
    for size in range(0, len(data), 37):
        with pytest.raises(MalformedError):
            parse_ticket_untrusted(data[:size])


@given(st.binary(max_size=300))
def test_any_bytes_are_malformed_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_ticket_untrusted(data)


@given(st.data())
def test_changed_bytes_of_a_ticket_give_a_refusal_or_change_nothing(data: st.DataObject) -> None:
    changed = bytearray(TICKET)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TicketRejectedError):
        expiration = BENCH_VALIDATOR.validate(bytes(changed), BENCH.peer(), NOW)

        # What may change are unsigned bytes: padding, the PEM around the PCK chain, the stapled CRL chain.
        assert expiration.appraisal["report_data"] == ORIGINAL["report_data"]
        assert expiration.appraisal["measurements"] == ORIGINAL["measurements"]
        assert expiration.appraisal["ticket"] == ORIGINAL["ticket"]


BENCH = Bench()
BENCH_VALIDATOR = BENCH.validator()
TICKET = BENCH.ticket()
ORIGINAL = BENCH_VALIDATOR.validate(TICKET, BENCH.peer(), NOW).appraisal
