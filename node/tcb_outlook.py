"""What a TCB recovery does to this node and its group: now, and with the set that Intel promotes next.

Intel gives about a month or more: the ``early`` set is public long before it becomes ``standard``. Every six
hours the node fetches it and judges all bonded peers by it, without effect, so that an operator can update
firmware in a maintenance window. A node also judges its own evidence as its peers do, because it receives
their verdict in no other way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Never, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from attestation.collateral.client.platform import platform_of_quote_untrusted
from attestation.collateral.client.requests import Platform
from attestation.collateral.endorsements import Endorsements
from attestation.errors import AttestationError
from attestation.quote.codec import Quote, parse_quote_untrusted
from attestation.tickets.protocol import ExpectedClaims, TicketRejectedError
from attestation.tickets.tdx import TICKET_CLASS, Foresight, TdxValidator, parse_ticket_untrusted
from node.api.service import Notice
from node.peers import Incarnation

EARLY_EVERY: Final = timedelta(hours=6)
SELF_EVERY: Final = timedelta(hours=1)
LOOK_S: Final = 60.0
PLATFORMS_MAX: Final = 64

_log = logging.getLogger(__name__)


class JudgedBond(Protocol):
    """The part of a bond that is used here."""

    @property
    def peer(self) -> Incarnation: ...
    @property
    def tickets(self) -> Mapping[str, bytes]: ...
    @property
    def appraisals(self) -> Mapping[str, Mapping[str, Any]]: ...


class CollateralSource(Protocol):
    """Gives the early sets; ``attestation.collateral.client.source.ClientSource`` is one."""

    @property
    def own_problem(self) -> AttestationError | None: ...
    async def early_for(self, quote: Quote) -> Endorsements: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfVerdict:
    """How a member that has accepted this node would judge it now.

    Attributes:
        verdict: ``accepted``, ``standing`` or ``refused``.
        message: why the evidence is not accepted, for people.
        until: the end of this node's standing, as text.
    """

    verdict: str
    message: str = ""
    until: str | None = None


@dataclass(frozen=True, slots=True)
class _Early:
    endorsements: Endorsements
    fetched_at: datetime


class TcbOutlook:
    """Examines this node's and its peers' evidence, and reports the findings.

    Args:
        me: this incarnation.
        validator: the judge of the group's TDX tickets.
        source: this node's own collateral client; None if it has no client.
        early: whether to fetch early sets: not in a group that enforces them anyway.
        bonds: the living bonds.
        own_ticket: makes a ticket of this node that is bound to nothing, and returns its claims too.
        now: the node's clock.
    """

    def __init__(
        self,
        *,
        me: Incarnation,
        validator: TdxValidator,
        source: CollateralSource | None,
        early: bool,
        bonds: Callable[[], Sequence[JudgedBond]],
        own_ticket: Callable[[], Awaitable[tuple[bytes, ExpectedClaims]]],
        now: Callable[[], datetime],
    ) -> None:
        self._me = me
        self._validator = validator
        self._source = source
        self._looks_ahead = early
        self._bonds = bonds
        self._own_ticket = own_ticket
        self._now = now
        self._ticket: bytes | None = None
        self._judged_at: datetime | None = None
        self._verdict: SelfVerdict | None = None
        self._early: dict[Platform, _Early] = {}
        self._since: dict[tuple[bytes, int], datetime] = {}
        self._foresights: dict[Incarnation, tuple[Foresight, datetime]] = {}
        self._changed = asyncio.Event()

    # ---- examining ------------------------------------------------------------------
    async def run(self) -> Never:
        """Check every minute, and when the collateral has changed, for as long as the owner lets this run."""
        while True:
            await self.look()
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_S)
            except TimeoutError:
                continue

    def collateral_changed(self) -> None:
        """Have this node's own evidence judged again soon."""
        self._judged_at = None
        self._changed.set()

    async def look(self) -> None:
        """Do each check that is due."""
        self._changed.clear()
        now = self._now()
        if self._judged_at is None or now - self._judged_at >= SELF_EVERY:
            await self._judge_self(now)
        if self._source is not None and self._looks_ahead:
            await self._foresee(self._source, now)

    async def _judge_self(self, now: datetime) -> None:
        ticket, expected = await self._own_ticket()
        try:
            expiration = await asyncio.to_thread(self._validator.validate, ticket, expected, now)
        except TicketRejectedError as exc:
            verdict = SelfVerdict(verdict="refused", message=f"{exc.message} ({exc.reason})")
        else:
            expiration.remember()  # this node is a member too: it stands as long as the others do
            told = expiration.appraisal
            verdict = SelfVerdict(
                verdict=told["verdict"], message=told["message"] or "", until=told["standing_until"]
            )
        if verdict.verdict != "accepted" and (
            self._verdict is None or self._verdict.verdict != verdict.verdict
        ):
            _log.warning("this node's own evidence is %s: %s", verdict.verdict, verdict.message)
        self._ticket, self._verdict, self._judged_at = ticket, verdict, now

    async def _foresee(self, source: CollateralSource, now: datetime) -> None:
        tickets = {bond.peer: bond.tickets.get(TICKET_CLASS) for bond in self._bonds()}
        tickets[self._me] = self._ticket
        found: dict[Incarnation, tuple[Foresight, datetime]] = {}
        for member, ticket in tickets.items():
            if ticket is None:
                continue
            try:
                found[member] = await self._foresee_one(source, ticket, now)
            except AttestationError as exc:
                _log.info("the next verdict on %s is not known: %s", member.name, exc)
        self._foresights = found

    async def _foresee_one(
        self, source: CollateralSource, ticket: bytes, now: datetime
    ) -> tuple[Foresight, datetime]:
        quote = parse_quote_untrusted(parse_ticket_untrusted(ticket).quote)
        early = await self._early_for(source, quote, now)
        foresight = await asyncio.to_thread(self._validator.foresee, ticket, early, now)
        key = (foresight.fmspc, foresight.number)
        if key not in self._since and len(self._since) >= PLATFORMS_MAX:
            del self._since[next(iter(self._since))]
        return foresight, self._since.setdefault(key, now)

    async def _early_for(self, source: CollateralSource, quote: Quote, now: datetime) -> Endorsements:
        key = platform_of_quote_untrusted(quote)
        held = self._early.get(key)
        if held is None or now - held.fetched_at >= EARLY_EVERY:
            held = _Early(await source.early_for(quote), now)
            self._early.pop(key, None)
            while len(self._early) >= PLATFORMS_MAX:
                del self._early[next(iter(self._early))]
            self._early[key] = held
        return held.endorsements

    # ---- reporting ------------------------------------------------------------------
    @property
    def verdict(self) -> SelfVerdict | None:
        """The newest verdict on this node's own evidence; None before the first."""
        return self._verdict

    @property
    def foresights(self) -> Mapping[Incarnation, Foresight]:
        """How the early set would judge each member, for the members for which that is known."""
        return {member: foresight for member, (foresight, _) in self._foresights.items()}

    def early_since_s(self) -> float:
        """Return for how long this process has known a set by which a member would fall back; 0: none."""
        since = [at for foresight, at in self._foresights.values() if foresight.reason is not None]
        return max(((self._now() - at).total_seconds() for at in since), default=0.0)

    def notices(self) -> tuple[Notice, ...]:
        """Return what needs an operator's attention."""
        return (*self._about_us(), *self._about_standing(), *self._about_next())

    def _about_us(self) -> Iterator[Notice]:
        problem = None if self._source is None else self._source.own_problem
        if problem is not None:
            way_out = _WAYS_OUT.get(problem.reason, "the node tries again by itself")
            yield Notice(
                code="own-collateral",
                message=(
                    f"this platform's collateral is not renewed: {problem.message} ({problem.reason});"
                    f" {way_out}"
                ),
            )
        verdict = self._verdict
        if verdict is None or verdict.verdict == "accepted":
            return
        if verdict.verdict == "standing":
            yield Notice(
                code="self-standing",
                message=f"this node stands until {verdict.until}: {verdict.message}; {_NO_RESTART}",
            )
        else:
            yield Notice(
                code="self-refused",
                message=f"this node's own evidence is refused, so no peer admits it: {verdict.message}",
            )

    def standing(self) -> Mapping[Incarnation, Mapping[str, Any]]:
        """Return the bonded peers that stand, and what was established of each."""
        return {
            bond.peer: told
            for bond in self._bonds()
            for told in (bond.appraisals.get(TICKET_CLASS, {}),)
            if told.get("verdict") == "standing"
        }

    def _about_standing(self) -> Iterator[Notice]:
        for peer, told in sorted(self.standing().items()):
            yield Notice(
                code="member-standing",
                message=(
                    f"{peer.name} stands until {told['standing_until']}: {told['message']}; {_NO_RESTART}"
                ),
            )

    def _about_next(self) -> Iterator[Notice]:
        fallen = set(self.standing())
        if self._verdict is not None and self._verdict.verdict != "accepted":
            fallen.add(self._me)
        for member, (foresight, since) in sorted(self._foresights.items()):
            if foresight.reason is None or member in fallen:
                continue
            days = (self._now() - since).days
            short = f"; short: {', '.join(foresight.short)}" if foresight.short else ""
            yield Notice(
                code="tcb-next",
                message=(
                    f"{member.name}: {foresight.status} under evaluation data {foresight.number}"
                    f" ({foresight.reason}; early, known here for {days} days){short}"
                ),
            )


