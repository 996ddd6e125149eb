"""Builds a node's trust and its evidence from its configuration. Only this module chooses between a real
TD and a mock one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attestation import files
from attestation.background import Background
from attestation.collateral.client.assembly import Collateral
from attestation.collateral.client.collateral_client import CollateralClient, Rank
from attestation.collateral.client.platform import platform_of_quote_untrusted
from attestation.collateral.client.requests import INTEL_PCS, Source, UpdateMode
from attestation.collateral.client.session import open_collateral_client
from attestation.collateral.client.source import ClientSource
from attestation.collateral.endorsements import Endorsements
from attestation.collateral.enforcement import CollateralSet, Enforcement, UnknownEnforcement
from attestation.collateral.freshness import FreshnessState
from attestation.errors import AttestationError, MalformedError
from attestation.files import FileError
from attestation.quote.codec import parse_quote_untrusted
from attestation.tickets.jwt import TICKET_CLASS as JWT_CLASS
from attestation.tickets.jwt import JwtValidator
from attestation.tickets.protocol import Cluster, TicketIssuer, TicketValidator
from attestation.tickets.standing import Members, MemberTable, Moment, NoMembers
from attestation.tickets.store import AcceptedEvidence, EndorsementsSource, FixedEndorsements
from attestation.tickets.tdx import TdxValidator, ignore_set
from enclave.attester import REPORT_DATA_BYTES, Attester
from enclave.tsm import TsmAttester
from node.clock import NodeClock
from node.config import MockTable, NodeConfig
from node.errors import ConfigError
from node.group_document import GroupDocument

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
FIRST_FETCH_S: Final = 5.0
FRESHNESS_FILE: Final = "freshness.cbor"

_log = logging.getLogger(__name__)


def attester_of(document: GroupDocument, config: NodeConfig) -> Attester:
    """Return the TD that the node file names.

    Raises:
        NotATrustDomainError: ``mode = "tdx"``, and this machine is not a TD. The mock is never a substitute.
        ConfigError: ``mode = "mock"`` and this installation has no mock, or its root is not the group's.
    """
    mock = _mock_table(config)
    if mock is not None:
        with _mock_wanted():
            from node import mocked
        return mocked.attester(mock, document)
    attester = TsmAttester(Path(config.attestation.tsm_root))
    attester.probe()
    return attester


def _mock_table(config: NodeConfig) -> MockTable | None:
    if config.attestation.mode != "mock":
        return None
    assert config.attestation.mock is not None  # the configuration's check has ensured it
    return config.attestation.mock


@contextmanager
def _mock_wanted() -> Iterator[None]:
    """Report clearly that the mock's part of the program is missing: production images do not contain it."""
    try:
        yield
    except ImportError as exc:
        raise ConfigError(
            '[attestation] mode = "mock": this image holds no mock TD; emulation has a profile of its own'
        ) from exc


class CollateralChanges:
    """Calls its followers when a set was fetched that differs from the one before."""

    def __init__(self) -> None:
        self._followers: list[Callable[[], None]] = []

    def follow(self, follower: Callable[[], None]) -> None:
        """Call this one too, from the next change on, in the order of following."""
        self._followers.append(follower)

    def publish(self, _: Collateral) -> None:
        """Call all followers."""
        for follower in self._followers:
            follower()


@asynccontextmanager
async def open_source(
    document: GroupDocument,
    config: NodeConfig,
    *,
    attester: Attester,
    clock: NodeClock,
    seen: FreshnessState,
    changed: Callable[[Collateral], None],
    background: Background,
) -> AsyncIterator[EndorsementsSource]:
    """Yield the source of endorsements, kept fresh while the context is open.

    ``changed`` is called with each fetched set that differs from the one before, so that earlier verdicts are
    checked again. ``background`` keeps the fetching alive.
    """
    table = config.attestation.collateral
    mock = _mock_table(config)
    if table.file is not None:
        data = _read(Path(table.file), key="attestation.collateral.file")
        yield FixedEndorsements(endorsements=Endorsements.from_json_untrusted(data))
        return
    if mock is not None and table.source is None:
        with _mock_wanted():
            from node import mocked
        yield mocked.endorsements_source(mock)
        return
    try:
        source = INTEL_PCS if table.source is None else Source.pccs(table.source)
    except ValueError as exc:
        raise ConfigError(f"[attestation.collateral] source: {exc}") from exc
    async with open_collateral_client(
        sources=[source],
        root=document.root,
        update=UpdateMode(document.update),
        cache_directory=Path(config.node.data_dir) / "collateral",
        tls_ca=None if table.tls_ca is None else Path(table.tls_ca),
        tls_roots=None if table.tls_roots is None else Path(table.tls_roots),
        proxy=table.proxy,
        seen=seen,
        clock=clock.now,
        on_change=changed,
    ) as client:
        fetched = ClientSource(client)
        await _fetch_own(client, fetched, attester)
        tasks = [
            background.keep("collateral", client.keep_fresh),
            background.keep("collateral-wishes", fetched.run),
        ]
        try:
            yield fetched
        finally:
            for task in tasks:
                task.cancel()


