"""Fair places: the newest gets in, and a caller that takes many evicts its own."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.places import Places, Room, share_of_address


def filled(places, *entries):
    return [places.enter(item, share, known=known) for item, share, known in entries]


def test_while_there_are_places_no_holder_is_evicted():
    places = Places("test", 8)

    assert filled(places, *[(n, "a", False) for n in range(7)]) == [None] * 7


def test_the_longest_waiting_of_the_largest_share_is_evicted():
    places = Places("test", 4)
    filled(places, (1, "a", False), (2, "b", False), (3, "b", False), (4, "c", False))

    assert places.enter(5, "d", known=False) == 2
    assert places.enter(6, "e", known=False) == 1  # all have one: whose has it for longest
    assert places.enter(7, "e", known=False) == 6  # the share of two is the newcomer's


def test_a_share_has_at_most_its_own_maximum():
    places = Places("test", 100, share_max=2)
    filled(places, (1, "a", False), (2, "a", False))

    assert places.enter(3, "a", known=False) == 1
    assert places.enter(4, "b", known=False) is None


def test_strangers_never_crowd_out_the_known_and_leave_them_room():
    places = Places("test", 16)
    filled(places, *[(n, n, False) for n in range(14)])

    assert places.enter("stranger", "s", known=False) == 0
    assert filled(places, *[(("k", n), "k", True) for n in range(2)]) == [None, None]
    assert places.enter(("k", 2), "k", known=True) == 1  # a stranger
    assert all(
        gone != ("k", n)
        for gone in filled(places, *[(("s", n), n, False) for n in range(50)])
        for n in range(3)
    )


def test_the_known_leave_strangers_room():
    places = Places("test", 16)
    filled(places, *[(n, "caller", True) for n in range(14)])

    assert places.enter("another", "other", known=True) == 0
    assert places.enter("s", "s", known=False) is None
    assert places.enter("t", "t", known=False) is None


def test_a_holder_that_shows_credentials_is_no_longer_a_stranger():
    places = Places("test", 16)
    filled(places, *[(n, "a", False) for n in range(14)])
    assert places.enter(0, "caller", known=True) is None
    filled(places, *[((n, "more"), "a", False) for n in range(40)])

    assert 0 in places
    assert (places.usage.known, places.usage.strangers) == (1, 14)


def test_a_protected_holder_stays_and_the_newcomer_is_evicted_if_all_are_protected():
    busy = set()
    places = Places("test", 2, may_go=lambda item: item not in busy)
    filled(places, (1, "a", True), (2, "b", True))
    busy |= {1}
    assert places.enter(3, "c", known=True) == 2
    busy |= {3}
    assert places.enter(4, "d", known=True) == 4
    busy |= {4}
    assert places.enter(5, "e", known=True) == 5
    assert 1 in places
    assert 3 in places


def test_turns_go_round_the_shares_so_that_many_of_one_wait_for_themselves():
    places = Places("test", 64)
    filled(
        places,
        *[(("crowd", n), "crowd", False) for n in range(12)],
        ("auditor", "b", False),
        ("x", "c", False),
    )
    turns = [places.take_next() for _ in range(5)]

    assert turns == [("crowd", 0), "auditor", "x", ("crowd", 1), ("crowd", 2)]


def test_the_known_have_every_other_turn():
    places = Places("test", 64)
    filled(places, *[(("s", n), n, False) for n in range(4)], *[(("k", n), "k", True) for n in range(2)])

    assert [places.take_next() for _ in range(7)] == [
        ("k", 0), ("s", 0), ("k", 1), ("s", 1), ("s", 2), ("s", 3), None,
    ]  # fmt: skip


steps = st.lists(
    st.tuples(st.sampled_from("eeeelt"), st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=200
)


@settings(max_examples=200)
@given(steps, st.integers(1, 20), st.integers(1, 20))
def test_whatever_happens_the_numbers_hold(steps, places_max, share_max):
    places = Places("test", places_max, share_max=share_max)
    model = {}
    for step, item, share, known in steps:
        if step == "l":
            places.leave(item)
            model.pop(item, None)
        elif step == "t":
            item = places.take_next()
            assert (item is None) == (not model)
            model.pop(item, None)
        else:
            model[item] = (share, known)
            gone = places.enter(item, share, known=known)
            if gone is not None and model.pop(gone)[1]:
                assert known  # a stranger never crowds out one of the known
        usage = places.usage
        assert len(places) == len(model) == usage.strangers + usage.known <= places_max
        assert usage.known == sum(known for _, known in model.values())
        counts = Counter(model.values())
        assert not counts or max(counts.values()) <= share_max
        assert all(item in places for item in model)


@given(steps)
def test_a_share_of_one_is_not_touched_while_another_has_more(steps):
    places = Places("test", 6)
    model = {}
    for _, item, share, _ in steps:
        model.pop(item, None)
        model[item] = share
        gone = places.enter(item, share, known=False)
        if gone is not None:
            counts = Counter(model.values())
            assert counts[model.pop(gone)] == max(counts.values())


def test_no_holder_gets_all_of_a_room():
    room = Room("test", 80)

    assert room.take(10, None)
    assert not room.take(1, None)
    assert room.take(70, "a")
    room.give_back(10, None)
    assert not room.take(1, "a")
    assert room.take(10, "b")
    assert not room.take(1, "b")
    room.give_back(70, "a")
    assert (room.usage.strangers, room.usage.known, room.usage.sent_away) == (0, 10, 3)


@pytest.mark.parametrize("caller", [None, "a"], ids=["stranger", "caller"])
def test_one_request_always_fits_into_an_empty_room(caller):
    assert Room("test", 80, one_min=80).take(80, caller)


def test_what_a_stranger_took_is_the_callers_once_there_is_one():
    room = Room("test", 80)
    stay, other = room.stay(), room.stay()
    assert stay.take(10)
    assert not other.take(1)
    assert stay.vouch("a")
    assert other.take(10)
    assert stay.take(55)
    assert not other.vouch("a")  # the holder would have more than it can have

    assert (room.usage.strangers, room.usage.known) == (10, 65)
    stay.end()
    other.end()
    assert room.taken == 0


@pytest.mark.parametrize(
    ("ip", "share"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_subscriber_has_one_share(ip, share):
    assert share_of_address(ip) == share
