"""Attacks on admission by TDX tickets. Each is refused for its own reason.

Where the attack is only as strong as one check is missing, a second test removes that check and shows that
the attack then works: so the refusal comes from the check, not from a mistake in the attack.
"""

import gc
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestation.collateral.endorsements import Endorsements, verify_endorsements
from attestation.collateral.freshness import FreshnessState
from attestation.encoding.canonical import decode_untrusted, encode
from attestation.policy.appraise import REPORT_DATA_UNCHECKED, appraise
from attestation.policy.rules import default_policy
from attestation.tickets import tdx as ticket_tdx
from attestation.tickets.protocol import ANY_CLUSTER, Cluster, TicketRejectedError, binding_of
from attestation.tickets.store import AcceptedEvidence, EndorsementsStore, FixedEndorsements
from attestation.tickets.tdx import TICKET_BYTES_MAX, TdxTicket, TdxValidator, parse_ticket_untrusted
from attestation.values import TcbStatus, mask_of
from attestation.verifier import verify_quote
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.identity import Identity
from enclave.mock.authority import MockAuthority
from enclave.mock.pki import PCKValues
from enclave.mock.statement import (
    MODULE_LEVELS,
    PLATFORM_OUT_OF_DATE,
    PLATFORM_UP_TO_DATE,
    QE_LEVELS,
    ModuleIdentity,
    Statement,
)
from enclave.mock.td import TDSettings
from node.bonds.tickets.admission import judge
from tests.support.tickets import (
    AUTHORITY,
    BINDING,
    EXPORTER,
    FIRMWARE,
    GROUP,
    NONCE,
    NOW,
    REGISTERS,
    Bench,
    endorsements,
    fixed,
    policy,
)


def edited(ticket: bytes, **changes: Any) -> bytes:
    """A ticket with members, or claims (``claims__x``), overwritten by an attacker."""
    value = decode_untrusted(ticket, bytes_max=TICKET_BYTES_MAX, items_max=TICKET_BYTES_MAX)
    for name, item in changes.items():
        part, _, claim = name.partition("__")
        if claim:
            value[part][claim] = item
        else:
            value[part] = item
    return encode(value)


def td(**settings: Any) -> Any:
    return AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS, settings=TDSettings(**settings))


def without_claim_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket_tdx, "require_claims", lambda _claims, _peer: None)


# ---- somebody else's evidence -----------------------------------------------------------------------


def test_another_peers_ticket_is_refused() -> None:
    """A stolen or relayed ticket: genuine, current, and about another key than the one proven in TLS."""
    thief = Identity.generate("thief", NOW)

    assert Bench().refusal(peer_id=thief.peer_id).reason == "ticket-peer-mismatch"


def test_another_peers_ticket_works_when_claims_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    without_claim_checks(monkeypatch)
    bench = Bench()
    thief = bench.peer(peer_id=Identity.generate("thief", NOW).peer_id)

    assert bench.validator().validate(bench.ticket(), thief, NOW).at is not None


def test_a_relayed_quote_under_ones_own_claims_is_refused() -> None:
    """The quote of a good TD, claims rewritten to the attacker's key: REPORTDATA betrays it."""
    bench = Bench()
    thief = Identity.generate("thief", NOW)
    relayed = edited(bench.ticket(), claims__peer_id=thief.peer_id)

    assert bench.refusal(relayed, peer_id=thief.peer_id).reason == "report-data-mismatch"


def test_a_relayed_quote_works_when_report_data_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    appraise_member = ticket_tdx.appraise_member

    def lenient(verified: Any, rules: Any, **rest: Any) -> Any:
        return appraise_member(verified, rules, **{**rest, "report_data": verified.body.report_data})

    monkeypatch.setattr(ticket_tdx, "appraise_member", lenient)
    bench = Bench()
    thief = Identity.generate("thief", NOW)
    relayed = edited(bench.ticket(), claims__peer_id=thief.peer_id)

    assert bench.validator().validate(relayed, bench.peer(peer_id=thief.peer_id), NOW).at is not None


# ---- another connection, group, network, time -------------------------------------------------------


