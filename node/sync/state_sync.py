"""How a member that is too far behind for the log gets the group's state: the protocol.

    provider    serves the snapshots that its member holds
    session     one member's fetch of one snapshot, whose evidence the group has committed

The core decides when a session begins and ends, and carries the payloads of both sides, which it does not
read. Whatever a session hands over is installed only if it is, byte for byte, what the evidence is about. An
exception of either side is named, and never ends the member.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from node.peers import Incarnation
from node.sync.evidence import CHUNK_BYTES_MAX, Anchor, StateEvidence
from node.sync.keeper import Snapshot

ASK_BYTES_MAX: Final = 64 * 1024  # of a session's payload
ANSWER_BYTES_MAX: Final = CHUNK_BYTES_MAX + 4096  # of a provider's: a chunk and its proof
ASKS_MAX: Final = 4096  # payloads that a session sends in one turn
ANSWERS_MAX: Final = 64  # payloads that a provider sends for one of a session's
SIGNATURE_CHARACTERS_MAX: Final = 200


class Target(Struct, frozen=True):
    """What a session is to fetch.

    Attributes:
        evidence: about the snapshot.
        own: the newest snapshot that this member holds itself, which is older; None: it holds none.
        patience_ms: after this time without an answer a peer counts as late.
    """

    evidence: StateEvidence
    own: Snapshot | None
    patience_ms: int


class SyncRequest(NamedTuple):
    """A payload of 1 to ``ASK_BYTES_MAX`` bytes for the provider of a peer that offers the snapshot."""

    to: Incarnation
    payload: bytes


class Turn(NamedTuple):
    """What a session wants now.

    Attributes:
        asks: to send, at most ``ASKS_MAX``.
        due_ms: when to call ``tick`` again, unless something comes before.
        given_up: peers that shall no longer count as sources, because they do not answer.
    """

    asks: Sequence[SyncRequest]
    due_ms: int
    given_up: Sequence[Incarnation] = ()


class SyncProgress(NamedTuple):
    """``done`` of ``total`` pieces, of any size, are here: whole numbers, ``done`` at most ``total``.

    A session is ended that for 30 election timeouts gains no 1024th of the whole beyond the most it ever had.
    """

    done: int
    total: int


class SyncProvider(ABC):
    """Serves snapshots. A member has one for each cluster that it is in. It must not read clocks or draw."""

    # Not abstract: most providers need nothing of the moment of a marker.
    def marker_applied(self, anchor: Anchor) -> None:  # noqa: B027
        """Note whatever is wanted of the machine's state, which now is exactly that at ``anchor``.

        The snapshot is complete some time later, and gets evidence, or neither.
        """

    @abstractmethod
    def message(self, peer: Incarnation, snapshot: Snapshot, payload: bytes) -> Sequence[bytes]:
        """Return the answers to a payload of a session that fetches ``snapshot``, for the same peer.

        At most ``ANSWERS_MAX``, each of 1 to ``ANSWER_BYTES_MAX`` bytes.

        Raises:
            RemoteProtocolError: no session sends this payload; the bond with ``peer`` ends.
        """


class SyncSession(ABC):
    """The fetch of one snapshot. It must not read clocks or draw: equal calls have equal effects."""

    @abstractmethod
    def offer(self, peer: Incarnation) -> None:
        """Note that ``peer`` serves the snapshot."""

    @abstractmethod
    def lose(self, peer: Incarnation) -> None:
        """Note that ``peer`` does not serve it any more."""

    @abstractmethod
    def message(self, peer: Incarnation, payload: bytes) -> None:
        """Take a payload of the provider of ``peer``, which may come late or twice.

        Raises:
            RemoteProtocolError: no provider sends it; the bond with ``peer`` ends.
        """

    @abstractmethod
    def tick(self, now_ms: int) -> Turn:
        """Return what to send now. Called after every other call, and when the last turn named."""

    @property
    @abstractmethod
    def progress(self) -> SyncProgress:
        """How much is here."""

    @abstractmethod
    def loading(self) -> Iterator[bytes] | None:
        """Return the whole snapshot in order, in pieces of 1 byte to 1 MiB; None while some is missing."""


class StateSync(ABC):
    """A way of catching up, which ``StateMachine.state_sync`` chooses for the whole group."""

    @property
    @abstractmethod
    def signature(self) -> str:
        """Stable name and version, such as ``example.org/hot-first/v1``. Part of the GroupId."""

    @property
    def takes_snapshots(self) -> bool:
        """Whether the group takes snapshots and cuts its log behind them."""
        return True

    def provider(self) -> SyncProvider:
        """Return a new provider."""
        raise NotImplementedError(f"{type(self).__name__} serves no snapshots")

    def session(self, target: Target) -> SyncSession:
        """Return a new session."""
        raise NotImplementedError(f"{type(self).__name__} fetches no snapshots")


class LogReplaySync(StateSync):
    """The log alone: no snapshots are taken, no log is ever cut, and a laggard pulls the entries.

    Every other way needs that pull too, for the entries after a snapshot; it is in ``node/raft/pull.py``.
    """

    @property
    def signature(self) -> str:
        return "bondstone/log-replay/v1"

    @property
    def takes_snapshots(self) -> bool:
        return False
