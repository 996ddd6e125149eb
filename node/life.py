"""A life of a node: what it is built of from its start to its end, before it listens or knows a peer."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation import files
from attestation.background import Background
from attestation.collateral.freshness import FreshnessState
from attestation.files import FileError
from enclave.attester import Attester
from enclave.identity import Identity
from node.audit import AuditLimits, AuditLog
from node.clock import RELEASED, NodeClock
from node.config import NodeConfig
from node.environment import read_environment
from node.errors import ConfigError
from node.group.identity import GroupKey, require_key
from node.group_document import Derived, GroupDocument, Storage
from node.joined import JoinedGroup
from node.storage.file import FileStorage
from node.storage.member import open_member_disk
from node.trust import attester_of, load_freshness

KEY_FILE_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLife:
    """What belongs to this life of the node.

    Attributes:
        joined: the group, once the node has its key.
        seen: which collateral earlier lives have seen.
        key: of the group; None if the node shall wait to receive it.
        storage: the log of a node whose disk is trusted; None for any other.
    """

    document: GroupDocument
    config: NodeConfig
    joined: JoinedGroup
    clock: NodeClock
    attester: Attester
    seen: FreshnessState
    key: GroupKey | None
    identity: Identity
    storage: FileStorage | None
    audit: AuditLog
    background: Background


def begin_life(document: GroupDocument, config: NodeConfig, stack: AsyncExitStack) -> NodeLife:
    """Begin a life of the node. ``stack`` receives what has to be closed at its end.

    Raises:
        ConfigError: a file that the configuration names is absent or damaged.
        NotATrustDomainError: ``mode = "tdx"``, and this machine is not a trust domain.
        CorruptStorageError: the disk does not hold what was written there.
    """
    clock = NodeClock(wall=_wall, monotonic_s=time.monotonic, build_date=build_date())
    attester = attester_of(document, config)
    seen = load_freshness(config)
    key = group_key_of(document, config)
    identity, storage = _identity_of(document, config, clock.now())
    if storage is not None:
        stack.callback(storage.close)
    audit = AuditLog(
        Path(config.node.data_dir) / "audit.jsonl",
        _wall,
        AuditLimits(segment_bytes=config.audit.segment_bytes, segments_max=config.audit.segments_max),
        life=identity,
    )
    stack.callback(audit.close)
    background = Background()
    stack.push_async_callback(background.close)
    return NodeLife(
        document=document,
        config=config,
        joined=JoinedGroup(),
        clock=clock,
        attester=attester,
        seen=seen,
        key=key,
        identity=identity,
        storage=storage,
        audit=audit,
        background=background,
    )


def group_key_of(document: GroupDocument, config: NodeConfig) -> GroupKey | None:
    """Return the group key, or None if the node shall wait to receive it.

    Raises:
        ConfigError: the key file cannot be read, holds no key, or holds another key than the document names.
    """
    if isinstance(document.key, Derived):
        return GroupKey.of_document(document)
    if config.group.await_key:
        return None
    assert config.group.key_file is not None
    path = Path(config.group.key_file)
    try:
        text = files.read_text(path, bytes_max=KEY_FILE_BYTES_MAX, secret=True)
    except FileError as exc:
        raise ConfigError(f"group.key_file: {exc}") from exc
    return require_key(document, GroupKey.from_hex(text), source=f"group.key_file {path}")


def _identity_of(
    document: GroupDocument, config: NodeConfig, now: datetime
) -> tuple[Identity, FileStorage | None]:
    """Return a new incarnation; with a trusted disk, the one that this node's disk holds for the group.

    Raises:
        CorruptStorageError: the disk does not hold what was written there.
    """
    if document.storage is Storage.VOLATILE:
        return Identity.generate(config.node.name, now, hosts=config.api.names), None
    directory = Path(config.node.data_dir) / f"group-{document.group_id.hex()[:16]}"
    disk = open_member_disk(directory, config.node.name, now, hosts=config.api.names)
    return disk.identity, disk.storage


def _wall() -> datetime:
    return datetime.now(UTC)


def build_date() -> datetime:
    """Return when the image was built, as its PID 1 reports; otherwise when this version was released."""
    return read_environment().build_date or RELEASED
