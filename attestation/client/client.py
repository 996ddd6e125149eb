"""The collateral client: what a verifier asks for the endorsements of a platform.

    endorsements(platform)
      held, and not due          -> that
      held, due                  -> fetch; if that fails and the window is still open, the held one
      not held                   -> disk (verified again), then as above; else fetch
    fetch, once per platform however many wait
      every source in its order  -> four items, one set, verified as a whole; if not, refetched whole, once
      never older than seen      -> (attestation.freshness) a set that goes back counts as a failure
      verified                   -> kept in memory and on disk; whoever watches is told

A verdict is never cached; the caller appraises evidence with what it gets, at its own ``now``.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Never

from attestation.client.collateral_set import (
    Collateral,
    cache_key,
    encode_record,
    parse_record_untrusted,
    refresh_at,
    verify_set,
)
from attestation.client.disk import DiskCache
from attestation.client.fetcher import Fetcher
from attestation.client.requests import (
    Platform,
    Source,
    TcbUpdate,
    requests_for,
    requests_for_numbers,
)
from attestation.client.responses import assemble, assemble_numbers
from attestation.collateral import VerifiedEndorsements
from attestation.errors import (
    AttestationError,
    EndorsementsUnavailableError,
    MalformedError,
    StaleEndorsementsError,
    VerificationError,
)
from attestation.evaluation_numbers import VerifiedEvaluationNumbers, verify_evaluation_numbers
from attestation.freshness import FreshnessState, Observation
from attestation.trust import TrustRoot

PLATFORMS_MAX: Final = 64
# Quotes that nobody has verified yet decide what is asked for, so they must not decide how much at once.
FETCHES_MAX: Final = 4
NEGATIVE_TTL: Final = timedelta(minutes=5)
RETRY_TTL: Final = timedelta(minutes=1)
IDLE_S_MAX: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """The last fetch of a platform failed; until then there is no point in another."""

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
        root: what every set must verify under.
        update: which of Intel's TCB infos to ask for.
        fetcher: the HTTP driver.
        disk: where sets survive a restart; None keeps them in memory only.
        clock: aware UTC now, already held to the clock floor.
        sleep: waits that many seconds.
        jitter: a float in [0, 1).
        seen: what must not be gone back behind, from an earlier life.
        on_change: called with each set that differs from the one held before, so that standing verdicts
            are looked at again.
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
        self._slots = asyncio.Semaphore(FETCHES_MAX)

    @property
    def seen(self) -> FreshnessState:
        """What was fetched so far, never to go back behind it."""
        return self._seen

    def held(self, platform: Platform) -> Collateral | None:
        """Return what is in memory for this platform, current or not. From any thread; never blocks."""
        return self._held.get(platform)

    async def endorsements(self, platform: Platform) -> Collateral:
        """Return current, verified endorsements of this platform.

        Raises:
            EndorsementsUnavailableError: no source has them now, and none are held; worth a retry.
            MalformedError: what the sources give is not collateral.
            VerificationError: what the sources give is not genuine, out of its window, or older than seen.
        """
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
        """Fetch this platform's set now, once however many ask at the same time.

        Raises:
            AttestationError: as ``endorsements``; what is held stays held.
        """
        while (flight := self._flights.get(platform)) is not None:
            try:
                return await asyncio.shield(flight)
            except asyncio.CancelledError:
                # Either we were cancelled, or the one who fetched was: then somebody else must.
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise
        flight = asyncio.get_running_loop().create_future()
        self._flights[platform] = flight
        try:
            async with self._slots:
                collateral = await self._fetch_from_sources(platform)
        except AttestationError as exc:
            self._remember_failure(platform, exc)
            flight.set_exception(exc)
            flight.exception()  # those who wait see it too; nobody waiting is no leak
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(collateral)
            return collateral
        finally:
            del self._flights[platform]

    async def evaluation_numbers(self) -> PublishedNumbers:
        """Return which evaluation data numbers are published, from the first source that can say. Not kept.

        Raises:
            EndorsementsUnavailableError: no source has the list now.
            MalformedError: what the source gives is not that list.
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
        """Refresh every held set when it is due, for as long as the owner lets this run."""
        while True:
            now = self._clock()
            for platform in list(self._held):
                if now < self._due_at(platform):
                    continue
                try:
                    await self.refresh(platform)
                except AttestationError as exc:
                    _log.warning("refreshing the collateral of %s: %s", platform.fmspc.hex(), exc)
            await self._sleep(self._idle_s())

    def _idle_s(self) -> float:
        now = self._clock()
        waits = [(self._due_at(platform) - now).total_seconds() for platform in self._held]
        return min(max(min(waits, default=IDLE_S_MAX), 1.0), IDLE_S_MAX)

    def _due_at(self, platform: Platform) -> datetime:
        failure = self._failures.get(platform)
        due = self._held[platform].refresh_at
        return due if failure is None else max(due, failure.until)

    async def _held_or_loaded(self, platform: Platform, now: datetime) -> Collateral | None:
        """Return what is held if its window is open at ``now``; what has expired is let go."""
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
            record = parse_record_untrusted(data)
            verified = verify_set(platform, record.endorsements, root=self._root, now=now)
            self._seen = self._seen.fetched(self._observation(verified))
        except StaleEndorsementsError as exc:
            # Genuine, and of no use now: that is no reason to delete it.
            _log.warning("cached collateral of %s is not used: %s", platform.fmspc.hex(), exc)
            return None
        except AttestationError as exc:
            _log.info("cached collateral of %s is not used: %s", platform.fmspc.hex(), exc)
            await asyncio.to_thread(self._disk.discard, key)
            return None
        # The host may write any time into the record, but not so that it is never refreshed.
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
            # The items are issued hours apart, so a set caught in between may not fit together.
            _log.info("collateral from %s: %s; fetching the whole set again", source.base_url, exc)
            return await self._fetch_set_once(source, platform)

    async def _fetch_set_once(self, source: Source, platform: Platform) -> Collateral:
        parts = await self._fetcher.fetch_all(requests_for(source, platform, self._update))
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
        """Keep a set that passed every check, then tell of it. The floor first: it must not be lost."""
        self._seen = self._seen.fetched(self._observation(collateral.verified))
        before = self._held.get(collateral.platform)
        self._keep(collateral)
        self._failures.pop(collateral.platform, None)
        if self._disk is not None:
            key = cache_key(self._root, collateral.platform, self._update)
            try:
                await asyncio.to_thread(self._disk.store, key, encode_record(collateral))
            except OSError as exc:
                _log.warning("the collateral cache cannot be written: %s", exc)
        if before is None or before.verified.digest != collateral.verified.digest:
            self._on_change(collateral)

    def _observation(self, verified: VerifiedEndorsements) -> Observation:
        return Observation.of(verified, str(self._update))

    def _keep(self, collateral: Collateral) -> None:
        # A set that is refreshed keeps its place: only being asked for moves it from the door.
        self._held[collateral.platform] = collateral
        while len(self._held) > PLATFORMS_MAX:
            self._held.popitem(last=False)

    def _remember_failure(self, platform: Platform, error: AttestationError) -> None:
        unknown = error.reason == "platform-unknown"
        if not unknown and platform not in self._held:
            return  # whoever needs it may try again at once
        ttl = NEGATIVE_TTL if unknown else RETRY_TTL
        self._failures[platform] = _Failure(error=error, until=self._clock() + ttl)
        self._failures.move_to_end(platform)
        while len(self._failures) > PLATFORMS_MAX:
            self._failures.popitem(last=False)


def _of_all_sources(errors: Sequence[tuple[Source, AttestationError]]) -> AttestationError:
    """Return the one error to raise when every source has failed."""
    last = errors[-1][1]
    if len(errors) == 1:
        return last
    reasons = {source.base_url: error.reason for source, error in errors}
    # One source that knows that there is nothing outweighs others that are silent.
    known = next((error for _, error in errors if error.reason == "platform-unknown"), None)
    if known is not None:
        error = EndorsementsUnavailableError(known.reason, known.message, values=reasons)
    else:
        error = EndorsementsUnavailableError(
            "collateral-sources-failed", "no source has usable collateral", values=reasons
        )
    error.__cause__ = known or last
    return error
