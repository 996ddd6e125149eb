"""The group document: all settings that decide, equal on all nodes of a group. Bytes in, a frozen value out.

People write it as TOML. GroupId and MRCONFIGID come from its canonical form, the deterministic CBOR of its
meaning. A key that is absent has its default's meaning and is not written. A later release can therefore add
keys, and older documents keep their bytes, GroupId and MRCONFIGID (frozen vectors: tests/node/vectors).

    lineage     digest("bondstone/genesis-document/v1", document)
    GroupId     digest("bondstone/group-id/v2", lineage)
    MRCONFIGID  SHA-384 over the canonical bytes
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import files
from attestation.encoding.canonical import digest, encode
from attestation.encoding.toml_tables import (
    StrictTable,
    TableError,
    parse_toml_untrusted,
    read_table_untrusted,
)
from attestation.errors import MalformedError
from attestation.files import FileError
from attestation.policy.rules import REGISTERS, ZERO_MEASUREMENT, AppraisalPolicy
from attestation.policy.toml import policy_from_table_untrusted
from attestation.tickets.ids import network_id_of_name
from attestation.tickets.jwt import JwtKey, JwtRules, load_keys_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from node.authority import KEYS_MAX as AUTHORITY_KEYS_MAX
from node.authority import Authority, AuthorityError, AuthorityKey, authority_of
from node.errors import ConfigError
from node.machines.base import CommandError
from node.raft.types import Bootstrap, Founding, Settings
from node.system.forms import checked, roles_in_order
from node.system.grants import CredentialKind, Grant
from node.tokens import PRINCIPALS_MAX, AccessRole, certificate_of_pem, spki_digest

DOCUMENT_BYTES_MAX: Final = 256 * 1024
SCHEMA: Final = 1
PROTOCOL: Final = 1
DERIVED: Final = "derived"
INTEL: Final = "intel"
SYNC: Final = "bondstone/log-replay"
FAMILIES: Final[Mapping[str, str]] = {
    name: f"bondstone/{name}" for name in ("kv", "collections", "counter", "noop")
}
"""Families of the built-in machines. Any other machine has the name in the file, ``module:Class``."""

WITHOUT_EFFECT: Final = (
    "consensus.demote_to_two_after_ms",
    "recovery.authorize",
    "store.quota_bytes",
    "store.compaction",
    "ca.names",
)
"""Keys that are checked and are part of the GroupId, but that no code reads yet."""

MIB: Final = 1024 * 1024
DAY_MS: Final = 24 * 3600 * 1000
PREFIXES_MAX: Final = 64
PREFIX_CHARACTERS_MAX: Final = 256
CLAIMS_MAX: Final = 32
CA_NAMES_MAX: Final = 64
_INTEGER_MAX: Final = 2**63 - 1

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
HexDer = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-fA-F]{2})+\Z", max_length=8192)]
KeyText = Annotated[str, msgspec.Meta(pattern=r"^(?:derived|[0-9a-fA-F]{64})\Z")]
RootText = Annotated[str, msgspec.Meta(pattern=r"^(?:intel|(?:[0-9a-fA-F]{2})+)\Z", max_length=8192)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
MachineName = Annotated[
    str, msgspec.Meta(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_]*)?\Z")
]
Roles = Annotated[tuple[AccessRole, ...], msgspec.Meta(min_length=1, max_length=len(AccessRole))]
Prefix = Annotated[str, msgspec.Meta(min_length=1, max_length=PREFIX_CHARACTERS_MAX)]
Prefixes = Annotated[tuple[Prefix, ...], msgspec.Meta(min_length=1, max_length=PREFIXES_MAX)]


# ---- the file, as it is written -------------------------------------------------------------------------
# In schema 1 every default here is the meaning of an absent key, permanently.


class NetworkTable(StrictTable, frozen=True):
    """``[network]``."""

    name: Text


class GroupTable(StrictTable, frozen=True):
    """``[group]``. ``key`` is the group key's public digest; with ``derived`` the key is not secret."""

    key: KeyText
    bootstrap: str
    state_machine: MachineName = "kv"
    storage: Literal["volatile", "trust-disk"] = "volatile"


