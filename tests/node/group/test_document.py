"""A group that a program joins by a group document keeps what the document's GroupId promises to the peers.

The GroupId fixes the policy by which every member judges. A node that joined with the id and without the judges
would be believed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import uvloop

from attestation.collateral.freshness import FreshnessState
from node.errors import ConfigError
from node.group.identity import GroupKey, GroupKeyDiffersError
from node.group.network import GroupBuilder, Network
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.raft.types import Bootstrap, Founding, Settings
from node.trust import tdx_validator_of, validators_of
from tests.support import documents
from tests.support.groups import NAME, Site, Ticket

TEXT = documents.MINIMAL.replace('name = "n"', f'name = "{NAME}"').replace('"expect 3"', '"init"')
DOCUMENT = documents.document(TEXT)
LAXER = documents.document(TEXT.replace('["UpToDate"]', '["UpToDate", "OutOfDate"]'))
TICKET = Ticket(lambda: b"", "tdx")
EXPECT = Founding(bootstrap=Bootstrap.EXPECT, expect=1)


def as_documented(network: Network) -> GroupBuilder:
    builder = (
        network.groups.with_key(GroupKey.of_document(DOCUMENT))
        .with_document(DOCUMENT)
        .with_state_machine(KeyValue())
    )
    for validator in validators_of(DOCUMENT, tdx_validator_of(DOCUMENT, None, FreshnessState())):
        builder = builder.require_ticket(validator)
    return builder


def laxer(builder: GroupBuilder) -> GroupBuilder:
    return replace(builder, validators=(tdx_validator_of(LAXER, None, FreshnessState()),))


CONTRADICTIONS: list[tuple[str, Callable[[GroupBuilder], GroupBuilder]]] = [
    ("ticket validators", lambda builder: replace(builder, validators=())),
    ("ticket validators", laxer),
    ("ticket validators", lambda builder: builder.require_ticket(builder.validators[0])),
    ("settings", lambda builder: builder.with_consensus(Settings(min_voters=1), DOCUMENT.founding)),
    ("founding", lambda builder: builder.with_consensus(DOCUMENT.settings, EXPECT)),
    ("state machine", lambda builder: builder.with_state_machine(Counter())),
    ("state machine", lambda builder: replace(builder, machine=None)),
]


@pytest.mark.parametrize(
    ("what", "change"), CONTRADICTIONS, ids=[f"{i}-{what}" for i, (what, _) in enumerate(CONTRADICTIONS)]
)
def test_a_builder_that_contradicts_its_document_does_not_join(what, change):
    async def scenario() -> None:
        async with asyncio.timeout(30), Site() as site:
            builder = as_documented(await site.network("a"))
            with pytest.raises(ConfigError, match=f"a group's {what} must be as in its document"):
                change(builder).join()

    uvloop.run(scenario())


def test_a_build_that_matches_its_document_has_its_id_and_may_found_or_join():
    async def scenario() -> None:
        async with asyncio.timeout(30), Site() as site:
            builder = as_documented(await site.network("a", issuers=[TICKET]))
            assert builder.id() == DOCUMENT.group_id
            joining = as_documented(await site.network("b", issuers=[TICKET]))
            joining = joining.with_consensus(DOCUMENT.settings, Founding(bootstrap=Bootstrap.JOIN))

            assert builder.join().id == joining.join().id == DOCUMENT.group_id

    uvloop.run(scenario())


def test_a_key_that_is_not_the_documents_is_refused_at_once():
    async def scenario() -> None:
        async with asyncio.timeout(30), Site() as site:
            network = await site.network("a")
            with pytest.raises(GroupKeyDiffersError):
                network.groups.with_key(GroupKey.generate()).with_document(DOCUMENT)

    uvloop.run(scenario())


def test_a_document_of_another_network_is_refused():
    other = documents.document(TEXT.replace(NAME, "elsewhere"))

    async def scenario() -> None:
        async with asyncio.timeout(30), Site() as site:
            network = await site.network("a")
            builder = network.groups.with_key(GroupKey.of_document(other)).with_document(other)
            with pytest.raises(ConfigError, match="a group's network must be as in its document"):
                builder.join()

    uvloop.run(scenario())
