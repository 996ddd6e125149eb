"""The composition root of a node: builds every object from the configuration."""

import asyncio
import logging
import os
import resource
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Never

from prometheus_client import CollectorRegistry

from attestation import files
from attestation.background import Background
from attestation.collateral.client.source import ClientSource
from attestation.files import FileError
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims, TicketIssuer
from attestation.tickets.store import EndorsementsSource
from attestation.tickets.tdx import TdxValidator
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from node.api.app import create_app
from node.api.limits import ApiLimits
from node.api.metrics import BackgroundCollector, PoolsCollector
from node.api.server import ApiServer, ServerTls
from node.audit import AuditLimits, AuditLog
from node.bonds.settings import Environment
from node.bonds.wire.addresses import split_address
from node.clock import RELEASED, NodeClock
from node.config import NodeConfig
from node.environment import read_environment
from node.errors import ConfigError
from node.group.group import Group
from node.group.identity import GroupKey, require_key
from node.group.network import Network
from node.group_document import Derived, GroupDocument, Storage, grants_of
from node.machines.loader import BUILT_IN_ONLY, Machines, load_machine
from node.recovery import GroupEnforcement, RecoveryWatch
from node.service import Daemon, Tell
from node.storage.file import FileStorage
from node.storage.member import open_member_disk
from node.tcb_outlook import TcbOutlook, TcbOutlookCollector
from node.trust import (
    JudgesMemory,
    attester_of,
    further_issuers_of,
    load_freshness,
    members_of,
    open_source,
    save_freshness,
    tdx_validator_of,
    ticket_lifetime,
    validators_of,
    witnesses_of,
)

logger = logging.getLogger(__name__)

PROBE_BYTES: Final = 4096
KEY_FILE_BYTES_MAX: Final = 1024
STARTING_S: Final = 0.02
READINESS_S: Final = 0.2
FRESHNESS_SAVE_S: Final = 10.0
OTHER_FILES: Final = 512  # for bonds, their handshakes, storage and the interpreter


def group_key_of(document: GroupDocument, config: NodeConfig) -> GroupKey | None:
    """Return the group key, or None if the node shall wait to receive it.

    Raises:
        ConfigError: the key file cannot be read, holds no key, or holds another key than the document names.
    """
    if isinstance(document.key, Derived):
        return GroupKey.of_document(document)
    if config.group.await_key:
        return None
    assert config.group.key_file is not None
    path = Path(config.group.key_file)
    try:
        text = files.read_text(path, bytes_max=KEY_FILE_BYTES_MAX, secret=True)
    except FileError as exc:
        raise ConfigError(f"group.key_file: {exc}") from exc
    return require_key(document, GroupKey.from_hex(text), source=f"group.key_file {path}")


