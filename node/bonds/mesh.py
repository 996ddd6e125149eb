"""The bonds of one group on one node: which are bonded, which of two connections stays, where to dial next.

**One bond per pair.** Two members often dial each other at the same moment. The member with the smaller id
decides for both: it admits on one connection only, and of two it prefers the one that it opened itself.
The other member never refuses a connection that the smaller one opened, and lets a new admission replace its
older bond. So both agree whatever the timing, and a bond that only one side still holds cannot keep a peer
out for long.
"""

import asyncio
import logging
import socket
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from attestation.tickets.protocol import ANY_CLUSTER, AnyCluster, Cluster, TicketIssuer, TicketValidator
from node.bonds.audit_events import BondRecorder
from node.bonds.connection import BondConnection, Bonded, ConnectionHost
from node.bonds.context import BondContext
from node.bonds.core.discovery import AddressBook
from node.bonds.core.handshake import ConnectionRole, Gate
from node.bonds.core.send_queue import Lane
from node.bonds.interface import BondHandler, BondInfo, GroupSpec
from node.bonds.lifecycle import Ending, Phase
from node.bonds.wire.addresses import join_address, split_address
from node.bonds.wire.frames import frame_of, frames_of_payload
from node.bonds.wire.messages import ENTRIES_MAX, BondFormed, PeerEntry, PeerEntryUpdate
from node.bonds.wire.refusals import Refusal, RefusalCode
from node.errors import ConfigError, LocalProtocolError
from node.features import Build, Levels, objection, objection_to_peer
from node.peers import BondLoss, Incarnation

logger = logging.getLogger(__name__)

ALREADY_BONDED: Final = Refusal(
    code=RefusalCode.ALREADY_BONDED,
    reason="already-bonded",
    message="another connection of the same two members stays",
)
REPLACED: Final = Refusal(
    code=RefusalCode.ALREADY_BONDED,
    reason="replaced",
    message="a newer connection of the same two members took its place",
)


class MeshHost(ConnectionHost, Protocol):
    """What the bonds of a group need from their process."""

    def left(self, group: "BondMesh") -> None: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """One of the bonds that stand."""

    connection: BondConnection
    bonded: Bonded


