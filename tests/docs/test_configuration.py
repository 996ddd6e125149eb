"""docs/configuration.md: every key of both files is there, with its default, and of a node key why it decides nothing."""

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from attestation.collateral.freshness import FreshnessState
from node import config
from node.errors import ConfigError
from node.group_document import parse_group_document_untrusted, tables
from node.raft.types import Bootstrap
from node.trust import tdx_validator_of, validators_of
from tests.support import documents

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
GROUP, NODE = TEXT.partition("## The node file")[0], TEXT.partition("## The node file")[2]
NODE_ROWS = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.+?) \|$", NODE, re.MULTILINE)
GROUP_ROWS = re.findall(r"^\| `([\w.…]+)` \| (.*?) \| (.*?) \|$", GROUP, re.MULTILINE)

# Defaults that the tables describe.
WORDS = {
    "node": {
        "group.key_file": ("none", None),
        "group.bootstrap": ("the document's", None),
        "group.preference": ("the machine's", None),
        "memory.budget_bytes": ("half of the memory", None),
        "api.advertise": ("`listen`", None),
        "bond.advertise": ("`listen`", ()),
        "bond.seeds": ("none", ()),
        "attestation.collateral.source": ("Intel's PCS", None),
        "attestation.collateral.file": ("none", None),
        "attestation.collateral.tls_ca": ("none", None),
        "attestation.collateral.tls_roots": ("none", None),
        "attestation.collateral.proxy": ("none", None),
        "attestation.mock.mrconfigid": ("the group document's", None),
        **{
            f"attestation.mock.{name}": ("zeros", config.ZERO48)
            for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        },
    },
    "group": {
        "jwt.subject": ("the peer's id, in hex", None),
        "jwt.required_claims": ("none", {}),
        "jwt.max_age_s": ("no limit", None),
        "access.token.prefixes": ("all keys", None),
        "access.token.expires_at": ("never", None),
        "access.certificate.prefixes": ("all keys", None),
        "store.compaction": ('`{ mode = "none" }`', tables.NoCompaction()),
    },
}


