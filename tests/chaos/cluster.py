"""A cluster of ``bondstone node run`` processes (see ``worker``) that can be hurt in every way."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from enclave.mock.authority import MockAuthority
from node.api import schemas
from node.audit import lines_of_log
from node.client import BondstoneClient, ClientError
from node.group.identity import GroupKey
from node.tokens import AccessRole, new_token, render_token_entry
from tests.chaos import broken
from tests.chaos.files import Kind, document_text, node_text
from tests.support.cluster import PROJECT, free_port_block, until
from tests.support.netns import NamespaceNetwork, address_of

API_PORT: Final = 8443
BOND_PORT: Final = 7443
START_S: Final = 90.0
STOP_S: Final = 60.0
CONVERGE_S: Final = 120.0
LOOK_EVERY_S: Final = 0.2
TOLD_WITHIN_S: Final = 2.0
_FAKETIME: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@dataclass(slots=True)
class Node:
    """One node; its place in the network is ``number + 1``."""

    number: int
    directory: Path
    api: str
    bond: str
    process: "subprocess.Popen[bytes] | None" = None
    lives: int = 0
    paused: bool = False

    @property
    def place(self) -> int:
        return self.number + 1

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def alive(self) -> bool:
        return self.process is not None

    @property
    def clock_file(self) -> Path:
        return self.directory / "clock"

    def events(self) -> list[dict[str, Any]]:
        """Return what this process has reported until now."""
        lines = (self.directory / f"events-{self.lives}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of this kind in this life."""
        return [event for event in self.events() if event["event"] == kind]

    def peer_id(self) -> str | None:
        listening = self.told("listening")
        return listening[0]["peer_id"] if listening else None


