"""The group document: what it means decides its bytes, and nothing else does."""

import dataclasses
import hashlib
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.encoding.canonical import encode
from attestation.encoding.toml_tables import StrictTable
from enclave.identity import Identity
from node import group_document
from node.ca.names import PermittedNames
from node.errors import ConfigError
from node.group_document import (
    DOCUMENT_BYTES_MAX,
    Derived,
    GroupDocument,
    Storage,
    load_group_document,
    parse_group_document_untrusted,
    reading,
    settings,
    tables,
)
from node.group_document.tables import ConsensusTable
from node.machines.loader import BUILT_IN
from node.raft.types import Bootstrap, Settings
from node.tokens import AccessRole
from tests.support import evidence
from tests.support.documents import KEY_DIGEST, MINIMAL, MRTD, document

VECTORS = Path(__file__).parent / "vectors"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def spki(key) -> str:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()


ED25519 = spki(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key())
P256 = spki(ec.derive_private_key(7, ec.SECP256R1()).public_key())
MORE = f"""
[consensus]
heartbeat_ms = 200
[access]
lag_s = 20
[[access.token]]
name = "ops"
sha256 = "{"11" * 32}"
roles = ["write", "read"]
prefixes = ["b/", "a/"]
expires_at = 2027-01-01T00:00:00Z
[[access.token]]
name = "scrape"
sha256 = "{"22" * 32}"
roles = ["metrics"]
[authority]
threshold = 1
keys = [{{id = "ops", key = "{ED25519}"}}, {{id = "cold", key = "{P256}"}}]
[recovery]
authorize = "survivor"
[store]
quota_bytes = 1073741824
compaction = {{mode = "periodic", keep_s = 3600}}
[collateral]
update = "early"
fixed_file = true
[jwt]
issuer = "https://admission.example"
audience = "prod"
keys = [{{kid = "k", alg = "EdDSA", kty = "OKP", crv = "Ed25519", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]
required_claims = {{stage = "prod"}}
"""


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        document(text)
    return str(caught.value)


def changed(old: str, new: str, text: str = MINIMAL + MORE) -> GroupDocument:
    assert old in text, old
    return document(text.replace(old, new, 1))


# ---- what it means --------------------------------------------------------------------------------------


def test_a_minimal_document_means_the_defaults():
    minimal = document()

    assert minimal.key is Derived.DERIVED
    assert minimal.state_machine == "kv"
    assert (minimal.founding.bootstrap, minimal.founding.expect) == (Bootstrap.EXPECT, 3)
    assert minimal.storage is Storage.VOLATILE
    assert minimal.settings == Settings()
    assert not minimal.root.mock
    assert (minimal.update, minimal.fixed_collateral) == ("standard", False)
    assert (minimal.jwt, minimal.authority) == (None, None)
    assert (minimal.access.lag_s, minimal.access.tokens, minimal.access.certificates) == (10, (), ())
    assert minimal.recovery == "none"
    assert minimal.policy.tcb.standing_days == 14
    assert minimal.policy.reference_values.own_mrconfigid


def test_a_full_document_is_read_whole():
    full = document(MINIMAL + MORE)

    assert full.settings == Settings(heartbeat_ms=200, quota_bytes=1 << 30)
    first, second = full.access.tokens
    assert (first.name, first.roles) == ("ops", {AccessRole.READ, AccessRole.WRITE})
    assert (first.prefixes, first.expires_at) == (("a/", "b/"), datetime(2027, 1, 1, tzinfo=UTC))
    assert (second.prefixes, second.expires_at) == (None, None)
    assert [(key.kid, key.algorithm) for key in full.authority.keys] == [
        ("cold", "es256"),
        ("ops", "ed25519"),
    ]
    assert full.recovery == "survivor"
    assert full.settings.quota_bytes == 1 << 30
    assert full.jwt.rules.required_claims == {"stage": "prod"}


def test_ids_follow_from_the_canonical_bytes_alone():
    full = document(MINIMAL + MORE)

    assert cbor2.loads(full.canonical) == full.value
    assert full.mrconfigid == hashlib.sha384(full.canonical).digest()
    lineage = hashlib.sha256(encode(["bondstone/genesis-document/v1", full.value])).digest()
    assert full.lineage == lineage
    assert full.group_id == hashlib.sha256(encode(["bondstone/group-id/v2", lineage])).digest()


