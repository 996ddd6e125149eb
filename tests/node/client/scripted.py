"""The client with nodes that answer by a script, and with a clock of its own."""

import asyncio

import httpx
import msgspec

from node.api import schemas
from node.api.problems import ProblemError
from node.client import Client
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS

TOKEN = TOKENS[AccessRole.ADMIN]
OK = schemas.CommandResult(term=1, index=1, result=None)


class Script:
    """Answers with each ending in turn, and then the last one again and again; keeps what was asked."""

    def __init__(self, *endings):
        self.endings = list(endings)
        self.asked = []

    def __call__(self, request):
        self.asked.append(request)
        ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
        if callable(ending):
            return ending(request)
        if isinstance(ending, ProblemError):
            return httpx.Response(ending.status, content=ending.body())
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, httpx.Response):
            return ending
        if isinstance(ending, bytes):
            return httpx.Response(200, content=ending)
        return httpx.Response(200, content=msgspec.json.encode(ending))


class Clock:
    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def __call__(self):
        self.now += 0.001
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)


def problem(code, **extensions):
    return ProblemError(code, "detail", extensions=extensions)


def urls_of(ports):
    return [f"https://localhost:{port}" for port in ports]


def connected(ca, *ports, **more):
    return Client(urls_of(ports), token=more.pop("token", TOKEN), ca=ca, **more)


class Blocking:
    """An ``AsyncClient`` with the interface of ``Client``: each call runs its loop until the answer."""

    def __init__(self, make):
        self._runner = asyncio.Runner()
        self._client = self._runner.run(awaited(make))

    @property
    def cluster(self):
        return self._client.cluster

    def close(self):
        self._runner.run(self._client.aclose())
        self._runner.close()

    def list(self, *given, **more):
        async def whole():
            return [item async for item in self._client.list(*given, **more)]

        return self._runner.run(whole())

    @property
    def _exchange(self):
        return self._client._exchange

    def __getattr__(self, name):
        def call(*given, **more):
            return self._runner.run(getattr(self._client, name)(*given, **more))

        return call


async def awaited(make):
    return make()
