"""What a node trusts and how it shows itself, made from its configuration: the one place that chooses between
a real TD and a mock one.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx

from attestation.client.client import CollateralClient
from attestation.client.collateral_set import Collateral
from attestation.client.disk import DiskCache
from attestation.client.fetcher import Fetcher
from attestation.client.platform import platform_of_quote_untrusted
from attestation.client.requests import INTEL_PCS, Source, UpdateMode
from attestation.collateral import Endorsements
from attestation.errors import AttestationError, EndorsementsUnavailableError, MalformedError
from attestation.freshness import FreshnessState
from attestation.policy_rules import AppraisalPolicy
from attestation.policy_toml import load_policy_untrusted
from attestation.quote import Quote, parse_quote_untrusted
from attestation.ticket_endorsements import EndorsementsSource, FixedEndorsements
from attestation.ticket_jwt import TICKET_CLASS as JWT_CLASS
from attestation.ticket_jwt import JwtRules, JwtValidator, load_keys_untrusted
from attestation.ticket_tdx import TdxValidator
from attestation.tickets import TicketIssuer, TicketValidator
from attestation.trust import INTEL_SGX_ROOT, TrustRoot
from enclave.attester import REPORT_DATA_BYTES, Attester
from enclave.mock.authority import MockAuthority
from enclave.mock.td import TDSettings
from enclave.tsm import TsmAttester
from node.config import JwtTable, MockTable, NodeConfig
from node.errors import ConfigError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
FIRST_FETCH_PAUSE_S: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Who we believe, and who vouches for us.

    Attributes:
        attester: the TD around us.
        root: the pinned root of every peer's evidence.
        policy: what a peer must be.
        source: endorsements of our own platform.
        validators: the judges of tickets; all of them must say yes, and their order is in the GroupId.
        further_issuers: our own tickets of other classes than TDX.
    """

    attester: Attester
    root: TrustRoot
    policy: AppraisalPolicy
    source: EndorsementsSource
    validators: tuple[TicketValidator, ...]
    further_issuers: tuple[TicketIssuer, ...]

    @property
    def mock(self) -> bool:
        return self.attester.mock or self.root.mock


class MockEndorsements:
    """A mock authority's collateral: it signs new collateral every day."""

    def __init__(self, authority: MockAuthority) -> None:
        self._authority = authority
        self._day: object = None
        self._made: Endorsements | None = None

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:  # noqa: ARG002
        if self._made is None or self._day != now.date():
            self._made, self._day = self._authority.endorsements(now), now.date()
        return self._made


