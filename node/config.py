"""The node file: strict TOML, every unknown or wrong key named.

The file comes from the host, which is not trusted. The settings that decide are in the group document, which
the file names (``node.group_document``). A hostile value in the node file can only cost availability;
docs/configuration.md explains for every key why.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from attestation import files
from attestation.collateral.client.session import proxy_address
from attestation.encoding.toml_tables import (
    StrictTable,
    TableError,
    parse_toml_untrusted,
    read_table_untrusted,
)
from attestation.files import FileError
from node.bonds.wire.addresses import split_address
from node.ca.names import NameNotPermittedError
from node.errors import ConfigError
from node.group_document import (
    DERIVED as DERIVED_TEXT,
)
from node.group_document import (
    Derived,
    GroupDocument,
    Storage,
    load_group_document,
)
from node.peers import Preference
from node.raft.types import Bootstrap, Founding

CONFIG_BYTES_MAX: Final = 256 * 1024
MIB: Final = 1024 * 1024

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Hex48 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{96}\Z")]
Hex8 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{16}\Z")]
ZERO48: Final = "00" * 48


class NodeTable(StrictTable, frozen=True):
    """``[node]``: the node's name and where its files are (relative to the configuration file)."""

    name: Name
    data_dir: str = "."


class ApiTable(StrictTable, frozen=True):
    """``[api]``: the HTTPS API. ``names`` become subject alternative names of its certificate."""

    listen: str = "127.0.0.1:8443"
    advertise: str | None = None
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    body_bytes_max: Annotated[int, msgspec.Meta(ge=4096, le=16 * MIB)] = 4 * MIB
    bodies_bytes_max: Annotated[int, msgspec.Meta(ge=4096)] = 64 * MIB
    concurrent_requests_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024
    connections_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 2048
    handshakes_max: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256


class BondTable(StrictTable, frozen=True):
    """``[bond]``: where peers find this node, and where it looks for peers (``host:port``)."""

    listen: str = "127.0.0.1:7443"
    advertise: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()


class AuditTable(StrictTable, frozen=True):
    """``[audit]``: how much of the disk the audit log may use, about the product of the two values.

    Beyond that the oldest file is deleted, and the log reports it.
    """

    segment_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=1024 * MIB)] = 4 * MIB
    segments_max: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 64


class MemoryTable(StrictTable, frozen=True):
    """``[memory]``: how much the group's state, log and buffers may take on this node.

    By default half of what the machine, or the process' cgroup, has.
    """

    budget_bytes: Annotated[int, msgspec.Meta(ge=MIB)] | None = None


class NodeGroupTable(StrictTable, frozen=True):
    """``[group]``: the group document, and the source of the key: ``key_file`` or ``await_key``.

    Neither is given if the document's key is derived. ``bootstrap = "join"``: this node founds nothing.
    """

    document: str
    key_file: str | None = None
    await_key: bool = False
    bootstrap: Literal["join"] | None = None
    preference: Literal["normal", "reluctant", "observer"] | None = None


class MockTable(StrictTable, frozen=True):
    """``[attestation.mock]``: the mock TD. 48-byte measurements, 8-byte attributes (little-endian), hex.

    By default ``mrconfigid`` is computed from the group document, as a host sets it.
    """

    authority: str
    mrtd: Hex48 = ZERO48
    rtmr0: Hex48 = ZERO48
    rtmr1: Hex48 = ZERO48
    rtmr2: Hex48 = ZERO48
    rtmr3: Hex48 = ZERO48
    mrconfigid: Hex48 | None = None
    attributes: Hex8 = "0000001000000000"