async def _fetch_own(client: CollateralClient, source: ClientSource, attester: Attester) -> None:
    """Fetch this node's own platform's collateral before the first bond, if that succeeds soon."""
    quote = await asyncio.to_thread(attester.quote, bytes(REPORT_DATA_BYTES))
    platform = platform_of_quote_untrusted(parse_quote_untrusted(quote))
    try:
        await asyncio.wait_for(client.endorsements(platform, least=Rank.OWN), FIRST_FETCH_S)
    except (AttestationError, TimeoutError) as exc:
        _log.warning("no collateral for this platform yet, going on without: %s", exc)
        source.wish(platform)


def witnesses_of(
    source: EndorsementsSource, clock: NodeClock, members: MemberTable
) -> list[Callable[[AcceptedEvidence], None]]:
    """Return the callbacks that receive evidence that was accepted in full."""
    fetching = [source.witness] if isinstance(source, ClientSource) else []
    return [clock.witness, members.witness, *fetching]


def members_of(
    document: GroupDocument, clock: NodeClock, log_time: Callable[[], datetime | None]
) -> MemberTable:
    """Return the table of the members accepted in this life; ``log_time``: as ``Group.log_time``."""
    return MemberTable(
        period=timedelta(days=document.policy.tcb.standing_days),
        moment=lambda: Moment(wall=clock.now(), monotonic_s=clock.monotonic_s(), log=log_time()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesMemory:
    """What the judge of a running node keeps, beside the record of collateral that was seen.

    Attributes:
        members: the members accepted in this life.
        enforcement: since when sets of collateral are enforced.
        saw: receives each set by which genuine evidence was judged.
        witnesses: receive evidence that was accepted in full.
    """

    members: Members = field(default_factory=NoMembers)
    enforcement: Enforcement = field(default_factory=UnknownEnforcement)
    saw: Callable[[CollateralSet], None] = ignore_set
    witnesses: Sequence[Callable[[AcceptedEvidence], None]] = ()


NOTHING_KEPT: Final = JudgesMemory()


def tdx_validator_of(
    document: GroupDocument,
    source: EndorsementsSource | None,
    seen: FreshnessState,
    memory: JudgesMemory = NOTHING_KEPT,
) -> TdxValidator:
    """Return the judge of TDX tickets, which never goes back behind the collateral that was seen."""
    return TdxValidator(
        policy=document.policy,
        root=document.root,
        endorsements_source=source,
        freshness=seen,
        update=document.update,
        members=memory.members,
        enforcement=memory.enforcement,
        saw=memory.saw,
        witnesses=memory.witnesses,
        own_config_id=document.mrconfigid,
    )


def validators_of(document: GroupDocument, tdx: TicketValidator) -> tuple[TicketValidator, ...]:
    """Return the judges of tickets, in the order in which they judge."""
    jwt = document.jwt
    return (tdx,) if jwt is None else (tdx, JwtValidator(keys=jwt.keys, rules=jwt.rules))


@dataclass(frozen=True, slots=True)
class TokenFile:
    """This node's own JWT, from a file that its signer keeps current. A ``TicketIssuer``."""

    path: Path

    @property
    def ticket_class(self) -> str:
        return JWT_CLASS

    def issue(
        self,
        *,
        group_id: bytes | None,  # noqa: ARG002
        cluster: Cluster | None,  # noqa: ARG002
        binding: bytes | None,  # noqa: ARG002
        now: datetime,  # noqa: ARG002
        group_ca: bytes | None = None,  # noqa: ARG002
    ) -> bytes:
        return _read(self.path, key="attestation.jwt.token_file", secret=True).strip()


def further_issuers_of(config: NodeConfig) -> tuple[TicketIssuer, ...]:
    """Return the issuers of this node's tickets of other classes than TDX."""
    jwt = config.attestation.jwt
    return () if jwt is None else (TokenFile(Path(jwt.token_file)),)


def load_freshness(config: NodeConfig) -> FreshnessState:
    """Return what earlier lives of this node saw. The host owns the disk, and can only make the node forget.

    Raises:
        ConfigError: the file exists and is damaged; the operator must decide whether to delete it.
    """
    path = Path(config.node.data_dir) / FRESHNESS_FILE
    try:
        data = files.read_bytes(path, bytes_max=FILE_BYTES_MAX)
    except FileError as exc:
        if exc.absent:
            return FreshnessState()
        raise ConfigError(f"node.data_dir: {exc}") from exc
    try:
        return FreshnessState.from_bytes_untrusted(data)
    except MalformedError as exc:
        raise ConfigError(f"{path}: {exc}; delete it to forget the collateral seen so far") from exc


def save_freshness(config: NodeConfig, state: FreshnessState) -> None:
    """Save what this life saw for the next one.

    Raises:
        FileError: it cannot be written.
    """
    path = Path(config.node.data_dir) / FRESHNESS_FILE
    data = state.to_bytes()
    with contextlib.suppress(FileError):
        if files.read_bytes(path, bytes_max=FILE_BYTES_MAX) == data:
            return
    files.replace(path, data)


def ticket_lifetime(config: NodeConfig) -> timedelta:
    return timedelta(seconds=config.attestation.ticket_lifetime_s)


def _read(path: Path, *, key: str, secret: bool = False) -> bytes:
    try:
        return files.read_bytes(path, bytes_max=FILE_BYTES_MAX, secret=secret)
    except FileError as exc:
        raise ConfigError(f"{key}: {exc}") from exc
