"""From a network to a group: the builder in front of ``Group``.

network = Network(name="prod", identity=identity, listen=("10.0.0.1", 7443), issuers=[issuer], audit=audit)
await network.start()
group = (
network.groups.with_key(key)
.with_state_machine(KeyValue())
.with_consensus(Settings(), Founding(bootstrap=Bootstrap.EXPECT, expect=3))
.require_ticket(validator)
.join()
)
await group.when().online()
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Final

from attestation.background import Background
from attestation.tickets.ids import network_id_of_name
from attestation.tickets.protocol import TicketIssuer, TicketValidator
from enclave.identity import Identity
from node.audit import AuditLog
from node.bonds.endpoint import BondEndpoint, BondInfo, BondMesh, GroupSpec
from node.bonds.settings import BondSettings, Environment
from node.bonds.wire.refusals import RefusalCode
from node.errors import ConfigError
from node.features import Features
from node.group.credentials import IdentityCredentials
from node.group.disk import DurableLog
from node.group.driver import MemberDriver
from node.group.errors import GroupClosedError
from node.group.group import Group, cluster_of
from node.group.identity import GroupKey, group_id, require_key, validators_named_by
from node.group_document import BUILT_IN, FAMILIES, GroupDocument
from node.machines.base import StateMachine
from node.machines.loader import require_named
from node.machines.noop import NoOp
from node.machines.system import EmptySystem, SystemState
from node.peers import BondLoss, Incarnation, Preference
from node.raft.budget import UNLIMITED, Budget
from node.raft.events import (
    ConfigCommitted,
    DataDiscarded,
    FoundingStalled,
    LeaderChanged,
    LevelsChanged,
    MemoryPressed,
    Notice,
    QuorumChanged,
    RivalCluster,
    SnapshotNotStored,
    SnapshotTaken,
    StateDiverged,
    SyncFailed,
    Unfit,
    Violation,
)
from node.raft.log import LogStore, MemoryLog
from node.raft.member import Member
from node.raft.outlook import Quorum, describe
from node.raft.succession import Recovery
from node.raft.types import Bootstrap, Founding, Settings
from node.survivor import SurvivorRecovery
from node.sync.snapshot_sync import SnapshotSync
from node.sync.state_sync import LogReplaySync

BUILT_IN_SYNCS: Final = frozenset((SnapshotSync().signature, LogReplaySync().signature))

HALTS: Final = {
    "state-diverged": "its state differs from the one that a quorum of the voters computed: "
    "the state machine is not deterministic, or this machine's memory is damaged",
    "snapshot-not-restorable": "its state machine refuses the state that a quorum of the voters has: "
    "compare the machine's version and class with those of the other nodes",
}
"""What some reasons for which a member stops mean, for people."""

logger = logging.getLogger(__name__)


def software() -> str:
    """Return the name and version of this software, as the node sends them to its peers."""
    try:
        return f"bondstone {metadata.version('bondstone')}"
    except metadata.PackageNotFoundError:
        return "bondstone"


class Network:
    """This node's place in a network: one identity, one listener, any number of groups."""

    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        listen: tuple[str, int],
        audit: AuditLog,
        issuers: Sequence[TicketIssuer],
        advertise: Sequence[str] = (),
        seeds: Sequence[str] = (),
        api_url: str | None = None,
        bond_settings: BondSettings | None = None,
        environment: Environment | None = None,
        background: Background | None = None,
    ) -> None:
        self.id = network_id_of_name(name)
        self.identity = identity
        self.issuers = tuple(issuers)
        self.seeds = tuple(seeds)
        self.api_url = api_url
        self.audit = audit
        self.endpoint = BondEndpoint(
            identity=identity,
            network_id=self.id,
            listen=listen,
            advertise=tuple(advertise),
            audit=audit,
            settings=bond_settings,
            environment=environment,
            background=background,
        )
        self._joined: dict[bytes, Group] = {}

    @property
    def me(self) -> Incarnation:
        return Incarnation(self.identity.name, self.identity.peer_id)

    @property
    def address(self) -> str:
        """The first of the addresses that this node announces to its peers."""
        return self.endpoint.advertised[0]

    @property
    def groups(self) -> "Groups":
        return Groups(self)

    async def start(self) -> None:
        """Listen for bonds. Raises ConfigError if the node cannot listen at the address."""
        await self.endpoint.start()

    async def close(self) -> None:
        """Leave every group and stop listening. A call that waits in a group raises ``GroupClosedError``."""
        for group in self._joined.values():
            await group.close()
        await self.endpoint.close()

    def joined(self, group_id: bytes) -> Group | None:
        """Return the group with this id if this node is a member of it.

        Raises:
            GroupClosedError: this node was a member, and its membership has ended. This incarnation must not
                begin again without its memory of terms, votes and log (rule R1), so only a new identity can
                join again.
        """
        group = self._joined.get(group_id)
        if group is not None and group.closed is not None:
            raise GroupClosedError(f"{group.closed}; to join it again, start a network with a new identity")
        return group

    def keep(self, group: Group) -> Group:
        """Remember a group that was joined, for as long as this network lives."""
        self._joined[group.id] = group
        return group


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a network, and the way to join one."""

    network: Network

    def with_key(self, key: GroupKey) -> "GroupBuilder":
        return GroupBuilder(network=self.network, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBuilder:
    """An immutable value: every ``with_…`` returns another builder."""

    network: Network
    key: GroupKey
    machine: StateMachine | None = None
    system: Callable[[], SystemState] = EmptySystem
    settings: Settings = Settings()
    founding: Founding = Founding(bootstrap=Bootstrap.JOIN)
    preference: Preference | None = None
    validators: tuple[TicketValidator, ...] = ()
    log: LogStore | None = None
    durable: DurableLog | None = None
    document: GroupDocument | None = None
    features: Features = Features()
    budget: Budget = UNLIMITED
    recovery: Recovery | None = None

    def with_document(self, document: GroupDocument) -> "GroupBuilder":
        """Take settings, founding and the GroupId from a group document.

        The machine and the validators have to be the document's too; ``join`` refuses any others.

        Raises:
            GroupKeyDiffersError: the key is not the document's.
        """
        require_key(document, self.key, source="with_key")
        permitted = document.recovery == "survivor"
        return replace(
            self,
            document=document,
            settings=document.settings,
            founding=document.founding,
            recovery=SurvivorRecovery(document.authority) if permitted else None,
        )

    def with_state_machine(self, machine: StateMachine) -> "GroupBuilder":
        return replace(self, machine=machine)

    def with_system_state(self, system: Callable[[], SystemState]) -> "GroupBuilder":
        """Keep the state that ``system`` makes beside the machine. It must begin equal on all nodes."""
        return replace(self, system=system)

    def with_consensus(self, settings: Settings, founding: Founding) -> "GroupBuilder":
        return replace(self, settings=settings, founding=founding)

    def with_preference(self, preference: Preference) -> "GroupBuilder":
        """Set how much this node wants to lead, instead of the state machine's ``leadership_preference``."""
        return replace(self, preference=preference)

    def with_log_storage(
        self, log: LogStore | None = None, *, durable: DurableLog | None = None
    ) -> "GroupBuilder":
        """Keep the log in another store than a list.

        Args:
            log: an empty log that holds the entries in memory.
            durable: makes term, vote and log durable; required with ``trust_disk``, refused without it. The
                caller that opened it closes it, after ``Group.close``.
        """
        return replace(self, log=log, durable=durable)

    def with_memory_budget(self, size: int) -> "GroupBuilder":
        """Limit the memory of this node's part of the group, in bytes: see docs/operating.md.

        Without this call it has no limit: a node that lacks memory then ends. ``bondstone node run`` derives
        a limit from the machine.
        """
        return replace(self, budget=Budget(size))

    def require_ticket(self, validator: TicketValidator) -> "GroupBuilder":
        """Admit only members that satisfy this validator too. Their order is part of the GroupId."""
        return replace(self, validators=(*self.validators, validator))

    def id(self) -> bytes:
        """Return the GroupId that results from this builder's values."""
        if self.document is not None:
            return self.document.group_id
        machine = self.machine or NoOp()
        return group_id(
            key=self.key,
            settings=self.settings,
            machine_family=machine.family,
            sync_signature=machine.state_sync().signature,
            validators=self.validators,
        )

    def _require_as_in(self, document: GroupDocument) -> None:
        """Require that this builder agrees with all that the document's GroupId promises to the peers."""
        validators = [(one.ticket_class, one.signature) for one in self.validators]
        family = FAMILIES.get(document.state_machine)
        machine = self.machine or NoOp()
        sync = machine.state_sync()
        built_in = document.state_sync == BUILT_IN and sync.signature in BUILT_IN_SYNCS
        for what, same in (
            ("network", self.network.id == document.network_id),
            ("settings", self.settings == document.settings),
            ("founding", self.founding in (document.founding, Founding(bootstrap=Bootstrap.JOIN))),
            ("state machine", family is None or machine.family == family),
            ("[group] state_sync", built_in or sync.signature == document.state_sync),
            ("ticket validators", validators == validators_named_by(document)),
        ):
            if not same:
                raise ConfigError(f"{document.where}: a group's {what} must be as in its document")

    def join(self) -> Group:
        """Join the group: begin to look for its members, and found it if ``founding`` allows that.

        If this network has joined the group already, that ``Group`` is returned unchanged, even if this
        builder differs from it in values that are not in the GroupId.

        Raises:
            ConfigError: the settings contradict each other, ``trust_disk`` and the storage contradict each
                other, or the builder contradicts the group document.
            GroupClosedError: this node was a member before, and has left.
        """
        if self.document is not None:
            self._require_as_in(self.document)
        if self.settings.trust_disk != (self.durable is not None):
            raise ConfigError("trust_disk needs a durable log storage, and only trust_disk may have one")
        if contradiction := self.settings.contradiction():
            raise ConfigError(contradiction)
        machine = self.machine or NoOp()
        require_named(machine, "the %s of the state machine")
        group_id = self.id()
        present = self.network.joined(group_id)
        if present is not None:
            return present
        preference = self.preference or machine.leadership_preference
        if contradiction := self.founding.contradiction(preference):
            raise ConfigError(contradiction)
        member = Member(
            me=self.network.me,
            group_id=group_id,
            settings=self.settings,
            founding=self.founding,
            preference=preference,
            machine=machine,
            system=self.system,
            log=MemoryLog() if self.log is None else self.log,
            credentials=IdentityCredentials(self.network.identity),
            randrange=secrets.randbelow,
            now_ms=int(asyncio.get_running_loop().time() * 1000),
            recovered=None if self.durable is None else self.durable.recovered,
            features=self.features,
            image=software(),
            budget=self.budget,
            recovery=self.recovery,
        )
        if self.durable is not None:
            self.durable.forget_recovered()  # the member has it, and cuts it as its log goes on
        spec = GroupSpec(
            group_id=group_id,
            secret=self.key.secret,
            preference=preference,
            validators=self.validators,
            issuers=self.network.issuers,
            seeds=self.network.seeds,
            api_url=self.network.api_url,
            build=member.build,
            levels=lambda: member.replica.levels,
            cluster=lambda: cluster_of(member),
            # A successor must meet its predecessor, to learn whether that lives.
            rivals_meet=self.founding.bootstrap is Bootstrap.AUTO or self.recovery is not None,
        )
        return self.network.keep(_Wiring(self.network, member, self.durable).connect(spec))


