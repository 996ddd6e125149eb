"""``bondstone dev``: a local cluster of mock TDs, one process each, on loopback only.

Everything is in one directory: the mock authority, the group document, the group key, a token, and for each
node a node file, a log and a data directory. The cluster does not restart a node that ended: it exists so
that a user can kill a node and start it again by hand, with the command that is printed.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvicorn

from attestation import files
from attestation.background import Background
from attestation.files import FileError
from attestation.policy.rules import REGISTERS
from enclave.mock.authority import TRUST_ROOT_FILE, MockAuthority
from enclave.mock.pccs import PCCSSettings, create_pccs, no_fault
from node.authority import load_private_key, new_private_key_pem, render_authority
from node.errors import ConfigError
from node.group.identity import GroupKey
from node.host import MEMORY_PARTS, machine_memory
from node.process_events import (
    BecameReady,
    ClusterReady,
    DevNodeView,
    FirstBond,
    Listening,
    NodeBonded,
    NodeEvent,
    NodeExited,
    NodeNotReady,
    NodeReadyAgain,
    NodeStarted,
    NoLongerReady,
    ReadyAgain,
    Reporter,
    read_node_event,
)
from node.raft.budget import needed_for
from node.tokens import AccessRole, new_token, render_token_entry

NODES_MAX: Final = 15
QUOTA_BYTES: Final = 64 * 1024 * 1024
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
FILE_BYTES_MAX: Final = 1024 * 1024
CERTIFICATE_POLL_S: Final = 0.3
SEPT_VE_DISABLE: Final = "0000001000000000"


def mock_measurement(label: str) -> str:
    """Return the measurement, in hex, of a mock image's part with this label."""
    return hashlib.sha384(f"bondstone dev image: {label}".encode()).hexdigest()


@dataclass(slots=True)
class DevNode:
    """One node of the cluster."""

    name: str
    directory: Path
    api: str
    bond: str
    process: asyncio.subprocess.Process | None = None
    peer_id: str = ""
    group_id: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def config_file(self) -> Path:
        return self.directory / "node.toml"

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def certificate_file(self) -> Path:
        return self.directory / "data" / "api-certificate.pem"

    @property
    def group_ca_file(self) -> Path:
        return self.directory / "data" / "group-ca.pem"

    @property
    def command(self) -> list[str]:
        return [*bondstone_command(), "node", "run", "--config", str(self.config_file)]

    def view(self) -> DevNodeView:
        assert self.process is not None
        return DevNodeView(
            name=self.name,
            pid=self.process.pid,
            api=f"https://{self.api}",
            bond=self.bond,
            peer_id=self.peer_id,
            data_dir=str(self.directory / "data"),
            command=shlex.join(self.command),
        )


def bondstone_command() -> list[str]:
    """Return the command that calls this installation's command line."""
    script = Path(sys.executable).with_name("bondstone")
    return [str(script)] if script.exists() else [sys.executable, "-m", "node.cli.main"]


