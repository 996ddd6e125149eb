"""The verdict on histories made by hand: it sees each breach, and accepts what is allowed."""

from dataclasses import replace

import pytest

from node.simulation.linearizability import NotLinearizableError
from tests.chaos.history import ABSENT, Call, History, Outcome
from tests.chaos.ledger import CHECKS, Change, Ledger, LedgerError, check_complete


def call(kind: str, begin: int, end: int | None, **fields) -> Call:
    """One call on the key ``k``, answered unless it has no end."""
    fields = {"key": "k", **fields}
    outcome = Outcome.UNKNOWN if end is None else Outcome.ANSWERED
    return Call(**{"client": "c", "outcome": outcome, **fields}, kind=kind, invoked=begin, returned=end)


def put(begin: int, end: int, value: str, revision: int, version: int, **fields) -> Call:
    return call(
        "put", begin, end, value=value, revision=revision, changed=True, found=(value, version), **fields
    )


def get(begin: int, end: int, revision: int, found, **fields) -> Call:
    return call("get", begin, end, revision=revision, found=found, **fields)


def breaches(ledger: Ledger, *calls: Call) -> set[str]:
    """Return the codes of all promises that this breaks."""
    check_complete(ledger)
    codes = set()
    for check in CHECKS:
        try:
            check(ledger, list(calls))
        except LedgerError as exc:
            codes.add(exc.promise)
    return codes


def search(*calls: Call) -> int:
    return History(calls=list(calls)).search()


A_THEN_B = Ledger(changes={2: Change("k", "a", 1), 3: Change("k", "b", 2)})
PUT_A = put(0, 1, "a", 2, 1)
PUT_B = put(2, 3, "b", 3, 2)


def test_what_happened_in_order_is_accepted():
    calls = (PUT_A, PUT_B, get(4, 5, 3, ("b", 2)), get(4, 9, 3, ABSENT, key="other"))
    assert breaches(A_THEN_B, *calls) == set()
    assert search(*calls) == 4


def test_an_acknowledged_write_that_was_lost_is_seen():
    only_b = Ledger(changes={2: Change("k", "b", 1)})
    calls = (PUT_A, replace(PUT_B, revision=2, found=("b", 1)))
    assert breaches(only_b, *calls) == {"acknowledged-write-lost", "answer-wrong"}
    with pytest.raises(NotLinearizableError):
        search(*calls)


def test_an_acknowledged_delete_that_was_lost_is_seen():
    deleted = call("delete", 4, 5, revision=4, changed=True, found=ABSENT)
    assert breaches(A_THEN_B, PUT_A, PUT_B, deleted) >= {"acknowledged-write-lost"}


def test_two_acknowledgements_of_one_change_are_seen():
    ledger = Ledger(changes={2: Change("k", "a", 1), 3: Change("k", None, 0)})
    deletes = [call("delete", 4, 9, revision=3, changed=True, found=ABSENT) for _ in range(2)]
    assert breaches(ledger, PUT_A, *deletes) == {"acknowledged-write-lost"}


def test_a_write_that_was_applied_twice_is_seen_though_the_value_is_right():
    twice = Ledger(changes={2: Change("k", "a", 1), 3: Change("k", "a", 2)})
    calls = (PUT_A, get(4, 5, 3, ("a", 2)))
    assert breaches(twice, *calls) == {"applied-twice"}
    with pytest.raises(NotLinearizableError):
        search(*calls)


def test_a_delete_that_was_applied_twice_is_seen():
    ledger = Ledger(
        changes={
            2: Change("k", "a", 1),
            3: Change("k", None, 0),
            4: Change("k", "b", 1),
            5: Change("k", None, 0),
        }
    )
    unknown = call("delete", 2, None)
    assert breaches(ledger, PUT_A, replace(PUT_B, revision=4, found=("b", 1)), unknown) == {"applied-twice"}


def test_a_write_that_no_client_requested_is_detected():
    assert breaches(A_THEN_B, PUT_A) == {"nobody-wrote-this"}


def test_a_write_that_happened_after_its_client_got_a_definite_failure_is_detected():
    refused = call("put", 2, None, value="b", outcome=Outcome.REFUSED)
    assert breaches(A_THEN_B, PUT_A, refused) == {"refused-write-happened"}


def test_a_stale_read_is_seen():
    calls = (PUT_A, PUT_B, get(4, 5, 2, ("a", 1)))
    assert breaches(A_THEN_B, *calls) == {"stale-answer"}
    with pytest.raises(NotLinearizableError):
        search(*calls)


