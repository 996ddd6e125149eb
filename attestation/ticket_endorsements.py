"""Which endorsements a ticket is judged by: the newest good ones, and never older ones than before.

There are up to three sets for a quote: the one stapled to the ticket, our own source's, and the newest one
that any accepted ticket for the same platform came with. All are signed, so who delivered them does not
matter; of those that are authentic, current and not rolled back, the newest counts. Thereby neither a peer
who staples an old set nor a host that serves one decides which it is.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, TypeVar

from attestation.collateral import (
    AuthenticEndorsements,
    Endorsements,
    VerifiedEndorsements,
    authenticate_endorsements,
)
from attestation.errors import AttestationError, EndorsementsUnavailableError, StaleEndorsementsError
from attestation.freshness import ClockFloor, FreshnessState, Observation, effective_now
from attestation.quote import Quote
from attestation.result import AttestationResult
from attestation.tickets import ExpectedClaims
from attestation.trust import TrustRoot

AUTHENTIC_MAX: Final = 32
"""Sets kept with their signatures checked; one per platform model and issue, some 100 kB each."""

_Key = tuple[bytes, bytes, bytes]
_AnyKey = TypeVar("_AnyKey")


class EndorsementsSource(Protocol):
    """Where endorsements for a quote's platform come from: a file, a cache kept fresh, a mock authority."""

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:
        """Return what is at hand, from memory, or None. The quote is not verified: use it as a key only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEndorsements:
    """A source that has one set, whatever the quote."""

    endorsements: Endorsements

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:  # noqa: ARG002
        return self.endorsements


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The endorsements to judge by, and whose they are: ``stapled``, ``own`` or ``remembered``."""

    endorsements: VerifiedEndorsements
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedEvidence:
    """Evidence that was accepted in full: genuine, acceptable to the policy, and made for ``peer``.

    Made by ``attestation.ticket_tdx.TdxValidator`` only, when nothing is left to refuse it for. It is the one
    thing that a verifier's memory takes: genuine evidence that was refused (another image, a debug TD, a
    replayed quote that anybody can download) must move nothing.

    Attributes:
        quoted_at: when the attester had the quote made, by its own clock.
    """

    result: AttestationResult
    peer: ExpectedClaims
    quoted_at: datetime

    @property
    def platform_id(self) -> bytes:
        """What Intel certifies as one physical platform, whichever TDs run on it and whatever they say."""
        extension = self.result.verified.pck.extension
        return extension.ppid + (extension.platform_instance_id or b"")


class EndorsementsStore:
    """Chooses endorsements, and remembers what it must not go back behind. Safe to use from threads.

    It keeps signatures that were checked, by the digest of what they are over; windows are checked each
    time, and verdicts are never kept.

    Args:
        root: the pinned root.
        source: our own endorsements; None if we have none and rely on stapled ones.
        freshness: what was seen before, for instance by the incarnation before this one.
    """

    def __init__(
        self, *, root: TrustRoot, source: EndorsementsSource | None, freshness: FreshnessState
    ) -> None:
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
        """Return the newest endorsements that are authentic, current and not rolled back.

        Raises:
            EndorsementsUnavailableError: there are none at all.
            AttestationError: there are, but none that is good; the first one's own reason.
        """
        own = None if self._source is None else self._source.endorsements_for(quote, now)
        good: list[Choice] = []
        refusals: list[AttestationError] = []
        for origin, raw in (("stapled", stapled), ("own", own)):
            if raw is None:
                continue
            try:
                authentic = self._authenticate(raw)
                remembered = self._newest.get(_key(authentic))
                if remembered is not None and remembered.digest != authentic.digest:
                    good += self._current(remembered, "remembered", now)
                verified = authentic.require_current(now)
                self._freshness.require_not_older(Observation.of(verified))
            except AttestationError as exc:
                refusals.append(exc)
            else:
                good.append(Choice(endorsements=verified, origin=origin))
        if good:
            return max(good, key=_newness)
        if refusals:
            raise refusals[0]
        raise EndorsementsUnavailableError(
            "endorsements-missing",
            "there is no collateral to judge the quote by: none is stapled, and our source has none",
        )

    def witness(self, accepted: AcceptedEvidence) -> None:
        """Remember the endorsements under which this evidence was accepted."""
        verified = accepted.result.verified.endorsements
        authentic = verified.authentic
        with self._lock:
            try:
                self._freshness = self._freshness.observe(Observation.of(verified))
            except StaleEndorsementsError:
                # Since they were chosen, another thread has remembered newer ones, which stay.
                return
            _put(self._newest, _key(authentic), authentic)

    def _authenticate(self, endorsements: Endorsements) -> AuthenticEndorsements:
        digest = endorsements.digest
        with self._lock:
            known = self._authentic.get(digest)
            if known is not None:
                self._authentic.move_to_end(digest)
                return known
        # Outside the lock: it takes milliseconds, and doing it twice harms nobody.
        authentic = authenticate_endorsements(endorsements, root=self._root)
        with self._lock:
            _put(self._authentic, digest, authentic)
        return authentic

    @staticmethod
    def _current(authentic: AuthenticEndorsements, origin: str, now: datetime) -> list[Choice]:
        try:
            return [Choice(endorsements=authentic.require_current(now), origin=origin)]
        except AttestationError:
            # Remembered, but past its window: it only keeps its place in the freshness state.
            return []


def _key(authentic: AuthenticEndorsements) -> _Key:
    return (
        authentic.root.spki_digest,
        authentic.tcb_info.fmspc,
        authentic.pck_crl.authority_key_identifier,
    )


def _newness(choice: Choice) -> tuple[int, datetime]:
    return choice.endorsements.tcb_evaluation_data_number, choice.endorsements.valid_from


def _put(
    entries: OrderedDict[_AnyKey, AuthenticEndorsements], key: _AnyKey, value: AuthenticEndorsements
) -> None:
    """Make this the most recently used entry, and drop the least recently used beyond the limit."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > AUTHENTIC_MAX:
        entries.popitem(last=False)
