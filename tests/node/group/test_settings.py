"""Settings that do not go together are refused where a group is joined, too."""

from typing import Any

import pytest
import uvloop

from node.errors import ConfigError
from node.peers import Preference
from node.raft.types import Bootstrap, Founding, Settings
from tests.support.groups import INIT, Site, counter


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_voters": 8}, "min_voters"),
        ({"heartbeat_ms": 501}, "election_timeout_ms"),
        ({"demote_after_ms": 999}, "demote_after_ms"),
        ({"session_ttl_ms": 1999}, "session_ttl_ms"),
    ],
)
def test_a_group_with_contradicting_settings_cannot_be_joined(settings: dict[str, Any], named: str) -> None:
    async def main() -> None:
        async with Site() as site:
            builder = counter(await site.network("a"), INIT, settings=Settings(**settings))
            with pytest.raises(ConfigError, match=named):
                builder.join()

    uvloop.run(main())


def test_an_observer_is_no_founder_and_is_not_waited_for() -> None:
    async def main() -> None:
        async with Site() as site:
            builder = counter(await site.network("a"), INIT, preference=Preference.OBSERVER)
            with pytest.raises(ConfigError, match="observer-among-founders"):
                builder.join()

    uvloop.run(main())
    expected = Founding(bootstrap=Bootstrap.EXPECT, expect=3)
    assert expected.contradiction(Preference.OBSERVER).startswith("observer-among-founders: ")
    assert expected.contradiction(Preference.RELUCTANT) == ""
    assert Founding(bootstrap=Bootstrap.JOIN).contradiction(Preference.OBSERVER) == ""


def test_the_default_settings_are_consistent() -> None:
    assert Settings().contradiction() == ""
