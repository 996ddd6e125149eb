"""`bondstone quote get URL`: what it saves was made for this call and this TLS key, and it says what is not verified."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from attestation.errors import AttestationError, MalformedError, UndecidedError
from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.events import Event, Origin
from attestation.tickets.tdx import TdxTicket, parse_ticket_untrusted
from enclave.identity import Identity
from node.api.evidence import binding_of_nonce
from node.cli.exits import UNDECIDED, USAGE, exit_code_of
from node.cli.image import app as image_app
from node.cli.quote import app
from node.client import UnreachableError
from node.errors import ConfigError
from tests.enclave.image.test_folder_and_cli import log_of, write_image
from tests.node.api.fakes import IDENTITY, FakeService, served
from tests.support import tickets

GROUP = bytes([8]) * 32


class UnattestedService(FakeService):
    """A node that shows no evidence at all."""

    async def evidence(self, nonce):
        return replace(await super().evidence(nonce), tickets={})


class AttestedService(FakeService):
    """A node whose evidence is a real ticket of a mock TD; ``change`` is what a dishonest server does to it."""

    def __init__(self, *, identity=IDENTITY, attester=None, change=lambda ticket: ticket, binding=None):
        super().__init__()
        self.bench = tickets.Bench(identity=identity)
        self.bench.attester = attester or self.bench.attester
        self.change = change
        self.bound = binding

    async def evidence(self, nonce):
        shown = await super().evidence(nonce)
        ticket = self.bench.ticket(group_id=GROUP, binding=self.bound or binding_of_nonce(nonce))
        return replace(
            shown,
            network_id=tickets.NETWORK,
            tickets={"tdx": self.change(parse_ticket_untrusted(ticket)).encode()},
        )


def get(service, tmp_path, *more):
    with served(service) as port:
        return CliRunner().invoke(
            app, ["get", f"https://127.0.0.1:{port}", "-o", str(tmp_path / "quote.bin"), *map(str, more)]
        )


def test_the_quote_of_a_live_node_is_saved_with_the_registers_to_pin(tmp_path):
    done = get(AttestedService(), tmp_path, "--json")

    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["verified"] is False
    assert value["peer_id"] == IDENTITY.peer_id.hex()
    shown = [value["measurements"][name] for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")]
    assert shown == [tickets.FIRMWARE.hex(), *(register.hex() for register in tickets.REGISTERS)]
    # The file is the TD's quote, and the REPORTDATA to verify it by is its own.
    assert value["report_data"] in (tmp_path / "quote.bin").read_bytes().hex()


def test_for_people_the_registers_are_shown_with_the_command_that_verifies_them(tmp_path):
    done = get(AttestedService(), tmp_path)

    assert done.exit_code == 0, done.output
    for register in (tickets.FIRMWARE, *tickets.REGISTERS):
        assert register.hex()[:20] in done.stdout
    assert "nothing here is verified" in done.stdout
    assert f"bondstone quote verify {tmp_path / 'quote.bin'} --report-data " in "".join(
        done.stdout.splitlines()
    )


def replayed(ticket: TdxTicket) -> TdxTicket:
    return replace(ticket, claims=replace(ticket.claims, group_ca=b"g" * 32))


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        # Who relays the evidence of a genuine node has another TLS key.
        ({"identity": Identity.generate("node", datetime.now(UTC))}, "ticket-peer-mismatch"),
        # A recorded quote was made for another nonce.
        ({"binding": binding_of_nonce(b"old" * 8)}, "ticket-binding-mismatch"),
        # Claims that the quote does not cover.
        ({"change": replayed}, "report-data-mismatch"),
        # Bytes that are no quote.
        ({"change": lambda ticket: replace(ticket, quote=b"\x04" * 100)}, "quote-"),
    ],
)
def test_a_quote_that_was_not_made_for_this_call_is_not_saved(tmp_path, service, reason):
    done = get(AttestedService(**service), tmp_path)

    assert isinstance(done.exception, AttestationError)
    assert done.exception.reason.startswith(reason)
    assert exit_code_of(done.exception) == 1
    assert not (tmp_path / "quote.bin").exists()


@pytest.mark.parametrize(
    ("service", "reason"), [(UnattestedService, "ticket-missing"), (FakeService, "cbor-invalid")]
)
def test_a_node_that_shows_no_evidence_of_a_td_is_refused(tmp_path, service, reason):
    done = get(service(), tmp_path)

    assert isinstance(done.exception, MalformedError)
    assert done.exception.reason == reason
    assert not (tmp_path / "quote.bin").exists()


def test_a_log_that_the_node_does_not_serve_is_reported_before_anything_is_written(tmp_path):
    done = get(AttestedService(), tmp_path, "--event-log", tmp_path / "log")

    assert isinstance(done.exception, UndecidedError)
    assert done.exception.reason == "event-log-missing"
    assert exit_code_of(done.exception) == UNDECIDED
    assert list(tmp_path.iterdir()) == []


def booted_from(folder):
    """A mock TD that booted this image on a machine with a shape of its own."""
    shape = Event(origin=Origin.CCEL, register=0, type=0xD, name="", digest=b"\x05" * 48, data=b"")
    events = (shape, *parse_ccel_untrusted(log_of(folder)))
    return tickets.AUTHORITY.create_td(boot_events=events)


def test_what_is_saved_of_a_node_is_what_image_verify_reads(tmp_path):
    folder = write_image(tmp_path / "image")
    done = get(
        AttestedService(attester=booted_from(folder)), tmp_path, "--event-log", tmp_path / "log", "--json"
    )
    assert done.exit_code == 0, done.output
    files = ["--event-log", str(tmp_path / "log"), "--quote", str(tmp_path / "quote.bin")]
    verified = CliRunner().invoke(image_app, ["verify", str(folder), *files, "--json"])

    assert verified.exit_code == 0, verified.output
    value = json.loads(verified.stdout)
    assert (value["as_predicted"], value["registers_checked"]) == (True, True)
    assert value["rtmr0"] == json.loads(done.stdout)["measurements"]["rtmr0"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["https://127.0.0.1:1", "--config", "node.toml"],
        ["https://127.0.0.1:1", "--report-data", "00"],
        ["--config", "node.toml", "--event-log", "log"],
        ["http://127.0.0.1:1"],
    ],
)
def test_it_is_clear_whose_quote_is_meant(tmp_path, arguments):
    done = CliRunner().invoke(app, ["get", *arguments, "-o", str(tmp_path / "quote.bin")])

    assert isinstance(done.exception, ConfigError)
    assert exit_code_of(done.exception) == USAGE


def test_a_node_that_cannot_be_reached_is_undecided(tmp_path):
    with served(FakeService()) as port:
        pass
    done = CliRunner().invoke(app, ["get", f"https://127.0.0.1:{port}", "-o", str(tmp_path / "quote.bin")])

    assert isinstance(done.exception, UnreachableError)
    assert exit_code_of(done.exception) == UNDECIDED