def tables_of(text: str) -> list[str]:
    """The document's tables, each with its header, in order; top-level keys first."""
    return [part for part in re.split(r"(?m)^(?=\[)", text) if part.strip()]


@pytest.mark.parametrize("turn", range(6))
def test_reordering_tables_and_keys_changes_no_id(turn):
    top, *tables = tables_of(MINIMAL + MORE)
    turned = tables[turn * 2 :] + tables[: turn * 2]
    reordered = []
    for table in turned:
        head, *lines = table.strip().splitlines()
        reordered.append("\n".join([head, *reversed(lines)]))

    assert document(top + "\n".join(reordered)).canonical == document(MINIMAL + MORE).canonical


SPELLINGS = [
    ('kid = "k"', 'use = "sig", key_ops = ["verify"], kid = "k"'),
    ("heartbeat_ms = 200", "heartbeat_ms = 0xC8  # a comment"),
    ('update = "early"', "update = 'early'"),
    ("[recovery]\nauthorize", "recovery.authorize"),
    ('roles = ["write", "read"]', 'roles = ["read", "write", "read"]'),
    ('prefixes = ["b/", "a/"]', 'prefixes = ["a/", "b/", "a/deeper"]'),
    ("2027-01-01T00:00:00Z", "2027-01-01T01:00:00+01:00"),
    ("11" * 32, "11" * 32),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nelection_timeout_ms = 1000\nmin_voters = 2"),
    ('key = "derived"', 'key = "derived"\nstate_machine = "kv"\nstorage = "volatile"'),
    ("[policy.tcb]", "[trust]\nroot = 'intel'\n[policy.tcb]"),
    ("[policy.tcb]", "[policy.tcb]\nstanding_days = 14\nminimum_evaluation_data_number = 0"),
    (MRTD, MRTD.upper()),
]


@pytest.mark.parametrize(("old", "new"), SPELLINGS, ids=[str(i) for i in range(len(SPELLINGS))])
def test_another_spelling_of_the_same_meaning_changes_no_id(old, new):
    text = MINIMAL + MORE
    if old.startswith("[recovery]"):
        text = "recovery.authorize = 'survivor'\n" + text.replace('[recovery]\nauthorize = "survivor"\n', "")
        assert document(text).canonical == document(MINIMAL + MORE).canonical
        return
    assert changed(old, new).canonical == document(text).canonical


def test_admin_stands_for_every_role_also_those_to_come():
    both = [
        changed('roles = ["metrics"]', f"roles = {roles}").canonical
        for roles in ('["admin"]', '["admin", "read", "export"]')
    ]

    assert both[0] == both[1]


