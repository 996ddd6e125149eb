"""A mock platform, a node on it and a validator for it: what ticket tests start from."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from attestation.collateral.endorsements import Endorsements
from attestation.collateral.freshness import FreshnessState
from attestation.policy.rules import AppraisalPolicy, EventLogRules, default_policy
from attestation.tickets.ids import network_id_of_name
from attestation.tickets.protocol import ANY_CLUSTER, Cluster, ExpectedClaims, TicketRejectedError, binding_of
from attestation.tickets.store import EndorsementsSource, FixedEndorsements
from attestation.tickets.tdx import TdxValidator
from enclave.attester import Attester
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from enclave.mock.authority import MockAuthority
from enclave.mock.statement import Statement

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NETWORK = network_id_of_name("test")
GROUP = b"\x07" * 32
EXPORTER = b"\x08" * 32
NONCE = b"\x09" * 32
BINDING = binding_of(EXPORTER, NONCE)

AUTHORITY = MockAuthority.create(NOW)
FIRMWARE = b"\x11" * 48
REGISTERS = (b"\x20" * 48, b"\x21" * 48, b"\x22" * 48, bytes(48))


def policy(**changes: Any) -> AppraisalPolicy:
    """A policy for TDs that were launched with FIRMWARE and REGISTERS. ``tcb__accepted_statuses=…`` reaches into a part."""
    start = default_policy()
    pinned = {
        "mrtd": frozenset({FIRMWARE}),
        "rtmr1": frozenset({REGISTERS[1]}),
        "rtmr2": frozenset({REGISTERS[2]}),
    }
    out = replace(
        start,
        reference_values=replace(
            start.reference_values,
            baseline=pinned,
            not_checked=tuple(n for n in start.reference_values.not_checked if n not in pinned),
            accept_any_td=False,
        ),
    )
    for name, value in changes.items():
        part, _, rule = name.partition("__")
        out = replace(out, **{part: replace(getattr(out, part), **{rule: value})})
    return out


@dataclass(kw_only=True)
class Bench:
    """One issuing node and one judging node; every part can be replaced before it is used."""

    attester: Attester = field(default_factory=lambda: AUTHORITY.create_td(mrtd=FIRMWARE, rtmrs=REGISTERS))
    identity: Identity = field(default_factory=lambda: Identity.generate("node", NOW))
    stapled: EndorsementsSource | None = AUTHORITY
    own: EndorsementsSource | None = None
    policy: AppraisalPolicy = field(default_factory=policy)
    authority: MockAuthority = AUTHORITY
    lifetime: timedelta = timedelta(minutes=30)
    runtime_events: Any = tuple

    def issuer(self) -> TdxTicketIssuer:
        return TdxTicketIssuer(
            attester=self.attester,
            identity=self.identity,
            network_id=NETWORK,
            endorsements_source=self.stapled,
            started_at=NOW - timedelta(hours=1),
            lifetime=self.lifetime,
            runtime_events=self.runtime_events,
        )

    def ticket(
        self,
        *,
        binding: bytes | None = BINDING,
        group_id: bytes | None = GROUP,
        cluster: Cluster | None = None,
        now: datetime = NOW,
    ) -> bytes:
        return self.issuer().issue(group_id=group_id, cluster=cluster, binding=binding, now=now)

    def validator(self, freshness: FreshnessState | None = None, **more: Any) -> TdxValidator:
        return TdxValidator(
            policy=self.policy,
            root=self.authority.trust_root,
            endorsements_source=self.own,
            freshness=freshness,
            **more,
        )

    def peer(self, **changes: Any) -> ExpectedClaims:
        expected = ExpectedClaims(
            peer_id=self.identity.peer_id,
            network_id=NETWORK,
            group_id=GROUP,
            binding=BINDING,
            cluster=ANY_CLUSTER,
        )
        return replace(expected, **changes)

    def refusal(
        self, ticket: bytes | None = None, *, now: datetime = NOW, **peer: Any
    ) -> TicketRejectedError:
        """Return the refusal of a ticket; fail if it is admitted."""
        try:
            expiration = self.validator().validate(ticket or self.ticket(), self.peer(**peer), now)
        except TicketRejectedError as exc:
            return exc
        raise AssertionError(f"admitted until {expiration.at}")


def endorsements(now: datetime = NOW, **statement: Any) -> Endorsements:
    """The authority's collateral with something in its statement changed."""
    return AUTHORITY.endorsements(now, Statement(**statement))


def fixed(now: datetime = NOW, **statement: Any) -> FixedEndorsements:
    return FixedEndorsements(endorsements=endorsements(now, **statement))


def log_policy(*registers: int) -> AppraisalPolicy:
    return replace(policy(), event_log=EventLogRules(registers=frozenset(registers)))
