"""Bonds between nodes in mock TDs: real quotes, the real verifier, another pinned root."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestation.collateral.endorsements import Endorsements
from attestation.policy.rules import AppraisalPolicy
from attestation.quote.codec import Quote
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims
from attestation.tickets.tdx import TdxValidator
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from enclave.mock.authority import MockAuthority
from enclave.mock.statement import Statement
from node.peers import BondLoss
from tests.support.bonds import NETWORK, BondCluster
from tests.support.tickets import FIRMWARE, REGISTERS, policy

DEBUG = 1
SEPT_VE_DISABLE = 1 << 28


@pytest.fixture(scope="module")
def authority() -> MockAuthority:
    return MockAuthority.create(datetime.now(UTC))


@dataclass
class MockNode:
    """How a node in a mock TD is set up; the honest one by default."""

    authority: MockAuthority
    judges_by: MockAuthority | None = None
    policy: AppraisalPolicy = field(default_factory=policy)
    rtmrs: tuple[bytes, ...] = REGISTERS
    attributes: int = SEPT_VE_DISABLE
    lifetime: timedelta = timedelta(minutes=10)

    def options(self, name: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        identity = Identity.generate(name, now)
        td = self.authority.create_td(mrtd=FIRMWARE, rtmrs=self.rtmrs, attributes=self.attributes)
        issuer = TdxTicketIssuer(
            attester=td,
            identity=identity,
            network_id=NETWORK,
            endorsements_source=self.authority,
            started_at=now,
            lifetime=self.lifetime,
        )
        root = (self.judges_by or self.authority).trust_root
        validator = TdxValidator(policy=self.policy, root=root, endorsements_source=None)
        return {"identity": identity, "issuers": (issuer,), "validators": (validator,)}


def test_nodes_in_mock_tds_bond_and_report_that_they_are_mock(authority: MockAuthority) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            a = await cluster.start("a", **setup.options("a"))
            b = await cluster.start("b", a.address, **setup.options("b"))
            await a.until_bonded(b)
            (bond,) = a.group().bonds()

            assert bond.mock
            assert bond.appraisals["tdx"]["mock"] is True
            assert bond.appraisals["tdx"]["status"] == "UpToDate"
            assert bond.expires_at is not None
            (event,) = a.events("bond-admitted")
            assert event["tickets"]["tdx"]["measurements"]["mrtd"] == FIRMWARE.hex()

    asyncio.run(scenario())


def test_the_ticket_of_a_bond_can_be_judged_again_off_line(authority: MockAuthority) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            a = await cluster.start("a", **setup.options("a"))
            b = await cluster.start("b", a.address, **setup.options("b"))
            await a.until_bonded(b)
            (bond,) = a.group().bonds()
            fresh = TdxValidator(policy=policy(), root=authority.trust_root, endorsements_source=None)
            expected = ExpectedClaims(
                peer_id=bond.peer.id,
                network_id=NETWORK,
                group_id=a.group_id,
                binding=bond.binding,
                cluster=ANY_CLUSTER,
            )
            again = fresh.validate(bond.tickets["tdx"], expected, datetime.now(UTC))

            assert again.at == bond.expires_at

    asyncio.run(scenario())


def other_rtmr(node: MockNode) -> MockNode:
    return replace(node, rtmrs=(REGISTERS[0], b"\xee" * 48, REGISTERS[2], REGISTERS[3]))


def debug(node: MockNode) -> MockNode:
    return replace(node, attributes=SEPT_VE_DISABLE | DEBUG)


def other_authority(node: MockNode) -> MockNode:
    return replace(node, authority=MockAuthority.create(datetime.now(UTC)), judges_by=node.authority)


def expired(node: MockNode) -> MockNode:
    return replace(node, lifetime=timedelta(seconds=-3600))


ATTACKS: dict[str, tuple[Callable[[MockNode], MockNode], str]] = {
    "other-rtmr": (other_rtmr, "measurement-mismatch"),
    "debug-attribute": (debug, "td-debug"),
    "other-mock-authority": (other_authority, "untrusted-root"),
    "expired-ticket": (expired, "ticket-expired"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_td_that_the_policy_does_not_accept_never_bonds(attack: str, authority: MockAuthority) -> None:
    change, reason = ATTACKS[attack]

    async def scenario() -> None:
        async with BondCluster() as cluster:
            honest = MockNode(authority)
            victim = await cluster.start("victim", **honest.options("victim"))
            bad = change(honest)
            mallory = await cluster.start("mallory", victim.address, **bad.options("mallory"))
            event = await victim.until_event("bond-refused", name="mallory")
            await mallory.until_event("bond-refused-by-peer", reason=event["reason"])

            assert event["reason"] == reason
            assert event["code"] == 30403
            assert event["peer_id"] == mallory.me.id.hex()
            presented = event["tickets"]["tdx"]
            assert presented["measurements"]["rtmr1"] == bad.rtmrs[1].hex()
            assert int.from_bytes(bytes.fromhex(presented["td_attributes"]), "little") == bad.attributes
            assert victim.handler.ups == []

    asyncio.run(scenario())


def test_another_nodes_quote_does_not_admit(authority: MockAuthority) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            victim = await cluster.start("victim", **setup.options("victim"))
            honest = await cluster.start("honest", victim.address, **setup.options("honest"))
            await victim.until_bonded(honest)
            (bond,) = victim.group().bonds()
            options = setup.options("mallory")
            options["issuers"] = (_Replay(bond.tickets["tdx"]),)
            mallory = await cluster.start("mallory", victim.address, **options)
            event = await victim.until_event("bond-refused", name="mallory")

            assert event["reason"] == "ticket-peer-mismatch"
            # Whose ticket it was is in the log.
            assert event["tickets"]["tdx"]["claims"]["peer_id"] == honest.me.id.hex()
            assert mallory.handler.ups == []

    asyncio.run(scenario())


@dataclass
class _Replay:
    ticket: bytes
    ticket_class: str = "tdx"

    def issue(self, **_: Any) -> bytes:
        return self.ticket


def test_the_log_keeps_what_cannot_be_parsed_as_such(authority: MockAuthority) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            victim = await cluster.start("victim", **setup.options("victim"))
            options = setup.options("mallory")
            options["issuers"] = (_Replay(b"no ticket"),)
            await cluster.start("mallory", victim.address, **options)
            event = await victim.until_event("bond-refused", name="mallory")

            assert event["tickets"]["tdx"]["bytes"] == 9
            assert event["tickets"]["tdx"]["malformed"] == event["reason"]

    asyncio.run(scenario())


def test_the_event_loop_runs_on_while_a_quote_is_made(authority: MockAuthority) -> None:
    """A real quote takes up to seconds; the other bonds must not miss a heartbeat for it."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            a = await cluster.start("a", **setup.options("a"))
            options = setup.options("b")
            asked, go_on = threading.Event(), threading.Event()
            issue = options["issuers"][0].issue

            class Slow:
                ticket_class = "tdx"

                def issue(self, **arguments: Any) -> bytes:
                    asked.set()
                    assert go_on.wait(5)
                    return bytes(issue(**arguments))

            options["issuers"] = (Slow(),)
            b = await cluster.start("b", a.address, **options)
            await asyncio.to_thread(asked.wait, 5)
            c = await cluster.start("c", a.address, **setup.options("c"))
            await c.until_bonded(a)

            assert b.group().bonds() == []
            go_on.set()
            await b.until_bonded(a, c)

    asyncio.run(scenario())


@dataclass
class Collateral:
    """A verifier's own source, whose newest statement a test can change."""

    authority: MockAuthority
    statement: Statement = field(default_factory=Statement)

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements:
        del quote
        return self.authority.endorsements(now, self.statement)


def test_new_collateral_that_revokes_a_platform_ends_its_bond(authority: MockAuthority) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            setup = MockNode(authority)
            options = setup.options("a")
            collateral = Collateral(authority)
            options["validators"] = (
                TdxValidator(policy=policy(), root=authority.trust_root, endorsements_source=collateral),
            )
            a = await cluster.start("a", **options)
            b = await cluster.start("b", a.address, **setup.options("b"))
            await a.until_bonded(b)
            collateral.statement = Statement(
                tcb_evaluation_data_number=21,
                qe_evaluation_data_number=21,
                revoked_pck_serials=frozenset({authority.platform.serial_number}),
            )
            a.group().rejudge()
            await a.handler.until(lambda: bool(a.handler.downs))

            assert a.handler.downs[0] == (b.me, BondLoss.EXPIRED, "pck-revoked")
            (event,) = a.events("ticket-rejected")
            assert event["name"] == "b"

    asyncio.run(scenario())
