"""What bonds require from their user, and what they show to it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from attestation.tickets.protocol import Cluster, TicketIssuer, TicketValidator
from node.features import Build, Levels
from node.peers import BondLoss, Incarnation, Preference


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """The values that make a node a member of a group.

    Attributes:
        group_id: 32 bytes.
        secret: the group key's 32 bytes.
        validators: all of them must accept a peer.
        issuers: of this node's own tickets, one for each class that the validators require.
        seeds: ``host:port`` to begin with; DNS names are resolved again and again.
        api_url: the URL of this node's HTTP API, announced to peers.
        build: this node's software and the levels that it knows; peers receive it before anything that costs.
        levels: returns the group's levels, as applied on this node; None before its genesis is applied.
        cluster: returns the cluster of which this member holds a committed entry; None while it holds none.
        rivals_meet: members of two clusters may bond, so that one of them gives its cluster up (auto mode).
    """

    group_id: bytes
    secret: bytes
    preference: Preference
    validators: tuple[TicketValidator, ...]
    issuers: tuple[TicketIssuer, ...]
    seeds: tuple[str, ...]
    api_url: str | None
    build: Build
    levels: Callable[[], Levels | None]
    cluster: Callable[[], Cluster | None]
    rivals_meet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BondInfo:
    """One bond, as it stands now.

    Attributes:
        address: remote socket address of the connection.
        addresses: where the peer accepts bonds, as it announced them.
        since: when the bond formed, aware UTC.
        expires_at: when it ends unless the peer attests again; None if no ticket expires.
        tickets: as received, by ticket class; bound to this bond by ``binding``.
        appraisals: what each validator established, JSON-able, by ticket class.
        binding: 32 bytes, for checking the tickets again off line.
        mock: some validator accepts evidence that is not rooted in hardware.
        outgoing: this node opened it.
        build: the peer's software and the levels that it knows.
    """

    peer: Incarnation
    preference: Preference
    address: str
    addresses: tuple[str, ...]
    api_url: str | None
    since: datetime
    expires_at: datetime | None
    tickets: dict[str, bytes]
    appraisals: dict[str, dict[str, Any]]
    binding: bytes
    mock: bool
    outgoing: bool
    build: Build


class BondHandler(Protocol):
    """The user of the bonds. Called on the event loop, never from within a call to ``BondMesh``."""

    def bond_up(self, bond: BondInfo) -> None: ...
    def bond_down(self, peer: Incarnation, loss: BondLoss, reason: str) -> None: ...
    def payload(self, peer: Incarnation, data: bytes) -> None: ...
