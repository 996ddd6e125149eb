"""The group document as it is written: the tables of the TOML file, with the form of each value.

In schema 1 every default here is the meaning of an absent key, permanently.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from attestation.encoding.toml_tables import StrictTable
from node.authority import KEYS_MAX as AUTHORITY_KEYS_MAX
from node.machines.base import QUOTA_BYTES_DEFAULT
from node.tokens import PRINCIPALS_MAX, AccessRole

INTEL: Final = "intel"
MIB: Final = 1024 * 1024
DAY_MS: Final = 24 * 3600 * 1000
PREFIXES_MAX: Final = 64
PREFIX_CHARACTERS_MAX: Final = 256
CLAIMS_MAX: Final = 32
CA_NAMES_MAX: Final = 64
INTEGER_MAX: Final = 2**63 - 1

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
HexDer = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-fA-F]{2})+\Z", max_length=8192)]
KeyText = Annotated[str, msgspec.Meta(pattern=r"^(?:derived|[0-9a-fA-F]{64})\Z")]
RootText = Annotated[str, msgspec.Meta(pattern=r"^(?:intel|(?:[0-9a-fA-F]{2})+)\Z", max_length=8192)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
MachineName = Annotated[
    str, msgspec.Meta(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_]*)?\Z")
]
SyncName = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[!-~]+\Z")]
Roles = Annotated[tuple[AccessRole, ...], msgspec.Meta(min_length=1, max_length=len(AccessRole))]
Prefix = Annotated[str, msgspec.Meta(min_length=1, max_length=PREFIX_CHARACTERS_MAX)]
Prefixes = Annotated[tuple[Prefix, ...], msgspec.Meta(min_length=1, max_length=PREFIXES_MAX)]


class NetworkTable(StrictTable, frozen=True):
    """``[network]``."""

    name: Text


class GroupTable(StrictTable, frozen=True):
    """``[group]``. ``key`` is the group key's public digest; with ``derived`` the key is not secret."""

    key: KeyText
    bootstrap: str
    state_machine: MachineName = "kv"
    storage: Literal["volatile", "trust-disk"] = "volatile"
    state_sync: SyncName = "built-in"


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
    snapshot_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=2**40)] = 16 * MIB
    snapshot_ms: Annotated[int, msgspec.Meta(ge=10_000, le=30 * DAY_MS)] = 3_600_000
    log_keep_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 16 * MIB
    log_keep_ms: Annotated[int, msgspec.Meta(ge=0, le=30 * DAY_MS)] = 600_000


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

    keep_s: Annotated[int, msgspec.Meta(ge=300, le=INTEGER_MAX)]


class RevisionCompaction(StrictTable, frozen=True, tag_field="mode", tag="revision"):
    """Keep at least this many revisions."""

    keep_revisions: Annotated[int, msgspec.Meta(ge=1000, le=INTEGER_MAX)]


class NoCompaction(StrictTable, frozen=True, tag_field="mode", tag="none"):
    """Compact only on request."""


Compaction = NoCompaction | PeriodicCompaction | RevisionCompaction


class StoreTable(StrictTable, frozen=True):
    """``[store]``: how much memory the machine's state may take, and how much of its history it keeps."""

    quota_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=1024 * 1024 * MIB)] = QUOTA_BYTES_DEFAULT
    compaction: Compaction = NoCompaction()


class CaTable(StrictTable, frozen=True):
    """``[ca]``: which names the group's own authority may certify for its members' APIs; by default none."""

    names: Annotated[tuple[Text, ...], msgspec.Meta(max_length=CA_NAMES_MAX)] = ()


class DocumentFile(StrictTable, frozen=True):
    """The whole file."""

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
