"""The checker itself: a checker that accepts everything proves nothing."""

import random
from itertools import permutations

import pytest

from node.simulation.linearizability import (
    ClientCall,
    NotLinearizableError,
    UndecidedHistoryError,
    check_linearizable,
)


class Register:
    """None at first; ("write", v) answers None; ("read",) the value; ("cas", a, b) whether it was a."""

    def initial(self, key):
        return None

    def step(self, state, operation):
        match operation:
            case ("write", value):
                return value, None
            case ("read",):
                return state, state
            case ("cas", expect, value):
                return (value, True) if state == expect else (state, False)
        raise AssertionError(operation)


def op(invoked, returned, asked, output=None, key="x"):
    return ClientCall(key=key, invoked=invoked, returned=returned, input=asked, output=output)


def test_sequential_history_is_linearizable():
    history = [op(1, 2, ("write", 1)), op(3, 4, ("read",), 1), op(5, 6, ("cas", 1, 2), True)]

    assert check_linearizable(history, Register()) == 3


def test_stale_read_after_a_finished_write_is_refused():
    history = [op(1, 2, ("write", 1)), op(3, 4, ("write", 2)), op(5, 6, ("read",), 1)]

    with pytest.raises(NotLinearizableError) as caught:
        check_linearizable(history, Register())
    assert caught.value.operations == (history[2],)


def test_read_during_a_write_may_see_either_value():
    for seen in (None, 1):
        history = [op(1, 10, ("write", 1)), op(2, 3, ("read",), seen)]

        assert check_linearizable(history, Register()) == 2


def test_two_reads_may_not_see_a_write_come_and_go():
    history = [
        op(1, 20, ("write", 1)),
        op(2, 3, ("read",), 1),
        op(4, 5, ("read",), None),
    ]

    with pytest.raises(NotLinearizableError):
        check_linearizable(history, Register())


def test_unknown_write_may_have_happened():
    history = [op(1, None, ("write", 1)), op(10, 11, ("read",), 1)]

    assert check_linearizable(history, Register()) == 2


def test_unknown_write_may_not_have_happened():
    history = [op(1, None, ("write", 1)), op(10, 11, ("read",), None)]

    assert check_linearizable(history, Register()) == 2


def test_unknown_write_may_not_happen_before_it_was_asked():
    history = [op(5, None, ("write", 1)), op(1, 2, ("read",), 1)]

    with pytest.raises(NotLinearizableError):
        check_linearizable(history, Register())


def test_unknown_write_may_not_happen_twice():
    history = [
        op(1, None, ("write", 1)),
        op(2, 3, ("read",), 1),
        op(4, 5, ("write", 2)),
        op(6, 7, ("read",), 2),
        op(8, 9, ("read",), 1),
    ]

    with pytest.raises(NotLinearizableError):
        check_linearizable(history, Register())


def test_two_successful_swaps_of_one_value_are_refused():
    history = [
        op(1, 2, ("write", 1)),
        op(3, 10, ("cas", 1, 2), True),
        op(4, 9, ("cas", 1, 3), True),
    ]

    with pytest.raises(NotLinearizableError):
        check_linearizable(history, Register())


def test_keys_are_independent():
    history = [op(1, 2, ("write", 1), key="x"), op(3, 4, ("read",), None, key="y")]

    assert check_linearizable(history, Register()) == 2


def test_search_past_the_limit_is_undecided_and_not_a_yes():
    history = [op(number, 100 + number, ("write", number)) for number in range(12)]
    history.append(op(200, 201, ("read",), "never written"))

    with pytest.raises(UndecidedHistoryError):
        check_linearizable(history, Register(), states_max=500)


def test_what_reads_need_no_search():
    """Twelve reads at once, between writes at once: without the hint, 2^12 sets for each of them."""
    history = [op(number, 100 + number, ("write", number)) for number in range(4)]
    history += [op(50 + number, 200 + number, ("read",), 3) for number in range(12)]
    history.append(op(300, 301, ("read",), "never written"))

    with pytest.raises(UndecidedHistoryError):
        check_linearizable(history, Register(), states_max=5000)
    with pytest.raises(NotLinearizableError):
        check_linearizable(history, Register(), states_max=5000, is_read=is_read)


def brute_force(history):
    model = Register()
    known = [o for o in history if o.returned is not None]
    unknown = [o for o in history if o.returned is None]
    for mask in range(1 << len(unknown)):
        chosen = known + [o for n, o in enumerate(unknown) if mask >> n & 1]
        for order in permutations(chosen):
            if any(
                later.returned is not None and later.returned < earlier.invoked
                for n, earlier in enumerate(order)
                for later in order[n + 1 :]
            ):
                continue
            state = model.initial("x")
            for operation in order:
                state, output = model.step(state, operation.input)
                if operation.returned is not None and output != operation.output:
                    break
            else:
                return True
    return False


def is_read(operation):
    return operation.input == ("read",) or operation.output is False


@pytest.mark.parametrize("told", [{}, {"is_read": is_read}], ids=["told nothing", "told what reads"])
def test_checker_agrees_with_brute_force_on_random_histories(told):
    rng = random.Random(7)
    verdicts = set()
    for _ in range(300):
        history = []
        for _ in range(rng.randint(1, 5)):
            invoked = rng.randint(1, 20)
            returned = None if rng.random() < 0.2 else invoked + rng.randint(1, 10)
            asked = rng.choice([("write", 1), ("write", 2), ("read",), ("cas", 1, 2)])
            output = {"write": None, "read": rng.choice([None, 1, 2]), "cas": rng.random() < 0.5}
            history.append(op(invoked * 2, returned and returned * 2 + 1, asked, output[asked[0]]))
        expected = brute_force(history)
        verdicts.add(expected)
        try:
            check_linearizable(history, Register(), **told)
        except NotLinearizableError:
            assert not expected
        else:
            assert expected

    assert verdicts == {True, False}
