"""What is executed once because its key is remembered is never executed after that memory has ended."""

import asyncio
import json
import math
import time
from dataclasses import dataclass, field

import msgspec
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from node.api import commands
from node.api.app import create_app
from node.api.limits import AGE_OF_TTL, REPEATED_OF_TTL, ApiLimits
from node.api.protocol import ApiProtocol
from node.places import Places, Room
from node.serving import api_server_of
from node.tokens import AccessRole
from tests.node.api.fakes import IDENTITY, TOKENS, FakeService, served
from tests.support import documents
from tests.support.held import HeldRequest

LIMITS = ApiLimits()
TTL_S = LIMITS.session_ttl_s
AGE_S = LIMITS.keyed_age_s_max
COMMAND = json.dumps({"command": {"op": "put", "key": "a", "value": "1"}}).encode()


def post(key=None, body=COMMAND):
    fields = [
        b"host: localhost",
        b"content-type: application/json",
        b"authorization: Bearer " + TOKENS[AccessRole.WRITE].encode(),
        b"content-length: %d" % len(body),
    ]
    if key is not None:
        fields.append(b"idempotency-key: " + key)
    return b"POST /v1/commands HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + body


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@dataclass
class Group(FakeService):
    """Forgets a key as early as a group may: a tenth before its TTL is over."""

    clock: Clock = field(default_factory=Clock)
    timeouts: list = field(default_factory=list)
    remembered_at: dict = field(default_factory=dict)

    async def execute(self, commands, *, key, timeout_s, **more):
        self.timeouts.append(timeout_s)
        if (
            key is not None
            and self.remembered_at.setdefault(key, self.clock.now) + 0.9 * TTL_S < self.clock.now
        ):
            self.by_key.pop(key, None)
        return await super().execute(commands, key=key, timeout_s=timeout_s, **more)


