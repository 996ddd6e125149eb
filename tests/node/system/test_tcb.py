"""When the group first saw each set of collateral: a replicated fact that only its members write."""

from datetime import UTC, datetime

import pytest

from attestation.collateral.enforcement import CollateralSet, Sight
from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.system import CombinedSystem, EmptySystem, RequestKind
from node.system.tcb import MODELS_MAX, NUMBERS_MAX, SEEN, TcbState, command_of, tcb_of

FMSPC = bytes.fromhex("50806f000000")
AUGUST = datetime(2026, 8, 12, tzinfo=UTC)
SET = CollateralSet(fmspc=FMSPC, number=21, newest_level=AUGUST)


def at(seconds: int) -> ApplyContext:
    return ApplyContext(term=1, index=1, sub=0, time_ms=1000 * seconds, group_id=bytes(32))


def seen(*commands: list) -> TcbState:
    state = TcbState()
    for seconds, command in enumerate(commands, 1):
        state.apply(command, at(seconds))
    return state


def test_the_first_entry_counts_and_a_second_one_is_no_news():
    state = TcbState()

    assert state.is_news(SET)
    assert state.apply(command_of(SET), at(100)) is True
    assert not state.is_news(SET)
    assert state.apply(command_of(SET), at(200)) is False
    assert state.sights == (Sight(seen=SET, at=datetime.fromtimestamp(100, UTC)),)
    assert state.since(FMSPC, AUGUST) == datetime.fromtimestamp(100, UTC)


def test_a_lower_number_is_no_news():
    state = seen(command_of(SET))

    assert state.apply([SEEN, FMSPC, 20, 0], at(2)) is False
    assert len(state.sights) == 1


def test_a_caller_may_not_write_it_whatever_its_role():
    state = TcbState()
    judged = {"now_ms": 0, "machine": Counter()}
    state.judge(None, RequestKind.SYSTEM_COMMAND, command_of(SET), **judged)
    state.judge(b"c" * 32, RequestKind.COMMAND, {"op": "add"}, **judged)
    with pytest.raises(CommandError) as caught:
        state.judge(b"c" * 32, RequestKind.SYSTEM_COMMAND, command_of(SET), **judged)

    assert caught.value.code == "not-permitted"


@pytest.mark.parametrize(
    "command",
    [
        [SEEN],
        [SEEN, FMSPC, 21],
        [SEEN, b"short", 21, 0],
        [SEEN, FMSPC, -1, 0],
        [SEEN, FMSPC, 2**32, 0],
        [SEEN, FMSPC, 21, -1],
        [SEEN, FMSPC, 21, 2**60],
        [SEEN, "50806f000000", 21, 0],
        [SEEN, FMSPC, 21, 0, 0],
    ],
)
def test_a_malformed_command_is_refused_by_name(command):
    with pytest.raises(CommandError) as caught:
        TcbState().apply(command, at(1))

    assert caught.value.code == "system-command-malformed"


def test_nothing_is_forgotten_for_room():
    """What is forgotten would begin its grace again."""
    models = seen(*([SEEN, number.to_bytes(6, "big"), 1, 0] for number in range(MODELS_MAX)))
    numbers = seen(*([SEEN, FMSPC, number, 0] for number in range(NUMBERS_MAX)))
    for state, command in ((models, [SEEN, b"\xff" * 6, 1, 0]), (numbers, [SEEN, FMSPC, NUMBERS_MAX, 0])):
        before = state.snapshot()
        with pytest.raises(CommandError) as caught:
            state.apply(command, at(1))
        assert caught.value.code == "tcb-seen-full"
        assert state.snapshot() == before


def test_a_snapshot_restores_it_and_a_savepoint_takes_it_back():
    state = seen(command_of(SET), [SEEN, b"other!", 3, 7])
    copy = TcbState()
    copy.restore(state.snapshot())
    assert copy.digest() == state.digest()

    savepoint = state.savepoint()
    state.apply([SEEN, FMSPC, 22, 9], at(9))
    assert copy.digest() != state.digest()
    state.rollback(savepoint)
    assert copy.digest() == state.digest()


@pytest.mark.parametrize(
    "snapshot", [None, {}, [[b"short", [[1, 2, 3]]]], [[FMSPC, []]], [[FMSPC, [[1, 2]]]]]
)
def test_an_invalid_snapshot_changes_nothing(snapshot):
    state = seen(command_of(SET))
    before = state.digest()
    with pytest.raises(ValueError, match="not a"):
        state.restore(snapshot)

    assert state.digest() == before


def test_it_is_a_part_of_the_groups_system_state():
    part = TcbState()

    assert tcb_of(CombinedSystem(part)) is part
    with pytest.raises(AssertionError):
        tcb_of(EmptySystem())
