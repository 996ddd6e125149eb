"""What tests of the API have in common."""

import asyncio

import pytest

from tests.node.api import fakes


@pytest.fixture
def ca(tmp_path):
    return fakes.write_ca(tmp_path)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request, monkeypatch):
    if request.param == "asyncio":
        monkeypatch.setattr(fakes.uvloop, "run", asyncio.run)