_NO_RESTART: Final = "update the firmware before you restart it: a member that restarts has no standing"
_WAYS_OUT: Final = {
    "endorsements-rolled-back": (
        "use a source that is current, as Intel's own is; or, if Intel has withdrawn the newer set, stop the"
        " node, delete freshness.cbor in its data directory, and start it"
    ),
}


class TcbOutlookCollector(Collector):
    """The same findings, as Prometheus metrics."""

    def __init__(self, outlook: TcbOutlook) -> None:
        self._outlook = outlook

    def collect(self) -> Iterator[GaugeMetricFamily]:
        verdict = self._outlook.verdict
        if verdict is not None:
            yield GaugeMetricFamily(
                "bondstone_tcb_self_accepted",
                "1 if this node's own evidence is accepted, 0 if it is refused or admitted by its standing.",
                value=float(verdict.verdict == "accepted"),
            )
        yield GaugeMetricFamily(
            "bondstone_tcb_standing_members",
            "Bonded peers admitted by their standing: their platforms fell back by their TCB.",
            value=float(len(self._outlook.standing())),
        )
        family = GaugeMetricFamily(
            "bondstone_tcb_next_verdict",
            "1 if the member would be accepted by the early set, 0 if it would fall back.",
            labels=("member",),
        )
        for member, foresight in sorted(self._outlook.foresights.items()):
            family.add_metric((f"{member.name}/{member.id.hex()[:8]}",), float(foresight.reason is None))
        yield family
        yield GaugeMetricFamily(
            "bondstone_tcb_early_since_seconds",
            "For how long this process has known of a set by which a member would fall back.",
            value=self._outlook.early_since_s(),
        )