class FetchedEndorsements:
    """The collateral of our own platform, kept fresh by ``keep_fresh``."""

    def __init__(self) -> None:
        self._held: Collateral | None = None

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements | None:  # noqa: ARG002
        held = self._held
        return (
            held.endorsements
            if held is not None and platform_of_quote_untrusted(quote) == held.platform
            else None
        )

    @asynccontextmanager
    async def keep_fresh(
        self, config: NodeConfig, attester: Attester, changed: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Fetch and refresh the collateral of this platform while the context is open."""
        table = config.attestation.collateral
        try:
            source = INTEL_PCS if table.source is None else Source.pccs(table.source)
        except ValueError as exc:
            raise ConfigError(f"[attestation.collateral] source: {exc}") from exc

        def now() -> datetime:
            return datetime.now(UTC)

        def hold(collateral: Collateral) -> None:
            self._held = collateral
            changed()

        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            client = CollateralClient(
                sources=[source],
                root=root_of(config),
                update=UpdateMode(table.update),
                fetcher=Fetcher(http, clock=now, sleep=asyncio.sleep, jitter=random.random),  # noqa: TID251
                disk=DiskCache(Path(config.node.data_dir) / "collateral"),
                clock=now,
                sleep=asyncio.sleep,
                jitter=random.random,  # noqa: TID251
                seen=FreshnessState(),
                on_change=hold,
            )
            task = asyncio.get_running_loop().create_task(self._follow(client, attester))
            try:
                yield
            finally:
                task.cancel()

    async def _follow(self, client: CollateralClient, attester: Attester) -> None:
        raw = await asyncio.to_thread(attester.quote, bytes(REPORT_DATA_BYTES))
        platform = platform_of_quote_untrusted(parse_quote_untrusted(raw))
        while True:
            try:
                self._held = await client.endorsements(platform)
                await client.keep_fresh()
            except EndorsementsUnavailableError as exc:
                _log.warning("no collateral for this platform yet: %s", exc)
            except AttestationError as exc:
                _log.error("the collateral source gave what cannot be used: %s", exc)
            await asyncio.sleep(FIRST_FETCH_PAUSE_S)


def attester_of(config: NodeConfig, now: datetime) -> Attester:
    """Return the TD that the configuration names.

    Raises:
        NotATrustDomainError: ``mode = "tdx"`` and there is none. The mock is never a substitute.
    """
    mock = config.attestation.mock
    if config.attestation.mode == "mock":
        assert mock is not None
        return _mock_td(mock, MockAuthority.load(Path(mock.authority)))
    del now
    attester = TsmAttester(Path(config.attestation.tsm_root))
    attester.probe()
    return attester


def _mock_td(table: MockTable, authority: MockAuthority) -> Attester:
    return authority.create_td(
        settings=TDSettings(
            mrtd=bytes.fromhex(table.mrtd),
            rtmrs=(
                bytes.fromhex(table.rtmr0),
                bytes.fromhex(table.rtmr1),
                bytes.fromhex(table.rtmr2),
                bytes.fromhex(table.rtmr3),
            ),
            td_attributes=int.from_bytes(bytes.fromhex(table.attributes), "little"),
            mr_config_id=bytes.fromhex(table.mrconfigid),
        )
    )


def root_of(config: NodeConfig) -> TrustRoot:
    """Return the root to pin: Intel's, or in mock mode the mock authority's."""
    mock = config.attestation.mock
    if config.attestation.mode == "mock":
        assert mock is not None
        return MockAuthority.load(Path(mock.authority)).trust_root
    return INTEL_SGX_ROOT


def source_of(config: NodeConfig) -> EndorsementsSource:
    """Return where endorsements of our own platform come from."""
    collateral = config.attestation.collateral
    if collateral.file is not None:
        data = _read(Path(collateral.file), key="attestation.collateral.file")
        return FixedEndorsements(endorsements=Endorsements.from_json_untrusted(data))
    mock = config.attestation.mock
    if config.attestation.mode == "mock" and collateral.source is None:
        assert mock is not None
        return MockEndorsements(MockAuthority.load(Path(mock.authority)))
    return FetchedEndorsements()


def policy_of(config: NodeConfig) -> AppraisalPolicy:
    """Return the appraisal policy.

    Raises:
        ConfigError: it cannot be read; the message names the file and the key.
    """
    path = Path(config.attestation.policy)
    try:
        return load_policy_untrusted(_read(path, key="attestation.policy"))
    except MalformedError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def validators_of(config: NodeConfig, source: EndorsementsSource | None) -> tuple[TicketValidator, ...]:
    """Return the judges of tickets, in the order that the GroupId folds them in."""
    tdx = TdxValidator(policy=policy_of(config), root=root_of(config), endorsements_source=source)
    jwt = config.attestation.jwt
    return (tdx,) if jwt is None else (tdx, _jwt_validator(jwt))


def _jwt_validator(table: JwtTable) -> JwtValidator:
    path = Path(table.keys_file)
    try:
        keys = load_keys_untrusted(_read(path, key="attestation.jwt.keys_file"))
        rules = JwtRules(
            issuer=table.issuer,
            audience=table.audience,
            subject=table.subject,
            required_claims=table.required_claims,
            max_age=None if table.max_age_s is None else timedelta(seconds=table.max_age_s),
            max_lifetime=timedelta(seconds=table.max_lifetime_s),
            non_expiring=False,
        )
    except MalformedError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except ValueError as exc:
        raise ConfigError(f"[attestation.jwt] {exc}") from exc
    return JwtValidator(keys=keys, rules=rules)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Our own JWT, from a file that whoever signs it keeps current. A ``TicketIssuer``."""

    path: Path

    @property
    def ticket_class(self) -> str:
        return JWT_CLASS

    def issue(self, *, group_id: bytes | None, binding: bytes | None, now: datetime) -> bytes:  # noqa: ARG002
        return _read(self.path, key="attestation.jwt.token_file").strip()


def trust_of(config: NodeConfig, now: datetime) -> Trust:
    """Return all of it."""
    source = source_of(config)
    jwt = config.attestation.jwt
    return Trust(
        attester=attester_of(config, now),
        root=root_of(config),
        policy=policy_of(config),
        source=source,
        validators=validators_of(config, source),
        further_issuers=() if jwt is None else (TokenFile(Path(jwt.token_file)),),
    )


def ticket_lifetime(config: NodeConfig) -> timedelta:
    return timedelta(seconds=config.attestation.ticket_lifetime_s)


def _read(path: Path, *, key: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigError(f"{key}: cannot read {path}: {exc.strerror}") from exc
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{key}: {path} is larger than {FILE_BYTES_MAX} bytes")
    return data
