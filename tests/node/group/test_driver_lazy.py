"""A message that no caller waits for leaves only if no better one does."""

import asyncio

from node.raft.events import Send
from node.raft.messages import Append
from node.raft.types import LOG_START
from tests.node.group.test_driver import PEER, Bonds, lead, start
from tests.support.groups import until


def append(seq: int, commit: int) -> Append:
    return Append(bytes(32), 9, LOG_START, (), commit, seq)


def test_a_lazy_append_is_dropped_for_the_one_that_follows():
    async def main():
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        bonds.sent.clear()
        driver._send(Send((PEER,), append(7, 3), lazy=True))
        driver._send(Send((PEER,), append(8, 3)))
        driver._send(Send((PEER,), append(9, 4), lazy=True))
        await until(lambda: len(bonds.of(Append)) >= 2)
        driver.close("over")
        return [message.seq for message in bonds.of(Append)]

    assert asyncio.run(main()) == [8, 9]


def test_a_closed_driver_sends_nothing_more():
    async def main():
        bonds = Bonds()
        driver = start(bonds)
        await lead(driver)
        bonds.sent.clear()
        driver._send(Send((PEER,), append(7, 3), lazy=True))
        driver.close("over")
        await asyncio.sleep(0.02)  # longer than a lazy Append may wait
        return bonds.of(Append)

    assert asyncio.run(main()) == []
