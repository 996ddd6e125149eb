"""A command that waited through a stop of the whole process until its time was up is not handed over after it."""

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from node.group.driver import MemberDriver
from node.machines.noop import NoOp
from node.raft.events import Cancel, Effects, Event, Execute, Received
from node.raft.member import Member
from node.raft.messages import TimeoutNow
from node.raft.types import Unknown
from node.raft.wire import encode
from tests.node.group.test_driver import PEER, Bonds

TIMEOUT_S = 0.05


class Recorder:
    """In a member's place: keeps what it is given, step by step, and completes nothing."""

    def __init__(self) -> None:
        self.steps: list[list[Event]] = []
        self.replica = SimpleNamespace(machine=NoOp())
        self.tenure = SimpleNamespace(installing=None)

    def step_many(self, now_ms: int, events: list[Event], **_: Any) -> Effects:
        self.steps.append(events)
        effects = Effects()
        effects.next_tick_ms = now_ms + 60_000
        return effects

    def first(self, kind: type) -> int:
        """Return the number of the first step with such an event."""
        return next(n for n, step in enumerate(self.steps) if any(isinstance(one, kind) for one in step))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_it_is_cancelled_no_later_than_what_arrived_during_the_stop_is_taken(run: Any) -> None:
    """What arrived may open the session that the command waits for; the member hands over after a whole step."""
    member, bonds = Recorder(), Bonds()
    message = encode(TimeoutNow(bytes(32), 1))

    async def stop_while_it_waits() -> None:
        loop = asyncio.get_running_loop()
        driver = MemberDriver(cast("Member", member), transport=bonds, listener=bonds, durable=None)
        near, far = socket.socketpair()
        with near, far:
            loop.add_reader(near, lambda: near.recv(1) and driver.payload(PEER, message))
            request = loop.create_task(
                driver.request(Execute(driver.new_token(), (1,), b"key"), timeout_s=TIMEOUT_S)
            )
            while not any(isinstance(one, Execute) for step in member.steps for one in step):
                await asyncio.sleep(0)
            far.send(b"!")
            time.sleep(2 * TIMEOUT_S)
            assert await request == Unknown("deadline")
            while not any(isinstance(one, Received) for step in member.steps for one in step):
                await asyncio.sleep(0)
            loop.remove_reader(near)
        driver.close("the test is over")

    run(stop_while_it_waits())
    assert member.first(Execute) < member.first(Cancel) <= member.first(Received)
