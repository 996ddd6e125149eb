"""From the bytes of a file to a checked group document."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from attestation import files
from attestation.encoding.canonical import encode
from attestation.encoding.toml_tables import TableError, parse_toml_untrusted, read_table_untrusted
from attestation.errors import MalformedError
from attestation.files import FileError
from node.ca.names import PermittedNames
from node.errors import ConfigError
from node.group_document.access import access_of, canonical_access
from node.group_document.document import (
    BUILT_IN,
    DERIVED,
    FAMILIES,
    PROTOCOL,
    SCHEMA,
    SYNC,
    Derived,
    GroupDocument,
    Storage,
)
from node.group_document.jwt import canonical_jwt, jwt_of
from node.group_document.settings import (
    authority_from,
    ca_name,
    canonical_authority,
    founding_of,
    policy_of,
    root_of,
    settings_of,
)
from node.group_document.tables import DocumentFile

DOCUMENT_BYTES_MAX: Final = 256 * 1024


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
        return _document_of(read_table_untrusted(tables, DocumentFile), where)
    except MalformedError as exc:
        raise ConfigError(f"{where}: {exc.message}") from exc
    except TableError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


NODE_TABLES: Final = ("node", "api", "bond", "audit", "memory", "attestation")
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


def _document_of(file: DocumentFile, where: str) -> GroupDocument:
    settings = settings_of(file)
    policy = policy_of(file)
    root = root_of(file.trust)
    jwt = None if file.jwt is None else jwt_of(file.jwt)
    access = access_of(file.access)
    authority = None if file.authority is None else authority_from(file.authority)
    ca_names = tuple(sorted({ca_name(name) for name in file.ca.names}))
    key = Derived.DERIVED if file.group.key == DERIVED else bytes.fromhex(file.group.key)
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "network": file.network.name,
        "key": DERIVED if isinstance(key, Derived) else key,
        "bootstrap": file.group.bootstrap,
        "machine": FAMILIES.get(file.group.state_machine, file.group.state_machine),
        "sync": SYNC if file.group.state_sync == BUILT_IN else file.group.state_sync,
        "policy": policy.canonical(),
        "validators": ["tdx"] if jwt is None else ["tdx", "jwt"],
    }
    written: dict[str, Any] = {
        "storage": None if file.group.storage == "volatile" else file.group.storage,
        "settings": _changed(file.consensus),
        "root": root.certificate_der if root.mock else None,
        "collateral": _changed(file.collateral),
        "jwt": None if jwt is None else canonical_jwt(jwt),
        "access": canonical_access(access),
        "authority": None if authority is None else canonical_authority(authority),
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
        state_sync=file.group.state_sync,
        founding=founding_of(file.group.bootstrap),
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
        compaction=file.store.compaction,
        ca_names=PermittedNames.of(ca_names),
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