@pytest.mark.parametrize(
    "binding",
    [
        pytest.param(binding_of(b"\x55" * 32, NONCE), id="other-connection"),
        pytest.param(binding_of(EXPORTER, b"\x55" * 32), id="other-nonce"),
        pytest.param(binding_of(NONCE, EXPORTER), id="swapped"),
    ],
)
def test_a_replayed_ticket_is_refused(binding: bytes) -> None:
    assert Bench().refusal(binding=binding).reason == "ticket-binding-mismatch"


def test_a_replayed_ticket_works_when_claims_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    without_claim_checks(monkeypatch)
    bench = Bench()

    assert bench.validator().validate(bench.ticket(), bench.peer(binding=bytes(32)), NOW).at is not None


def test_a_published_ticket_does_not_admit() -> None:
    bench = Bench()

    assert bench.refusal(bench.ticket(binding=None)).reason == "ticket-unbound"


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"network_id": b"\x66" * 32}, "ticket-network-mismatch"),
        ({"group_id": b"\x66" * 32}, "ticket-group-mismatch"),
        ({"group_id": None}, "ticket-group-mismatch"),
    ],
)
def test_a_ticket_for_another_network_or_group_is_refused(expected: dict[str, Any], reason: str) -> None:
    assert Bench().refusal(**expected).reason == reason


def test_a_ticket_of_another_cluster_of_the_group_is_refused_as_a_rivals() -> None:
    """The same GroupId can be founded twice; the claims of both are covered by genuine, accepted quotes."""
    bench = Bench()
    ours, theirs = Cluster(id=b"\x0a" * 32), Cluster(id=b"\x0b" * 32)
    rival = bench.ticket(cluster=theirs)

    refusal = bench.refusal(rival, cluster=ours)
    assert refusal.reason == "rival-cluster"
    assert refusal.values["actual"] == {"id": "0b" * 32, "generation": 0}
    assert bench.refusal(rival, cluster=Cluster(id=theirs.id, generation=1)).reason == "rival-cluster"
    bench.validator().validate(rival, bench.peer(cluster=theirs), NOW)
    bench.validator().validate(bench.ticket(), bench.peer(cluster=ours), NOW)  # names none yet
    # With the comparison left out, the same ticket is admitted: nothing else distinguishes the two clusters.
    bench.validator().validate(rival, bench.peer(cluster=ANY_CLUSTER), NOW)


def test_a_cluster_written_into_the_claims_afterwards_is_refused() -> None:
    bench = Bench()
    edits: list[Any] = [[b"\x0b" * 32, 0], [b"\x0a" * 32, 1], None]
    for cluster in edits:
        changed = edited(bench.ticket(cluster=Cluster(id=b"\x0a" * 32)), claims__cluster=cluster)
        assert bench.refusal(changed).reason == "report-data-mismatch"


@pytest.mark.parametrize(
    "cluster",
    [b"\x0a" * 32, [], [b"\x0a" * 32], [b"\x0a" * 31, 0], [b"\x0a" * 32, -1], [b"\x0a" * 32, True],
     [b"\x0a" * 32, 2**32], [b"\x0a" * 32, 0, 0], ["0a" * 32, 0]],
)  # fmt: skip
def test_a_malformed_cluster_claim_is_refused(cluster: Any) -> None:
    bench = Bench()

    assert bench.refusal(edited(bench.ticket(), claims__cluster=cluster)).reason == "ticket-malformed"


def test_a_ticket_made_outside_a_group_does_not_enter_one() -> None:
    bench = Bench()

    assert bench.refusal(bench.ticket(group_id=None)).reason == "ticket-group-mismatch"


def test_an_expired_ticket_with_a_later_expiry_written_over_it_is_refused() -> None:
    bench = Bench()
    later = int((NOW + timedelta(days=1)).timestamp())
    extended = edited(bench.ticket(), claims__expires_at=later)

    assert bench.refusal(extended).reason == "report-data-mismatch"


# ---- another TD -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        pytest.param({"DEBUG", "SEPT_VE_DISABLE"}, "td-debug", id="debug"),
        pytest.param({"MIGRATABLE", "SEPT_VE_DISABLE"}, "td-migratable", id="migratable"),
        pytest.param({"PERF_PROF", "SEPT_VE_DISABLE"}, "td-profiling", id="profiling"),
        pytest.param(set(), "td-sept-ve-disable-missing", id="no-sept-ve-disable"),
    ],
)
def test_a_td_with_dangerous_attributes_is_refused(attributes: set[str], reason: str) -> None:
    bench = Bench(attester=td(td_attributes=mask_of(frozenset(attributes))))

    assert bench.refusal().reason == reason


