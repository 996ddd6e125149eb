"""The core of an admitted bond: heartbeats, renewal and expiry under a hand-driven clock."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from attestation.tickets.protocol import binding_of
from node.bonds.core.bond import Bond, BondAction, BondEnded, Deliver, Learned, Rejudge, Renew, SendControl
from node.bonds.settings import BondSettings
from node.bonds.wire.frames import FRAGMENT_BYTES
from node.bonds.wire.messages import (
    Admit,
    Attest,
    BondFormed,
    ClaimsChanged,
    Departure,
    Fragment,
    Hello,
    Message,
    Payload,
    PeerEntry,
    PeerEntryUpdate,
    Ping,
    Pong,
    Prove,
    Reattest,
    ReattestRequest,
    Refuse,
)
from node.bonds.wire.refusals import RefusalCode
from node.errors import RemoteProtocolError
from node.peers import BondLoss, Incarnation, Preference
from tests.support.bonds import BUILD

EXPORTER = b"e" * 32
BOB = Incarnation("bob", b"\x02" * 32)
ENTRY = PeerEntry(peer=BOB, preference=Preference.NORMAL, addresses=("h:1",), api_url=None)
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = BondSettings(tick_ms=100, ping_interval_ms=500, silence_ms=3000, payload_bytes_max=200_000)


class Driven:
    """A bond whose clocks a test turns; the wall clock goes with the monotonic one unless shifted."""

    def __init__(self, lifetime: timedelta | None = None) -> None:
        self.ms = 0
        self.shift = timedelta(0)
        numbers = count(1)
        self.bond = Bond(
            settings=SETTINGS,
            entry=ENTRY,
            exporter=EXPORTER,
            expires_at=None if lifetime is None else START + lifetime,
            nonce=lambda: next(numbers).to_bytes(32, "big"),
            now_ms=0,
            now=START,
        )

    @property
    def now(self) -> datetime:
        return START + timedelta(milliseconds=self.ms) + self.shift

    def run(self, ms: int, *, receives: bool = False) -> list[tuple[int, BondAction]]:
        """Tick for ``ms``, in steps; return what happened when. ``receives``: the peer sends all the time."""
        happened = []
        for _ in range(ms // SETTINGS.tick_ms):
            self.ms += SETTINGS.tick_ms
            if receives:
                self.bond.bytes_arrived(self.ms)
            happened += [(self.ms, action) for action in self.bond.tick(self.ms, self.now)]
        return happened


def test_a_busy_bond_needs_no_ping() -> None:
    assert Driven().run(10_000, receives=True) == []


def test_an_idle_bond_is_pinged_at_the_interval_and_closed_when_no_answer_comes() -> None:
    happened = Driven().run(3000)

    assert [at for at, action in happened if action == SendControl(Ping())] == [500, 1000, 1500, 2000, 2500]
    at, closed = happened[-1]
    assert at == 3000
    assert isinstance(closed, BondEnded)
    assert (closed.loss, closed.refusal.code, closed.refusal.reason) == (
        BondLoss.LOST,
        RefusalCode.TIMEOUT,
        "silent",
    )


def test_a_pause_of_our_own_process_does_not_count_against_the_peer() -> None:
    """The process was stopped for a minute: what the peer sent meanwhile is still in the socket."""
    driven = Driven()
    driven.run(1000, receives=True)
    driven.ms += 60_000

    assert not any(isinstance(action, BondEnded) for action in driven.bond.tick(driven.ms, driven.now))
    assert any(isinstance(action, BondEnded) for _, action in driven.run(3000))


def test_a_peer_whose_reading_is_paused_is_pinged_and_never_timed_out() -> None:
    driven = Driven(timedelta(seconds=60))
    driven.bond.reading = False
    happened = driven.run(10_000)

    assert happened == [(ms, SendControl(Ping())) for ms in range(500, 10_001, 500)]
    # Its ticket ends all the same.
    assert driven.run(60_000)[-1][1].refusal.reason == "ticket-expired"  # type: ignore[union-attr]


def test_a_ping_is_answered() -> None:
    assert Driven().bond.receive_untrusted(Ping()) == [SendControl(Pong())]
    assert Driven().bond.receive_untrusted(Pong()) == []


def test_a_ticket_without_end_is_never_renewed() -> None:
    assert Driven().run(100_000, receives=True) == []


def test_renewal_is_asked_for_once_when_two_thirds_of_the_life_are_over() -> None:
    driven = Driven(timedelta(seconds=30))
    happened = driven.run(29_900, receives=True)

    assert happened == [(20_000, SendControl(ReattestRequest(nonce=(1).to_bytes(32, "big"))))]


def test_a_renewed_ticket_starts_anew() -> None:
    driven = Driven(timedelta(seconds=30))
    ((_, asked),) = driven.run(20_000, receives=True)
    assert isinstance(asked, SendControl)
    assert isinstance(asked.message, ReattestRequest)
    nonce = asked.message.nonce
    actions = driven.bond.receive_untrusted(Reattest(nonce=nonce, tickets={"t": b"x"}))
    driven.bond.renewed(driven.now + timedelta(seconds=60), driven.ms, driven.now)

    assert actions == [Rejudge({"t": b"x"}, binding_of(EXPORTER, nonce))]
    assert [at for at, _ in driven.run(59_900, receives=True)] == [60_000]


def test_tickets_that_were_not_asked_for_end_the_bond() -> None:
    driven = Driven(timedelta(seconds=30))
    unasked = Reattest(nonce=(1).to_bytes(32, "big"), tickets={})
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        driven.bond.receive_untrusted(unasked)
    driven.run(20_000, receives=True)
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        driven.bond.receive_untrusted(Reattest(nonce=b"o" * 32, tickets={}))
    driven.bond.receive_untrusted(unasked)
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        driven.bond.receive_untrusted(unasked)


def test_a_peer_whose_claims_changed_is_asked_for_new_tickets_at_once_and_not_too_often() -> None:
    driven = Driven()
    asked: list[int] = []
    for _ in range(5):
        driven.bond.receive_untrusted(ClaimsChanged())
        happened = driven.run(500, receives=True)
        asked += [at for at, _ in happened]
        for _, action in happened:
            assert isinstance(action, SendControl)
            assert isinstance(action.message, ReattestRequest)
            driven.bond.receive_untrusted(Reattest(nonce=action.message.nonce, tickets={}))

    assert asked == [100, 1100, 2100]


def test_a_peer_that_answers_no_request_is_asked_once_however_often_its_claims_change() -> None:
    driven = Driven()
    asked: list[int] = []
    for _ in range(20):
        driven.bond.receive_untrusted(ClaimsChanged())
        asked += [at for at, _ in driven.run(500, receives=True)]

    assert asked == [100]


def test_a_peer_cannot_make_us_fetch_one_quote_after_another() -> None:
    bond = Driven().bond
    bond.receive_untrusted(ReattestRequest(nonce=b"1" * 32))
    with pytest.raises(RemoteProtocolError, match="before the last one"):
        bond.receive_untrusted(ReattestRequest(nonce=b"2" * 32))
    bond.answered()

    assert len(bond.receive_untrusted(ReattestRequest(nonce=b"2" * 32))) == 1


def test_a_renewal_request_is_answered_for_this_connection_and_nonce() -> None:
    actions = Driven().bond.receive_untrusted(ReattestRequest(nonce=b"n" * 32))

    assert actions == [Renew(b"n" * 32, binding_of(EXPORTER, b"n" * 32))]


@pytest.mark.parametrize(
    ("shift", "ends_at"),
    [(timedelta(0), 30_000), (timedelta(days=-1), 30_000), (timedelta(seconds=20), 10_000)],
    ids=["true-clock", "set-back", "set-forward"],
)
def test_the_hosts_clock_can_only_shorten_a_tickets_life(shift: timedelta, ends_at: int) -> None:
    driven = Driven(timedelta(seconds=30))
    driven.shift = shift
    happened = driven.run(40_000, receives=True)
    at, closed = next((at, action) for at, action in happened if isinstance(action, BondEnded))

    assert at == ends_at
    assert closed.loss is BondLoss.EXPIRED
    assert closed.refusal.reason == "ticket-expired"


def test_a_departure_is_no_loss() -> None:
    (closed,) = Driven().bond.receive_untrusted(Departure())

    assert isinstance(closed, BondEnded)
    assert closed.loss is BondLoss.DEPARTED
    assert closed.by_peer


def test_the_peers_reason_is_kept() -> None:
    (closed,) = Driven().bond.receive_untrusted(Refuse(code=30403, reason="rival-cluster"))

    assert isinstance(closed, BondEnded)
    assert (closed.refusal.code, closed.refusal.reason) == (RefusalCode.NOT_ALLOWED, "rival-cluster")


def test_where_others_are_is_learned() -> None:
    carol = PeerEntry(
        peer=Incarnation("carol", b"\x03" * 32),
        preference=Preference.NORMAL,
        addresses=("c:1",),
        api_url=None,
    )

    assert Driven().bond.receive_untrusted(BondFormed(entry=carol)) == [Learned(carol)]


@pytest.mark.parametrize(
    "change",
    [{"peer": Incarnation("bobby", BOB.id)}, {"preference": Preference.OBSERVER}],
    ids=["name", "preference"],
)
def test_a_peer_cannot_change_its_identity(change: dict[str, Any]) -> None:
    fields = {
        "peer": BOB,
        "preference": Preference.NORMAL,
        "addresses": ("h:2",),
        "api_url": None,
    }
    bond = Driven().bond
    moved = PeerEntry(**fields)

    assert bond.receive_untrusted(PeerEntryUpdate(entry=moved)) == [Learned(moved)]
    assert bond.entry == moved
    with pytest.raises(RemoteProtocolError, match="another member"):
        bond.receive_untrusted(PeerEntryUpdate(entry=PeerEntry(**(fields | change))))


def test_the_two_streams_are_put_together_apart() -> None:
    bond = Driven().bond
    part = b"p" * FRAGMENT_BYTES

    assert bond.receive_untrusted(Fragment(1, last=False, data=part)) == []
    assert bond.receive_untrusted(Payload(b"urgent")) == [Deliver(b"urgent")]
    assert bond.receive_untrusted(Fragment(0, last=False, data=part)) == []
    assert bond.receive_untrusted(Fragment(0, last=True, data=b"0")) == [Deliver(part + b"0")]
    assert bond.receive_untrusted(Fragment(1, last=True, data=b"1")) == [Deliver(part + b"1")]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([Fragment(0, last=False, data=b"p" * FRAGMENT_BYTES), Payload(b"x")], "unexpected-message"),
        ([Fragment(0, last=False, data=b"short")], "malformed-message"),
        ([Fragment(0, last=False, data=b"")], "malformed-message"),
        ([Fragment(0, last=False, data=b"p" * FRAGMENT_BYTES)] * 4, "payload-too-large"),
    ],
    ids=["payload-inside-another", "part-not-full", "empty-part", "too-large"],
)
def test_fragments_cannot_be_abused(messages: list[Message], reason: str) -> None:
    bond = Driven().bond
    *before, last = messages
    for message in before:
        assert bond.receive_untrusted(message) == []
    with pytest.raises(RemoteProtocolError) as caught:
        bond.receive_untrusted(last)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "message",
    [
        Hello(
            versions=(2,),
            network_id=b"n" * 32,
            group_id=b"g" * 32,
            nonce=b"x" * 32,
            name="bob",
            build=BUILD,
        ),
        Prove(proof=b"p" * 32, entry=ENTRY),
        Attest(tickets={}),
        Admit(peers=()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_handshake_is_over(message: Message) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Driven().bond.receive_untrusted(message)

    assert caught.value.reason == "unexpected-message"
