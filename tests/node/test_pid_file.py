"""``node.pid`` names the process that runs a node, and nobody else: not one that ended, not a stranger's."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.pid_file import holding_pid_file, running_node

PROJECT = Path(__file__).parents[2]
PEER = bytes(range(32))
HOLDS = """
import sys, signal
from pathlib import Path
from node.pid_file import holding_pid_file
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with holding_pid_file(Path(sys.argv[1]), bytes(range(32))):
    print("here", flush=True)
    signal.pause()
"""


@contextmanager
def a_node(directory):
    """Run a process that claims to run the node of ``directory``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, directory],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    try:
        assert process.stdout.readline() == b"here\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_process_of_a_node_is_found_and_ends_when_it_is_asked_to(tmp_path):
    with a_node(tmp_path) as process, running_node(tmp_path) as node:
        assert node.peer_id == PEER
        assert not node.ends_within(0)
        node.terminate()
        assert node.ends_within(30)
        assert process.wait(30) == 0
        node.terminate()  # it is not there any more, and no other process gets the signal


def test_a_file_that_was_left_behind_names_nobody(tmp_path):
    with a_node(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "node.pid").read_text()
        with pytest.raises(ConfigError, match="no node runs in"), running_node(tmp_path):
            pass


def test_a_file_that_nobody_holds_names_nobody_although_its_process_runs(tmp_path):
    (tmp_path / "node.pid").write_text(f"{os.getpid()}\n{PEER.hex()}\n")

    with pytest.raises(ConfigError, match="no node runs in"), running_node(tmp_path):
        pass


def test_two_processes_do_not_run_one_node(tmp_path):
    with (
        a_node(tmp_path),
        pytest.raises(ConfigError, match="another process runs a node"),
        holding_pid_file(tmp_path, PEER),
    ):
        pass


def test_where_no_node_ever_ran_or_the_last_one_ended_nobody_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no node runs in"), running_node(tmp_path):
        pass
    with holding_pid_file(tmp_path, PEER):
        pass
    with pytest.raises(ConfigError, match="no node runs in"), running_node(tmp_path):
        pass


@pytest.mark.parametrize(
    "text", ["1\n", "x\ny\n", f"-1\n{PEER.hex()}\n", f"1\n{'z' * 64}\n", "1\n2\n3\n", "x" * 300]
)
def test_a_malformed_file_is_refused(tmp_path, text):
    (tmp_path / "node.pid").write_text(text)

    with pytest.raises(ConfigError), running_node(tmp_path):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_the_owner_of_a_file_cannot_name_the_process_of_another_user(tmp_path):
    with a_node(tmp_path):
        os.chown(tmp_path / "node.pid", 12345, 12345)
        with pytest.raises(ConfigError, match="another user"), running_node(tmp_path):
            pass