class NodeCollateralTable(StrictTable, frozen=True):
    """``[attestation.collateral]``: where endorsements for this node's own platform come from.

    ``file`` is a fixed set, which the group document must allow. Otherwise the node asks ``source``, a PCCS
    (Intel's PCS by default), and keeps the set fresh.
    For that source's TLS, ``tls_ca`` (PEM) is trusted besides Mozilla's list, and ``tls_roots`` instead of
    it. ``proxy``, ``http://HOST:PORT``, carries the requests; the process' environment cannot name a proxy.
    """

    source: str | None = None
    file: str | None = None
    tls_ca: str | None = None
    tls_roots: str | None = None
    proxy: str | None = None


class NodeJwtTable(StrictTable, frozen=True):
    """``[attestation.jwt]``: the file of this node's own token, read again for every bond."""

    token_file: str


class AttestationTable(StrictTable, frozen=True):
    """``[attestation]``. ``mode`` has no default: the mock is never chosen by omission."""

    mode: Literal["tdx", "mock"]
    ticket_lifetime_s: Annotated[int, msgspec.Meta(ge=5, le=24 * 3600)] = 3600
    tsm_root: str = "/sys/kernel/config/tsm/report"
    mock: MockTable | None = None
    collateral: NodeCollateralTable = NodeCollateralTable()
    jwt: NodeJwtTable | None = None


class NodeConfig(StrictTable, frozen=True):
    """A whole node file."""

    node: NodeTable
    group: NodeGroupTable
    attestation: AttestationTable
    api: ApiTable = ApiTable()
    bond: BondTable = BondTable()
    audit: AuditTable = AuditTable()
    memory: MemoryTable = MemoryTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFiles:
    """Both files of a node, checked separately and against each other."""

    document: GroupDocument
    config: NodeConfig


def load_node(path: Path) -> NodeFiles:
    """Read and check a node file and the group document that it names.

    Raises:
        ConfigError: it names the file, the key and what is wrong with it.
    """
    config = load_config(path)
    document = load_group_document(Path(config.group.document))
    check_together(document, config, where=str(path))
    return NodeFiles(document=document, config=config)


def load_config(path: Path) -> NodeConfig:
    """Read and check a node file; file names in it become absolute.

    Raises:
        ConfigError: it names the file, the key and what is wrong with it.
    """
    try:
        data = files.read_bytes(path, bytes_max=CONFIG_BYTES_MAX)
    except FileError as exc:
        raise ConfigError(f"the node file: {exc}") from exc
    return parse_config(data, where=str(path), base=path.resolve().parent)


def parse_config(data: bytes, *, where: str, base: Path) -> NodeConfig:
    """Parse a node file's bytes. ``base`` is what relative file names are relative to."""
    try:
        tables = parse_toml_untrusted(data, bytes_max=CONFIG_BYTES_MAX)
        _refuse_group_keys(tables, where)
        config = read_table_untrusted(tables, NodeConfig)
    except TableError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    _check(config, where)
    return _with_absolute_paths(config, base)


def _check(config: NodeConfig, where: str) -> None:
    if config.group.key_file is not None and config.group.await_key:
        raise ConfigError(f"{where}: [group] has both key_file and await_key; the key comes one way")
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
    if (proxy := config.attestation.collateral.proxy) is not None:
        try:
            proxy_address(proxy)
        except ValueError as exc:
            raise ConfigError(f"{where}: [attestation.collateral] proxy: {exc}") from exc
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


