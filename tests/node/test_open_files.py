"""A node may open as many files as its limits speak of, or it does not start."""

import resource

import msgspec
import pytest

from node.config import NodeConfig
from node.errors import ConfigError
from node.host import OTHER_FILES, allow_open_files
from tests.support import documents

NEEDED = 100 + 2 * 10 + OTHER_FILES
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def config() -> NodeConfig:
    whole = documents.node_config()
    api = msgspec.structs.replace(whole.api, connections_max=100, handshakes_max=10)
    return msgspec.structs.replace(whole, api=api)


@pytest.fixture
def limited(monkeypatch):
    """A process under given limits, of which a user without privileges can only raise the first."""

    def under(soft, hard, *, privileged=False):
        now = [(soft, hard)]

        def setrlimit(_, limits):
            if limits[1] != hard and not privileged:
                raise ValueError("not allowed to raise maximum limit")
            now[0] = limits

        monkeypatch.setattr(resource, "getrlimit", lambda _: now[0])
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        return now

    return under


@pytest.mark.parametrize("limits", [(NEEDED, NEEDED), (UNLIMITED, UNLIMITED), (NEEDED + 1, UNLIMITED)])
def test_a_limit_that_is_high_enough_is_left_alone(config, limited, limits):
    now = limited(*limits)
    allow_open_files(config)

    assert now == [limits]


@pytest.mark.parametrize("hard", [NEEDED, UNLIMITED])
def test_a_limit_that_is_too_low_is_raised(config, limited, hard):
    now = limited(NEEDED - 1, hard)
    allow_open_files(config)

    assert now == [(NEEDED, hard)]


def test_root_raises_the_hard_limit_too(config, limited):
    now = limited(64, NEEDED - 1, privileged=True)
    allow_open_files(config)

    assert now == [(NEEDED, NEEDED)]


def test_a_node_that_could_run_out_of_files_does_not_start(config, limited):
    limited(64, NEEDED - 1)

    with pytest.raises(
        ConfigError, match=rf"connections_max = 100 needs {NEEDED} open.* {NEEDED - 1}: raise"
    ):
        allow_open_files(config)