class ConsensusTable(StrictTable, frozen=True):
    """``[consensus]``."""

    heartbeat_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 100
    election_timeout_ms: Annotated[int, msgspec.Meta(ge=50, le=600_000)] = 1000
    election_jitter_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] = 500
    demote_after_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 3000
    demote_lag_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 5000
    demote_to_two_after_ms: Annotated[int, msgspec.Meta(ge=100, le=7 * DAY_MS)] = 60_000
    min_voters: Annotated[int, msgspec.Meta(ge=1, le=31)] = 2
    max_voters: Annotated[int, msgspec.Meta(ge=1, le=31)] = 7
    tie_break: bool = True
    lease_reads: bool = False
    session_ttl_ms: Annotated[int, msgspec.Meta(ge=1000, le=DAY_MS)] = 60_000
    command_bytes_max: Annotated[int, msgspec.Meta(ge=64 * 1024, le=2 * MIB)] = 2 * MIB
    on_rival: Literal["refuse", "discard-shorter"] = "refuse"


class TrustTable(StrictTable, frozen=True):
    """``[trust]``: the root that quotes must lead to, ``intel`` or the hex DER of a mock authority's root."""

    root: RootText = INTEL


class CollateralTable(StrictTable, frozen=True):
    """``[collateral]``: which TCB evaluation nodes request, and whether a node may use a fixed file."""

    update: Literal["standard", "early"] = "standard"
    fixed_file: bool = False


class JwtTable(StrictTable, frozen=True):
    """``[jwt]``: a token that every peer must show beside its quote. ``keys`` are the keys of a JWK set."""

    issuer: Text
    audience: Text
    keys: Annotated[tuple[dict[str, str | tuple[str, ...]], ...], msgspec.Meta(min_length=1, max_length=16)]
    subject: Text | None = None
    required_claims: Annotated[dict[str, str | int | bool], msgspec.Meta(max_length=CLAIMS_MAX)] = (
        msgspec.field(default_factory=dict)
    )
    max_age_s: Annotated[int, msgspec.Meta(ge=1, le=366 * 86400)] | None = None
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=1, le=366 * 86400)] = 24 * 3600


class TokenTable(StrictTable, frozen=True):
    """``[[access.token]]``: SHA-256 of a token's text, and what the token permits."""

    name: Name
    sha256: Hex32
    roles: Roles
    prefixes: Prefixes | None = None
    expires_at: datetime | None = None


class CertificateTable(StrictTable, frozen=True):
    """``[[access.certificate]]``: a self-signed client certificate; its key is pinned."""

    name: Name
    pem: Annotated[str, msgspec.Meta(max_length=16 * 1024)]
    roles: Roles
    prefixes: Prefixes | None = None


class AccessTable(StrictTable, frozen=True):
    """``[access]``: which callers are permitted at the group's founding."""

    lag_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 10
    token: Annotated[tuple[TokenTable, ...], msgspec.Meta(max_length=PRINCIPALS_MAX)] = ()
    certificate: Annotated[tuple[CertificateTable, ...], msgspec.Meta(max_length=PRINCIPALS_MAX)] = ()


class AuthorityKeyTable(StrictTable, frozen=True):
    """One of ``authority.keys``: hex DER of a SubjectPublicKeyInfo, Ed25519 or P-256."""

    id: Name
    key: HexDer


class AuthorityTable(StrictTable, frozen=True):
    """``[authority]``: the outside keys whose signatures count for the group."""

    threshold: Annotated[int, msgspec.Meta(ge=1, le=AUTHORITY_KEYS_MAX)]
    keys: Annotated[tuple[AuthorityKeyTable, ...], msgspec.Meta(min_length=1, max_length=AUTHORITY_KEYS_MAX)]