class DevCluster:
    """Prepares the directory, starts the nodes, follows them, stops them."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int,
        api_port: int,
        report: Reporter,
        pccs: bool = False,
        authority: bool = False,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigError(f"--nodes {nodes}: a local cluster has 1 to {NODES_MAX} nodes")
        if not 1 <= api_port <= 65535 - nodes:
            raise ConfigError(f"--api-port {api_port} leaves no room for {nodes} ports")
        self.directory = directory.resolve()
        self._report = report
        self._count = nodes
        self._api_port = api_port
        self._pccs = pccs
        self._has_authority = authority
        self._pccs_port = 0
        self._stopping = False
        self._cluster: str | None = None
        self._pccs_server: uvicorn.Server | None = None
        self.nodes: list[DevNode] = []

    @property
    def ca_file(self) -> Path:
        return self.directory / "api-ca.pem"

    @property
    def document_file(self) -> Path:
        return self.directory / "group.toml"

    @property
    def token_file(self) -> Path:
        return self.directory / "token"

    @property
    def authority_key_file(self) -> Path:
        return self.directory / "group-authority.pem"

    # ---- preparing ----------------------------------------------------------
    def prepare(self) -> None:
        """Write everything that the nodes need; keep the secrets of an earlier run in this directory."""
        files.make_directory(self.directory)
        authority_dir = self.directory / "authority"
        if not authority_dir.exists():
            MockAuthority.create(datetime.now(UTC)).save(authority_dir)
        root = files.read_bytes(authority_dir / TRUST_ROOT_FILE, bytes_max=FILE_BYTES_MAX)
        key_file = self.directory / "group.key"
        if not key_file.exists():
            _write_secret(key_file, GroupKey.generate().secret.hex() + "\n")
        if not self.token_file.exists():
            _write_secret(self.token_file, new_token() + "\n")
        network_file = self.directory / "network"
        if not network_file.exists():
            _write(network_file, f"dev-{secrets.token_hex(8)}\n")
        _write(
            self.document_file,
            group_document_text(
                network=_read(network_file),
                key=GroupKey.from_hex(_read(key_file, secret=True)).public_digest.hex(),
                root=root.hex(),
                nodes=self._count,
                token=_read(self.token_file, secret=True),
            )
            + self._authority_text(),
        )
        ports = [self._api_port + i for i in range(self._count)]
        for port in ports:
            _require_free(port)
        *bond_ports, self._pccs_port = _free_ports(self._count + 1)
        seeds = [f"127.0.0.1:{port}" for port in bond_ports]
        budget = max(machine_memory() // MEMORY_PARTS // self._count, needed_for(QUOTA_BYTES))
        for i, (port, seed) in enumerate(zip(ports, seeds, strict=True)):
            node = DevNode(f"node-{i}", self.directory / f"node-{i}", f"127.0.0.1:{port}", seed)
            files.make_directory(node.directory / "data")
            files.remove(node.certificate_file)
            files.remove(node.group_ca_file)
            text = _node_text(node, seeds, budget)
            if self._pccs:
                text += f'\n[attestation.collateral]\nsource = "http://127.0.0.1:{self._pccs_port}"\n'
            _write(node.config_file, text)
            self.nodes.append(node)
        self._write_client_settings()

    def _write_client_settings(self) -> None:
        """Write the settings for other commands, and the cluster once it is founded, anew at each start."""
        settings = {
            "urls": [f"https://{node.api}" for node in self.nodes],
            "token_file": str(self.token_file),
            "ca": str(self.ca_file),
            "cluster": self._cluster,
        }
        _write(self.directory / "client.json", json.dumps(settings, indent=2) + "\n")

    def _authority_text(self) -> str:
        if not self._has_authority:
            return ""
        if not self.authority_key_file.exists():
            _, pem = new_private_key_pem()
            _write_secret(self.authority_key_file, pem.decode())
        key = load_private_key(
            files.read_bytes(self.authority_key_file, bytes_max=FILE_BYTES_MAX, secret=True)
        )
        return "\n" + render_authority("dev", key)

    # ---- running ------------------------------------------------------------
    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all nodes and wait until the group is ready; stop the nodes on leaving.

        Raises:
            ConfigError: a node ended during start-up; the message shows the end of its log.
        """
        with _Locked(self.directory / "lock"):
            self.prepare()
            background = Background()
            async with asyncio.TaskGroup() as tasks:
                try:
                    if self._pccs:
                        tasks.create_task(self._serve_collateral())
                    for node in self.nodes:
                        await self._start(node, tasks)
                    background.keep("certificates", self._keep_certificates)
                    await self._until_ready()
                    yield
                finally:
                    await background.close()
                    await self._stop()

    async def _start(self, node: DevNode, tasks: asyncio.TaskGroup) -> None:
        log = files.open_own(node.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=0o644)
        try:
            node.process = await asyncio.create_subprocess_exec(
                *node.command,
                "--json",
                "--stop-with-stdin",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._report(NodeStarted(node.name, node.process.pid))
        tasks.create_task(self._follow(node, node.process))

    async def _follow(self, node: DevNode, process: asyncio.subprocess.Process) -> None:
        """Read the node's events until it ends."""
        assert process.stdout is not None
        async for line in process.stdout:
            self._on_event(node, read_node_event(line))
        code = await process.wait()
        self._report(
            NodeExited(
                name=node.name,
                pid=process.pid,
                code=code,
                expected=self._stopping,
                log=str(node.log_file),
                restart=shlex.join(node.command),
            )
        )

    def _on_event(self, node: DevNode, event: NodeEvent | None) -> None:
        match event:
            case Listening():
                node.peer_id, node.group_id = event.peer_id, event.group_id or ""
                self._write_ca()
            case FirstBond():
                self._report(NodeBonded(node.name))
            case BecameReady():
                self._cluster = event.cluster
                node.ready.set()
            case NoLongerReady():
                self._report(NodeNotReady(event.reason, event.message, node.name))
            case ReadyAgain():
                self._report(NodeReadyAgain(node.name))
            case _:
                pass

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        for node in self.nodes:
            while not node.ready.is_set():
                assert node.process is not None
                if node.process.returncode is not None:
                    raise ConfigError(
                        f"{node.name} ended during start-up:\n{_tail(node.directory / 'node.log')}"
                    )
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"{node.name} is not ready after {START_TIMEOUT_S:.0f} s; see {node.log_file}"
                    )
                try:
                    await asyncio.wait_for(node.ready.wait(), 0.1)
                except TimeoutError:
                    continue
        self._write_ca()
        self._write_client_settings()
        self._report(
            ClusterReady(
                group_id=self.nodes[0].group_id,
                nodes=tuple(node.view() for node in self.nodes),
                token=_read(self.token_file, secret=True),
                ca=str(self.ca_file),
            )
        )

    async def _keep_certificates(self) -> None:
        """Follow the certificates: of the group's authority, and of nodes that do not have its own yet."""
        while True:
            await asyncio.sleep(CERTIFICATE_POLL_S)
            self._write_ca()

    def _write_ca(self) -> None:
        files_of_nodes = [node.group_ca_file for node in self.nodes] + [
            node.certificate_file for node in self.nodes
        ]
        bundle = "".join(dict.fromkeys(map(_read_if_there, files_of_nodes)))
        if _read_if_there(self.ca_file) != bundle:
            _write(self.ca_file, bundle)

    async def _serve_collateral(self) -> None:
        """Serve the mock authority's collateral as a PCCS would, so that the nodes fetch it over HTTP."""
        authority = MockAuthority.load(self.directory / "authority")
        app = create_pccs(
            PCCSSettings(
                endorsements=lambda: authority.endorsements(datetime.now(UTC)),
                evaluation_numbers=lambda: authority.evaluation_numbers(datetime.now(UTC)),
                fault=no_fault,
            )
        )
        server = _QuietServer(
            uvicorn.Config(app, host="127.0.0.1", port=self._pccs_port, log_config=None, lifespan="off")
        )
        self._pccs_server = server
        await server.serve()

    async def _stop(self) -> None:
        running = [n.process for n in self.nodes if n.process is not None and n.process.returncode is None]
        self._stopping = True
        if self._pccs_server is not None:
            self._pccs_server.should_exit = True
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def group_document_text(*, network: str, key: str, root: str, nodes: int, token: str) -> str:
    """Return the group document of a local cluster: mock TDs of one mock image.

    A node with other measurements, under another authority, or with another document cannot join.
    """
    pinned = ("mrtd", "rtmr1", "rtmr2")
    waived = [name for name in REGISTERS if name not in (*pinned, "mrconfigid")]
    values = "\n".join(f'{name} = ["{mock_measurement(name)}"]' for name in pinned)
    return f"""\
# Equal on all nodes: what decides who is in the group, and how it works.
schema = 1

[network]
name = "{network}"

[group]
key = "{key}"
state_machine = "kv"
bootstrap = "expect {nodes}"

[consensus]
min_voters = {min(2, nodes)}

[store]
# All nodes run on one machine, and three snapshots' worth of memory goes with it.
quota_bytes = {QUOTA_BYTES}

[ca]
# For these names the group certifies its members' APIs: group-ca.pem is all that a client needs to trust.
names = ["localhost", "127.0.0.0/8", "::1"]

[trust]
root = "{root}"

[policy.tcb]
accepted_statuses = ["UpToDate"]

[policy.ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600

[policy.reference_values]
not_checked = {json.dumps(waived)}

[policy.reference_values.baseline]
{values}
mrconfigid = "own"

{render_token_entry("dev", token, [AccessRole.ADMIN])}"""


