"""How many requests wait: a member looks at them in no step in which none does."""

from node.peers import Incarnation
from node.sync.pace import BURST, WAITING_MAX, Pace

ONE, OTHER = Incarnation("one", bytes(32)), Incarnation("other", bytes(32))


def test_every_request_that_waits_counts_until_it_is_taken():
    pace = Pace()
    for number in range(WAITING_MAX + 1):
        pace.ask(ONE, b"root", b"%d" % number)
    pace.ask(OTHER, b"root", b"")
    assert pace.waiting == WAITING_MAX + 1  # one of the first peer's was dropped
    taken = len(pace.due(BURST // 2))
    assert 0 < taken < WAITING_MAX
    assert pace.waiting == WAITING_MAX + 1 - taken
    while pace.waiting:
        at_ms = pace.due_ms()
        assert at_ms is not None
        assert pace.due(at_ms)
    assert pace.due_ms() is None


def test_what_a_peer_asked_for_whose_bond_is_gone_counts_no_more():
    pace = Pace()
    pace.ask(ONE, b"root", b"")
    pace.ask(OTHER, b"root", b"")
    pace.forget(ONE)
    assert pace.waiting == 1
    pace.forget(Incarnation("unknown", bytes(32)))
    assert [peer for peer, _, _ in pace.due(1)] == [OTHER]
    assert pace.waiting == 0