class RecoveryTable(StrictTable, frozen=True):
    """``[recovery]``: whether a survivor may found a new generation."""

    authorize: Literal["none", "survivor"] = "none"


class PeriodicCompaction(StrictTable, frozen=True, tag_field="mode", tag="periodic"):
    """Keep the history of at least this many seconds."""

    keep_s: Annotated[int, msgspec.Meta(ge=300, le=_INTEGER_MAX)]


class RevisionCompaction(StrictTable, frozen=True, tag_field="mode", tag="revision"):
    """Keep at least this many revisions."""

    keep_revisions: Annotated[int, msgspec.Meta(ge=1000, le=_INTEGER_MAX)]


class NoCompaction(StrictTable, frozen=True, tag_field="mode", tag="none"):
    """Compact only on request."""


Compaction = NoCompaction | PeriodicCompaction | RevisionCompaction


class StoreTable(StrictTable, frozen=True):
    """``[store]``: how much the state machine may hold, and how much of its history it keeps."""

    quota_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=1024 * 1024 * MIB)] = 2048 * MIB
    compaction: Compaction = NoCompaction()


class CaTable(StrictTable, frozen=True):
    """``[ca]``: which names the group's own authority may certify for its members' APIs; by default none."""

    names: Annotated[tuple[Text, ...], msgspec.Meta(max_length=CA_NAMES_MAX)] = ()


class _File(StrictTable, frozen=True):
    schema: Literal[1]
    network: NetworkTable
    group: GroupTable
    policy: dict[str, Any]
    consensus: ConsensusTable = ConsensusTable()
    trust: TrustTable = TrustTable()
    collateral: CollateralTable = CollateralTable()
    jwt: JwtTable | None = None
    access: AccessTable = AccessTable()
    authority: AuthorityTable | None = None
    recovery: RecoveryTable = RecoveryTable()
    store: StoreTable = StoreTable()
    ca: CaTable = CaTable()


# ---- the document, checked ------------------------------------------------------------------------------


class Derived(Enum):
    """In place of a key's digest: the key is derived from the document."""

    DERIVED = DERIVED


