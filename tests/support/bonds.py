"""Fakes around bonds: tickets under a shared key, a recording handler, nodes on loopback.

The fake ticket makes the same promises as a quote (a trusted party signed which node, where and for which
connection), so every rule of admission can be tried without a quoting authority.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from attestation.encoding import canonical
from attestation.errors import MalformedError
from attestation.tickets.ids import network_id_of_name
from attestation.tickets.protocol import Cluster as Founded
from attestation.tickets.protocol import ExpectedClaims, Expiration, TicketRejectedError
from enclave.identity import Identity
from node.audit import AuditLog
from node.bonds.endpoint import BondEndpoint, BondInfo, BondMesh, GroupSpec
from node.bonds.settings import BondSettings, Environment
from node.bonds.tls import TLSSession, bond_context
from node.bonds.wire.frames import FrameReader, frame_of
from node.bonds.wire.messages import Message, decode_untrusted
from node.features import Build, Levels, Span
from node.peers import BondLoss, Incarnation, Preference

NETWORK = network_id_of_name("test")
GROUP = canonical.digest("bondstone/test-group/v1")
SECRET = b"k" * 32
AUTHORITY = b"a" * 32
QUICK = BondSettings(
    proof_timeout_ms=3000,
    handshake_timeout_ms=6000,
    tick_ms=10,
    ping_interval_ms=100,
    silence_ms=1500,
    reconnect_min_ms=20,
    reconnect_max_ms=100,
    refused_min_ms=100,
    refused_max_ms=200,
    yield_ms=30,
    linger_ms=200,
    depart_ms=500,
)


@dataclass
class FakeIssuer:
    """``lifetime``: of each ticket; None: without end."""

    identity: Identity
    network_id: bytes = NETWORK
    authority: bytes = AUTHORITY
    image: str = "good"
    lifetime: timedelta | None = None
    ticket_class: str = "fake"
    issued: list[bytes] = field(default_factory=list)

    def issue(
        self,
        *,
        group_id: bytes | None,
        cluster: Founded | None,
        binding: bytes | None,
        now: datetime,
        group_ca: bytes | None = None,
    ) -> bytes:
        expires = None if self.lifetime is None else now + self.lifetime
        claims = {
            "peer_id": self.identity.peer_id,
            "network_id": self.network_id,
            "group_id": group_id,
            "cluster": None if cluster is None else [cluster.id, cluster.generation],
            "binding": binding,
            "image": self.image,
            "expires_us": None if expires is None else int(expires.timestamp() * 1_000_000),
        }
        body = canonical.encode(claims)
        ticket = canonical.encode([body, hmac.digest(self.authority, body, "sha256")])
        self.issued.append(ticket)
        return ticket


@dataclass
class FakeValidator:
    """Each check can be left out, to show that an attack then works."""

    authority: bytes = AUTHORITY
    images: set[str] = field(default_factory=lambda: {"good"})
    ticket_class: str = "fake"
    mock: bool = True
    without: frozenset[str] = frozenset()
    on_validate: Callable[[], None] = lambda: None

    @property
    def signature(self) -> bytes:
        return canonical.digest("bondstone/fake-validator/v1", self.authority, sorted(self.images))

    def validate(self, ticket: bytes, peer: ExpectedClaims, now: datetime) -> Expiration:
        self.on_validate()
        try:
            body, mac = canonical.decode_untrusted(ticket, bytes_max=4096, items_max=4096)
            claims = canonical.decode_untrusted(body, bytes_max=4096, items_max=4096)
        except (MalformedError, TypeError, ValueError) as exc:
            raise TicketRejectedError("ticket-malformed", "not a ticket") from exc
        at = None
        if claims["expires_us"] is not None:
            at = datetime.fromtimestamp(claims["expires_us"] / 1_000_000, UTC)
        checks = {
            "authority": hmac.compare_digest(mac, hmac.digest(self.authority, body, "sha256")),
            "peer": claims["peer_id"] == peer.peer_id,
            "network": claims["network_id"] == peer.network_id,
            "group": claims["group_id"] == peer.group_id,
            "binding": claims["binding"] == peer.binding,
            "image": claims["image"] in self.images,
            "expiry": at is None or at > now,
        }
        for name, passed in checks.items():
            if not passed and name not in self.without:
                raise TicketRejectedError(f"{name}-mismatch", f"{name} does not match")
        return Expiration(at=at, appraisal={"image": claims["image"], "mock": True})


BUILD = Build("bondstone test", Span(1, 1), "test", Span(1, 1))


class Recorder:
    """A handler that keeps what it receives, and lets a test wait for it."""

    def __init__(self) -> None:
        self.ups: list[BondInfo] = []
        self.downs: list[tuple[Incarnation, BondLoss, str]] = []
        self.payloads: list[tuple[Incarnation, bytes]] = []
        self._changed = asyncio.Event()

    def bond_up(self, bond: BondInfo) -> None:
        self.ups.append(bond)
        self._changed.set()

    def bond_down(self, peer: Incarnation, loss: BondLoss, reason: str) -> None:
        self.downs.append((peer, loss, reason))
        self._changed.set()

    def payload(self, peer: Incarnation, data: bytes) -> None:
        self.payloads.append((peer, data))
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Clock:
    """The host's wall clock, which tests may shift; the monotonic clock stays the system's."""

    shift: timedelta = timedelta(0)

    def environment(self) -> Environment:
        system = Environment.system()
        return Environment(
            now=lambda: system.now() + self.shift,
            monotonic_ms=system.monotonic_ms,
            randrange=system.randrange,
            nonce=system.nonce,
        )


class Node:
    """One endpoint on loopback, joined to one group."""

    def __init__(
        self,
        name: str,
        *,
        identity: Identity | None = None,
        network_id: bytes = NETWORK,
        group_id: bytes = GROUP,
        secret: bytes = SECRET,
        validators: tuple[Any, ...] | None = None,
        issuers: tuple[Any, ...] | None = None,
        settings: BondSettings = QUICK,
        preference: Preference = Preference.NORMAL,
        port: int = 0,
    ) -> None:
        self.clock = Clock()
        self.identity = identity or Identity.generate(name, datetime.now(UTC))
        self.me = Incarnation(name, self.identity.peer_id)
        self.audit = AuditLog(None, lambda: datetime.now(UTC))
        self.handler = Recorder()
        self.validators = (FakeValidator(),) if validators is None else validators
        self.issuers = (FakeIssuer(self.identity),) if issuers is None else issuers
        self.group_id, self.secret, self.preference = group_id, secret, preference
        self.endpoint = BondEndpoint(
            identity=self.identity,
            network_id=network_id,
            listen=("127.0.0.1", port),
            advertise=(),
            audit=self.audit,
            settings=settings,
            environment=self.clock.environment(),
        )
        self.bonds: BondMesh | None = None
        self.cluster: Founded | None = None
        self.rivals_meet = False
        self.build = BUILD
        self.levels: Levels | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.endpoint.port}"

    async def start(self, *seeds: str) -> "Node":
        await self.endpoint.start()
        self.join(*seeds)
        return self

    def join(self, *seeds: str) -> None:
        spec = GroupSpec(
            group_id=self.group_id,
            secret=self.secret,
            preference=self.preference,
            validators=self.validators,
            issuers=self.issuers,
            seeds=seeds,
            api_url=None,
            build=self.build,
            levels=lambda: self.levels,
            cluster=lambda: self.cluster,
            rivals_meet=self.rivals_meet,
        )
        self.bonds = self.endpoint.join(spec, self.handler)

    def group(self) -> BondMesh:
        assert self.bonds is not None
        return self.bonds

    def peers(self) -> set[bytes]:
        return {bond.peer.id for bond in self.group().bonds()}

    def events(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            event
            for event in self.audit.events(limit=1000)
            if event["kind"] == kind and fields.items() <= event.items()
        ]

    async def until_bonded(self, *others: "Node") -> None:
        wanted = {other.me.id for other in others}
        await self.handler.until(lambda: wanted <= self.peers())

    async def until_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for an audit event of this kind with these fields."""
        async with asyncio.timeout(10):
            while not (found := self.events(kind, **fields)):
                await asyncio.sleep(0.005)
        return found[0]


