"""The collateral client: it supplies a verifier with the endorsements of a platform.

    endorsements(platform)
      held, and not due          -> the held set
      held, due                  -> fetch; if that fails and the window is still open, the held set
      not held                   -> disk (verified again), then as above; otherwise fetch
    fetch, once per platform for any number of waiting callers
      every source in its order  -> four items, one set, verified as a whole; if not, refetched whole, once
      never older than seen      -> (collateral.freshness) an older set counts as a failure
      verified                   -> kept in memory and on disk; ``on_change`` receives it

A verdict is never cached; the caller appraises evidence with the set it gets, at its own ``now``.

Each platform has a rank, because a quote that nobody has verified names a platform too. The set of our own
platform is never dropped. The sets of platforms whose evidence was accepted come next. Only a few sets of
strangers' platforms are held; they are fetched at most two at a time, without retries, and not kept fresh.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, Never

from attestation.collateral.client.assembly import (
    Collateral,
    cache_key,
    encode_record,
    parse_record_untrusted,
    refresh_at,
    verify_set,
)
from attestation.collateral.client.disk import DiskCache
from attestation.collateral.client.fetcher import Fetcher
from attestation.collateral.client.requests import (
    Platform,
    Source,
    TcbUpdate,
    requests_for,
    requests_for_numbers,
)
from attestation.collateral.client.responses import assemble, assemble_numbers
from attestation.collateral.client.retry import ATTEMPTS_MAX
from attestation.collateral.endorsements import Endorsements, VerifiedEndorsements
from attestation.collateral.evaluation_numbers import VerifiedEvaluationNumbers, verify_evaluation_numbers
from attestation.collateral.freshness import FreshnessState, Observation
from attestation.errors import (
    AttestationError,
    EndorsementsUnavailableError,
    MalformedError,
    StaleEndorsementsError,
    VerificationError,
)
from attestation.x509.trust import TrustRoot

PLATFORMS_MAX: Final = 64
STRANGERS_MAX: Final = 16
# A quote that nobody has verified yet causes a fetch, so the number of such fetches at a time is bounded.
FETCHES_MAX: Final = 4
STRANGER_FETCHES_MAX: Final = 2
NEGATIVE_TTL: Final = timedelta(minutes=5)
RETRY_TTL: Final = timedelta(minutes=1)
IDLE_S_MAX: Final = 60.0
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_log = logging.getLogger(__name__)


class Rank(IntEnum):
    """Whose platform it is. Lower ranks wait for higher ones and are dropped first when space is short."""

    STRANGER = 0  # named by a quote that nobody has verified
    KNOWN = 1  # the program itself requested it, or evidence from it was accepted
    OWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """The last fetch of a platform failed; no other fetch is tried before this time."""

    error: AttestationError
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumbers:
    """Which evaluation data numbers are published.

    Attributes:
        source: base URL, for people.
    """

    verified: VerifiedEvaluationNumbers
    source: str


class CollateralClient:
    """Endorsements by platform, from the configured sources alone.

    Args:
        sources: in order of preference; no other address is ever contacted.
        root: the trust root that every set must verify under.
        update: which of Intel's TCB infos to request.
        fetcher: the HTTP driver.
        disk: where sets survive a restart; None keeps them in memory only.
        clock: aware UTC now, already held to the clock floor.
        sleep: waits that many seconds.
        jitter: a float in [0, 1).
        seen: the floors of an earlier run; a set below them is refused.
        on_change: called with each set that differs from the one held before, so that its receiver
            judges standing verdicts again.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        root: TrustRoot,
        update: TcbUpdate,
        fetcher: Fetcher,
        disk: DiskCache | None,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
        seen: FreshnessState,
        on_change: Callable[[Collateral], None],
    ) -> None:
        if not sources:
            raise ValueError("a collateral client needs at least one source")
        self._sources = tuple(sources)
        self._root = root
        self._update = update
        self._fetcher = fetcher
        self._disk = disk
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._seen = seen
        self._on_change = on_change
        self._held: OrderedDict[Platform, Collateral] = OrderedDict()
        self._failures: OrderedDict[Platform, _Failure] = OrderedDict()
        self._flights: dict[Platform, asyncio.Future[Collateral]] = {}
        self._ranks: OrderedDict[Platform, Rank] = OrderedDict()
        self._own_problem: AttestationError | None = None
        self._slots = asyncio.Semaphore(FETCHES_MAX)
        self._stranger_slots = asyncio.Semaphore(STRANGER_FETCHES_MAX)

    @property
    def seen(self) -> FreshnessState:
        """What was fetched so far; an older set is refused."""
        return self._seen

    def held(self, platform: Platform) -> Collateral | None:
        """Return the set in memory for this platform, current or not. From any thread; never blocks."""
        return self._held.get(platform)

    def rank_of(self, platform: Platform) -> Rank:
        return self._ranks.get(platform, Rank.STRANGER)

    def raise_rank(self, platform: Platform, rank: Rank) -> None:
        """Make this platform at least ``rank``; in the event loop only."""
        self._ranks[platform] = max(rank, self.rank_of(platform))
        self._ranks.move_to_end(platform)
        known = [each for each, held in self._ranks.items() if held is Rank.KNOWN]
        for forgotten in known[: max(len(known) - PLATFORMS_MAX, 0)]:
            del self._ranks[forgotten]

    async def endorsements(self, platform: Platform, *, least: Rank = Rank.KNOWN) -> Collateral:
        """Return current, verified endorsements of this platform.

        Args:
            platform: the platform.
            least: its rank from now on, unless that is higher already.

        Raises:
            EndorsementsUnavailableError: no source has them now, and none are held; worth a retry.
            MalformedError: the sources' answer is not collateral.
            VerificationError: the sources' set is not genuine, out of its window, or older than one seen.
        """
        if least is not Rank.STRANGER:
            self.raise_rank(platform, least)
        now = self._clock()
        held = await self._held_or_loaded(platform, now)
        if held is not None and now < self._due_at(platform):
            return held
        failure = self._failures.get(platform)
        if held is None and failure is not None and now < failure.until:
            raise failure.error
        try:
            return await self.refresh(platform)
        except AttestationError as exc:
            if held is None:
                raise
            _log.warning(
                "%s; going on with collateral of %s until %s",
                exc,
                held.fetched_at,
                held.verified.valid_until,
            )
            return held

    async def refresh(self, platform: Platform) -> Collateral:
        """Fetch this platform's set now. Callers at the same time share one fetch.

        Raises:
            AttestationError: as ``endorsements``; the held set stays held.
        """
        while (flight := self._flights.get(platform)) is not None:
            try:
                return await asyncio.shield(flight)
            except asyncio.CancelledError:
                # Either this caller was cancelled, or the fetching caller was: then another caller fetches.
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise
        flight = asyncio.get_running_loop().create_future()
        self._flights[platform] = flight
        try:
            async with self._slot(platform):
                collateral = await self._fetch_from_sources(platform)
        except AttestationError as exc:
            self._remember_failure(platform, exc)
            flight.set_exception(exc)
            flight.exception()  # marked as retrieved, so that asyncio does not warn if no caller waits
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(collateral)
            return collateral
        finally:
            del self._flights[platform]

    async def look_at(self, platform: Platform, update: TcbUpdate) -> Endorsements:
        """Fetch and verify the set of another update mode. It is neither kept nor remembered.

        Raises:
            AttestationError: as ``endorsements``.
        """
        errors: list[tuple[Source, AttestationError]] = []
        for source in self._sources:
            try:
                parts = await self._fetcher.fetch_all(requests_for(source, platform, update))
                endorsements = assemble(parts)
                now = self._clock()
                await asyncio.to_thread(verify_set, platform, endorsements, root=self._root, now=now)
            except AttestationError as exc:
                errors.append((source, exc))
                continue
            return endorsements
        raise _of_all_sources(errors)

    @property
    def own_problem(self) -> AttestationError | None:
        """Why the newest attempt to fetch our own platform's set failed; None if it did not."""
        return self._own_problem

    async def evaluation_numbers(self) -> PublishedNumbers:
        """Return the published evaluation data numbers, from the first source that has them. Not kept.

        Raises:
            EndorsementsUnavailableError: no source has the list now.
            MalformedError: the source's answer is not that list.
            VerificationError: it is not genuine, or outside its window.
        """
        errors: list[tuple[Source, AttestationError]] = []
        for source in self._sources:
            try:
                parts = await self._fetcher.fetch_all(requests_for_numbers(source))
                verified = verify_evaluation_numbers(
                    assemble_numbers(parts), root=self._root, now=self._clock()
                )
            except AttestationError as exc:
                _log.info("evaluation numbers from %s: %s", source.base_url, exc)
                errors.append((source, exc))
                continue
            return PublishedNumbers(verified=verified, source=source.base_url)
        raise _of_all_sources(errors)

    async def keep_fresh(self) -> Never:
        """Refresh every held set when it is due, for as long as the owner lets this run.

        Raises:
            Exception: an unforeseen error. All other sets that were due have been refreshed, and the owner
                starts this again.
        """
        while True:
            due = sorted(self._due(self._clock()), key=self.rank_of, reverse=True)
            failures = await asyncio.gather(*map(self._refresh_due, due), return_exceptions=True)
            for failure in failures:
                if isinstance(failure, BaseException):
                    raise failure
            await self._sleep(self._idle_s())

    def _due(self, now: datetime) -> list[Platform]:
        """Return the held platforms to fetch again; a stranger's set is dropped instead."""
        due = [platform for platform in self._held if now >= self._due_at(platform)]
        for platform in due:
            if self.rank_of(platform) is Rank.STRANGER:
                del self._held[platform]
        return [platform for platform in due if platform in self._held]

    async def _refresh_due(self, platform: Platform) -> None:
        try:
            await self.refresh(platform)
        except AttestationError as exc:
            _log.warning("refreshing the collateral of %s: %s", platform.fmspc.hex(), exc)
        except Exception:
            # After any error, the next attempt waits.
            self._fail(platform, _unforeseen(platform), RETRY_TTL)
            raise

    def _idle_s(self) -> float:
        now = self._clock()
        waits = [(self._due_at(platform) - now).total_seconds() for platform in self._held]
        return min(max(min(waits, default=IDLE_S_MAX), 1.0), IDLE_S_MAX)

    def _due_at(self, platform: Platform) -> datetime:
        """Return when to fetch this platform again; a time long past if it is not held (any more)."""
        failure, held = self._failures.get(platform), self._held.get(platform)
        due = _LONG_AGO if held is None else held.refresh_at
        return due if failure is None else max(due, failure.until)

    @asynccontextmanager
    async def _slot(self, platform: Platform) -> AsyncIterator[None]:
        """Wait for permission to fetch; strangers leave room for all others."""
        async with AsyncExitStack() as stack:
            if self.rank_of(platform) is Rank.STRANGER:
                await stack.enter_async_context(self._stranger_slots)
            await stack.enter_async_context(self._slots)
            yield

    async def _held_or_loaded(self, platform: Platform, now: datetime) -> Collateral | None:
        """Return the held set if its window is open at ``now``; an expired set is dropped."""
        held = self._held.get(platform)
        if held is None:
            held = await self._load(platform, now)
            if held is None:
                return None
            self._keep(held)
        try:
            held.verified.require_current(now)
        except VerificationError as exc:
            _log.info("held collateral of %s: %s", platform.fmspc.hex(), exc)
            self._held.pop(platform, None)
            return None
        if platform in self._held:  # otherwise there was no room for a stranger's set
            self._held.move_to_end(platform)
        return held

    async def _load(self, platform: Platform, now: datetime) -> Collateral | None:
        if self._disk is None:
            return None
        key = cache_key(self._root, platform, self._update)
        data = await asyncio.to_thread(self._disk.load_untrusted, key)
        if data is None:
            return None
        try:
            record = await asyncio.to_thread(parse_record_untrusted, data)
            verified = await asyncio.to_thread(
                verify_set, platform, record.endorsements, root=self._root, now=now
            )
            self._seen = self._seen.fetched(self._observation(verified))
        except StaleEndorsementsError as exc:
            # The set is genuine but of no use now. It is not deleted: it may be of use later.
            _log.warning("cached collateral of %s is not used: %s", platform.fmspc.hex(), exc)
            return None
        except AttestationError as exc:
            _log.info("cached collateral of %s is not used: %s", platform.fmspc.hex(), exc)
            await asyncio.to_thread(self._disk.discard, key)
            return None
        # The host can write any time into the record. The limit here makes sure that the set is refreshed.
        fetched_at = min(record.fetched_at, now)
        return Collateral(
            platform=platform,
            endorsements=record.endorsements,
            verified=verified,
            fetched_at=fetched_at,
            refresh_at=refresh_at(fetched_at, verified.valid_until, self._jitter()),
            source=record.source,
        )

    async def _fetch_from_sources(self, platform: Platform) -> Collateral:
        errors: list[tuple[Source, AttestationError]] = []
        for source in self._sources:
            try:
                collateral = await self._fetch_set(source, platform)
            except AttestationError as exc:
                _log.info("collateral from %s: %s", source.base_url, exc)
                errors.append((source, exc))
                continue
            await self._adopt(collateral)
            return collateral
        raise _of_all_sources(errors)

    async def _fetch_set(self, source: Source, platform: Platform) -> Collateral:
        try:
            return await self._fetch_set_once(source, platform)
        except (MalformedError, VerificationError) as exc:
            if self.rank_of(platform) is Rank.STRANGER:
                raise
            # Intel issues the items hours apart, so items fetched in between may not belong to one set.
            _log.info("collateral from %s: %s; fetching the whole set again", source.base_url, exc)
            return await self._fetch_set_once(source, platform)

    async def _fetch_set_once(self, source: Source, platform: Platform) -> Collateral:
        stranger = self.rank_of(platform) is Rank.STRANGER
        parts = await self._fetcher.fetch_all(
            requests_for(source, platform, self._update), attempts_max=1 if stranger else ATTEMPTS_MAX
        )
        endorsements = assemble(parts)
        now = self._clock()
        verified = await asyncio.to_thread(verify_set, platform, endorsements, root=self._root, now=now)
        self._seen.require_not_older(self._observation(verified))
        return Collateral(
            platform=platform,
            endorsements=endorsements,
            verified=verified,
            fetched_at=now,
            refresh_at=refresh_at(now, verified.valid_until, self._jitter()),
            source=source.base_url,
        )

    async def _adopt(self, collateral: Collateral) -> None:
        """Keep a set that passed every check, then call ``on_change``. The floor first, so it is not lost."""
        self._seen = self._seen.fetched(self._observation(collateral.verified))
        before = self._held.get(collateral.platform)
        self._keep(collateral)
        self._failures.pop(collateral.platform, None)
        if self.rank_of(collateral.platform) is Rank.OWN:
            self._own_problem = None
        if self._disk is not None:
            key = cache_key(self._root, collateral.platform, self._update)
            try:
                await asyncio.to_thread(self._disk.store, key, encode_record(collateral))
            except OSError as exc:
                _log.warning("the collateral cache cannot be written: %s", exc)
        if before is None or before.verified.digest != collateral.verified.digest:
            try:
                self._on_change(collateral)
            except Exception:  # noqa: BLE001 - any error is logged
                # The set is good and kept; an error of the receiver is no reason to fetch it again.
                fmspc = collateral.platform.fmspc.hex()
                _log.exception("whoever watches the collateral of %s failed", fmspc)

    def _observation(self, verified: VerifiedEndorsements) -> Observation:
        return Observation.of(verified, str(self._update))

    def _keep(self, collateral: Collateral) -> None:
        # A refreshed set keeps its place in the order of dropping: only a caller's request moves it.
        self._held[collateral.platform] = collateral
        while (victim := self._victim()) is not None:
            del self._held[victim]

    def _victim(self) -> Platform | None:
        """Return which set to drop: of the lowest rank, the longest not requested. None: there is room."""
        strangers = [each for each in self._held if self.rank_of(each) is Rank.STRANGER]
        if len(strangers) > STRANGERS_MAX:
            return strangers[0]
        if len(self._held) <= PLATFORMS_MAX:
            return None
        return next(each for rank in Rank for each in self._held if self.rank_of(each) is rank)

    def _remember_failure(self, platform: Platform, error: AttestationError) -> None:
        if self.rank_of(platform) is Rank.OWN:
            self._own_problem = error
        unknown = error.reason == "platform-unknown"
        if not unknown and platform not in self._held and self.rank_of(platform) is not Rank.STRANGER:
            return  # a caller that needs it may try again at once
        self._fail(platform, error, NEGATIVE_TTL if unknown else RETRY_TTL)

    def _fail(self, platform: Platform, error: AttestationError, ttl: timedelta) -> None:
        self._failures[platform] = _Failure(error=error, until=self._clock() + ttl)
        self._failures.move_to_end(platform)
        while len(self._failures) > PLATFORMS_MAX:
            self._failures.popitem(last=False)


def _unforeseen(platform: Platform) -> AttestationError:
    return EndorsementsUnavailableError(
        "collateral-fetch-failed", f"fetching the collateral of {platform.fmspc.hex()} failed; see the log"
    )


def _of_all_sources(errors: Sequence[tuple[Source, AttestationError]]) -> AttestationError:
    """Return the one error to raise when every source has failed."""
    last = errors[-1][1]
    if len(errors) == 1:
        return last
    reasons = {source.base_url: error.reason for source, error in errors}
    # One source that reports that the set does not exist outweighs others that do not answer.
    known = next((error for _, error in errors if error.reason == "platform-unknown"), None)
    if known is not None:
        error = EndorsementsUnavailableError(known.reason, known.message, values=reasons)
    else:
        error = EndorsementsUnavailableError(
            "collateral-sources-failed", "no source has usable collateral", values=reasons
        )
    error.__cause__ = known or last
    return error
