"""This member's signature under a genesis, as a component: no member, only what it needs of one."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from node.raft.entries import INTEGER_MAX, Signatures
from node.raft.events import FoundingStalled, SaveVote
from node.raft.messages import GenesisProposal
from node.raft.signing import GENESIS_TERM, STALLED_AFTER, Signing
from tests.node.raft.cluster import BUILD, LEVELS, inc

ME, COLLECTOR, OTHER = inc("me"), inc("collector"), inc("other")
GENESIS = GenesisProposal(3, b"n" * 16, (COLLECTOR, ME), LEVELS)
ELECTION_TIMEOUT_MS = 100


@dataclass
class Host:
    me: Any = ME
    build: Any = BUILD
    settings: Any = field(default_factory=lambda: SimpleNamespace(election_timeout_ms=ELECTION_TIMEOUT_MS))
    now: int = 0
    peers: set[Any] = field(default_factory=set)
    tenure: Any = field(default_factory=lambda: SimpleNamespace(term=0))
    done: list[Any] = field(default_factory=list)

    def _record(self, record: Any) -> None:
        self.done.append(record)

    def _notice(self, notice: Any) -> None:
        self.done.append(notice)


def signed() -> tuple[Host, Signing]:
    host = Host()
    signing = Signing(host)
    signing.give(COLLECTOR, GENESIS)
    assert host.done == [SaveVote(GENESIS_TERM, COLLECTOR)]
    host.done.clear()
    return host, signing


@pytest.mark.parametrize(
    ("collector", "abandoned", "is_free"),
    [(COLLECTOR, 3, True), (COLLECTOR, 4, True), (COLLECTOR, 2, False), (OTHER, 3, False)],
)
def test_only_its_collector_frees_it_and_only_from_that_proposal_on(collector, abandoned, is_free):
    host, signing = signed()
    signing.on_abandoned(collector, abandoned)

    assert (signing.given is None) == is_free
    assert host.done == ([SaveVote(GENESIS_TERM, None)] if is_free else [])


def test_in_a_later_term_it_comes_free_without_a_record():
    host, signing = signed()
    host.tenure.term = GENESIS_TERM + 1
    signing.on_abandoned(COLLECTOR, 3)

    assert signing.given is None
    assert host.done == []


@pytest.mark.parametrize(
    ("founding", "is_free"),
    [
        (Signatures(nonce=GENESIS.nonce, signatures=(), levels=LEVELS), True),
        (Signatures(nonce=b"x" * 16, signatures=(), levels=LEVELS), False),
        (None, False),
    ],
    ids=["used in that cluster", "in another", "not known"],
)
def test_a_cluster_that_ends_frees_it_only_if_it_was_used_there(founding, is_free):
    host, signing = signed()
    signing.on_left(founding)
    signing.record_again()

    assert (signing.given is None) == is_free
    assert host.done == ([] if is_free else [SaveVote(GENESIS_TERM, COLLECTOR)])


@pytest.mark.parametrize(
    ("term", "voted_for", "signed_for"),
    [
        (0, None, None),
        (GENESIS_TERM, ME, None),  # this member collected: it no longer can
        (GENESIS_TERM, COLLECTOR, COLLECTOR),
        (GENESIS_TERM + 1, None, ME),
        (GENESIS_TERM + 1, OTHER, OTHER),
    ],
)
def test_an_earlier_process_may_have_signed_and_no_announcement_frees_that(term, voted_for, signed_for):
    host = Host()
    signing = Signing(host)
    signing.recover(term, voted_for)
    assert (None if signing.given is None else signing.given[0]) == signed_for

    if signed_for is not None:
        signing.on_abandoned(signed_for, INTEGER_MAX)
        assert signing.given is not None
    assert host.done == []


def test_a_collector_that_is_gone_is_reported_once_and_not_while_it_is_bonded():
    host, signing = signed()
    patience_ms = STALLED_AFTER * ELECTION_TIMEOUT_MS
    host.peers = {COLLECTOR}
    host.now = 5 * patience_ms
    signing.watch_collector()
    host.peers = set()
    host.now += patience_ms - 1
    signing.watch_collector()
    assert host.done == []

    host.now += 1
    signing.watch_collector()
    signing.watch_collector()
    assert host.done == [FoundingStalled(COLLECTOR)]


def test_a_collector_does_not_wait_for_itself():
    host = Host()
    signing = Signing(host)
    signing.give(ME, GENESIS)
    host.done.clear()
    host.now = 2 * STALLED_AFTER * ELECTION_TIMEOUT_MS
    signing.watch_collector()

    assert host.done == []
