"""A node sees what a TCB recovery does to it and to its peers: today, and with the set that comes next."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from attestation.collateral.endorsements import Endorsements
from attestation.errors import AttestationError, EndorsementsUnavailableError, StaleEndorsementsError
from attestation.tickets.protocol import ExpectedClaims
from attestation.tickets.standing import MemberTable, Moment
from attestation.values import TcbStatus
from enclave.identity import Identity
from enclave.mock.statement import PLATFORM_OUT_OF_DATE, PLATFORM_UP_TO_DATE
from node.peers import Incarnation
from node.tcb_outlook import EARLY_EVERY, SELF_EVERY, TcbOutlook, TcbOutlookCollector
from tests.support.tickets import NOW, Bench, endorsements

RECOVERED: dict[str, Any] = {
    "tcb_evaluation_data_number": 21,
    "qe_evaluation_data_number": 21,
    "platform_levels": (
        replace(PLATFORM_UP_TO_DATE, sgx_svns=(9,) * 8 + (0,) * 8),
        replace(PLATFORM_UP_TO_DATE, status=TcbStatus.OUT_OF_DATE, advisory_ids=("MOCK-SA-01192",)),
        PLATFORM_OUT_OF_DATE,
    ),
}


@dataclass
class Bond:
    peer: Incarnation
    tickets: Mapping[str, bytes]
    appraisals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Site:
    """One node with one bonded peer on the same platform."""

    now: datetime = NOW
    statement: dict[str, Any] = field(default_factory=dict)
    early: dict[str, Any] | AttestationError = field(default_factory=dict)
    own_problem: AttestationError | None = None
    asked: int = 0

    def __post_init__(self) -> None:
        self.me = Bench(stapled=None, own=self, identity=Identity.generate("node-a", NOW))
        peer = Bench(stapled=None, identity=Identity.generate("node-b", NOW))
        self.bonds = [Bond(Incarnation("node-b", peer.identity.peer_id), {"tdx": peer.ticket()})]
        self.begin()

    def begin(self) -> None:
        """Begin a life: a new process that knows nobody."""
        table = MemberTable(
            period=timedelta(days=14), moment=lambda: Moment(wall=self.now, monotonic_s=0.0, log=None)
        )
        self.validator = self.me.validator(members=table, witnesses=[table.witness])
        self.outlook = TcbOutlook(
            me=Incarnation("node-a", self.me.identity.peer_id),
            validator=self.validator,
            source=self,
            early=True,
            bonds=lambda: self.bonds,
            own_ticket=self.own_ticket,
            now=lambda: self.now,
        )

    def endorsements_for(self, _quote: Any, now: datetime) -> Endorsements:
        return endorsements(now, **self.statement)

    async def early_for(self, _quote: Any) -> Endorsements:
        self.asked += 1
        if isinstance(self.early, AttestationError):
            raise self.early
        return endorsements(self.now, **self.early)

    async def own_ticket(self) -> tuple[bytes, ExpectedClaims]:
        return self.me.ticket(binding=None, now=self.now), self.me.peer(binding=None)

    def look(self) -> dict[str, str]:
        asyncio.run(self.outlook.look())
        return {notice.code: notice.message for notice in self.outlook.notices()}

    def metrics(self) -> list[str]:
        registry = CollectorRegistry()
        registry.register(TcbOutlookCollector(self.outlook))
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if not line.startswith("#")]


def test_a_node_on_a_good_platform_has_nothing_to_report():
    site = Site()

    assert site.look() == {}
    assert site.outlook.verdict is not None
    assert site.outlook.verdict.verdict == "accepted"
    assert "bondstone_tcb_self_accepted 1.0" in site.metrics()


def test_a_node_that_falls_back_learns_of_it_and_is_warned_not_to_restart():
    site = Site()
    site.look()
    site.statement = RECOVERED
    site.outlook.collateral_changed()
    notices = site.look()

    assert notices["self-standing"].startswith(
        "this node stands until 2026-12-06T12:00:00Z: the TCB status is OutOfDate"
    )
    assert "a member that restarts has no standing" in notices["self-standing"]
    assert "bondstone_tcb_self_accepted 0.0" in site.metrics()


def test_a_node_that_did_restart_is_refused_and_reports_it():
    site = Site(statement=RECOVERED)
    notices = site.look()

    assert set(notices) >= {"self-refused"}
    assert "tcb-status-not-accepted" in notices["self-refused"]


def test_it_judges_itself_every_hour_and_when_its_collateral_changes():
    site = Site()
    site.look()
    site.statement = RECOVERED
    assert "self-standing" not in site.look()

    site.now += SELF_EVERY
    assert "self-standing" in site.look()


def test_a_standing_peer_is_named_with_the_warning_not_to_restart_it():
    site = Site()
    told = {"verdict": "standing", "standing_until": "2026-12-06T12:00:00Z", "message": "OutOfDate"}
    site.bonds = [replace(site.bonds[0], appraisals={"tdx": told})]

    site.early = RECOVERED
    notices = site.look()
    assert [notice.message[:7] for notice in site.outlook.notices() if notice.code == "tcb-next"] == [
        "node-a:"
    ]
    assert "bondstone_tcb_standing_members 1.0" in site.metrics()
    assert notices["member-standing"].startswith(
        "node-b stands until 2026-12-06T12:00:00Z: OutOfDate; update"
    )


def test_the_early_set_shows_which_platforms_would_fall_back_why_and_what_is_short():
    site = Site(early=RECOVERED)
    site.look()
    site.now += timedelta(days=9)
    notices = [notice.message for notice in site.outlook.notices() if notice.code == "tcb-next"]

    assert [notice.split(":")[0] for notice in notices] == ["node-a", "node-b"]
    assert notices[1].startswith(
        "node-b: OutOfDate under evaluation data 21 (tcb-status-not-accepted; early, known here for 9 days);"
        " short: sgx[0] is 7, needs 9"
    )
    metrics = site.metrics()
    peer = site.bonds[0].peer
    assert f'bondstone_tcb_next_verdict{{member="node-b/{peer.id.hex()[:8]}"}} 0.0' in metrics
    assert f"bondstone_tcb_early_since_seconds {9 * 86400.0}" in metrics


def test_the_early_set_changes_no_verdict_and_is_not_remembered():
    site = Site(early=RECOVERED)
    site.look()
    before = site.validator.freshness
    site.look()

    assert site.validator.freshness == before
    assert {key[3] for key in before.floors} == {"standard"}
    assert site.validator.validate(site.me.ticket(), site.me.peer(), NOW).appraisal["verdict"] == "accepted"


def test_a_platform_that_would_be_revoked_is_named():
    site = Site(
        early={**RECOVERED, "platform_levels": (replace(PLATFORM_UP_TO_DATE, status=TcbStatus.REVOKED),)}
    )

    assert "node-b: Revoked under evaluation data 21" in str(site.look() and site.outlook.notices())


def test_the_early_set_is_fetched_every_six_hours():
    site = Site()
    site.look()
    asked = site.asked
    site.look()
    assert site.asked == asked == 1  # one platform

    site.now += EARLY_EVERY
    site.look()
    assert site.asked == 2


def test_a_source_without_an_early_set_ends_nothing():
    site = Site(early=EndorsementsUnavailableError("collateral-source-failing", "it fails"))

    assert site.look() == {}


def test_a_node_whose_own_source_has_gone_back_reports_it_with_the_way_out():
    site = Site(own_problem=StaleEndorsementsError("endorsements-rolled-back", "the source has gone back"))
    notices = site.look()

    assert notices["own-collateral"].startswith(
        "this platform's collateral is not renewed: the source has gone back"
    )
    assert "delete freshness.cbor" in notices["own-collateral"]
