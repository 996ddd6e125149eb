"""What tests of the client have in common."""

import httpx
import pytest

from tests.node.api.fakes import write_ca
from tests.node.client.scripted import Clock, Script, connected


@pytest.fixture
def ca(tmp_path):
    return write_ca(tmp_path)


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
