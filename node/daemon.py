"""The composition root of a node: builds every object from the configuration."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Never

from attestation import files
from attestation.collateral.client.source import ClientSource
from attestation.files import FileError
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims, TicketValidator
from attestation.tickets.store import EndorsementsSource
from attestation.tickets.tdx import TdxValidator
from enclave.issuer import TdxTicketIssuer
from node.bonds.settings import Environment
from node.bonds.wire.addresses import split_address
from node.ca.certificates import ApiCertificates, digest_of, pem_of
from node.config import NodeConfig, certified_names_of
from node.errors import ConfigError
from node.group.network import Network
from node.group_ca import GroupCa
from node.group_document import GroupDocument, grants_of
from node.host import allow_open_files, make_data_directory, memory_budget
from node.life import NodeLife, begin_life
from node.machines.base import StateMachine
from node.machines.loader import BUILT_IN_ONLY, Machines, load_machine
from node.peers import Incarnation
from node.pid_file import holding_pid_file
from node.process_events import Listening, MachineNotMeasured, Reporter
from node.raft.budget import Budget
from node.service import NodeService
from node.serving import api_server_of
from node.tcb_outlook import TcbOutlook
from node.tcb_recovery import GroupEnforcement, RecoveryWatch
from node.trust import (
    CollateralChanges,
    JudgesMemory,
    further_issuers_of,
    members_of,
    open_source,
    save_freshness,
    tdx_validator_of,
    ticket_lifetime,
    validators_of,
    witnesses_of,
)

FRESHNESS_SAVE_S: Final = 10.0
CERTIFICATE_FILE: Final = "api-certificate.pem"
GROUP_CA_FILE: Final = "group-ca.pem"

logger = logging.getLogger(__name__)


@asynccontextmanager
async def running(
    document: GroupDocument, config: NodeConfig, report: Reporter, machines: Machines = BUILT_IN_ONLY
) -> AsyncIterator[NodeService]:
    """Run a node while the context is open.

    Args:
        document: the group's.
        config: this node's, checked with the document (``load_node``).
        report: receives the node's events, for the program that started the process.
        machines: the state machines that may be loaded, besides the built-in ones.

    Raises:
        ConfigError: something in the configuration is not available (a port, a file, enough memory).
        NotATrustDomainError: ``mode = "tdx"``, and this machine is not a trust domain.
    """
    machine = load_machine(document.state_machine, machines)
    _warn_of_settings(document)
    _report_unmeasured_machine(document, config, machines, report)
    make_data_directory(config)
    allow_open_files(config)
    budget = memory_budget(document, config)
    async with AsyncExitStack() as stack:
        life = begin_life(document, config, stack)
        stack.enter_context(holding_pid_file(Path(config.node.data_dir), life.identity.peer_id))
        trust = await _open_trust(life, stack)
        certified = _certified_api_of(life)
        network = _network_of(life, trust)
        outlook = _tcb_outlook_of(life, trust, network.me)
        service = _service_of(
            life, trust, network, machine=machine, outlook=outlook, report=report, budget=budget
        )
        await _listen(life, network, service, certified, stack)
        _start_background_work(life, trust, outlook, certified)
        if life.key is not None:
            service.join(life.key)
        _write_certificate(life, certified)
        _report_start(life, service, report)
        yield service
        life.audit.append("node-stopping", name=config.node.name, peer_id=life.identity.peer_id)


# ---- before anything is opened ----------------------------------------------
def _warn_of_settings(document: GroupDocument) -> None:
    if not any(grant.is_admin for grant in grants_of(document.access)):
        logger.warning("%s: [access] has no admin: the access list can never be changed", document.where)


def _report_unmeasured_machine(
    document: GroupDocument, config: NodeConfig, machines: Machines, report: Reporter
) -> None:
    if config.attestation.mode != "tdx" or machines.measured(document.state_machine):
        return
    report(
        MachineNotMeasured(
            name=config.node.name,
            state_machine=document.state_machine,
            message="this state machine is imported from outside of any image: no quote shows "
            "what it is, and anyone who can write its files controls this node",
        )
    )


# ---- evidence: the peers' and its own -----------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How the node judges the evidence of peers, and makes its own.

    Attributes:
        source: of endorsements.
        changes: of the endorsements that were fetched.
        enforcement: since when sets of collateral are enforced.
        tdx: the judge of TDX tickets; the first of ``validators``.
        issuer: of this node's TDX tickets.
    """

    source: EndorsementsSource
    changes: CollateralChanges
    enforcement: GroupEnforcement
    tdx: TdxValidator
    validators: tuple[TicketValidator, ...]
    issuer: TdxTicketIssuer


