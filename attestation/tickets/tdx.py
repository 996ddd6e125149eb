"""The TDX ticket: a quote, the claims that it confirms, and what helps to judge it.

    ticket      = {"quote": bytes, "claims": claims, ? "endorsements": map, ? "event_log": bytes}
    claims      = {"peer_id", "network_id", "group_id" or null, "cluster": [id, generation] or null,
                   "started_at", "quoted_at", "expires_at" or null, "binding" or null,
                   ? "group_ca"}                                   times in whole Unix seconds
    REPORTDATA  = SHA-512 over deterministic CBOR of ["bondstone/tdx-ticket/v2", claims]

Only the quote is signed, and REPORTDATA makes the claims part of it. Endorsements are signed by Intel and
the event log must replay to the quote's registers, so neither depends on trust in the attester.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from attestation.collateral.endorsements import Endorsements, authenticate_endorsements
from attestation.collateral.enforcement import CollateralSet, Enforcement
from attestation.collateral.freshness import FreshnessState
from attestation.encoding.canonical import decode_untrusted, digest, encode
from attestation.encoding.fields import FieldError, StrictMap, bytes_of, bytes_up_to, integer, optional
from attestation.errors import (
    AppraisalError,
    AttestationError,
    MalformedError,
    RevokedError,
    VerificationError,
)
from attestation.policy.appraise import (
    UNKNOWN_ENFORCEMENT,
    AppraisalPolicy,
    FallenBack,
    appraise,
    appraise_member,
    finding_value,
)
from attestation.policy.result import AttestationResult
from attestation.policy.rules import TicketRules
from attestation.quote.codec import QUOTE_BYTES_MAX, TDReport, parse_quote_untrusted
from attestation.tcb import TcbEvaluation
from attestation.tickets.protocol import (
    CLOCK_AHEAD_MAX,
    CLUSTER_ID_BYTES,
    GENERATION_MAX,
    AnyCluster,
    Cluster,
    ExpectedClaims,
    Expiration,
    TicketRejectedError,
)
from attestation.tickets.standing import Members, NoMembers
from attestation.tickets.store import (
    AcceptedEvidence,
    Choice,
    EndorsementsSource,
    EndorsementsStore,
    set_of,
)
from attestation.values import OUT_OF_DATE_STATUSES, timestamp, u64_hex, whole_seconds
from attestation.verifier import verify_parsed_quote
from attestation.x509.trust import TrustRoot

TICKET_CLASS: Final = "tdx"
TICKET_BYTES_MAX: Final = 512 * 1024
"""Several times the largest real one (a quote of 8 kB, collateral of 40 kB, a trimmed CCEL of 100 kB)."""

TICKET_ITEMS_MAX: Final = 256
"""CBOR items: quote, log and each part of the collateral are one byte string each."""

EVENT_LOG_BYTES_MAX: Final = 256 * 1024
ID_BYTES: Final = 32
DOMAIN: Final = "bondstone/tdx-ticket/v2"

# 9999-12-31T23:59:59Z, the last second that datetime and RFC 5280 can express.
_SECONDS_MAX: Final = 253_402_300_799


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """The attester's claims about the quote. Times are aware UTC, in whole seconds.

    Attributes:
        peer_id: the incarnation whose key this TD holds, 32 bytes.
        network_id: 32 bytes.
        group_id: 32 bytes; None for a node without a group.
        cluster: the cluster of which the node holds a committed entry; None before that.
        started_at: when the node started, by its own clock.
        quoted_at: when the node requested the quote, by its own clock.
        expires_at: after this the attester itself no longer vouches for the ticket; None: no such time.
        binding: 32 bytes that tie the ticket to one connection or nonce; None for a published ticket.
        group_ca: SHA-256 of the certificate of the group's own authority, as the node's state has it; None:
            it is not claimed, and the claims have no such member. A verifier that does not know the member
            refuses the ticket (``ticket-malformed``), so it is in tickets for clients alone.
    """

    peer_id: bytes
    network_id: bytes
    group_id: bytes | None
    cluster: Cluster | None
    started_at: datetime
    quoted_at: datetime
    expires_at: datetime | None
    binding: bytes | None
    group_ca: bytes | None = None

    def to_value(self) -> dict[str, Any]:
        """Return the claims as the CBOR map that is hashed and sent."""
        value = {item.name: _claim_to_value(getattr(self, item.name)) for item in fields(self)}
        if self.group_ca is None:
            del value["group_ca"]
        return value

    def report_data(self) -> bytes:
        """Return the 64 bytes that a quote for these claims carries."""
        return hashlib.sha512(encode([DOMAIN, self.to_value()])).digest()

    @classmethod
    def from_value_untrusted(cls, value: Any) -> "TdxClaims":
        """Read the claims from the CBOR map that :meth:`to_value` made.

        Raises:
            MalformedError: ``ticket-malformed``.
        """
        names = [item.name for item in fields(cls)]
        claims = StrictMap(value, error=_malformed, path="claims", names=names, optional=("group_ca",))
        return cls(
            peer_id=claims.take("peer_id", _ID),
            network_id=claims.take("network_id", _ID),
            group_id=claims.take("group_id", optional(_ID)),
            cluster=claims.take("cluster", optional(_cluster)),
            started_at=claims.take("started_at", _time),
            quoted_at=claims.take("quoted_at", _time),
            expires_at=claims.take("expires_at", optional(_time)),
            binding=claims.take("binding", optional(_ID)),
            group_ca=claims.take("group_ca", _ID) if "group_ca" in claims else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTicket:
    """A ticket, parsed but not judged.

    Attributes:
        quote: raw.
        endorsements: stapled collateral for the attester's own platform.
        event_log: as ``attestation.eventlog.verify`` reads it.
    """

    quote: bytes
    claims: TdxClaims
    endorsements: Endorsements | None = None
    event_log: bytes | None = None

    def encode(self) -> bytes:
        """Return the ticket's bytes.

        Raises:
            ValueError: some part is larger than every verifier's limit.
        """
        value: dict[str, Any] = {"quote": self.quote, "claims": self.claims.to_value()}
        if self.endorsements is not None:
            value["endorsements"] = self.endorsements.to_value()
        if self.event_log is not None:
            value["event_log"] = self.event_log
        encoded = encode(value)
        if (
            len(encoded) > TICKET_BYTES_MAX
            or len(self.quote) > QUOTE_BYTES_MAX
            or len(self.event_log or b"") > EVENT_LOG_BYTES_MAX
        ):
            raise ValueError(
                f"a ticket of {len(encoded)} bytes with a quote of {len(self.quote)} and an event log "
                f"of {len(self.event_log or b'')}: the limits are {TICKET_BYTES_MAX}, "
                f"{QUOTE_BYTES_MAX} and {EVENT_LOG_BYTES_MAX}"
            )
        return encoded


def parse_ticket_untrusted(data: bytes) -> TdxTicket:
    """Parse a ticket's bytes; nothing in it is verified.

    Raises:
        MalformedError: ``ticket-too-large``, ``ticket-malformed``, or a ``cbor-*`` reason.
    """
    if len(data) > TICKET_BYTES_MAX:
        raise MalformedError("ticket-too-large", f"a ticket of {len(data)} bytes, at most {TICKET_BYTES_MAX}")
    value = decode_untrusted(data, bytes_max=TICKET_BYTES_MAX, items_max=TICKET_ITEMS_MAX)
    members = StrictMap(
        value,
        error=_malformed,
        names=("quote", "claims", "endorsements", "event_log"),
        optional=("endorsements", "event_log"),
    )
    return TdxTicket(
        quote=members.take("quote", _QUOTE),
        claims=members.take("claims", TdxClaims.from_value_untrusted),
        endorsements=(
            members.take("endorsements", Endorsements.from_value_untrusted)
            if "endorsements" in members
            else None
        ),
        event_log=members.take("event_log", _EVENT_LOG) if "event_log" in members else None,
    )


def _claim_to_value(claim: object) -> object:
    if isinstance(claim, datetime):
        return int(claim.timestamp())
    if isinstance(claim, Cluster):
        return [claim.id, claim.generation]
    return claim


_ID: Final = bytes_of(ID_BYTES)
_QUOTE: Final = bytes_up_to(QUOTE_BYTES_MAX)
_EVENT_LOG: Final = bytes_up_to(EVENT_LOG_BYTES_MAX)
_CLUSTER_ID: Final = bytes_of(CLUSTER_ID_BYTES)
_GENERATION: Final = integer(0, GENERATION_MAX)
_SECONDS: Final = integer(0, _SECONDS_MAX, form="a time in Unix seconds")


def _cluster(value: Any) -> Cluster:
    match value:
        case [cluster_id, generation]:
            return Cluster(id=_CLUSTER_ID(cluster_id), generation=_GENERATION(generation))
        case _:
            raise FieldError("a cluster's id and its generation")


def _time(value: Any) -> datetime:
    return datetime.fromtimestamp(_SECONDS(value), UTC)


def _malformed(path: str, text: str) -> MalformedError:
    return MalformedError("ticket-malformed", f"the ticket's {path or 'outer value'} {text}")


# ---- judging ----------------------------------------------------------------------------------------


def ignore_set(_seen: CollateralSet) -> None:
    """Do nothing: for a verifier that counts no grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """The verdict that another set of collateral would give.

    Attributes:
        fmspc: the platform model, 6 bytes.
        number: the set's evaluation data number.
        reason: why it would be refused; None if it would be accepted.
        status: the TCB status by that set.
        short: the components that are below the next better level, for people.
    """

    fmspc: bytes
    number: int
    reason: str | None
    status: str
    short: tuple[str, ...]


