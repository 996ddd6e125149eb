"""Which endorsements a ticket is judged by: our own, or better ones of the same number, and never older ones.

There are up to three sets for a quote: our own source's, the one stapled to the ticket, and the newest one of
the same number that any accepted ticket for the same platform came with. All are signed, so it does not
matter which party delivered them. But several of Intel's sets are valid at a time (``standard``, ``early``),
and this verifier itself chooses which *number* counts. So:

    we have a good set    that one, or one of the same number that is newer in some part and older in none
    we have none          the stapled one, if it is not behind what our own client fetched before, or a
                          remembered one of the same number, as above

So a peer that staples an old set, or one of another number, has no effect on verdicts about other peers.
A host that serves us an old set of the number has no effect as long as one honest peer has a newer one.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol, TypeVar

from attestation.collateral.endorsements import (
    AuthenticEndorsements,
    Endorsements,
    VerifiedEndorsements,
    authenticate_endorsements,
)
from attestation.collateral.enforcement import CollateralSet
from attestation.collateral.freshness import ClockFloor, FreshnessState, Observation, effective_now
from attestation.errors import AttestationError, EndorsementsUnavailableError
from attestation.policy.result import AttestationResult
from attestation.quote.codec import Quote
from attestation.tickets.protocol import ExpectedClaims
from attestation.verifier import claimed_fmspc_untrusted
from attestation.x509.trust import TrustRoot

AUTHENTIC_MAX: Final = 32
"""Sets kept with their signatures checked; one per platform model and issue, some 100 kB each."""

_Key = tuple[object, ...]
_AnyKey = TypeVar("_AnyKey")


class EndorsementsSource(Protocol):
    """Where endorsements for a quote's platform come from: a file, a cache kept fresh, a mock authority."""

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:
        """Return the set in memory, otherwise None. The quote is not verified: use it as a key only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEndorsements:
    """A source that has one set for all quotes."""

    endorsements: Endorsements

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:  # noqa: ARG002
        return self.endorsements


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The endorsements to judge by.

    Attributes:
        origin: where they come from: ``stapled``, ``own`` or ``remembered``.
        seen: what must not go back of them.
        enforced: our own source has a good set of this number, so this number is the one that we enforce.
    """

    endorsements: VerifiedEndorsements
    origin: str
    seen: Observation
    enforced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedEvidence:
    """Evidence that was accepted in full: genuine, acceptable to the policy, and made for ``peer``.

    Only ``tickets.tdx.TdxValidator`` makes it, after every check has passed. A verifier remembers nothing
    else: genuine evidence that was refused (another image, a debug TD, a replayed quote from a public
    download) must have no effect.

    Attributes:
        quoted_at: when the attester had the quote made, by its own clock.
    """

    result: AttestationResult
    peer: ExpectedClaims
    quoted_at: datetime

    @property
    def number(self) -> int:
        """The evaluation data number under which it was accepted."""
        return self.result.verified.tcb.tcb_evaluation_data_number

    @property
    def fmspc(self) -> bytes:
        """The platform's FMSPC, 6 bytes."""
        return self.result.verified.pck.extension.fmspc

    @property
    def pck_ca(self) -> str:
        """Which of Intel's CAs certified the platform: ``processor`` or ``platform``."""
        return self.result.verified.pck.ca

    @property
    def platform_id(self) -> bytes:
        """The id that Intel certifies for one physical platform. It does not depend on its TDs' claims."""
        extension = self.result.verified.pck.extension
        return extension.ppid + (extension.platform_instance_id or b"")


def set_of(verified: VerifiedEndorsements) -> CollateralSet:
    """Return which of Intel's sets this is."""
    dates = [level.tcb_date for level in verified.tcb_info.tcb_levels]
    dates += [level.tcb_date for module in verified.tcb_info.tdx_module_identities for level in module.levels]
    dates += [level.tcb_date for level in verified.qe_identity.tcb_levels]
    return CollateralSet(
        fmspc=verified.tcb_info.fmspc,
        number=verified.tcb_evaluation_data_number,
        newest_level=max(dates),
    )


