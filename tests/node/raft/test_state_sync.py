"""A state sync of a user: whatever it does, only the group's state is installed, and no member ends by it (3.5)."""

from itertools import repeat

import pytest

from node.errors import RemoteProtocolError
from node.features import Features
from node.raft.entries import INTEGER_MAX
from node.raft.events import Halted, Received, SyncFailed, Violation
from node.raft.messages import SyncAnswer, SyncAsk
from node.raft.snapshots import SYNC_RESTS_MS
from node.raft.types import Bootstrap, Cursor
from node.sync.evidence import CHUNK_BYTES_MAX
from node.sync.pace import ASKS_PER_S, BURST, WAITING_MAX
from node.sync.state_sync import (
    ANSWER_BYTES_MAX,
    ANSWERS_MAX,
    ASK_BYTES_MAX,
    ASKS_MAX,
    StateSync,
    SyncProgress,
    SyncProvider,
    SyncRequest,
    SyncSession,
    Turn,
)
from tests.node.raft.cluster import RaftCluster, Register
from tests.node.raft.test_snapshots import SMALL, base, notices, write

PIECE = 100


class Pieces(StateSync):
    """One piece after the other, from one peer. ``faults`` replaces methods of its parts."""

    signature = "test/pieces/v1"

    def __init__(self, **faults):
        self.faults = faults

    def provider(self):
        return self._with_faults(PieceProvider())

    def session(self, target):
        return self._with_faults(PieceSession(target))

    def _with_faults(self, part):
        for name, fault in self.faults.items():
            of, _, method = name.partition("_")
            if of in type(part).__name__.lower():
                setattr(part, method, fault)
        return part


class PieceProvider(SyncProvider):
    def message(self, peer, snapshot, payload):
        return [snapshot.read(int(payload) * PIECE, PIECE)]


class PieceSession(SyncSession):
    def __init__(self, target):
        self.size = target.evidence.size
        self.sources = []
        self.pieces = []
        self.asked = -1

    def offer(self, peer):
        self.sources.append(peer)

    def lose(self, peer):
        self.sources.remove(peer)
        self.asked = -1

    def message(self, peer, payload):
        self.pieces.append(payload)

    def tick(self, now_ms):
        asks = []
        if self.sources and self.asked != len(self.pieces) and self.loading() is None:
            self.asked = len(self.pieces)
            asks.append(SyncRequest(self.sources[0], b"%d" % self.asked))
        return Turn(asks, now_ms + 1000)

    @property
    def progress(self):
        return SyncProgress(len(self.pieces), self.size // PIECE + 1)

    def loading(self):
        return iter(self.pieces) if len(self.pieces) * PIECE >= self.size else None


class Synced(Register):
    """A machine with this sync."""

    def __init__(self, sync):
        super().__init__()
        self._sync = sync

    def state_sync(self):
        return self._sync


def group(sync=None, count=60):
    """Three members that have cut their logs."""
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name, machine=Synced(sync or Pieces()))
    cluster.elect()
    write(cluster, count)
    cluster.run_until(lambda: all(base(cluster, name) for name in cluster.nodes))
    cluster.run(2000)
    return cluster


def raising(*_args):
    raise ZeroDivisionError("a bug of the user")


def test_a_joiner_catches_up_by_the_sync_of_the_machine():
    cluster = group()
    asked, shown = [], []

    def watch(sender, to, message):
        if isinstance(message, SyncAsk):
            asked.append(message.payload)
            shown.append(node.status().install)
        return False

    cluster.drop = watch
    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(Pieces()))
    cluster.run_until(lambda: node.me in cluster.nodes[cluster.elect()].members)

    assert [one.done for one in shown] == list(range(len(asked)))
    assert {(one.count, one.sources) for one in shown} == {(len(asked), 3)}
    assert set(cluster.values().values()) == {60}
    assert asked == [b"%d" % number for number in range(len(asked))]
    assert not cluster.violations()
    assert not notices(cluster, "d", SyncFailed)


FAULTS_OF_SESSIONS = {
    "tick": raising,
    "message": raising,
    "offer": raising,
    "loading": raising,
    "an ask that is no bytes": lambda now_ms: Turn([SyncRequest(None, "text")], now_ms + 1),
    "an empty ask": lambda now_ms: Turn([SyncRequest(None, b"")], now_ms + 1),
    "a large ask": lambda now_ms: Turn([SyncRequest(None, bytes(ASK_BYTES_MAX + 1))], now_ms + 1),
    "many asks": lambda now_ms: Turn([SyncRequest(None, b"0")] * (ASKS_MAX + 1), now_ms + 1),
    "no turn": lambda now_ms: None,
}


