"""docs/operating.md: its commands work on a cluster, and its table names what a node reports."""

import re
import shlex
from pathlib import Path

import pytest

from node.raft.outlook import Quorum
from tests.support.cluster import cli, local_cluster

TEXT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.cluster
def test_every_command_of_the_page_succeeds_in_its_order_on_three_nodes(tmp_path):
    wanted = commands()
    assert len(wanted) >= 5
    with local_cluster(tmp_path / "cluster") as cluster:
        settings = {"BONDSTONE_CLUSTER": str(cluster.directory / "client.json")}
        config = str(cluster.node_config(0))
        for program, *words in wanted:
            assert program == "bondstone"
            arguments = [config if word == "node.toml" else word for word in words]
            if arguments[:2] == ["node", "run"]:
                cluster.run_node(Path(config)).event("ready")
                continue
            run = cli(*arguments, env=settings, timeout_s=200)
            assert run.returncode == 0, f"{arguments}: {run.stdout}{run.stderr}"


def test_the_states_of_a_missing_quorum_are_those_that_a_node_reports():
    listed = re.findall(r"^\| `quorum-(\w+)` \|", TEXT, re.MULTILINE)

    assert listed == [Quorum.LOST.value, Quorum.SHORT.value, Quorum.GONE.value]
