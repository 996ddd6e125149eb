"""What only the client for an event loop does: many calls at a time, over the real server."""

import asyncio
import inspect
import socket
import time
from datetime import UTC, datetime

import pytest

from enclave.identity import Identity
from node.client import AsyncClient, Client, ClusterNotConfirmedError, UnreachableError
from node.client.confirmed import ConfirmedBy
from tests.node.api.fakes import IDENTITY, FakeService, served
from tests.node.client.scripted import TOKEN, urls_of
from tests.node.client.test_cluster_field import AUTHORITY, GROUP, OURS, certificate


def client_of(ca, *ports, **more):
    return AsyncClient(urls_of(ports), token=TOKEN, ca=ca, **more)


def test_it_offers_the_calls_of_the_other_client_with_the_same_arguments():
    def calls(of):
        found = {name: one for name, one in vars(of).items() if name[0] != "_" and inspect.isfunction(one)}
        return {name: list(inspect.signature(one).parameters) for name, one in found.items()}

    ours, theirs = calls(AsyncClient), calls(Client)
    assert ours.pop("aclose") == theirs.pop("close") == ["self"]
    assert ours == theirs


def test_many_calls_at_a_time_share_the_connections(ca):
    async def main(port):
        async with client_of(ca, port, connections_max=4) as client:
            revisions = await asyncio.gather(*(client.put(f"k{n}", str(n)) for n in range(50)))
            values = await asyncio.gather(*(client.get(f"k{n}") for n in range(50)))
            listed = [item.key async for item in client.list("k")]
        return revisions, [item.value for item in values], listed

    with served(FakeService()) as port:
        revisions, values, listed = asyncio.run(main(port))

    assert sorted(revisions) == list(range(2, 52))
    assert values == [str(n).encode() for n in range(50)]
    assert listed == sorted(f"k{n}".encode() for n in range(50))


def test_calls_in_flight_survive_that_another_call_reads_the_certificates_again(ca):
    reborn = Identity.generate("node-b", datetime.now(UTC), hosts=("localhost",))

    async def main(old, new):
        async with client_of(ca, old) as client:
            await client.group()
            channel = client._channel
            slow = asyncio.create_task(held.call(client))
            await held.begun.wait()
            ca.write_bytes(IDENTITY.certificate_pem() + reborn.certificate_pem())
            client._exchange.urls.insert(0, f"https://localhost:{new}")
            assert await client.put("b", "1")
            assert client._channel is not channel
            assert not channel.http.is_closed
            held.release.set()
            await slow
            assert channel.http.is_closed

    held = Held()
    with served(FakeService()) as old, served(FakeService(), identity=reborn) as new:
        asyncio.run(main(old, new))


class Held:
    """A call whose answer is read only after ``release``."""

    def __init__(self):
        self.begun, self.release = asyncio.Event(), asyncio.Event()

    async def call(self, client):
        channel = client._channel
        real = channel.answer

        async def answer(send, limits):
            del channel.answer  # for this call only
            self.begun.set()
            await self.release.wait()
            return await real(send, limits)

        channel.answer = answer
        return await client.put("a", "1")


def test_a_node_that_never_answers_ends_a_call_at_its_deadline(ca):
    async def main(port):
        async with client_of(ca, port, deadline_s=0.3) as client:
            with pytest.raises(UnreachableError):
                await client.group()

    with socket.create_server(("localhost", 0)) as listener:  # takes connections, and stays mute
        began = time.monotonic()
        asyncio.run(main(listener.getsockname()[1]))
        assert time.monotonic() - began >= 0.1  # it did wait


def test_a_cancelled_call_leaves_the_client_usable(ca):
    async def main(port):
        async with client_of(ca, port) as client:
            await client.group()
            held = Held()
            call = asyncio.create_task(held.call(client))
            await held.begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert client._channel.users == 0
            return await client.put("a", "1")

    with served(FakeService()) as port:
        assert asyncio.run(main(port)) == 2


def test_no_call_passes_before_the_authoritys_signature_however_many_come_at_once(ca):
    required = ConfirmedBy(authority=AUTHORITY, group_id=GROUP)
    service = FakeService(cluster=OURS, certificate=None)

    async def main(port):
        async with client_of(ca, port, confirmed_by=required) as client:
            calls = [client.put("a", str(n)) for n in range(8)]
            failures = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(one) for one in failures} == {ClusterNotConfirmedError}
            assert service.executed == []
            service.certificate = certificate(OURS)
            await asyncio.gather(*(client.put("a", str(n)) for n in range(8)))
            assert len(service.executed) == 8

    with served(service) as port:
        asyncio.run(main(port))


def test_an_attempt_that_ends_while_it_waits_for_a_connection_has_sent_nothing(ca):
    async def main(port):
        async with client_of(ca, port, connections_max=1, deadline_s=0.5) as client:
            await client.group()
            taken = client._channel.http.stream("GET", f"https://localhost:{port}/healthz")
            async with taken:
                with pytest.raises(UnreachableError):  # a write, and its outcome is not in doubt
                    await client.put("a", "1")

    with served(FakeService()) as port:
        asyncio.run(main(port))
