"""How current the access list is here. The member's own strong reads decide, never the last message received.

An attacker that controls the network can deliver the leader's messages in order and as late as it likes, and
the member cannot see how old they are. A strong read that began at ``t`` proves that the state applied at its
end covers all that was committed at ``t``. So the list counts as current at ``t``, by a clock that goes on
while the host stops the member.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from attestation.tickets.protocol import Cluster
from node.api.freshness import boot_time_s
from node.api.problems import ProblemError

# Long enough for an election. A caller waits at most this long.
PROOF_S_MAX: Final = 3.0
ATTEMPTS_MAX: Final = 3
# Least time between the beginnings of two proofs. Each proof is a round to a quorum, and strangers with
# unknown credentials could otherwise cause one proof after the other.
PAUSE_S: Final = 0.01


class Proof(Protocol):
    """Makes the list current. The node's service implements it."""

    @property
    def cluster(self) -> Cluster | None:
        """The cluster whose list this is. Another cluster has another history."""
        ...

    def leaderless(self) -> bool:
        """Return whether this member knows no leader. Then no member can prove the list current."""
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
        lag_s: how long ago that may be, for operations that the log does not judge again.
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
        """Whether the list was ever current in this life of the node. If not, this node knows no callers."""
        return self._known_s() is not None

    async def within_lag(self) -> None:
        """Return if the list is current enough to answer by it.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        if not self.is_within_lag():
            await self.now()

    def is_within_lag(self) -> bool:
        """Return whether the list is current enough to answer by it, without making it so."""
        known_s = self._known_s()
        return known_s is not None and self._clock() - known_s <= self._lag_s

    def still_within_lag(self) -> None:
        """Return if the answer just made was made within the lag, however long it waited.

        Raises:
            ProblemError: 503 ``access-not-current``.
        """
        if not self.is_within_lag():
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
        # A proof that is under way may have begun too early, and the task that makes it may be cancelled.
        for _ in range(ATTEMPTS_MAX):
            if self._proof.leaderless():
                break  # at once: strangers must not hold requests open while there is no leader
            ended = await self._prove()
            known_s = self._known_s()
            if known_s is not None and known_s >= asked_s:
                return
            if ended is not None and ended >= asked_s:
                break
        raise _not_current()

    def _known_s(self) -> float | None:
        """Return when the list was certainly the group's; None after the node has left that cluster."""
        cluster = self._proof.cluster
        return self._proven_s if cluster is self._proven_in or cluster == self._proven_in else None

    async def _prove(self) -> float | None:
        """Prove the list current, or wait for the proof that is under way: concurrent callers share one.

        Returns when the proof began; None if it was given up.
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
        "this node's access list may be out of date: it has not covered what the group has committed",
    )