@asynccontextmanager
async def running(
    document: GroupDocument, config: NodeConfig, tell: Tell, machines: Machines = BUILT_IN_ONLY
) -> AsyncIterator[Daemon]:
    """Run a node while the context is open.

    Args:
        document: the group's.
        config: this node's, checked with the document (``load_node``).
        tell: receives events for the program that started the process.
        machines: the state machines that may be loaded, besides the built-in ones.

    Raises:
        ConfigError: something in the configuration is not available (a port, a file).
        NotATrustDomainError: ``mode = "tdx"``, and this machine is not a trust domain.
    """
    machine = load_machine(document.state_machine, machines)
    for name in document.without_effect:
        logger.warning("%s: %s has no effect in this release", document.where, name)
    if not any(grant.is_admin for grant in grants_of(document.access)):
        logger.warning("%s: [access] has no admin: the access list can never be changed", document.where)
    if config.attestation.mode == "tdx" and not machines.measured(document.state_machine):
        tell(
            {
                "event": "machine-not-measured",
                "name": config.node.name,
                "state_machine": document.state_machine,
                "message": "this state machine is imported from outside of any image: no quote shows "
                "what it is, and anyone who can write its files controls this node",
            }
        )
    make_data_directory(config)
    allow_open_files(config)
    clock = NodeClock(wall=_wall, monotonic_s=time.monotonic, build_date=_build_date())
    attester = attester_of(document, config)
    seen = load_freshness(config)
    async with AsyncExitStack() as stack:
        key = group_key_of(document, config)
        identity, storage = _identity_of(document, config, clock.now())
        if storage is not None:
            stack.callback(storage.close)
        audit = AuditLog(
            Path(config.node.data_dir) / "audit.jsonl",
            _wall,
            AuditLimits(segment_bytes=config.audit.segment_bytes, segments_max=config.audit.segments_max),
            life=identity,
        )
        stack.callback(audit.close)
        background = Background()
        stack.push_async_callback(background.close)
        parts: list[Daemon] = []
        source = await stack.enter_async_context(
            open_source(
                document,
                config,
                attester=attester,
                clock=clock,
                seen=seen,
                changed=lambda _: _rejudge(parts),
                background=background,
            )
        )
        members = members_of(document, clock, lambda: parts[0].log_time if parts else None)
        enforcement = GroupEnforcement(now=clock.now, group=lambda: _joined(parts))
        memory = JudgesMemory(
            members=members,
            enforcement=enforcement,
            saw=enforcement.saw,
            witnesses=witnesses_of(source, clock, members),
        )
        tdx = tdx_validator_of(document, source, seen, memory)
        clock.follow(lambda: tdx.freshness.newest_issue)
        stack.callback(lambda: _save_freshness_at_the_end(config, tdx))
        validators = validators_of(document, tdx)
        issuer = TdxTicketIssuer(
            attester=attester,
            identity=identity,
            network_id=document.network_id,
            endorsements_source=source,
            started_at=clock.now(),
            lifetime=ticket_lifetime(config),
        )
        network = _network_of(
            document,
            config,
            identity,
            audit,
            issuers=[issuer, *further_issuers_of(config)],
            clock=clock,
            background=background,
        )
        daemon = Daemon(
            document,
            config,
            network=network,
            machine=machine,
            validators=validators,
            audit=audit,
            tell=tell,
            clock=clock,
            mock=attester.mock or any(validator.mock for validator in validators),
            storage=storage,
            background=background,
        )
        daemon.tcb_outlook = _tcb_outlook_of(document, daemon, issuer, tdx, source)
        parts.append(daemon)
        await network.start()
        stack.push_async_callback(network.close)
        server = _api_server_of(document, config, identity, daemon)
        await server.start()
        stack.push_async_callback(server.close)
        stack.push_async_callback(daemon.close)
        watch = RecoveryWatch(enforcement, group=lambda: _joined(parts))
        background.keep("tcb-watch", watch.run)
        background.keep("tcb-outlook", daemon.tcb_outlook.run)
        background.keep("freshness-save", lambda: _keep_freshness(config, tdx))
        group_id = None if key is None else daemon.join(key).id
        _write_certificate(Path(config.node.data_dir) / "api-certificate.pem", identity)
        audit.append(
            "node-started",
            name=config.node.name,
            peer_id=identity.peer_id,
            group_id=group_id,
            provider=attester.provider,
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


def allow_open_files(config: NodeConfig) -> None:
    """Let the process open all files that its limits require: strangers must not use up those of the bonds.

    Raises:
        ConfigError: the system does not permit it.
    """
    needed = config.api.connections_max + 2 * config.api.handshakes_max + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard if enough else needed))
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"[api] connections_max = {config.api.connections_max} needs {needed} open files,"
            f" and the process may have {hard}: raise that (LimitNOFILE=, ulimit -Hn), or lower the key"
        ) from exc


async def tell_progress(daemon: Daemon, tell: Tell) -> Never:
    """Report the first bond and each time that the node becomes ready, or is ready no longer."""
    told_bond = was_ready = False
    told = ""
    while True:
        if not told_bond and daemon.bonds():
            told_bond = True
            tell({"event": "bonded"})
        now = daemon.readiness()
        if now.ready and not was_ready:
            was_ready = True
            cluster = daemon.cluster
            tell({"event": "ready", "cluster": None if cluster is None else str(cluster)})
        elif now.ready and told:
            tell({"event": "ready-again"})
            told = ""
        elif not now.ready and now.reason != told and (was_ready or now.reason == "halted"):
            told = now.reason
            logger.warning("not ready (%s): %s", told, now.message)
            tell({"event": "not-ready", "reason": told, "message": now.message})
        await asyncio.sleep(READINESS_S if was_ready else STARTING_S)


def _identity_of(
    document: GroupDocument, config: NodeConfig, now: datetime
) -> tuple[Identity, FileStorage | None]:
    """Return a new incarnation; with a trusted disk, the one that this node's disk holds for the group.

    Raises:
        CorruptStorageError: the disk does not hold what was written there.
    """
    if document.storage is Storage.VOLATILE:
        return Identity.generate(config.node.name, now, hosts=config.api.names), None
    directory = Path(config.node.data_dir) / f"group-{document.group_id.hex()[:16]}"
    disk = open_member_disk(directory, config.node.name, now, hosts=config.api.names)
    return disk.identity, disk.storage


