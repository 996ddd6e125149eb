"""What a member has signed before it is in a cluster (3.9): one genesis at a time.

A signature is a vote in the genesis term. It is free again in two cases: this member is in the cluster of
that genesis, or the collector, the only member that could use it, announces that it never will.
"""

from collections.abc import Container
from typing import Final, Protocol

from node.features import LOWEST, Build, Levels
from node.peers import Incarnation
from node.raft.entries import INTEGER_MAX, Signatures
from node.raft.events import FoundingStalled, Notice, Record, SaveVote
from node.raft.messages import GenesisProposal
from node.raft.tenure import Tenure
from node.raft.types import Settings

STALLED_AFTER: Final = 10  # election timeouts without the collector of a genesis that we signed
GENESIS_TERM: Final = 1


class SigningHost(Protocol):
    """What a signature needs of the member that gives it."""

    @property
    def me(self) -> Incarnation: ...
    @property
    def build(self) -> Build: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def now(self) -> int: ...
    @property
    def peers(self) -> Container[Incarnation]: ...
    @property
    def tenure(self) -> Tenure: ...

    def _record(self, record: Record) -> None: ...
    def _notice(self, notice: Notice) -> None: ...


class Signing:
    """This member's signature under a genesis. It outlives a cluster.

    Attributes:
        given: the collector of the genesis that has our signature, and that genesis; None if it is free.
    """

    def __init__(self, host: SigningHost) -> None:
        self.given: tuple[Incarnation, GenesisProposal] | None = None
        self._host = host
        self._collector_seen_ms = 0  # when the collector was last bonded
        self._stalled = False  # and it was reported that it is gone

    def give(self, collector: Incarnation, genesis: GenesisProposal) -> None:
        """Sign: the vote in the genesis term, durable before a peer receives it (trust_disk)."""
        self.given = (collector, genesis)
        self._collector_seen_ms = self._host.now
        self._host._record(SaveVote(GENESIS_TERM, collector))

    def take_back(self) -> None:
        """Free it: this member itself collects for that genesis, and will never complete it."""
        self.given = None
        self._host._record(SaveVote(GENESIS_TERM, None))

    def on_abandoned(self, collector: Incarnation, abandoned: int) -> None:
        """Free it if ``collector`` announces that it never completes what it proposed up to that round."""
        if self.given is None or self.given[0] != collector or abandoned < self.given[1].round:
            return
        self.given = None
        if self._host.tenure.term <= GENESIS_TERM:  # in a later term the disk holds votes that count for more
            self._host._record(SaveVote(GENESIS_TERM, None))

    def on_left(self, founding: Signatures | None) -> None:
        """Free it if it was used in the cluster that this member leaves.

        Args:
            founding: of that cluster's genesis; None if the genesis was not signed, or is not known.
        """
        if self.given is not None and founding is not None and founding.nonce == self.given[1].nonce:
            self.given = None

    def record_again(self) -> None:
        """Record it behind what clears the disk of votes."""
        if self.given is not None:
            self._host._record(SaveVote(GENESIS_TERM, self.given[0]))

    def recover(self, term: int, collector: Incarnation | None) -> None:
        """Remember for which ``collector``, if any, an earlier process of us signed (trust_disk).

        If ``term`` is later than a genesis's, that process was in a cluster, perhaps one that it founded. Its
        last vote there does not show which member collected.
        """
        me = self._host.me
        if term > GENESIS_TERM or collector not in (None, me):
            # The round is not known, so no message of the collector frees it; a new incarnation does.
            signed_for = collector or me
            unknown = Levels(LOWEST, self._host.build.family, LOWEST)
            self.given = (signed_for, GenesisProposal(INTEGER_MAX + 1, bytes(16), (signed_for,), unknown))

    def watch_collector(self) -> None:
        """Report a collector that is gone with our signature: only a new incarnation can sign again."""
        host = self._host
        if self.given is None or self.given[0] == host.me:
            return
        collector = self.given[0]
        if collector in host.peers:
            self._collector_seen_ms = host.now
        elif not self._stalled:
            patience = STALLED_AFTER * host.settings.election_timeout_ms
            if host.now - self._collector_seen_ms >= patience:
                self._stalled = True
                host._notice(FoundingStalled(collector))
