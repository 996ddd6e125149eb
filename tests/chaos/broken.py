"""Nodes that break one promise each, to show that chaos notices. For tests only: nothing imports this but
``worker``, and it does nothing unless a fault is asked for by name.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from msgspec import structs

from node.machines.base import ApplyContext
from node.machines.kv import KeyValue
from node.machines.kv.values import Version
from node.raft.events import Query, Record
from node.raft.leader import Leader
from node.raft.reads import Reads
from node.raft.sessions import SessionTable
from node.raft.tenure import Leadership
from node.raft.types import CommandBatch, Consistency, NotExecuted, Ok, Outcome
from node.service import NodeService
from node.storage.file import FileStorage

TORN_FOR_S: Final = 0.2
KEPT_RECORDS: Final = 30


def acknowledge_before_commit() -> None:
    """The leader's own copy is enough to commit and answer."""

    def commit_alone(self: Leader, leadership: Leadership) -> None:
        index = self._own_match()
        if index > self.commit and self._may_commit(index):
            self._commit_to(index)

    Leader._try_commit = commit_alone


def read_locally() -> None:
    """Strong reads are answered from the node's own state, as weak ones are."""
    on_query = Reads.ask

    def answer_at_once(self: Reads, query: Query) -> None:
        on_query(self, structs.replace(query, consistency=Consistency.WEAK))

    Reads.ask = answer_at_once


def execute_again() -> None:
    """A command that comes a second time is executed a second time."""

    def forgetful(self: SessionTable, batch: CommandBatch, time_ms: int) -> Ok | NotExecuted | None:
        if batch.session not in self:
            return NotExecuted("session-expired")
        self._touch(batch.session, time_ms)
        return None

    SessionTable.admit = forgetful


def tear_batches() -> None:
    """What was to be one atomic entry becomes one entry for each command."""
    execute = NodeService.execute

    async def one_by_one(
        self: NodeService, commands: tuple[object, ...], *, key: bytes | None, feed: bool, timeout_s: float
    ) -> Outcome:
        results: list[Any] = []
        for number, command in enumerate(commands):
            own_key = None if key is None else key[:-1] + bytes([number])
            outcome = await execute(self, (command,), key=own_key, feed=feed, timeout_s=timeout_s)
            if not isinstance(outcome, Ok):
                return outcome
            results += outcome.results
            if len(commands) > 1:
                await asyncio.sleep(TORN_FOR_S)
        return structs.replace(outcome, results=tuple(results))

    NodeService.execute = one_by_one


def diverge() -> None:
    """This node's state machine forgets to store each tenth value, and answers as if it had."""
    write = KeyValue._write

    def forgetful_write(
        self: KeyValue, key: bytes, value: bytes, before: Version | None, context: ApplyContext
    ) -> Version:
        after = write(self, key, value, before, context)
        if self.revision % 10 == 0:
            self._store.live[key] = structs.replace(after, value=b"something else")
        return after

    KeyValue._write = forgetful_write


def lie_about_durability() -> None:
    """The disk keeps what it is given first, and only reports that the rest is durable."""
    persist = FileStorage.persist
    kept = 0

    def lying(self: FileStorage, records: list[Record]) -> None:
        nonlocal kept
        if kept < KEPT_RECORDS:
            persist(self, records)
        kept += len(records)

    FileStorage.persist = lying


_FAULTS: Final[dict[str, Callable[[], None]]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        acknowledge_before_commit,
        read_locally,
        execute_again,
        tear_batches,
        diverge,
        lie_about_durability,
    )
}
NAMES: Final = tuple(_FAULTS)
# Only the first node has these: a group whose nodes all err alike has not diverged.
OF_ONE_NODE: Final = frozenset({"diverge"})


def break_by_name(name: str) -> None:
    """Break this process."""
    _FAULTS[name]()
