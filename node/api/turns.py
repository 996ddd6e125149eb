"""Turns at slow work: a few callers at once, the others wait, and one crowd does not hold up the others."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from node.places import Places, Share, Usage, share_of_address

# In a connection's extensions: the credential of its last caller (``node.api.access``).
CALLER: Final = "bondstone.caller"


@dataclass(frozen=True, slots=True)
class Asking:
    """The share that asks for a turn, and whether it is a known one (``node.places``)."""

    share: Share
    known: bool

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "Asking":
        """Return the share of this connection: that of its last caller, otherwise its address."""
        caller = scope["extensions"].get(CALLER)
        if caller is not None:
            return cls(caller, known=True)
        client = scope["client"]
        return cls(share_of_address(client[0]) if client else "unknown", known=False)


class CrowdedOutError(Exception):
    """Another caller needed the place in the waiting room, or the wait was too long."""


class Turns:
    """At most ``at_once_max`` callers at a time. The shares of those who wait take turns (``node.places``).

    Args:
        name: of the waiting room, for metrics.
        at_once_max: how many callers may work at the same time.
        waiting_max: how many callers may wait.
        wait_s_max: how long a caller may wait, in seconds.
    """

    def __init__(self, name: str, at_once_max: int, *, waiting_max: int, wait_s_max: float) -> None:
        self._at_once_max = at_once_max
        self._wait_s_max = wait_s_max
        self._running = 0
        self._waiting: Places[asyncio.Future[None]] = Places(name, waiting_max)

    @property
    def usage(self) -> Usage:
        """The usage of the waiting room."""
        return self._waiting.usage

    @asynccontextmanager
    async def turn(self, share: Share, *, known: bool) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the end of the ``with``.

        Raises:
            CrowdedOutError: this caller does not get a turn.
        """
        if self._running < self._at_once_max:
            self._running += 1
        else:
            await self._wait(share, known=known)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, share: Share, *, known: bool) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        goes = self._waiting.enter(mine, share, known=known)
        if goes is not None and not goes.done():
            goes.set_exception(CrowdedOutError("the place went to another caller"))
        try:
            async with asyncio.timeout(self._wait_s_max):
                await mine
        except BaseException as exc:
            self._waiting.leave(mine)
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._pass_on()  # the turn came after its caller had stopped waiting
            if isinstance(exc, TimeoutError):
                raise CrowdedOutError(f"no turn within {self._wait_s_max:g} s") from exc
            raise

    def _pass_on(self) -> None:
        following = self._waiting.take_next()
        while following is not None and following.done():  # cancelled a moment ago
            following = self._waiting.take_next()
        if following is None:
            self._running -= 1
        else:
            following.set_result(None)
