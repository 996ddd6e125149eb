"""Standing members: who was accepted keeps its bonds for a while when its platform falls back by its TCB alone."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestation.collateral.enforcement import EnforcedSince
from attestation.errors import MalformedError
from attestation.policy.toml import load_policy_untrusted
from attestation.tickets.protocol import Expiration, TicketRejectedError
from attestation.tickets.standing import MEMBERS_MAX, MemberTable, Moment
from attestation.values import TcbStatus
from enclave.identity import Identity
from enclave.mock.pki import PCKValues
from enclave.mock.statement import PLATFORM_OUT_OF_DATE, PLATFORM_UP_TO_DATE
from node.bonds.tickets.admission import judge
from tests.support.tickets import AUTHORITY, FIRMWARE, NOW, REGISTERS, Bench, endorsements, policy

DAY = timedelta(days=1)
PERIOD = 14 * DAY
# The platform of these tests is up to date by evaluation 20, and out of date by evaluation 21.
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
class Life:
    """One member's life: its own endorsements, its clocks, whom it has accepted."""

    statement: dict[str, Any] = field(default_factory=dict)
    rules: Any = field(default_factory=policy)
    wall: datetime = NOW
    monotonic_s: float = 0.0
    log: datetime | None = NOW

    def __post_init__(self) -> None:
        self.table = MemberTable(period=self.rules.tcb.standing_days * DAY, moment=self.moment)
        self.validator = Bench(policy=self.rules, own=self).validator(
            members=self.table, witnesses=[self.table.witness]
        )

    def moment(self) -> Moment:
        return Moment(wall=self.wall, monotonic_s=self.monotonic_s, log=self.log)

    def endorsements_for(self, _quote: Any, now: datetime) -> Any:
        return endorsements(now, **self.statement)

    def pass_days(self, days: float) -> None:
        self.wall += days * DAY
        self.monotonic_s += days * 86400
        self.log = None if self.log is None else self.log + days * DAY

    def verdict(self, peer: Bench) -> str:
        """Return accepted, standing, or why the peer is refused."""
        try:
            return str(self.appraisal(peer)["verdict"])
        except TicketRejectedError as exc:
            return exc.reason

    def appraisal(self, peer: Bench) -> dict[str, Any]:
        tickets = {"tdx": peer.ticket(now=self.wall)}
        admission = judge([self.validator], tickets, peer.peer(fresh=True), self.wall)
        return admission.appraisals["tdx"]


def member(**options: Any) -> Bench:
    return Bench(stapled=None, identity=Identity.generate("member", NOW), **options)


def fallen(peer: Bench, **life: Any) -> Life:
    """A life that accepted the peer before the recovery, and judges by the set after it."""
    judge_of = Life(**life)
    assert judge_of.verdict(peer) == "accepted"
    judge_of.statement = RECOVERED
    return judge_of


def test_a_member_stands_and_a_stranger_on_the_same_platform_is_refused() -> None:
    peer = member()
    life = fallen(peer)

    assert life.verdict(peer) == "standing"
    assert life.verdict(member()) == "tcb-status-not-accepted"


def test_what_a_standing_member_is_judged_by_is_reported() -> None:
    peer = member()
    appraisal = fallen(peer).appraisal(peer)

    assert appraisal["accepted"] is False
    assert appraisal["reason"] == "tcb-status-not-accepted"
    assert appraisal["standing_until"] == "2026-12-06T12:00:00Z"
    assert appraisal["status"] == "OutOfDate"
    assert [item["reason"] for item in appraisal["findings"]] == ["tcb-status-not-accepted"]


def test_a_member_that_restarts_is_a_stranger() -> None:
    peer = member()
    life = fallen(peer)
    restarted = replace(peer, identity=Identity.generate("member", NOW))

    assert life.verdict(restarted) == "tcb-status-not-accepted"


def test_a_judge_that_restarts_knows_no_members() -> None:
    peer = member()
    fallen(peer)

    assert Life(statement=RECOVERED).verdict(peer) == "tcb-status-not-accepted"


@pytest.mark.parametrize("clock", ["wall", "monotonic_s", "log"])
def test_any_one_of_three_clocks_ends_the_standing(clock: str) -> None:
    """A host that holds two of them back, or stops them, gains nothing by it."""
    peer = member()
    life = fallen(peer)
    assert life.verdict(peer) == "standing"

    later = {"wall": NOW + PERIOD, "monotonic_s": PERIOD.total_seconds(), "log": NOW + PERIOD}
    setattr(life, clock, later[clock])
    assert life.verdict(peer) == "tcb-status-not-accepted"


def test_it_stands_until_the_last_second_and_its_ticket_holds_no_longer() -> None:
    peer = member()
    life = fallen(peer)
    assert life.verdict(peer) == "standing"
    life.pass_days(14 - 1 / 86400)

    expiration: Expiration = life.validator.validate(peer.ticket(now=life.wall), peer.peer(), life.wall)
    assert expiration.at == life.wall + timedelta(seconds=1)
    life.pass_days(1 / 86400)
    assert life.verdict(peer) == "tcb-status-not-accepted"


def test_a_later_set_by_which_it_falls_too_does_not_begin_the_period_again() -> None:
    peer = member()
    life = fallen(peer)
    assert life.verdict(peer) == "standing"
    life.pass_days(13)
    life.statement = {**RECOVERED, "tcb_evaluation_data_number": 22, "qe_evaluation_data_number": 22}
    assert life.verdict(peer) == "standing"
    life.pass_days(1)

    assert life.verdict(peer) == "tcb-status-not-accepted"


