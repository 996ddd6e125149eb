"""The group document: all settings that decide, equal on all nodes of a group. Bytes in, a frozen value out.

People write it as TOML. GroupId and MRCONFIGID come from its canonical form, the deterministic CBOR of its
meaning. A key that is absent has its default's meaning and is not written. A later release can therefore add
keys, and older documents keep their bytes, GroupId and MRCONFIGID (frozen vectors: tests/node/vectors).

    lineage     digest("bondstone/genesis-document/v1", document)
    GroupId     digest("bondstone/group-id/v2", lineage)
    MRCONFIGID  SHA-384 over the canonical bytes

``tables`` has the file as it is written, ``document`` the value that the rest of the node uses, and
``reading`` the way from the one to the other; ``access``, ``jwt`` and ``settings`` have the tables' meanings.
"""

from node.group_document.access import grants_of
from node.group_document.document import (
    BUILT_IN,
    DERIVED,
    FAMILIES,
    PROTOCOL,
    Derived,
    GroupDocument,
    Storage,
    group_id_of_lineage,
    lineage_of,
)
from node.group_document.reading import (
    DOCUMENT_BYTES_MAX,
    NODE_GROUP_KEYS,
    NODE_TABLES,
    load_group_document,
    parse_group_document_untrusted,
)

__all__ = [
    "BUILT_IN",
    "DERIVED",
    "DOCUMENT_BYTES_MAX",
    "FAMILIES",
    "NODE_GROUP_KEYS",
    "NODE_TABLES",
    "PROTOCOL",
    "Derived",
    "GroupDocument",
    "Storage",
    "grants_of",
    "group_id_of_lineage",
    "lineage_of",
    "load_group_document",
    "parse_group_document_untrusted",
]
