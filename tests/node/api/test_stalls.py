"""What was in the sockets while the process stood still is not executed."""

import asyncio

import pytest

from node.api.stalls import BEAT_S, DRAIN_S, STALL_S, StallWatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def watched(clock, *steps):
    """Let the clock go these steps, asking after each, with no beat in between; return the answers."""

    async def ask():
        watch = StallWatch(clock)
        answers = []
        for seconds in steps:
            clock.now += seconds
            answers.append(watch.doubtful())
        return answers

    return asyncio.run(ask())


def test_a_busy_loop_is_no_stop(clock):
    assert watched(clock, 0, STALL_S - 0.01, STALL_S - 0.01) == [False, False, False]


def test_what_is_read_right_after_a_stop_is_doubtful_for_a_while(clock):
    assert watched(clock, 0, STALL_S, DRAIN_S / 2, DRAIN_S / 4, DRAIN_S / 2) == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_the_first_request_of_a_node_may_have_waited_through_a_stop_too(clock):
    assert watched(clock, 30.0) == [True]


def test_a_beat_that_comes_before_the_request_does_not_hide_the_stop(clock):
    async def ask():
        watch = StallWatch(clock)
        clock.now += 30.0
        for _ in range(3):
            await asyncio.sleep(BEAT_S)
        return watch.doubtful()

    assert asyncio.run(ask())


def test_a_quiet_node_has_not_stood_still(clock):
    async def ask():
        watch = StallWatch(clock)
        for _ in range(8):
            clock.now += STALL_S / 4
            await asyncio.sleep(1.5 * BEAT_S)
        return watch.doubtful()

    assert not asyncio.run(ask())