def test_a_debug_td_works_under_a_policy_without_td_rules() -> None:
    rules = default_policy().td
    open_rules = replace(rules, allowed_attributes=2**64 - 1)
    attester = td(td_attributes=mask_of(frozenset({"DEBUG", "SEPT_VE_DISABLE"})))
    bench = Bench(attester=attester, policy=replace(policy(), td=open_rules))

    assert bench.validator().validate(bench.ticket(), bench.peer(), NOW).at is not None


@pytest.mark.parametrize("index", [1, 2])
def test_another_image_is_refused(index: int) -> None:
    registers = list(REGISTERS)
    registers[index] = b"\x77" * 48
    bench = Bench(attester=AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=tuple(registers)))
    refusal = bench.refusal()

    assert refusal.reason == "measurement-mismatch"
    assert refusal.values["register"] == f"rtmr{index}"


def test_another_firmware_is_refused() -> None:
    bench = Bench(attester=AUTHORITY.create_td(mrtd=b"\x78" * 48, rtmrs=REGISTERS))

    assert bench.refusal().values["register"] == "mrtd"


def test_software_loaded_after_the_measured_state_is_refused() -> None:
    attester = AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS)
    attester.extend_rtmr(2, b"\x01" * 48)

    assert Bench(attester=attester).refusal().values["register"] == "rtmr2"


def test_another_tdx_module_signer_is_refused() -> None:
    assert Bench(attester=td(mr_signer_seam=b"\x01" * 48)).refusal().reason.startswith("tdx-module")


# ---- another authority ------------------------------------------------------------------------------


def test_a_td_of_another_authority_is_refused() -> None:
    rogue = MockAuthority.create(NOW)
    bench = Bench(attester=rogue.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS), stapled=rogue)

    assert bench.refusal().reason == "untrusted-root"


def test_a_td_of_another_authority_is_refused_under_our_own_endorsements_too() -> None:
    rogue = MockAuthority.create(NOW)
    bench = Bench(attester=rogue.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS), stapled=None, own=AUTHORITY)

    assert bench.refusal().reason in {"untrusted-root", "pck-ca-issuer-mismatch", "pck-ca-signature"}


def test_mock_evidence_never_passes_for_real() -> None:
    """A validator with Intel's root refuses everything that a mock authority signs."""
    bench = Bench()
    real = TdxValidator(policy=policy(), root=INTEL_SGX_ROOT, endorsements_source=AUTHORITY)
    ticket = bench.ticket()
    with pytest.raises(ticket_tdx.TicketRejectedError) as caught:
        real.validate(ticket, bench.peer(), NOW)

    assert caught.value.reason == "untrusted-root"
    assert real.mock is False
    assert bench.validator().validate(ticket, bench.peer(), NOW).appraisal["mock"] is True


def test_a_root_that_is_not_intels_cannot_be_declared_real() -> None:
    with pytest.raises(Exception, match="mock"):
        replace(AUTHORITY.trust_root, mock=False)


# ---- revocation and TCB -----------------------------------------------------------------------------


def test_a_revoked_pck_is_refused() -> None:
    revoked = fixed(revoked_pck_serials=frozenset({AUTHORITY.platform.serial_number}))

    assert Bench(stapled=revoked).refusal().reason == "pck-revoked"


def test_a_revoked_pck_ca_is_refused() -> None:
    serial = AUTHORITY.platform_ca.certificate.serial_number

    assert Bench(stapled=fixed(revoked_ca_serials=frozenset({serial}))).refusal().reason == "pck-ca-revoked"


