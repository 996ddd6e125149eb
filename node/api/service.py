"""The interface that the HTTP API needs of the node. The daemon implements it; tests have a fake."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from attestation.tickets.protocol import Cluster
from node.errors import NodeError
from node.features import Build
from node.machines.base import StateMachine
from node.peers import Incarnation, Preference
from node.raft.budget import MemoryStatus
from node.raft.outlook import UNKNOWN, Outlook
from node.raft.quorum import Config
from node.raft.types import Consistency, Cursor, KeyUse, Leading, MemberStatus, Outcome, Position
from node.system.access_list import AccessList
from node.system.grants import Grant
from node.watch.driver import Watching


class UnavailableError(NodeError):
    """The node cannot answer this now (503). ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ConfirmationRefusedError(NodeError):
    """A birth certificate does not confirm this cluster (409). ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ProvisionRefusedError(NodeError):
    """This node does not accept the offered group key (409). ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the node can serve. ``reason`` and ``message`` explain why not; both are empty if it can."""

    ready: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that an operator should look at. ``code`` is a stable kebab-case code."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """The group as this node sees it.

    Attributes:
        network_id: 32 bytes.
        group_id: 32 bytes.
        cluster: the cluster of which the member holds a committed entry; None before the first one.
        state_machine: the machine's signature.
        status: the member's own view.
        configs: the last configuration that is committed as far as this node knows, and those proposed after
            it; none before the genesis.
        leading: what this node knows of the other members if it leads.
        min_voters, max_voters: how many voters the group wants at least, and has at most.
        notices: what else an operator should look at.
        covered_age_ms: how long ago the state here covered all that a leader had committed; None: never.
        key_use: how much room the idempotency keys use.
        outlook: what the member knows of the quorum.
        memory: what this node uses of its memory budget.
        quota_bytes: how much memory the machine's state may take, as the group has agreed.
    """

    network_id: bytes
    group_id: bytes
    cluster: Cluster | None
    state_machine: str
    status: MemberStatus
    memory: MemoryStatus
    quota_bytes: int
    configs: tuple[Config, ...] = ()
    leading: Leading | None = None
    min_voters: int = 1
    max_voters: int = 1
    notices: Sequence[Notice] = ()
    covered_age_ms: int | None = None
    key_use: KeyUse = KeyUse(0, 0, 0)
    outlook: Outlook = UNKNOWN


class BondView(Protocol):
    """One bond; ``node.bonds.endpoint.BondInfo`` has this form."""

    @property
    def peer(self) -> Incarnation: ...
    @property
    def preference(self) -> Preference: ...
    @property
    def address(self) -> str | None: ...
    @property
    def api_url(self) -> str | None: ...
    @property
    def since(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def build(self) -> Build: ...
    @property
    def tickets(self) -> Mapping[str, bytes]:
        """Each ticket as it was received, by class."""
        ...

    @property
    def appraisals(self) -> Mapping[str, Mapping[str, Any]]:
        """What each validator established, JSON-able, by class."""
        ...

    @property
    def mock(self) -> bool: ...
    @property
    def outgoing(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """This node's own tickets, made for one nonce.

    Attributes:
        peer_id: 32 bytes; the id of the key that authenticates this API's TLS channel.
        network_id: 32 bytes.
        group_id: 32 bytes, or None while the node has no group (it waits for its key).
        cluster: the cluster that the tickets' claims name; None while the node holds nothing of one.
        binding: ``binding_of_nonce(nonce)``, which the tickets' claims carry.
        tickets: fresh tickets by class, each bound to ``binding``.
        birth_certificate: the newest that this node has applied, or None.
        group_ca: the certificate of the group's authority, DER, whose digest the tickets' claims carry; None:
            the group has none.
    """

    peer_id: bytes
    network_id: bytes
    group_id: bytes | None
    cluster: Cluster | None
    binding: bytes
    tickets: Mapping[str, bytes]
    birth_certificate: bytes | None
    group_ca: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where this node is reached: by its peers, each ``host:port``, and by clients, an ``https`` URL."""

    bonds: tuple[str, ...]
    api_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorView:
    """Whether the group document permits a recovery by this node, and from where it would go on."""

    authorized: bool
    needs_approval: bool
    log_end: Position