class Storage(Enum):
    """Where term, vote and log live."""

    VOLATILE = "volatile"
    TRUST_DISK = "trust-disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingToken:
    """A token that is valid from the genesis on.

    Attributes:
        credential: SHA-256 of the token's text, 32 bytes.
        prefixes: keys must begin with one of them, in UTF-8; None: all keys.
        expires_at: aware UTC, whole seconds; None: never.
    """

    name: str
    credential: bytes
    roles: frozenset[AccessRole]
    prefixes: tuple[str, ...] | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingCertificate:
    """A client certificate that is valid from the genesis on. ``credential``: SHA-256 of its SPKI."""

    name: str
    credential: bytes
    certificate_der: bytes
    roles: frozenset[AccessRole]
    prefixes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingAccess:
    """Which callers are permitted at first. ``lag_s``: how far behind the leader a member may judge them."""

    lag_s: int
    tokens: tuple[FoundingToken, ...]
    certificates: tuple[FoundingCertificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAdmission:
    """The token that is required beside the quote."""

    keys: tuple[JwtKey, ...]
    rules: JwtRules


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDocument:
    """A whole group document, checked. Made by :func:`parse_group_document_untrusted`.

    Attributes:
        where: the file's name, for messages.
        key: the group key's public digest, 32 bytes, or ``Derived``.
        root: the root that quotes must lead to.
        update: which TCB evaluation nodes request, ``standard`` or ``early``.
        fixed_collateral: a node may use a fixed file of collateral.
        ca_names: DNS names (some begin with ``*.``) and IP networks, sorted.
        value: the canonical document as plain data.
        canonical: its bytes.
    """

    where: str
    network: str
    key: bytes | Derived
    state_machine: str
    founding: Founding
    storage: Storage
    settings: Settings
    root: TrustRoot
    update: Literal["standard", "early"]
    fixed_collateral: bool
    policy: AppraisalPolicy
    jwt: JwtAdmission | None
    access: FoundingAccess
    authority: Authority | None
    recovery: Literal["none", "survivor"]
    quota_bytes: int
    compaction: Compaction
    demote_to_two_after_ms: int
    ca_names: tuple[str, ...]
    value: Mapping[str, Any]
    canonical: bytes

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Return the keys whose value differs from the default and that this release does not act on."""
        tables = {name: item for name, item in self.value.items() if isinstance(item, Mapping)}
        tables["consensus"] = tables.get("settings", {})
        return tuple(key for key in WITHOUT_EFFECT if key.split(".")[1] in tables.get(key.split(".")[0], {}))

    @property
    def network_id(self) -> bytes:
        return network_id_of_name(self.network)

    @property
    def lineage(self) -> bytes:
        """32 bytes that identify the group's first document; every later document refers to them."""
        return lineage_of(self.value)

    @property
    def group_id(self) -> bytes:
        return group_id_of_lineage(self.lineage)

    @property
    def mrconfigid(self) -> bytes:
        """The MRCONFIGID of a TD that was started with this document, 48 bytes."""
        return hashlib.sha384(self.canonical).digest()


def lineage_of(value: Mapping[str, Any]) -> bytes:
    return digest("bondstone/genesis-document/v1", dict(value))


def group_id_of_lineage(lineage: bytes) -> bytes:
    return digest("bondstone/group-id/v2", lineage)


# ---- reading --------------------------------------------------------------------------------------------


def load_group_document(path: Path) -> GroupDocument:
    """Read and check a group document.

    Raises:
        ConfigError: naming the file, the key and what is wrong with it.
    """
    try:
        data = files.read_bytes(path, bytes_max=DOCUMENT_BYTES_MAX)
    except FileError as exc:
        raise ConfigError(f"the group document: {exc}") from exc
    return parse_group_document_untrusted(data, where=str(path))


def parse_group_document_untrusted(data: bytes, *, where: str) -> GroupDocument:
    """Parse a group document's bytes; ``where`` names it in errors.

    Raises:
        ConfigError: naming the file, the key and what is wrong with it.
    """
    try:
        tables = parse_toml_untrusted(data, bytes_max=DOCUMENT_BYTES_MAX)
        _refuse_node_keys(tables, where)
        if "schema" not in tables and {"version", "tcb", "reference_values"} <= tables.keys():
            raise TableError(
                "",
                "this is an appraisal policy, not a group document: "
                "write its tables with `policy.` before their names, such as [policy.tcb]",
            )
        return _document_of(read_table_untrusted(tables, _File), where)
    except MalformedError as exc:
        raise ConfigError(f"{where}: {exc.message}") from exc
    except TableError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


NODE_TABLES: Final = ("node", "api", "bond", "audit", "attestation")
"""Tables of a node file. They differ from node to node and decide nothing."""
NODE_GROUP_KEYS: Final = ("document", "key_file", "await_key", "preference")


def _refuse_node_keys(tables: Mapping[str, Any], where: str) -> None:
    group = tables.get("group")
    found = [name for name in NODE_TABLES if name in tables]
    if isinstance(group, dict):
        found += [f"group.{key}" for key in NODE_GROUP_KEYS if key in group]
    if found:
        named = ", ".join(f"[{key}]" for key in found)
        raise ConfigError(
            f"{where}: {named} belongs in the node file: "
            "a group document holds only what is equal on all nodes"
        )


def _document_of(file: _File, where: str) -> GroupDocument:
    settings = _settings_of(file)
    policy = _policy_of(file)
    root = _root_of(file.trust)
    jwt = None if file.jwt is None else _jwt_of(file.jwt)
    access = _access_of(file.access)
    authority = None if file.authority is None else _authority_of(file.authority)
    ca_names = tuple(sorted({_ca_name(name) for name in file.ca.names}))
    key = Derived.DERIVED if file.group.key == DERIVED else bytes.fromhex(file.group.key)
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "network": file.network.name,
        "key": DERIVED if isinstance(key, Derived) else key,
        "bootstrap": file.group.bootstrap,
        "machine": FAMILIES.get(file.group.state_machine, file.group.state_machine),
        "sync": SYNC,
        "policy": policy.canonical(),
        "validators": ["tdx"] if jwt is None else ["tdx", "jwt"],
    }
    written: dict[str, Any] = {
        "storage": None if file.group.storage == "volatile" else file.group.storage,
        "settings": _changed(file.consensus),
        "root": root.certificate_der if root.mock else None,
        "collateral": _changed(file.collateral),
        "jwt": None if jwt is None else _canonical_jwt(jwt),
        "access": _canonical_access(access),
        "authority": None if authority is None else _canonical_authority(authority),
        "recovery": _changed(file.recovery),
        "store": _changed(file.store),
        "ca": {"names": list(ca_names)} if ca_names else {},
    }
    value |= {name: item for name, item in written.items() if item is not None and item != {}}
    return GroupDocument(
        where=where,
        network=file.network.name,
        key=key,
        state_machine=file.group.state_machine,
        founding=_founding_of(file.group.bootstrap),
        storage=Storage(file.group.storage),
        settings=settings,
        root=root,
        update=file.collateral.update,
        fixed_collateral=file.collateral.fixed_file,
        policy=policy,
        jwt=jwt,
        access=access,
        authority=authority,
        recovery=file.recovery.authorize,
        quota_bytes=file.store.quota_bytes,
        compaction=file.store.compaction,
        demote_to_two_after_ms=file.consensus.demote_to_two_after_ms,
        ca_names=ca_names,
        value=value,
        canonical=encode(value),
    )


