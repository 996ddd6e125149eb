"""What a member has signed before it is in a cluster (3.9): one genesis at a time.

A signature is a vote in the genesis term. It is free again in two cases: this member is in the cluster of
that genesis, or the collector, the only member that could use it, announces that it never will.
"""

from dataclasses import dataclass, field
from typing import Final

from node.errors import RemoteProtocolError
from node.features import LOWEST, Levels
from node.peers import Incarnation
from node.raft.election import Election
from node.raft.entries import INTEGER_MAX, decode_config_untrusted, genesis_digest
from node.raft.events import FoundingStalled, SaveVote
from node.raft.messages import GenesisProposal
from node.raft.types import Entry, EntryKind

STALLED_AFTER: Final = 10  # election timeouts without the collector of a genesis that we signed
GENESIS_TERM: Final = 1


@dataclass(slots=True)
class FoundingState:
    """The founding state of this member before it is in a cluster.

    Attributes:
        visible: possible founders that we see, as last sent in our Presence.
        round: counts our proposals.
        abandoned: the last of the proposals that we will never complete.
        nonce: of the genesis that we collect signatures for; None if we collect none.
        voters: of that genesis.
        levels: of that genesis.
        signatures: received until now.
        signed: the genesis that has our signature, and its collector.
        reborn: trust_disk: an earlier process of this incarnation may have collected; it no longer can.
        collector_seen_ms: when its collector was last bonded.
        dissolved: clusters that we left because they gave themselves up.
    """

    visible: tuple[Incarnation, ...] = ()
    round: int = 0
    abandoned: int = 0
    nonce: bytes | None = None
    voters: tuple[Incarnation, ...] = ()
    levels: Levels | None = None
    signatures: dict[Incarnation, bytes] = field(default_factory=dict)
    signed: tuple[Incarnation, GenesisProposal] | None = None
    may_have_collected: bool = False
    collector_seen_ms: int = 0
    stalled: bool = False
    presence_due: int = 0
    dissolved: tuple[bytes, ...] = ()


class Signing(Election):
    """Our signature, and others' under a genesis."""

    founding_state: FoundingState

    def _free_signature(self) -> None:
        """Free our signature: its collector will never use it.

        In a later term the disk holds votes that count for more.
        """
        if self.tenure.term <= GENESIS_TERM:
            self._set_signed(None)
        else:
            self.founding_state.signed = None

    def _set_signed(self, signed: tuple[Incarnation, GenesisProposal] | None) -> None:
        """Our signature is our vote in the genesis term: durable before a peer receives it (trust_disk)."""
        self.founding_state.signed = signed
        self._record(SaveVote(GENESIS_TERM, None if signed is None else signed[0]))

    def _remember_signature(self, term: int, collector: Incarnation | None) -> None:
        """Remember for which ``collector``, if any, an earlier process of us signed (trust_disk).

        If ``term`` is later than a genesis's, that process was in a cluster, perhaps one that it founded. Its
        last vote there does not show which member collected.
        """
        self.founding_state.may_have_collected = True
        if term > GENESIS_TERM or collector not in (None, self.me):
            # The round is not known, so no message of the collector frees it; a new incarnation does.
            signed_for = collector or self.me
            unknown = Levels(LOWEST, self.build.family, LOWEST)
            proposal = GenesisProposal(INTEGER_MAX + 1, bytes(16), (signed_for,), unknown)
            self.founding_state.signed = (signed_for, proposal)

    def _is_signature_out(self) -> bool:
        """Return whether a genesis of another cluster than the one we leave may still use our signature."""
        signed = self.founding_state.signed
        if signed is None or self.log.last().index == 0:
            return signed is not None
        _, founding = decode_config_untrusted(self._first_entry().payload)
        return founding is None or founding.nonce != signed[1].nonce

    def _first_entry(self) -> Entry:
        """Return the first entry of our cluster's log, which may be cut off the log; only if it has one."""
        if self.log.base.index == 0:
            return self.log.get(1)
        genesis = self.tenure.replica.genesis
        assert genesis is not None  # only what is applied is cut off
        return genesis

    def _watch_collector(self) -> None:
        """Report a collector that is gone with our signature: only a new incarnation can sign again."""
        state = self.founding_state
        if state.signed is None or state.signed[0] == self.me:
            return
        if state.signed[0] in self.peers:
            state.collector_seen_ms = self.now
        elif not state.stalled:
            patience = STALLED_AFTER * self.settings.election_timeout_ms
            if self.now - state.collector_seen_ms >= patience:
                state.stalled = True
                self._notice(FoundingStalled(state.signed[0]))

    def _is_genesis(self, entry: Entry) -> bool:
        """Return whether every founder signed ``entry``: no genesis with a missing signature exists."""
        if entry.index != 1 or entry.kind is not EntryKind.CONFIG or entry.term != GENESIS_TERM:
            return False
        try:
            config, founding = decode_config_untrusted(entry.payload)
        except RemoteProtocolError:
            return False
        if founding is None or config.epoch != 1:
            return False
        digest = genesis_digest(self.group_id, founding.nonce, config.voters, founding.levels)
        return all(
            self.credentials.verify(voter, digest, signature)
            for voter, signature in zip(config.voters, founding.signatures, strict=True)
        )
