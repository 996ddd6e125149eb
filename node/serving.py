"""The server of a node's API: its limits, its certificate, and what its metrics show."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from enclave.identity import Identity
from node.api.app import create_app
from node.api.limits import ApiLimits
from node.api.metrics import BackgroundCollector, PoolsCollector
from node.api.server import ApiServer, ServerTls
from node.bonds.wire.addresses import split_address
from node.config import NodeConfig
from node.etcd.door import grpc_door
from node.group_document import GroupDocument
from node.service import NodeService
from node.tcb_outlook import TcbOutlookCollector


def api_server_of(
    document: GroupDocument,
    config: NodeConfig,
    identity: Identity,
    service: NodeService,
    *,
    chain: Callable[[], tuple[bytes, ...]],
) -> ApiServer:
    """Return the server of the node's API, with what its metrics show. ``chain``: what TLS presents now."""
    limits = _api_limits_of(document, config)
    registry = CollectorRegistry()
    registry.register(BackgroundCollector(service.background))
    if service.tcb_outlook is not None:
        registry.register(TcbOutlookCollector(service.tcb_outlook))
    app = create_app(service, limits, registry=registry)
    door = grpc_door(app, service, limits)
    server = ApiServer(
        app,
        listen=split_address(config.api.listen),
        tls=ServerTls(
            chain=chain,
            private_key_pem=identity.private_key_pem(),
            anchors=service.client_certificates,
        ).context,
        limits=limits,
        background=service.background,
        door=door,
    )
    registry.register(
        PoolsCollector(lambda: (*service.usages(), *server.usages(), *app.usages(), *door.usages()))
    )
    return server


def _api_limits_of(document: GroupDocument, config: NodeConfig) -> ApiLimits:
    return ApiLimits(
        body_bytes_max=config.api.body_bytes_max,
        bodies_bytes_max=config.api.bodies_bytes_max,
        concurrent_requests_max=config.api.concurrent_requests_max,
        connections_max=config.api.connections_max,
        handshakes_max=config.api.handshakes_max,
        session_ttl_s=document.settings.session_ttl_ms / 1000,
        access_lag_s=document.access.lag_s,
    )
