"""The client's sets for those who judge tickets: what is held, at once; what is not, asked for meanwhile.

Tickets are judged in threads and must not wait for a network, so ``endorsements_for`` never does. A
platform that nobody has asked for before is fetched by ``run``; its peer is told that collateral is missing,
which is worth a retry, and is served the next time.
"""

import asyncio
import logging
from datetime import datetime
from typing import Final, Never

from attestation.client.client import CollateralClient
from attestation.client.platform import platform_of_quote_untrusted
from attestation.client.requests import Platform
from attestation.collateral import Endorsements
from attestation.errors import AttestationError, MalformedError
from attestation.quote import Quote

# Wishes come from quotes that nobody has verified: beyond this many, new ones are dropped until some are met.
WISHES_MAX: Final = 32

_log = logging.getLogger(__name__)


class ClientSource:
    """An ``attestation.ticket_endorsements.EndorsementsSource`` over a collateral client.

    Made in the event loop that runs ``run``; ``endorsements_for`` may be called from any thread.
    """

    def __init__(self, client: CollateralClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._wishes: dict[Platform, None] = {}
        self._wished = asyncio.Event()

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:
        """Return what is held for the quote's platform, or None and have it fetched. Never blocks.

        Whether it is current at ``now`` is for the caller's verification to say.
        """
        del now
        try:
            platform = platform_of_quote_untrusted(quote)
        except MalformedError:
            return None  # the quote is judged, and refused, for its own sake
        held = self._client.held(platform)
        if held is not None:
            return held.endorsements
        self._loop.call_soon_threadsafe(self.wish, platform)
        return None

    def wish(self, platform: Platform) -> None:
        """Have this platform's set fetched soon. In the event loop only."""
        if len(self._wishes) < WISHES_MAX:
            self._wishes[platform] = None
            self._wished.set()

    async def run(self) -> Never:
        """Fetch what is wished for and keep fresh what is held, for as long as the owner lets this run."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._client.keep_fresh())
            while True:
                await self._wished.wait()
                self._wished.clear()
                for platform in list(self._wishes):
                    try:
                        await self._client.endorsements(platform)
                    except AttestationError as exc:
                        _log.warning("collateral of %s: %s", platform.fmspc.hex(), exc)
                    del self._wishes[platform]
