"""What all bonds of a process share: made once, by the endpoint."""

from dataclasses import dataclass

from OpenSSL import SSL

from attestation.background import Background
from node.bonds.settings import BondSettings, Environment
from node.bonds.tickets.turns import TurnThread
from node.peers import Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class BondContext:
    """What all bonds of a process share. Nothing changes it.

    Attributes:
        settings: timings and limits.
        environment: clocks and randomness.
        background: runs the tasks.
        tls: for both directions.
        me: this node's own incarnation.
        network_id: 32 bytes.
        issuing, judging: the threads that make and judge tickets, in turns.
    """

    settings: BondSettings
    environment: Environment
    background: Background
    tls: SSL.Context
    me: Incarnation
    network_id: bytes
    issuing: TurnThread
    judging: TurnThread
