"""How a node becomes ready, reported to the program that started it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Never, Protocol

from attestation.tickets.protocol import Cluster
from node.api.service import Readiness
from node.process_events import BecameReady, FirstBond, NoLongerReady, ReadyAgain, Reporter

STARTING_S: Final = 0.02
READINESS_S: Final = 0.2

_log = logging.getLogger(__name__)


class Starting(Protocol):
    """The part of a node that is used here; ``node.service.NodeService`` has it."""

    @property
    def cluster(self) -> Cluster | None: ...
    def bonds(self) -> Sequence[object]: ...
    def readiness(self) -> Readiness: ...


async def report_progress(node: Starting, report: Reporter) -> Never:
    """Report the first bond and each time that the node becomes ready, or is ready no longer."""
    has_bonded = was_ready = False
    reported = ""
    while True:
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