def _short(tcb: TcbEvaluation) -> tuple[str, ...]:
    return tuple(
        f"{item.component} is {item.actual}, needs {item.needed}" + (f" ({item.label})" if item.label else "")
        for part in tcb.launch.parts
        if part.status in OUT_OF_DATE_STATUSES and part.better is not None
        for item in part.better.shortfalls
    )


class TdxValidator:
    """Admits a peer whose quote is genuine, acceptable, and made for this peer, group and connection.

    Args:
        policy: what is acceptable.
        root: the pinned root; a mock root makes every result of this validator mock.
        endorsements_source: our own endorsements; None if stapled ones must do.
        freshness: the floors seen before; an older set is refused.
        update: the mode in which the source requests endorsements; it decides whose floors count.
        members: the members that may stand when the TCB alone has fallen back.
        enforcement: since when sets are enforced, for the policy's grace period.
        saw: called with each set of our own by which genuine evidence was judged, before it is appraised.
            From any thread.
        witnesses: called with evidence that was accepted in full, when it is remembered. From any thread.
        own_config_id: SHA-384 of the group document that this process has loaded, for
            ``mrconfigid = "own"``; None if it has none.
    """

    def __init__(
        self,
        *,
        policy: AppraisalPolicy,
        root: TrustRoot,
        endorsements_source: EndorsementsSource | None,
        freshness: FreshnessState | None = None,
        update: str = "standard",
        members: Members | None = None,
        enforcement: Enforcement = UNKNOWN_ENFORCEMENT,
        saw: Callable[[CollateralSet], None] = ignore_set,
        witnesses: Sequence[Callable[[AcceptedEvidence], None]] = (),
        own_config_id: bytes | None = None,
    ) -> None:
        self._members = members or NoMembers()
        self._enforcement = enforcement
        self._saw = saw
        self._witnesses = tuple(witnesses)
        self._policy = policy
        self._own_config_id = own_config_id
        self._root = root
        self._store = EndorsementsStore(
            root=root,
            source=endorsements_source,
            freshness=freshness or FreshnessState(),
            update=update,
        )
        self._signature = digest("bondstone/ticket-validator/v1", TICKET_CLASS, policy.signature_with(root))

    @property
    def ticket_class(self) -> str:
        return TICKET_CLASS

    @property
    def signature(self) -> bytes:
        return self._signature

    @property
    def mock(self) -> bool:
        return self._root.mock

    @property
    def freshness(self) -> FreshnessState:
        """Everything seen so far; keep it across restarts with ``to_bytes``."""
        return self._store.freshness

    def validate(self, ticket: bytes, peer: ExpectedClaims, now: datetime) -> Expiration:
        """Return until when the ticket holds.

        The order is: the ticket's form; the quote to the pinned root, under the newest endorsements; the
        policy; REPORTDATA, which makes the claims the quote's own; the claims; times.

        Raises:
            TicketRejectedError: with the reason of its cause.
        """
        try:
            return self._validate(ticket, peer, self._store.not_before_seen(whole_seconds(now)))
        except AttestationError as exc:
            raise TicketRejectedError.of(exc) from exc

    def foresee(self, ticket: bytes, endorsements: Endorsements, now: datetime) -> Foresight:
        """Return the verdict that another set, such as the early one, would give on this ticket's evidence.

        It has no effect: the set is not remembered, and no grace or standing is counted.

        Raises:
            AttestationError: the set itself is not good, or not of this platform.
        """
        now = self._store.not_before_seen(whole_seconds(now))
        parsed = parse_ticket_untrusted(ticket)
        verified_set = authenticate_endorsements(endorsements, root=self._root).require_current(now)
        number, fmspc = verified_set.tcb_evaluation_data_number, verified_set.tcb_info.fmspc
        try:
            verified = verify_parsed_quote(parse_quote_untrusted(parsed.quote), verified_set)
        except VerificationError as exc:
            status = "Revoked" if isinstance(exc, RevokedError) else "none"
            return Foresight(fmspc=fmspc, number=number, reason=exc.reason, status=status, short=())
        reason: str | None = None
        try:
            appraise(
                verified,
                self._policy,
                now=now,
                report_data=parsed.claims.report_data(),
                event_log=parsed.event_log,
                own_config_id=self._own_config_id,
            )
        except AppraisalError as exc:
            reason = exc.reason
        return Foresight(
            fmspc=fmspc,
            number=number,
            reason=reason,
            status=str(verified.tcb.status),
            short=_short(verified.tcb),
        )

    def _validate(self, data: bytes, peer: ExpectedClaims, now: datetime) -> Expiration:
        ticket = parse_ticket_untrusted(data)
        claims = ticket.claims
        quote = parse_quote_untrusted(ticket.quote)
        choice = self._store.choose(quote, ticket.endorsements, now)
        verified = verify_parsed_quote(quote, choice.endorsements)
        if choice.enforced:
            self._saw(set_of(choice.endorsements))
        outcome = appraise_member(
            verified,
            self._policy,
            report_data=claims.report_data(),
            event_log=ticket.event_log,
            own_config_id=self._own_config_id,
            enforcement=self._enforcement,
        )
        require_claims(claims, peer)
        at = ticket_expiry(claims, self._policy.ticket, now)
        if isinstance(outcome, FallenBack):
            expiration = self._standing(outcome, peer, at, _appraisal(outcome.result, claims, peer, choice))
            return replace(expiration, presented=presented_value(claims, verified.body))
        accepted = AcceptedEvidence(result=outcome, peer=peer, quoted_at=claims.quoted_at)
        return Expiration(
            at=min(at, outcome.valid_until),
            appraisal=_appraisal(outcome, claims, peer, choice),
            presented=presented_value(claims, verified.body),
            remember=partial(self._remember, accepted),
        )

    def _standing(
        self, fallen: FallenBack, peer: ExpectedClaims, at: datetime, appraisal: dict[str, Any]
    ) -> Expiration:
        """Let a member stand. Nothing is remembered: it is not accepted.

        Raises:
            AppraisalError: the peer is not a member, or has stood for too long.
        """
        number = fallen.result.verified.tcb.tcb_evaluation_data_number
        until = self._members.standing_until(peer.peer_id, number)
        if until is None:
            raise fallen.refusal
        finding = finding_value(fallen.refusal)
        appraisal |= {
            "accepted": False,
            **finding,
            "findings": fallen.refusal.values["findings"],
            "verdict": "standing",
            "standing_until": timestamp(until),
        }
        return Expiration(at=min(at, fallen.result.valid_until, until), appraisal=appraisal)

    def _remember(self, accepted: AcceptedEvidence) -> None:
        for witness in (self._store.witness, *self._witnesses):
            witness(accepted)


