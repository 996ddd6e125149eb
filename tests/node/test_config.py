"""The configuration file refuses what it does not understand, and says which key."""

from pathlib import Path

import pytest

from node.config import CONFIG_BYTES_MAX, consensus_settings, load_config, parse_config
from node.errors import ConfigError
from node.raft.types import Bootstrap, Settings

GOOD = """
[node]
name = "a"
data_dir = "data"
[network]
name = "n"
[group]
key_file = "group.key"
bootstrap = "expect 3"
[bond]
listen = "127.0.0.1:7000"
seeds = ["10.0.0.1:7000", "[::1]:7001"]
[attestation]
mode = "mock"
policy = "policy.toml"
[attestation.mock]
authority = "authority"
[consensus]
min_voters = 1
"""


def parse(text: str):
    return parse_config(text.encode(), where="node.toml", base=Path("/base"))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_file_names_are_relative_to_the_configuration_file():
    config = parse(GOOD)

    assert config.node.data_dir == "/base/data"
    assert config.group.key_file == "/base/group.key"
    assert config.attestation.policy == "/base/policy.toml"
    assert config.attestation.mock.authority == "/base/authority"


def test_consensus_table_overrides_only_what_it_names():
    assert consensus_settings(parse(GOOD)) == Settings(min_voters=1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("[node]", "[node]\ncolour = 1"), "[node] unknown key `colour`"),
        (("[network]", "[weather]\n[network]"), "unknown key `weather`"),
        (('name = "a"', 'name = "a b"'), "[node.name]"),
        (('key_file = "group.key"', ""), "[group] needs exactly one of"),
        (('key_file = "group.key"', 'key_file = "k"\nderive_key = true'), "[group] needs exactly one of"),
        (('"expect 3"', '"expect 0"'), "[group] bootstrap"),
        (('"expect 3"', '"whatever"'), "[group] bootstrap"),
        (('"127.0.0.1:7000"', '"127.0.0.1"'), "[bond.listen]"),
        (('"[::1]:7001"', '"host:70000"'), "[bond.seeds]"),
        (("min_voters = 1", "min_voters = 9"), "min_voters is larger than max_voters"),
        (("min_voters = 1", "heartbeat_ms = 900"), "election_timeout_ms"),
        (("min_voters = 1", 'min_voters = "1"'), "[consensus.min_voters]"),
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
    assert change[0] in GOOD
    assert named in refusal(GOOD.replace(change[0], change[1], 1))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))

    with pytest.raises(ConfigError, match="larger than"):
        load_config(path)


def test_every_bootstrap_mode_can_be_written():
    modes = {
        text: parse(GOOD.replace('"expect 3"', f'"{text}"')).group.bootstrap
        for text in ("init", "join", "auto", "expect 5")
    }

    assert list(modes) == list(modes.values())
    assert {mode.value for mode in Bootstrap} == {text.split()[0] for text in modes}