def _changed(table: msgspec.Struct) -> dict[str, Any]:
    """Return the values of a table that differ from its defaults, as plain data."""
    out: dict[str, Any] = {}
    for item in msgspec.structs.fields(type(table)):
        value = getattr(table, item.name)
        if item.default is msgspec.NODEFAULT or value != item.default:
            out[item.name] = msgspec.to_builtins(value)
    return out


# ---- its parts ------------------------------------------------------------------------------------------


def _founding_of(text: str) -> Founding:
    match text.split(" "):
        case ["init"]:
            return Founding(bootstrap=Bootstrap.INIT)
        case ["auto"]:
            return Founding(bootstrap=Bootstrap.AUTO)
        case ["expect", count] if count in _COUNTS:
            return Founding(bootstrap=Bootstrap.EXPECT, expect=int(count))
        case _:
            raise TableError(
                "group.bootstrap",
                f'{text!r} is not "expect N" (1 to 31), "init" or "auto"; '
                '"join" is for the node file of a node that must not found',
            )


_COUNTS: Final = frozenset(str(count) for count in range(1, 32))


def _settings_of(file: _File) -> Settings:
    given = {
        name: getattr(file.consensus, name)
        for name in file.consensus.__struct_fields__
        if name not in _NOT_SETTINGS
    }
    settings = Settings(**given, trust_disk=file.group.storage == "trust-disk")
    if contradiction := settings.contradiction():
        raise TableError("consensus", contradiction)
    return settings


_NOT_SETTINGS: Final = frozenset({"demote_to_two_after_ms"})


def _policy_of(file: _File) -> AppraisalPolicy:
    policy = policy_from_table_untrusted(file.policy, path="policy")
    values = policy.reference_values
    pinned = [values.baseline, *values.variants.values()]
    if any(ZERO_MEASUREMENT in one.get("mrconfigid", ()) for one in pinned):
        raise TableError(
            "policy.reference_values",
            'mrconfigid cannot be zeros, which bind no document: write "own", or name it in not_checked '
            "for a platform that cannot set it",
        )
    assert set(values.not_checked) <= set(REGISTERS)
    return policy


