"""The node file refuses what it does not understand, and what is not its own, and names the key."""

from pathlib import Path

import msgspec
import pytest

from node.config import (
    CONFIG_BYTES_MAX,
    NodeConfig,
    certified_names_of,
    check_together,
    founding_of,
    load_config,
    load_node,
    parse_config,
)
from node.errors import ConfigError
from node.group_document import GroupDocument
from node.raft.types import Bootstrap
from tests.support import documents
from tests.support.cluster import cli
from tests.support.documents import KEY_DIGEST, MINIMAL, NODE

KEYED = MINIMAL.replace('"derived"', f'"{KEY_DIGEST}"')
WITH_KEY = NODE.replace("[group]", '[group]\nkey_file = "group.key"')


def parse(text: str):
    return parse_config(text.encode(), where="node.toml", base=Path("/base"))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_file_names_are_relative_to_the_node_file():
    config = parse(WITH_KEY)

    assert config.node.data_dir == "/base/data"
    assert config.group.document == "/base/group.toml"
    assert config.group.key_file == "/base/group.key"
    assert config.attestation.mock.authority == "/base/authority"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("[node]", "[node]\ncolour = 1"), "[node] unknown key `colour`"),
        (("[bond]", "[weather]\n[bond]"), "unknown key `weather`"),
        (('name = "a"', 'name = "a b"'), "[node.name]"),
        (('document = "group.toml"', ""), "[group] missing key `document`"),
        (("[group]", '[group]\nkey_file = "k"\nawait_key = true'), "[group] has both key_file and await_key"),
        (("[group]", '[group]\npreference = "eager"'), "[group.preference]"),
        (('"127.0.0.1:7000"', '"127.0.0.1"'), "[bond.listen]"),
        (('"[::1]:7001"', '"host:70000"'), "[bond.seeds]"),
        (("[bond]", "[api]\nhandshakes_max = 0\n[bond]"), "[api.handshakes_max]"),
        (("[bond]", "[api]\nconnections_max = true\n[bond]"), "[api.connections_max]"),
        (("[bond]", "[api]\nbodies_bytes_max = 8192\n[bond]"), "smaller than body_bytes_max"),
        (('mode = "mock"', 'mode = "tdx"'), "[attestation.mock] is not allowed"),
        (('[attestation.mock]\nauthority = "authority"', ""), "needs the table [attestation.mock]"),
        (('mode = "mock"\n', ""), "[attestation] missing key `mode`"),
        (("[node]", "[node"), "not TOML"),
    ],
)
def test_a_wrong_key_is_named(change, named):
    assert change[0] in NODE
    assert named in refusal(NODE.replace(change[0], change[1], 1))


GROUP_KEYS = [
    ("[bond]", '[network]\nname = "n"\n[bond]', "[network]"),
    ("[bond]", "[consensus]\nmin_voters = 1\n[bond]", "[consensus]"),
    ("[bond]", "[policy.tcb]\n[bond]", "[policy]"),
    ("[bond]", "[access]\n[bond]", "[access]"),
    ("[bond]", "[authority]\n[bond]", "[authority]"),
    ("[bond]", "[trust]\n[bond]", "[trust]"),
    ("[bond]", "[collateral]\n[bond]", "[collateral]"),
    ("[bond]", "[jwt]\n[bond]", "[jwt]"),
    ("[bond]", "[recovery]\n[bond]", "[recovery]"),
    ("[bond]", "[store]\n[bond]", "[store]"),
    ("[group]", "[group]\nderive_key = true", "[group.derive_key]"),
    ("[group]", '[group]\nkey = "derived"', "[group.key]"),
    ("[group]", '[group]\nstate_machine = "evil:Machine"', "[group.state_machine]"),
    ("[group]", '[group]\nstorage = "trust-disk"', "[group.storage]"),
    ("[group]", '[group]\nbootstrap = "expect 1"', "[group.bootstrap]"),
    ("[group]", '[group]\nbootstrap = "init"', "[group.bootstrap]"),
    ("[bond]", '[api]\ntokens_file = "mine.toml"\n[bond]', "[api.tokens_file]"),
    ("[attestation]", '[attestation]\npolicy = "lax.toml"', "[attestation.policy]"),
    (
        "[attestation.mock]",
        '[attestation.collateral]\nupdate = "standard"\n[attestation.mock]',
        "[attestation.collateral.update]",
    ),
    (
        "[attestation.mock]",
        '[attestation.jwt]\nkeys_file = "mine.json"\n[attestation.mock]',
        "[attestation.jwt.keys_file]",
    ),
]