class _Wiring:
    """Connects bonds, driver and group: passes the events of each to the others."""

    def __init__(self, network: Network, member: Member, durable: DurableLog | None) -> None:
        self._network = network
        self._driver = MemberDriver(member, transport=self, listener=self, durable=durable)
        self._bonds: BondMesh | None = None
        self._group: Group | None = None
        self._violators: set[Incarnation] = set()
        self._cluster: bytes | None = None

    def connect(self, spec: GroupSpec) -> Group:
        try:
            self._bonds = self._network.endpoint.join(spec, self)
        except Exception:
            self._driver.close("the bonds could not be joined")
            raise
        self._group = Group(
            spec.group_id, self._driver, self._bonds, background=self._network.endpoint.context.background
        )
        return self._group

    # ---- from the bonds -----------------------------------------------------
    def bond_up(self, bond: BondInfo) -> None:
        self._violators.discard(bond.peer)
        self._driver.bond_up(bond.peer, bond.preference, bond.build)

    def bond_down(self, peer: Incarnation, loss: BondLoss, _reason: str) -> None:
        self._driver.bond_down(peer, loss)

    def payload(self, peer: Incarnation, data: bytes) -> None:
        self._driver.payload(peer, data)

    # ---- from the member ----------------------------------------------------
    def send(self, to: Iterable[Incarnation], data: bytes, *, bulk: bool) -> None:
        if self._bonds is not None:
            self._bonds.send(to, data, bulk=bulk)

    def waiting_bytes(self) -> int:
        return 0 if self._bonds is None else self._bonds.waiting_bytes()

    def pause_reading(self, peer: Incarnation) -> None:
        if self._bonds is not None:
            self._bonds.pause_reading(peer)

    def resume_reading(self, peer: Incarnation) -> None:
        if self._bonds is not None:
            self._bonds.resume_reading(peer)

    def stepped(self) -> None:
        held = self._driver.member.held_cluster
        if held != self._cluster:
            self._cluster = held
            if self._bonds is not None:
                self._bonds.cluster_changed()
        if self._group is not None:
            self._group.changed()

    def halted(self, reason: str) -> None:
        if self._group is not None:
            self._group.end(f"halted: {reason}")
        what = f"{HALTS[reason]} ({reason})" if reason in HALTS else reason
        logger.error("this member has stopped for good: %s", what)
        self._network.audit.append("member-halted", reason=reason)

    def noticed(self, notice: Notice) -> None:
        audit = self._network.audit
        match notice:
            case Violation(peer, reason):
                self.violated(peer, reason)
            case RivalCluster(peer, cluster_id):
                audit.append("rival-cluster", peer_id=peer.id, name=peer.name, cluster_id=cluster_id)
                self._close_bond(peer, RefusalCode.NOT_ALLOWED, "rival-cluster")
            case Unfit(peer, reason):
                audit.append("unfit-software", peer_id=peer.id, name=peer.name, reason=reason)
                self._close_bond(peer, RefusalCode.NOT_ALLOWED, reason)
            case LevelsChanged(levels, at):
                audit.append(
                    "group-levels",
                    level=levels.level,
                    machine=levels.family,
                    version=levels.version,
                    index=at.index,
                )
            case SnapshotTaken() | SnapshotNotStored() | StateDiverged() | SyncFailed():
                self._noticed_of_snapshots(notice)
            case DataDiscarded(cursor):
                audit.append("data-discarded", term=cursor.term, index=cursor.index)
            case FoundingStalled(collector):
                audit.append("founding-stalled", name=collector.name, peer_id=collector.id)
            case ConfigCommitted(epoch, voters, reason):
                audit.append(
                    "configuration-committed",
                    epoch=epoch,
                    reason=reason,
                    voters=[{"name": v.name, "peer_id": v.id.hex()} for v in voters],
                )
            case LeaderChanged(leader, term) if leader is not None:
                audit.append("leader-changed", term=term, name=leader.name, peer_id=leader.id)
            case _:
                _log(notice)

    def _noticed_of_snapshots(
        self, notice: SnapshotTaken | SnapshotNotStored | StateDiverged | SyncFailed
    ) -> None:
        audit = self._network.audit
        match notice:
            case SnapshotTaken(at, size, fetched):
                what = (
                    "took the group's state from peers" if fetched else "has a snapshot of the group's state"
                )
                logger.info("this member %s: index %d, %d bytes", what, at.index, size)
            case SnapshotNotStored(at, reason):
                audit.append("snapshot-not-stored", index=at.index, reason=reason)
                logger.warning(
                    "the snapshot at index %d is not on the disk, where the log goes on growing: %s",
                    at.index,
                    reason,
                )
            case StateDiverged(peer, at):
                audit.append("state-diverged", peer_id=peer.id, name=peer.name, index=at.index)
                logger.error("%s has another state than a quorum of the voters at index %d", peer, at.index)
            case SyncFailed(part, reason):
                audit.append("state-sync-failed", part=part, reason=reason)
                logger.warning("the %s of this group's state sync failed, and rests: %s", part, reason)

    def violated(self, peer: Incarnation, reason: str) -> None:
        # Once per bond: what the peer still sends until the close must not push older events out of the log.
        if peer in self._violators:
            return
        self._violators.add(peer)
        self._network.audit.append("protocol-violation", peer_id=peer.id, name=peer.name, reason=reason)
        self._close_bond(peer, RefusalCode.INVALID_HANDSHAKE, reason)

    def _close_bond(self, peer: Incarnation, code: RefusalCode, reason: str) -> None:
        if self._bonds is not None:
            self._bonds.close_bond(peer, code, reason)


def _log(notice: Notice) -> None:
    """Log what an operator may want to know of, and what is not in the audit log."""
    match notice:
        case MemoryPressed(peer, use, budget, pressed):
            what = "writes are refused" if pressed else "no more writes are refused"
            logger.warning("%s for the memory of %s: %d of %d bytes", what, peer, use, budget)
        case QuorumChanged(outlook):
            level = logging.INFO if outlook.quorum is Quorum.HELD else logging.WARNING
            logger.log(level, "quorum %s: %s", outlook.quorum.value, describe(outlook))
        case _:
            pass