class BondMesh:
    """The bonds of one group. Made by ``BondEndpoint.join``."""

    def __init__(
        self,
        context: BondContext,
        host: MeshHost,
        recorder: BondRecorder,
        *,
        spec: GroupSpec,
        handler: BondHandler,
        advertised: tuple[str, ...],
    ) -> None:
        self._context = context
        self._host = host
        self._recorder = recorder
        self._spec = spec
        self._handler = handler
        self._issuers = _issuers_for(spec)
        self._entry = PeerEntry(
            peer=context.me,
            preference=spec.preference,
            addresses=advertised,
            api_url=spec.api_url,
        )
        self._bonds: dict[bytes, _Held] = {}
        self._handshaking: dict[bytes, list[BondConnection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._book = AddressBook(
            settings=context.settings,
            me=context.me.id,
            seeds=spec.seeds,
            randrange=context.environment.randrange,
            now_ms=context.environment.monotonic_ms(),
        )

    # ---- for the group's driver -----------------------------------------------
    def send(self, to: Iterable[Incarnation], data: bytes, *, bulk: bool = False) -> None:
        """Send ``data`` to each peer in ``to`` that is bonded, framed once. A bond that is lost loses it.

        Args:
            to: peers; those without a bond are skipped, as if the message were lost.
            data: the payload.
            bulk: a transfer that all other messages may overtake (its own order is kept).

        Raises:
            LocalProtocolError: ``data`` is larger than any peer accepts.
        """
        if len(data) > self._context.settings.payload_bytes_max:
            raise LocalProtocolError(f"a payload of {len(data)} bytes")
        lane = Lane.BULK if bulk else Lane.CONSENSUS
        frames: list[bytes] | None = None
        for peer in to:
            held = self._bonds.get(peer.id)
            if held is not None:
                frames = frames or frames_of_payload(data, stream=1 if bulk else 0)
                held.connection.send_frames(lane, frames)

    def close_bond(self, peer: Incarnation, code: int, reason: str) -> None:
        """End the bond with ``peer``, soon, and send it the reason. ``reason`` is kebab-case.

        Nothing more that the peer sends is delivered.
        """
        held = self._bonds.get(peer.id)
        if held is not None:
            held.connection.pause_reading()
            refusal = Refusal(code=RefusalCode(code), reason=reason)
            asyncio.get_running_loop().call_soon(held.connection.close_bond, refusal, BondLoss.LOST)

    def pause_reading(self, peer: Incarnation) -> None:
        """Deliver nothing more from ``peer`` until ``resume_reading``. Its bond stays; a new bond is read."""
        held = self._bonds.get(peer.id)
        if held is not None:
            held.connection.pause_reading()

    def resume_reading(self, peer: Incarnation) -> None:
        """Deliver soon what ``peer`` sent during the pause, and then go on reading."""
        held = self._bonds.get(peer.id)
        if held is not None:
            held.connection.resume_reading()

    def waiting_bytes(self) -> int:
        """Return how much waits to be sent to all bonded peers."""
        return sum(held.connection.waiting_bytes() for held in self._bonds.values())

    def bonds(self) -> list[BondInfo]:
        """Return every bond, in the order of peer ids."""
        return [self._info(self._bonds[peer_id]) for peer_id in sorted(self._bonds)]

    def update_entry(self, *, addresses: tuple[str, ...], api_url: str | None) -> None:
        """Send this node's new addresses to all peers."""
        self._entry = PeerEntry(
            peer=self._entry.peer,
            preference=self._entry.preference,
            addresses=addresses,
            api_url=api_url,
        )
        frame = frame_of(PeerEntryUpdate(entry=self._entry))
        for held in self._bonds.values():
            held.connection.send_frames(Lane.CONTROL, [frame])

    def rejudge(self) -> None:
        """Judge every bonded peer's tickets again, because collateral or a clock changed.

        A bond whose ticket fails now ends as ``EXPIRED``, with the validator's reason.
        """
        for held in self._bonds.values():
            held.connection.rejudge()

    def cluster_changed(self) -> None:
        """Inform each peer whose evidence of this node names another cluster: it may request new evidence."""
        for held in self._bonds.values():
            held.connection.announce_claims()

    async def depart(self) -> None:
        """Send a goodbye to all peers, close every connection of the group, and leave the endpoint.

        The handler receives nothing more.
        """
        if self._closing:
            return
        self._closing = True
        self._host.left(self)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        handshaking = [item for items in self._handshaking.values() for item in items]
        connections = [*(held.connection for held in self._bonds.values()), *handshaking]
        for connection in connections:
            connection.depart()
        try:
            async with asyncio.timeout(self._context.settings.depart_ms / 1000):
                for connection in connections:
                    await connection.gone.wait()
        except TimeoutError:
            for connection in connections:
                connection.abort()

    # ---- for the endpoint -------------------------------------------------------
    def tick(self, now_ms: int) -> None:
        """Dial each address that is due."""
        if self._closing:
            return
        for name in self._book.names_due(now_ms):
            self._spawn("bond-resolve", self._resolve(name))
        for address in self._book.due(now_ms, self._bonds.keys() | self._handshaking.keys()):
            self._spawn("bond-dial", self._dial(address))

    # ---- for a connection ---------------------------------------------------------
    @property
    def group_id(self) -> bytes:
        return self._spec.group_id

    @property
    def secret(self) -> bytes:
        return self._spec.secret

    @property
    def entry(self) -> PeerEntry:
        return self._entry

    @property
    def cluster(self) -> Cluster | None:
        return self._spec.cluster()

    @property
    def expected_cluster(self) -> Cluster | AnyCluster:
        if self._spec.rivals_meet:
            return ANY_CLUSTER
        return self._spec.cluster() or ANY_CLUSTER

    @property
    def build(self) -> Build:
        return self._spec.build

    def objection_to_build(self, build: Build) -> Refusal | None:
        """Return why a node with this software cannot be in the group, or None.

        For a group that is not founded yet the check is only whether the two could be in one together.
        """
        levels, mine = self._spec.levels(), self._spec.build
        reason = objection_to_peer(mine, build) if levels is None else objection(build, levels)
        if not reason:
            return None
        return Refusal(
            code=RefusalCode.NOT_ALLOWED,
            reason=reason,
            message="the peer's software cannot be in this group: see docs/features.md",
            values={"group": _shown(levels, mine), "peer": _shown(None, build)},
        )

    @property
    def validators(self) -> Sequence[TicketValidator]:
        return self._spec.validators

    @property
    def issuers(self) -> Sequence[TicketIssuer]:
        return self._issuers

    def knows(self, ip: str) -> bool:
        """Return whether a member may be at this address: it is a seed, or a bonded peer announced it."""
        return self._book.knows(ip)

    def known_peers(self) -> tuple[PeerEntry, ...]:
        entries = [self._bonds[peer_id].bonded.entry for peer_id in sorted(self._bonds)]
        return tuple(entries[:ENTRIES_MAX])

    def objection(self, connection: BondConnection, peer_id: bytes, *, final: bool) -> Refusal | None:
        """Return why ``connection`` should not become the bond with its peer, or None (see above)."""
        if self._closing:
            return Refusal(code=RefusalCode.GROUP_NOT_FOUND, reason="group-closed")
        others = [item for item in self._handshaking.get(peer_id, ()) if item is not connection]
        held = self._bonds.get(peer_id)
        opened_by_this_node = connection.role is ConnectionRole.INITIATOR
        if self._context.me.id > peer_id:
            # The peer decides. This node only spares it an admission that is visibly needless.
            needless = opened_by_this_node and not final and (held is not None or bool(others))
            return ALREADY_BONDED if needless else None
        if held is not None and (opened_by_this_node or self._is_young(held.bonded)):
            return ALREADY_BONDED
        if any(item.admit_sent or item.role is ConnectionRole.INITIATOR for item in others):
            return ALREADY_BONDED
        return None

    def handshaking(self, connection: BondConnection, peer_id: bytes) -> Gate:
        """Count ``connection`` among those that may become the bond with this peer, and return its gate."""
        self._handshaking.setdefault(peer_id, []).append(connection)
        return _ConnectionGate(self, connection, peer_id)

    def formed(self, connection: BondConnection, bonded: Bonded, peers: tuple[PeerEntry, ...]) -> None:
        entry = bonded.entry
        now_ms = self._context.environment.monotonic_ms()
        self._stop_counting(connection, entry.peer.id)
        self._recorder.admitted(connection.known_peer, entry, bonded.admission)
        older = self._bonds.get(entry.peer.id)
        if older is not None:
            older.connection.close_bond(REPLACED, BondLoss.LOST)
        self._bonds[entry.peer.id] = held = _Held(connection, bonded)
        if connection.dialled is not None:
            self._book.reached(connection.dialled, entry.peer.id)
        for item in (entry, *peers):
            self._book.learn(item, now_ms)
        self._handler.bond_up(self._info(held))
        news = frame_of(BondFormed(entry=entry))
        for other in self._bonds.values():
            if other is not held:
                other.connection.send_frames(Lane.CONTROL, [news])

    def renewed(self, connection: BondConnection, bonded: Bonded) -> None:
        self._recorder.renewed(connection.known_peer, bonded.admission)

    def delivered(self, peer: Incarnation, data: bytes) -> None:
        self._handler.payload(peer, data)

    def learned(self, entry: PeerEntry) -> None:
        self._book.learn(entry, self._context.environment.monotonic_ms())

    def ended(self, connection: BondConnection, ending: Ending) -> None:
        now_ms = self._context.environment.monotonic_ms()
        peer_id = ending.peer.peer_id
        if peer_id is not None:
            self._stop_counting(connection, peer_id)
        if ending.phase is not Phase.BOND:
            if connection.dialled is not None:
                self._dial_failed(connection.dialled, peer_id, ending, now_ms)
            return
        held = None if peer_id is None else self._bonds.get(peer_id)
        if held is not None and held.connection is connection:
            self._bond_ended(held.bonded.entry.peer, ending, now_ms)

    # ---- inside ----------------------------------------------------------------
    def _bond_ended(self, peer: Incarnation, ending: Ending, now_ms: int) -> None:
        del self._bonds[peer.id]
        if ending.loss is BondLoss.DEPARTED:
            self._book.departed(peer.id, now_ms)
        elif ending.loss is BondLoss.LOST and _is_lasting(ending):
            self._book.rejected(peer.id, now_ms)
        else:
            self._book.lost(peer.id, now_ms)
        if not self._closing:
            self._handler.bond_down(peer, ending.loss, ending.refusal.reason)

    def _stop_counting(self, connection: BondConnection, peer_id: bytes) -> None:
        items = self._handshaking.get(peer_id, [])
        if connection in items:
            items.remove(connection)
            if not items:
                del self._handshaking[peer_id]

    def _is_young(self, bonded: Bonded) -> bool:
        """Return whether ``bonded`` is new enough that a peer that dials again may not know of it yet.

        A peer that dials although an old bond stands has lost that bond.
        """
        age_ms = self._context.environment.monotonic_ms() - bonded.formed_ms
        return age_ms < self._context.settings.handshake_timeout_ms

    def _dial_failed(self, address: str, peer_id: bytes | None, ending: Ending, now_ms: int) -> None:
        known = peer_id is not None and (peer_id in self._bonds or peer_id == self._context.me.id)
        if peer_id is not None and known:
            self._book.reached(address, peer_id)
            return
        refused = _is_lasting(ending)
        self._book.failed(address, now_ms, peer_id=peer_id, refused=refused)

    def _info(self, held: _Held) -> BondInfo:
        connection, entry, admission = held.connection, held.bonded.entry, held.bonded.admission
        return BondInfo(
            peer=entry.peer,
            preference=entry.preference,
            address=connection.address,
            addresses=entry.addresses,
            api_url=entry.api_url,
            since=held.bonded.formed_at,
            expires_at=admission.expires_at,
            tickets=admission.tickets,
            appraisals=admission.appraisals,
            binding=admission.binding,
            mock=any(validator.mock for validator in self._spec.validators),
            outgoing=connection.role is ConnectionRole.INITIATOR,
            build=held.bonded.build,
        )

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._context.background.once(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, address: str) -> None:
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        connection = BondConnection(self._context, self._host, group=self, dialled=address)
        try:
            async with asyncio.timeout(self._context.settings.proof_timeout_ms / 1000):
                await loop.create_connection(lambda: connection, host, port)
        except (OSError, TimeoutError) as exc:
            connection.abandon()
            logger.debug("cannot reach %s: %s", address, exc)
            now_ms = self._context.environment.monotonic_ms()
            self._book.failed(address, now_ms, peer_id=None, refused=False)
        except asyncio.CancelledError:
            connection.abandon()
            raise

    async def _resolve(self, name: str) -> None:
        host, port = split_address(name)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._context.settings.proof_timeout_ms / 1000):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as exc:
            logger.debug("cannot resolve %s: %s", name, exc)
            return
        addresses = {join_address(str(item[4][0]), port) for item in found}
        self._book.resolved(sorted(addresses), self._context.environment.monotonic_ms())


@dataclass(frozen=True, slots=True)
class _ConnectionGate:
    """The part of the group that the handshake of one connection uses."""

    group: BondMesh
    connection: BondConnection
    peer_id: bytes

    @property
    def group_id(self) -> bytes:
        return self.group.group_id

    @property
    def secret(self) -> bytes:
        return self.group.secret

    @property
    def entry(self) -> PeerEntry:
        return self.group.entry

    @property
    def build(self) -> Build:
        return self.group.build

    def objection_to_build(self, build: Build) -> Refusal | None:
        return self.group.objection_to_build(build)

    def objection(self, *, final: bool) -> Refusal | None:
        return self.group.objection(self.connection, self.peer_id, final=final)

    def known_peers(self) -> tuple[PeerEntry, ...]:
        return self.group.known_peers()


def _shown(levels: Levels | None, build: Build) -> dict[str, object]:
    """Return levels, or the levels that a build knows, for the audit log."""
    if levels is not None:
        return {"level": levels.level, "machine": levels.family, "version": levels.version}
    features, versions = str(build.features), str(build.versions)
    return {"image": build.image, "levels": features, "machine": build.family, "versions": versions}


def _is_lasting(ending: Ending) -> bool:
    """Return whether the reason lasts until something is changed."""
    lasting = {RefusalCode.INVALID_HANDSHAKE, RefusalCode.NOT_ALLOWED, RefusalCode.INVALID_PROOF}
    return not ending.broke and ending.refusal.code in lasting


def _issuers_for(spec: GroupSpec) -> tuple[TicketIssuer, ...]:
    """Return one issuer for each class that the validators require: peers see no other tickets."""
    by_class = {issuer.ticket_class: issuer for issuer in spec.issuers}
    wanted = sorted({validator.ticket_class for validator in spec.validators})
    missing = [name for name in wanted if name not in by_class]
    if missing:
        raise ConfigError(f"the group asks for tickets that this node cannot make: {', '.join(missing)}")
    return tuple(by_class[name] for name in wanted)