def test_an_outdated_platform_is_refused_unless_the_policy_accepts_it() -> None:
    platform = AUTHORITY.create_platform(NOW, PCKValues(sgx_svns=(5,) * 8 + (0,) * 8, pce_svn=11))
    attester = AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS, platform=platform)
    refusal = Bench(attester=attester).refusal()

    assert (refusal.reason, refusal.values["actual"]) == ("tcb-status-not-accepted", "OutOfDate")
    accepting = policy(tcb__accepted_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE}))
    bench = Bench(attester=attester, policy=accepting)
    appraisal = bench.validator().validate(bench.ticket(), bench.peer(), NOW).appraisal
    assert appraisal["status"] == "OutOfDate"
    assert appraisal["advisory_ids"] == ["MOCK-SA-00001"]


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(
            {"platform_levels": (replace(PLATFORM_UP_TO_DATE, status=TcbStatus.REVOKED),)}, id="platform"
        ),
        pytest.param(
            {
                "modules": (
                    ModuleIdentity(
                        major=1,
                        levels=(replace(MODULE_LEVELS[0], status=TcbStatus.REVOKED),),
                    ),
                )
            },
            id="module",
        ),
        pytest.param({"qe_levels": (replace(QE_LEVELS[0], status=TcbStatus.REVOKED),)}, id="qe"),
    ],
)
def test_a_revoked_tcb_is_refused_whatever_the_policy_accepts(statement: dict[str, Any]) -> None:
    everything = policy(tcb__accepted_statuses=frozenset(TcbStatus))

    assert Bench(stapled=fixed(**statement), policy=everything).refusal().reason == "tcb-revoked"


# ---- collateral -------------------------------------------------------------------------------------


def test_a_ticket_without_any_endorsements_cannot_be_judged() -> None:
    assert Bench(stapled=None).refusal().reason == "endorsements-missing"


def test_our_own_endorsements_judge_a_ticket_that_carries_none() -> None:
    bench = Bench(stapled=None, own=AUTHORITY)

    assert bench.validator().validate(bench.ticket(), bench.peer(), NOW).appraisal["endorsements"] == "own"


def test_expired_endorsements_are_refused() -> None:
    old = fixed(now=NOW - timedelta(days=30))
    refusal = Bench(stapled=old).refusal()

    assert refusal.reason == "tcb-info-expired"


def test_expired_endorsements_work_when_windows_are_judged_at_their_own_time() -> None:
    bench = Bench(stapled=fixed(now=NOW - timedelta(days=30)))
    then = NOW - timedelta(days=2)

    assert bench.validator().validate(bench.ticket(now=then), bench.peer(), then).at is not None


def test_endorsements_altered_by_the_attester_are_refused() -> None:
    good = endorsements()
    lying = good.tcb_info.replace(b'"OutOfDate"', b'"UpToDate"')
    bench = Bench()

    assert lying != good.tcb_info
    ticket = edited(bench.ticket(), endorsements=replace(good, tcb_info=lying).to_value())
    assert bench.refusal(ticket).reason == "tcb-info-signature"


def test_endorsements_signed_by_a_pck_key_are_refused() -> None:
    """A leaked PCK key must not be able to declare its own platform up to date (A15.1)."""
    good = endorsements()
    pck = AUTHORITY.platform.pck
    forged = replace(
        good,
        tcb_info_signature=pck.sign_raw(good.tcb_info),
        tcb_info_issuer_chain=pck.certificate_pem + AUTHORITY.root.certificate_pem,
    )
    bench = Bench()

    refusal = bench.refusal(edited(bench.ticket(), endorsements=forged.to_value()))
    assert refusal.reason.startswith("tcb-info-signer")


