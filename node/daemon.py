"""The composition root of a node: builds every object from the configuration; the API speaks for it."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attestation.tickets import TicketIssuer, TicketValidator
from enclave.errors import EnclaveError
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from node.api.app import create_app
from node.api.evidence import binding_of_nonce
from node.api.limits import ApiLimits
from node.api.server import ApiServer, server_tls_context
from node.api.service import (
    BondView,
    Evidence,
    GroupView,
    ProvisionRefusedError,
    Readiness,
    UnavailableError,
)
from node.audit import AuditLog
from node.config import (
    NodeConfig,
    consensus_settings,
    parse_bootstrap,
    preference_of,
    split_address,
)
from node.errors import ConfigError
from node.group.group import Group
from node.group.identity import GroupKey
from node.group.network import GroupBuilder, Network
from node.machines.base import StateMachine
from node.machines.loader import load_machine
from node.raft.events import Execute, Query
from node.raft.types import Consistency, Cursor, Outcome
from node.tokens import AccessList, load_access
from node.trust import (
    FetchedEndorsements,
    Trust,
    ticket_lifetime,
    trust_of,
    validators_of,
)

KEY_FILE_BYTES_MAX: Final = 1024

Tell = Callable[[dict[str, Any]], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupIdentification:
    """What a configuration leads to, before anything runs."""

    network_id: bytes
    group_id: bytes
    validators: tuple[TicketValidator, ...]


def group_key_of(config: NodeConfig, validators: Sequence[TicketValidator]) -> GroupKey | None:
    """Return the group key, or None if the node shall wait for it.

    Raises:
        ConfigError: the key file cannot be read, or holds no key.
    """
    if config.group.await_key:
        return None
    if config.group.derive_key:
        return GroupKey.derived(validators)
    assert config.group.key_file is not None
    path = Path(config.group.key_file)
    try:
        with path.open("rb") as file:
            text = file.read(KEY_FILE_BYTES_MAX).decode("ascii")
    except OSError as exc:
        raise ConfigError(f"group.key_file: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"group.key_file: {path} is not text") from exc
    return GroupKey.from_hex(text)


def identify(config: NodeConfig) -> GroupIdentification:
    """Return the ids that a configuration leads to.

    Raises:
        ConfigError: the node would wait for its group key, so there is no id yet.
    """
    from attestation.ids import network_id_of_name
    from node.group.identity import group_id
    from node.group.network import LOG_REPLAY_SIGNATURE

    validators = validators_of(config, None)
    key = group_key_of(config, validators)
    if key is None:
        raise ConfigError("the group key comes by provisioning (group.await_key): there is no GroupId yet")
    return GroupIdentification(
        network_id=network_id_of_name(config.network.name),
        group_id=group_id(
            key=key,
            settings=consensus_settings(config),
            machine_signature=load_machine(config.group.state_machine).signature,
            sync_signature=LOG_REPLAY_SIGNATURE,
            validators=validators,
        ),
        validators=validators,
    )


class Daemon:
    """A running node. Implements ``node.api.service.Service``."""

    def __init__(
        self, config: NodeConfig, *, trust: Trust, network: Network, audit: AuditLog, tell: Tell
    ) -> None:
        self._config = config
        self._trust = trust
        self._network = network
        self._audit = audit
        self._tell = tell
        self._machine: StateMachine = load_machine(config.group.state_machine)
        self._group: Group | None = None
        self._issuing = asyncio.Lock()

    # ---- the group ----------------------------------------------------------
    def join(self, key: GroupKey) -> Group:
        """Join the group with this key."""
        self._group = group = self._builder(key).join()
        return group

    def _builder(self, key: GroupKey) -> GroupBuilder:
        config = self._config
        builder = (
            self._network.groups.with_key(key)
            .with_state_machine(self._machine)
            .with_consensus(
                consensus_settings(config), parse_bootstrap(config.group.bootstrap, where="[group]")
            )
            .with_preference(preference_of(config))
        )
        for validator in self.validators:
            builder = builder.require_ticket(validator)
        return builder

    @property
    def validators(self) -> tuple[TicketValidator, ...]:
        return self._trust.validators

    def collateral_changed(self) -> None:
        """Judge every bond again: new collateral may have changed a verdict."""
        if self._group is not None:
            self._group.rejudge()

    async def close(self) -> None:
        if self._group is not None:
            await self._group.close()

    # ---- what the API asks ----------------------------------------------------
    @property
    def mock(self) -> bool:
        return self._trust.mock

    def readiness(self) -> Readiness:
        if self._group is None:
            return Readiness(
                ready=False, reason="waiting-for-key", message="this node waits to be given the group key"
            )
        status = self._group.status
        if status.halted is not None:
            return Readiness(ready=False, reason="halted", message=status.halted)
        if status.cluster_id is None:
            return Readiness(
                ready=False, reason="no-cluster", message="no cluster was founded or found yet: see /v1/bonds"
            )
        if not status.online:
            return Readiness(
                ready=False, reason="not-online", message="no leader is known, or the log is behind it"
            )
        return Readiness(ready=True)

    def group(self) -> GroupView:
        group = self._require_group()
        return GroupView(
            network_id=self._network.id,
            group_id=group.id,
            state_machine=self._machine.signature,
            status=group.status,
        )

    def bonds(self) -> Sequence[BondView]:
        return () if self._group is None else self._group.bonds

    def execute(
        self, commands: tuple[object, ...], *, key: bytes | None, feed: bool, timeout_s: float
    ) -> Awaitable[Outcome]:
        return self._require_group().outcome(
            lambda token: Execute(token, commands, key, feed), timeout_s=timeout_s
        )

    def query(
        self,
        query: object,
        *,
        consistency: Consistency,
        min_at: Cursor | None,
        max_age_ms: int | None,
        timeout_s: float,
    ) -> Awaitable[Outcome]:
        return self._require_group().outcome(
            lambda token: Query(token, query, consistency, min_at, max_age_ms), timeout_s=timeout_s
        )

    async def evidence(self, nonce: bytes) -> Evidence:
        group_id = None if self._group is None else self._group.id
        binding = binding_of_nonce(nonce)
        tickets = {}
        async with self._issuing:
            for issuer in self._network.issuers:
                tickets[issuer.ticket_class] = await self._issue(issuer, group_id, binding)
        return Evidence(
            peer_id=self._network.identity.peer_id,
            network_id=self._network.id,
            group_id=group_id,
            binding=binding,
            tickets=tickets,
        )

    async def _issue(self, issuer: TicketIssuer, group_id: bytes | None, binding: bytes) -> bytes:
        try:
            return await asyncio.to_thread(
                issuer.issue, group_id=group_id, binding=binding, now=datetime.now(UTC)
            )
        except EnclaveError as exc:
            raise UnavailableError("quote-unavailable", str(exc)) from exc

    def audit_events(self, *, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        return self._audit.events(after=after, limit=limit)

    def audit_head(self) -> Mapping[str, Any]:
        return asdict(self._audit.head())

    async def provision(self, group_key: bytes) -> bytes:
        if self._group is not None:
            raise ProvisionRefusedError("not-waiting", "this node has its group key already")
        group = self.join(GroupKey(group_key))
        self._audit.append("group-key-provisioned", group_id=group.id)
        self._tell({"event": "provisioned", "group_id": group.id.hex()})
        return group.id

    def _require_group(self) -> Group:
        if self._group is None:
            raise UnavailableError("waiting-for-key", "this node waits to be given the group key")
        return self._group


@asynccontextmanager
async def running(config: NodeConfig, tell: Tell) -> AsyncIterator[Daemon]:
    """Run a node while the context is open.

    Args:
        config: checked.
        tell: takes events for whoever started the process.

    Raises:
        ConfigError: something in the configuration cannot be had (a port, a file).
        NotATrustDomainError: ``mode = "tdx"`` and this is none.
    """
    now = datetime.now(UTC)
    data_dir = Path(config.node.data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    trust = trust_of(config, now)
    identity = Identity.generate(config.node.name, now, hosts=config.api.names)
    access = _access_of(config)
    async with AsyncExitStack() as stack:
        audit = AuditLog(data_dir / "audit.jsonl", lambda: datetime.now(UTC))
        stack.callback(audit.close)
        network = _network_of(config, identity, audit, trust, now)
        daemon = Daemon(config, trust=trust, network=network, audit=audit, tell=tell)
        key = group_key_of(config, daemon.validators)
        await network.start()
        stack.push_async_callback(network.close)
        server = _api_server_of(config, identity, daemon, access)
        await server.start()
        stack.push_async_callback(server.close)
        if isinstance(trust.source, FetchedEndorsements):
            await stack.enter_async_context(
                trust.source.keep_fresh(config, trust.attester, daemon.collateral_changed)
            )
        stack.push_async_callback(daemon.close)
        group_id = None if key is None else daemon.join(key).id
        _write_certificate(data_dir / "api-certificate.pem", identity)
        audit.append(
            "node-started",
            name=config.node.name,
            peer_id=identity.peer_id,
            group_id=group_id,
            provider=trust.attester.provider,
            mock=daemon.mock,
        )
        tell(
            {
                "event": "listening",
                "name": config.node.name,
                "pid": os.getpid(),
                "api": f"https://{config.api.advertise or config.api.listen}",
                "bond": config.bond.listen,
                "peer_id": identity.peer_id.hex(),
                "group_id": None if group_id is None else group_id.hex(),
                "mock": daemon.mock,
            }
        )
        yield daemon
        audit.append("node-stopping", name=config.node.name, peer_id=identity.peer_id)


async def tell_progress(daemon: Daemon, tell: Tell) -> None:
    """Tell when the first bond has formed, and when the node is ready."""
    told_bond = False
    while not daemon.readiness().ready:
        if not told_bond and daemon.bonds():
            told_bond = True
            tell({"event": "bonded"})
        await asyncio.sleep(0.02)
    if not told_bond and daemon.bonds():
        tell({"event": "bonded"})
    tell({"event": "ready"})


def _access_of(config: NodeConfig) -> AccessList:
    if config.api.tokens_file is None:
        return AccessList()
    return load_access(Path(config.api.tokens_file))


def _network_of(
    config: NodeConfig, identity: Identity, audit: AuditLog, trust: Trust, now: datetime
) -> Network:
    from attestation.ids import network_id_of_name

    issuer = TdxTicketIssuer(
        attester=trust.attester,
        identity=identity,
        network_id=network_id_of_name(config.network.name),
        endorsements_source=trust.source,
        started_at=now,
        lifetime=ticket_lifetime(config),
    )
    return Network(
        name=config.network.name,
        identity=identity,
        listen=split_address(config.bond.listen, where="[bond.listen]"),
        advertise=config.bond.advertise,
        seeds=config.bond.seeds,
        api_url=f"https://{config.api.advertise or config.api.listen}",
        audit=audit,
        issuers=[issuer, *trust.further_issuers],
    )


def _api_server_of(config: NodeConfig, identity: Identity, daemon: Daemon, access: AccessList) -> ApiServer:
    limits = ApiLimits(
        body_bytes_max=config.api.body_bytes_max,
        concurrent_requests_max=config.api.concurrent_requests_max,
    )
    return ApiServer(
        create_app(daemon, access, limits),
        listen=split_address(config.api.listen, where="[api.listen]"),
        tls=server_tls_context(
            certificate_der=identity.certificate_der,
            private_key_pem=identity.private_key_pem(),
            client_certificates_der=access.client_certificates_der,
        ),
        limits=limits,
    )


def _write_certificate(path: Path, identity: Identity) -> None:
    """Leave the certificate where clients on this machine find it; it is public."""
    staged = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()
    staged.write_bytes(identity.certificate_pem())
    staged.replace(path)
