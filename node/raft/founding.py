"""How a cluster comes into being (3.9).

    init     founds {self}
    join     never founds: enters the first cluster it meets
    expect   n bonded members that all see the same set; the smallest collects every signature
    auto     alone for a while: founds {self}; yields to a rival if that loses no data

An incarnation is in one cluster at a time, and signs one genesis at a time (see ``signing``).
"""

from dataclasses import dataclass
from typing import Final

from node.features import Levels, common_levels
from node.peers import Incarnation, Preference
from node.raft.election import Election
from node.raft.entries import (
    Signatures,
    encode_config,
    genesis_digest,
    make_entry,
)
from node.raft.messages import (
    AvailReply,
    Genesis,
    GenesisProposal,
    GenesisSignature,
    Presence,
)
from node.raft.quorum import Config
from node.raft.replication import AUTO_GENESIS
from node.raft.signing import GENESIS_TERM, Signing
from node.raft.types import LOG_START, Bootstrap, Cursor, Entry, EntryKind

PRESENCE_AGAIN_MS: Final = 500
GENESIS: Final = "genesis"  # why the first Cfg was written


@dataclass(frozen=True, slots=True)
class Collecting:
    """A genesis that only this member can complete.

    Attributes:
        genesis: as proposed to its founders.
        signatures: received until now, and our own.
    """

    genesis: GenesisProposal
    signatures: dict[Incarnation, bytes]

    def missing(self) -> list[Incarnation]:
        """Return the founders whose signature is not here yet."""
        return [founder for founder in self.genesis.voters if founder not in self.signatures]

    def complete(self) -> Signatures:
        """Return all signatures; only if none is missing."""
        genesis = self.genesis
        in_order = tuple(self.signatures[founder] for founder in genesis.voters)
        return Signatures(nonce=genesis.nonce, signatures=in_order, levels=genesis.levels)


@dataclass(slots=True)
class FoundingState:
    """The founding state of this member before it is in a cluster, beside its signature.

    Attributes:
        visible: possible founders that we see, as last sent in our Presence.
        round: counts our proposals.
        abandoned: the last of the proposals that we will never complete.
        collecting: the genesis that we collect signatures for; None if we collect none.
        may_have_collected: trust_disk: an earlier process of this incarnation may have; it no longer can.
        presence_due: when to send our Presence again.
        dissolved: clusters that we left because they gave themselves up.
    """

    visible: tuple[Incarnation, ...] = ()
    round: int = 0
    abandoned: int = 0
    collecting: Collecting | None = None
    may_have_collected: bool = False
    presence_due: int = 0
    dissolved: tuple[bytes, ...] = ()


