"""Makes and judges tickets: in threads, because a quote takes up to seconds."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from attestation.errors import AttestationError
from attestation.tickets.protocol import AnyCluster, Cluster, ExpectedClaims, TicketIssuer, TicketValidator
from node.bonds.settings import Environment
from node.bonds.tickets.admission import Admission, judge
from node.bonds.tickets.turns import TurnThread
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.places import Share

logger = logging.getLogger(__name__)


RENEW_RETRY_S: Final = 1.0


class TicketParty(Protocol):
    """The part of a group that ticket work needs."""

    @property
    def group_id(self) -> bytes: ...
    @property
    def cluster(self) -> Cluster | None:
        """The cluster that this node's own tickets name; None while the node holds no entry of one."""
        ...

    @property
    def expected_cluster(self) -> Cluster | AnyCluster: ...
    @property
    def validators(self) -> Sequence[TicketValidator]: ...
    @property
    def issuers(self) -> Sequence[TicketIssuer]: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """Tickets that a peer has shown.

    Attributes:
        binding: what they must be bound to.
        fresh: shown for the first time, and made just now; otherwise they are judged again.
    """

    tickets: dict[str, bytes]
    binding: bytes
    fresh: bool


class TicketJobs:
    """The ticket work of one connection; all of it is dropped when the connection ends.

    Args:
        environment: clocks.
        network_id: 32 bytes.
        issuing, judging: the threads that make and judge tickets, in turns.
        share: returns the share of the connection, and whether it is one of the known (``node.places``).

    Attributes:
        peer_tickets: the newest that the peer has shown, whether judged or not.
        shown_cluster: the cluster that this node's newest own tickets name.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        network_id: bytes,
        issuing: TurnThread,
        judging: TurnThread,
        share: Callable[[], tuple[Share, bool]],
    ) -> None:
        self.peer_tickets: dict[str, bytes] = {}
        self.shown_cluster: Cluster | None = None
        self._environment = environment
        self._network_id = network_id
        self._issuing = issuing
        self._judging = judging
        self._share = share
        self._jobs: set[asyncio.Future[Any]] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._closed = False

    def issue(
        self,
        group: TicketParty,
        binding: bytes,
        done: Callable[["asyncio.Future[dict[str, bytes]]"], None],
    ) -> None:
        """Make one ticket with each of this node's issuers."""
        issuers, group_id, now = group.issuers, group.group_id, self._environment.now()
        self.shown_cluster = cluster = group.cluster

        def work() -> dict[str, bytes]:
            return {
                issuer.ticket_class: issuer.issue(
                    group_id=group_id, cluster=cluster, binding=binding, now=now
                )
                for issuer in issuers
            }

        self._run(self._issuing, work, done)

    def renew(self, group: TicketParty, binding: bytes, done: Callable[[dict[str, bytes]], None]) -> None:
        """Make new tickets of this node, with as many tries as it takes."""

        def issued(future: "asyncio.Future[dict[str, bytes]]") -> None:
            failure = future.exception()
            if failure is None:
                done(future.result())
                return
            logger.warning("cannot renew this node's own ticket, will try again: %s", failure)
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(RENEW_RETRY_S, self.renew, group, binding, done)

        self.issue(group, binding, issued)

    def judge(
        self,
        group: TicketParty,
        peer_id: bytes,
        shown: Shown,
        done: Callable[["asyncio.Future[Admission]"], None],
    ) -> None:
        """Ask every validator about the tickets that a peer has shown."""
        if shown.fresh:
            self.peer_tickets = shown.tickets
        validators, now = group.validators, self._environment.now()
        expected = ExpectedClaims(
            peer_id=peer_id,
            network_id=self._network_id,
            group_id=group.group_id,
            binding=shown.binding,
            fresh=shown.fresh,
            cluster=group.expected_cluster,
        )
        self._run(self._judging, lambda: judge(validators, shown.tickets, expected, now), done)

    def close(self) -> None:
        """Drop the running work; no caller waits for it any longer."""
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
        for job in self._jobs:
            job.cancel()

    def _run(
        self,
        thread: TurnThread,
        work: Callable[[], Any],
        done: Callable[["asyncio.Future[Any]"], None],
    ) -> None:
        share, known = self._share()
        job = thread.run(work, share, known=known)
        self._jobs.add(job)

        def finish(future: "asyncio.Future[Any]") -> None:
            self._jobs.discard(future)
            if not future.cancelled() and not self._closed:
                done(future)

        job.add_done_callback(finish)


def refusal_of(failure: BaseException) -> Refusal:
    """Return the refusal for a verdict that is not an acceptance."""
    if isinstance(failure, AttestationError):
        return Refusal(
            code=RefusalCode.NOT_ALLOWED,
            reason=failure.reason,
            message=failure.message,
            values=dict(failure.values),
        )
    # A validator with a bug admits no peer.
    logger.error("a ticket validator failed", exc_info=failure)
    return Refusal(
        code=RefusalCode.NOT_ALLOWED,
        reason="validator-failed",
        message=f"a ticket validator failed: {type(failure).__name__}",
    )
