"""The configuration file of a node: strict TOML, every unknown or wrong key named.

It comes from the host, which is not trusted: whatever in it matters for trust is folded into the GroupId
or judged by the peers' policies.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from node.bonds.addresses import split_address
from node.errors import ConfigError
from node.raft.types import Bootstrap, Founding, Preference, Settings

CONFIG_BYTES_MAX: Final = 256 * 1024
MIB: Final = 1024 * 1024

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Hex48 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{96}$")]
Hex8 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{16}$")]
ZERO48: Final = "00" * 48


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class NodeTable(_Table, frozen=True):
    """``[node]``: who this is and where its files are (relative to the configuration file)."""

    name: Name
    data_dir: str = "."


class ApiTable(_Table, frozen=True):
    """``[api]``: the HTTPS API. ``names`` become subject alternative names of its certificate."""

    listen: str = "127.0.0.1:8443"
    advertise: str | None = None
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    tokens_file: str | None = None
    body_bytes_max: Annotated[int, msgspec.Meta(ge=4096, le=16 * MIB)] = MIB
    bodies_bytes_max: Annotated[int, msgspec.Meta(ge=4096)] = 64 * MIB
    concurrent_requests_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024
    connections_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 2048
    handshakes_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256


class BondTable(_Table, frozen=True):
    """``[bond]``: where peers find this node, and where it looks for them (``host:port``)."""

    listen: str = "127.0.0.1:7443"
    advertise: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()


class AuditTable(_Table, frozen=True):
    """``[audit]``: how much of the disk the audit log may take, about the product of the two.

    Beyond it the oldest file is deleted, and the log says so.
    """

    segment_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=1024 * MIB)] = 4 * MIB
    segments_max: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 64


class NetworkTable(_Table, frozen=True):
    """``[network]``."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class GroupTable(_Table, frozen=True):
    """``[group]``: exactly one of ``key_file``, ``derive_key``, ``await_key`` gives the key."""

    key_file: str | None = None
    derive_key: bool = False
    await_key: bool = False
    state_machine: str = "kv"
    bootstrap: str = "join"
    preference: Literal["normal", "reluctant", "observer"] | None = None


class MockTable(_Table, frozen=True):
    """``[attestation.mock]``: the mock TD. 48-byte measurements, 8-byte attributes (little-endian), hex."""

    authority: str
    mrtd: Hex48 = ZERO48
    rtmr0: Hex48 = ZERO48
    rtmr1: Hex48 = ZERO48
    rtmr2: Hex48 = ZERO48
    rtmr3: Hex48 = ZERO48
    mrconfigid: Hex48 = ZERO48
    attributes: Hex8 = "0000001000000000"


class CollateralTable(_Table, frozen=True):
    """``[attestation.collateral]``: where endorsements for this node's own platform come from.

    ``file`` is a fixed set; otherwise ``source``, a PCCS (Intel's PCS by default), is asked and kept fresh.
    ``tls_ca`` (PEM) is trusted for that source's TLS besides the system's authorities.
    """

    source: str | None = None
    file: str | None = None
    tls_ca: str | None = None
    update: Literal["standard", "early"] = "standard"


class JwtTable(_Table, frozen=True):
    """``[attestation.jwt]``: a JWT that every peer must show beside its quote.

    ``keys_file`` is a JWK Set of whoever signs them; ``token_file`` holds this node's own token and is read
    anew for every bond. ``subject`` is the peer's id in hex unless a fixed one is given.
    """

    issuer: str
    audience: str
    keys_file: str
    token_file: str
    subject: str | None = None
    required_claims: dict[str, str | int | bool] = {}
    max_age_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1)] = 24 * 3600


class AttestationTable(_Table, frozen=True):
    """``[attestation]``. ``mode`` has no default: the mock is never chosen by omission."""

    mode: Literal["tdx", "mock"]
    policy: str
    ticket_lifetime_s: Annotated[int, msgspec.Meta(ge=5, le=24 * 3600)] = 3600
    tsm_root: str = "/sys/kernel/config/tsm/report"
    mock: MockTable | None = None
    collateral: CollateralTable = CollateralTable()
    jwt: JwtTable | None = None


class ConsensusTable(_Table, frozen=True):
    """``[consensus]``: settings that differ from the defaults. All are part of the GroupId."""

    heartbeat_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] | None = None
    election_timeout_ms: Annotated[int, msgspec.Meta(ge=50, le=600_000)] | None = None
    election_jitter_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None
    demote_after_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] | None = None
    demote_lag_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] | None = None
    min_voters: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None
    max_voters: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None
    tie_break: bool | None = None
    trust_disk: bool | None = None
    lease_reads: bool | None = None
    session_ttl_ms: Annotated[int, msgspec.Meta(ge=1000)] | None = None
    on_rival: Literal["refuse", "discard-shorter"] | None = None


