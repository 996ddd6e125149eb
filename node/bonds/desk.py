"""Where tickets are made and judged: in threads, because a quote takes up to seconds."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any

from attestation.errors import AttestationError
from attestation.tickets import ExpectedClaims, TicketIssuer, TicketValidator
from node.bonds.admission import Admission, judge
from node.bonds.refusals import Refusal, RefusalCode

logger = logging.getLogger(__name__)


class TicketDesk:
    """The ticket work of one connection; all of it is dropped when the connection ends."""

    def __init__(self, *, issuing: Executor, judging: Executor) -> None:
        self._issuing = issuing
        self._judging = judging
        self._jobs: set[asyncio.Future[Any]] = set()
        self._closed = False

    def issue(
        self,
        issuers: Sequence[TicketIssuer],
        *,
        group_id: bytes,
        binding: bytes,
        now: datetime,
        done: Callable[["asyncio.Future[dict[str, bytes]]"], None],
    ) -> None:
        """Make one ticket of each issuer."""

        def work() -> dict[str, bytes]:
            return {
                issuer.ticket_class: issuer.issue(group_id=group_id, binding=binding, now=now)
                for issuer in issuers
            }

        self._run(self._issuing, work, done)

    def judge(
        self,
        validators: Sequence[TicketValidator],
        tickets: dict[str, bytes],
        expected: ExpectedClaims,
        *,
        now: datetime,
        done: Callable[["asyncio.Future[Admission]"], None],
    ) -> None:
        """Ask every validator."""
        self._run(self._judging, lambda: judge(validators, tickets, expected, now), done)

    def close(self) -> None:
        """Forget what runs; nobody waits for it any more."""
        self._closed = True
        for job in self._jobs:
            job.cancel()

    def _run(
        self,
        executor: Executor,
        work: Callable[[], Any],
        done: Callable[["asyncio.Future[Any]"], None],
    ) -> None:
        job = asyncio.get_running_loop().run_in_executor(executor, work)
        self._jobs.add(job)

        def finish(future: "asyncio.Future[Any]") -> None:
            self._jobs.discard(future)
            if not future.cancelled() and not self._closed:
                done(future)

        job.add_done_callback(finish)


def refusal_of(failure: BaseException) -> Refusal:
    """Return the refusal for a verdict that is not a yes."""
    if isinstance(failure, AttestationError):
        return Refusal(
            code=RefusalCode.NOT_ALLOWED,
            reason=failure.reason,
            message=failure.message,
            values=dict(failure.values),
        )
    # A validator with a bug admits nobody.
    logger.error("a ticket validator failed", exc_info=failure)
    return Refusal(
        code=RefusalCode.NOT_ALLOWED,
        reason="validator-failed",
        message=f"a ticket validator failed: {type(failure).__name__}",
    )