MEANINGS = [
    (
        "[authority]",
        f"[[access.token]]\nname = 'evil'\nsha256 = '{'ee' * 32}'\nroles = ['admin']\n[authority]",
    ),
    (f'[[access.token]]\nname = "scrape"\nsha256 = "{"22" * 32}"\nroles = ["metrics"]\n', ""),
    ('name = "n"', 'name = "m"'),
    ('key = "derived"', f'key = "{KEY_DIGEST}"'),
    ('key = "derived"', 'key = "derived"\nstate_machine = "counter"'),
    ('key = "derived"', 'key = "derived"\nstate_machine = "own.module:Machine"'),
    ('key = "derived"', 'key = "derived"\nstorage = "trust-disk"'),
    ('"expect 3"', '"expect 4"'),
    ('"expect 3"', '"init"'),
    ('"expect 3"', '"auto"'),
    ("heartbeat_ms = 200", "heartbeat_ms = 201"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nlease_reads = true"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\ndemote_to_two_after_ms = 59000"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\ncommand_bytes_max = 1000000"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nsnapshot_bytes = 1000000"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nsnapshot_ms = 60000"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nlog_keep_bytes = 0"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200\nlog_keep_ms = 0"),
    ("lag_s = 20", "lag_s = 21"),
    ("11" * 32, "12" + "11" * 31),
    ('name = "scrape"', 'name = "scraper"'),
    ('roles = ["metrics"]', 'roles = ["read"]'),
    ('roles = ["metrics"]', 'roles = ["metrics"]\nexpires_at = 2027-01-01T00:00:00Z'),
    ("2027-01-01T00:00:00Z", "2027-01-01T00:00:01Z"),
    ('prefixes = ["b/", "a/"]', 'prefixes = ["b/"]'),
    ("threshold = 1", "threshold = 2"),
    ('id = "cold"', 'id = "warm"'),
    (ED25519, spki(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())),
    ('authorize = "survivor"', 'authorize = "none"'),
    ("quota_bytes = 1073741824", "quota_bytes = 1073741825"),
    ("keep_s = 3600", "keep_s = 3601"),
    ('{mode = "periodic", keep_s = 3600}', '{mode = "revision", keep_revisions = 3600}'),
    ('{mode = "periodic", keep_s = 3600}', '{mode = "none"}'),
    ('update = "early"', 'update = "standard"'),
    ("fixed_file = true", "fixed_file = false"),
    ("admission.example", "admission.other"),
    ('kid = "k"', 'kid = "l"'),
    ('{stage = "prod"}', '{stage = "test"}'),
    ("[policy.tcb]", "[policy.tcb]\nstanding_days = 15"),
    ("[policy.tcb]", "[policy.tcb]\nminimum_evaluation_data_number = 19"),
    ('["UpToDate"]', '["UpToDate", "SWHardeningNeeded"]'),
    ("max_age_seconds = 3600", "max_age_seconds = 3601"),
    (MRTD, "ac" * 48),
]


@pytest.mark.parametrize(("old", "new"), MEANINGS, ids=[f"{i}" for i in range(len(MEANINGS))])
def test_any_other_meaning_is_another_group_and_another_mrconfigid(old, new):
    before, after = document(MINIMAL + MORE), changed(old, new)

    assert after.group_id != before.group_id
    assert after.mrconfigid != before.mrconfigid


def test_a_root_is_in_the_id():
    root = evidence.authority().trust_root.certificate_der.hex()
    mock = document(MINIMAL + f'[trust]\nroot = "{root}"\n')

    assert mock.root == evidence.authority().trust_root
    assert mock.group_id != document().group_id


def test_intels_own_root_may_be_written_out():
    root = document().root.certificate_der.hex()

    assert document(MINIMAL + f'[trust]\nroot = "{root}"\n').canonical == document().canonical


def test_how_long_the_third_voter_may_be_silent_is_a_setting_of_the_core():
    patient = document(MINIMAL + "[consensus]\ndemote_to_two_after_ms = 90000\n")

    assert patient.settings == Settings(demote_to_two_after_ms=90_000)


def test_the_families_in_the_id_are_those_of_the_built_in_machines():
    assert {name: machine().family for name, machine in BUILT_IN.items()} == dict(group_document.FAMILIES)


def test_a_policy_file_given_as_a_group_document_is_refused_with_its_proper_place():
    text = refusal('version = 1\n[tcb]\naccepted_statuses = ["UpToDate"]\n[ticket]\n[reference_values]\n')

    assert text == (
        "group.toml: this is an appraisal policy, not a group document: "
        "write its tables with `policy.` before their names, such as [policy.tcb]"
    )


# ---- what is refused ------------------------------------------------------------------------------------

REFUSED = [
    ("2027-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "[access.token] ops: expires_at"),
    ("2027-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "[access.token] ops: expires_at"),
    (
        "[policy.ticket]",
        "[policy.ticket]\nnot_before = 9999-12-31T23:59:59-23:59",
        "policy.ticket.not_before",
    ),
    ("schema = 1", "schema = 2", "[schema]"),
    ("schema = 1", "", "missing key `schema`"),
    ("schema = 1", "schema = 1.0", "[schema]"),
    ("schema = 1", "schema = true", "[schema]"),
    ("schema = 1", "schema = 1\nweather = 1", "unknown key `weather`"),
    ('name = "n"', 'name = ""', "[network.name]"),
    ('[network]\nname = "n"', "", "missing key `network`"),
    ('key = "derived"', "", "[group] missing key `key`"),
    ('key = "derived"', 'key = "DERIVED"', "[group.key]"),
    ('key = "derived"', f'key = "{KEY_DIGEST}\\n"', "[group.key]"),
    ('key = "derived"', f'key = "{KEY_DIGEST[1:]}"', "[group.key]"),
    ('bootstrap = "expect 3"', "", "[group] missing key `bootstrap`"),
    ('"expect 3"', '"join"', "[group.bootstrap]"),
    ('"expect 3"', '"expect 0"', "[group.bootstrap]"),
    ('"expect 3"', '"expect 32"', "[group.bootstrap]"),
    ('"expect 3"', '"expect 03"', "[group.bootstrap]"),
    ('"expect 3"', '"expect  3"', "[group.bootstrap]"),
    ('"expect 3"', '"expect ٣"', "[group.bootstrap]"),
    ("[group]", '[group]\nstate_machine = "../evil"', "[group.state_machine]"),
    ("[group]", '[group]\nstate_machine = "kv\\n"', "[group.state_machine]"),
    ("[group]", '[group]\nstorage = "sealed"', "[group.storage]"),
    ("[group]", "[group]\nderive_key = true", "[group] unknown key `derive_key`"),
    ("heartbeat_ms = 200", "heartbeat_ms = 900", "[consensus] election_timeout_ms"),
    ("heartbeat_ms = 200", "heartbeat_ms = true", "[consensus.heartbeat_ms]"),
    ("heartbeat_ms = 200", "heartbeat_ms = 200.0", "[consensus.heartbeat_ms]"),
    ("heartbeat_ms = 200", "heartbeat_ms = 99999999999999999999", "[consensus.heartbeat_ms]"),
    ("heartbeat_ms = 200", "min_voters = 9", "[consensus] min_voters"),
    ("heartbeat_ms = 200", "trust_disk = true", "[consensus] unknown key `trust_disk`"),
    ("heartbeat_ms = 200", "session_window = 1", "[consensus] unknown key `session_window`"),
    ("heartbeat_ms = 200", "command_bytes_max = 2097153", "[consensus.command_bytes_max]"),
    ("lag_s = 20", "lag_s = 0", "[access.lag_s]"),
    ("11" * 32, "22" * 32, "[access] ops and scrape have the same credential"),
    ('name = "scrape"', 'name = "ops"', "[access] ops and ops have the same name"),
    ('roles = ["metrics"]', "roles = []", "[access.token[1].roles]"),
    ('roles = ["metrics"]', 'roles = ["root"]', "[access.token[1].roles[0]]"),
    ('prefixes = ["b/", "a/"]', "prefixes = []", "[access.token[0].prefixes]"),
    ('prefixes = ["b/", "a/"]', 'prefixes = [""]', "[access.token[0].prefixes[0]]"),
    ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00", "[access.token] ops: expires_at"),
    ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00.5Z", "[access.token] ops: expires_at"),
    ("2027-01-01T00:00:00Z", "2027-01-01", "[access.token[0].expires_at]"),
    (
        "threshold = 1",
        "threshold = 3",
        "[authority] an authority has 1 to 16 keys and a threshold among them",
    ),
    ("threshold = 1", "threshold = 0", "[authority.threshold]"),
    ("threshold = 1\n", "", "[authority] missing key `threshold`"),
    ('id = "cold"', 'id = "ops"', "[authority] an authority's keys are sorted by id and distinct"),
    (P256, ED25519, "[authority] an authority's keys are sorted by id and distinct"),
    (P256, P256[:-2], "[authority.keys] authority key cold is not a readable SubjectPublicKeyInfo"),
    (P256, "00", "[authority.keys] authority key cold is not a readable SubjectPublicKeyInfo"),
    (
        P256,
        spki(ec.derive_private_key(7, ec.SECP384R1()).public_key()),
        "[authority.keys] authority key cold is neither an Ed25519 nor a P-256 key",
    ),
    (
        P256,
        spki(ed448.Ed448PrivateKey.from_private_bytes(bytes(57)).public_key()),
        "[authority.keys] authority key cold is neither an Ed25519 nor a P-256 key",
    ),
    ('authorize = "survivor"', 'authorize = "anybody"', "[recovery.authorize]"),
    ("quota_bytes = 1073741824", "quota_bytes = 0", "[store.quota_bytes]"),
    ("keep_s = 3600", "keep_s = 1", "[store.compaction.keep_s]"),
    ('mode = "periodic"', 'mode = "often"', "[store.compaction.mode]"),
    ('update = "early"', 'update = "19"', "[collateral.update]"),
    ("fixed_file = true", "fixed_file = 1", "[collateral.fixed_file]"),
    (
        'alg = "EdDSA", kty = "OKP"',
        'alg = "HS256", kty = "oct"',
        "[jwt.keys] a group document is public and cannot hold a secret key",
    ),
    ('kty = "OKP"', 'kty = "EC"', "[jwt.keys]"),
    ('alg = "EdDSA", ', "", "[jwt.keys]"),
    ('kid = "k"', 'd = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"', "[jwt.keys]"),
    ('{stage = "prod"}', "{stage = 1.5}", "[jwt.required_claims[...]]"),
    ('{stage = "prod"}', "{stage = 99999999999999999999}", "jwt.required_claims"),
    ('audience = "prod"', 'audience = ""', "[jwt.audience]"),
    ("[policy.tcb]", "[policy]\nversion = 1\n[policy.tcb]", "the policy: [policy] unknown key `version`"),
    ('accepted_statuses = ["UpToDate"]', "", "policy.tcb.accepted_statuses"),
    ('accepted_statuses = ["UpToDate"]', 'accepted_statuses = ["Revoked"]', "policy.tcb.accepted_statuses"),
    ("[policy.tcb]", "[policy.tcb]\nstanding_days = 91", "policy.tcb.standing_days"),
    ("[policy.tcb]", "[policy.weather]\n[policy.tcb]", "the policy: [policy] unknown key `weather`"),
    ('mrconfigid = "own"', f'mrconfigid = "{"00" * 48}"', "mrconfigid cannot be zeros"),
    (
        'mrconfigid = "own"',
        f'mrconfigid = ["own", "{"11" * 48}"]',
        "policy.reference_values.baseline.mrconfigid",
    ),
    ('mrconfigid = "own"', "", "mrconfigid"),
    ('mrtd = "', 'rtmr0 = "own"\nmrtd = "', "policy.reference_values.baseline.rtmr0"),
    ("[policy.tcb]", '[policy.reference_values.variants.a]\nmrconfigid = "own"\n[policy.tcb]', "mrconfigid"),
]


@pytest.mark.parametrize(("old", "new", "named"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_a_wrong_key_is_named_with_the_file(old, new, named):
    assert old in MINIMAL + MORE, old
    text = refusal((MINIMAL + MORE).replace(old, new, 1))

    assert text.startswith("group.toml: ")
    assert named in text
    assert "\n" not in text


@pytest.mark.parametrize("table", ["node", "api", "bond", "audit", "attestation"])
def test_a_table_of_the_node_file_is_refused_in_one_sentence(table):
    assert refusal(MINIMAL + f"[{table}]\n") == (
        f"group.toml: [{table}] belongs in the node file: "
        "a group document holds only what is equal on all nodes"
    )


@pytest.mark.parametrize("key", ["document", "key_file", "await_key", "preference"])
def test_a_group_key_of_the_node_file_is_refused_too(key):
    assert f"[group.{key}] belongs in the node file" in refusal(
        MINIMAL.replace("[group]", f'[group]\n{key} = "x"')
    )


@pytest.mark.parametrize(
    "text", ["", "schema", "schema = 1\nschema = 1", "\x00", "[a]\n[a]", "a = " + "[" * 5000]
)
def test_an_invalid_document_is_refused(text):
    assert refusal(text).startswith("group.toml: ")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match="not TOML"):
        parse_group_document_untrusted(b"schema = '\xff'", where="group.toml")


def test_a_huge_document_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (DOCUMENT_BYTES_MAX + 1))

    with pytest.raises(ConfigError, match="larger than"):
        load_group_document(path)


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"the group document: cannot read .*nowhere\.toml: No such file"):
        load_group_document(tmp_path / "nowhere.toml")


def test_a_certificate_is_pinned_whole_and_anything_else_is_refused():
    one, two = (Identity.generate(name, NOW).certificate_pem().decode() for name in ("a", "b"))

    def with_certificate(pem: str) -> str:
        return MINIMAL + f"[[access.certificate]]\nname = 'laptop'\nroles = ['read']\npem = '''{pem}'''\n"

    documents = [document(with_certificate(pem)) for pem in (one, one, two)]
    assert documents[0].canonical == documents[1].canonical != documents[2].canonical
    assert "laptop: pem is not a PEM certificate" in refusal(with_certificate("-----BEGIN"))
    # Of two certificates in one text, readers would take different ones.
    assert "laptop: pem is not a PEM certificate" in refusal(with_certificate(one + two))


def test_names_for_the_groups_own_authority_have_one_form():
    names = ["*.Group.Internal", "10.0.0.0/8", "group.internal", "FD00::/8", "fd00::/8", "10.0.0.7"]
    one = document(MINIMAL + f"[ca]\nnames = {json.dumps(names)}\n")
    other = document(MINIMAL + f"[ca]\nnames = {json.dumps([*names[::-1], *names])}\n")

    assert one.ca_names == PermittedNames.of(
        ["*.group.internal", "10.0.0.0/8", "10.0.0.7/32", "fd00::/8", "group.internal"]
    )
    assert one.canonical == other.canonical != document().canonical
    assert document(MINIMAL + "[ca]\nnames = []\n").canonical == document().canonical


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        "a b",
        "a..b",
        "-a",
        "a-",
        "*.*.a",
        "a.*",
        "10.0.0.1/8",
        "010.0.0.1",
        "1.2.3",
        "a\\n",
        "ä",
        "a" * 64,
    ],
)
def test_an_invalid_name_is_refused(name):
    assert "[ca.names" in refusal(MINIMAL + f'[ca]\nnames = ["{name}"]\n')


