"""The address book under a hand-driven clock."""

from node.bonds.core.discovery import DIALS_MAX, PLACES_MAX, AddressBook
from node.bonds.settings import BondSettings
from node.bonds.wire.messages import PeerEntry
from node.peers import Incarnation, Preference

ME, LOW, HIGH = b"\x50" * 32, b"\x01" * 32, b"\x99" * 32
SETTINGS = BondSettings(
    reconnect_min_ms=100,
    reconnect_max_ms=1000,
    refused_min_ms=2000,
    refused_max_ms=8000,
    yield_ms=300,
    forget_after_ms=60_000,
)


def book(*seeds: str) -> AddressBook:
    # The largest value of the range: no jitter is taken off, so delays are exact.
    return AddressBook(settings=SETTINGS, me=ME, seeds=seeds, randrange=lambda n: n - 1, now_ms=0)


def entry(peer_id: bytes, *addresses: str) -> PeerEntry:
    return PeerEntry(
        peer=Incarnation("p", peer_id),
        preference=Preference.NORMAL,
        addresses=addresses,
        api_url=None,
    )


def test_seeds_are_dialled_at_once_and_once() -> None:
    b = book("10.0.0.1:1", "10.0.0.2:1")

    assert b.due(0, ()) == ["10.0.0.1:1", "10.0.0.2:1"]
    assert b.due(0, ()) == []


def test_an_unreachable_address_is_tried_with_growing_pauses() -> None:
    b = book("10.0.0.1:1")
    now, tried = 0, []
    for _ in range(6):
        while not b.due(now, ()):
            now += 10
        tried.append(now)
        b.failed("10.0.0.1:1", now, peer_id=None, refused=False)

    assert tried == [0, 100, 300, 700, 1500, 2500]


def test_a_refusal_that_does_not_pass_by_itself_makes_longer_pauses() -> None:
    b = book("10.0.0.1:1")
    b.due(0, ())
    b.failed("10.0.0.1:1", 0, peer_id=LOW, refused=True)

    assert b.due(1999, ()) == []
    assert b.due(2000, ()) == ["10.0.0.1:1"]


def test_jitter_takes_off_at_most_half() -> None:
    b = AddressBook(settings=SETTINGS, me=ME, seeds=["10.0.0.1:1"], randrange=lambda _: 0, now_ms=0)
    b.due(0, ())
    b.failed("10.0.0.1:1", 0, peer_id=None, refused=False)

    assert b.due(49, ()) == []
    assert b.due(50, ()) == ["10.0.0.1:1"]


def test_a_bonded_peer_is_not_dialled_and_a_lost_one_soon() -> None:
    b = book("10.0.0.1:1")
    b.due(0, ())
    b.reached("10.0.0.1:1", LOW)

    assert b.due(10_000, {LOW}) == []
    b.lost(LOW, 10_000)
    assert b.due(10_099, ()) == []
    assert b.due(10_100, ()) == ["10.0.0.1:1"]


def test_ourselves_are_never_dialled_again() -> None:
    b = book("10.0.0.1:1")
    b.due(0, ())
    b.reached("10.0.0.1:1", ME)

    assert b.due(10**9, ()) == []
    b.learn(entry(ME, "10.0.0.9:1"), 0)
    assert b.addresses() == ["10.0.0.1:1"]


def test_the_smaller_id_dials_first() -> None:
    b = book()
    b.learn(entry(LOW, "10.0.0.1:1"), 0)
    b.learn(entry(HIGH, "10.0.0.2:1"), 0)

    assert b.due(0, ()) == ["10.0.0.2:1"]
    assert b.due(300, ()) == ["10.0.0.1:1"]


def test_an_address_may_get_a_new_tenant() -> None:
    """The node was started again: the same address, another incarnation."""
    b = book()
    b.learn(entry(HIGH, "10.0.0.1:1"), 0)
    b.due(0, ())
    b.reached("10.0.0.1:1", LOW)

    assert b.due(10_000, {LOW}) == []
    b.lost(LOW, 10_000)
    assert b.due(10_100, ()) == ["10.0.0.1:1"]


def test_a_learned_address_that_fails_for_long_is_forgotten_and_a_seed_never() -> None:
    b = book("10.0.0.1:1")
    b.learn(entry(HIGH, "10.0.0.2:1"), 0)
    now = 0
    while now < 70_000:
        for address in b.due(now, ()):
            b.failed(address, now, peer_id=None, refused=False)
        now += 100

    assert b.addresses() == ["10.0.0.1:1"]


def test_news_of_a_peer_make_a_failing_address_worth_a_try() -> None:
    b = book()
    b.learn(entry(LOW, "10.0.0.1:1"), 0)
    b.due(300, ())
    b.failed("10.0.0.1:1", 300, peer_id=None, refused=True)
    b.learn(entry(HIGH, "10.0.0.1:1"), 400)

    assert b.due(400, ()) == ["10.0.0.1:1"]


def test_a_departed_peer_is_not_looked_for() -> None:
    b = book("10.0.0.1:1")
    b.due(0, ())
    b.reached("10.0.0.1:1", HIGH)
    b.learn(entry(HIGH, "10.0.0.2:1"), 0)
    b.departed(HIGH, 1000)

    assert b.addresses() == ["10.0.0.1:1"]
    # The seed's address may get a new tenant.
    assert b.due(2999, ()) == []
    assert b.due(3000, ()) == ["10.0.0.1:1"]


def test_a_dns_seed_is_resolved_again_and_again_and_each_address_is_a_place() -> None:
    b = book("nodes.example.org:1")

    assert b.due(0, ()) == []
    assert b.names_due(0) == ["nodes.example.org:1"]
    assert b.names_due(999) == []
    b.resolved(["10.0.0.1:1", "10.0.0.2:1"], 0)
    assert b.due(0, ()) == ["10.0.0.1:1", "10.0.0.2:1"]
    assert b.names_due(1000) == ["nodes.example.org:1"]


def test_the_book_does_not_grow_without_end() -> None:
    b = book()
    for i in range(PLACES_MAX + 100):
        b.resolved([f"10.0.{i // 250}.{i % 250}:1"], 0)

    assert len(b.addresses()) == PLACES_MAX


def test_the_answer_for_a_forgotten_address_is_ignored() -> None:
    b = book()
    b.failed("10.0.0.1:1", 0, peer_id=None, refused=False)
    b.reached("10.0.0.1:1", LOW)

    assert b.addresses() == []


def test_a_bond_that_was_ended_for_a_lasting_reason_is_not_formed_again_at_once() -> None:
    b = book("10.0.0.1:1")
    b.due(0, ())
    b.reached("10.0.0.1:1", LOW)
    b.rejected(LOW, 0)

    assert b.due(7999, ()) == []
    assert b.due(8000, ()) == ["10.0.0.1:1"]


def test_the_number_of_addresses_dialled_at_the_same_time_is_bounded() -> None:
    b = book(*(f"10.0.0.{i}:1" for i in range(DIALS_MAX + 8)))
    first = b.due(0, ())
    assert len(first) == DIALS_MAX
    b.failed(first[0], 0, peer_id=None, refused=False)

    assert len(b.due(0, ())) == 1