class NodeConfig(_Table, frozen=True):
    """A whole configuration file."""

    node: NodeTable
    network: NetworkTable
    group: GroupTable
    attestation: AttestationTable
    api: ApiTable = ApiTable()
    bond: BondTable = BondTable()
    audit: AuditTable = AuditTable()
    consensus: ConsensusTable = ConsensusTable()


def load_config(path: Path) -> NodeConfig:
    """Read and check a configuration file; file names in it become absolute.

    Raises:
        ConfigError: naming the file, the key and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    return parse_config(data, where=str(path), base=path.resolve().parent)


def parse_config(data: bytes, *, where: str, base: Path) -> NodeConfig:
    """Parse a configuration file's bytes. ``base`` is what relative file names are relative to."""
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{where}: larger than {CONFIG_BYTES_MAX} bytes")
    try:
        tables = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{where}: not TOML: {exc}") from exc
    try:
        config = msgspec.convert(tables, NodeConfig)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{where}: {_readable(str(exc))}") from exc
    _check(config, where)
    return _with_absolute_paths(config, base)


def _readable(message: str) -> str:
    """Turn ``… - at `$.api.listen``` into the way the key is written in the file."""
    text, separator, place = message.partition(" - at `$")
    key = place.removesuffix("`").lstrip(".") if separator else ""
    text = text.replace("Object contains unknown field", "unknown key")
    text = text.replace("Object missing required field", "missing key")
    return f"[{key}] {text}" if key else text


def _check(config: NodeConfig, where: str) -> None:
    group = config.group
    if (group.key_file is not None) + group.derive_key + group.await_key != 1:
        raise ConfigError(
            f"{where}: [group] needs exactly one of key_file, derive_key = true, await_key = true"
        )
    parse_bootstrap(group.bootstrap, where=where)
    for key, address in (
        ("api.listen", config.api.listen),
        ("bond.listen", config.bond.listen),
        *(("bond.seeds", seed) for seed in config.bond.seeds),
        *(("bond.advertise", item) for item in config.bond.advertise),
    ):
        try:
            split_address(address)
        except ValueError as exc:
            raise ConfigError(f"{where}: [{key}] {exc}") from exc
    if config.attestation.mode == "mock" and config.attestation.mock is None:
        raise ConfigError(f'{where}: [attestation] mode = "mock" needs the table [attestation.mock]')
    if config.attestation.mode == "tdx" and config.attestation.mock is not None:
        raise ConfigError(
            f'{where}: [attestation.mock] is not allowed with mode = "tdx": a real node has no mock parts'
        )
    if config.api.bodies_bytes_max < config.api.body_bytes_max:
        raise ConfigError(
            f"{where}: [api] bodies_bytes_max is smaller than body_bytes_max, that of a single one"
        )
    settings = consensus_settings(config)
    if settings.trust_disk and group.await_key:
        raise ConfigError(
            f"{where}: [consensus] trust_disk does not go with [group] await_key: "
            "a node that trusts its host's disk has its group key there"
        )
    if contradiction := settings.contradiction():
        raise ConfigError(f"{where}: [consensus] {contradiction}")


def _with_absolute_paths(config: NodeConfig, base: Path) -> NodeConfig:
    def absolute(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    def located(table: Any, *keys: str) -> Any:
        return msgspec.structs.replace(table, **{key: absolute(getattr(table, key)) for key in keys})

    attestation = config.attestation
    return msgspec.structs.replace(
        config,
        node=located(config.node, "data_dir"),
        api=located(config.api, "tokens_file"),
        group=located(config.group, "key_file"),
        attestation=msgspec.structs.replace(
            located(attestation, "policy", "tsm_root"),
            mock=attestation.mock and located(attestation.mock, "authority"),
            jwt=attestation.jwt and located(attestation.jwt, "keys_file", "token_file"),
            collateral=located(attestation.collateral, "file", "tls_ca"),
        ),
    )


def parse_bootstrap(text: str, *, where: str) -> Founding:
    """Parse ``init``, ``join``, ``auto`` or ``expect N``."""
    match text.split():
        case ["init"]:
            return Founding(bootstrap=Bootstrap.INIT)
        case ["join"]:
            return Founding(bootstrap=Bootstrap.JOIN)
        case ["auto"]:
            return Founding(bootstrap=Bootstrap.AUTO)
        case ["expect", count] if count.isascii() and count.isdigit() and 1 <= int(count) <= 31:
            return Founding(bootstrap=Bootstrap.EXPECT, expect=int(count))
        case _:
            raise ConfigError(
                f'{where}: [group] bootstrap {text!r} is not "init", "join", "auto" or "expect N"'
            )


def consensus_settings(config: NodeConfig) -> Settings:
    """Return the defaults with what ``[consensus]`` overrides."""
    given = {
        key: value for key, value in msgspec.structs.asdict(config.consensus).items() if value is not None
    }
    return Settings(**given)


def preference_of(config: NodeConfig) -> Preference | None:
    """Return how much the node wants to lead; None leaves it to the state machine."""
    wish = config.group.preference
    return None if wish is None else Preference(wish)