async def _open_trust(life: NodeLife, stack: AsyncExitStack) -> Trust:
    changes = CollateralChanges()
    source = await stack.enter_async_context(
        open_source(
            life.document,
            life.config,
            attester=life.attester,
            clock=life.clock,
            seen=life.seen,
            changed=changes.publish,
            background=life.background,
        )
    )
    enforcement = GroupEnforcement(now=life.clock.now, group=lambda: life.joined.group)
    tdx = _judge_of(life, source, enforcement)
    life.clock.follow(lambda: tdx.freshness.newest_issue)
    stack.callback(lambda: _save_freshness_at_the_end(life.config, tdx))
    return Trust(
        source=source,
        changes=changes,
        enforcement=enforcement,
        tdx=tdx,
        validators=validators_of(life.document, tdx),
        issuer=TdxTicketIssuer(
            attester=life.attester,
            identity=life.identity,
            network_id=life.document.network_id,
            endorsements_source=source,
            started_at=life.clock.now(),
            lifetime=ticket_lifetime(life.config),
        ),
    )


def _judge_of(life: NodeLife, source: EndorsementsSource, enforcement: GroupEnforcement) -> TdxValidator:
    members = members_of(life.document, life.clock, lambda: life.joined.log_time)
    memory = JudgesMemory(
        members=members,
        enforcement=enforcement,
        saw=enforcement.saw,
        witnesses=witnesses_of(source, life.clock, members),
    )
    return tdx_validator_of(life.document, source, life.seen, memory)


def _save_freshness_at_the_end(config: NodeConfig, tdx: TdxValidator) -> None:
    """Save at a clean stop. A failure is logged; the stop stays clean, and the next life lacks the data."""
    try:
        save_freshness(config, tdx.freshness)
    except FileError as exc:
        logger.error("the record of seen collateral is not saved: %s", exc)  # noqa: TRY400 - it says all


# ---- the network, and what is served --------------------------------------------
def _network_of(life: NodeLife, trust: Trust) -> Network:
    config = life.config
    return Network(
        name=life.document.network,
        identity=life.identity,
        listen=split_address(config.bond.listen),
        advertise=config.bond.advertise,
        seeds=config.bond.seeds,
        api_url=f"https://{config.api.advertise or config.api.listen}",
        audit=life.audit,
        issuers=[trust.issuer, *further_issuers_of(config)],
        environment=replace(Environment.system(), now=life.clock.now),
        background=life.background,
    )


def _tcb_outlook_of(life: NodeLife, trust: Trust, me: Incarnation) -> TcbOutlook:
    """Return the node's outlook, which follows the collateral; then the bonds are judged again too."""
    joined = life.joined

    async def own_ticket() -> tuple[bytes, ExpectedClaims]:
        group_id, cluster = joined.id, joined.cluster
        ticket = await asyncio.to_thread(
            trust.issuer.issue, group_id=group_id, cluster=cluster, binding=None, now=life.clock.now()
        )
        claims = ExpectedClaims(
            peer_id=me.id,
            network_id=life.document.network_id,
            group_id=group_id,
            binding=None,
            cluster=ANY_CLUSTER if cluster is None else cluster,
        )
        return ticket, claims

    outlook = TcbOutlook(
        me=me,
        validator=trust.tdx,
        source=trust.source if isinstance(trust.source, ClientSource) else None,
        early=life.document.update != "early",
        bonds=lambda: joined.bonds,
        own_ticket=own_ticket,
        now=life.clock.now,
    )
    trust.changes.follow(outlook.collateral_changed)
    trust.changes.follow(joined.rejudge)
    return outlook


