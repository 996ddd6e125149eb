"""What tests of the API and of the client have in common."""

import asyncio

import httpx
import pytest

from tests.node.api import fakes
from tests.node.api.fakes import IDENTITY
from tests.node.api.scripted import Clock, Script, connected


@pytest.fixture
def ca(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_bytes(IDENTITY.certificate_pem())
    return file


@pytest.fixture
def scripted(ca, monkeypatch):
    def make(*endings, nodes=2, deadline_s=5, **more):
        script, clock = Script(*endings), Clock()
        real = httpx.Client
        monkeypatch.setattr(
            httpx,
            "Client",
            lambda **given: real(transport=httpx.MockTransport(script), timeout=given["timeout"]),
        )
        ports = range(1, nodes + 1)
        client = connected(ca, *ports, sleep=clock.sleep, clock=clock, deadline_s=deadline_s, **more)
        return client, script, clock

    return make


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request, monkeypatch):
    if request.param == "asyncio":
        monkeypatch.setattr(fakes.uvloop, "run", asyncio.run)