class EndorsementsStore:
    """Chooses endorsements, and remembers the floors below which a set is refused. Safe to use from threads.

    It keeps the result of signature checks, by the digest of the signed bytes. Windows are checked each time,
    and verdicts are never kept.

    Args:
        root: the pinned root.
        source: our own endorsements; None if we have none and rely on stapled ones.
        freshness: the floors seen before, for instance by the incarnation before this one.
        update: the mode of the source's requests, such as ``standard``.
    """

    def __init__(
        self,
        *,
        root: TrustRoot,
        source: EndorsementsSource | None,
        freshness: FreshnessState,
        update: str,
    ) -> None:
        self._update = update
        self._root = root
        self._source = source
        self._freshness = freshness
        self._authentic: OrderedDict[bytes, AuthenticEndorsements] = OrderedDict()
        self._newest: OrderedDict[_Key, AuthenticEndorsements] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def freshness(self) -> FreshnessState:
        """Everything seen so far; keep it across restarts with ``to_bytes``."""
        return self._freshness

    def not_before_seen(self, now: datetime) -> datetime:
        """Return ``now``, or the newest issue date seen if the clock was set back behind it."""
        newest = self._freshness.newest_issue
        if newest is None:
            return now
        return effective_now(now, ClockFloor(at=newest, source="newest-issue-date"))

    def choose(self, quote: Quote, stapled: Endorsements | None, now: datetime) -> Choice:
        """Return the endorsements to judge by: authentic, current and not rolled back.

        Raises:
            EndorsementsUnavailableError: no set is there.
            AttestationError: no set that is there is good; the reason is the first set's own.
        """
        refusals: list[AttestationError] = []
        own = self._own(quote, now, refusals)
        theirs = self._stapled(stapled, now, refusals)
        best = own or theirs
        if best is None:
            if refusals:
                raise refusals[0]
            raise EndorsementsUnavailableError(
                "endorsements-missing",
                "there is no collateral to judge the quote by: the ticket has none stapled to it, and this "
                "node's own source has none",
            )
        remembered = self._newest.get(_key(best.seen))
        for other in (theirs, None if remembered is None else self._remembered(remembered, now)):
            if other is not None and other.seen.supersedes(best.seen):
                best = other
        return replace(best, enforced=own is not None)

    def witness(self, accepted: AcceptedEvidence) -> None:
        """Remember the endorsements under which this evidence was accepted.

        They are used to judge other evidence within their number. Only their dates are kept permanently.
        """
        verified = accepted.result.verified.endorsements
        seen = Observation.of(verified, self._update)
        with self._lock:
            self._freshness = self._freshness.passed(seen.newest_issue)
            before = self._newest.get(_key(seen))
            if before is None or seen.supersedes(Observation.of_authentic(before, self._update)):
                _put(self._newest, _key(seen), verified.authentic)

    def _own(self, quote: Quote, now: datetime, refusals: list[AttestationError]) -> Choice | None:
        raw = None if self._source is None else self._source.endorsements_for(quote, now)
        if raw is None:
            return None
        try:
            verified = self._authenticate(raw).require_current(now)
            fmspc = claimed_fmspc_untrusted(quote)
            if fmspc is not None and fmspc != verified.tcb_info.fmspc:
                return None  # a fixed set, of another platform
            choice = self._choice(verified, "own")
            with self._lock:
                # Our own set raises this floor, whether or not the quote is accepted.
                self._freshness = self._freshness.fetched(choice.seen)
        except AttestationError as exc:
            refusals.append(exc)
            return None
        return choice

    def _stapled(
        self, raw: Endorsements | None, now: datetime, refusals: list[AttestationError]
    ) -> Choice | None:
        if raw is None:
            return None
        try:
            choice = self._choice(self._authenticate(raw).require_current(now), "stapled")
            self._freshness.require_not_older(choice.seen)
        except AttestationError as exc:
            refusals.append(exc)
            return None
        return choice

    def _remembered(self, authentic: AuthenticEndorsements, now: datetime) -> Choice | None:
        try:
            return self._choice(authentic.require_current(now), "remembered")
        except AttestationError:
            return None  # past its window

    def _choice(self, verified: VerifiedEndorsements, origin: str) -> Choice:
        return Choice(endorsements=verified, origin=origin, seen=Observation.of(verified, self._update))

    def _authenticate(self, endorsements: Endorsements) -> AuthenticEndorsements:
        digest = endorsements.digest
        with self._lock:
            known = self._authentic.get(digest)
            if known is not None:
                self._authentic.move_to_end(digest)
                return known
        # Outside the lock: it takes milliseconds, and doing it twice is harmless.
        authentic = authenticate_endorsements(endorsements, root=self._root)
        with self._lock:
            _put(self._authentic, digest, authentic)
        return authentic


def _key(seen: Observation) -> _Key:
    return (*seen.key, *seen.numbers)


def _put(
    entries: OrderedDict[_AnyKey, AuthenticEndorsements], key: _AnyKey, value: AuthenticEndorsements
) -> None:
    """Make this the most recently used entry, and drop the least recently used beyond the limit."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > AUTHENTIC_MAX:
        entries.popitem(last=False)
