"""A running node behind its HTTP API: the ``node.api.service.Service`` of one group."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from attestation.background import Background
from attestation.tickets.protocol import Cluster, TicketIssuer, TicketValidator
from enclave.errors import EnclaveError
from node.api.evidence import binding_of_nonce
from node.api.service import (
    Addresses,
    BondView,
    ConfirmationRefusedError,
    Evidence,
    GroupView,
    ProvisionRefusedError,
    Readiness,
    SurvivorView,
    UnavailableError,
)
from node.audit import AuditLog
from node.authority import AuthorityError
from node.ca.certificates import digest_of
from node.clock import NodeClock
from node.config import NodeConfig, founding_of, preference_of
from node.errors import ConfigError
from node.group.errors import GroupClosedError
from node.group.group import Group
from node.group.identity import GroupKey, GroupKeyDiffersError, require_key
from node.group.network import GroupBuilder, Network
from node.group_document import GroupDocument, grants_of
from node.joined import JoinedGroup
from node.machines.base import StateMachine
from node.machines.kv import KeyValue
from node.machines.system import CombinedSystem
from node.peers import Incarnation
from node.places import Usage
from node.process_events import KeyProvisioned, Reporter
from node.raft.budget import Budget
from node.raft.outlook import Quorum, describe
from node.raft.types import REMOVED, Answer, Consistency, Cursor, InstallStatus, Ok, Outcome, Position
from node.storage.file import FileStorage
from node.system.access import CURRENT, PART, AccessState
from node.system.access_list import AccessList
from node.system.birth import CONFIRM, BirthState, birth_of
from node.system.ca import CaState, ca_of
from node.system.grants import Grant
from node.system.tcb import TcbState
from node.tcb_outlook import TcbOutlook
from node.upkeep import Upkeep
from node.watch.driver import Watching

WATCHED_FROM: Final = 3  # the first version of the key-value machine that keeps a history for watches
HAND_OVER_TIMEOUTS: Final = 2  # a transfer is decided within this many election timeouts

logger = logging.getLogger(__name__)

REMOVED_MESSAGE: Final = (
    "an operator removed this member from the group; it takes part no more until its process is started again"
)


class NodeService:
    """A running node. Implements ``node.api.service.Service``."""

    def __init__(
        self,
        document: GroupDocument,
        config: NodeConfig,
        *,
        network: Network,
        machine: StateMachine,
        validators: tuple[TicketValidator, ...],
        audit: AuditLog,
        report: Reporter,
        clock: NodeClock,
        mock: bool,
        storage: FileStorage | None = None,
        background: Background,
        joined: JoinedGroup,
        tcb_outlook: TcbOutlook | None,
        budget: Budget,
    ) -> None:
        self._document = document
        self._config = config
        self._storage = storage
        self.background = background
        self._clock = clock
        self._mock = mock
        self.validators = validators
        self._network = network
        self._audit = audit
        self._report = report
        self._machine = machine
        self._joined = joined
        self._budget = budget
        self._watching: Watching | None = None
        self._issuing = asyncio.Lock()
        self.tcb_outlook = tcb_outlook
        self._upkeep: Upkeep | None = None

    # ---- the group ----------------------------------------------------------
    def usages(self) -> tuple[Usage, ...]:
        """Return how much of the bonds' pools is in use."""
        return self._network.endpoint.usages()

    def join(self, key: GroupKey) -> Group:
        """Join the group with this key.

        Raises:
            GroupKeyDiffersError: the group document names another key.
        """
        group = self._builder(key).join()
        self._joined.join(group)
        if isinstance(self._machine, KeyValue):
            self._upkeep = Upkeep(group, self._document.compaction)
            self.background.keep("store-upkeep", self._upkeep.run)
            self._watching = Watching(self._machine, lambda: group.cluster)
            group.follow(self._watching.stepped)
        return group

    def _builder(self, key: GroupKey) -> GroupBuilder:
        document = self._document
        builder = (
            self._network.groups.with_key(key)
            .with_document(document)
            .with_consensus(document.settings, founding_of(document, self._config))
            .with_state_machine(self._machine)
            .with_system_state(self._system_state)
            .with_log_storage(durable=self._storage)
            .with_memory_budget(self._budget.size)
        )
        preference = preference_of(self._config)
        if preference is not None:
            builder = builder.with_preference(preference)
        for validator in self.validators:
            builder = builder.require_ticket(validator)
        return builder

    def _system_state(self) -> CombinedSystem:
        """Return the group's own state at its beginning: equal on all nodes."""
        document = self._document
        return CombinedSystem(
            AccessState(grants_of(document.access)),
            BirthState(document.authority, document.group_id),
            TcbState(),
            CaState(),
        )

    @property
    def joined(self) -> Group | None:
        """The group, once the node has its key."""
        return self._joined.group

    async def close(self) -> None:
        """Leave the group; a node that leads first hands the leadership over, if another can have it."""
        group = self._joined.group
        if group is None:
            return
        if group.leading is not None:
            await self._hand_over(group)
        await group.close()

    async def _hand_over(self, group: Group) -> None:
        """Hand the leadership over, within two election timeouts; the node stops whether it did or not."""
        limit_s = HAND_OVER_TIMEOUTS * self._document.settings.election_timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                outcome = await group.transfer_outcome()
        except TimeoutError:
            logger.warning("stopping as the leader; nobody took over in %s s", limit_s)
            return
        except GroupClosedError as exc:
            logger.warning("stopping; the group ended on this node meanwhile: %s", exc)
            return
        if isinstance(outcome, Ok):
            logger.info("stopping; the leadership was handed over to %s", group.leader)
        else:
            logger.warning("stopping as the leader; nobody took over: %s", outcome)

    # ---- calls of the API ----------------------------------------------------
    @property
    def mock(self) -> bool:
        return self._mock

    @property
    def cluster(self) -> Cluster | None:
        return self._joined.cluster

    @property
    def me(self) -> Incarnation:
        return self._network.me

    def addresses(self) -> Addresses:
        return Addresses(bonds=self._network.endpoint.advertised, api_url=self._network.api_url)

    def state_machine(self) -> StateMachine:
        return self._require_group().machine

    def fetching(self) -> InstallStatus | None:
        """Return how far this node is with taking the group's state from its peers; None if it is not."""
        group = self._joined.group
        return None if group is None else group.status.install

    def readiness(self) -> Readiness:
        group = self._joined.group
        if group is None:
            return Readiness(
                ready=False, reason="waiting-for-key", message="this node waits for the group key"
            )
        status = group.status
        if status.halted == REMOVED:
            return Readiness(ready=False, reason=REMOVED, message=REMOVED_MESSAGE)
        if status.halted is not None:
            return Readiness(ready=False, reason="halted", message=status.halted)
        if status.cluster_id is None:
            return Readiness(
                ready=False,
                reason="no-cluster",
                message="no cluster was founded or joined yet: see the log and audit.jsonl of this node",
            )
        outlook = group.outlook
        if outlook.quorum in (Quorum.LOST, Quorum.GONE):
            reason = f"quorum-{outlook.quorum.value}"
            return Readiness(ready=False, reason=reason, message=describe(outlook))
        if not status.online:
            return Readiness(
                ready=False,
                reason="not-online",
                message="no leader is known, or this node's log is behind the leader's",
            )
        return Readiness(ready=True)

    def group(self) -> GroupView:
        group = self._require_group()
        return GroupView(
            network_id=self._network.id,
            group_id=group.id,
            cluster=group.cluster,
            state_machine=self._machine.signature,
            status=group.status,
            configs=group.configs,
            leading=group.leading,
            min_voters=self._document.settings.min_voters,
            max_voters=self._document.settings.max_voters,
            notices=() if self.tcb_outlook is None else self.tcb_outlook.notices(),
            covered_age_ms=group.covered_age_ms,
            key_use=group.key_use,
            outlook=group.outlook,
            memory=group.memory,
            quota_bytes=self._document.settings.quota_bytes,
        )

    def watching(self) -> Watching:
        levels = self._require_open_group().status.levels
        if self._watching is None or levels is None or levels.version < WATCHED_FROM:
            raise UnavailableError(
                "not-watchable", "the group's state machine, or its version, keeps no history for watches"
            )
        return self._watching

    def bonds(self) -> Sequence[BondView]:
        return self._joined.bonds

    def grants(self) -> AccessList:
        system = self._require_group().system
        assert isinstance(system, CombinedSystem), "made by _system_state"
        access = system[PART]
        assert isinstance(access, AccessState), "made by _system_state"
        return access.grants

    def client_certificates(self) -> tuple[bytes, ...]:
        """Return the certificates of the access list, DER: TLS may accept these from a client."""
        return () if self._joined.group is None else self.grants().certificates

    def now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def leaderless(self) -> bool:
        return self._require_group().leader is None

    async def prove_access_current(self, *, timeout_s: float) -> bool:
        outcome = await self._require_group().query_outcome([CURRENT], system=True, timeout_s=timeout_s)
        return isinstance(outcome, Answer)

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
        return self._require_open_group().execute_outcome(
            commands, key=key, feed=feed, credential=credential, system=system, timeout_s=timeout_s
        )

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
        return self._require_open_group().query_outcome(
            query,
            consistency,
            min_at=min_at,
            max_age_ms=max_age_ms,
            credential=credential,
            system=system,
            timeout_s=timeout_s,
        )

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease and return its TTL in seconds; 0: there is no such lease, or it has expired.

        Raises:
            RenewalFailedError: the group did not answer, or too many callers wait.
            UnavailableError: this node has no group, or its machine no leases.
        """
        self._require_open_group()
        if self._upkeep is None:
            raise UnavailableError("no-leases", "the group's machine has no leases")
        return await self._upkeep.keep_alive(lease_id)

    async def transfer_leadership(self, target: Incarnation, *, by: Grant) -> Outcome:
        outcome = await self._require_open_group().transfer_outcome(target)
        if isinstance(outcome, Ok):
            self._audit.append(
                "leadership-transferred",
                by=by.name,
                by_credential=by.credential,
                to=target.name,
                to_peer=target.id,
                term=outcome.at.term,
            )
        return outcome

    async def remove_member(self, member: Incarnation, *, by: Grant, timeout_s: float) -> Outcome:
        outcome = await self._require_open_group().removal_outcome(member, timeout_s=timeout_s)
        if isinstance(outcome, Ok):
            self._audit.append(
                "member-removed",
                by=by.name,
                by_credential=by.credential,
                member=member.name,
                member_peer=member.id,
            )
        return outcome

    def survivor(self) -> SurvivorView:
        return SurvivorView(
            authorized=self._document.recovery == "survivor",
            needs_approval=self._document.authority is not None,
            log_end=self._require_group().log_end,
        )

    async def recover(self, position: Position, approval: bytes, *, by: Grant, timeout_s: float) -> Outcome:
        group = self._require_open_group()
        lost = group.cluster
        outcome = await group.recovery_outcome(position, approval, timeout_s=timeout_s)
        if isinstance(outcome, Ok):
            self._audit.append(
                "group-recovered",
                by=by.name,
                by_credential=by.credential,
                lost=str(lost),
                cluster=str(group.cluster),
                term=position.term,
                index=position.index,
                chain=position.chain,
            )
        return outcome

    def birth_certificate(self) -> bytes | None:
        return birth_of(self._require_group().system).certificate

    async def confirm(self, certificate: bytes, *, timeout_s: float) -> Outcome | None:
        group = self._require_group()
        held, birth = group.cluster, birth_of(group.system)
        if held is None:
            raise UnavailableError("no-cluster", "this node is in no cluster yet")
        try:
            birth.check(certificate).require_cluster(held)
        except AuthorityError as exc:
            raise ConfirmationRefusedError(exc.reason, exc.message) from exc
        if birth.certificate == certificate:
            return None
        commands = ([CONFIRM, certificate],)
        return await group.execute_outcome(commands, system=True, timeout_s=timeout_s)

    async def evidence(self, nonce: bytes) -> Evidence:
        group, group_id, cluster = self._joined.group, self._joined.id, self.cluster
        authority = None if group is None else ca_of(group.system).certificate
        binding = binding_of_nonce(nonce)
        tickets = {}
        async with self._issuing:
            for issuer in self._network.issuers:
                tickets[issuer.ticket_class] = await self._issue(
                    issuer, group_id, cluster, binding, None if authority is None else digest_of(authority)
                )
        return Evidence(
            peer_id=self._network.identity.peer_id,
            network_id=self._network.id,
            group_id=group_id,
            cluster=cluster,
            binding=binding,
            tickets=tickets,
            birth_certificate=None if group is None else birth_of(group.system).certificate,
            group_ca=authority,
        )

    async def _issue(
        self,
        issuer: TicketIssuer,
        group_id: bytes | None,
        cluster: Cluster | None,
        binding: bytes,
        group_ca: bytes | None,
    ) -> bytes:
        try:
            return await asyncio.to_thread(
                issuer.issue,
                group_id=group_id,
                cluster=cluster,
                binding=binding,
                group_ca=group_ca,
                now=self._clock.now(),
            )
        except EnclaveError as exc:
            raise UnavailableError("quote-unavailable", str(exc)) from exc
        except ConfigError as exc:  # a token's file that does not exist yet, or no longer
            raise UnavailableError("token-unavailable", str(exc)) from exc

    def access_changed(self, *, by: Grant, change: str, credential: bytes, name: str, at: Cursor) -> None:
        self._audit.append(
            "access-changed",
            by=by.name,
            by_credential=by.credential,
            change=change,
            name=name,
            credential=credential,
            term=at.term,
            index=at.index,
        )

    def audit_events(self, *, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        return self._audit.events(after=after, limit=limit)

    def audit_head(self) -> Mapping[str, Any]:
        return asdict(self._audit.head())

    async def provision(self, group_key: bytes) -> bytes:
        if self._joined.group is not None:
            raise ProvisionRefusedError("not-waiting", "this node has its group key already")
        try:
            key = require_key(self._document, GroupKey(group_key), source="provisioning")
        except GroupKeyDiffersError as exc:
            raise ProvisionRefusedError(exc.reason, str(exc)) from exc
        group = self.join(key)
        self._audit.append("group-key-provisioned", group_id=group.id)
        self._report(KeyProvisioned(group.id.hex()))
        return group.id

    def _require_group(self) -> Group:
        group = self._joined.group
        if group is None:
            raise UnavailableError("waiting-for-key", "this node waits for the group key")
        return group

    def _require_open_group(self) -> Group:
        """Return the group, unless the member has stopped: then the request is certain not to be executed."""
        group = self._require_group()
        if group.closed is not None:
            raise UnavailableError("halted", f"this node has stopped for good ({group.closed}): use another")
        return group