def _appraisal(
    result: AttestationResult, claims: TdxClaims, peer: ExpectedClaims, choice: Choice
) -> dict[str, Any]:
    appraisal = result.to_json_value()
    if peer.binding is None:
        appraisal["not_checked"] = [*appraisal["not_checked"], "binding"]
    appraisal["endorsements"] = choice.origin
    appraisal["ticket"] = claims_value(claims)
    appraisal["verdict"], appraisal["standing_until"] = "accepted", None
    return appraisal


def require_claims(claims: TdxClaims, peer: ExpectedClaims) -> None:
    """Require that claims, which a quote has confirmed, are about this peer, network, group and connection.

    Raises:
        AppraisalError: ``ticket-peer-mismatch``, ``ticket-network-mismatch``, ``ticket-group-mismatch``,
            ``rival-cluster``, ``ticket-unbound`` or ``ticket-binding-mismatch``.
    """
    checks = (
        ("peer", claims.peer_id, peer.peer_id),
        ("network", claims.network_id, peer.network_id),
        ("group", claims.group_id, peer.group_id),
    )
    for what, actual, expected in checks:
        if actual != expected:
            raise AppraisalError(
                f"ticket-{what}-mismatch",
                f"the ticket was made for another {what}",
                values={"expected": _hex(expected), "actual": _hex(actual)},
            )
    _require_no_rival(claims.cluster, peer.cluster)
    if peer.binding is None:
        return
    if claims.binding is None:
        raise AppraisalError(
            "ticket-unbound", "the ticket is not bound to a connection, which admission requires"
        )
    if not hmac.compare_digest(claims.binding, peer.binding):
        raise AppraisalError(
            "ticket-binding-mismatch", "the ticket was made for another connection or another nonce"
        )