class Judged:
    """One validator over several tickets, each with its own stapled collateral."""

    def __init__(
        self, freshness: FreshnessState | None = None, update: str = "standard", **bench: Any
    ) -> None:
        self.bench = Bench(**bench)
        self.validator = self.bench.validator(freshness, update=update)

    def outcome(self, stapled: Endorsements, *, now: Any = NOW, bench: Bench | None = None) -> str:
        """Return the TCB status, or why it is refused. What is accepted is remembered, as in a group."""
        return self._told("status", stapled, now, bench or self.bench)

    def origin(self, stapled: Endorsements, *, now: Any = NOW) -> str:
        """Return whose endorsements decided, or why it is refused."""
        return self._told("endorsements", stapled, now, self.bench)

    def _told(self, what: str, stapled: Endorsements, now: Any, bench: Bench) -> str:
        ticket = edited(bench.ticket(now=now), endorsements=stapled.to_value())
        try:
            admission = judge([self.validator], {"tdx": ticket}, bench.peer(), now)
        except ticket_tdx.TicketRejectedError as exc:
            return exc.reason
        found: str = admission.appraisals["tdx"][what]
        return found

    def admits(self, ticket: bytes) -> bool:
        try:
            judge([self.validator], {"tdx": ticket}, self.bench.peer(), NOW)
        except ticket_tdx.TicketRejectedError:
            return False
        return True

    def accepted(self, stapled: Endorsements) -> AcceptedEvidence:
        verified = verify_endorsements(stapled, root=AUTHORITY.trust_root, now=NOW)
        quote = verify_quote(parse_ticket_untrusted(self.bench.ticket()).quote, verified, now=NOW)
        result = appraise(quote, self.bench.policy, now=NOW, report_data=REPORT_DATA_UNCHECKED)
        return AcceptedEvidence(result=result, peer=self.bench.peer(), quoted_at=NOW)


# The platform of these tests is up to date by evaluation 20, and out of date by evaluation 21.
RECOVERED = {
    "tcb_evaluation_data_number": 21,
    "qe_evaluation_data_number": 21,
    "platform_levels": (
        replace(PLATFORM_UP_TO_DATE, sgx_svns=(9,) * 8 + (0,) * 8),
        replace(PLATFORM_UP_TO_DATE, status=TcbStatus.OUT_OF_DATE),
        PLATFORM_OUT_OF_DATE,
    ),
}


OUT_OF_DATE_TOO = policy(tcb__accepted_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE}))


class OwnClient:
    """Our own source of endorsements: what it has fetched, which a test may change."""

    def __init__(self, held: Endorsements | None) -> None:
        self.held = held

    def endorsements_for(self, quote: Any, now: Any) -> Endorsements | None:
        return self.held


def after_recovery_without_own_set(**more: Any) -> Judged:
    """A verifier that has fetched evaluation 21, and whose source now has nothing."""
    own = OwnClient(endorsements(**RECOVERED))
    judged = Judged(own=own, policy=OUT_OF_DATE_TOO, **more)
    assert judged.outcome(endorsements()) == "OutOfDate"
    own.held = None
    return judged


def test_going_back_to_an_older_evaluation_number_does_not_help() -> None:
    """After our own client has fetched evaluation 21, a peer that staples 20 is not judged by that."""
    assert after_recovery_without_own_set().outcome(endorsements()) == "endorsements-rolled-back"


def test_going_back_works_for_a_verifier_that_remembers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreshnessState, "fetched", lambda self, _seen: self)

    assert after_recovery_without_own_set().outcome(endorsements()) == "UpToDate"


def test_what_was_fetched_survives_a_restart() -> None:
    state = after_recovery_without_own_set().validator.freshness
    restarted = Judged(freshness=FreshnessState.from_bytes_untrusted(state.to_bytes()))

    assert restarted.outcome(endorsements()) == "endorsements-rolled-back"


def test_our_own_newer_endorsements_decide_over_older_stapled_ones() -> None:
    bench = Bench(own=fixed(**RECOVERED))

    assert bench.refusal().reason == "tcb-status-not-accepted"


def test_a_peers_newer_set_of_our_number_decides_over_our_own_older_one() -> None:
    """A host that keeps our set old by some days cannot hide a revocation that one honest peer brings."""
    serial = AUTHORITY.platform.serial_number
    own = fixed(issued_before=timedelta(days=3))

    assert Judged(own=own).outcome(own.endorsements) == "UpToDate"
    newer = fixed(revoked_pck_serials=frozenset({serial}))
    assert Bench(own=own, stapled=newer).refusal().reason == "pck-revoked"


def test_a_set_of_new_parts_and_an_old_crl_displaces_nothing() -> None:
    """The parts are signed one by one: newest TCB info beside a CRL from before the revocation."""
    serial = AUTHORITY.platform.serial_number
    own = endorsements(issued_before=timedelta(days=2), revoked_pck_serials=frozenset({serial}))
    old, new = endorsements(issued_before=timedelta(days=3)), endorsements()
    mixed = replace(new, pck_crl=old.pck_crl)

    assert Judged().outcome(mixed) == "UpToDate"  # by itself it is good: all of it is current
    bench = Bench(own=FixedEndorsements(endorsements=own), stapled=FixedEndorsements(endorsements=mixed))
    assert bench.refusal().reason == "pck-revoked"