def check_together(document: GroupDocument, config: NodeConfig, *, where: str) -> None:
    """Raise unless the node file agrees with the group document."""
    group, attestation = config.group, config.attestation
    if isinstance(document.key, Derived):
        if group.key_file is not None or group.await_key:
            named = "await_key" if group.await_key else "key_file"
            raise ConfigError(
                f'{where}: [group] {named} does not go with key = "derived" in [group] of {document.where}'
            )
    elif group.key_file is None and not group.await_key:
        raise ConfigError(
            f"{where}: [group] needs key_file or await_key = true: {document.where} names a key by its digest"
        )
    if document.storage is Storage.TRUST_DISK and group.await_key:
        raise ConfigError(
            f'{where}: [group] await_key does not go with storage = "trust-disk" in [group] of '
            f"{document.where}: a node that trusts its host's disk has its group key there"
        )
    preference = preference_of(config)
    if preference is not None and (contradiction := founding_of(document, config).contradiction(preference)):
        raise ConfigError(f"{where}: [group] preference does not go with {document.where}: {contradiction}")
    if attestation.collateral.file is not None and not document.fixed_collateral:
        raise ConfigError(
            f"{where}: [attestation.collateral] file needs fixed_file = true in [collateral] of "
            f"{document.where}"
        )
    if document.jwt is not None and attestation.jwt is None:
        raise ConfigError(
            f"{where}: [attestation.jwt] token_file is missing: [jwt] of {document.where} requires a token"
        )
    if document.jwt is None and attestation.jwt is not None:
        raise ConfigError(f"{where}: [attestation.jwt] token_file is unused: {document.where} has no [jwt]")
    if document.ca_names:
        _check_certified_names(document, config, where)


def _check_certified_names(document: GroupDocument, config: NodeConfig, where: str) -> None:
    if config.api.names != ApiTable().names:
        for name in config.api.names:
            try:
                document.ca_names.require(name)
            except NameNotPermittedError as exc:
                raise ConfigError(f"{where}: [api] names: {exc} of {document.where}") from exc
    if not certified_names_of(document, config):
        raise ConfigError(
            f"{where}: [api] names: {document.where} lists names in [ca], and this node has none of them"
        )


def _with_absolute_paths(config: NodeConfig, base: Path) -> NodeConfig:
    def absolute(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    def located(table: Any, *keys: str) -> Any:
        return msgspec.structs.replace(table, **{key: absolute(getattr(table, key)) for key in keys})

    attestation = config.attestation
    return msgspec.structs.replace(
        config,
        node=located(config.node, "data_dir"),
        group=located(config.group, "document", "key_file"),
        attestation=msgspec.structs.replace(
            located(attestation, "tsm_root"),
            mock=attestation.mock and located(attestation.mock, "authority"),
            jwt=attestation.jwt and located(attestation.jwt, "token_file"),
            collateral=located(attestation.collateral, "file", "tls_ca", "tls_roots"),
        ),
    )


def founding_of(document: GroupDocument, config: NodeConfig) -> Founding:
    """Return how this node may found: as the group document allows, otherwise not at all."""
    return document.founding if config.group.bootstrap is None else Founding(bootstrap=Bootstrap.JOIN)


def certified_names_of(document: GroupDocument, config: NodeConfig) -> tuple[str, ...]:
    """Return the names that the group's authority certifies for this node's API.

    They are those of ``api.names``, and the node's name and the host of ``api.advertise``, as far as the
    group document lists them.
    """
    advertised = () if config.api.advertise is None else (split_address(config.api.advertise)[0],)
    wanted = (*config.api.names, config.node.name, *advertised)
    return tuple(dict.fromkeys(name for name in wanted if document.ca_names.permits(name)))


def preference_of(config: NodeConfig) -> Preference | None:
    """Return how much the node wants to lead; None leaves it to the state machine."""
    wish = config.group.preference
    return None if wish is None else Preference(wish)


# ---- keys that are not a node file's --------------------------------------------------------------------

_MOVED_TABLES: Final = ("schema", "network", "consensus", "trust", "collateral", "policy", "jwt", "access",
                        "authority", "recovery", "store", "ca")  # fmt: skip
_MOVED_KEYS: Final = {
    "group": ("key", "derive_key", "state_machine", "storage"),
    "api": ("tokens_file",),
    "attestation": ("policy",),
}
_MOVED_DEEPER: Final = {
    "collateral": ("update",),
    "jwt": (
        "issuer", "audience", "keys_file", "keys", "subject", "required_claims", "max_age_s",
        "max_lifetime_s",
    ),
}  # fmt: skip


def _refuse_group_keys(tables: Mapping[str, Any], where: str) -> None:
    """Refuse keys that belong in the group document; for a file of version 1, show what to write instead."""
    found = [name for name in _MOVED_TABLES if name in tables]
    for name, keys in _MOVED_KEYS.items():
        found += [f"{name}.{key}" for key in keys if key in _table(tables, name)]
    attestation = _table(tables, "attestation")
    for name, keys in _MOVED_DEEPER.items():
        found += [f"attestation.{name}.{key}" for key in keys if key in _table(attestation, name)]
    if _table(tables, "group").get("bootstrap", "join") != "join":
        found.append("group.bootstrap")
    if not found:
        return
    named = ", ".join(f"[{key}]" for key in found)
    if "document" in _table(tables, "group"):
        raise ConfigError(
            f"{where}: {named} belongs in the group document, which is equal on all nodes of the group"
        )
    raise ConfigError(
        f"{where}: this is a configuration of version 1, which is no longer read: {named} moved to the group "
        f"document.\n{_migration(tables)}"
    )


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, dict) else {}