def _ca_name(text: str) -> str:
    """Return a DNS name in lower case, or an IP network in its canonical form."""
    try:
        return str(ip_network(text))
    except ValueError:
        if not _DNS_NAME.fullmatch(text.lower()):
            raise TableError(
                "ca.names", f"{text!r} is neither a DNS name (`*.` may be before it) nor an IP network"
            ) from None
        return text.lower()


_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A name that ends in a number would be another spelling of an address.
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_DNS_LABEL}\.)*(?![0-9]+\Z){_DNS_LABEL}")


def _root_of(table: TrustTable) -> TrustRoot:
    if table.root == INTEL:
        return INTEL_SGX_ROOT
    try:
        return TrustRoot.from_bytes_untrusted(bytes.fromhex(table.root))
    except MalformedError as exc:
        raise TableError("trust.root", exc.message) from exc


def _jwt_of(table: JwtTable) -> JwtAdmission:
    for name, value in table.required_claims.items():
        if type(value) is int and not -_INTEGER_MAX <= value <= _INTEGER_MAX:
            raise TableError(f"jwt.required_claims.{name}", "is not a 64-bit integer")
    if any(key.get("kty") == "oct" for key in table.keys):
        raise TableError(
            "jwt.keys",
            "a group document is public and cannot hold a secret key: use a key that signs (ES256, EdDSA)",
        )
    try:
        keys = load_keys_untrusted(json.dumps({"keys": table.keys}).encode())
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
        raise TableError("jwt.keys", exc.message) from exc
    return JwtAdmission(keys=keys, rules=rules)


_JWT_LIFETIME: Final = timedelta(seconds=24 * 3600)


def _canonical_jwt(jwt: JwtAdmission) -> dict[str, Any]:
    rules = jwt.rules
    out: dict[str, Any] = {
        "issuer": rules.issuer,
        "audience": rules.audience,
        "keys": sorted(([key.algorithm, key.kid, key.public_der] for key in jwt.keys), key=encode),
    }
    if rules.subject is not None:
        out["subject"] = rules.subject
    if rules.required_claims:
        out["required_claims"] = dict(rules.required_claims)
    if rules.max_age is not None:
        out["max_age_s"] = int(rules.max_age.total_seconds())
    if rules.max_lifetime != _JWT_LIFETIME and rules.max_lifetime is not None:
        out["max_lifetime_s"] = int(rules.max_lifetime.total_seconds())
    return out


def _access_of(table: AccessTable) -> FoundingAccess:
    tokens = tuple(
        FoundingToken(
            name=one.name,
            credential=bytes.fromhex(one.sha256),
            roles=frozenset(one.roles),
            prefixes=_prefixes_of(one.prefixes),
            expires_at=_time_of(one),
        )
        for one in table.token
    )
    certificates = tuple(_certificate_of(one) for one in table.certificate)
    everybody: list[FoundingToken | FoundingCertificate] = [*tokens, *certificates]
    if len(everybody) > PRINCIPALS_MAX:
        raise TableError("access", f"has more than {PRINCIPALS_MAX} entries")
    for what in ("credential", "name"):
        seen: dict[object, str] = {}
        for one in everybody:
            key = getattr(one, what)
            if key in seen:
                raise TableError("access", f"{seen[key]} and {one.name} have the same {what}")
            seen[key] = one.name
    access = FoundingAccess(
        lag_s=table.lag_s,
        tokens=tuple(sorted(tokens, key=lambda one: one.credential)),
        certificates=tuple(sorted(certificates, key=lambda one: one.credential)),
    )
    for grant in grants_of(access):
        try:
            checked(grant)
        except CommandError as exc:
            raise TableError("access", f"{grant.name}: {exc.message}") from exc
    return access