def _service_of(
    life: NodeLife,
    trust: Trust,
    network: Network,
    *,
    machine: StateMachine,
    outlook: TcbOutlook,
    report: Reporter,
    budget: Budget,
) -> NodeService:
    return NodeService(
        life.document,
        life.config,
        network=network,
        machine=machine,
        validators=trust.validators,
        audit=life.audit,
        report=report,
        clock=life.clock,
        mock=life.attester.mock or any(validator.mock for validator in trust.validators),
        storage=life.storage,
        background=life.background,
        joined=life.joined,
        tcb_outlook=outlook,
        budget=budget,
    )


@dataclass(frozen=True, slots=True)
class CertifiedApi:
    """The API in a group with an authority: what this incarnation made, and what the authority adds."""

    own: ApiCertificates
    ca: GroupCa


def _certified_api_of(life: NodeLife) -> CertifiedApi | None:
    """Return what the group's authority certifies; None if the group document lists no name for it."""
    permitted, identity = life.document.ca_names, life.identity
    if not permitted:
        return None
    own = ApiCertificates.of_key(
        identity.private_key,
        identity.peer_id,
        wanted=certified_names_of(life.document, life.config),
        permitted=permitted,
        now=life.clock.now(),
    )

    def publish(certificate_der: bytes) -> None:
        life.audit.append("group-ca", sha256=digest_of(certificate_der))
        files.replace(Path(life.config.node.data_dir) / GROUP_CA_FILE, pem_of(certificate_der))

    ca = GroupCa(
        names=permitted, own=own, group=lambda: life.joined.group, now=life.clock.now, publish=publish
    )
    return CertifiedApi(own, ca)


async def _listen(
    life: NodeLife,
    network: Network,
    service: NodeService,
    certified: CertifiedApi | None,
    stack: AsyncExitStack,
) -> None:
    """Accept bonds, then clients. At the end the node leaves its group first, so that clients get answers."""
    await network.start()
    stack.push_async_callback(network.close)
    self_signed = (life.identity.certificate_der,)
    server = api_server_of(
        life.document,
        life.config,
        life.identity,
        service,
        chain=lambda: self_signed if certified is None else certified.ca.chain,
    )
    await server.start()
    stack.push_async_callback(server.close)
    stack.push_async_callback(service.close)


# ---- the running node -----------------------------------------------------------
def _start_background_work(
    life: NodeLife, trust: Trust, outlook: TcbOutlook, certified: CertifiedApi | None
) -> None:
    watch = RecoveryWatch(trust.enforcement, group=lambda: life.joined.group)
    life.background.keep("tcb-watch", watch.run)
    life.background.keep("tcb-outlook", outlook.run)
    if certified is not None:
        life.background.keep("group-ca", certified.ca.run)
    life.background.keep("freshness-save", lambda: _keep_freshness(life.config, trust.tdx))


async def _keep_freshness(config: NodeConfig, tdx: TdxValidator) -> Never:
    """Save regularly which collateral was seen, so that a node that is killed has not forgotten all of it."""
    while True:
        await asyncio.sleep(FRESHNESS_SAVE_S)
        save_freshness(config, tdx.freshness)


def _write_certificate(life: NodeLife, certified: CertifiedApi | None) -> None:
    """Write the certificate to pin this incarnation with, which is public, where clients here find it."""
    pem = life.identity.certificate_pem() if certified is None else pem_of(certified.own.anchor)
    try:
        files.replace(Path(life.config.node.data_dir) / CERTIFICATE_FILE, pem)
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc


def _report_start(life: NodeLife, service: NodeService, report: Reporter) -> None:
    config, group_id = life.config, life.joined.id
    life.audit.append(
        "node-started",
        name=config.node.name,
        peer_id=life.identity.peer_id,
        group_id=group_id,
        provider=life.attester.provider,
        mock=service.mock,
    )
    report(
        Listening(
            name=config.node.name,
            pid=os.getpid(),
            api=f"https://{config.api.advertise or config.api.listen}",
            bond=config.bond.listen,
            peer_id=life.identity.peer_id.hex(),
            group_id=None if group_id is None else group_id.hex(),
            mock=service.mock,
        )
    )
