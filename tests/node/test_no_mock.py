"""An installation without the mock's part, as a production image is, cannot be made a mock TD."""

import sys

import pytest

from node.config import load_node
from node.errors import ConfigError
from node.trust import attester_of
from tests.support import documents


def test_without_the_mocks_part_of_the_program_a_node_file_cannot_ask_for_a_mock_td(tmp_path, monkeypatch):
    (tmp_path / "node.toml").write_text(documents.NODE)
    (tmp_path / "group.toml").write_text(documents.MINIMAL)
    files = load_node(tmp_path / "node.toml")
    # As in production's initrd: neither is there.
    for name in ("node.mocked", "enclave.mock", "enclave.mock.authority", "enclave.mock.td"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("node.mocked", raising=False)

    with pytest.raises(ConfigError, match="this image holds no mock TD"):
        attester_of(files.document, files.config)