def test_acceptance_by_an_older_set_does_not_begin_the_period_again() -> None:
    peer = member()
    life = fallen(peer)
    assert life.verdict(peer) == "standing"
    life.pass_days(13)
    life.table.accepted(peer.identity.peer_id, 20)
    life.pass_days(1)
    assert life.verdict(peer) == "tcb-status-not-accepted"

    life.table.accepted(peer.identity.peer_id, 21)
    assert life.verdict(peer) == "standing"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        pytest.param(
            {"platform_levels": (replace(PLATFORM_UP_TO_DATE, status=TcbStatus.REVOKED),)},
            "tcb-revoked",
            id="revoked-tcb",
        ),
        pytest.param(
            {"revoked_pck_serials": frozenset({AUTHORITY.platform.serial_number})},
            "pck-revoked",
            id="revoked-pck",
        ),
        pytest.param(
            {
                "platform_levels": (
                    replace(PLATFORM_UP_TO_DATE, sgx_svns=(9,) * 8 + (0,) * 8),
                    replace(PLATFORM_UP_TO_DATE, sgx_svns=(8,) * 8 + (0,) * 8),
                )
            },
            "tcb-level-not-found",
            id="below-every-level",
        ),
    ],
)
def test_a_status_worse_than_out_of_date_never_has_standing(statement: dict[str, Any], reason: str) -> None:
    peer = member()
    life = Life()
    assert life.verdict(peer) == "accepted"
    life.statement = {"tcb_evaluation_data_number": 21, "qe_evaluation_data_number": 21, **statement}

    assert life.verdict(peer) == reason


def test_a_refused_advisory_never_stands_and_one_that_is_not_accepted_does() -> None:
    peer = member()
    out_of_date = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE})
    known = policy(tcb__accepted_statuses=out_of_date, tcb__accepted_advisories=frozenset())
    refusing = policy(
        tcb__accepted_statuses=out_of_date, tcb__refused_advisories=frozenset({"MOCK-SA-01192"})
    )

    assert fallen(peer, rules=known).verdict(peer) == "standing"
    assert fallen(peer, rules=refusing).verdict(peer) == "tcb-advisory-refused"


def test_a_member_of_another_image_does_not_stand() -> None:
    """Measurements beside the TCB: everything is looked at, whatever comes first."""
    peer = member()
    life = fallen(peer)
    td = AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=(REGISTERS[0], b"\x77" * 48, *REGISTERS[2:]))
    changed = replace(peer, attester=td)

    assert life.verdict(changed) == "tcb-status-not-accepted"
    assert life.verdict(peer) == "standing"


def test_a_member_that_shows_another_connections_ticket_does_not_stand() -> None:
    peer = member()
    life = fallen(peer)
    tickets = {"tdx": peer.ticket(binding=bytes(32))}
    with pytest.raises(TicketRejectedError) as caught:
        judge([life.validator], tickets, peer.peer(fresh=True), NOW)

    assert caught.value.reason == "ticket-binding-mismatch"


def test_a_platform_that_was_out_of_date_before_it_came_is_never_a_member() -> None:
    old = AUTHORITY.create_platform(NOW, PCKValues(sgx_svns=(5,) * 8 + (0,) * 8, pce_svn=11))
    peer = member(attester=AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS, platform=old))
    life = Life()

    assert life.verdict(peer) == "tcb-status-not-accepted"
    assert life.verdict(peer) == "tcb-status-not-accepted"


def test_a_member_stands_when_its_grace_is_over() -> None:
    """The end of the grace is no end of the standing: that begins with it."""
    peer = member()
    life = Life(statement=RECOVERED, rules=policy(tcb__grace_period=10 * DAY))
    life.validator = Bench(policy=life.rules, own=life).validator(
        members=life.table, witnesses=[life.table.witness], enforcement=EnforcedSince(NOW)
    )
    assert life.verdict(peer) == "accepted"
    life.pass_days(11)

    assert life.verdict(peer) == "standing"
    life.pass_days(14)
    assert life.verdict(peer) == "tcb-status-not-accepted"


def test_no_incarnation_has_standing_if_the_policy_gives_no_days() -> None:
    peer = member()
    strict = policy(tcb__standing_days=0)

    assert fallen(peer, rules=strict).verdict(peer) == "tcb-status-not-accepted"


def test_the_table_is_bounded_and_the_last_accepted_stays() -> None:
    life = Life()
    for number in range(MEMBERS_MAX + 1):
        life.table.accepted(number.to_bytes(32, "big"), 20)

    assert life.table.standing_until(bytes(32), 21) is None
    assert life.table.standing_until(MEMBERS_MAX.to_bytes(32, "big"), 21) is not None


POLICY = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
%s
[reference_values]
accept_any_td = true
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
"""


def test_the_policy_file_gives_the_days() -> None:
    def days(line: str) -> timedelta:
        return load_policy_untrusted((POLICY % line).encode()).tcb.standing_days * DAY

    assert days("") == 14 * DAY
    assert days("standing_days = 0") == timedelta(0)
    assert days("standing_days = 90") == 90 * DAY
    for bad in ("standing_days = 91", "standing_days = -1", "standing_days = 1.5"):
        with pytest.raises(MalformedError, match="standing_days"):
            days(bad)