@pytest.mark.parametrize("accepted", [True, False])
def test_another_number_that_a_peer_staples_decides_nothing(accepted: bool) -> None:
    """Not for itself, not for others, not for later; whether its evidence is accepted or refused.

    Though it is newer than ours in every date.
    """
    judged = Judged(
        own=fixed(issued_before=timedelta(days=3)), policy=OUT_OF_DATE_TOO if accepted else policy()
    )
    assert judged.outcome(endorsements()) == "UpToDate"
    before = judged.validator.freshness

    assert judged.outcome(endorsements(**RECOVERED)) == "UpToDate"
    assert judged.validator.freshness == before
    assert judged.outcome(endorsements()) == "UpToDate"


def test_a_verifier_without_a_set_of_its_own_learns_no_number_from_a_peer() -> None:
    judged = Judged(policy=OUT_OF_DATE_TOO)

    assert judged.outcome(endorsements(**RECOVERED)) == "OutOfDate"
    assert judged.outcome(endorsements()) == "UpToDate"
    assert judged.validator.freshness.floors == {}


def test_a_group_forms_after_one_member_ran_with_the_early_set() -> None:
    """Two sets that are valid at the same time are not old and new."""
    early = Judged(own=fixed(**RECOVERED), policy=OUT_OF_DATE_TOO, update="early")
    assert early.outcome(endorsements()) == "OutOfDate"
    members = [
        Judged(own=fixed(), stapled=fixed(), update="standard", freshness=state)
        for state in (early.validator.freshness, FreshnessState(), FreshnessState())
    ]
    for judge_of in members:
        for peer in members:
            assert judge_of.outcome(endorsements(), bench=peer.bench) == "UpToDate"

    # With one floor for both modes, the member's own set would look rolled back.
    (floor,) = early.validator.freshness.floors.values()
    one_floor = FreshnessState().fetched(replace(floor, update="standard"))
    assert Judged(own=fixed(), freshness=one_floor).outcome(endorsements()) == "endorsements-rolled-back"


def test_a_fixed_set_of_another_platform_does_not_stand_in_the_way() -> None:
    other = AUTHORITY.create_platform(NOW, PCKValues(fmspc=bytes(6)))
    elsewhere = AUTHORITY.endorsements(NOW, Statement(), platform=other)
    judged = Judged(own=FixedEndorsements(endorsements=elsewhere))

    assert judged.outcome(endorsements()) == "UpToDate"


def test_endorsements_that_no_genuine_quote_came_with_displace_nothing() -> None:
    """An early set, handed in beside a forged quote, must not make our own set look rolled back."""
    judged = Judged()
    quote = bytearray(parse_ticket_untrusted(judged.bench.ticket()).quote)
    quote[200] ^= 1
    forged = edited(
        judged.bench.ticket(), quote=bytes(quote), endorsements=endorsements(**RECOVERED).to_value()
    )
    with pytest.raises(ticket_tdx.TicketRejectedError) as caught:
        judged.validator.validate(forged, judged.bench.peer(), NOW)

    assert caught.value.reason == "quote-signature"
    assert judged.outcome(endorsements()) == "UpToDate"


NEWEST = endorsements(tcb_evaluation_data_number=21, qe_evaluation_data_number=21)


class RefuseAll:
    """A second validator, such as one of JWTs, that refuses."""

    ticket_class = "other"
    signature = bytes(32)
    mock = True

    def validate(self, ticket: bytes, peer: Any, now: Any) -> Any:
        raise TicketRejectedError("refused-by-another-validator", "no")