# ---- frozen ---------------------------------------------------------------------------------------------


def frozen() -> dict[str, dict[str, str]]:
    return json.loads((VECTORS / "group-documents-1.json").read_text())


@pytest.mark.parametrize("name", sorted(frozen()))
def test_documents_of_the_first_release_keep_their_bytes_and_ids(name):
    vector = frozen()[name]
    read = document(vector["document"])

    assert read.canonical.hex() == vector["canonical"]
    assert read.group_id.hex() == vector["group_id"]
    assert read.mrconfigid.hex() == vector["mrconfigid"]
    assert read.network_id.hex() == vector["network_id"]


def test_what_absence_means_is_frozen():
    """The defaults of schema 1: a changed one would change what documents of today mean, without a trace."""
    frozen_defaults = json.loads((VECTORS / "defaults-1.json").read_text())

    assert json.loads(json.dumps(defaults())) == frozen_defaults


RECORDED_AS = {tables.DocumentFile: "_File"}  # its name when the vector was made


def defaults() -> dict:
    """Every default of schema 1, as plain data."""
    from attestation.policy.rules import ABSENT, _plain

    def hexed(value):
        return value.hex() if isinstance(value, bytes) else value

    written_down = {
        RECORDED_AS.get(table, table.__name__): {
            item.name: msgspec.to_builtins(item.default)
            for item in msgspec.structs.fields(table)
            if item.default is not msgspec.NODEFAULT and not isinstance(item.default, msgspec.Struct)
        }
        for table in vars(tables).values()
        if isinstance(table, type) and issubclass(table, StrictTable) and table is not StrictTable
    }
    policy = {
        rules.__name__: {
            name: [hexed(item) for item in plain]
            if isinstance(plain := _plain(value), list)
            else hexed(plain)
            for name, value in absent.items()
        }
        for rules, absent in ABSENT.items()
    }
    return {"tables": written_down, "policy": policy, "settings": dataclasses.asdict(Settings())}