@pytest.mark.parametrize("fault", FAULTS_OF_SESSIONS)
def test_a_session_that_fails_is_named_and_its_member_goes_on_without_it(fault):
    cluster = group()
    method = fault if hasattr(PieceSession, fault) else "tick"
    sync = Pieces(**{f"session_{method}": FAULTS_OF_SESSIONS[fault]})
    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(sync))
    raised = []
    node.on_raised = lambda what, exc: raised.append((what, exc))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed))

    (failed,) = notices(cluster, "d", SyncFailed)
    ((what, exc),) = raised
    assert (failed.part, failed.reason) == ("session", type(exc).__name__)
    assert what == "state sync (session)"
    assert node.halted is None
    assert node.tenure.installing is None
    assert node.replica.applied == Cursor(0, 0)
    cluster.run(SYNC_RESTS_MS // 2)
    assert len(notices(cluster, "d", SyncFailed)) == 1  # it rests
    sync.faults.clear()
    cluster.run_until(lambda: cluster.values()["d"] == 60, 30_000)
    write(cluster, 1)


def test_a_session_that_cannot_be_made_is_named_too():
    cluster = group()

    class Unmade(Pieces):
        session = raising

    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(Unmade()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed))
    assert notices(cluster, "d", SyncFailed) == [SyncFailed("session", "ZeroDivisionError")]
    assert (node.halted, node.replica.applied) == (None, Cursor(0, 0))


FALSE_STATES = {
    "a flipped bit": lambda pieces: [bytes([pieces[0][0] ^ 1]) + pieces[0][1:], *pieces[1:]],
    "the end is missing": lambda pieces: pieces[:-1],
    "too much": lambda pieces: [*pieces, b"more"],
    "nothing": lambda pieces: [],
    "without end": lambda pieces: iter(lambda: bytes(1000), None),
}


@pytest.mark.parametrize("false", FALSE_STATES)
def test_a_state_that_is_not_the_groups_is_never_installed(false):
    cluster = group()

    class Lying(PieceSession):
        def loading(self):
            return None if super().loading() is None else iter(FALSE_STATES[false](self.pieces))

    class LyingSync(Pieces):
        def session(self, target):
            return Lying(target)

    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(LyingSync()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed))
    assert notices(cluster, "d", SyncFailed) == [SyncFailed("session", "state-not-proven")]
    assert (node.halted, node.replica.applied, node.log.last().index) == (None, Cursor(0, 0), 0)
    assert node.replica.machine.value == 0
    write(cluster, 3)


@pytest.mark.parametrize("pieces", [["text"], [bytes(CHUNK_BYTES_MAX + 1)], [None], repeat(b"")])
def test_a_piece_that_is_no_bytes_empty_or_too_large_is_not_looked_at(pieces):
    """Empty pieces without end are what a reader gives that does not notice the end: they held the member up."""
    cluster = group()

    class Odd(PieceSession):
        def loading(self):
            return iter(pieces)

    class OddSync(Pieces):
        def session(self, target):
            return Odd(target)

    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(OddSync()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed))
    assert notices(cluster, "d", SyncFailed) == [SyncFailed("session", "SyncContractError")]
    assert node.halted is None


@pytest.mark.parametrize("progress", [(0.5, 1), (-1, 10), (3, 2), (0, 1 << 64), ("1", 2), (True, True), (1,)])
def test_a_progress_that_is_no_count_is_named_and_never_reported_to_a_peer(progress):
    """It is part of the member's use of memory, which peers refuse if it is no count, with the bond."""
    cluster = group()

    class Odd(PieceSession):
        @property
        def progress(self):
            return progress

    class OddSync(Pieces):
        def session(self, target):
            return Odd(target)

    cluster.drop = lambda sender, to, message: isinstance(message, SyncAnswer)
    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(OddSync()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed))
    (failed,) = notices(cluster, "d", SyncFailed)
    assert (failed.part, failed.reason) in {("session", "SyncContractError"), ("session", "TypeError")}
    assert node.halted is None
    assert type(node.memory_use().total) is int


def test_a_session_without_progress_is_ended_by_name():
    cluster = group()
    cluster.drop = lambda sender, to, message: isinstance(message, SyncAnswer)
    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(Pieces()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed), 120_000)
    assert notices(cluster, "d", SyncFailed) == [SyncFailed("session", "stalled")]
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: node.replica.machine.value == 60, 60_000)


