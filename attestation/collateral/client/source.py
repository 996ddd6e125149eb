"""Gives validators the client's sets: a held set is returned at once, any other one is fetched meanwhile.

Tickets are judged in threads and must not wait for a network, so ``endorsements_for`` never does. ``run``
fetches the set of a platform that was not requested before. Until then the platform's peer is refused because
collateral is missing, which is worth a retry, and its next attempt finds the set.

A wish comes from a quote that nobody has verified, so the number of wishes for strangers' platforms is
bounded, and the oldest is dropped when there is no room. Our own platform, and the platforms whose evidence
was accepted, do not wait.
"""

import asyncio
import logging
from datetime import datetime
from typing import Final, Never, Protocol

from attestation.collateral.client.collateral_client import CollateralClient, Rank
from attestation.collateral.client.platform import platform_of_quote_untrusted
from attestation.collateral.client.requests import PckCaKind, Platform, UpdateMode
from attestation.collateral.endorsements import Endorsements
from attestation.errors import AttestationError, MalformedError
from attestation.quote.codec import Quote

WISHES_MAX: Final = 32

_log = logging.getLogger(__name__)


class AcceptedPlatform(Protocol):
    """Evidence that was accepted in full: ``attestation.tickets.store.AcceptedEvidence``."""

    @property
    def fmspc(self) -> bytes: ...
    @property
    def pck_ca(self) -> str: ...


class ClientSource:
    """An ``attestation.tickets.store.EndorsementsSource`` over a collateral client.

    Made in the event loop that runs ``run`` and the client's ``keep_fresh``; ``endorsements_for`` and
    ``witness`` may be called from any thread.
    """

    def __init__(self, client: CollateralClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._wishes: dict[Platform, asyncio.Task[None] | None] = {}
        self._wished = asyncio.Event()

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:
        """Return the held set of the quote's platform; otherwise None, and have it fetched. Never blocks.

        The caller's verification decides whether the set is current at ``now``.
        """
        del now
        try:
            platform = platform_of_quote_untrusted(quote)
        except MalformedError:
            return None  # the verifier refuses the quote itself
        held = self._client.held(platform)
        if held is not None:
            return held.endorsements
        self._loop.call_soon_threadsafe(self.wish, platform)
        return None

    def witness(self, accepted: AcceptedPlatform) -> None:
        """Raise the rank of this evidence's platform above strangers."""
        platform = Platform(fmspc=accepted.fmspc, ca=PckCaKind(accepted.pck_ca))
        self._loop.call_soon_threadsafe(self._client.raise_rank, platform, Rank.KNOWN)

    async def early_for(self, quote: Quote) -> Endorsements:
        """Fetch, verify and return the early set of the quote's platform; the set has no other effect.

        Raises:
            AttestationError: the early set is missing, or not good.
        """
        return await self._client.look_at(platform_of_quote_untrusted(quote), UpdateMode.EARLY)

    @property
    def own_problem(self) -> AttestationError | None:
        """Why the newest attempt to fetch our own platform's set failed; None if it did not."""
        return self._client.own_problem

    def wish(self, platform: Platform) -> None:
        """Have this platform's set fetched soon. In the event loop only."""
        if platform in self._wishes:
            return
        strangers = [each for each in self._wishes if self._client.rank_of(each) is Rank.STRANGER]
        if self._client.rank_of(platform) is Rank.STRANGER and len(strangers) >= WISHES_MAX:
            self._drop(strangers[0])
        self._wishes[platform] = None
        self._wished.set()

    async def run(self) -> Never:
        """Fetch the wished sets, for as long as the owner lets this run."""
        async with asyncio.TaskGroup() as group:
            for platform in self._wishes:
                self._wishes[platform] = None  # the tasks that served them ended with an earlier run
            self._wished.set()
            while True:
                await self._wished.wait()
                self._wished.clear()
                for platform, serving in list(self._wishes.items()):
                    if serving is None:
                        self._wishes[platform] = group.create_task(self._serve(platform))

    async def _serve(self, platform: Platform) -> None:
        try:
            await self._client.endorsements(platform, least=self._client.rank_of(platform))
        except AttestationError as exc:
            _log.warning("collateral of %s: %s", platform.fmspc.hex(), exc)
        finally:
            self._wishes.pop(platform, None)

    def _drop(self, platform: Platform) -> None:
        serving = self._wishes.pop(platform)
        if serving is not None:
            serving.cancel()