def tables_in(kind: Any) -> list[type[msgspec.Struct]]:
    """The tables that a field of this type holds."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [] if "Compaction" in kind.__name__ else [kind]
    return [table for part in get_args(kind) for table in tables_in(part)] if get_origin(kind) else []


def schema_of(table: type[msgspec.Struct], path: str = "") -> dict[str, Any]:
    """Every key of a file with its default; ``msgspec.NODEFAULT`` of one that is required."""
    out: dict[str, Any] = {}
    for item in msgspec.structs.fields(table):
        here = f"{path}.{item.name}" if path else item.name
        below = tables_in(item.type)
        if below:
            for one in below:
                out |= schema_of(one, here)
        else:
            default = item.default
            if default is msgspec.NODEFAULT and item.default_factory is not msgspec.NODEFAULT:
                default = item.default_factory()
            out[here] = default
    return out


SCHEMAS = {"node": schema_of(config.NodeConfig), "group": schema_of(tables.DocumentFile)}
ROWS = {
    "node": {key: default for key, default, _, _ in NODE_ROWS},
    "group": {key: default for key, default, _ in GROUP_ROWS},
}


def test_every_key_of_the_node_file_is_in_the_table_once():
    assert sorted(SCHEMAS["node"]) == sorted(key for key, *_ in NODE_ROWS)


def test_every_key_of_the_group_document_is_in_the_table_once():
    assert sorted(SCHEMAS["group"]) == sorted(key.replace(".…", "") for key, *_ in GROUP_ROWS)


@pytest.mark.parametrize(
    ("file", "key"), [(file, key) for file, schema in SCHEMAS.items() for key in schema if key != "policy"]
)
def test_the_default_of_each_key_is_the_documented_one(file, key):
    default, shown = SCHEMAS[file][key], ROWS[file][key]

    if default is msgspec.NODEFAULT:
        assert shown == "–"
    elif key in WORDS[file]:
        assert (shown, default) == WORDS[file][key]
    else:
        import tomllib

        value = tomllib.loads(f"x = {shown.strip('`')}")["x"]
        assert (tuple(value) if isinstance(value, list) else value) == default


@pytest.mark.parametrize(("key", "reason"), [(key, reason) for key, _, _, reason in NODE_ROWS])
def test_every_node_key_has_a_reason_why_a_hostile_value_costs_only_availability(key, reason):
    number = [row[0] for row in NODE_ROWS].index(key)
    if reason == "the same":
        assert number > 0
    else:
        assert len(reason) > 10
    assert "TODO" not in reason


def test_the_example_is_a_group_document():
    (example,) = re.findall(r"```toml\n(.*?)```", GROUP, re.DOTALL)

    document = parse_group_document_untrusted(example.encode(), where="example")
    assert document.policy.reference_values.own_mrconfigid


# ---- what the table states, tried -------------------------------------------------------------------------

HOSTILE = {
    "node.name": "node-1",
    "node.data_dir": "/dev/null/x",
    "group.document": "/etc/passwd",
    "group.key_file": "/dev/zero",
    "group.await_key": True,
    "group.bootstrap": "join",
    "group.preference": "observer",
    "api.listen": "203.0.113.1:1",
    "api.advertise": "evil.example:443",
    "api.names": ["evil.example", "*"],
    "api.body_bytes_max": 16 * 1024 * 1024,
    "api.bodies_bytes_max": 2**62,
    "api.concurrent_requests_max": 1,
    "api.connections_max": 1,
    "api.handshakes_max": 1,
    "bond.listen": "203.0.113.1:1",
    "bond.advertise": ["203.0.113.1:1"],
    "bond.seeds": ["203.0.113.1:1"],
    "audit.segment_bytes": 64 * 1024,
    "audit.segments_max": 2,
    "memory.budget_bytes": 1024 * 1024,
    "attestation.mode": "tdx",
    "attestation.ticket_lifetime_s": 24 * 3600,
    "attestation.tsm_root": "/tmp/forged",
    "attestation.collateral.source": "http://evil.example",
    "attestation.collateral.file": "forged.json",
    "attestation.collateral.tls_ca": "evil.pem",
    "attestation.collateral.tls_roots": "evil.pem",
    "attestation.collateral.proxy": "http://evil.example:1",
    "attestation.jwt.token_file": "/etc/shadow",
    "attestation.mock.authority": "/tmp/forged",
    "attestation.mock.mrtd": "ff" * 48,
    "attestation.mock.rtmr0": "ff" * 48,
    "attestation.mock.rtmr1": "ff" * 48,
    "attestation.mock.rtmr2": "ff" * 48,
    "attestation.mock.rtmr3": "ff" * 48,
    "attestation.mock.mrconfigid": "ff" * 48,
    "attestation.mock.attributes": "ff" * 8,
}


def with_value(key: str, value: Any) -> str:
    """The node file of the tests, with this key set."""
    import json
    import tomllib

    tables = tomllib.loads(documents.NODE)
    *path, name = key.split(".")
    table = tables
    for part in path:
        table = table.setdefault(part, {})
    table[name] = value
    lines = []
    for head, at in (
        ("node", tables), ("group", tables), ("api", tables), ("bond", tables), ("audit", tables),
        ("attestation", tables), ("collateral", tables["attestation"]), ("jwt", tables["attestation"]),
        ("mock", tables["attestation"]),
    ):  # fmt: skip
        if head in at:
            lines.append(f"[{head}]" if at is tables else f"[attestation.{head}]")
            lines += [f"{k} = {json.dumps(v)}" for k, v in at[head].items() if not isinstance(v, dict)]
    return "\n".join(lines)


def test_every_node_key_has_a_hostile_value_here():
    assert set(HOSTILE) == set(SCHEMAS["node"])


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_node_key_changes_nothing_that_decides(key):
    """Either the files are refused, or all that judges and identifies comes out as before."""
    document = documents.document()
    try:
        hostile = documents.node_config(with_value(key, HOSTILE[key]))
        config.check_together(document, hostile, where="node.toml")
    except ConfigError:
        return
    honest = documents.node_config()

    assert attestation_of(document) == attestation_of(documents.document())
    asked = config.founding_of(document, hostile)
    assert asked == config.founding_of(document, honest) or asked.bootstrap is Bootstrap.JOIN
    # The functions that decide are given the group document alone; a new parameter of theirs has to be argued here.
    assert list(inspect.signature(validators_of).parameters) == ["document", "tdx"]
    assert "config" not in inspect.signature(tdx_validator_of).parameters


def attestation_of(document):
    validator = tdx_validator_of(document, None, FreshnessState())
    return document.group_id, document.mrconfigid, validator.signature, document.settings, document.access
