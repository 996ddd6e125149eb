"""How current the access list is here: by the member's own strong reads, never by what was last heard.

Whoever has the network can hand a member the leader's words as late as he likes, one after the other, and the
member cannot see how old they are. A strong read that began at ``t`` proves that what is applied when it ends
covers all that was committed at ``t``. So ``t`` is what counts, by a clock that goes on while the host stops
the member.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from attestation.tickets.protocol import Cluster
from node.api.freshness import boot_time_s
from node.api.problems import ProblemError

# Long enough for an election; who asks waits so long at most.
PROOF_S_MAX: Final = 3.0
ATTEMPTS_MAX: Final = 3
# Between the beginnings of two proofs, each a round to a quorum: strangers with credentials that nobody knows
# could have one after the other.
PAUSE_S: Final = 0.01


class Proof(Protocol):
    """What makes the list current; the node's service does."""

    @property
    def cluster(self) -> Cluster | None:
        """The cluster whose list this is; another one is another group's history."""
        ...

    def leaderless(self) -> bool:
        """Return whether no leader is known here: then there is nobody to ask."""
        ...

    async def prove_access_current(self, *, timeout_s: float) -> bool:
        """Return whether all that was committed when this was called is applied here now.

        Raises:
            UnavailableError: there is no group.
        """
        ...


class Currency:
    """Knows at what time the list here was certainly the group's.

    Args:
        proof: makes it current.
        lag_s: how long ago that may be, for what is not judged again by the log.
        clock: seconds that go on while the machine sleeps.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        proof: Proof,
        lag_s: float,
        clock: Callable[[], float] = boot_time_s,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._proof = proof
        self._lag_s = lag_s
        self._clock = clock
        self._proven_s: float | None = None
        self._proven_in: Cluster | None = None
        self._proving: asyncio.Future[None] | None = None
        self._proving_ended: float | None = None
        self._began_s: float | None = None

    @property
    def ever(self) -> bool:
        """Whether it ever was, in this life of the node: otherwise nobody is known here."""
        return self._known_s() is not None

    async def within_lag(self) -> None:
        """Return if the list is current enough to answer by it.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        known_s = self._known_s()
        if known_s is None or self._clock() - known_s > self._lag_s:
            await self.now()

    def still_within_lag(self) -> None:
        """Return if what was answered just now was answered within the lag, however long it waited.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        known_s = self._known_s()
        if known_s is None or self._clock() - known_s > self._lag_s:
            raise _not_current()

    async def once(self) -> None:
        """Return if the list was current at any time of this life.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        if not self.ever:
            await self.now()

    async def now(self) -> None:
        """Return when the list covers all that was committed when this was called.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        asked_s = self._clock()
        # A proof that is under way may have begun too early, and whoever makes it may go away.
        for _ in range(ATTEMPTS_MAX):
            if self._proof.leaderless():
                break  # at once: strangers must not hold requests open while nobody can be asked
            ended = await self._prove()
            known_s = self._known_s()
            if known_s is not None and known_s >= asked_s:
                return
            if ended is not None and ended >= asked_s:
                break
        raise _not_current()

    def _known_s(self) -> float | None:
        """Return when the list was certainly the group's; a node that left its cluster knows nobody of it."""
        return self._proven_s if self._proof.cluster == self._proven_in else None

    async def _prove(self) -> float | None:
        """Prove it, or wait for the proof that is under way: all who ask at a time share one.

        Returns when it began; None if it was given up.
        """
        if self._proving is not None:
            await asyncio.wait((self._proving,))
            return self._proving_ended
        proving = self._proving = asyncio.get_running_loop().create_future()
        self._proving_ended = None
        try:
            await self._pause()
            began_s = self._began_s = self._clock()
            if await self._proof.prove_access_current(timeout_s=PROOF_S_MAX):
                self._proven_s, self._proven_in = began_s, self._proof.cluster
            self._proving_ended = began_s
        finally:
            self._proving = None
            proving.set_result(None)
        return began_s

    async def _pause(self) -> None:
        if self._began_s is None:
            return
        left_s = self._began_s + PAUSE_S - self._clock()
        if left_s > 0:
            await self._sleep(min(left_s, PAUSE_S))


def _not_current() -> ProblemError:
    return ProblemError(
        "access-not-current",
        "this node cannot tell who may call now: it has not covered what the group has committed",
    )