@pytest.mark.parametrize(
    "progress",
    [
        lambda turn: SyncProgress(turn % 2, 10),
        lambda turn: SyncProgress(turn, INTEGER_MAX),
        lambda turn: SyncProgress(turn, 2 * turn),
    ],
    ids=["to and fro", "one of very many", "the whole grows as well"],
)
def test_a_session_whose_progress_changes_for_ever_is_ended_by_name(progress):
    """It asks for the same piece again and again: the member would never try anew, and never have the state."""
    cluster = group()

    class Restless(PieceSession):
        turns = 0

        def tick(self, now_ms):
            self.turns += 1
            return Turn((), now_ms + 100)

        @property
        def progress(self):
            return progress(self.turns)

    class RestlessSync(Pieces):
        def session(self, target):
            return Restless(target)

    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(RestlessSync()))
    cluster.run_until(lambda: notices(cluster, "d", SyncFailed), 120_000)
    assert notices(cluster, "d", SyncFailed) == [SyncFailed("session", "stalled")]
    assert node.halted is None


FAULTS_OF_PROVIDERS = {
    "raises": raising,
    "no bytes": lambda *_: ["text"],
    "empty": lambda *_: [b""],
    "large": lambda *_: [bytes(ANSWER_BYTES_MAX + 1)],
    "many": lambda *_: [b"x"] * (ANSWERS_MAX + 1),
    "nothing at all": lambda *_: None,
}


@pytest.mark.parametrize("fault", FAULTS_OF_PROVIDERS)
def test_a_provider_that_fails_is_named_and_rests_and_its_member_goes_on(fault):
    cluster = group()
    bad = cluster.nodes["a"]  # a session asks it first
    bad.sync = Pieces(provider_message=FAULTS_OF_PROVIDERS[fault])
    bad.tenure.snaps.provider = None
    raised = []
    bad.on_raised = lambda what, exc: raised.append(what)
    node = cluster.add("d", Bootstrap.JOIN, machine=Synced(Pieces()))
    name = bad.me.name
    cluster.run_until(lambda: notices(cluster, name, SyncFailed))

    assert len(notices(cluster, name, SyncFailed)) == len(raised) == 1
    assert raised == ["state sync (provider)"]
    assert bad.halted is None
    bad.sync.faults.clear()
    bad.tenure.snaps.provider = None
    cluster.run_until(lambda: node.replica.machine.value == 60, 120_000)
    assert not cluster.violations()


def test_a_provider_that_raises_at_a_marker_costs_no_snapshot():
    cluster = group(Pieces(provider_marker_applied=raising))
    assert all(notices(cluster, name, SyncFailed) for name in "abc")
    assert not any(notices(cluster, name, Halted) for name in "abc")
    write(cluster, 1)


def test_a_payload_that_a_provider_or_session_refuses_is_a_violation_of_its_sender():
    def refuse(*_):
        raise RemoteProtocolError("not-of-this-sync", "no")

    cluster = group()
    bad = cluster.nodes[cluster.followers()[0]]
    bad.tenure.snaps.provider = PieceProvider()
    bad.tenure.snaps.provider.message = refuse
    joiner = cluster.add("d", Bootstrap.JOIN, machine=Synced(Pieces()))
    root = bad.tenure.snaps.keeper.held.evidence.root
    cluster.deliver()
    cluster.step(bad.me.name, Received(joiner.me, SyncAsk(bad.cluster, root, b"?")))
    assert Violation(joiner.me, "not-of-this-sync") in cluster.notices[bad.me.name]

    other = group()
    node = other.add("d", Bootstrap.JOIN, machine=Synced(Pieces(session_message=refuse)))
    other.run_until(lambda: other.violations())
    assert Violation(other.nodes["a"].me, "not-of-this-sync") in other.notices["d"]
    assert node.halted is None


def test_a_peer_that_asks_without_end_is_answered_at_a_bounded_rate():
    cluster = group()
    node = cluster.nodes[cluster.leader()]
    peer = cluster.nodes[cluster.followers()[0]].me
    root = node.tenure.snaps.keeper.held.evidence.root
    cluster.run(1000)
    answered = []
    cluster.drop = lambda sender, to, message: isinstance(message, SyncAnswer) and not answered.append(to)
    for _ in range(10 * BURST):
        cluster.step(node.me.name, Received(peer, SyncAsk(node.cluster, root, b"0")))
    cluster.deliver()
    assert len(answered) == BURST
    before = cluster.now
    cluster.run(30)
    assert BURST < len(answered) <= BURST + (cluster.now - before) * ASKS_PER_S // 1000
    cluster.run(1000)
    assert len(answered) == BURST + WAITING_MAX
    assert node.tenure.snaps.pace.due_ms() is None


def test_below_level_2_no_state_sync_is_used():
    cluster = RaftCluster(**SMALL)
    for name in "abc":
        cluster.add(name, features=Features(1, 1), machine=Synced(Pieces()))
    cluster.elect()
    write(cluster, 60)
    cluster.run(2000)
    assert all(node.tenure.snaps.provider is None for node in cluster.nodes.values())