def test_a_stale_read_of_another_key_is_seen():
    """Each key alone would be in order: a linearizable store is more than linearizable keys that disagree."""
    ledger = Ledger(changes={2: Change("k", "a", 1), 3: Change("j", "b", 1)})
    calls = (PUT_A, put(2, 3, "b", 3, 1, key="j"), get(4, 5, 2, ("a", 1)))
    assert breaches(ledger, *calls) == {"stale-answer"}
    assert search(*calls) == 3


def test_a_read_of_ones_own_writes_may_be_of_the_past():
    calls = (PUT_A, PUT_B, get(4, 5, 2, ("a", 1), weak=True))
    assert breaches(A_THEN_B, *calls) == set()


def test_a_read_that_is_wrong_at_its_revision_is_seen_even_if_weak():
    calls = (PUT_A, PUT_B, get(4, 5, 2, ("b", 2), weak=True))
    assert breaches(A_THEN_B, *calls) == {"answer-wrong"}


def test_a_swap_that_was_refused_though_it_fitted_is_seen():
    swap = call("cas", 2, 3, expect="a", value="c", revision=2, found=("a", 1))
    assert breaches(A_THEN_B, PUT_A, PUT_B, swap) == {"answer-wrong"}
    with pytest.raises(NotLinearizableError):
        search(PUT_A, PUT_B, swap)


def test_a_write_without_an_answer_may_happen_late_or_never():
    late = call("put", 0, None, value="b")
    never = call("put", 0, None, value="z")
    calls = (PUT_A, late, never, get(2, 3, 2, ("a", 1)), get(4, 5, 3, ("b", 2)))
    assert breaches(A_THEN_B, *calls) == set()
    assert search(*calls) == 5


def test_a_write_without_an_answer_may_not_happen_before_it_was_asked_for():
    early = call("put", 8, None, value="b")
    calls = (PUT_A, early, get(4, 5, 3, ("b", 2)))
    assert breaches(A_THEN_B, *calls) == {"stale-answer"}
    with pytest.raises(NotLinearizableError):
        search(*calls)


def test_a_node_that_held_another_state_is_detected():
    sights = [("node-0", 2, {"k": ("a", 1, 2)}), ("node-1", 2, {"k": ("x", 1, 2)})]
    ledger = replace(A_THEN_B, sights=sights[:1])
    assert breaches(ledger, PUT_A, PUT_B) == set()
    assert breaches(replace(A_THEN_B, sights=sights), PUT_A, PUT_B) == {"node-diverged"}


def test_a_version_that_skips_is_seen():
    ledger = Ledger(changes={2: Change("k", "a", 1), 3: Change("k", "b", 3)})
    assert breaches(ledger, PUT_A, replace(PUT_B, found=("b", 3))) == {"version-wrong"}


def test_a_revision_that_no_node_shows_is_detected():
    with pytest.raises(LedgerError, match="revision-missing"):
        check_complete(Ledger(changes={2: Change("k", "a", 1), 4: Change("k", "b", 2)}))


PAIR = Ledger(changes={2: Change("k", "a", 1), 3: Change("j", "b", 1)})
BOTH = (put(0, 3, "a", 2, 1, batch=1), put(0, 3, "b", 3, 1, batch=1, key="j"))


def test_a_batch_whose_writes_are_adjacent_is_accepted():
    assert breaches(PAIR, *BOTH, get(4, 5, 3, ("a", 1))) == set()


def test_a_read_in_the_midst_of_a_batch_is_seen():
    assert breaches(PAIR, *BOTH, get(1, 2, 2, ABSENT, key="j")) == {"batch-torn"}
    assert breaches(replace(PAIR, sights=[("node-0", 2, {"k": ("a", 1, 2)})]), *BOTH) == {"batch-torn"}


def test_half_of_a_batch_is_seen():
    half = Ledger(changes={2: Change("k", "a", 1)})
    unknown = [replace(call, returned=None, outcome=Outcome.UNKNOWN, changed=False) for call in BOTH]
    assert breaches(half, *unknown) == {"batch-torn"}


def test_writes_of_another_between_those_of_a_batch_are_seen():
    ledger = Ledger(changes={2: Change("k", "a", 1), 3: Change("i", "c", 1), 4: Change("j", "b", 1)})
    other = put(0, 3, "c", 3, 1, key="i")
    assert breaches(ledger, BOTH[0], replace(BOTH[1], revision=4), other) == {"batch-torn"}