def presented_and_refused(judged: Judged, how: str) -> str:
    """Have genuine evidence with the newest set stapled refused in this way; return the reason."""
    bench, peer = judged.bench, judged.bench.peer()
    others: dict[str, Any] = {
        "another-image": {"attester": AUTHORITY.create_td(mrtd=b"\x78" * 48, rtmrs=REGISTERS)},
        "debug-td": {"attester": td(td_attributes=mask_of(frozenset({"DEBUG", "SEPT_VE_DISABLE"})))},
        "ended-ticket": {"lifetime": timedelta(seconds=-1)},
    }
    if how in others:
        bench = Bench(**others[how])
        peer = bench.peer()
    elif how == "replayed":
        peer = bench.peer(binding=bytes(32))
    elif how == "another-peers":
        peer = bench.peer(peer_id=bytes(32))
    ticket = edited(bench.ticket(), endorsements=NEWEST.to_value())
    if how == "rewritten-claims":
        peer = bench.peer(peer_id=bytes(32))
        ticket = edited(ticket, claims__peer_id=bytes(32))
    validators = [judged.validator, *([RefuseAll()] if how == "refused-by-another-validator" else [])]
    with pytest.raises(ticket_tdx.TicketRejectedError) as caught:
        judge(validators, {"tdx": ticket, "other": b""}, peer, NOW)
    return caught.value.reason


REFUSALS = {
    "another-image": "measurement-mismatch",
    "debug-td": "td-debug",
    "ended-ticket": "ticket-expired",
    "replayed": "ticket-binding-mismatch",
    "another-peers": "ticket-peer-mismatch",
    "rewritten-claims": "report-data-mismatch",
    "refused-by-another-validator": "refused-by-another-validator",
}


@pytest.mark.parametrize("how", REFUSALS)
def test_refused_evidence_with_a_newer_set_stapled_moves_nothing(how: str) -> None:
    judged = Judged()
    assert judged.outcome(endorsements()) == "UpToDate"
    before = judged.validator.freshness

    assert presented_and_refused(judged, how) == REFUSALS[how]
    assert judged.validator.freshness == before
    assert judged.outcome(endorsements()) == "UpToDate"


@pytest.mark.parametrize("how", REFUSALS)
def test_a_group_has_a_quorum_after_refused_evidence_and_two_restarts(how: str) -> None:
    """Each start takes what the life before has kept, and has only the set of the update mode to judge by."""
    state = FreshnessState()
    for _ in range(3):
        judged = Judged(stapled=None, own=fixed(), freshness=state)
        assert presented_and_refused(judged, how) == REFUSALS[how]
        assert judged.admits(judged.bench.ticket())
        state = FreshnessState.from_bytes_untrusted(judged.validator.freshness.to_bytes())


