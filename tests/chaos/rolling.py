"""Restart three real nodes one after another, again and again, while a client writes.

python -m tests.chaos.rolling --rounds 100 [--how patient|impatient|kill]

A round restarts every node once. ``patient`` is what docs/operating.md recommends: `member wait`, then `node stop
--safe`. ``impatient`` sends SIGTERM to the next node as soon as the new incarnation of the last one is listed in
``voters``, wherever a node lists it; ``kill`` does so with ``kill -9``. Prints what it did on standard error and a
report as JSON on standard output. Exit code 1: the group was lost, or an acknowledged write.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from node.client import BondstoneClient, ClientError
from tests.chaos.cluster import ChaosCluster, Node, chaos_cluster
from tests.chaos.files import Kind
from tests.chaos.stage import say_on_stderr
from tests.support.cluster import cli, until

NODES: Final = 3
LISTED_S: Final = 60.0
SAFE_S: Final = 120
WRITE_S: Final = 60.0
PAUSE_S: Final = 0.02
HOW: Final = ("patient", "impatient", "kill")


@dataclass(slots=True)
class Writer:
    """Writes one key after another, in a thread, and remembers what was acknowledged.

    Attributes:
        longest_s: the longest time between two acknowledgements.
    """

    client: BondstoneClient
    acknowledged: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    failure: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Write until it is stopped; a write that does not succeed within its deadline ends it."""
        number, last = 0, time.monotonic()
        while not self._stop.wait(PAUSE_S):  # a machine with few cores restarts nodes meanwhile
            key = f"k{number}"
            try:
                self.client.put(key, key)
            except ClientError as exc:
                self.failure = f"{key} was not written within {WRITE_S:.0f} s: {exc}"
                return
            self.acknowledged.append(key)
            number, now = number + 1, time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now

    def stop(self) -> None:
        self._stop.set()


def roll(directory: Path, rounds: int, how: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Restart each of three nodes ``rounds`` times.

    Returns:
        what was done.

    Raises:
        AssertionError: the group was lost, or an acknowledged write, or the cluster could not be started.
    """
    started = time.monotonic()
    with chaos_cluster(directory, NODES, None, Kind()) as cluster:
        cluster_id = _cluster_id(cluster)
        with cluster.client(*cluster.nodes, deadline_s=WRITE_S, attempt_s=5) as client:
            writer = Writer(client)
            thread = threading.Thread(target=writer.work, name="writer")
            thread.start()
            restarts = leaders = 0
            try:
                for number in range(rounds):
                    for node in cluster.nodes:
                        leaders += _restart(cluster, node, how)
                        restarts += 1
                        assert not writer.failure, writer.failure
                    say(f"round {number + 1}: {len(writer.acknowledged)} writes")
            finally:
                writer.stop()
                thread.join()
        assert not writer.failure, writer.failure
        cluster.until_whole("all three nodes vote in one group after the last restart")
        assert _cluster_id(cluster) == cluster_id, "the group was lost, and founded anew"
        _require_all(cluster, writer.acknowledged)
    return {
        "how": how,
        "rounds": rounds,
        "restarts": restarts,
        "restarts_of_the_leader": leaders,
        "acknowledged": len(writer.acknowledged),
        "longest_without_a_write_s": round(writer.longest_s, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def _restart(cluster: ChaosCluster, node: Node, how: str) -> bool:
    """Stop ``node``, start it again, and wait until it may be the next one's turn; return whether it led."""
    led = cluster.leader() is node
    match how:
        case "patient":
            _stop_safely(cluster, node)
        case "impatient":
            cluster.stop(node)
        case _:
            cluster.kill(node)
    cluster.start(node)
    cluster.until_listening(node)
    until(lambda: _is_listed(cluster, node), f"a node lists the new incarnation of {node.name}", LISTED_S)
    return led


def _is_listed(cluster: ChaosCluster, node: Node) -> bool:
    known = (cluster.status(other) for other in cluster.nodes)
    return any(status is not None and node.peer_id() in status.voters for status in known)


def _stop_safely(cluster: ChaosCluster, node: Node) -> None:
    """Stop a node as in docs/operating.md."""
    urls = [part for one in cluster.nodes for part in ("--url", f"https://{one.api}")]
    access = [*urls, "--token", cluster.token, "--ca", cluster.ca]
    config = node.directory / "node.toml"
    for command in (
        ("member", "wait", "--voters", str(NODES), "--timeout", str(SAFE_S)),
        ("node", "stop", "--config", config, "--safe", "--wait", str(SAFE_S)),
    ):
        run = cli(*command, *access, timeout_s=2 * SAFE_S)
        assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
    cluster.reap(node)


def _cluster_id(cluster: ChaosCluster) -> str | None:
    known = (cluster.status(node) for node in cluster.nodes)
    return next((status.cluster_id for status in known if status is not None), None)


def _require_all(cluster: ChaosCluster, acknowledged: list[str]) -> None:
    """Raise AssertionError if an acknowledged write is not there."""
    with cluster.client(*cluster.nodes, deadline_s=WRITE_S, attempt_s=10) as client:
        there = {item.key for item in client.list()}
    missing = [key for key in acknowledged if key.encode() not in there]
    assert not missing, f"{len(missing)} acknowledged writes are gone, the first {missing[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="each restarts every node once")
    parser.add_argument("--how", choices=HOW, default="patient")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bondstone-rolling-"))
    try:
        report = roll(directory, arguments.rounds, arguments.how, say_on_stderr(time.monotonic()))
    except AssertionError as exc:
        print(f"FAILED; logs in {directory}\n{exc}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
