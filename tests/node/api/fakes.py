"""A node without consensus behind the API, and two ways to reach it: ASGI directly, or HTTPS on loopback."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import uvloop

from attestation.background import Background
from attestation.tickets.protocol import Cluster
from enclave.identity import Identity
from node.api.app import create_app
from node.api.evidence import binding_of_nonce
from node.api.freshness import SENT_AFTER, boot_time_s
from node.api.limits import ApiLimits
from node.api.server import ApiServer, ServerTls
from node.api.service import (
    Addresses,
    Evidence,
    GroupView,
    ProvisionRefusedError,
    Readiness,
    SurvivorView,
    UnavailableError,
)
from node.features import Build, Levels, Span
from node.machines.base import ApplyContext, CommandError
from node.machines.kv import KeyValue
from node.machines.system import RequestKind
from node.peers import Incarnation, Preference
from node.raft.budget import Budget, MemoryStatus, MemoryUse
from node.raft.outlook import Outlook, Quorum
from node.raft.quorum import Config
from node.raft.types import (
    Answer,
    Applied,
    Cursor,
    Failed,
    KeyUse,
    Leading,
    MemberStatus,
    NotExecuted,
    Ok,
    Position,
    Role,
)
from node.system.access import AccessState
from node.system.grants import AccessRole, CredentialKind, Grant
from node.tokens import hash_token
from node.watch.driver import Watching

ME = Incarnation("node-a", bytes([1]) * 32)
PEER = Incarnation("node-b", bytes([2]) * 32)
OTHER = Incarnation("node-c", bytes([3]) * 32)
CONFIG = Config(epoch=2, voters=(ME, PEER), tie=ME, reason="promote node-b")
LEADING = Leading(
    established=True,
    transferring=False,
    responsive=(ME, PEER, OTHER),
    in_step=(ME, PEER, OTHER),
    copies_needed=2,
)
LOG_END = Position(3, 9, bytes([9]) * 32)
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKENS = {role: f"bst_{role.value}-token" for role in AccessRole}
ACCESS = tuple(
    Grant(
        name=role.value,
        kind=CredentialKind.TOKEN,
        credential=bytes.fromhex(hash_token(TOKENS[role])),
        roles=(role,),
    )
    for role in AccessRole
)
NOW_MS = 1_700_000_000_000
BOND = SimpleNamespace(
    peer=PEER,
    preference=Preference.NORMAL,
    address="127.0.0.1:7444",
    api_url="https://127.0.0.1:8444",
    since=SINCE,
    expires_at=datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC),
    tickets={"tdx": b"\x00ticket\xff"},
    appraisals={"tdx": {"status": "UpToDate", "mock": True, "advisory_ids": []}},
    mock=True,
    outgoing=False,
    build=Build("bondstone 1.0", Span(1, 2), "bondstone/kv", Span(1, 1)),
)


@dataclass
class FakeService:
    """Executes at once, on a KeyValue and an access list, with idempotency keys; or ends every call as a test wants.

    ``end_with`` is an outcome or an exception; ``gate``, if set, holds calls until it is set. ``current`` is
    whether the group can be asked; ``behind``, if set, is the list as this node has it, until it asks.
    """

    mock: bool = True
    readiness_answer: Readiness = field(default_factory=lambda: Readiness(ready=True))
    end_with: object = None
    gate: asyncio.Event | None = None
    waiting: int = 0  # calls at the gate
    tcb_outlook: object = None
    group_key: bytes | None = b"k" * 32
    executed: list = field(default_factory=list)
    queried: list = field(default_factory=list)
    bonded: list = field(default_factory=lambda: [BOND])
    by_key: dict = field(default_factory=dict)
    machine: KeyValue = field(default_factory=KeyValue)
    index: int = 0
    not_executed: int = 0  # so many attempts are not executed
    halted: str | None = None
    outlook: Outlook = Outlook(Quorum.HELD)
    memory: MemoryUse = MemoryUse(10, 20, 30, 40, 50, 60, 70)
    pressed: tuple = ()
    state: AccessState = field(default_factory=lambda: AccessState(ACCESS))
    behind: AccessState | None = None
    current: bool = True
    leader_known: bool = True
    now: int = NOW_MS
    proofs: int = 0
    noted: list = field(default_factory=list)
    background: Background = field(default_factory=Background)

    cluster: Cluster | None = Cluster(id=bytes([9]) * 32)
    certificate: bytes | None = None
    electable: tuple[Incarnation, ...] = (ME, PEER)
    configs: tuple[Config, ...] = (CONFIG,)
    leading: Leading | None = LEADING
    max_voters: int = 2

    def hold(self, key):
        """Let the store hold a key; None: none."""
        if key is not None:
            self.machine.apply(
                ["put", key, b"held", 0, 0], ApplyContext(3, 1, 0, self.now, bytes(32), version=3)
            )

    @property
    def me(self):
        return ME

    def state_machine(self):
        self.group()
        return self.machine

    def addresses(self):
        return Addresses(bonds=("127.0.0.1:7443",), api_url="https://127.0.0.1:8443")

    def grants(self):
        self.group()
        return (self.behind or self.state).grants

    def client_certificates(self):
        return () if self.group_key is None else self.grants().certificates

    def now_ms(self):
        return self.now

    def leaderless(self):
        return not self.leader_known

    async def prove_access_current(self, *, timeout_s):
        self.group()
        self.proofs += 1
        await asyncio.sleep(0)
        if self.current:
            self.behind = None
        return self.current

    def refusal(self, credential, request, value):
        try:
            self.state.judge(credential, request, value, now_ms=self.now, machine=self.machine)
        except CommandError as exc:
            return Failed(exc.code, exc.message)
        return None

    def usages(self):
        return ()

    async def _wait(self):
        if self.gate is None:
            return
        self.loop = asyncio.get_running_loop()
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1

    def open_gate(self):
        """From another thread."""
        self.loop.call_soon_threadsafe(self.gate.set)

    def readiness(self):
        return self.readiness_answer

    def group(self):
        if self.group_key is None:
            raise UnavailableError("awaiting-group-key", "the node waits for its group key")
        status = MemberStatus(
            me=ME,
            role=Role.LEADER,
            term=3,
            leader=ME,
            cluster_id=bytes([9]) * 32,
            commit=Cursor(3, self.index),
            last=Cursor(3, self.index),
            applied=self.index,
            config_epoch=2,
            voters=(ME, PEER),
            learners=(OTHER,),
            tie=ME,
            online=True,
            halted=self.halted,
            match={PEER: self.index},
            levels=Levels(1, "bondstone/kv", 1),
            electable=self.electable,
        )
        return GroupView(
            network_id=bytes([7]) * 32,
            group_id=bytes([8]) * 32,
            cluster=self.cluster,
            state_machine=self.machine.signature,
            status=status,
            configs=self.configs,
            leading=self.leading,
            min_voters=2,
            max_voters=self.max_voters,
            covered_age_ms=250,
            key_use=KeyUse(3, 99, 1),
            outlook=self.outlook,
            memory=MemoryStatus(self.memory, Budget(1000), self.pressed),
            quota_bytes=300,
        )

    def watching(self):
        return Watching(self.machine, lambda: self.cluster)

    def bonds(self):
        return self.bonded

    async def execute(self, commands, *, credential, key, feed, timeout_s, system=False):
        self.group()
        await self._wait()
        if isinstance(self.end_with, Exception):
            raise self.end_with
        if self.end_with is not None:
            return self.end_with
        if key is not None and key in self.by_key:
            return self.by_key[key]
        if self.not_executed:
            self.not_executed -= 1
            return NotExecuted("not-leader")
        self.index += 1
        self.executed.append((commands, key, feed))
        at = Cursor(3, self.index)
        request = RequestKind.SYSTEM_COMMAND if system else RequestKind.COMMAND
        outcome = Ok((), at) if feed else Ok(self._apply(commands, credential, request), at)
        if key is not None:
            self.by_key[key] = outcome
        return outcome

    def _apply(self, commands, credential, request):
        target = self.machine if request is RequestKind.COMMAND else self.state
        savepoint = target.savepoint()
        results = []
        for sub, command in enumerate(commands):
            try:
                self.state.judge(credential, request, command, now_ms=self.now, machine=self.machine)
                context = ApplyContext(3, self.index, sub, self.now, bytes(32), credential, version=3)
                value = target.apply(command, context)
            except CommandError as exc:
                target.rollback(savepoint)
                aborted = Failed("batch-aborted", f"command {sub} of the batch was refused")
                failures = [aborted] * len(commands)
                failures[sub] = Failed(exc.code, exc.message)
                return tuple(failures)
            results.append(Applied(value))
        return tuple(results)

    async def query(self, query, *, credential, consistency, min_at, max_age_ms, timeout_s, system=False):
        self.group()
        self.queried.append((query, consistency, min_at, max_age_ms))
        if isinstance(self.end_with, Exception):
            raise self.end_with
        if self.end_with is not None:
            return self.end_with
        request = RequestKind.SYSTEM_QUERY if system else RequestKind.QUERY
        value = self.refusal(credential, request, query)
        try:
            value = value or (self.state if system else self.machine).query(query)
        except CommandError as exc:
            value = Failed(exc.code, exc.message)
        return Answer(value, Cursor(3, self.index), age_ms=5)

    async def transfer_leadership(self, target, *, by):
        self.group()
        self.noted.append((by.name, target.name))
        return Ok((), Cursor(4, self.index)) if self.end_with is None else self.end_with

    async def remove_member(self, member, *, by, timeout_s):
        self.group()
        self.noted.append((by.name, member.name))
        return Ok((), Cursor(4, self.index)) if self.end_with is None else self.end_with

    def survivor(self):
        self.group()
        return SurvivorView(authorized=True, needs_approval=False, log_end=LOG_END)

    async def recover(self, position, approval, *, by, timeout_s):
        self.group()
        self.noted.append((by.name, position, approval))
        return Ok((), Cursor(4, self.index)) if self.end_with is None else self.end_with

    async def evidence(self, nonce):
        await self._wait()
        return Evidence(
            peer_id=ME.id,
            network_id=bytes([7]) * 32,
            group_id=None if self.group_key is None else bytes([8]) * 32,
            cluster=self.cluster,
            binding=binding_of_nonce(nonce),
            tickets={"tdx": b"own\xff"},
            birth_certificate=self.certificate,
        )

    def birth_certificate(self):
        self.group()
        return self.certificate

    async def confirm(self, certificate, *, timeout_s):
        self.group()
        if isinstance(self.end_with, Exception):
            raise self.end_with
        if self.end_with is not None:
            return self.end_with
        if certificate == self.certificate:
            return None
        self.certificate = certificate
        return Ok((Applied({"seq": 1}),), Cursor(3, 9))

    def access_changed(self, *, by, change, credential, name, at):
        self.noted.append((by.name, change, name, credential, at))

    def audit_events(self, *, after, limit):
        events = [{"seq": seq, "kind": "admission", "hash": "00"} for seq in range(1, 8)]
        return [event for event in events if event["seq"] > after][:limit]

    def audit_head(self):
        return {"seq": 7, "hash": "00"}

    async def provision(self, group_key):
        if self.group_key is not None:
            raise ProvisionRefusedError("not-awaited", "the node already has its group key")
        self.group_key = group_key
        return bytes([8]) * 32


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


async def asgi(
    app,
    method,
    path,
    *,
    role=None,
    headers=(),
    chunks=(b"",),
    extensions=None,
    sent_after=None,
    client="127.0.0.1",
):
    """Drive the application once; ``chunks`` is the body as it arrives."""
    raw_path, _, query = path.partition("?")
    fields = [(name.lower().encode(), value.encode()) for name, value in headers]
    if role is not None:
        fields.append((b"authorization", b"Bearer " + TOKENS[role].encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "https",
        "server": ("localhost", 443),
        "client": (client, 1),
        "headers": fields,
        "extensions": {} if extensions is None else extensions,
        "state": {SENT_AFTER: boot_time_s() if sent_after is None else sent_after},
    }
    arriving = list(chunks)
    sent = []

    async def receive():
        if not arriving:
            return {"type": "http.disconnect"}
        chunk = arriving.pop(0)
        if chunk is None:  # the client goes away in the middle
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(arriving)}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return None
    return Reply(
        status=sent[0]["status"],
        headers={name.decode(): value.decode() for name, value in sent[0]["headers"]},
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )


def call(service, method, path, *, role=None, json_body=None, body=None, headers=(), **more):
    """One request against a fresh application over ``service``."""
    app = more.pop("app", None) or create_app(service, more.pop("limits", ApiLimits()))
    fields = list(headers)
    if json_body is not None:
        body = json.dumps(json_body).encode()
    if body is not None:
        names = {name.lower() for name, _ in fields}
        if "content-type" not in names:
            fields.append(("content-type", "application/json"))
        if "content-length" not in names:
            fields.append(("content-length", str(len(body))))
    chunks = more.pop("chunks", (body or b"",))
    return asyncio.run(asgi(app, method, path, role=role, headers=fields, chunks=chunks, **more))


IDENTITY = Identity.generate("node-a", datetime.now(UTC), hosts=("localhost", "127.0.0.1"))


def write_ca(directory):
    """Write the certificate that a client of ``served`` trusts; return its file."""
    path = directory / "ca.pem"
    path.write_bytes(IDENTITY.certificate_pem())
    return path


@contextmanager
def served(service, *, limits=None, identity=IDENTITY, port=0, chain=None, door_of=None):
    """Serve over HTTPS in a thread with a loop of its own; yields the port."""
    limits = limits or ApiLimits(shutdown_timeout_s=1)
    started = threading.Event()
    state = {}

    async def main():
        state["loop"] = asyncio.get_running_loop()
        state["stop"] = asyncio.Event()
        tls = ServerTls(
            chain=chain or (lambda: (identity.certificate_der,)),
            private_key_pem=identity.private_key_pem(),
            anchors=service.client_certificates,
        ).context
        app = create_app(service, limits)
        door = None if door_of is None else door_of(app, service, limits)
        server = ApiServer(app, listen=("127.0.0.1", port), tls=tls, limits=limits, door=door)
        try:
            await server.start()
            state["port"] = server.address[1]
        except Exception as exc:
            state["error"] = exc
            return
        finally:
            started.set()
        await state["stop"].wait()
        await server.close()

    thread = threading.Thread(target=uvloop.run, args=(main(),))
    thread.start()
    started.wait()
    try:
        if "error" in state:
            raise state["error"]
        yield state["port"]
    finally:
        if "port" in state:
            state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join()
