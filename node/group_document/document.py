"""A whole group document, checked, and the ids that follow from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from attestation.encoding.canonical import digest
from attestation.policy.rules import AppraisalPolicy
from attestation.tickets.ids import network_id_of_name
from attestation.x509.trust import TrustRoot
from node.authority import Authority
from node.ca.names import PermittedNames
from node.group_document.access import FoundingAccess
from node.group_document.jwt import JwtAdmission
from node.group_document.tables import Compaction
from node.raft.types import Founding, Settings

SCHEMA: Final = 1
PROTOCOL: Final = 1
DERIVED: Final = "derived"
BUILT_IN: Final = "built-in"
SYNC: Final = "bondstone/log-replay"
"""In the canonical document: ``built-in``, a name from before there were snapshots. Any other is itself."""
FAMILIES: Final[Mapping[str, str]] = {
    name: f"bondstone/{name}" for name in ("kv", "collections", "counter", "noop")
}
"""Families of the built-in machines. Any other machine has the name in the file, ``module:Class``."""


class Derived(Enum):
    """In place of a key's digest: the key is derived from the document."""

    DERIVED = DERIVED


class Storage(Enum):
    """Where term, vote and log live."""

    VOLATILE = "volatile"
    TRUST_DISK = "trust-disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDocument:
    """A whole group document, checked. Made by :func:`parse_group_document_untrusted`.

    Attributes:
        where: the file's name, for messages.
        key: the group key's public digest, 32 bytes, or ``Derived``.
        state_sync: signature of the machine's state sync, or ``built-in``.
        root: the root that quotes must lead to.
        update: which TCB evaluation nodes request, ``standard`` or ``early``.
        fixed_collateral: a node may use a fixed file of collateral.
        ca_names: what the group's own authority certifies; without any the group has no such authority.
        value: the canonical document as plain data.
        canonical: its bytes.
    """

    where: str
    network: str
    key: bytes | Derived
    state_machine: str
    state_sync: str
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
    compaction: Compaction
    ca_names: PermittedNames
    value: Mapping[str, Any]
    canonical: bytes

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