def grants_of(access: FoundingAccess) -> tuple[Grant, ...]:
    """Return the access list that every member begins with; afterwards only the group's log changes it."""
    tokens = [
        Grant(
            name=one.name,
            kind=CredentialKind.TOKEN,
            credential=one.credential,
            roles=roles_in_order(one.roles),
            prefixes=tuple(prefix.encode() for prefix in one.prefixes or ()),
            expires_ms=None if one.expires_at is None else int(one.expires_at.timestamp()) * 1000,
        )
        for one in access.tokens
    ]
    certificates = [
        Grant(
            name=one.name,
            kind=CredentialKind.CERTIFICATE,
            credential=one.credential,
            roles=roles_in_order(one.roles),
            prefixes=tuple(prefix.encode() for prefix in one.prefixes or ()),
            certificate=one.certificate_der,
        )
        for one in access.certificates
    ]
    return (*tokens, *certificates)


def _prefixes_of(prefixes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the prefixes sorted, without those that another one covers: one form for one meaning."""
    if prefixes is None:
        return None
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def _time_of(table: TokenTable) -> datetime | None:
    if table.expires_at is None:
        return None
    if table.expires_at.tzinfo is None or table.expires_at.microsecond:
        raise TableError(
            "access.token",
            f"{table.name}: expires_at must be whole seconds with their offset, such as …T00:00:00Z",
        )
    try:
        return table.expires_at.astimezone(UTC)
    except OverflowError as exc:
        raise TableError("access.token", f"{table.name}: expires_at is out of range") from exc


def _certificate_of(table: CertificateTable) -> FoundingCertificate:
    try:
        certificate = certificate_of_pem(table.pem)
        credential = spki_digest(certificate)
    except ValueError as exc:
        raise TableError("access.certificate", f"{table.name}: pem is not a PEM certificate") from exc
    return FoundingCertificate(
        name=table.name,
        credential=credential,
        certificate_der=certificate.public_bytes(Encoding.DER),
        roles=frozenset(table.roles),
        prefixes=_prefixes_of(table.prefixes),
    )


def _canonical_access(access: FoundingAccess) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if access.lag_s != AccessTable().lag_s:
        out["lag_s"] = access.lag_s
    if access.tokens:
        out["tokens"] = [_canonical_principal(one, {"sha256": one.credential}) for one in access.tokens]
    if access.certificates:
        out["certificates"] = [
            _canonical_principal(one, {"der": one.certificate_der}) for one in access.certificates
        ]
    return out


def _canonical_principal(
    one: FoundingToken | FoundingCertificate, credential: Mapping[str, bytes]
) -> dict[str, Any]:
    out: dict[str, Any] = {"name": one.name, **credential, "roles": canonical_roles(one.roles)}
    if one.prefixes is not None:
        out["prefixes"] = list(one.prefixes)
    if isinstance(one, FoundingToken) and one.expires_at is not None:
        out["expires_at"] = int(one.expires_at.timestamp())
    return out


def canonical_roles(roles: Sequence[AccessRole] | frozenset[AccessRole]) -> list[str]:
    """Return the roles' names, sorted; ``admin`` includes every other role, also those of later releases."""
    if AccessRole.ADMIN in roles:
        return [AccessRole.ADMIN.value]
    return sorted({role.value for role in roles})


def _authority_of(table: AuthorityTable) -> Authority:
    try:
        keys = [AuthorityKey.of(key.id, bytes.fromhex(key.key)) for key in table.keys]
        return authority_of(table.threshold, keys)
    except AuthorityError as exc:
        raise TableError("authority.keys", exc.message) from exc
    except ValueError as exc:
        raise TableError("authority", str(exc)) from exc


def _canonical_authority(authority: Authority) -> dict[str, Any]:
    return {
        "threshold": authority.threshold,
        "keys": [[one.kid, one.algorithm, one.spki] for one in authority.keys],
    }
