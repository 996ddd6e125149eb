"""The verdict on additions made by hand."""

import pytest

from tests.chaos.counting import Count, check_tally
from tests.chaos.ledger import LedgerError


def added(begin: int, end: int | None = None, value: int | None = None) -> Count:
    return Count(is_read=False, invoked=begin, returned=end, value=value)


def read(begin: int, end: int, value: int) -> Count:
    return Count(is_read=True, invoked=begin, returned=end, value=value)


def breach(*counts: Count, total: int) -> str:
    with pytest.raises(LedgerError) as caught:
        check_tally(counts, total)
    return caught.value.promise


def test_additions_one_after_the_other_are_accepted():
    assert check_tally([added(0, 1, 1), read(2, 3, 1), added(4, 5, 2), read(4, 9, 2)], total=2) == 0


def test_additions_at_once_may_take_any_place():
    assert check_tally([added(0, 9, 2), added(1, 8, 1), read(2, 3, 1)], total=2) == 0


def test_one_place_for_two_additions_is_seen():
    assert breach(added(0, 1, 1), added(2, 3, 1), total=1) == "applied-twice"


def test_an_acknowledged_addition_beyond_the_sum_is_seen():
    assert breach(added(0, 1, 1), added(2, 3, 2), total=1) == "acknowledged-write-lost"


def test_an_addition_that_counts_twice_is_seen():
    assert breach(added(0, 1, 1), total=2) == "applied-twice"
    assert breach(added(0, 1, 2), total=2) == "applied-twice"


def test_a_stale_read_is_seen():
    assert breach(added(0, 1, 1), added(2, 3, 2), read(4, 5, 1), total=2) == "stale-answer"


def test_reads_of_one_value_have_no_order():
    assert check_tally([added(0, 1, 1), read(6, 7, 1), read(2, 3, 1)], total=1) == 0


def test_an_addition_without_an_answer_may_have_happened_or_not():
    assert check_tally([added(0), added(1, 2, 1)], total=1) == 0
    assert check_tally([added(0), added(1, 2, 1)], total=2) == 1
    assert check_tally([added(0), added(1, 2, 2)], total=2) == 1


def test_an_addition_without_an_answer_did_not_happen_before_it_was_asked_for():
    assert breach(added(5), added(1, 2, 2), total=2) == "applied-twice"
