"""Groups of real networks on loopback, in one process: real bonds, the real driver, short timeouts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from attestation.tickets.protocol import Cluster, TicketIssuer
from enclave.identity import Identity
from node.audit import AuditLog
from node.features import Features
from node.group.group import Group
from node.group.identity import GroupKey
from node.group.network import GroupBuilder, Network
from node.machines.counter import Counter
from node.peers import Incarnation, Preference
from node.raft.member import build_of
from node.raft.types import Bootstrap, Founding, Settings
from tests.support.bonds import QUICK, Clock, Node

NAME = "test"
KEY = GroupKey(b"k" * 32)
FAST = Settings(
    heartbeat_ms=40,
    election_timeout_ms=400,
    election_jitter_ms=200,
    demote_after_ms=1000,
    demote_lag_ms=2000,
    demote_to_two_after_ms=0,
)
PATIENCE_S = 20

INIT = Founding(bootstrap=Bootstrap.INIT)
JOIN = Founding(bootstrap=Bootstrap.JOIN)
ALONE = Founding(bootstrap=Bootstrap.AUTO, bootstrap_delay_ms=200)


@dataclass
class Ticket:
    """An issuer that shows whatever ``make`` makes; a test may exchange it at any time."""

    make: Callable[[], bytes]
    ticket_class: str = "jwt"

    def issue(
        self,
        *,
        group_id: bytes | None,
        cluster: Cluster | None,
        binding: bytes | None,
        now: datetime,
        group_ca: bytes | None = None,
    ) -> bytes:
        return self.make()


@dataclass
class Gate:
    """An address that leads to a node only once it is opened: how nodes are kept apart."""

    target: str
    open: bool = False
    _server: asyncio.Server | None = None
    _pipes: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"127.0.0.1:{port}"

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.close()
            return
        host, _, port = self.target.rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        if not self.open:  # not any more
            writer.close()  # type: ignore[unreachable]  # another task may have closed it meanwhile
            there_writer.close()
            return
        for one, other in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(_pipe(one, other))
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def shut(self) -> None:
        """Break what leads through it, and let nobody in until it is opened again."""
        self.open = False
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.shut()
        await self._server.wait_closed()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


class Site:
    """Starts networks and gates, and closes them all at the end."""

    def __init__(self) -> None:
        self.networks: list[Network] = []
        self._gates: list[Gate] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(network.close() for network in self.networks))
            for gate in self._gates:
                await gate.close()

    async def network(
        self,
        name: str,
        *seeds: "Network | str",
        identity: Identity | None = None,
        issuers: Sequence[TicketIssuer] = (),
        clock: Clock | None = None,
        advertise: Sequence[str] = (),
    ) -> Network:
        network = Network(
            name=NAME,
            identity=identity or Identity.generate(name, datetime.now(UTC)),
            listen=("127.0.0.1", 0),
            audit=AuditLog(None, lambda: datetime.now(UTC)),
            issuers=issuers,
            advertise=advertise,
            seeds=[seed if isinstance(seed, str) else seed.address for seed in seeds],
            bond_settings=QUICK,
            environment=(clock or Clock()).environment(),
        )
        await network.start()
        self.networks.append(network)
        return network

    async def gate(self, target: Network) -> tuple[Gate, str]:
        gate = Gate(target.address)
        self._gates.append(gate)
        return gate, await gate.start()

    async def gated(self, name: str, *seeds: Network) -> Network:
        """Start a network that can be reached only through a gate, which stands open until ``cut``."""
        gate = Gate("nobody yet", open=True)
        self._gates.append(gate)
        network = await self.network(name, *seeds, advertise=[await gate.start()])
        gate.target = f"127.0.0.1:{network.endpoint.port}"
        return network

    async def cut(self) -> None:
        """Break every connection through a gate, and keep them broken until ``heal``."""
        for gate in self._gates:
            await gate.shut()

    def heal(self) -> None:
        for gate in self._gates:
            gate.open = True

    @asynccontextmanager
    async def intruder(self, group: Group, preference: Preference = Preference.NORMAL) -> AsyncIterator[Node]:
        """An admitted peer in ``group``, bonded with all members, that sends what a test wants, and no more.  Nobody makes it a voter: it acknowledges nothing."""
        seeds = [network.address for network in self.networks]
        node = Node(
            "intruder",
            group_id=group.id,
            secret=KEY.secret,
            validators=(),
            issuers=(),
            preference=preference,
        )
        node.build = build_of(Counter(), Features(), "intruder")
        try:
            await node.start(*seeds)
            await node.handler.until(lambda: {network.me.id for network in self.networks} <= node.peers())
            yield node
        finally:
            await node.endpoint.close()

    async def counters(
        self, number: int, *, settings: Settings = FAST, gated: bool = False, **more: Any
    ) -> list[Group]:
        """Return a group of ``number`` voters over Counter, led by the first; ``gated``: see ``cut``."""
        start = self.gated if gated else self.network
        groups: list[Group] = []
        for position in range(number):
            network = await start("abcdefg"[position], *self.networks)
            founding = INIT if position == 0 else JOIN
            groups.append(counter(network, founding, settings=settings, **more).join())
            if position == 0:
                await within(groups[0].when().is_leader())
        await until_voters(groups, number)
        return groups


def counter(network: Network, founding: Founding, *, settings: Settings = FAST, **more: Any) -> GroupBuilder:
    builder = network.groups.with_key(KEY).with_state_machine(Counter()).with_consensus(settings, founding)
    return replace(builder, **more)


def add(by: int) -> dict[str, Any]:
    return {"op": "add", "by": by}


GET = {"op": "get"}


@dataclass(frozen=True)
class Lost:
    """A message that never left."""

    speaker: Group
    to: tuple[Incarnation, ...]
    data: bytes

    def arrive(self) -> None:
        """Let it come after all."""
        self.speaker._bonds.send(self.to, self.data)


@contextmanager
def unheard(*speakers: Group, by: Sequence[Group]) -> Iterator[list[Lost]]:
    """Lose whatever ``speakers`` send to ``by``, though their bonds stand. Yields what was lost until now."""
    lost: list[Lost] = []
    deaf = {group.me for group in by}

    def sieve(speaker: Group) -> Callable[..., None]:
        send = speaker._bonds.send

        def send_to_others(to: Iterable[Incarnation], data: bytes, *, bulk: bool = False) -> None:
            everybody = tuple(to)
            missed = tuple(peer for peer in everybody if peer in deaf)
            if missed:
                lost.append(Lost(speaker, missed, data))
            send([peer for peer in everybody if peer not in deaf], data, bulk=bulk)

        return send_to_others

    with pytest.MonkeyPatch.context() as patch:
        for speaker in speakers:
            patch.setattr(speaker._bonds, "send", sieve(speaker))
        yield lost


async def within(awaitable: Awaitable[Any], timeout_s: float = PATIENCE_S) -> Any:
    """Wait for it, with a limit."""
    async with asyncio.timeout(timeout_s):
        return await awaitable


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def until_voters(groups: Sequence[Group], number: int) -> None:
    """Wait until all agree on a leader and on ``number`` voters, and know all of that to be committed.

    A member that does not know yet that the newest configuration is committed still needs a quorum of the one
    before, too: who ends the leader in that moment tests something else.
    """

    def settled(group: Group) -> bool:
        status = group.status
        return status.online and len(status.voters) == number and status.commit == status.last

    await until(
        lambda: all(settled(group) for group in groups) and len({group.leader for group in groups}) == 1
    )


async def one_leader(groups: Sequence[Group]) -> Incarnation:
    """Wait until all are in step with one leader, and return it."""
    await until(
        lambda: len({group.leader for group in groups}) == 1 and all(group.status.online for group in groups),
    )
    leader = groups[0].leader
    assert leader is not None
    return leader


def events(network: Network, kind: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        event
        for event in network.audit.events(limit=1000)
        if event["kind"] == kind and fields.items() <= event.items()
    ]