class Wire(asyncio.Transport):
    """The server's end of a connection whose other end is the test."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        """All is delivered by hand."""

    resume_reading = pause_reading


class Connection:
    """To one node; what is sent arrives when the test, as the network, delivers it."""

    def __init__(self, group):
        self.wire = Wire()
        self._app = create_app(group, LIMITS, age_clock=group.clock)
        self._protocol = ApiProtocol(
            Config(self._app, log_config=None),
            ServerState(),
            {},
            limits=LIMITS,
            places=Places("connections", LIMITS.connections_max),
            room=Room("bodies", LIMITS.bodies_bytes_max),
            loop=asyncio.get_running_loop(),
            made_at=group.clock(),
            clock=group.clock,
        )
        self._protocol.connection_made(self.wire)

    async def arrives(self, data):
        """Deliver, let the node work, and return its answers as (status, body)."""
        self.wire.written = b""
        self._protocol.data_received(data)
        return await self.answers()

    async def answers(self):
        for _ in range(20):
            await asyncio.sleep(0)
        parts, rest = [], self.wire.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            size = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            parts.append((int(head.split()[1]), json.loads(rest[:size])))
            rest = rest[size:]
        return parts

    def end(self):
        self._protocol.connection_lost(None)


def play(scene):
    """Run a scene with a group and a way to connect to any of its nodes."""

    async def run():
        group, open_ones = Group(), []

        def connect():
            open_ones.append(Connection(group))
            return open_ones[-1]

        await scene(group, connect)
        for one in open_ones:
            one.end()

    asyncio.run(run())


async def replay_after_the_key_is_forgotten(group, connect):
    """A client sends, repeats at another node as late as it may, and then the network delivers the first copy."""
    held = connect()
    group.clock.now += REPEATED_OF_TTL * TTL_S
    ((status, _),) = await connect().arrives(post(b"once"))
    assert status == 200
    group.clock.now += TTL_S
    return await held.arrives(post(b"once"))


def test_a_copy_that_the_network_held_back_is_not_executed_once_its_key_is_forgotten():
    async def scene(group, connect):
        ((status, problem),) = await replay_after_the_key_is_forgotten(group, connect)

        assert (status, problem["code"], problem["reason"]) == (503, "not-executed", "stale")
        assert len(group.executed) == 1

    play(scene)


def test_it_would_be_without_the_look_at_its_age(monkeypatch):
    monkeypatch.setattr(commands, "time_left_s", lambda *_: math.inf)

    async def scene(group, connect):
        ((status, _),) = await replay_after_the_key_is_forgotten(group, connect)

        assert status == 200
        assert len(group.executed) == 2

    play(scene)


def test_whatever_is_executed_is_executed_while_the_first_copy_is_remembered():
    """The first copy at once, the last as late as a client may, held back as long as a network can."""

    async def scene(group, connect):
        await connect().arrives(post(b"once"))
        group.clock.now += REPEATED_OF_TTL * TTL_S
        last = connect()
        group.clock.now += AGE_S - 0.01
        ((status, _),) = await last.arrives(post(b"once"))

        assert status == 200
        assert len(group.executed) == 1

    play(scene)


def test_the_parts_leave_some_of_the_memory_for_the_way_into_the_log():
    assert REPEATED_OF_TTL + AGE_OF_TTL <= 0.9 - 0.1


@pytest.mark.parametrize(("age_s", "status"), [(AGE_S - 0.01, 200), (AGE_S, 503)])
def test_the_first_request_is_as_old_as_its_connection(age_s, status):
    async def scene(group, connect):
        connection = connect()
        group.clock.now += age_s

        assert [answer[0] for answer in await connection.arrives(post(b"k"))] == [status]

    play(scene)


@pytest.mark.parametrize(("age_s", "status"), [(AGE_S - 0.01, 200), (AGE_S, 503)])
def test_a_later_request_is_as_old_as_the_answer_before_it(age_s, status):
    async def scene(group, connect):
        connection = connect()
        group.clock.now += AGE_S / 2
        await connection.arrives(post(b"before"))
        group.clock.now += age_s

        assert [answer[0] for answer in await connection.arrives(post(b"k"))] == [status]

    play(scene)


def test_a_refusal_is_an_answer_so_the_same_connection_can_be_used_again():
    async def scene(group, connect):
        connection = connect()
        group.clock.now += AGE_S
        refused = await connection.arrives(post(b"k"))
        repeated = await connection.arrives(post(b"k"))

        assert [answers[0][0] for answers in (refused, repeated)] == [503, 200]
        assert len(group.executed) == 1

    play(scene)


def test_a_request_whose_last_bytes_are_delayed_ages_meanwhile():
    async def scene(group, connect):
        connection = connect()
        begun = await connection.arrives(post(b"k")[:-1])
        group.clock.now += AGE_S
        ((status, problem),) = await connection.arrives(COMMAND[-1:])

        assert begun == []
        assert (status, problem["reason"]) == (503, "stale")

    play(scene)


def test_a_request_that_did_not_wait_for_the_answer_before_it_is_as_old_as_that_ones_request():
    async def scene(group, connect):
        connection = connect()
        group.gate = asyncio.Event()
        assert await connection.arrives(post() + post(b"k")) == []
        group.clock.now += AGE_S
        group.gate.set()
        first, second = await connection.answers()

        assert first[0] == 200
        assert (second[0], second[1]["reason"]) == (503, "stale")

    play(scene)


def test_a_command_without_a_key_has_no_age():
    async def scene(group, connect):
        connection = connect()
        group.clock.now += 100 * TTL_S

        assert [answer[0] for answer in await connection.arrives(post())] == [200]
        assert group.timeouts == [LIMITS.command_timeout_s]

    play(scene)


@pytest.mark.parametrize(("age_s", "timeout_s"), [(0.0, LIMITS.command_timeout_s), (AGE_S - 1, 1.0)])
def test_it_may_wait_in_the_node_until_it_is_too_old_and_no_longer(age_s, timeout_s):
    async def scene(group, connect):
        connection = connect()
        group.clock.now += age_s
        await connection.arrives(post(b"k"))

        assert group.timeouts == [pytest.approx(timeout_s)]

    play(scene)


@pytest.mark.parametrize("ttl_s", [1.0, 3.0, 60.0, 3600.0])
def test_a_connection_is_closed_before_what_comes_next_on_it_could_be_too_old(ttl_s):
    limits = ApiLimits(session_ttl_s=ttl_s)

    assert limits.idle_s_max < limits.keyed_age_s_max < ttl_s * 0.9


# ---- over TLS --------------------------------------------------------------------------
def send_behind_the_handshake(port, *, held_s):
    """The network holds back the client's last handshake message, and with it the first request."""
    with HeldRequest(("127.0.0.1", port), post(b"k")) as held:
        time.sleep(held_s)  # what is waited for is that time goes by
        return int(held.deliver().split()[1])


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize(("ttl_s", "status"), [(1.2, 503), (60.0, 200)])
def test_a_handshake_whose_last_bytes_are_delayed_does_not_make_the_first_request_younger(ttl_s, status):
    limits = ApiLimits(session_ttl_s=ttl_s, shutdown_timeout_s=1)
    with served(FakeService(), limits=limits) as port:
        assert send_behind_the_handshake(port, held_s=0.3) == status


DOCUMENT = """
[consensus]
election_timeout_ms = 500
session_ttl_ms = {}
"""


@pytest.mark.parametrize(("ttl_ms", "status"), [(1200, 503), (60_000, 200)])
def test_the_daemon_goes_by_how_long_the_group_remembers(ttl_ms, status):
    document = documents.document(documents.MINIMAL + DOCUMENT.format(ttl_ms))
    config = documents.node_config()
    api = msgspec.structs.replace(config.api, listen="127.0.0.1:0")
    config = msgspec.structs.replace(config, api=api)

    async def ask():
        server = api_server_of(
            document, config, IDENTITY, FakeService(), chain=lambda: (IDENTITY.certificate_der,)
        )
        await server.start()
        _, port = server.address
        try:
            return await asyncio.to_thread(send_behind_the_handshake, port, held_s=0.3)
        finally:
            await server.close()

    assert asyncio.run(ask()) == status