@dataclass(slots=True)
class ChaosCluster:
    """The nodes, and what can be done to them. ``network`` is None on loopback."""

    directory: Path
    nodes: list[Node]
    network: NamespaceNetwork | None
    kind: Kind
    token: str = field(default_factory=new_token)
    _observers: dict[int, BondstoneClient] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        return self.directory / "api-ca.pem"

    def pinned(self, *nodes: Node, cluster: str) -> BondstoneClient:
        """Return a client that knows this cluster."""
        urls = [f"https://{node.api}" for node in nodes]
        return BondstoneClient(urls, token=self.token, ca=self.ca, cluster=cluster)

    def client(self, *nodes: Node, deadline_s: float, attempt_s: float) -> BondstoneClient:
        return BondstoneClient(
            [f"https://{node.api}" for node in nodes],
            token=self.token,
            ca=self.ca,
            deadline_s=deadline_s,
            attempt_timeout_s=attempt_s,
        )

    # ---- doing --------------------------------------------------------------
    def start(self, node: Node) -> None:
        """Start a node and wait until it listens."""
        assert node.process is None
        life = node.lives + 1
        command = [sys.executable, "-m", "tests.chaos.worker", *self._fault_of(node)]
        command += ["node", "run", "--config", str(node.directory / "node.toml"), "--json"]
        if self.network is not None:
            command = self.network.command(node.place, command)
        with (
            (node.directory / "node.log").open("ab") as log,
            (node.directory / f"events-{life}.jsonl").open("wb") as events,
        ):
            node.lives = (
                life  # before the process: what the last process reported is not to be taken for this one's
            )
            node.process = subprocess.Popen(
                [*command, "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=events,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(PROJECT), **_faked_clock(node)},
                start_new_session=True,
            )

    def _fault_of(self, node: Node) -> list[str]:
        name = self.kind.broken
        if name is None or (name in broken.OF_ONE_NODE and node.number):
            return []
        return ["--broken", name]

    def until_listening(self, node: Node) -> None:
        def listening() -> bool:
            assert node.process is not None
            if node.process.poll() is not None:
                raise AssertionError(
                    f"{node.name} ended: {(node.directory / 'node.log').read_text()[-2000:]}"
                )
            return node.peer_id() is not None

        until(listening, f"{node.name} listens", START_S)
        self._write_ca()

    def close(self) -> None:
        for node in self.nodes:
            if node.alive:
                self.kill(node)
        for observer in self._observers.values():
            observer.close()

    def kill(self, node: Node) -> None:
        """``kill -9``."""
        assert node.process is not None
        node.process.kill()
        self.reap(node, -signal.SIGKILL)

    def stop(self, node: Node) -> None:
        """SIGTERM, and wait until the process has ended."""
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        self.reap(node)

    def reap(self, node: Node, code: int = 0) -> None:
        """Wait until the process of a node has ended with this exit code."""
        assert node.process is not None
        ended = node.process.wait(STOP_S)
        assert ended == code, f"{node.name} ended with {ended}: see its log"
        assert node.process.stdin is not None
        node.process.stdin.close()
        node.process, node.paused = None, False

    def pause(self, node: Node) -> None:
        """SIGSTOP: the process stands still, its connections stay open."""
        if node.process is not None:
            node.process.send_signal(signal.SIGSTOP)
            node.paused = True

    def resume(self, node: Node) -> None:
        if node.process is not None and node.paused:
            node.process.send_signal(signal.SIGCONT)
        node.paused = False

    def standing_still(self, node: Node) -> bool:
        """Say whether the kernel really runs nothing of the node."""
        assert node.process is not None
        stat = Path(f"/proc/{node.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def vitals(self, node: Node) -> dict[str, Any] | None:
        """Return what the process reports of itself; None if nothing comes in time."""
        return self._signalled(node, signal.SIGUSR2, "vitals")

    def hand_over(self, node: Node) -> None:
        """Ask a node to hand its leadership over. It reports the result: ``handed-over`` or ``not-handed-over``."""
        if node.process is not None:
            node.process.send_signal(signal.SIGUSR1)

    def _signalled(self, node: Node, number: signal.Signals, answer: str) -> dict[str, Any] | None:
        process = node.process
        if process is None or node.paused or node.peer_id() is None:
            return None
        before = len(node.told(answer))
        process.send_signal(number)
        deadline = time.monotonic() + TOLD_WITHIN_S
        while time.monotonic() < deadline:
            if len(told := node.told(answer)) > before:
                return told[-1]
            time.sleep(0.02)
        return None

    def set_clock(self, node: Node, offset_s: int) -> None:
        """Let the node's wall clock be off by this much from now on. Its monotonic clock goes on unharmed."""
        staged = node.clock_file.with_suffix(".new")
        staged.write_text(f"{offset_s:+d}\n")
        staged.replace(node.clock_file)

    def _write_ca(self) -> None:
        certificates = [node.directory / "data" / "api-certificate.pem" for node in self.nodes]
        staged = self.ca.with_suffix(".new")
        staged.write_bytes(b"".join(file.read_bytes() for file in certificates if file.exists()))
        staged.replace(self.ca)

    # ---- looking ------------------------------------------------------------
    def status(self, node: Node) -> schemas.Group | None:
        """Return what a node reports of its group; None if it does not answer."""
        if not node.alive or node.paused:
            return None
        if node.number not in self._observers:  # kept: a new TLS connection for every look costs the nodes
            self._observers[node.number] = self.client(node, deadline_s=2, attempt_s=2)
        try:
            return self._observers[node.number].group()
        except ClientError:
            return None

    def forget_cluster(self) -> None:
        """Look at whichever cluster the nodes are in from now on."""
        for observer in self._observers.values():
            observer.close()
        self._observers.clear()

    def leader(self) -> Node | None:
        """Return the node that leads the highest term that is known."""
        leading = [
            (status.term, node.number)
            for node in self.nodes
            if (status := self.status(node)) is not None and status.role == "leader"
        ]
        return self.nodes[max(leading)[1]] if leading else None

    def whole(self) -> bool:
        """Say whether every node lives, is online, and every voter is a node of now, and none is missing."""
        statuses = [self.status(node) for node in self.nodes]
        known = [status for status in statuses if status is not None and status.online]
        if len(known) < len(self.nodes):
            return False
        incarnations = sorted(status.me.peer_id for status in known)
        return (
            all(sorted(status.voters) == incarnations for status in known)
            and len({(status.leader, status.term, status.cluster_id) for status in known}) == 1
        )

    def until_whole(self, what: str, timeout_s: float = CONVERGE_S) -> None:
        def whole() -> bool:
            time.sleep(LOOK_EVERY_S)
            return self.whole()

        until(whole, what, timeout_s)

    def audit_records(self) -> list[dict[str, Any]]:
        """Return the nodes' audit logs, one after the other."""
        return [
            json.loads(line)
            for node in self.nodes
            for line in lines_of_log(node.directory / "data" / "audit.jsonl")
            if line.endswith(b"}\n")
        ]

    def lives_told(self, kind: str) -> int:
        """Count the events of this kind in all lives of all nodes."""
        needle = f'"event": "{kind}"'
        return sum(
            file.read_text().count(needle)
            for node in self.nodes
            for file in node.directory.glob("events-*.jsonl")
        )


@contextmanager
def chaos_cluster(
    directory: Path, count: int, network: NamespaceNetwork | None, kind: Kind
) -> Iterator[ChaosCluster]:
    """Start ``count`` nodes and wait until all of them vote."""
    first = free_port_block(2 * count) if network is None else 0
    nodes = [
        Node(
            number,
            directory / f"node-{number}",
            f"127.0.0.1:{first + number}" if network is None else f"{address_of(number + 1)}:{API_PORT}",
            f"127.0.0.1:{first + count + number}"
            if network is None
            else f"{address_of(number + 1)}:{BOND_PORT}",
        )
        for number in range(count)
    ]
    cluster = ChaosCluster(directory, nodes, network, kind)
    _prepare(cluster)
    try:
        for node in nodes:
            cluster.start(node)
        for node in nodes:
            cluster.until_listening(node)
        cluster.until_whole("all nodes vote in one group")
        yield cluster
    finally:
        cluster.close()


def can_fake_clocks() -> bool:
    return bool(_FAKETIME)


def _faked_clock(node: Node) -> dict[str, str]:
    if not _FAKETIME:
        return {}
    return {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(node.clock_file),
        "FAKETIME_CACHE_DURATION": "1",
        "NO_FAKE_STAT": "1",
        # Without it, waits for the interpreter's lock, which are on the monotonic clock, last too long.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _prepare(cluster: ChaosCluster) -> None:
    directory = cluster.directory
    authority = MockAuthority.create(datetime.now(UTC))
    authority.save(directory / "authority")
    key = GroupKey.generate()
    (directory / "group.key").write_text(key.secret.hex() + "\n")
    (directory / "group.toml").write_text(
        document_text(
            cluster.kind,
            network=f"chaos-{secrets.token_hex(8)}",
            key=key.public_digest.hex(),
            root=authority.trust_root.certificate_der.hex(),
            count=len(cluster.nodes),
        )
        + render_token_entry("chaos", cluster.token, [AccessRole.ADMIN])
    )
    for node in cluster.nodes:
        (node.directory / "data").mkdir(parents=True)
        seeds = [other.bond for other in cluster.nodes if other is not node]
        text = node_text(cluster.kind, name=node.name, api=node.api, bond=node.bond, seeds=seeds)
        (node.directory / "node.toml").write_text(text)
        cluster.set_clock(node, 0)
