"""The bond endpoint: one listener and one TLS identity per process, shared by its groups."""

import asyncio
import errno
import logging
from collections import OrderedDict
from typing import Final

from attestation.background import Background
from enclave.identity import Identity
from node.audit import AuditLog
from node.bonds.audit_events import BondRecorder
from node.bonds.connection import BondConnection, Bonded
from node.bonds.context import BondContext
from node.bonds.core.handshake import ConnectionRole
from node.bonds.interface import BondHandler, BondInfo, GroupSpec
from node.bonds.lifecycle import Ending
from node.bonds.mesh import BondMesh
from node.bonds.settings import BondSettings, Environment
from node.bonds.tickets.turns import TurnThread
from node.bonds.tls import bond_context
from node.bonds.wire.addresses import is_address, join_address
from node.bonds.wire.messages import ADDRESSES_MAX, is_name
from node.errors import ConfigError, LocalProtocolError
from node.peers import Incarnation
from node.places import Places, Share, Usage, share_of_address

__all__ = ["BondEndpoint", "BondHandler", "BondInfo", "BondMesh", "GroupSpec"]

logger = logging.getLogger(__name__)

BONDED_FROM_MAX: Final = 1024  # remote IP addresses


class BondEndpoint:
    """Accepts and opens connections for the groups that have joined.

    Args:
        identity: the key and certificate of this incarnation.
        network_id: 32 bytes.
        listen: host and port to listen on; port 0 takes any free one.
        advertise: ``host:port`` under which peers reach this node; by default the listening address.
        audit: receives every admission, refusal and end.
        settings: timings and limits.
        environment: clocks and randomness; the system's by default.
        background: runs the endpoint's own tasks; by default the endpoint makes one.

    Attributes:
        context: what all of its bonds share.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        network_id: bytes,
        listen: tuple[str, int],
        advertise: tuple[str, ...],
        audit: AuditLog,
        settings: BondSettings | None = None,
        environment: Environment | None = None,
        background: Background | None = None,
    ) -> None:
        if not is_name(identity.name):
            raise ConfigError(f"{identity.name!r} cannot name a member: use A-Z a-z 0-9 . _ -, at most 64")
        for address in advertise:
            if not is_address(address):
                raise ConfigError(f"the advertised bond address {address!r} is not host:port")
        if len(advertise) > ADDRESSES_MAX:
            raise ConfigError(f"at most {ADDRESSES_MAX} bond addresses can be advertised")
        self.context = context = BondContext(
            settings=settings or BondSettings(),
            environment=environment or Environment.system(),
            background=background or Background(),
            tls=bond_context(identity.private_key, identity.certificate_der),
            me=Incarnation(identity.name, identity.peer_id),
            network_id=network_id,
            # One thread for each: a quote that takes seconds must not delay verdicts.
            issuing=TurnThread("bond-quotes"),
            judging=TurnThread("bond-verdicts"),
        )
        self._listen = listen
        self._advertised = advertise
        self._recorder = BondRecorder(audit, context.environment.monotonic_ms)
        self._groups: dict[bytes, BondMesh] = {}
        self._connections: set[BondConnection] = set()
        # Connections whose peers have not been admitted.
        self._unproven: Places[BondConnection] = Places(
            "bond-handshakes",
            context.settings.handshakes_max,
            share_max=context.settings.handshakes_per_address_max,
        )
        # Where members were, the newest last: a connection from there is not a stranger's.
        self._bonded_from: OrderedDict[str, None] = OrderedDict()
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    # ---- for the daemon ---------------------------------------------------------
    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be used, or there is no address to announce to peers.
        """
        host, port = self._listen
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: BondConnection(self.context, self, group=None, dialled=None), host, port
            )
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            why = "is in use by another process" if in_use else f"cannot be used: {exc.strerror}"
            raise ConfigError(f"the bond address {join_address(host, port)} {why} (key bond.listen)") from exc
        if not self._advertised:
            if host in {"", "0.0.0.0", "::"}:
                await self.close()
                raise ConfigError(f"bond.advertise is needed: peers cannot reach {host or 'any'!r}")
            self._advertised = (join_address(host, self.port),)
        self._ticker = self.context.background.keep("bond-timers", self._tick_forever)

    @property
    def port(self) -> int:
        """The port that the endpoint listens on."""
        if self._server is None:
            raise LocalProtocolError("the bond endpoint is not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def join(self, spec: GroupSpec, handler: BondHandler) -> BondMesh:
        """Accept and open bonds for one more group.

        Raises:
            ConfigError: a ticket class without issuer, or a seed that is not ``host:port``.
        """
        if self._ticker is None:
            raise LocalProtocolError("the bond endpoint is not started")
        if spec.group_id in self._groups:
            raise LocalProtocolError("the group is joined already")
        for seed in spec.seeds:
            if not is_address(seed):
                raise ConfigError(f"the seed {seed!r} is not host:port (key bond.seeds)")
        group = BondMesh(
            self.context, self, self._recorder, spec=spec, handler=handler, advertised=self._advertised
        )
        self._groups[spec.group_id] = group
        group.tick(self.context.environment.monotonic_ms())
        return group

    async def close(self) -> None:
        """Depart from every group and close all connections."""
        if self._server is not None:
            self._server.close()
        for group in list(self._groups.values()):
            await group.depart()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.gone.wait()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        loop = asyncio.get_running_loop()
        for thread in (self.context.issuing, self.context.judging):
            await loop.run_in_executor(None, thread.shutdown)
        self._recorder.flush()

    @property
    def advertised(self) -> tuple[str, ...]:
        """The addresses that this node announces to its peers."""
        return self._advertised

    # ---- for groups and connections ---------------------------------------------
    def find_group(self, group_id: bytes) -> BondMesh | None:
        return self._groups.get(group_id)

    def left(self, group: BondMesh) -> None:
        self._groups.pop(group.group_id, None)

    def opened(self, connection: BondConnection) -> bool:
        """Give a new connection a place, and close the one that must go; False if that is the new one."""
        self._connections.add(connection)
        if connection.role is ConnectionRole.INITIATOR:
            return True
        evicted = self._seat(connection)
        if evicted is connection:
            self._recorder.dropped(connection.address, "too-many-handshakes")
            return False
        if evicted is not None:
            evicted.give_up_place()
        return True

    def proved(self, connection: BondConnection) -> None:
        """Move a connection whose peer has the group key: it now waits among those that have proved it."""
        if connection in self._unproven:
            self._seat(connection)  # in the place that it has: no other must go

    def handshake_done(self, connection: BondConnection) -> None:
        """Stop counting a connection among the unproven: the bond stands."""
        self._unproven.leave(connection)
        self._bonded_from[connection.ip] = None
        self._bonded_from.move_to_end(connection.ip)
        if len(self._bonded_from) > BONDED_FROM_MAX:
            self._bonded_from.popitem(last=False)

    def usages(self) -> tuple[Usage, ...]:
        """Return how much of this endpoint's pools is in use."""
        return (self._unproven.usage, self.context.issuing.usage, self.context.judging.usage)

    def share_of(self, connection: BondConnection) -> tuple[Share, bool]:
        """Return the share of a connection, and whether it is one of the known.

        The known are the peers that this node dialled, bonded peers, and addresses where a member is or was.
        """
        known = (
            connection.role is ConnectionRole.INITIATOR
            or isinstance(connection.stage, Bonded)
            or connection.ip in self._bonded_from
            or any(group.knows(connection.ip) for group in self._groups.values())
        )
        return share_of_address(connection.ip), known

    def _seat(self, connection: BondConnection) -> BondConnection | None:
        share, known = self.share_of(connection)
        return self._unproven.enter(connection, share, known=known)

    def ended(self, ending: Ending) -> None:
        self._recorder.ended(ending)

    def closed(self, connection: BondConnection) -> None:
        self._unproven.leave(connection)
        self._connections.discard(connection)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(self.context.settings.tick_ms / 1000)
            now_ms = self.context.environment.monotonic_ms()
            for connection in list(self._connections):
                try:
                    connection.tick(now_ms)
                except Exception:
                    # A bug in one bond must not stop the timers of the others.
                    logger.exception("the timers of a bond failed")
                    connection.abort()
            for group in list(self._groups.values()):
                group.tick(now_ms)
            self._recorder.tick()
