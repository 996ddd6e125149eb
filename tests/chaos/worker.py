"""``bondstone`` as it is, with two signals more; and, only when asked by name, one of the faults of ``broken``.

SIGUSR1 asks the node to hand its leadership over, SIGUSR2 to report its vitals. Both answer with an event.
Nothing of this is part of the product: it wraps the composition root from outside.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import node.cli.node
from node.cli.main import main
from node.config import NodeConfig
from node.group.errors import GroupClosedError, NotExecutedError, OutcomeUnknownError
from node.group_document import GroupDocument
from node.machines.loader import Machines
from node.process_events import ProcessEvent, Reporter
from node.service import NodeService
from tests.chaos import broken

_running = node.cli.node.running


class Vitals(ProcessEvent, frozen=True, tag="vitals"):
    wall: float
    tasks: int


class HandedOver(ProcessEvent, frozen=True, tag="handed-over"):
    pass


class NotHandedOver(ProcessEvent, frozen=True, tag="not-handed-over"):
    why: str


@asynccontextmanager
async def running(
    document: GroupDocument, config: NodeConfig, report: Reporter, machines: Machines
) -> AsyncIterator[NodeService]:
    """Run a node that obeys the signals."""
    handovers: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async with _running(document, config, report, machines) as service:

        def hand_over() -> None:
            task = loop.create_task(_hand_over(service, report))
            handovers.add(task)
            task.add_done_callback(handovers.discard)

        loop.add_signal_handler(signal.SIGUSR1, hand_over)
        loop.add_signal_handler(signal.SIGUSR2, lambda: report(_vitals()))
        yield service


async def _hand_over(service: NodeService, report: Reporter) -> None:
    assert service.joined is not None
    try:
        await service.joined.transfer_leadership()
    except (NotExecutedError, OutcomeUnknownError, GroupClosedError) as exc:
        report(NotHandedOver(str(exc)))
    else:
        report(HandedOver())


def _vitals() -> Vitals:
    return Vitals(wall=time.time(), tasks=len(asyncio.all_tasks()))


def start() -> None:
    arguments = sys.argv[1:]
    if arguments[0] == "--broken":
        broken.break_by_name(arguments[1])
        del arguments[:2]
    # Until the node has its handlers, a signal must not end it.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    node.cli.node.running = running
    sys.argv[1:] = arguments
    main()


if __name__ == "__main__":
    start()
