"""How a node becomes ready, reported to the program that started it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Never, Protocol

from attestation.tickets.protocol import Cluster
from node.api.service import Readiness
from node.process_events import (
    BecameReady,
    FetchingState,
    FirstBond,
    NoLongerReady,
    ReadyAgain,
    Reporter,
)
from node.raft.types import InstallStatus

STARTING_S: Final = 0.02
READINESS_S: Final = 0.2
FETCHING_S: Final = 1.0  # between two reports of a fetch

_log = logging.getLogger(__name__)


class Starting(Protocol):
    """The part of a node that is used here; ``node.service.NodeService`` has it."""

    @property
    def cluster(self) -> Cluster | None: ...
    def bonds(self) -> Sequence[object]: ...
    def readiness(self) -> Readiness: ...
    def fetching(self) -> InstallStatus | None: ...


class FetchReports:
    """Reports how far the node is with taking the group's state from its peers.

    Args:
        now_s: a monotonic clock, in seconds.
    """

    def __init__(self, report: Reporter, now_s: Callable[[], float]) -> None:
        self._report = report
        self._now_s = now_s
        self._at_s = now_s()
        self._done = 0

    def look(self, fetching: InstallStatus | None) -> None:
        """Report a fetch that has come forward, once in ``FETCHING_S`` and when it is complete."""
        now_s = self._now_s()
        if fetching is None:
            self._at_s, self._done = now_s, 0
            return
        done = fetching.size * fetching.done // max(fetching.count, 1)
        passed_s = now_s - self._at_s
        if done == self._done or (passed_s < FETCHING_S and done < fetching.size):
            return
        # Another snapshot may be fetched now, of which less is here.
        rate = max(done - self._done, 0) / passed_s if passed_s > 0 else 0
        self._at_s, self._done = now_s, done
        self._report(FetchingState(done, fetching.size, fetching.sources, int(rate)))


async def report_progress(node: Starting, report: Reporter) -> Never:
    """Report the first bond and each time that the node becomes ready, or is ready no longer."""
    has_bonded = was_ready = False
    reported = ""
    fetch = FetchReports(report, asyncio.get_running_loop().time)
    while True:
        fetch.look(node.fetching())
        if not has_bonded and node.bonds():
            has_bonded = True
            report(FirstBond())
        now = node.readiness()
        if now.ready and not was_ready:
            was_ready = True
            report(BecameReady(None if node.cluster is None else str(node.cluster)))
        elif now.ready and reported:
            report(ReadyAgain())
            reported = ""
        elif not now.ready and now.reason != reported and (was_ready or now.reason == "halted"):
            reported = now.reason
            _log.warning("not ready (%s): %s", reported, now.message)
            report(NoLongerReady(reported, now.message))
        await asyncio.sleep(READINESS_S if was_ready else STARTING_S)