def make_data_directory(config: NodeConfig) -> None:
    """Make the directory that the node writes to, and check that the node can write there.

    Raises:
        ConfigError: the node cannot, for example because the disk is full.
    """
    directory = Path(config.node.data_dir)
    probe = directory / f".write-probe-{os.getpid()}"
    try:
        files.make_directory(directory)
        files.replace(probe, b"\0" * PROBE_BYTES)
        files.remove(probe)
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc


def _rejudge(parts: Sequence[Daemon]) -> None:
    for daemon in parts:
        daemon.collateral_changed()


def _tcb_outlook_of(
    document: GroupDocument,
    daemon: Daemon,
    issuer: TdxTicketIssuer,
    judge: TdxValidator,
    source: EndorsementsSource,
) -> TcbOutlook:
    async def own_ticket() -> tuple[bytes, ExpectedClaims]:
        group, cluster, now = daemon.joined, daemon.cluster, daemon.now()
        group_id = None if group is None else group.id
        ticket = await asyncio.to_thread(
            issuer.issue, group_id=group_id, cluster=cluster, binding=None, now=now
        )
        claims = ExpectedClaims(
            peer_id=daemon.me.id,
            network_id=document.network_id,
            group_id=group_id,
            binding=None,
            cluster=ANY_CLUSTER if cluster is None else cluster,
        )
        return ticket, claims

    return TcbOutlook(
        me=daemon.me,
        validator=judge,
        source=source if isinstance(source, ClientSource) else None,
        early=document.update != "early",
        bonds=lambda: () if daemon.joined is None else daemon.joined.bonds,
        own_ticket=own_ticket,
        now=daemon.now,
    )


def _joined(parts: Sequence[Daemon]) -> Group | None:
    return parts[0].joined if parts else None


def _wall() -> datetime:
    return datetime.now(UTC)


def _build_date() -> datetime:
    """Return when the image was built, as its PID 1 reports; otherwise when this version was released."""
    return read_environment().build_date or RELEASED


def _save_freshness_at_the_end(config: NodeConfig, tdx: TdxValidator) -> None:
    """Save at a clean stop. A failure is logged; the stop stays clean, and the next life lacks the data."""
    try:
        save_freshness(config, tdx.freshness)
    except FileError as exc:
        logger.error("the record of seen collateral is not saved: %s", exc)  # noqa: TRY400 - it says all


async def _keep_freshness(config: NodeConfig, tdx: TdxValidator) -> Never:
    """Save regularly which collateral was seen, so that a node that is killed has not forgotten all of it."""
    while True:
        await asyncio.sleep(FRESHNESS_SAVE_S)
        save_freshness(config, tdx.freshness)


def _network_of(
    document: GroupDocument,
    config: NodeConfig,
    identity: Identity,
    audit: AuditLog,
    *,
    issuers: Sequence[TicketIssuer],
    clock: NodeClock,
    background: Background,
) -> Network:
    return Network(
        name=document.network,
        identity=identity,
        listen=split_address(config.bond.listen),
        advertise=config.bond.advertise,
        seeds=config.bond.seeds,
        api_url=f"https://{config.api.advertise or config.api.listen}",
        audit=audit,
        issuers=issuers,
        environment=replace(Environment.system(), now=clock.now),
        background=background,
    )


def _api_server_of(
    document: GroupDocument, config: NodeConfig, identity: Identity, daemon: Daemon
) -> ApiServer:
    limits = ApiLimits(
        body_bytes_max=config.api.body_bytes_max,
        bodies_bytes_max=config.api.bodies_bytes_max,
        concurrent_requests_max=config.api.concurrent_requests_max,
        connections_max=config.api.connections_max,
        handshakes_max=config.api.handshakes_max,
        session_ttl_s=document.settings.session_ttl_ms / 1000,
        access_lag_s=document.access.lag_s,
    )
    registry = CollectorRegistry()
    registry.register(BackgroundCollector(daemon.background))
    if daemon.tcb_outlook is not None:
        registry.register(TcbOutlookCollector(daemon.tcb_outlook))
    app = create_app(daemon, limits, registry=registry)
    server = ApiServer(
        app,
        listen=split_address(config.api.listen),
        tls=ServerTls(
            certificate_der=identity.certificate_der,
            private_key_pem=identity.private_key_pem(),
            anchors=daemon.client_certificates,
        ).context,
        limits=limits,
        background=daemon.background,
    )
    registry.register(PoolsCollector(lambda: (*daemon.usages(), *server.usages(), *app.usages())))
    return server


def _write_certificate(path: Path, identity: Identity) -> None:
    """Write the certificate, which is public, where clients on this machine find it."""
    try:
        files.replace(path, identity.certificate_pem())
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc
