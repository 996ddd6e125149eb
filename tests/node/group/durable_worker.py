"""A trust_disk group of one, as a process that its test kills: ``durable_worker DIRECTORY COMMANDS``.

It writes until it is killed, and prints what was acknowledged: the total, the base of its log in memory, and
the bytes in its directory.
"""

import asyncio
import contextlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from node.machines.base import StateMachine
from node.storage import file as file_storage
from node.storage.member import open_member_disk
from tests.support.groups import FAST, INIT, Site, counter, within

SETTINGS = replace(
    FAST, trust_disk=True, snapshot_bytes=64 * 1024, log_keep_bytes=16 * 1024, snapshot_chunk_bytes=1024
)
SEGMENT_BYTES = 128 * 1024
STATE_BYTES = 100_000
PADDING = "x" * 1000


class Tally(StateMachine):
    """Counts the commands, and remembers as much as a state of some chunks."""

    signature = "example.org/tally/v1"

    def __init__(self):
        self.total = 0

    def apply(self, command, context):
        self.total += 1
        return self.total

    def query(self, query):
        return self.total

    def snapshot(self):
        return [self.total, bytes(STATE_BYTES)]

    def restore(self, snapshot):
        self.total = snapshot[0]


def used(directory):
    """Return the bytes that the files take; the disk's thread makes and deletes some meanwhile."""
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


async def work(directory: Path):
    async with Site() as site:
        disk = open_member_disk(directory, "a", datetime.now(UTC))
        network = await site.network("a", identity=disk.identity)
        builder = counter(network, INIT, settings=SETTINGS, machine=Tally())
        group = builder.with_log_storage(durable=disk.storage).join()
        await within(group.when().online())
        total = (await within(group.query(None))).value
        while True:
            print(total, group.status.base, used(directory), flush=True)
            outcomes = await within(asyncio.gather(*(group.execute(PADDING) for _ in range(20))))
            total = max(outcome.result for outcome in outcomes)


if __name__ == "__main__":
    file_storage.SEGMENT_BYTES, file_storage.SPACE_BYTES = SEGMENT_BYTES, 32 * 1024
    uvloop.run(work(Path(sys.argv[1])))
