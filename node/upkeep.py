"""Keeps a group's key-value store in order: renews leases, moves the lease clock, and compacts.

The driver of ``LeaseKeeper`` and ``Compactor``. What it proposes, the member itself proposes: without a
credential, so that no caller can do it (``ApplyContext.credential``).
"""

import asyncio
import logging
from typing import Any, Final, cast

from node.compaction import Compactor
from node.group.errors import GroupClosedError
from node.group.group import Group
from node.group_document.tables import Compaction
from node.lease_keeper import LeaseKeeper
from node.machines.kv import KeyValue
from node.raft.types import Applied, Ok

LOOK_S: Final = 0.1  # how often the driver looks for something to propose
RENEWALS_MAX: Final = 100_000  # callers that wait at a time
_VERSION: Final = 3  # the first version of the machine with leases and compaction

logger = logging.getLogger(__name__)


class RenewalFailedError(Exception):
    """The renewal may or may not have happened: the caller asks again."""


class Upkeep:
    """Works while ``run`` does. ``Background.keep`` starts it again if it fails."""

    def __init__(self, group: Group, policy: Compaction) -> None:
        self._group = group
        self._keeper = LeaseKeeper()
        self._compactor = Compactor(policy)
        self._callers: dict[int, list[asyncio.Future[int]]] = {}
        self._count = 0

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease and return its TTL in seconds; 0: there is no such lease, or it has expired.

        Raises:
            RenewalFailedError: the group did not answer, or too many callers wait.
        """
        if self._group.closed is not None or self._count >= RENEWALS_MAX:
            raise RenewalFailedError("the group has ended here, or too many renewals wait")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._callers.setdefault(lease_id, []).append(future)
        self._count += 1
        self._keeper.renew(lease_id)
        try:
            return await future
        finally:
            self._count -= 1

    async def run(self) -> None:
        """Propose what is due while the group lives; then wait to be cancelled."""
        while self._group.closed is None:
            await asyncio.sleep(LOOK_S)
            machine = self._group.machine
            levels = self._group.status.levels
            if isinstance(machine, KeyValue) and levels is not None and levels.version >= _VERSION:
                await self._look(machine)
        self._fail(tuple(self._callers))
        await asyncio.get_running_loop().create_future()

    async def _look(self, machine: KeyValue) -> None:
        status, leading = self._group.status, self._group.leading
        term = status.term if leading is not None and leading.established else None
        revision, floor = machine.revision, machine.compact_revision
        command = self._keeper.propose(self._now_ms(), term, machine.leases)
        if command is not None:
            await self._keep(command)
        target = self._compactor.due(self._now_ms(), leads=term is not None, revision=revision, floor=floor)
        if target is not None:
            await self._execute(["compact", target])

    async def _keep(self, command: list[Any]) -> None:
        result = await self._execute(command)
        if result is None:
            self._fail(self._keeper.failed())
            return
        for lease_id, ttl_s in self._keeper.applied(self._now_ms(), result):
            for future in self._callers.pop(lease_id, ()):
                if not future.done():
                    future.set_result(ttl_s)

    def _fail(self, lease_ids: tuple[int, ...]) -> None:
        for lease_id in lease_ids:
            for future in self._callers.pop(lease_id, ()):
                if not future.done():
                    future.set_exception(RenewalFailedError("the group did not answer"))

    async def _execute(self, command: list[Any]) -> list[Any] | None:
        """Return the command's result; None if it was refused, or if nobody knows."""
        try:
            outcome = await self._group.execute_outcome((command,))
        except GroupClosedError:
            return None
        if not isinstance(outcome, Ok):
            logger.info("%s was not answered: %s", command[0], outcome)
            return None
        (result,) = outcome.results
        if isinstance(result, Applied):
            return cast("list[Any]", result.value)
        logger.info("%s was refused: %s", command[0], result)
        return None

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1000)