@pytest.mark.parametrize(("old", "new", "named"), GROUP_KEYS)
def test_a_group_key_in_a_node_file_is_refused_in_one_sentence(old, new, named):
    assert refusal(NODE.replace(old, new, 1)) == (
        f"node.toml: {named} belongs in the group document, which is equal on all nodes of the group"
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_missing_group_document_is_named(tmp_path):
    (tmp_path / "node.toml").write_text(NODE)
    with pytest.raises(ConfigError, match=r"the group document: cannot read .*/group\.toml: No such file"):
        load_node(tmp_path / "node.toml")


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))

    with pytest.raises(ConfigError, match="larger than"):
        load_config(path)


# ---- the two files together -----------------------------------------------------------------------------


def test_the_node_file_may_only_ask_to_found_nothing():
    document = documents.document()
    joins = parse(NODE.replace("[group]", '[group]\nbootstrap = "join"'))

    assert founding_of(document, parse(NODE)) == document.founding
    assert founding_of(document, joins).bootstrap is Bootstrap.JOIN


JWT = """
[jwt]
issuer = "i"
audience = "a"
keys = [{kty = "OKP", crv = "Ed25519", alg = "EdDSA", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]
"""
TOKEN = '[attestation.jwt]\ntoken_file = "t"\n'
COLLATERAL = '[attestation.collateral]\nfile = "c.json"\n'


@pytest.mark.parametrize(
    ("document", "config", "named"),
    [
        (MINIMAL, WITH_KEY, "[group] key_file does not go with"),
        (MINIMAL, NODE.replace("[group]", "[group]\nawait_key = true"), "[group] await_key does not go with"),
        (KEYED, NODE, "[group] needs key_file or await_key"),
        (MINIMAL, NODE.replace("[group]", '[group]\npreference = "observer"'), "observer-among-founders"),
        (
            KEYED.replace("[policy.tcb]", "[policy.tcb]", 1).replace(
                'bootstrap = "expect 3"', 'bootstrap = "expect 3"\nstorage = "trust-disk"'
            ),
            NODE.replace("[group]", "[group]\nawait_key = true"),
            'await_key does not go with storage = "trust-disk"',
        ),
        (MINIMAL, NODE + COLLATERAL, "[attestation.collateral] file needs fixed_file = true"),
        (MINIMAL + JWT, NODE, "[attestation.jwt] token_file is missing"),
        (MINIMAL, NODE + TOKEN, "[attestation.jwt] token_file is unused"),
    ],
)
def test_two_files_that_contradict_each_other_are_refused_naming_both(document, config, named):
    with pytest.raises(ConfigError) as caught:
        check_together(documents.document(document), parse(config), where="node.toml")

    assert named in str(caught.value)
    assert "node.toml" in str(caught.value)
    assert "group.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("document", "config"),
    [
        (MINIMAL, NODE),
        (KEYED, WITH_KEY),
        (KEYED, NODE.replace("[group]", "[group]\nawait_key = true")),
        (MINIMAL + "[collateral]\nfixed_file = true\n", NODE + COLLATERAL),
        (MINIMAL + JWT, NODE + TOKEN),
    ],
)
def test_two_files_that_go_together_are_taken(document, config):
    check_together(documents.document(document), parse(config), where="node.toml")


# ---- files of version 1 ---------------------------------------------------------------------------------

V1 = """
[node]
name = "a"
data_dir = "data"
[network]
name = "prod"
[group]
key_file = "group.key"
state_machine = "kv"
bootstrap = "expect 3"
[api]
tokens_file = "access.toml"
[consensus]
min_voters = 2
heartbeat_ms = 50
trust_disk = true
[attestation]
mode = "mock"
policy = "policy.toml"
[attestation.mock]
authority = "authority"
[attestation.collateral]
update = "early"
file = "c.json"
[attestation.jwt]
issuer = "https://admission.example"
audience = "prod"
keys_file = "keys.json"
token_file = "token.jwt"
required_claims = {stage = "prod"}
"""


