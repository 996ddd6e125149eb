"""What tests of the client have in common."""

import httpx
import pytest

from node.client import AsyncClient, Client
from tests.node.api.fakes import write_ca
from tests.node.client.scripted import TOKEN, Blocking, Clock, Script, urls_of


@pytest.fixture
def ca(tmp_path):
    return write_ca(tmp_path)


@pytest.fixture(params=["Client", "AsyncClient"])
def scripted(request, ca, monkeypatch):
    """Makes clients of either kind: what one promises, the other does."""
    made = []

    def make(*endings, nodes=2, deadline_s=5, **more):
        script, clock = Script(*endings), Clock()
        for name in ("Client", "AsyncClient"):
            monkeypatch.setattr(httpx, name, mocked(getattr(httpx, name), script))
        urls = urls_of(range(1, nodes + 1))
        options = {"token": TOKEN, "ca": ca, "clock": clock, "deadline_s": deadline_s, **more}
        if request.param == "Client":
            client = Client(urls, sleep=clock.sleep, **options)
        else:
            client = Blocking(lambda: AsyncClient(urls, sleep=clock.sleep_async, **options))
        made.append(client)
        return client, script, clock

    yield make
    for client in made:
        client.close()


def mocked(real, script):
    return lambda **given: real(transport=httpx.MockTransport(script), timeout=given.get("timeout"))