def _require_no_rival(actual: Cluster | None, expected: Cluster | AnyCluster) -> None:
    if isinstance(expected, AnyCluster) or actual is None or actual == expected:
        return
    raise AppraisalError(
        "rival-cluster",
        "the ticket was made in another cluster of this group",
        values={"expected": cluster_value(expected), "actual": cluster_value(actual)},
    )


def ticket_expiry(claims: TdxClaims, rules: TicketRules, now: datetime) -> datetime:
    """Return the last second at which the times in these claims let the ticket hold.

    Raises:
        AppraisalError: ``ticket-from-the-future``, ``ticket-times-disordered``, ``ticket-not-before``,
            ``ticket-too-old`` or ``ticket-expired``.
    """
    values = {"now": timestamp(now), **claims_value(claims)}
    if claims.quoted_at > now + CLOCK_AHEAD_MAX:
        raise AppraisalError(
            "ticket-from-the-future",
            f"the ticket was quoted at {timestamp(claims.quoted_at)}, now is {timestamp(now)}",
            values=values,
        )
    if claims.started_at > claims.quoted_at:
        raise AppraisalError(
            "ticket-times-disordered",
            "the ticket's node started after its quote was made",
            values=values,
        )
    if rules.not_before is not None and claims.quoted_at < rules.not_before:
        raise AppraisalError(
            "ticket-not-before",
            f"the ticket was quoted before {timestamp(rules.not_before)}, which the policy refuses",
            values=values,
        )
    # Counted from our own clock if the attester's is ahead, so that its clock does not extend the ticket.
    quoted_at = min(claims.quoted_at, now)
    if now > quoted_at + rules.max_age:
        raise AppraisalError(
            "ticket-too-old",
            f"the ticket was quoted at {timestamp(claims.quoted_at)}, longer ago than the policy allows",
            values=values,
        )
    ends = [quoted_at + rules.max_age, quoted_at + rules.max_lifetime]
    if claims.expires_at is not None:
        ends.append(claims.expires_at)
    at = min(ends)
    if now > at:
        raise AppraisalError("ticket-expired", f"the ticket expired at {timestamp(at)}", values=values)
    return at