def test_the_defaults_of_consensus_are_those_of_the_core():
    assert document().settings == Settings()
    outside = {field.name for field in dataclasses.fields(Settings)} - set(ConsensusTable.__struct_fields__)
    # What no document can change in schema 1. One more is a new key, or an entry here.
    assert outside == {
        "append_bytes_max",
        "catchup_buffer_bytes_max",
        "chunk_bytes_max",
        "pending_max",
        "reluctant_factor",
        "session_window",
        "snapshot_chunk_bytes",
        "quota_bytes",  # [store]
        "trust_disk",  # [group] storage
    }


def test_a_key_that_a_later_release_adds_changes_no_id_of_today(monkeypatch):
    """An older and a newer release side by side: the newer one reads today's documents to the same bytes."""
    before = [document(text) for text in (MINIMAL, MINIMAL + MORE)]
    later_consensus = msgspec.defstruct(
        "ConsensusTable",
        [("brand_new_ms", int, 5)],
        bases=(ConsensusTable,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    later_file = msgspec.defstruct(
        "_File",
        [("consensus", later_consensus, later_consensus())],
        bases=(tables.DocumentFile,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    monkeypatch.setattr(reading, "DocumentFile", later_file)
    monkeypatch.setattr(settings, "NOT_SETTINGS", settings.NOT_SETTINGS | {"brand_new_ms"})

    after = [document(text) for text in (MINIMAL, MINIMAL + MORE)]
    assert [one.canonical for one in after] == [one.canonical for one in before]
    assert [one.group_id for one in after] == [one.group_id for one in before]
    at_default = document(MINIMAL + "[consensus]\nbrand_new_ms = 5\n")
    elsewhere = document(MINIMAL + "[consensus]\nbrand_new_ms = 6\n")
    assert at_default.canonical == before[0].canonical
    assert elsewhere.value["settings"] == {"brand_new_ms": 6}


def test_an_older_release_refuses_a_key_that_it_does_not_know_instead_of_guessing():
    assert "unknown key `brand_new_ms`" in refusal(MINIMAL + "[consensus]\nbrand_new_ms = 5\n")


# ---- every key, set to something hostile ----------------------------------------------------------------


def inline(value) -> str:
    """A value in TOML, all of it in one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(inline, value)) + "]"
        case datetime():
            return value.isoformat()
        case str():
            return json.dumps(value)
        case _:
            return str(value)


def written(tables: dict) -> str:
    return "\n".join(f"{json.dumps(key)} = {inline(value)}" for key, value in tables.items())


FULL_TABLES = tomllib.loads(MINIMAL + MORE)


def places(value, path=()):
    """Every key of the full document, also of those in lists, with the way to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from places(item, (*path, i))


PLACES = list(places(FULL_TABLES))
JUNK = [
    True, False, -1, 0, 1, 2**31, 2**63 - 1, -(2**63), 1.5, float("inf"), float("nan"), "", "own", "any", "derived",
    "intel", "../../etc/passwd", "\x00", "\n", "é" * 300, "00" * 32, "ff" * 48, [], [[]], {}, {"a": {}}, [1], ["x"],
    datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59),  # noqa: DTZ001
]  # fmt: skip


def at(place, value) -> str:
    """The full document with this value at this place."""
    import copy

    tables = copy.deepcopy(FULL_TABLES)
    *way, key = place
    table = tables
    for step in way:
        table = table[step]
    table[key] = value
    return written(tables)


def outcome(text: str) -> GroupDocument | str:
    """The document, or why it is refused."""
    try:
        return document(text)
    except ConfigError as exc:
        return str(exc)


def test_the_document_in_one_line_each_is_the_same_document():
    assert document(written(FULL_TABLES)).canonical == document(MINIMAL + MORE).canonical


@pytest.mark.parametrize("place", PLACES, ids=[".".join(map(str, place)) for place in PLACES])
def test_a_hostile_value_at_any_key_is_refused_or_makes_another_group(place):
    """Never the same id with another meaning, and never anything but one sentence that names the file."""
    before = document(MINIMAL + MORE)
    for junk in JUNK:
        after = outcome(at(place, junk))
        if isinstance(after, str):
            assert after.startswith("group.toml: "), junk
            assert "\n" not in after, junk
            continue
        same = {item.name for item in dataclasses.fields(after)} - {"where", "value", "canonical"}
        unchanged = all(getattr(after, name) == getattr(before, name) for name in same)
        assert (after.group_id == before.group_id) is unchanged, junk


@pytest.mark.parametrize("place", PLACES, ids=[".".join(map(str, place)) for place in PLACES])
def test_an_unknown_key_beside_any_key_is_refused(place):
    *way, _ = place
    table = FULL_TABLES
    for step in way:
        table = table[step]
    if way and (way[-1] == "required_claims" or (way[:1] == ["jwt"] and way[1:2] == ["keys"])):
        return  # names of claims, and members of a JWK, are free
    with pytest.raises(ConfigError, match=r"^group\.toml: "):
        document(at((*way, "unheard_of"), 1))
