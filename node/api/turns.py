"""Turns at something that takes a while: a few at once, the others wait, and nobody waits for a crowd."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from node.places import Places, Share, Usage, share_of_address

# In a connection's extensions: the credential of the caller that it had last (``node.api.access``).
CALLER: Final = "bondstone.caller"


@dataclass(frozen=True, slots=True)
class Asking:
    """Whose turn it would be, and whether one of the known (``node.places``)."""

    share: Share
    known: bool

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "Asking":
        """Return who asks on this connection: the caller that it had last, or else its address."""
        caller = scope["extensions"].get(CALLER)
        if caller is not None:
            return cls(caller, known=True)
        client = scope["client"]
        return cls(share_of_address(client[0]) if client else "unknown", known=False)


class CrowdedOutError(Exception):
    """Others needed the place in the waiting room, or the wait was too long."""


class Turns:
    """At most ``at_once_max`` at a time. Of those who wait, the shares take turns (``node.places``).

    Args:
        name: of the waiting room, for metrics.
        at_once_max: how many may be at it.
        waiting_max: places to wait in.
        wait_s_max: for how long at most.
    """

    def __init__(self, name: str, at_once_max: int, *, waiting_max: int, wait_s_max: float) -> None:
        self._at_once_max = at_once_max
        self._wait_s_max = wait_s_max
        self._running = 0
        self._waiting: Places[asyncio.Future[None]] = Places(name, waiting_max)

    @property
    def usage(self) -> Usage:
        """Of the waiting room."""
        return self._waiting.usage

    @asynccontextmanager
    async def turn(self, share: Share, *, known: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the end of the ``with``.

        Raises:
            CrowdedOutError: there will be none.
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
            goes.set_exception(CrowdedOutError("others needed the place"))
        try:
            async with asyncio.timeout(self._wait_s_max):
                await mine
        except BaseException as exc:
            self._waiting.leave(mine)
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._pass_on()  # it came when nobody waited for it any more
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