def _node_text(node: DevNode, seeds: list[str], budget: int) -> str:
    return f"""\
[node]
name = "{node.name}"
data_dir = "data"

[group]
document = "../group.toml"
key_file = "../group.key"

[api]
listen = "{node.api}"

[bond]
listen = "{node.bond}"
seeds = {json.dumps([seed for seed in seeds if seed != node.bond])}

[memory]
# The nodes share the machine.
budget_bytes = {budget}

[attestation]
mode = "mock"

[attestation.mock]
authority = "../authority"
mrtd = "{mock_measurement("mrtd")}"
rtmr1 = "{mock_measurement("rtmr1")}"
rtmr2 = "{mock_measurement("rtmr2")}"
attributes = "{SEPT_VE_DISABLE}"
"""


def _write_secret(path: Path, text: str) -> None:
    files.create(path, text.encode())


def _write(path: Path, text: str) -> None:
    files.replace(path, text.encode())


def _read(path: Path, *, secret: bool = False) -> str:
    return files.read_text(path, bytes_max=FILE_BYTES_MAX, secret=secret).strip()


def _read_if_there(path: Path) -> str:
    try:
        return files.read_text(path, bytes_max=FILE_BYTES_MAX)
    except FileError as exc:
        if exc.absent:
            return ""
        raise


class _QuietServer(uvicorn.Server):
    """uvicorn's server, which leaves signals to the program that it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Locked:
    """Hold a lock file: one cluster a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        files.make_directory(self._path.parent)
        self._file = files.open_own(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise ConfigError(
                f"another cluster runs in {self._path.parent}; stop it, or choose another --dir"
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise ConfigError(f"port {port} is in use; choose another with --api-port") from exc


def _free_ports(count: int) -> list[int]:
    """Return ports on which no program listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _tail(path: Path, lines: int = 15) -> str:
    with files.open_to_read(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - FILE_BYTES_MAX))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
