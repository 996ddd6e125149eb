"""The client with nodes that answer by a script, and with a clock of its own."""

import httpx
import msgspec

from node.api import schemas
from node.api.problems import ProblemError
from node.client import BondstoneClient
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

    def __call__(self):
        self.now += 0.001
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def problem(code, **extensions):
    return ProblemError(code, "detail", extensions=extensions)


def connected(ca, *ports, **more):
    urls = [f"https://localhost:{port}" for port in ports]
    return BondstoneClient(urls, token=more.pop("token", TOKEN), ca=ca, **more)