class BondCluster:
    """Starts nodes and closes them all at the end."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.cleanups: list[Callable[[], Awaitable[None]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.endpoint.close()
        for cleanup in self.cleanups:
            await cleanup()

    async def start(self, name: str, *seeds: str, **options: Any) -> Node:
        node = Node(name, **options)
        self.nodes.append(node)
        return await node.start(*seeds)


class RawPeer:
    """A hand-driven client of the bond port that sends whatever a test wants.

    With ``tls`` it uses TLS; ``send_bytes`` then goes inside, ``send_raw`` on the bare socket.
    """

    def __init__(
        self, identity: Identity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.identity = identity
        self.tls = TLSSession(bond_context(identity.private_key, identity.certificate_der), server=False)
        self._frames = FrameReader(2**20)
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, identity: Identity | None = None, tls: bool = True) -> "RawPeer":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer = cls(identity or Identity.generate("raw", datetime.now(UTC)), reader, writer)
        if tls:
            peer.tls.start()
            while not peer.tls.established:
                peer.flush()
                peer.tls.receive_data_untrusted(await reader.read(65536))
            peer.flush()
        return peer

    def flush(self) -> None:
        self.writer.write(self.tls.data_to_send())

    def send_bytes(self, data: bytes) -> None:
        self.tls.send_data(data)
        self.flush()

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, message: Message) -> None:
        self.tls.send_data(frame_of(message))
        self.flush()

    async def receive(self) -> Message:
        """Return the next message. Raises EOFError when the other side has closed."""
        while True:
            body = self._frames.next_frame_untrusted()
            if body is not None:
                return decode_untrusted(body)
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self._frames.receive_data(self.tls.receive_data_untrusted(data))

    async def until_closed(self) -> None:
        """Wait for the other side to close the socket, in whatever manner."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            return

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return