class ClusterFounding(Election):
    """Genesis and joining."""

    founding_state: FoundingState
    signing: Signing

    # ---- presence -----------------------------------------------------------
    def _presence(self) -> Presence:
        tenure = self.tenure
        visible = self._visible() if tenure.cluster is None else ()
        state = self.founding_state
        return Presence(
            tenure.cluster,
            tenure.replica.commands,
            tenure.commit,
            self._mode(),
            visible,
            state.dissolved,
            state.abandoned,
        )

    def _mode(self) -> Bootstrap:
        """Return AUTO in a cluster that may give itself up, and our own founding mode outside a cluster."""
        if self.log.last().index == 0:
            return self.founding.bootstrap
        if self.tenure.is_auto:
            return Bootstrap.AUTO
        return Bootstrap.INIT if self.founding.bootstrap is Bootstrap.AUTO else self.founding.bootstrap

    def _visible(self) -> tuple[Incarnation, ...]:
        """Possible founders: bonded, not Observers, in no cluster, and of our own founding mode.

        One incarnation per name: a host that starts a second TD of a node must not get two votes that way.
        """
        if not self._may_found():
            return ()
        mode = self.founding.bootstrap
        seen = [self.me]
        for inc, peer in self.peers.items():
            known = peer.presence
            if known is None or known.cluster is not None or known.mode is not mode:
                continue
            if peer.preference is not Preference.OBSERVER:
                seen.append(inc)
        one_of_each = {inc.name: inc for inc in sorted(seen, reverse=True)}
        return tuple(sorted(one_of_each.values()))

    def _may_found(self) -> bool:
        return self.preference is not Preference.OBSERVER and self.founding.bootstrap is not Bootstrap.JOIN

    def _broadcast_presence(self) -> None:
        self._broadcast_to_all(self._presence())
        self.founding_state.presence_due = self.now + PRESENCE_AGAIN_MS

    def _broadcast_to_all(self, message: Presence) -> None:
        for peer in sorted(self.peers):
            self._send(peer, message)

    def _on_presence(self, sender: Incarnation, m: Presence) -> None:
        peer = self.peers[sender]
        known, before = peer.cluster, peer.presence
        peer.presence = m
        peer.cluster = m.cluster
        if before is None or known != m.cluster:
            self._refresh_audience()
        self.signing.on_abandoned(sender, m.abandoned)
        if self.tenure.cluster is not None and self.tenure.cluster in m.dissolved:
            if self._may_have_ended(m, before):
                # Its log holds a committed DISSOLVE: our cluster is over.
                self._dissolve(Cursor(self.tenure.term, self.tenure.commit))
            else:
                self._violation(sender, "false-dissolution")
            return
        if m.cluster is None:
            if self.tenure.cluster is not None:
                self._send(sender, self._presence())
        elif self.tenure.cluster is None:
            self._enter(m.cluster)
        elif m.cluster != self.tenure.cluster:
            self._meet_rival(sender, m)
        elif known == m.cluster:
            # The peer repeats it because it does not know that we are in its cluster: our Presence was lost.
            self._send(sender, AvailReply(self._cluster, self.tenure.term, self._serve_limit()))
        if (
            m.cluster == self.tenure.cluster
            and m.mode is Bootstrap.EXPECT
            and not m.commit
            and self.log.last().index
            and self._first_entry().index == 1
        ):
            # Its Genesis was lost. Without a leader to pull from, the peer would never learn that it is a
            # voter.
            self._send(sender, Genesis(self._first_entry()))
        self._drive_founding()

    def _may_have_ended(self, m: Presence, before: Presence | None) -> bool:
        """Only ``auto`` clusters give themselves up, and one with a command only if so configured.

        The first entry of our cluster records whether it is an ``auto`` cluster. A member that does not hold
        that entry decides by the founding modes of itself and of the peer.
        """
        tenure = self.tenure
        if tenure.replica.commands and self.settings.on_rival != "discard-shorter":
            return False
        if self.log.last().index:
            return tenure.is_auto
        if not self._may_found():
            return True
        was_auto_in_it = (
            before is not None and before.cluster == tenure.cluster and before.mode is Bootstrap.AUTO
        )
        return was_auto_in_it or Bootstrap.AUTO in (self.founding.bootstrap, m.mode)

    def _enter(self, cluster: bytes) -> None:
        """Enter the cluster of a peer: as a learner, until the cluster's log makes this member a voter."""
        if cluster in self.founding_state.dissolved:
            return
        self.tenure.cluster = cluster
        self._forget_founding()
        self._refresh_audience()
        self._broadcast_presence()

    def _forget_founding(self) -> None:
        state = self.founding_state
        if state.collecting is not None:
            self._abandon()
        state.visible = ()

    # ---- founding -----------------------------------------------------------
    def _drive_founding(self) -> None:
        if self.tenure.cluster is not None or not self._may_found():
            return
        state = self.founding_state
        visible = self._visible()
        if visible != state.visible:
            state.visible = visible
            self._broadcast_presence()
        match self.founding.bootstrap:
            case Bootstrap.INIT:
                self._found_alone()
            case Bootstrap.EXPECT:
                self._drive_expect(visible)
            case Bootstrap.AUTO:
                self._drive_auto(visible)
            case Bootstrap.JOIN:
                pass

    def _drive_auto(self, visible: tuple[Incarnation, ...]) -> None:
        delay = self.founding.bootstrap_delay_ms
        if self.preference is Preference.RELUCTANT:
            delay *= self.settings.reluctant_factor
        if self.now - self.tenure.since_ms >= delay and visible[0] == self.me and not self._may_enter_one():
            self._found_alone()

    def _may_enter_one(self) -> bool:
        """Return whether a bonded peer is in a cluster: its answer to our Presence will bring us there.

        Without this, a member that gave up its own cluster for that one would found another before the answer
        arrives, again and again.
        """
        known = (peer.cluster for peer in self.peers.values())
        return any(cluster is not None and cluster not in self.founding_state.dissolved for cluster in known)

    def _drive_expect(self, visible: tuple[Incarnation, ...]) -> None:
        state = self.founding_state
        founders = visible[: self.founding.expect]
        if state.collecting is not None and state.collecting.genesis.voters != founders:
            self._abandon()
        if len(founders) < self.founding.expect or founders[0] != self.me:
            self.signing.watch_collector()
            return
        levels = self._common_levels(founders)
        is_free = state.collecting is None and self.signing.given is None
        if is_free and levels is not None and self._all_see(founders):
            nonce = self.randrange(2**128).to_bytes(16, "big")
            state.round += 1
            genesis = GenesisProposal(state.round, nonce, founders, levels)
            self.signing.give(self.me, genesis)
            state.collecting = Collecting(genesis, {self.me: self.credentials.sign(self._digest_of(genesis))})
            self._ask_signatures(state.collecting)
        if state.collecting is not None:
            self._complete_genesis(state.collecting)

    def _digest_of(self, genesis: GenesisProposal) -> bytes:
        """Return what each founder signs."""
        return genesis_digest(self.group_id, genesis.nonce, genesis.voters, genesis.levels)

    def _common_levels(self, founders: tuple[Incarnation, ...]) -> Levels | None:
        """Return the highest levels that all ``founders`` know, as far as we have met them."""
        builds = [self.build if who == self.me else self.peers[who].build for who in founders]
        return common_levels(builds)

    def _all_see(self, founders: tuple[Incarnation, ...]) -> bool:
        """Return whether every founder reported that it would found with exactly these."""
        for founder in founders:
            if founder == self.me:
                continue
            presence = self.peers[founder].presence
            if presence is None or presence.visible[: len(founders)] != founders:
                return False
        return True

    def _ask_signatures(self, collecting: Collecting) -> None:
        for founder in collecting.missing():
            self._send(founder, collecting.genesis)

    def _abandon(self) -> None:
        """Give up the genesis that only we could complete, and announce that in our Presence."""
        state = self.founding_state
        state.abandoned = state.round
        state.collecting = None
        self.signing.take_back()
        self._broadcast_presence()

    def _on_genesis_proposal(self, sender: Incarnation, m: GenesisProposal) -> None:
        if self.tenure.cluster is not None or self.founding.bootstrap is not Bootstrap.EXPECT:
            return
        if m.voters[0] != sender or self.me not in m.voters:
            self._violation(sender, "bad-genesis-proposal")
            return
        known = self.peers[sender].presence
        if known is not None and known.abandoned >= m.round:
            return  # a late copy
        if self.signing.given is None and m.voters == self._visible()[: self.founding.expect]:
            if m.levels != self._common_levels(m.voters):
                self._violation(sender, "bad-genesis-proposal")
                return
            self.signing.give(sender, m)
        if self.signing.given == (sender, m):
            self._send(sender, GenesisSignature(m.nonce, self.credentials.sign(self._digest_of(m))))

    def _on_genesis_signature(self, sender: Incarnation, m: GenesisSignature) -> None:
        collecting = self.founding_state.collecting
        if collecting is None or m.nonce != collecting.genesis.nonce:
            return
        genesis = collecting.genesis
        if sender not in genesis.voters:
            return
        if not self.credentials.verify(sender, self._digest_of(genesis), m.signature):
            self._violation(sender, "bad-genesis-signature")
            return
        collecting.signatures[sender] = m.signature
        self._complete_genesis(collecting)

    def _complete_genesis(self, collecting: Collecting) -> None:
        if not collecting.missing():
            self._found(collecting.genesis.voters, collecting.complete())

    def _found_alone(self) -> None:
        nonce = self.randrange(2**128).to_bytes(16, "big")
        levels = common_levels((self.build,))
        assert levels is not None
        signature = self.credentials.sign(genesis_digest(self.group_id, nonce, (self.me,), levels))
        self._found((self.me,), Signatures(nonce=nonce, signatures=(signature,), levels=levels))

    def _found(self, voters: tuple[Incarnation, ...], signatures: Signatures) -> None:
        auto = self.founding.bootstrap is Bootstrap.AUTO
        config = Config(epoch=1, voters=voters, tie=None, reason=AUTO_GENESIS if auto else GENESIS)
        payload = encode_config(config, signatures)
        entry = make_entry(
            LOG_START,
            term=GENESIS_TERM,
            kind=EntryKind.CONFIG,
            time_ms=self.wall,
            payload=payload,
        )
        self.founding_state.collecting = None
        self._adopt_genesis(entry)
        for voter in voters:
            if voter != self.me:
                self._send(voter, Genesis(entry))
        self._broadcast_presence()
        self.election_due = self.now

    def _adopt_genesis(self, entry: Entry) -> None:
        """Take entry 1, which is committed by definition: the cluster id is its digest."""
        tenure = self.tenure
        tenure.cluster = entry.chain
        # This order is needed: a write torn between the two must not leave a disk that records no signature.
        self._append((entry,))
        self._set_vote(max(tenure.term, entry.term), tenure.voted_for)
        self._commit_to(1)
        self._forget_founding()
        self._refresh_audience()

    def _on_genesis(self, sender: Incarnation, m: Genesis) -> None:
        chain = m.entry.chain
        if (
            self.tenure.cluster not in (None, chain)
            or self.log.last().index
            or chain in self.founding_state.dissolved
        ):
            return
        if self.founding.bootstrap is not Bootstrap.EXPECT:
            return
        if not self._is_genesis(m.entry):
            self._violation(sender, "bad-genesis")
            return
        self._adopt_genesis(m.entry)
        self._broadcast_presence()

    # ---- time ---------------------------------------------------------------
    def _presence_wanted(self) -> bool:
        """Return whether to send our Presence again.

        A peer may not know us yet, or could send us the genesis that we lack.
        """
        if self.tenure.cluster is None or self._lacks_genesis():
            return bool(self.peers)
        return self.has_outsiders

    def _lacks_genesis(self) -> bool:
        """Return whether we may be a voter without knowing it, while there is no leader to pull from."""
        return (
            self.tenure.leader is None
            and self.log.last().index == 0
            and self.tenure.cluster is not None
            and self.founding.bootstrap is Bootstrap.EXPECT
        )

    def _tick_founding(self) -> None:
        self.founding_state.presence_due = self.now + PRESENCE_AGAIN_MS
        if self.founding_state.may_have_collected:
            # Rounds continue above those of the earlier process, and all of the earlier rounds are abandoned.
            self.founding_state.may_have_collected = False
            self.founding_state.round = self.founding_state.abandoned = self.wall
        if self._presence_wanted():
            self._broadcast_presence()
            for sender, peer in sorted(self.peers.items()):
                rival = peer.presence
                if (
                    rival is not None
                    and rival.cluster not in (None, self.tenure.cluster)
                    and self.tenure.cluster
                ):
                    self._meet_rival(sender, rival)
        if self.founding_state.collecting is not None:
            self._ask_signatures(self.founding_state.collecting)
        self._drive_founding()
