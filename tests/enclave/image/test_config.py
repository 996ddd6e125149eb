import contextlib
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.image.config import (
    CONFIG_BYTES_MAX,
    DISK_HEADER_BYTES,
    DISK_MAGIC,
    Profile,
    config_disk_length_untrusted,
    encode_config_disk,
    encode_guest_config,
    parse_guest_config_untrusted,
    require_measured,
)
from enclave.image.errors import GuestConfigError

FILES = {"node.toml": "[group]\ndocument = 'group.toml'\n", "group.toml": "", "authority/root.pem": "x"}


def parse(data, profile=Profile.PROD):
    return parse_guest_config_untrusted(data, profile=profile)


def test_a_configuration_survives_its_document():
    document = encode_guest_config(FILES, addresses={"eth1": "10.77.0.1/24"})
    config = parse(document)

    assert dict(config.files) == FILES
    assert str(config.addresses["eth1"]) == "10.77.0.1/24"


def test_a_document_that_was_not_measured_is_refused_unless_nothing_was():
    own = hashlib.sha384(b"the group document").digest()

    require_measured(own, own)
    require_measured(own, bytes(48))
    for other in (own[::-1], bytes(47) + b"\1"):
        with pytest.raises(GuestConfigError) as caught:
            require_measured(own, other)
        assert caught.value.reason == "mrconfigid-mismatch"
    for length in (b"", own[:32], own + b"\0"):
        with pytest.raises(GuestConfigError) as caught:
            require_measured(own, length)
        assert caught.value.reason == "mrconfigid-length"


@pytest.mark.parametrize("setting", ['key = "aa"', 'key_file = "/run/bondstone/config/k"'])
def test_a_production_image_takes_no_group_key_from_its_host_and_a_debug_image_does(setting):
    document = encode_guest_config({"node.toml": f"[group]\n{setting}\n"})

    with pytest.raises(GuestConfigError) as caught:
        parse(document)
    assert caught.value.reason == "config-group-key"
    assert "provision" in caught.value.message
    assert parse(document, Profile.DEBUG).files


@pytest.mark.parametrize(
    "node",
    [
        '[attestation]\nmode = "mock"\n',
        "attestation = 1\n",
        "[attestation.mock]\n",
        '[attestation]\nmode = "Mock"\n',
    ],
)
def test_a_production_image_cannot_be_made_a_mock_td_by_its_host_and_one_for_emulation_can(node):
    document = encode_guest_config({"node.toml": node})

    with pytest.raises(GuestConfigError) as caught:
        parse(document)
    assert caught.value.reason == "config-mock"
    assert parse(document, Profile.EMULATION).files
    with pytest.raises(GuestConfigError):
        parse(encode_guest_config({"node.toml": "[group]\nkey_file = 'k'\n"}), Profile.EMULATION)


def document(**changes):
    return json.dumps({"version": 1, "files": FILES, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "config-json"),
        (b"\xff", "config-json"),
        (b"[" * 100_000, "config-json"),
        (b'{"version":1,"version":1}', "config-json"),
        (b'{"version":NaN}', "config-json"),
        (document(files={**FILES, "x.pem": "\ud800"}), "config-json"),  # no file could hold it
        (b"[" + b"0," * 300 + b"0]", "config-json"),
        (b"[]", "config-members"),
        (document(version=True), "config-members"),  # equal to 1 in Python
        (document(version=1.0), "config-members"),
        (b'{"version":1}', "config-files"),
        (document(version=2), "config-members"),
        (document(extra=1), "config-members"),
        (document(files=[]), "config-files"),
        (document(files={}), "config-files"),
        (document(files={f"f{n}.toml": "" for n in range(33)}), "config-files"),
        (document(files={"policy.toml": ""}), "config-node-missing"),
        (document(files={**FILES, "x.pem": 1}), "config-file-contents"),
        (document(files={**FILES, "x.pem": "y" * (128 * 1024 + 1)}), "config-file-contents"),
        (document(files={"node.toml": "["}), "config-node-toml"),
        (document(files={"node.toml": "group = 1"}), "config-group-key"),
        (document(addresses=[]), "config-addresses"),
        (document(addresses={"eth1": "10.0.0.1"}), "config-addresses"),
        (document(addresses={"lo": "10.0.0.1/8"}), "config-addresses"),
        (document(addresses={"eth1": "10.0.0.300/8"}), "config-addresses"),
        (document(addresses={"eth1": "10.0.0.1/33"}), "config-addresses"),
        (b" " * (CONFIG_BYTES_MAX + 1), "config-too-large"),
    ],
)
def test_bad_configurations_are_refused_by_name(data, reason):
    with pytest.raises(GuestConfigError) as caught:
        parse(data)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "name",
    [
        "evil.py", "evil.pyc", "evil.so", "evil.pth", "evil.zip", "evil.cfg", "evil.sh", "evil", "evil/__init__.py",
        "pyvenv.cfg", "../x.pem", "/x.pem", "a/../x.pem", "a//x.pem", "a/b/c.pem", ".pem", "a/.pem", "x.pem/y.pem",
        "x.py.pem", "X.pem", "x.PEM", "x.pem\n", "x.pem\0", "x .pem", "\u00e9.pem", "", "a" * 32 + ".pem", "x.jsonl",
    ],
)  # fmt: skip
def test_a_configuration_holds_no_file_that_could_be_code_or_be_placed_elsewhere(name):
    with pytest.raises(GuestConfigError) as caught:
        parse(document(files={**FILES, name: ""}))

    assert caught.value.reason == "config-file-name"


@pytest.mark.parametrize(
    "name", ["access.toml", "authority/platform-ca.pem", "collateral.json", "jwt/own.jwt"]
)
def test_a_configuration_holds_every_kind_of_file_that_a_node_reads(name):
    assert parse(document(files={**FILES, name: "x"})).files[name] == "x"


def test_a_configuration_disk_carries_the_document_in_whole_sectors():
    document = encode_guest_config(FILES)
    disk = encode_config_disk(document)

    assert len(disk) % 512 == 0
    length = config_disk_length_untrusted(disk[:DISK_HEADER_BYTES])
    assert disk[DISK_HEADER_BYTES : DISK_HEADER_BYTES + length] == document


def test_other_disks_carry_no_configuration_and_a_large_one_is_refused_before_it_is_read():
    assert config_disk_length_untrusted(b"\xeb\x58MSDOS" + bytes(40)) is None
    assert config_disk_length_untrusted(b"") is None
    with pytest.raises(GuestConfigError) as caught:
        config_disk_length_untrusted(DISK_MAGIC + (CONFIG_BYTES_MAX + 1).to_bytes(4, "little"))
    assert caught.value.reason == "config-too-large"


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["version", "files", "addresses", "node.toml", "eth0", "x"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_foreign_bytes_raise_the_declared_error_only(data):
    with contextlib.suppress(GuestConfigError):
        parse(data)