def test_a_file_of_version_1_is_never_read_and_is_answered_with_what_to_write():
    text = refusal(V1)

    assert text.startswith("node.toml: this is a configuration of version 1, which is no longer read: ")
    for key in (
        "[network]",
        "[consensus]",
        "[group.state_machine]",
        "[api.tokens_file]",
        "[attestation.policy]",
    ):
        assert key in text
    for line in (
        "schema = 1",
        'name = "prod"',
        'bootstrap = "expect 3"',
        'storage = "trust-disk"',
        "heartbeat_ms = 50",
        'update = "early"',
        "fixed_file = true",
        'issuer = "https://admission.example"',
        'stage = "prod"',
        'document = "group.toml"',
        "[[token]] becomes [[access.token]]",
        "[tcb] becomes [policy.tcb]",
    ):
        assert line in text, line
    assert "trust_disk" not in text.partition("Write group.toml")[2]


def test_the_text_that_the_migration_shows_is_a_valid_group_document():
    """Followed literally, with the policy's tables renamed, it makes a document that is taken."""
    v1 = V1.partition("[attestation.jwt]")[0].replace('key_file = "group.key"', "derive_key = true")
    text = refusal(v1)
    written = text.partition("same file for all nodes of the group:\n")[2].partition("In the node file")[0]
    written = written.replace("the hex digits of trust-root.der of the mock authority", "intel")
    policy = MINIMAL[MINIMAL.index("[policy.tcb]") :]

    document = documents.document(written + policy)

    assert document.network == "prod"
    assert (document.settings.heartbeat_ms, document.settings.trust_disk) == (50, True)
    assert document.update == "early"


def test_a_node_with_a_file_of_version_1_exits_with_2(tmp_path):
    (tmp_path / "node.toml").write_text(V1)
    run = cli("node", "run", "--config", tmp_path / "node.toml")

    assert run.returncode == 2
    assert "configuration of version 1" in run.stderr


def test_every_table_of_the_group_document_is_refused_in_a_node_file():
    """No key of the group document can be slipped into a node file: none is a node file's, or it is refused."""
    from node import config, group_document
    from node.group_document import tables as written

    tables = set(written.DocumentFile.__struct_fields__) - {"group"}
    assert tables == set(config._MOVED_TABLES)
    shared = set(written.GroupTable.__struct_fields__) & set(config.NodeGroupTable.__struct_fields__)
    assert shared == {"bootstrap"}  # of which a node file takes "join" only
    assert msgspec.structs.fields(config.NodeConfig)
    assert set(group_document.NODE_TABLES) | {"group"} == set(config.NodeConfig.__struct_fields__)
    assert set(group_document.NODE_GROUP_KEYS) | {"bootstrap"} == set(config.NodeGroupTable.__struct_fields__)


# ---- names that the group's authority certifies ---------------------------------------------------
def with_ca(*names: str) -> GroupDocument:
    return documents.document(documents.MINIMAL + f"\n[ca]\nnames = {list(names)!r}\n")


def with_names(*names: str, advertise: str = "") -> NodeConfig:
    more = f"advertise = {advertise!r}\n" if advertise else ""
    return parse(documents.NODE + f"\n[api]\nnames = {list(names)!r}\n{more}")


def test_a_name_outside_the_group_documents_list_stops_the_node():
    for names in (["evil.example"], ["localhost", "10.0.0.1"], ["b.a.group.internal"]):
        with pytest.raises(ConfigError, match=rf"api\] names: {names[-1]} is not among"):
            check_together(with_ca("*.group.internal", "localhost"), with_names(*names), where="node.toml")


def test_a_node_without_any_name_of_the_list_does_not_start():
    with pytest.raises(ConfigError, match="has none of them"):
        check_together(with_ca("other.internal"), parse(documents.NODE), where="node.toml")


def test_a_node_is_certified_for_its_names_on_the_list():
    listed = with_ca("*.group.internal", "localhost", "a", "10.0.0.0/8")
    config = with_names("localhost", "x.group.internal", advertise="10.0.0.1:8443")
    check_together(listed, config, where="node.toml")
    assert certified_names_of(listed, config) == ("localhost", "x.group.internal", "a", "10.0.0.1")
    assert certified_names_of(listed, parse(documents.NODE)) == ("localhost", "a")


def test_without_a_list_a_node_has_whatever_names_it_likes():
    check_together(documents.document(), with_names("evil.example"), where="node.toml")
