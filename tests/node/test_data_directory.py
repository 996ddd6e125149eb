"""What lies in a node's data directory is the host's: no link is followed, and a clean stop stays one."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import pytest

from attestation.background import Background
from attestation.collateral.freshness import FreshnessState
from attestation.files import FileError
from node import daemon
from node.config import NodeConfig, parse_config
from node.errors import ConfigError
from node.trust import load_freshness, save_freshness
from tests.node.test_config import NODE


class Judge:
    freshness = FreshnessState()


@pytest.fixture
def config(tmp_path) -> NodeConfig:
    config = parse_config(NODE.encode(), where="node.toml", base=tmp_path)
    daemon.make_data_directory(config)
    return config


def data_directory(config):
    return Path(config.node.data_dir)


@pytest.mark.parametrize(
    "name", ["freshness.new", "freshness.cbor.new", ".freshness.cbor.new", "freshness.cbor"]
)
def test_a_link_that_the_host_lays_is_not_written_through(config, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (data_directory(config) / name).symlink_to(victim)
    save_freshness(config, FreshnessState())
    assert victim.read_bytes() == b"precious"
    assert load_freshness(config) == FreshnessState()


def test_a_directory_in_the_place_of_the_file_does_not_turn_a_clean_stop_into_a_failure(config, caplog):
    (data_directory(config) / "freshness.cbor").mkdir()
    with caplog.at_level(logging.ERROR):
        daemon._save_freshness_at_the_end(config, Judge())
    assert "freshness.cbor: Is a directory" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_invalid_freshness_file_is_refused_at_start_by_its_name(config, make):
    make(data_directory(config) / "freshness.cbor")
    with pytest.raises(ConfigError, match=r"freshness.cbor: it is a (FIFO|directory)"):
        load_freshness(config)


def test_a_disk_that_is_full_for_a_while_does_not_end_the_saving_of_what_was_seen(config, monkeypatch):
    calls = []

    def save(_config, _state):
        calls.append(1)
        if len(calls) < 3:
            raise FileError("cannot write freshness.cbor: No space left on device", errno=28)

    async def at_once(_seconds):
        await asyncio.sleep(0)

    monkeypatch.setattr(daemon, "save_freshness", save)
    monkeypatch.setattr(daemon, "FRESHNESS_SAVE_S", 0)

    async def main():
        background = Background(sleep=at_once)
        background.keep("freshness-save", lambda: daemon._keep_freshness(config, Judge()))
        while len(calls) < 5:
            await asyncio.sleep(0)
        report = next(one for one in background.reports() if one.name == "freshness-save")
        await background.close()
        return report

    report = asyncio.run(main())
    assert (report.running, report.failures) == (1, 2)


def test_a_data_directory_that_cannot_be_made_is_refused_by_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    config = parse_config(NODE.encode(), where="node.toml", base=tmp_path)
    node = msgspec.structs.replace(config.node, data_dir=str(tmp_path / "file" / "data"))
    config = msgspec.structs.replace(config, node=node)
    with pytest.raises(ConfigError, match=r"node.data_dir: cannot make the directory .*/file/data"):
        daemon.make_data_directory(config)
