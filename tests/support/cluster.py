"""A local cluster of real processes, driven through the public command line as a user would."""

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from node.client import BondstoneClient
from node.client.channel import client_tls_context

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "node.cli.main"]
WAIT_S = 45.0


def cli(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``bondstone ARGUMENTS`` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Return the first true value of ``condition``; fail, naming ``what``, if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.05)


def free_port_block(count: int) -> int:
    """Return the first of ``count`` neighbouring ports that nothing listens on."""
    for _ in range(100):
        first = random.SystemRandom().randrange(20_000, 30_000)
        sockets = []
        try:
            for port in range(first, first + count):
                one = socket.socket()
                sockets.append(one)
                one.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")


class Process:
    """A ``bondstone`` process that prints JSON events."""

    def __init__(self, *arguments: str | Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                start_new_session=True,
            )
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def event(self, kind: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """Return the next event of this kind."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                event = self._queue.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"no event {kind!r} within {timeout_s:.0f} s: {self.tail()}") from None
            if event is None:
                raise AssertionError(f"ended before any event {kind!r}: {self.tail()}")
            self.events.append(event)
            if event["event"] == kind:
                return event

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(timeout=30)
        self._reader.join(timeout=5)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return code


class LocalCluster:
    """``bondstone dev`` in a directory, ready."""

    def __init__(self, directory: Path, nodes: int, arguments: Sequence[str]) -> None:
        self.directory = directory
        self.count = nodes
        self.api_port = free_port_block(nodes + 2)
        directory.mkdir(parents=True, exist_ok=True)
        self.process = Process(
            "dev", "--json", "--dir", directory, "--nodes", str(nodes), "--api-port", str(self.api_port), *arguments,
            log=directory / "dev.log",
        )  # fmt: skip
        self.extra: list[Process] = []
        self.ready = self.process.event("ready")

    @property
    def nodes(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.ready["nodes"]
        return nodes

    def node_config(self, i: int) -> Path:
        return self.directory / f"node-{i}" / "node.toml"

    def run_node(self, config: Path) -> Process:
        """Start a node by hand."""
        process = Process("node", "run", "--config", config, "--json", log=config.parent / "by-hand.log")
        self.extra.append(process)
        return process

    def kill(self, i: int) -> None:
        """``kill -9`` a node that ``bondstone dev`` started."""
        os.kill(self.nodes[i]["pid"], signal.SIGKILL)
        self.process.event("node-exited")

    def client(self, *nodes: int, deadline_s: float = 20.0) -> BondstoneClient:
        urls = [self.nodes[i]["api"] for i in (nodes or range(self.count))]
        return BondstoneClient(
            urls, token=self.ready["token"], ca=Path(self.ready["ca"]), deadline_s=deadline_s
        )

    def http(self, i: int, *, token: str | None = "") -> httpx.Client:
        """Return a bare HTTP client for node ``i``; ``token`` is the cluster's by default."""
        token = self.ready["token"] if token == "" else token
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        tls = client_tls_context(Path(self.ready["ca"]).read_bytes())
        return httpx.Client(
            base_url=self.nodes[i]["api"], headers=headers, verify=tls, timeout=15, trust_env=False
        )

    def cluster_id(self) -> str:
        with self.http(0) as http:
            return str(http.get("/v1/group").json()["cluster_id"])

    def leader(self, *asked: int) -> int:
        """Return the number of the node that leads, as the asked nodes agree."""

        def agreed() -> int | None:
            seen = set()
            for i in asked or range(self.count):
                with self.http(i) as http:
                    seen.add(http.get("/v1/group").json()["leader"])
            if len(seen) != 1 or None in seen:
                return None
            (leader,) = seen
            return next((i + 1 for i, node in enumerate(self.nodes) if node["peer_id"] == leader), None)

        number: int = until(agreed, "all nodes agree on a leader")
        return number - 1

    def audit(self, i: int) -> list[dict[str, Any]]:
        with self.client(i) as client:
            return [dict(event) for event in client.audit_events(limit=1000)]

    def stop(self) -> int:
        for process in self.extra:
            process.stop()
        return self.process.stop(signal.SIGINT)


@contextmanager
def local_cluster(directory: Path, nodes: int = 3, arguments: Sequence[str] = ()) -> Iterator[LocalCluster]:
    cluster = LocalCluster(directory, nodes, arguments)
    try:
        yield cluster
    finally:
        cluster.stop()