def test_if_refused_evidence_could_raise_the_floor_a_restarted_member_would_admit_no_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What happened when a set was remembered as soon as the quote under it was genuine."""
    stapled = EndorsementsStore._stapled

    def remembering(self: Any, raw: Any, now: Any, refusals: Any) -> Any:
        choice = stapled(self, raw, now, refusals)
        if choice is not None:
            self._freshness = self._freshness.fetched(choice.seen)
        return choice

    judged = Judged(stapled=None, own=fixed())
    with monkeypatch.context() as without_rule:
        without_rule.setattr(EndorsementsStore, "_stapled", remembering)
        presented_and_refused(judged, "another-image")
    restarted = Judged(stapled=None, own=fixed(), freshness=judged.validator.freshness)

    assert not restarted.admits(restarted.bench.ticket())


def test_a_ticket_that_is_only_looked_at_is_not_remembered() -> None:
    """``validate`` alone is a question; an auditor who asks it changes nothing for the peers of a group."""
    bench = Bench()
    validator = bench.validator()
    validator.validate(bench.ticket(), bench.peer(), NOW)

    assert validator.freshness == FreshnessState()


def test_a_clock_that_is_set_back_does_not_revive_expired_collateral() -> None:
    judged = Judged()
    later = NOW + timedelta(days=40)

    assert judged.outcome(endorsements()) == "UpToDate"
    assert judged.outcome(endorsements(later), now=later) == "UpToDate"
    # The host sets the clock back to where the old set was current, and its ticket young.
    assert judged.outcome(endorsements()) == "tcb-info-expired"


def test_a_clock_that_is_set_back_works_on_a_verifier_without_a_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EndorsementsStore, "not_before_seen", lambda _self, now: now)
    monkeypatch.setattr(EndorsementsStore, "witness", lambda _self, _accepted: None)
    judged = Judged()
    later = NOW + timedelta(days=40)

    assert judged.outcome(endorsements(later), now=later) == "UpToDate"
    assert judged.outcome(endorsements()) == "UpToDate"


def test_a_remembered_set_serves_only_within_its_own_window() -> None:
    own = fixed(issued_before=timedelta(days=3))
    judged = Judged(own=own, policy=policy(ticket__max_age=timedelta(days=9)), lifetime=timedelta(days=8))
    assert judged.origin(endorsements(valid_for=timedelta(days=4))) == "stapled"

    assert judged.origin(own.endorsements) == "remembered"
    assert judged.origin(own.endorsements, now=NOW + timedelta(days=5)) == "own"


def test_what_another_thread_saw_in_the_meantime_stays() -> None:
    """Two tickets are judged at once, by sets of two days: whichever ends last, the newer is remembered."""
    older, newer = endorsements(issued_before=timedelta(days=2)), endorsements()
    judged = Judged(own=FixedEndorsements(endorsements=older))
    store = judged.validator._store
    for item in (newer, older):
        store.witness(judged.accepted(item))

    assert judged.origin(older) == "remembered"


def test_many_different_stapled_sets_do_not_pile_up() -> None:
    judged = Judged()
    store = judged.validator._store
    for number in range(20, 80):
        judged.outcome(endorsements(tcb_evaluation_data_number=number))

    assert len(store._authentic) == 32
    assert len(store._newest) == 32


def test_signatures_are_checked_once_and_windows_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lifetime=timedelta(days=60))
    long = policy(ticket__max_age=timedelta(days=60), ticket__max_lifetime=timedelta(days=60))
    validator = replace(bench, policy=long).validator()
    ticket = bench.ticket()
    validator.validate(ticket, bench.peer(), NOW)
    monkeypatch.setattr("attestation.tickets.store.authenticate_endorsements", None)

    assert validator.validate(ticket, bench.peer(), NOW).at is not None
    with pytest.raises(ticket_tdx.TicketRejectedError) as caught:
        validator.validate(ticket, bench.peer(), NOW + timedelta(days=31))
    assert caught.value.reason.endswith("-expired")


# ---- bytes ------------------------------------------------------------------------------------------


def test_every_truncated_quote_is_refused() -> None:
    bench = Bench()
    whole = parse_ticket_untrusted(bench.ticket())
    for size in range(0, len(whole.quote), 211):
        cut = TdxTicket(quote=whole.quote[:size], claims=whole.claims, endorsements=whole.endorsements)

        assert bench.refusal(cut.encode()).reason


def test_an_altered_measurement_is_refused() -> None:
    bench = Bench()
    quote = bytearray(parse_ticket_untrusted(bench.ticket()).quote)
    quote[48 + 136] ^= 1  # MRTD

    assert bench.refusal(edited(bench.ticket(), quote=bytes(quote))).reason == "quote-signature"


def test_an_sgx_enclave_is_not_a_td() -> None:
    bench = Bench()
    quote = bytearray(parse_ticket_untrusted(bench.ticket()).quote)
    quote[4] = 0  # TEE type SGX

    assert bench.refusal(edited(bench.ticket(), quote=bytes(quote))).reason


def test_the_refusal_keeps_its_cause() -> None:
    refusal = Bench().refusal(group_id=b"\x66" * 32)

    assert refusal.__cause__ is not None
    assert refusal.values == {"expected": "66" * 32, "actual": GROUP.hex()}
    assert BINDING.hex() not in str(refusal)


def test_a_storm_of_different_tickets_leaves_memory_flat() -> None:
    bench = Bench()
    issuer, validator = bench.issuer(), bench.validator()
    peers = [
        (issuer.issue(group_id=GROUP, cluster=None, binding=binding, now=NOW), bench.peer(binding=binding))
        for number in range(1000)
        for binding in (number.to_bytes(32, "big"),)
    ]
    for ticket, peer in peers[:100]:
        validator.validate(ticket, peer, NOW)
    gc.collect()
    before = sys.getallocatedblocks()
    for ticket, peer in peers:
        validator.validate(ticket, peer, NOW)
    gc.collect()

    assert sys.getallocatedblocks() - before < 1000  # one block kept per ticket would show