def claims_value(claims: TdxClaims) -> dict[str, Any]:
    """Return the claims for JSON: hex, and times as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return {
        "peer_id": claims.peer_id.hex(),
        "network_id": claims.network_id.hex(),
        "group_id": _hex(claims.group_id),
        "cluster": cluster_value(claims.cluster),
        "started_at": timestamp(claims.started_at),
        "quoted_at": timestamp(claims.quoted_at),
        "expires_at": None if claims.expires_at is None else timestamp(claims.expires_at),
        "binding": _hex(claims.binding),
        "group_ca": _hex(claims.group_ca),
    }


def presented_value(claims: TdxClaims, body: TDReport) -> dict[str, Any]:
    """Return what a ticket claims, for a record of who presented it. No verdict on it is needed."""
    return {
        "measurements": {
            "mrtd": body.mrtd.hex(),
            **{f"rtmr{i}": rtmr.hex() for i, rtmr in enumerate(body.rtmrs)},
        },
        "td_attributes": u64_hex(body.td_attributes),
        "claims": {
            "peer_id": claims.peer_id.hex(),
            "network_id": claims.network_id.hex(),
            "group_id": _hex(claims.group_id),
            "cluster": cluster_value(claims.cluster),
            "quoted_at": claims.quoted_at,
            "expires_at": claims.expires_at,
        },
    }


def cluster_value(cluster: Cluster | None) -> dict[str, Any] | None:
    """Return a cluster for JSON."""
    return None if cluster is None else {"id": cluster.id.hex(), "generation": cluster.generation}


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