def _migration(tables: Mapping[str, Any]) -> str:
    """Return what to write to the group document, and what stays, for a file of version 1."""
    group, consensus = _table(tables, "group"), dict(_table(tables, "consensus"))
    attestation = _table(tables, "attestation")
    collateral, jwt = _table(attestation, "collateral"), _table(attestation, "jwt")
    key = (
        DERIVED_TEXT
        if group.get("derive_key")
        else "the 64 digits that `bondstone group-id --key-file FILE` prints"
    )
    bootstrap = group.get("bootstrap", "join")
    out = [
        "Write group.toml, the same file for all nodes of the group:",
        "",
        "schema = 1",
        "[network]",
        f"name = {_shown(_table(tables, 'network').get('name', '…'))}",
        "[group]",
        f"key = {_shown(key)}",
        f"bootstrap = {_shown('expect N, the number of founders' if bootstrap == 'join' else bootstrap)}",
    ]
    if "state_machine" in group:
        out.append(f"state_machine = {_shown(group['state_machine'])}")
    if consensus.pop("trust_disk", False):
        out.append('storage = "trust-disk"')
    if consensus:
        out += ["[consensus]", *(f"{key} = {_shown(value)}" for key, value in consensus.items())]
    if attestation.get("mode") == "mock":
        out += ["[trust]", f"root = {_shown('the hex digits of trust-root.der of the mock authority')}"]
    if "update" in collateral or "file" in collateral:
        out.append("[collateral]")
        out += [f"update = {_shown(collateral['update'])}"] if "update" in collateral else []
        out += ["fixed_file = true"] if "file" in collateral else []
    policy = attestation.get("policy", "the policy file")
    out.append(f"# then each table of {policy}, with `policy.` before its name: [tcb] becomes [policy.tcb]")
    if "tokens_file" in _table(tables, "api"):
        out.append(
            f"# then each table of {_table(tables, 'api')['tokens_file']}, with `access.` before its name: "
            "[[token]] becomes [[access.token]]"
        )
    if jwt:
        out += _migrated_jwt(jwt)
    stays = ["In the node file, take those keys out and add to [group]:", "", 'document = "group.toml"']
    if bootstrap == "join":
        stays.append('bootstrap = "join"  # on a node that must not found')
    return "\n".join([*out, "", *stays, "", "The GroupId changes, so the group starts again from nothing."])


def _migrated_jwt(jwt: Mapping[str, Any]) -> list[str]:
    kept = {key: value for key, value in jwt.items() if key not in ("keys_file", "token_file")}
    claims = kept.pop("required_claims", {})
    out = ["[jwt]", *(f"{key} = {_shown(value)}" for key, value in kept.items())]
    out.append(f"keys = [ … ]  # the keys of {jwt.get('keys_file', 'the key set')}, as inline tables")
    if isinstance(claims, dict) and claims:
        out += ["[jwt.required_claims]", *(f"{key} = {_shown(value)}" for key, value in claims.items())]
    return out


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