class Service(Protocol):
    """The node. Methods that are not awaitable answer at once, from memory."""

    @property
    def mock(self) -> bool:
        """True if this node attests with, or accepts, anything that is not rooted in real hardware."""
        ...

    @property
    def cluster(self) -> Cluster | None:
        """The cluster of which this node holds a committed entry; named on every answer."""
        ...

    @property
    def me(self) -> Incarnation:
        """This node, in this life."""
        ...

    def addresses(self) -> Addresses: ...

    def state_machine(self) -> StateMachine:
        """Return the state machine as this node has applied it: to be read, never changed.

        Raises UnavailableError while there is no group.
        """
        ...

    def readiness(self) -> Readiness: ...

    def group(self) -> GroupView:
        """Raises UnavailableError while there is no group (it waits for its key)."""
        ...

    def watching(self) -> Watching:
        """Return this node's watches.

        Raises UnavailableError when there is no group, it has ended, or its machine keeps no history.
        """
        ...

    def bonds(self) -> Sequence[BondView]:
        """The living bonds; none while there is no group."""
        ...

    def grants(self) -> AccessList:
        """Return the access list as this node has applied it.

        Raises UnavailableError while there is no group: then the node knows no callers.
        """
        ...

    def client_certificates(self) -> tuple[bytes, ...]:
        """Return the certificates of that list, DER; none while there is no group."""
        ...

    def now_ms(self) -> int:
        """Return a past time in Unix milliseconds: a grant that expired by then is refused."""
        ...

    def leaderless(self) -> bool:
        """Return whether this node knows no leader. Then nothing can make the list current."""
        ...

    async def prove_access_current(self, *, timeout_s: float) -> bool:
        """Return whether all that was committed when this was called is applied here now.

        Raises UnavailableError when there is no group, or it has ended.
        """
        ...

    def execute(
        self,
        commands: tuple[object, ...],
        *,
        credential: bytes,
        key: bytes | None,
        feed: bool,
        timeout_s: float,
        system: bool = False,
    ) -> Awaitable[Outcome]:
        """Execute one atomic entry (see ``Group.execute_outcome``) for the caller with this credential.

        After ``timeout_s`` the outcome is ``Unknown("deadline")``. A cancelled awaitable forgets the request.
        Raises UnavailableError when there is no group, or it has ended.
        """
        ...

    def query(
        self,
        query: object,
        *,
        credential: bytes,
        consistency: Consistency,
        min_at: Cursor | None,
        max_age_ms: int | None,
        timeout_s: float,
        system: bool = False,
    ) -> Awaitable[Outcome]:
        """Ask the state machine, or the system state, for the caller with this credential.

        ``Answer``, with a ``Failed`` as its value if it, or the caller, is refused. Raises UnavailableError
        when there is no group, or it has ended.
        """
        ...

    async def transfer_leadership(self, target: Incarnation, *, by: Grant) -> Outcome:
        """Hand the leadership over to ``target`` for the caller ``by``; decided within an election timeout.

        Raises UnavailableError when there is no group, or it has ended.
        """
        ...

    async def remove_member(self, member: Incarnation, *, by: Grant, timeout_s: float) -> Outcome:
        """Remove ``member`` from the group for good, for the caller ``by``.

        After ``timeout_s`` the outcome is ``Unknown("deadline")``. Raises UnavailableError when there is no
        group, or it has ended.
        """
        ...

    def survivor(self) -> SurvivorView:
        """Return what this node would found a new generation from.

        Raises UnavailableError while there is no group.
        """
        ...

    async def recover(self, position: Position, approval: bytes, *, by: Grant, timeout_s: float) -> Outcome:
        """Found a new generation from this node's state (see ``Group.recovery_outcome``).

        Raises UnavailableError when there is no group, or it has ended.
        """
        ...

    async def evidence(self, nonce: bytes) -> Evidence:
        """Make fresh tickets bound to ``nonce``. Raises UnavailableError if the node can get no quote now."""
        ...

    def birth_certificate(self) -> bytes | None:
        """Return the newest birth certificate that this node has applied.

        Raises UnavailableError while there is no group (it waits for its key).
        """
        ...

    async def confirm(self, certificate: bytes, *, timeout_s: float) -> Outcome | None:
        """Verify a birth certificate and write it to the log; None if the group already has this certificate.

        Raises:
            ConfirmationRefusedError: it does not verify, or confirms another cluster, or is not newer.
            UnavailableError: there is no group, or the node holds nothing of a cluster yet.
        """
        ...

    def access_changed(self, *, by: Grant, change: str, credential: bytes, name: str, at: Cursor) -> None:
        """Write to the audit log that the caller ``by`` changed the access list, at this place in the log."""
        ...

    def audit_events(self, *, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return up to ``limit`` records with a sequence number above ``after``, in order.

        The oldest may be deleted. Raises CorruptStorageError if a written record is missing.
        """
        ...

    def audit_head(self) -> Mapping[str, Any]:
        """Return the newest record's sequence number and hash."""
        ...

    async def provision(self, group_key: bytes) -> bytes:
        """Take the 32-byte group key and return the group id. Works once, while the node waits for a key.

        Raises:
            ProvisionRefusedError: the node does not wait for a key.
        """
        ...
